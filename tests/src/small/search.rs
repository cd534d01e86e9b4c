//! The search itself: breadth first, so that the first failure found has the shortest path.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt::{self, Display, Write},
    hash::{BuildHasherDefault, Hasher},
};

/// A world that can be taken from state to state.
pub trait World: Clone {
    /// One thing that can happen in it.
    type Event: Copy + Display;

    /// Appends everything that can happen in this state.
    fn events(&self, out: &mut Vec<Self::Event>);

    /// Lets it happen.
    ///
    /// # Errors
    ///
    /// The invariant that is violated, in words.
    fn apply(&mut self, event: Self::Event) -> Result<(), String>;

    /// Equal for two states from which the same can happen.
    fn fingerprint(&self) -> u64;

    /// From this state everything heals and ends: what must then be true.
    ///
    /// # Errors
    ///
    /// What is not, in words.
    fn heal(self) -> Result<(), String>;
}

/// How large a world was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// States that differ.
    pub states: usize,
    /// Events applied, those included that led to a state known already.
    pub transitions: usize,
    /// Events on the longest of the shortest paths.
    pub depth: usize,
    /// States in which nothing can happen any more.
    pub leaves: usize,
}

impl Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, transitions, depth, leaves } = self;
        write!(f, "{states} states, {transitions} transitions, depth {depth}, {leaves} leaves")
    }
}

/// One step on the way to a state.
struct Node<E> {
    parent: u32,
    event: E,
}

/// The start has no node.
const START: u32 = u32::MAX;

/// Explores every state that can be reached from `start`, and heals a copy of each.
///
/// # Errors
///
/// The first violation, with the shortest path to it, as a script; or that there are more states than
/// `limit`, with the path to the last one.
pub fn explore<W: World>(start: W, limit: usize) -> Result<Explored, String> {
    // The fingerprints are hashes already.
    let mut known: HashSet<u64, BuildHasherDefault<Identity>> = HashSet::default();
    let mut nodes: Vec<Node<W::Event>> = Vec::new();
    let mut explored = Explored { states: 1, ..Explored::default() };
    known.insert(start.fingerprint());
    start.clone().heal().map_err(|what| script::<W>(&nodes, START, None, &what))?;
    let mut level = vec![(START, start)];
    let mut events = Vec::new();
    loop {
        let mut next = Vec::new();
        for (node, world) in level {
            world.events(&mut events);
            if events.is_empty() {
                explored.leaves += 1;
            }
            for event in events.drain(..) {
                explored.transitions += 1;
                let mut successor = world.clone();
                successor
                    .apply(event)
                    .map_err(|what| script::<W>(&nodes, node, Some(event), &what))?;
                if !known.insert(successor.fingerprint()) {
                    continue;
                }
                let reached = nodes.len() as u32;
                if known.len() > limit {
                    let what = format!("more than {limit} states");
                    return Err(script::<W>(&nodes, node, Some(event), &what));
                }
                nodes.push(Node { parent: node, event });
                successor.clone().heal().map_err(|what| {
                    script::<W>(&nodes, reached, None, &format!("then everything heals: {what}"))
                })?;
                next.push((reached, successor));
            }
        }
        if next.is_empty() {
            explored.states = known.len();
            return Ok(explored);
        }
        explored.depth += 1;
        level = next;
    }
}

/// Whether states with equal fingerprints are alike: the same can happen in them, and leads to states
/// with equal fingerprints. Every path of one event more than needed is followed to find out.
///
/// # Errors
///
/// Two states that are not alike, in words; or a violation.
pub fn audit<W: World>(start: W) -> Result<usize, String> {
    let successors = |world: &W| -> Result<Vec<(String, u64)>, String> {
        let mut events = Vec::new();
        world.events(&mut events);
        let apply = |event: W::Event| {
            let mut successor = world.clone();
            successor.apply(event).map(|()| (event.to_string(), successor.fingerprint()))
        };
        events.into_iter().map(apply).collect()
    };
    let mut known: HashMap<u64, Vec<(String, u64)>> = HashMap::new();
    known.insert(start.fingerprint(), successors(&start)?);
    let mut pending = vec![start];
    let mut compared = 0;
    while let Some(world) = pending.pop() {
        let mut events = Vec::new();
        world.events(&mut events);
        for event in events {
            let mut successor = world.clone();
            successor.apply(event)?;
            let next = successors(&successor)?;
            match known.entry(successor.fingerprint()) {
                Entry::Vacant(entry) => {
                    entry.insert(next);
                    pending.push(successor);
                }
                Entry::Occupied(entry) => {
                    compared += 1;
                    if *entry.get() != next {
                        return Err(format!(
                            "equal fingerprints, and not alike:\n{:?}\n{next:?}",
                            entry.get()
                        ));
                    }
                }
            }
        }
    }
    Ok(compared)
}

/// The path to a violation, one event a line.
fn script<W: World>(
    nodes: &[Node<W::Event>],
    mut at: u32,
    last: Option<W::Event>,
    what: &str,
) -> String {
    let mut path: Vec<W::Event> = last.into_iter().collect();
    while let Some(node) = nodes.get(at as usize) {
        path.push(node.event);
        at = node.parent;
    }
    let mut said = String::from("the shortest path to it:\n");
    for (number, event) in path.iter().rev().enumerate() {
        let _ = writeln!(said, "{:>4}. {event}", number + 1);
    }
    let _ = write!(said, "violation: {what}");
    said
}

/// A hasher for what is a hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
