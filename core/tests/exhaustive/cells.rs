//! One cell of the table: a failure in a state, and what comes of it.

use lavinmq_core::{
    error::{ConsumeError, DialError},
    event::{FailReason, Interruption},
};

use crate::{
    failures::What,
    harness::*,
    states::{Case, Where},
};

impl Case {
    fn is_done(&self) -> bool {
        if self.world.closed || self.state == Where::Goodbye {
            return self.world.closed;
        }
        let message = self.message.is_none_or(|(producer, sequence)| {
            self.world.outcomes.contains_key(&(producer, sequence))
        });
        let calls = self.world.declared.len() + self.world.subscribed.len();
        message && calls >= 2 + usize::from(self.called)
    }

    fn message(&self) -> String {
        let Some((producer, sequence)) = self.message else { return "none".into() };
        let copies = self.world.broker.count(&[b'm'; 100]);
        let outcome = match self.world.outcome(producer, sequence).unwrap() {
            None => "confirmed".into(),
            Some(Verdict::Failed(FailReason::Refused { code, .. })) => format!("failed {code}"),
            Some(verdict) => format!("{verdict:?}"),
        };
        format!("{copies} {outcome}")
    }

    fn answer(&self) -> String {
        if !self.called {
            return "none".into();
        }
        let declared = self.world.declared.get(1).map(|result| match result {
            Ok(_) => "answered".into(),
            Err(DeclareError::Refused { code, .. }) => format!("refused {code}"),
            Err(DeclareError::TimedOut { .. }) => "timed out".into(),
            Err(other) => format!("{other:?}"),
        });
        let subscribed = self.world.subscribed.get(1).map(|result| match result {
            Ok(()) => "answered".into(),
            Err(ConsumeError::Refused { code, .. }) => format!("refused {code}"),
            Err(ConsumeError::TimedOut { .. }) => "timed out".into(),
            Err(other) => format!("{other:?}"),
        });
        declared.or(subscribed).unwrap()
    }
}

pub fn loss_in_words(loss: &Loss) -> String {
    match loss {
        Loss::Dial { error: DialError::TimedOut(_), .. } => "dial timed out".into(),
        Loss::Dial { .. } => "dial refused".into(),
        Loss::Eof => "eof".into(),
        Loss::Io { kind, .. } => format!("{kind:?}"),
        Loss::Silence(_) => "silence".into(),
        Loss::WriteStalled(_) => "write stalled".into(),
        Loss::HandshakeTimedOut(_) => "handshake timed out".into(),
        Loss::RpcTimedOut { method, .. } => format!("no answer to {method}"),
        Loss::Closed { code, .. } => format!("closed {code}"),
        Loss::AccessRefused { .. } => "access refused".into(),
        Loss::VhostRefused { .. } => "vhost refused".into(),
        Loss::Protocol(error) => format!("protocol {}", error.code()),
        other => format!("{other:?}"),
    }
}

fn event_in_words(event: &Event) -> String {
    match event {
        Event::ChannelClosed { code, .. } => format!("channel closed {code}"),
        Event::ConsumerInterrupted { why, .. } => match why {
            Interruption::Refused { code, .. } => format!("interrupted {code}"),
            Interruption::Cancelled => "cancelled".into(),
            Interruption::Disconnected => "interrupted".into(),
            other => format!("{other:?}"),
        },
        Event::ConsumerResumed { .. } => "resumed".into(),
        other => format!("{other:?}"),
    }
}

fn when(after: Duration) -> String {
    if after.is_zero() { "at once".into() } else { format!("after {after:?}") }
}

/// What comes of this failure in this state, in the table's notation.
pub fn outcome(state: Where, what: What) -> String {
    let mut case = Case::new(state);
    let (closes, states, events) =
        (case.world.broker.closes.len(), case.world.states.len(), case.world.events.len());
    let began = case.world.stage.now;
    let dials = case.world.dials.len();
    if let Err(why) = case.fail(what) {
        return format!("impossible: {why}");
    }
    if state == Where::Idle {
        case.publish_and_call();
    }
    // Behind a close it must show whether it was ignored, or ended the transport.
    let closing = matches!(state, Where::Goodbye | Where::Broken | Where::Draining);
    let ignored = closing && case.world.is_up(0) && what != What::Silence;
    case.world.heal();
    if state == Where::Blocked {
        let Case { world, .. } = &mut case;
        world.broker.tell_if_open(&mut world.stage, 0, false);
    }
    for _ in 0..100 {
        case.world.turn();
        if case.is_done() {
            break;
        }
        case.world.pass();
    }
    assert!(
        case.is_done(),
        "{state:?}, {what:?}: it hangs\n{}",
        case.world.stage.session.explain(case.world.stage.now)
    );
    if !case.world.closed {
        // Consumers go on, and the next call gets its own reply and nobody else's.
        case.world.drain("a");
        let answered = case.world.declared.len();
        case.world.declare("c");
        case.world.until("the next call", |world| world.declared.len() > answered);
        assert_eq!(case.world.declared.pop(), Some(Ok("c".into())), "{state:?}, {what:?}");
    }
    let mut closes = case.world.broker.closes.split_off(closes);
    closes.dedup();
    let closes = closes.join(", ");
    let lost = case.world.states[states..].iter().find_map(|(at, state)| match state {
        State::Reconnecting { loss, .. } => Some((*at, loss_in_words(loss))),
        State::Closed { loss } => {
            let loss = loss.as_ref().map(loss_in_words);
            Some((*at, format!("ended{}", loss.unwrap_or_default())))
        }
        _ => None,
    });
    let dialled = case.world.dials[dials..].first().map(|(at, _)| *at);
    let (told, again) = match lost {
        Some((at, loss)) => {
            let again = dialled.map_or("for good".into(), |dialled| {
                format!("again {}", when(dialled.saturating_since(at)))
            });
            (loss, format!("{}, {again}", when(at.saturating_since(began))))
        }
        None => {
            let mut events: Vec<_> =
                case.world.events[events..].iter().map(event_in_words).collect();
            events.dedup();
            // Where the loss was told before, only the next attempt is new.
            let again = dialled.map_or("stands".into(), |dialled| {
                format!("again {}", when(dialled.saturating_since(began)))
            });
            (events.join(", "), again)
        }
    };
    let told = if ignored { format!("ignored, {told}") } else { told };
    let or_nothing = |text: String| if text.is_empty() { "nothing".into() } else { text };
    let line = [or_nothing(closes), or_nothing(told), again, case.message(), case.answer()];
    // And so to the end, where the accounts must hold.
    if !case.world.closed {
        case.world.shutdown();
        case.world.until("the end", |world| world.closed);
    }
    // With low disk, copies were whole and not kept.
    case.world.check_accounts(what == What::Silence || state == Where::Reopening);
    line.join(" | ")
}
