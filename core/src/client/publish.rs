//! The publish future.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    hand_over::{Admission, Attempt},
    producer::{Mode, Producer},
    producer_shared::ProducerShared,
    waiters::Refusal,
};
use crate::{
    error::{InvalidMessage, NameTooLong, PublishError},
    message::Message,
};

/// Waits until a message is accepted. Made by [`Producer::publish`] and [`Producer::publish_to`].
///
/// Nothing happens before the first poll. The message is accepted in the very poll that returns
/// `Ready`; what is returned then depends on the mode: nothing, or a `Receipt`.
///
/// # Cancel safety
///
/// Dropping it before it is `Ready` publishes nothing, and its place in line passes to the next;
/// [`Publish::into_message`] gives the message back. While it is neither polled nor dropped it keeps
/// its place, and the room that it may have been granted there.
///
/// # Panics
///
/// When polled again after it was `Ready`.
#[must_use = "nothing is published unless this is awaited"]
pub struct Publish<'a, M: Mode, T> {
    producer: &'a Producer<M>,
    routing_key: RoutingKey,
    state: State<'a, T>,
}

/// A routing key of the message's own, or its length if it is too long.
pub(super) type RoutingKey = Result<Option<Arc<str>>, NameTooLong>;

enum State<'a, T> {
    /// Converted when it is polled: moving a message about would cost more than all the rest. `None`
    /// once it is done; taken in place, because moving a whole `State` out would be as bad.
    New(Option<T>),
    Placed(Message, Place<'a>),
}

/// A future's place: in line, or at its fairness yield. Dropped, it is given up.
struct Place<'a> {
    shared: &'a ProducerShared,
    kind: PlaceKind,
}

#[derive(Clone, Copy)]
enum PlaceKind {
    Yield,
    Line(u64),
    /// Given up already.
    None,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match self.kind {
            PlaceKind::Yield => self.shared.hand_over().cancel_yield(),
            PlaceKind::Line(ticket) => self.shared.hand_over().leave(ticket),
            PlaceKind::None => {}
        }
    }
}

impl<'a, M: Mode, T: Into<Message>> Publish<'a, M, T> {
    pub(super) const fn new(producer: &'a Producer<M>, routing_key: RoutingKey, source: T) -> Self {
        Self { producer, routing_key, state: State::New(Some(source)) }
    }

    /// Gives up, and takes the message back. `None` if it was accepted (or refused) already.
    pub fn into_message(self) -> Option<Message> {
        match self.state {
            State::New(source) => source.map(Into::into),
            State::Placed(message, _) => Some(message),
        }
    }

