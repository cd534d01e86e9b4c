//! What an application does with one delivery.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use lavinmq_core::{Delivery, Received, Settle};

use super::shared::{Shared, lock, race};
use crate::sim::{
    accounts::{Id, Place, Treatment},
    random::Random,
    scenario::{ConsumerPlan, Style},
    states,
};

/// One consumer's application.
pub(super) struct Treating {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) random: Mutex<Random>,
    pub(super) plan: ConsumerPlan,
}

/// What is to be done.
enum Act {
    Requeue,
    Reject,
    Forget,
    Through,
    Hold(Duration),
    Ack,
}

impl Treating {
    fn draw(&self) -> Act {
        let habits = self.plan.habits;
        let mut random = lock(&self.random);
        let mut draw = if self.shared.healed.is_open() { 64 } else { random.below(64) };
        let mut is = |n: u64| {
            let hit = draw < n;
            draw = draw.saturating_sub(n);
            hit
        };
        if is(habits.requeue) {
            Act::Requeue
        } else if is(habits.reject) {
            Act::Reject
        } else if is(habits.forget) {
            Act::Forget
        } else if is(habits.ack_through) {
            Act::Through
        } else if is(habits.hold) {
            Act::Hold(Duration::from_millis(random.below(3000)))
        } else {
            Act::Ack
        }
    }

    fn note(&self, place: Place, settle: Settle, treatment: Treatment) {
        self.shared.handle.event(format_args!("{treatment:?} of {}: {settle:?}", place.0));
        let mut books = self.shared.books();
        match settle {
            Settle::Queued => books.treated(place, treatment),
            Settle::Stale => books.state(states::STALE_SETTLE),
            Settle::AlreadySettled => books.state(states::SETTLED_TWICE),
            _ => books.violation(format!("{}: {settle:?}", place.0)),
        }
    }

    pub(super) fn treat(self: &Arc<Self>, delivery: Delivery) {
        let Some(place) = self.shared.gets(self.index, &delivery) else { return };
        match self.draw() {
            Act::Requeue => self.note(place, delivery.requeue(), Treatment::Requeue),
            Act::Reject => self.note(place, delivery.reject(), Treatment::Reject),
            Act::Forget => {
                if self.plan.prefetch == 1 {
                    self.shared.books().state(states::FORGOTTEN_PREFETCH_ONE);
                }
                drop(delivery);
                self.note(place, Settle::Queued, Treatment::Forget);
            }
            Act::Through => {
                let settle = delivery.ack_through();
                if settle == Settle::Queued {
                    self.shared.books().treated_through(self.index, Treatment::Ack);
                }
                self.note(place, settle, Treatment::Ack);
            }
            Act::Hold(pause) => {
                let (_, acker) = delivery.into_parts();
                let treating = self.clone();
                self.shared.handle.spawn(format!("holder of {}", place.0), async move {
                    let shared = &treating.shared;
                    let enough = race(shared.healed.wait(), shared.stop.wait());
                    race(shared.handle.sleep(pause), enough).await;
                    treating.note(place, acker.ack(), Treatment::Ack);
                });
            }
            Act::Ack => self.note(place, delivery.ack(), Treatment::Ack),
        }
    }

    /// The handler of [`Consumer::run`](lavinmq_core::Consumer::run): fails where others reject or
    /// requeue, panics where they forget.
    pub(super) fn handle(
        self: Arc<Self>,
        received: Received,
    ) -> impl Future<Output = Result<(), &'static str>> {
        let place = self.shared.gets(self.index, &received);
        let act = self.draw();
        async move {
            let Some(place) = place else { return Ok(()) };
            let failed = match self.plan.style {
                Style::Run { rejects: true, .. } => Treatment::Reject,
                Style::Run { .. } | Style::Next | Style::Batch { .. } => Treatment::Forget,
            };
            match act {
                Act::Requeue | Act::Reject => {
                    self.shared.books().state(states::HANDLER_FAILED);
                    self.note(place, Settle::Queued, failed);
                    return Err("planned");
                }
                Act::Forget => {
                    self.note(place, Settle::Queued, failed);
                    self.shared.books().handler_panicked();
                    // Without the panic hook's message: it is meant.
                    std::panic::resume_unwind(Box::new("planned"));
                }
                Act::Hold(pause) => {
                    let enough = race(self.shared.healed.wait(), self.shared.stop.wait());
                    race(self.shared.handle.sleep(pause), enough).await;
                }
                Act::Through | Act::Ack => {}
            }
            self.note(place, Settle::Queued, Treatment::Ack);
            Ok(())
        }
    }
}

impl Shared {
    /// An application gets a delivery.
    pub(super) fn gets(&self, index: usize, received: &Received) -> Option<Place> {
        let id = read_id(received);
        self.handle.event(format_args!("consumer {index} gets {id:?}"));
        match id {
            Some(id) => Some(self.books().handed(id, index, received.redelivered())),
            None => {
                self.books().violation("a delivery that nobody published");
                None
            }
        }
    }
}

fn read_id(received: &Received) -> Option<Id> {
    if !received.body().is_empty() {
        return Id::read(received.body(), None);
    }
    let properties = received.properties().ok()?;
    Id::read(b"", properties.message_id().as_ref().map(|id| id.as_str()))
}
