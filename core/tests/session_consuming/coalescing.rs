//! Acks on the wire: as few frames as is safe (semantics section 1, s34).

use lavinmq_core::wire::{Method, decode, decode_method};

use crate::words::*;

/// What a broker knows of one channel: it answers 406 to a tag that is not outstanding.
#[derive(Default)]
struct Unacked {
    outstanding: std::collections::BTreeSet<u64>,
    verdicts: std::collections::BTreeMap<u64, char>,
}

impl Unacked {
    fn settle(&mut self, tag: u64, multiple: bool, verdict: char) {
        assert!(self.outstanding.contains(&tag), "406: unknown delivery tag {tag}");
        let tags: Vec<u64> = match multiple {
            true => self.outstanding.range(..=tag).copied().collect(),
            false => vec![tag],
        };
        for tag in tags {
            self.outstanding.remove(&tag);
            self.verdicts.insert(tag, verdict);
        }
    }
}

#[test]
fn s34_settlements_are_coalesced_only_when_every_lower_outstanding_tag_has_the_same_verdict() {
    use Settlement::{Ack, Reject, Requeue};
    let multiple = |tag, requeue| Wrote::Nack { channel: 1, tag, multiple: true, requeue };
    type Runs = Vec<(std::ops::RangeInclusive<u64>, Settlement)>;
    let cases: Vec<(Runs, Vec<Wrote>)> = vec![
        (vec![(1..=1, Ack)], vec![ack(1, 1)]),
        (vec![(1..=3, Ack)], vec![ack_multiple(1, 3)]),
        (vec![(3..=3, Ack), (2..=2, Ack), (1..=1, Ack)], vec![ack_multiple(1, 3)]),
        (vec![(1..=3, Requeue)], vec![multiple(3, true)]),
        (vec![(1..=3, Reject)], vec![multiple(3, false)]),
        // 1 is outstanding.
        (vec![(2..=4, Ack)], vec![ack(1, 2), ack(1, 3), ack(1, 4)]),
        // Three verdicts: each multiple ends where the verdict does.
        (
            vec![(1..=2, Ack), (3..=4, Reject), (5..=6, Requeue)],
            vec![ack_multiple(1, 2), multiple(4, false), multiple(6, true)],
        ),
        // A gap behind the first two.
        (vec![(1..=2, Ack), (4..=5, Ack)], vec![ack_multiple(1, 2), ack(1, 4), ack(1, 5)]),
        // Settled again: the first verdict stands, and no tag is named twice.
        (vec![(1..=2, Ack), (1..=3, Reject)], vec![ack_multiple(1, 2), reject(1, 3)]),
        // Tag 0, and tags that never came.
        (vec![(0..=0, Ack), (7..=u64::MAX, Ack)], vec![]),
        (vec![(0..=u64::MAX, Ack)], vec![ack_multiple(1, 6)]),
    ];
    for (runs, frames) in cases {
        let mut stage = Stage::connected(config());
        let (consumer, channel, _) = stage.consuming();
        assert_eq!(channel, 1);
        stage.deliver(CON, channel, 1..=6);
        for (tags, settlement) in runs.clone() {
            stage.settle_quietly(consumer, 1, tags, settlement);
        }
        stage.expect_frames(CON, &frames);
        assert_eq!(stage.account(consumer).settling, 0, "{runs:?}");
        stage.finish();
    }
}

#[test]
fn s34_a_multiple_never_reaches_over_a_delivery_that_the_application_has_not_seen() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    // Nobody took 1 out of its batch when 2 comes and is settled.
    stage.deliver(CON, channel, 2..=2);
    stage.settle(consumer, 1, 2..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 2)]);
    stage.settle(consumer, 1, 1..=1, Settlement::Requeue);
    stage.expect_frames(CON, &[requeue(channel, 1)]);
    stage.finish();
}

