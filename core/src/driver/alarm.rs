//! A timer that is re-armed only when it must be.

#![expect(clippy::disallowed_types, reason = "a timer wakes the driver")]

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::{runtime::Timer, time::Time};

/// Wakes the driver at its next deadline, or somewhat before: deadlines move later all the time, and
/// arming a timer costs more than waking once in vain.
#[derive(Debug)]
pub(super) struct Alarm<T> {
    timer: T,
    armed: Option<(Time, Waker)>,
}

impl<T: Timer + Unpin> Alarm<T> {
    pub(super) const fn new(timer: T) -> Self {
        Self { timer, armed: None }
    }

    /// `Pending`: the driver will be woken at `at`, or before. `Ready`: that time has come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Time, now: Time) -> Poll<()> {
        if let Some((armed, waker)) = &self.armed
            && *armed <= at
            && *armed > now
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        match Pin::new(&mut self.timer).poll_until(cx, at) {
            Poll::Ready(()) => {
                self.armed = None;
                Poll::Ready(())
            }
            Poll::Pending => {
                self.armed = Some((at, cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Wake};

    use super::*;

    #[derive(Default)]
    struct Recorder(Vec<Time>);

    impl Timer for Recorder {
        fn poll_until(mut self: Pin<&mut Self>, _: &mut Context<'_>, at: Time) -> Poll<()> {
            self.0.push(at);
            Poll::Pending
        }
    }

    struct Other;
    impl Wake for Other {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn it_is_armed_anew_only_for_an_earlier_deadline_or_after_its_time() {
        let at = Time::from_nanos;
        let waker = Waker::from(Arc::new(Other));
        let cx = &mut Context::from_waker(&waker);
        let mut alarm = Alarm::new(Recorder::default());
        let _ = alarm.poll(cx, at(100), at(0));
        let _ = alarm.poll(cx, at(150), at(50)); // later: it will wake once in vain
        assert_eq!(alarm.timer.0, [at(100)]);
        let _ = alarm.poll(cx, at(90), at(50)); // earlier
        let _ = alarm.poll(cx, at(200), at(90)); // its time has come
        assert_eq!(alarm.timer.0, [at(100), at(90), at(200)]);
    }

    #[test]
    fn it_follows_the_driver_to_another_task() {
        let at = Time::from_nanos(100);
        let mut alarm = Alarm::new(Recorder::default());
        let _ = alarm.poll(&mut Context::from_waker(Waker::noop()), at, Time::ZERO);
        let other = Waker::from(Arc::new(Other));
        let _ = alarm.poll(&mut Context::from_waker(&other), at, Time::ZERO);
        assert_eq!(alarm.timer.0.len(), 2);
    }
}
