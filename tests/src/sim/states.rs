//! Rare states that a campaign must reach, by name. They are counted where they can be seen from
//! outside the client: on the wire, at the broker, in the application.

macro_rules! states {
    ($($name:ident = $text:literal;)*) => {
        $(
            #[doc = concat!("Counts: ", $text, ".")]
            pub const $name: &str = concat!("state ", $text);
        )*
        /// All of them, as they are named in [`Outcome::counters`](super::world::Outcome::counters).
        pub const ALL: &[&str] = &[$($name),*];
    };
}

states! {
    // Cuts, as the broker sees them.
    CUT_IN_METHOD = "cut inside a publish's method";
    CUT_IN_HEADER = "cut between a publish's method and its body";
    CUT_IN_BODY = "cut inside a body";
    CUT_IN_RESENT_BODY = "cut inside a resent body";
    CUT_IN_HANDSHAKE = "cut during the handshake";
    CUT_IN_HANDSHAKE_TWICE = "two cuts during the handshake";
    CUT_WHILE_DECLARING = "cut while declaring";
    CUT_WHILE_OPENING = "cut while opening a channel";
    CUT_WHILE_SUBSCRIBING = "cut while subscribing";
    CUT_BEFORE_CONFIRM = "cut between write and confirm";
    CUT_WITH_UNACKED = "cut with deliveries unacked";
    BLOCKED_THEN_CUT = "blocked then cut";
    // Cuts, as the client sees them.
    CUT_IN_DELIVERY = "cut inside a delivery";
    HALF_OPEN = "half-open connection given up";
    // Publishing.
    CUT_COPY_AGAIN = "cut copy sent again as the first";
    CUT_FF_AGAIN = "fire-and-forget copy cut and sent again";
    RESENT_TWICE = "resent twice";
    RESENT_NACKED = "resent then nacked";
    RESENT_RETURNED = "resent then returned";
    MULTIPLE_ACROSS_RECONNECT = "multiple ack over resent and fresh";
    CONFIRM_OUT_OF_ORDER = "confirm out of order";
    CONFIRM_REPEATED = "confirm for a settled tag";
    CONFIRM_AFTER_CLOSE = "confirm between close and close-ok";
    CONFIRM_TOO_LATE = "confirm after the timeout";
    NACK_THEN_MULTIPLE = "nack then cumulative ack";
    RETURN_THEN_ACK = "return then ack";
    RETURN_THEN_NACK = "return then nack";
    RETURN_THEN_LOST = "return then lost";
    WINDOW_OF_ONE = "window of one with others waiting";
    CLOSED_IN_FLIGHT = "channel closed with publishes in flight";
    OFFENDER_FOUND = "offender found among innocents";
    BODY_IN_FRAMES = "body of several frames";
    STOPPED_BY_FLOW = "flow stopped with publishes in flight";
    CLOSED_540 = "connection closed with 540";
    EVICTED_OFFLINE = "eviction while offline";
    EVICTED_BLOCKED = "eviction while blocked";
    TTL_FULL = "ttl expiry with a full ring";
    CANCELLED_WAITING = "publish future dropped while waiting";
    TIMED_OUT_OFFLINE = "publish timed out while offline";
    REFUSED_OFFLINE = "publish refused while offline";
    CLOSE_WITH_WAITERS = "close with waiters";
    CLOSED_ALONE = "producer closed while others go on";
    ABANDONED = "producer abandoned with messages in flight";
    HOOK_PANIC = "hook panicked";
    // Consuming.
    MULTIPLE_SETTLE = "multiple ack by a consumer";
    STALE_SETTLE = "stale settle";
    SETTLED_TWICE = "settle of what was settled through";
    ACK_LOST = "delivered again after its ack was written";
    WITH_CONSUME_OK = "delivery in one read with consume-ok";
    CANCELLED_UNACKED = "consumer cancelled by the broker with deliveries unacked";
    FORGOTTEN_PREFETCH_ONE = "prefetch one with a forgotten delivery";
    CLOSED_UNACKED = "consumer closed with deliveries in hand";
    BATCH_OF_MANY = "batch of several deliveries";
    HANDLER_FAILED = "handler failed";
    HANDLER_PANICKED = "handler panicked";
    TOMBSTONE = "tombstone swallowed";
    TRANSIENT_LOST = "transient queue lost in a restart";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn there_are_at_least_forty_and_each_has_a_name_of_its_own() {
        let names: BTreeSet<_> = super::ALL.iter().collect();
        assert_eq!(names.len(), super::ALL.len());
        assert!(names.len() >= 40);
    }
}