#[test]
fn s34_each_channel_counts_its_own_tags() {
    let mut stage = Stage::connected(config());
    let (a, first, _) = stage.consuming();
    let (b, second, _) = stage.consuming();
    stage.deliver(CON, first, 1..=3);
    stage.deliver(CON, second, 1..=5);
    stage.settle_quietly(b, 2, 1..=5, Settlement::Ack);
    stage.settle_quietly(a, 1, 1..=3, Settlement::Requeue);
    stage.expect_frames(CON, &[ack_multiple(second, 5), requeue_multiple(first, 3)]);
    // Not its generation: nothing.
    stage.deliver(CON, first, 4..=4);
    stage.settle(a, 2, 4..=4, Settlement::Ack);
    stage.silent();
    assert_eq!(stage.terms(a), [4, 0, 3, 0, 0, 1, 0]);
    assert_eq!(stage.terms(b), [5, 5, 0, 0, 0, 0, 0]);
    stage.finish();
}

/// Random runs, verdicts and partial writes against what a broker would say.
#[test]
fn s34_whatever_is_settled_in_whatever_order_no_broker_says_406_and_each_verdict_arrives() {
    for seed in 0..200_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut stage = Stage::connected(config());
        let (consumer, channel, _) = stage.consuming();
        let mut broker = Unacked::default();
        let mut wanted = std::collections::BTreeMap::new();
        let (mut sent, mut bytes) = (0, Vec::new());
        stage.stalled.insert(CON);
        for _ in 0..60 {
            match next(4) {
                0 if broker.outstanding.len() < 40 => {
                    let more = 1 + next(8);
                    stage.deliver(CON, channel, sent + 1..=sent + more);
                    broker.outstanding.extend(sent + 1..=sent + more);
                    sent += more;
                }
                1 | 2 => {
                    let first = next(sent + 2);
                    let last = first + next(6);
                    let (settlement, verdict) = match next(3) {
                        0 => (Settlement::Ack, 'a'),
                        1 => (Settlement::Requeue, 'q'),
                        _ => (Settlement::Reject, 'r'),
                    };
                    stage.settle_quietly(consumer, 1, first..=last, settlement);
                    for tag in first.max(1)..=last.min(sent) {
                        wanted.entry(tag).or_insert(verdict);
                    }
                }
                _ => {
                    // The transport takes some of it.
                    let mut slices = [std::io::IoSlice::new(&[]); 16];
                    let id = stage.id(CON);
                    let used = stage.session.transmit(id, &mut slices);
                    let all: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
                    let some = &all[..next(all.len() as u64 + 1) as usize];
                    bytes.extend_from_slice(some);
                    stage.session.handle_written(id, some.len(), true, stage.now);
                }
            }
            let mut used = 0;
            while let Some((frame, length)) = decode(&bytes[used..], 4096).unwrap() {
                match decode_method(frame.payload).unwrap() {
                    Method::Ack(ack) => broker.settle(ack.delivery_tag, ack.multiple, 'a'),
                    Method::Nack(nack) => {
                        let verdict = if nack.requeue { 'q' } else { 'r' };
                        broker.settle(nack.delivery_tag, nack.multiple, verdict);
                    }
                    other => panic!("{other:?}"),
                }
                used += length;
            }
            bytes.drain(..used);
            let account = stage.session.consumer_stats(consumer).unwrap();
            assert!(account.is_conserved(), "{account:?}");
            assert_eq!(account.received, sent);
            assert_eq!(account.in_hand, sent - wanted.len() as u64);
            // A settlement counts with its last byte at the earliest.
            let count = |v: char| broker.verdicts.values().filter(|&&w| w == v).count() as u64;
            assert!(account.acked <= count('a') && account.requeued <= count('q'), "seed {seed}");
            assert!(account.rejected <= count('r'), "seed {seed}");
        }
        // The rest: everything arrives as it was wanted.
        let mut slices = [std::io::IoSlice::new(&[]); 16];
        let id = stage.id(CON);
        let used = stage.session.transmit(id, &mut slices);
        bytes.extend(slices[..used].iter().flat_map(|s| s.to_vec()));
        let mut rest = &bytes[..];
        while let Some((frame, length)) = decode(rest, 4096).unwrap() {
            match decode_method(frame.payload).unwrap() {
                Method::Ack(ack) => broker.settle(ack.delivery_tag, ack.multiple, 'a'),
                Method::Nack(nack) => {
                    let verdict = if nack.requeue { 'q' } else { 'r' };
                    broker.settle(nack.delivery_tag, nack.multiple, verdict);
                }
                other => panic!("{other:?}"),
            }
            rest = &rest[length..];
        }
        assert_eq!(broker.verdicts, wanted, "seed {seed}");
    }
}
