//! Functions of the application's own that hear what became of messages.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::event::{Settled, State, Verdict};

/// Hears the outcome of one message.
pub(crate) type Hook = Arc<dyn Fn(&Settled) + Send + Sync>;

/// The hooks of a client, or of one producer.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) state: Option<Arc<dyn Fn(State) + Send + Sync>>,
    pub(crate) confirm: Option<Hook>,
    pub(crate) nack: Option<Hook>,
    pub(crate) returned: Option<Hook>,
    pub(crate) error: Option<Hook>,
    pub(crate) dropped: Option<Hook>,
}

impl Hooks {
    /// Whether there is none.
    pub(crate) const fn are_unset(&self) -> bool {
        let Self { state, confirm, nack, returned, error, dropped } = self;
        state.is_none()
            && confirm.is_none()
            && nack.is_none()
            && returned.is_none()
            && error.is_none()
            && dropped.is_none()
    }

    /// Calls the hook for this outcome. `Err` names the hook if it panicked.
    pub(crate) fn settled(&self, settled: &Settled) -> Result<(), &'static str> {
        let (hook, name) = match &settled.verdict {
            None => (&self.confirm, "on_confirm"),
            Some(Verdict::Nacked) => (&self.nack, "on_nack"),
            Some(Verdict::Returned(_)) => (&self.returned, "on_return"),
            Some(Verdict::Failed(_) | Verdict::Unknown(_)) => (&self.error, "on_error"),
            Some(Verdict::Dropped(_)) => (&self.dropped, "on_drop"),
        };
        hook.as_ref().map_or(Ok(()), |hook| caught(name, || hook(settled)))
    }

    /// Calls the hook for a new state.
    pub(crate) fn state(&self, state: &State) -> Result<(), &'static str> {
        self.state.as_ref().map_or(Ok(()), |hook| caught("on_state_change", || hook(state.clone())))
    }
}

/// Runs the application's code. A panic is the application's: the client goes on.
pub(crate) fn caught(name: &'static str, call: impl FnOnce()) -> Result<(), &'static str> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| name)
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_state_change", &self.state.is_some())
            .field("on_confirm", &self.confirm.is_some())
            .field("on_nack", &self.nack.is_some())
            .field("on_return", &self.returned.is_some())
            .field("on_error", &self.error.is_some())
            .field("on_drop", &self.dropped.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{
        event::{DropReason, FailReason, Return, UnknownReason},
        message::Message,
    };

    fn settled(verdict: Option<Verdict>) -> Settled {
        Settled {
            sequence: 1,
            exchange: "".into(),
            routing_key: "orders".into(),
            verdict,
            message: Message::new("x"),
        }
    }

    #[test]
    fn each_outcome_reaches_its_own_hook() {
        let heard = Arc::new(AtomicU64::new(0));
        let hook = |digit: u64| -> Option<Hook> {
            let heard = Arc::clone(&heard);
            Some(Arc::new(move |_: &Settled| {
                heard.fetch_add(digit, Ordering::Relaxed);
            }))
        };
        let hooks = Hooks {
            state: None,
            confirm: hook(1),
            nack: hook(10),
            returned: hook(100),
            error: hook(1000),
            dropped: hook(10_000),
        };
        let reply = Return {
            code: 312,
            text: "NO_ROUTE".into(),
            exchange: "".into(),
            routing_key: "orders".into(),
        };
        for (verdict, sum) in [
            (None, 1),
            (Some(Verdict::Nacked), 11),
            (Some(Verdict::Returned(Box::new(reply))), 111),
            (Some(Verdict::Failed(FailReason::FrameTooLarge)), 1111),
            (Some(Verdict::Unknown(UnknownReason::Closed)), 2111),
            (Some(Verdict::Dropped(DropReason::Closed)), 12_111),
        ] {
            assert_eq!(hooks.settled(&settled(verdict)), Ok(()));
            assert_eq!(heard.load(Ordering::Relaxed), sum);
        }
    }

    #[test]
    fn f25_a_panicking_hook_is_caught_and_named() {
        let hooks = Hooks {
            nack: Some(Arc::new(|_| panic!("a bug of the application"))),
            ..Hooks::default()
        };
        assert_eq!(hooks.settled(&settled(Some(Verdict::Nacked))), Err("on_nack"));
        assert_eq!(hooks.settled(&settled(None)), Ok(()));
    }
}
