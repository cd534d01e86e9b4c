//! The floor: a blocking socket, frames encoded by hand in batches of 64 KiB, no bookkeeping
//! beyond counting what came back.

use std::hint::black_box;
use std::time::Instant;

use super::{Contestant, Job, Latencies, latencies, record};
use crate::Fallible;
use crate::modes::{Mode, Task};
use crate::raw::{BATCH, CHANNEL, Raw, Target};
use crate::wire::{self, Fields, id};

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
    if let Some(count) = task.mode.prefetch() {
        raw.prefetch(count)?;
    }
    Ok(Box::new(RawClient { raw, body: task.body(), task: task.clone(), sent: 0 }))
}

impl Contestant for RawClient {
    fn run(&mut self, job: Job) -> Fallible<Option<Latencies>> {
        match self.task.mode {
            Mode::Publish | Mode::Publish4Tasks => self.publish(job.count)?,
            Mode::ConfirmPipelined => {
                let Self { raw, task, body, sent } = self;
                raw.publish_confirmed(&task.queue, body, sent, job.count)?;
            }
            Mode::ConfirmOne => return self.confirm_one(job.count).map(Some),
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
            self.raw.encode_publish(&mut out, &self.task.queue, &self.body);
            if out.len() >= BATCH {
                self.raw.write(&out)?;
                out.clear();
            }
        }
        self.raw.write(&out)
    }

    fn confirm_one(&mut self, count: u64) -> Fallible<Latencies> {
        let mut times = latencies()?;
        for _ in 0..count {
            let start = Instant::now();
            let Self { raw, task, body, sent } = self;
            raw.publish_confirmed(&task.queue, body, sent, 1)?;
            record(&mut times, start.elapsed());
        }
        Ok(times)
    }

    /// One `multiple` ack for what each read brought.
    fn consume(&mut self, job: &Job) -> Fallible {
        let acks = self.task.mode.prefetch().is_some();
        self.raw.consume(&job.queue, &job.tag, !acks)?;
        let (mut received, mut tag, mut left) = (0, 0, 0);
        // A read can end inside a message, whose tag is not to be acked yet.
        let mut whole = 0;
        let mut out = Vec::new();
        while received < job.count {
            let before = received;
            self.raw.read(|frame| {
                match frame.kind {
                    wire::METHOD => {
                        let mut fields = Fields::new(frame.payload);
                        match fields.method()? {
                            id::BASIC_DELIVER => {
                                fields.skip_short_string()?;
                                tag = fields.longlong()?;
                            }
                            id::BASIC_CONSUME_OK => {}
                            method => return Err(format!("{method:?} between deliveries").into()),
                        }
                    }
                    wire::HEADER => {
                        let mut fields = Fields::new(frame.payload);
                        let _ = fields.long()?;
                        left = fields.longlong()?;
                        if left == 0 {
                            (received, whole) = (received + 1, tag);
                        }
                    }
                    wire::BODY => {
                        black_box(frame.payload);
                        left -= frame.payload.len() as u64;
                        if left == 0 {
                            (received, whole) = (received + 1, tag);
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?;
            if acks && received > before {
                wire::ack(&mut out, CHANNEL, whole, true);
                self.raw.write(&out)?;
                out.clear();
            }
        }
        self.raw.cancel(&job.tag)
    }
}
