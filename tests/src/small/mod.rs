//! Small worlds, searched exhaustively.
//!
//! A world is one real [`Session`](lavinmq_core::session::Session), the broker at the other end of its
//! wire ([`peer`]), and an application: at most three messages, a window (or a prefetch) of two, two
//! cuts. [`search::explore`] lets happen, in every state, everything that can: the application
//! publishes, settles, closes; the driver asks for bytes, and the transport takes some; the broker
//! answers, acks, nacks, returns, delivers, cancels, closes; the connection is cut and comes back; time
//! passes. After every event the invariants are checked, and of every new state two copies are taken:
//! in one the driver is dropped at once, in the other everything heals and ends; both must leave each
//! message with its outcome, the right one. So no state that can be reached is one in which a message
//! is stuck.
//!
//! # What is checked
//!
//! Against what the broker heard and said, and what the application was told, not by the session's
//! counters alone. [`publishing`]: the law; one outcome per message, told once, never changed; confirmed,
//! nacked, returned and failed only what the broker said so of; sent and unknown only what was written
//! whole, dropped never; window and buffer kept; order of first copies; `x-attempt` on exactly the
//! copies that follow a whole one; nothing published before `confirm.select`, nothing after close-ok.
//! [`consuming`]: no 406; each settlement as the application decided it for that generation, once;
//! qos before consume; deliveries handed over once; `SettlesWritten` neither early nor never.
//!
//! # How it stays finite
//!
//! - The transport takes half of the next frame, the rest of it, everything, or nothing. Halves are taken
//!   of publishes and settlements only (`parts`): inside the method, the header, the body. With the ends
//!   of frames these are the places where a cut makes a difference; that every byte between them makes
//!   none is another test's subject (every offset of a canonical trace).
//! - Every event that could repeat for ever (cuts, ticks, closes, deliveries) has a budget. Time passes to
//!   the next deadline; reaching one that a backoff waits for costs nothing.
//! - The handshake is one step; it has tests of its own. The broker takes every byte that is written.
//! - States are told apart by [`Session::fingerprint`](lavinmq_core::session::Session) and a hash of
//!   everything around it. [`search::audit`] takes states with equal fingerprints, reached on different
//!   paths, and compares what can happen next: what it leaves out matters to nothing.
//!
//! # Why not stateright
//!
//! The crate `stateright` (0.31) was looked at first. It explores such a space as well, but:
//!
//! - A property there is a `fn(&Model, &State) -> bool`: it could say that an invariant is violated, not
//!   which message, expected and found; the words would have to travel inside the state.
//! - Its `eventually` has documented false negatives (paths that join), so liveness would be the healing
//!   copy here, too.
//! - It wants states that are `Clone + PartialEq + Hash + Send`, and checks them on threads of its own,
//!   where defects planted for one thread ([`sabotage`](lavinmq_core::sabotage)) are not.
//! - About thirty more crates, an HTTP server, serde and a second generation of `rand` among them, for a
//!   queue and a set: [`search`] is shorter than the adaptor would be. Its explorer, actors and symmetry
//!   reduction have no use here.
//!
//! Either needs a session that can be copied and compared; without `Clone` each state would be replayed
//! from the start, which costs ten times as much. Both are in the core behind its feature `model`.

pub mod consuming;
pub mod peer;
pub mod publishing;
pub mod search;
