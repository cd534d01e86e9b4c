//! A scenario in words, for people: one line each, operations that repeat counted.

use std::fmt;

use super::{ProducerPlan, Scenario};

impl Scenario {
    /// Operations of all producers.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.producers.iter().flat_map(|plan| &plan.tasks).map(Vec::len).sum()
    }

    /// How much of it there is, in a few words.
    #[must_use]
    pub fn size(&self) -> String {
        let tasks: usize = self.producers.iter().map(|plan| plan.tasks.len()).sum();
        format!(
            "{} operations and {} faults; {} producers with {tasks} tasks, {} consumers, {} queues",
            self.operations(),
            self.faults.len(),
            self.producers.len(),
            self.consumers.len(),
            self.queues.len()
        )
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, personality, heals_at, ending, .. } = self;
        writeln!(f, "seed {seed}: {}", self.size())?;
        writeln!(f, "{personality:?}, heals at {heals_at:?}, ends {ending:?}")?;
        writeln!(f, "{:?}", self.client)?;
        writeln!(f, "{:?}", self.conditions)?;
        for queue in &self.queues {
            writeln!(f, "{queue:?}")?;
        }
        for (index, plan) in self.producers.iter().enumerate() {
            let settings = ProducerPlan { tasks: Vec::new(), ..plan.clone() };
            writeln!(f, "producer {index}: {settings:?}")?;
            for (task, ops) in plan.tasks.iter().enumerate() {
                writeln!(f, "  task {task}:")?;
                for run in ops.chunk_by(|a, b| a == b) {
                    writeln!(f, "    {} x {:?}", run.len(), run[0])?;
                }
            }
        }
        for (index, plan) in self.consumers.iter().enumerate() {
            writeln!(f, "consumer {index}: {plan:?}")?;
        }
        for plan in &self.declares {
            writeln!(f, "{plan:?}")?;
        }
        for (at, fault) in &self.faults {
            writeln!(f, "at {at:?}: {fault:?}")?;
        }
        Ok(())
    }
}
