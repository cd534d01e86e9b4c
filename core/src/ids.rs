//! Numbers that name the parts of a session. One is used again only after its place was reused 4,096 times.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// The number itself, for logs.
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

id!(
    /// One of a client's connections: a place that holds one transport after the other.
    ConnectionId,
    "connection"
);
id!(
    /// A producer.
    ProducerId,
    "producer"
);
id!(
    /// A consumer.
    ConsumerId,
    "consumer"
);
id!(
    /// A declaration that somebody waits for.
    RequestId,
    "request"
);