    #[cold]
    fn poll_new(
        &mut self,
        message: Message,
        cx: &Context<'_>,
    ) -> Poll<Result<M::Accepted, PublishError>> {
        let shared = self.producer.shared();
        if let Err(invalid) = check(shared, &self.routing_key, &message) {
            return Poll::Ready(Err(PublishError::Invalid(message, invalid)));
        }
        if shared.link().is_yield_due() {
            shared.link().yielded();
            shared.hand_over().begin_yield();
            self.state = State::Placed(message, Place { shared, kind: PlaceKind::Yield });
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let admission = shared.admit_slowly(&message, Attempt::Await(cx.waker()));
        self.finish(message, Place { shared, kind: PlaceKind::None }, admission)
    }

    #[cold]
    fn poll_placed(&mut self, cx: &Context<'_>) -> Poll<Result<M::Accepted, PublishError>> {
        let State::Placed(message, mut place) = mem::replace(&mut self.state, State::New(None))
        else {
            panic!("Publish polled after it was ready");
        };
        let shared = self.producer.shared();
        let admission = match mem::replace(&mut place.kind, PlaceKind::None) {
            PlaceKind::Line(ticket) => shared.hand_over().poll_place(ticket, cx.waker()),
            PlaceKind::Yield | PlaceKind::None => {
                shared.admit_slowly(&message, Attempt::AfterYield(cx.waker()))
            }
        };
        self.finish(message, place, admission)
    }

    fn finish(
        &mut self,
        message: Message,
        mut place: Place<'a>,
        admission: Admission,
    ) -> Poll<Result<M::Accepted, PublishError>> {
        let shared = self.producer.shared();
        Poll::Ready(match admission {
            Admission::Waiting { ticket, .. } => {
                place.kind = PlaceKind::Line(ticket);
                self.state = State::Placed(message, place);
                return Poll::Pending;
            }
            Admission::Accepted(sequence) => {
                shared.push(sequence, take_key(&mut self.routing_key), message);
                Ok(M::accepted(shared.outcomes(), sequence))
            }
            Admission::Refused(refusal) => Err(refused(refusal, message)),
        })
    }
}

impl<M: Mode, T: Into<Message>> Future for Publish<'_, M, T> {
    type Output = Result<M::Accepted, PublishError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let source = match &mut this.state {
            State::New(source) => source.take(),
            State::Placed(..) => None,
        };
        let Some(source) = source else { return this.poll_placed(cx) };
        let message = source.into();
        let shared = this.producer.shared();
        if this.routing_key.is_ok()
            && !shared.link().is_yield_due()
            && let Some(sequence) = shared.admit(&message)
        {
            shared.push(sequence, take_key(&mut this.routing_key), message);
            return Poll::Ready(Ok(M::accepted(shared.outcomes(), sequence)));
        }
        this.poll_new(message, cx)
    }
}

// Nothing in it is ever pinned.
impl<M: Mode, T> Unpin for Publish<'_, M, T> {}

impl<M: Mode, T> fmt::Debug for Publish<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::New(Some(_)) => "not polled yet",
            State::Placed(..) => "waiting",
            State::New(None) => "done",
        };
        f.debug_struct("Publish").field("state", &state).finish_non_exhaustive()
    }
}

/// Publishes without ever waiting.
pub(super) fn try_publish<M: Mode>(
    shared: &ProducerShared,
    message: Message,
) -> Result<M::Accepted, PublishError> {
    let sequence = match shared.admit(&message) {
        Some(sequence) => sequence,
        None => match try_slowly(shared, &message) {
            Ok(sequence) => sequence,
            Err(Refused::Invalid(invalid)) => return Err(PublishError::Invalid(message, invalid)),
            Err(Refused::Other(refusal)) => return Err(refused(refusal, message)),
        },
    };
    shared.push(sequence, None, message);
    Ok(M::accepted(shared.outcomes(), sequence))
}

enum Refused {
    Invalid(InvalidMessage),
    Other(Refusal),
}

#[cold]
fn try_slowly(shared: &ProducerShared, message: &Message) -> Result<u64, Refused> {
    check(shared, &Ok(None), message).map_err(Refused::Invalid)?;
    match shared.admit_slowly(message, Attempt::Try) {
        Admission::Accepted(sequence) => Ok(sequence),
        Admission::Refused(refusal) => Err(Refused::Other(refusal)),
        Admission::Waiting { .. } => Err(Refused::Other(Refusal::Full)), // `Try` never waits
    }
}

/// Checks the limits, and counts what exceeds one.
fn check(
    shared: &ProducerShared,
    routing_key: &RoutingKey,
    message: &Message,
) -> Result<(), InvalidMessage> {
    let checked = match routing_key {
        Ok(_) => shared.limits().check(message),
        Err(too_long) => Err(too_long.clone().into()),
    };
    if checked.is_err() {
        shared.hand_over().count_invalid();
    }
    checked
}

#[inline]
fn take_key(routing_key: &mut RoutingKey) -> Option<Arc<str>> {
    routing_key.as_mut().ok().and_then(Option::take)
}

fn refused(refusal: Refusal, message: Message) -> PublishError {
    match refusal {
        Refusal::Full => PublishError::Full(message),
        Refusal::Closed => PublishError::Closed(message),
        Refusal::Offline(state) => PublishError::Offline(message, state),
        Refusal::TimedOut => PublishError::TimedOut(message),
    }
}
