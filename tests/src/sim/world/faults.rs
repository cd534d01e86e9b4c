//! Faults, made at their times.

use std::{sync::Arc, time::Duration};

use futures::future::Either;
use lavinmq_core::time::Time;

use super::shared::{Shared, race};
use crate::sim::{pipe, scenario::Fault, states};

impl Shared {
    pub(super) async fn make_faults(self: Arc<Self>) {
        for &(at, fault) in &self.scenario.faults {
            let sleep = self.handle.sleep_until(Time::ZERO + at);
            if let Either::Right(()) = race(sleep, self.healed.wait()).await {
                return;
            }
            self.handle.event(format_args!("fault {fault:?}"));
            self.make(fault);
        }
    }

    fn make(self: &Arc<Self>, fault: Fault) {
        let handle = &self.handle;
        let now = handle.now();
        match fault {
            // Counted when it strikes.
            Fault::Cut { link, cut } => {
                self.network.pick(link).into_iter().for_each(|link| link.cut(cut));
            }
            Fault::CutNext(cut) => self.network.cut_next(cut),
            Fault::End { link, ending } => {
                if let Some(link) = self.network.pick(link) {
                    handle.count(match ending {
                        pipe::Ending::Eof => "end-eof",
                        pipe::Ending::Reset => "end-reset",
                    });
                    link.end(ending);
                }
            }
            Fault::Silence { link } => {
                if let Some(link) = self.network.pick(link) {
                    handle.count("silence");
                    link.silence();
                }
            }
            Fault::Refuse(down) => {
                handle.count("refuse");
                self.network.refuse_until(now + down);
            }
            Fault::HangDial => self.network.hang_next_dial(),
            Fault::Restart { down, kill } => {
                handle.count(if kill { "crash" } else { "restart" });
                if self.scenario.queues.iter().any(|queue| queue.transient) {
                    self.books().state(states::TRANSIENT_LOST);
                }
                self.network.refuse_until(now + down);
                self.host.with(
                    |broker, now| {
                        if kill { broker.crash(now) } else { broker.restart(now) }
                    },
                );
            }
            Fault::Block(down) => {
                handle.count("block");
                self.host.with(|broker, now| broker.block("low on memory", now));
                self.later("unblock", down, |shared| {
                    shared.host.with(|broker, now| broker.unblock(now));
                });
            }
            Fault::CloseConnections(code) => {
                handle.count("close-connections");
                self.host
                    .with(|broker, now| broker.close_connections(code, "by the simulator", now));
            }
            Fault::DeleteQueue(queue) => {
                handle.count("delete-queue");
                let name = self.scenario.queues[queue].name.clone();
                self.host.with(|broker, now| broker.delete_queue(&name, now));
                let shared = self.clone();
                handle.spawn(format!("redeclare {name}"), async move {
                    shared.handle.sleep(Duration::from_millis(700)).await;
                    if let Some(client) = shared.client() {
                        shared.declare(&client, queue).await;
                    }
                });
            }
            Fault::CloseChannels { code, blames } => {
                let (class, method) = if blames { (60, 40) } else { (0, 0) };
                let closed = self.host.with(|broker, now| {
                    let open: Vec<_> = broker
                        .connections()
                        .iter()
                        .flat_map(|info| {
                            broker.channels(info.id).into_iter().map(|ch| (info.id, ch))
                        })
                        .collect();
                    for &(id, channel) in &open {
                        broker.close_channel(
                            id,
                            channel,
                            code,
                            "by the simulator",
                            class,
                            method,
                            now,
                        );
                    }
                    open.len() as u64
                });
                handle.add("channel-closed", closed);
            }
            Fault::Stall(down) => {
                handle.count("stall");
                self.host.stall_until(now + down);
            }
            Fault::Nack(n) => {
                handle.add("nack", n);
                self.host.with(|broker, _| broker.nack_next(n));
            }
            Fault::HoldConfirms(down) => {
                handle.count("hold-confirms");
                self.host.with(|broker, _| broker.hold_confirms());
                self.later("release confirms", down, |shared| {
                    shared.host.with(|broker, now| broker.release_confirms(now));
                });
            }
            Fault::RepeatConfirms => {
                let repeated = self.host.with(|broker, now| broker.repeat_confirms(now));
                handle.add("repeat-confirms", repeated as u64);
            }
            Fault::ReorderConfirms => {
                handle.count("reorder-confirms");
                self.host.with(|broker, _| broker.reorder_confirms(true));
            }
            Fault::StopFlow(down) => {
                handle.count("stop-flow");
                self.flow(false);
                self.later("flow again", down, |shared| shared.flow(true));
            }
        }
    }

    fn flow(&self, active: bool) {
        self.host.with(|broker, now| {
            for info in broker.connections() {
                for channel in broker.channels(info.id) {
                    broker.flow(info.id, channel, active, now);
                }
            }
        });
    }

    fn later(
        self: &Arc<Self>,
        name: &'static str,
        delay: Duration,
        act: impl FnOnce(&Self) + Send + 'static,
    ) {
        let shared = self.clone();
        self.handle.spawn(name, async move {
            race(shared.handle.sleep(delay), shared.healed.wait()).await;
            act(&shared);
        });
    }
}
