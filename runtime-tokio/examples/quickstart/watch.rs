//! Looks on from a thread of its own.

use std::{
    io::IsTerminal as _,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use lavinmq_testing::FaultLink;

use super::super::lavinmq::{Client, ConsumerHandle};
use super::{accounts::Tally, wanted::Wanted};

/// Shows the progress; stops the consumer when everything has arrived, or when nothing more comes.
pub(super) struct Watch {
    bar: ProgressBar,
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
    report: Box<dyn Fn(&str) -> String + Send + Sync>,
    /// On something other than a terminal: a line for each percent.
    step: Option<u64>,
}

impl Watch {
    pub(super) fn start(
        wanted: &Wanted,
        client: &Client,
        tally: &Arc<Tally>,
        link: &Arc<FaultLink>,
        consumer: ConsumerHandle,
    ) -> Self {
        let step = (!std::io::stderr().is_terminal()).then_some(wanted.messages.div_ceil(100));
        let bar =
            if step.is_none() { ProgressBar::new(wanted.messages) } else { ProgressBar::hidden() };
        let template = "{bar:30} {pos}/{len} confirmed, {per_sec}; {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let over = Arc::new(AtomicBool::new(false));
        let report = {
            let (client, tally, link) = (client.clone(), Arc::clone(tally), Arc::clone(link));
            move |separator: &str| {
                let stats = client.stats();
                [
                    format!("buffered={}", stats.publish.queued),
                    format!("in_flight={}", stats.publish.in_flight),
                    format!("received={}", tally.received.load(Relaxed)),
                    format!("cuts={}", link.counters().cuts),
                    format!("reconnects={}", stats.reconnects),
                    format!("state={}", client.state()),
                ]
                .join(separator)
            }
        };
        let report = Arc::new(report);
        let thread = {
            let (client, tally, over) = (client.clone(), Arc::clone(tally), Arc::clone(&over));
            let (bar, report) = (bar.clone(), Arc::clone(&report));
            // The one that is thrown away on purpose is not waited for.
            let arriving = wanted.messages - u64::from(wanted.sabotage);
            thread::spawn(move || {
                let mut last = (0, 0);
                let mut since = Instant::now();
                while !over.load(Relaxed) {
                    thread::sleep(Duration::from_millis(100));
                    bar.set_position(tally.confirmed.load(Relaxed));
                    bar.set_message(report(", "));
                    let now = (tally.confirmed.load(Relaxed), tally.received.load(Relaxed));
                    if now != last {
                        (last, since) = (now, Instant::now());
                    }
                    let idle = since.elapsed();
                    let complete = tally.unique.load(Relaxed) >= arriving;
                    let patience = Duration::from_millis(if complete { 300 } else { 30_000 });
                    if tally.all_confirmed.load(Relaxed) && client.is_connected() && idle > patience
                    {
                        if !complete {
                            let (explain, stats) = (client.explain(), client.stats());
                            eprintln!("quickstart: nothing more comes:\n{explain}{stats:?}");
                        }
                        consumer.stop();
                    }
                    if idle > Duration::from_secs(120) {
                        eprintln!("quickstart: no progress for two minutes:\n{}", client.explain());
                        process::exit(1);
                    }
                }
            })
        };
        Self { bar, over, thread, report: Box::new(move |separator| report(separator)), step }
    }

    pub(super) fn confirmed(&self, confirmed: u64) {
        if self.step.is_some_and(|step| confirmed.is_multiple_of(step)) {
            eprintln!("progress confirmed={confirmed} {}", (self.report)(" "));
        }
    }

    pub(super) fn stop(self) {
        self.over.store(true, Relaxed);
        // It only sleeps and counts: it cannot have panicked.
        let _ = self.thread.join();
        self.bar.finish_and_clear();
    }
}
