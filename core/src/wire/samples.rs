//! Samples for the tests of this module: every method, every property, every field type.

#![allow(clippy::unwrap_used, reason = "samples are known to be good")]

use amq_protocol::{
    frame::{AMQPFrame, gen_frame},
    protocol::{AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx},
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};

use crate::message::Properties;

/// A frame as amq-protocol's generator writes it.
pub(super) fn generated(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(Vec::new().into()).unwrap().write
}

/// Every field type that amq-protocol can send.
pub(super) fn table() -> FieldTable {
    let values = [
        ("boolean", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-2)),
        ("u8", AMQPValue::ShortShortUInt(200)),
        ("i16", AMQPValue::ShortInt(-300)),
        ("u16", AMQPValue::ShortUInt(65_000)),
        ("i32", AMQPValue::LongInt(-70_000)),
        ("u32", AMQPValue::LongUInt(4_000_000_000)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("float", AMQPValue::Float(1.5)),
        ("double", AMQPValue::Double(-2.25)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("string", AMQPValue::LongString("text".into())),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("void", AMQPValue::Void),
        ("", AMQPValue::LongString("".into())),
    ];
    let mut table = FieldTable::default();
    for (name, value) in &values {
        table.insert((*name).into(), value.clone());
    }
    let array = values.into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    let mut inner = table.clone();
    inner.insert("empty array".into(), AMQPValue::FieldArray(FieldArray::default()));
    inner.insert("empty table".into(), AMQPValue::FieldTable(FieldTable::default()));
    table.insert("array".into(), AMQPValue::FieldArray(array.into()));
    table.insert("table".into(), AMQPValue::FieldTable(inner));
    table
}

/// A table with `depth` tables and arrays in each other, itself included, as bytes.
pub(super) fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for level in (0..depth).rev() {
        let array = level % 2 == 1;
        let mut outer = Vec::new();
        if !bytes.is_empty() {
            if !array {
                outer.extend_from_slice(b"\x01k");
            }
            outer.push(if array { b'F' } else { b'A' });
            outer.extend_from_slice(&bytes);
        }
        bytes = u32::try_from(outer.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&outer);
    }
    bytes
}

/// Properties with every property set.
pub(super) fn properties() -> Properties {
    Properties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("gzip".into())
        .with_headers(table())
        .with_delivery_mode(2)
        .with_priority(9)
        .with_correlation_id("correlation".into())
        .with_reply_to("reply".into())
        .with_expiration("60000".into())
        .with_message_id("id".into())
        .with_timestamp(1_700_000_000)
        .with_type("kind".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("".into())
}

/// Each property alone.
pub(super) fn single_properties() -> Vec<Properties> {
    let none = Properties::default;
    vec![
        none(),
        none().with_content_type("a".into()),
        none().with_content_encoding("b".into()),
        none().with_headers(FieldTable::default()),
        none().with_delivery_mode(1),
        none().with_priority(0),
        none().with_correlation_id("x".repeat(255).into()),
        none().with_reply_to("c".into()),
        none().with_expiration("d".into()),
        none().with_message_id("e".into()),
        none().with_timestamp(u64::MAX),
        none().with_type("f".into()),
        none().with_user_id("g".into()),
        none().with_app_id("h".into()),
        none().with_cluster_id("ü".into()),
    ]
}

macro_rules! methods {
    ($($class:ident $module:ident: $($method:ident)*;)*) => {
        vec![$($(AMQPClass::$class($module::AMQPMethod::$method(Default::default())),)*)*]
    };
}

/// Every method that amq-protocol knows, with empty fields.
pub(super) fn empty_methods() -> Vec<AMQPClass> {
    methods! {
        Basic basic: Qos QosOk Consume ConsumeOk Cancel CancelOk Publish Return Deliver Get GetOk
            GetEmpty Ack Reject RecoverAsync Recover RecoverOk Nack;
        Connection connection: Start StartOk Secure SecureOk Tune TuneOk Open OpenOk Close CloseOk
            Blocked Unblocked UpdateSecret UpdateSecretOk;
        Channel channel: Open OpenOk Flow FlowOk Close CloseOk;
        Access access: Request RequestOk;
        Exchange exchange: Declare DeclareOk Delete DeleteOk Bind BindOk Unbind UnbindOk;
        Queue queue: Declare DeclareOk Bind BindOk Purge PurgeOk Delete DeleteOk Unbind UnbindOk;
        Tx tx: Select SelectOk Commit CommitOk Rollback RollbackOk;
        Confirm confirm: Select SelectOk;
    }
}

/// Every method that has a table.
pub(super) fn table_methods(table: &FieldTable) -> Vec<AMQPClass> {
    vec![
        AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: table.clone(),
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        })),
        AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: table.clone(),
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
        })),
        AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: "exchange".into(),
            kind: "topic".into(),
            durable: true,
            arguments: table.clone(),
            ..Default::default()
        })),
        AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
            destination: "a".into(),
            source: "bc".into(),
            routing_key: "def".into(),
            nowait: true,
            arguments: table.clone(),
        })),
        AMQPClass::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
            destination: "a".into(),
            source: "bc".into(),
            routing_key: "def".into(),
            nowait: true,
            arguments: table.clone(),
        })),
        AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: "queue".into(),
            nowait: true,
            arguments: table.clone(),
            ..Default::default()
        })),
        AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: "queue".into(),
            exchange: "exchange".into(),
            routing_key: "key".into(),
            nowait: true,
            arguments: table.clone(),
        })),
        AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
            queue: "queue".into(),
            exchange: "exchange".into(),
            routing_key: "key".into(),
            arguments: table.clone(),
        })),
        AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
            queue: "queue".into(),
            consumer_tag: "tag".into(),
            exclusive: true,
            arguments: table.clone(),
            ..Default::default()
        })),
    ]
}
