//! The floor: a blocking socket, frames encoded by hand in batches of 64 KiB, no bookkeeping
//! beyond counting what came back.

use std::hint::black_box;
use std::time::Instant;

use super::{Contestant, Job, Latencies, latencies, record};
use crate::Fallible;
use crate::modes::{Mode, Task};
use crate::raw::{BATCH, CHANNEL, Raw, Target};
use crate::wire::{self, Fields, Frame, id};

struct RawClient {
    raw: Raw,
    task: Task,
    body: Vec<u8>,
    /// Publishes on this channel so far.
    sent: u64,
}

pub(super) fn open(target: &Target, task: &Task) -> Fallible<Box<dyn Contestant>> {
    let mut raw = Raw::open(target)?;
    if task.mode.confirms() {
        raw.confirm_select()?;
    }
    if task.persistent() {
        raw.persist();
    }
    if let Some(count) = task.prefetch() {
        raw.prefetch(count)?;
    }
    Ok(Box::new(RawClient { raw, body: task.body(), task: task.clone(), sent: 0 }))
}

impl Contestant for RawClient {
    fn run(&mut self, job: Job) -> Fallible<Option<Latencies>> {
        match self.task.mode {
            Mode::Publish | Mode::Publish4Tasks => self.publish(job.count)?,
            Mode::ConfirmPipelined | Mode::ConfirmPersistent => {
                let Self { raw, task, body, sent } = self;
                raw.publish_confirmed(&task.queue, body, task.window(), sent, job.count)?;
            }
            Mode::ConfirmOne => return self.confirm_one(job.count).map(Some),
            Mode::PingPong => return self.ping_pong(&job).map(Some),
            Mode::ConsumeNoAck | Mode::ConsumeAck1000 | Mode::ConsumeAck100 => {
                self.consume(&job)?
            }
        }
        Ok(None)
    }
}

impl RawClient {
    fn publish(&mut self, count: u64) -> Fallible {
        let mut out = Vec::with_capacity(BATCH + self.body.len() + 128);
        for _ in 0..count {
            self.raw.publish(&mut out, &self.task.queue, &self.body)?;
        }
        self.raw.write(&out)
    }

    fn confirm_one(&mut self, count: u64) -> Fallible<Latencies> {
        let mut times = latencies()?;
        for _ in 0..count {
            let start = Instant::now();
            let Self { raw, task, body, sent } = self;
            raw.publish_confirmed(&task.queue, body, 1, sent, 1)?;
            record(&mut times, start.elapsed());
        }
        Ok(times)
    }

    fn ping_pong(&mut self, job: &Job) -> Fallible<Latencies> {
        self.raw.consume(&job.queue, &job.tag, true)?;
        self.raw.await_consume_ok()?;
        let mut times = latencies()?;
        let mut out = Vec::new();
        let mut coming = Coming::default();
        for n in 1..=job.count {
            let start = Instant::now();
            self.raw.publish(&mut out, &job.queue, &self.body)?;
            self.raw.write(&out)?;
            out.clear();
            while coming.received < n {
                self.raw.read(|frame| coming.note(frame))?;
            }
            record(&mut times, start.elapsed());
        }
        self.raw.cancel(&job.tag)?;
        Ok(times)
    }

    /// One `multiple` ack for what each read brought.
    fn consume(&mut self, job: &Job) -> Fallible {
        let acks = self.task.mode.acks();
        self.raw.consume(&job.queue, &job.tag, !acks)?;
        let mut coming = Coming::default();
        let mut out = Vec::new();
        while coming.received < job.count {
            let before = coming.received;
            self.raw.read(|frame| coming.note(frame))?;
            if acks && coming.received > before {
                wire::ack(&mut out, CHANNEL, coming.whole, true);
                self.raw.write(&out)?;
                out.clear();
            }
        }
        self.raw.cancel(&job.tag)
    }
}

/// Deliveries, counted.
#[derive(Default)]
struct Coming {
    received: u64,
    /// The tag of the last one that is whole: a read can end inside a message, whose tag is not
    /// to be acked yet.
    whole: u64,
    tag: u64,
    /// Bytes of the body that are still to come.
    left: u64,
}

impl Coming {
    #[inline(always)]
    fn note(&mut self, frame: Frame<'_>) -> Fallible {
        match frame.kind {
            wire::METHOD => {
                let mut fields = Fields::new(frame.payload);
                match fields.method()? {
                    id::BASIC_DELIVER => {
                        fields.skip_short_string()?;
                        self.tag = fields.longlong()?;
                    }
                    id::BASIC_CONSUME_OK => {}
                    method => return Err(format!("{method:?} between deliveries").into()),
                }
                return Ok(());
            }
            wire::HEADER => {
                let mut fields = Fields::new(frame.payload);
                let _ = fields.long()?;
                self.left = fields.longlong()?;
            }
            wire::BODY => {
                black_box(frame.payload);
                self.left = self
                    .left
                    .checked_sub(frame.payload.len() as u64)
                    .ok_or("more body than the header announced")?;
            }
            _ => return Ok(()),
        }
        if self.left == 0 {
            (self.received, self.whole) = (self.received + 1, self.tag);
        }
        Ok(())
    }
}
