//! Writes the seeds: `cargo run --example seeds` in this folder. The same ones every time.

#![allow(clippy::unwrap_used, reason = "a tool for us")]

use std::{fs, path::Path};

use amq_protocol::{
    protocol::{AMQPClass, connection, queue},
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};
use lavinmq_core::{Properties, wire};
use lavinmq_fuzz::{
    connection::{STATES, stage},
    world::World,
};

fn main() {
    for state in 0..STATES {
        for settings in [0, 7] {
            let stream = trace(state, settings);
            let head = [state as u8, settings];
            write("split", &format!("{state:02}-{settings}"), &[&head, &[3, 6, 0, 40], &stream]);
            write(
                "connection",
                &format!("{state:02}-{settings}-honest"),
                &[&head, &[0, 255], &stream],
            );
            let any = noise(state as u64 * 8 + u64::from(settings), 80);
            write("connection", &format!("{state:02}-{settings}-noise"), &[&head, &any]);
        }
    }
    operations();
    differential();
    tables();
    uri();
}

fn write(target: &str, name: &str, parts: &[&[u8]]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("seed-{name}")), parts.concat()).unwrap();
}

/// What the honest broker says from this state on.
fn trace(state: usize, settings: u8) -> Vec<u8> {
    let (mut world, c) = stage(state, settings);
    world.tap = Some(vec![Vec::new(); world.links.len()]);
    let World { broker, now, .. } = &mut world;
    let now = *now;
    broker.unblock(now);
    broker.release_replies(false, now);
    for queue in ["q", "r"] {
        broker.put(queue, &"a longer message than the others".into(), now);
    }
    for _ in 0..20 {
        world.serve();
    }
    world.broker.release_confirms(world.now);
    for _ in 0..20 {
        world.serve();
    }
    world.tap.unwrap().swap_remove(c)
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn operations() {
    // Confirm, and fire-and-forget with DropOldest, on one connection and on two.
    const OPEN: [[u8; 3]; 4] = [[0, 0, 24], [0, 9, 25], [0, 1, 2], [0, 18, 255]];
    const CONSUME: [u8; 3] = [1, 3, 0];
    for settings in 0..8_u8 {
        let head = [settings.wrapping_mul(37), settings];
        let mut script = Vec::new();
        for open in OPEN {
            script.extend(open);
        }
        script.extend(CONSUME);
        for round in 0..6 {
            for producer in 0..4 {
                script.extend([2, producer, round]);
            }
            script.push(16);
            script.extend([17, 0, 0, 0, 0]);
            match round {
                // A cut in the middle of a write, and one with messages unconfirmed; and back.
                1 => script.extend([7, 0, 60, 19, 0, 1, 0, 21, 1, 0, 16]),
                2 => script.extend([22, 0, 2, 0, 0, 16, 19, 0, 0, 0, 21, 200, 0, 16, 22, 1, 16]),
                // Nacked; then the broker dies.
                3 => script.extend([22, 2, 1, 2, 0, 0, 16, 25, 1, 21, 232, 3, 16]),
                // Blocked, and not; a channel closed.
                4 => script.extend([22, 6, 2, 0, 0, 16, 22, 7, 16, 23, 0, 0, 2, 0, 16]),
                _ => {}
            }
        }
        write("operations", &format!("script-{settings}"), &[&head, &script]);
        let any = noise(1000 + u64::from(settings), 300);
        write("operations", &format!("noise-{settings}"), &[&head, &any]);
    }
}

fn table() -> FieldTable {
    let values = [
        ("t", AMQPValue::Boolean(true)),
        ("b", AMQPValue::ShortShortInt(-2)),
        ("B", AMQPValue::ShortShortUInt(200)),
        ("s", AMQPValue::ShortInt(-300)),
        ("u", AMQPValue::ShortUInt(65_000)),
        ("I", AMQPValue::LongInt(-70_000)),
        ("i", AMQPValue::LongUInt(4_000_000_000)),
        ("l", AMQPValue::LongLongInt(i64::MIN)),
        ("f", AMQPValue::Float(1.5)),
        ("d", AMQPValue::Double(-2.25)),
        ("D", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("S", AMQPValue::LongString("text".into())),
        ("T", AMQPValue::Timestamp(1_700_000_000)),
        ("x", AMQPValue::ByteArray(vec![0, 255].into())),
        ("V", AMQPValue::Void),
    ];
    let mut table = FieldTable::default();
    let mut array = FieldArray::default();
    for (name, value) in values {
        table.insert(name.into(), value.clone());
        array.push(value);
    }
    array.push(AMQPValue::FieldTable(table.clone()));
    table.insert("A".into(), AMQPValue::FieldArray(array));
    table
}

fn properties() -> Properties {
    Properties::default()
        .with_content_type("application/json".into())
        .with_headers(table())
        .with_delivery_mode(2)
        .with_message_id("id".into())
        .with_timestamp(1_700_000_000)
        .with_user_id("guest".into())
}

fn differential() {
    for state in [0, 7, 9, 15] {
        write("differential", &format!("trace-{state}"), &[&[0], &trace(state, 1)]);
    }
    let methods = [
        AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: table(),
            mechanisms: "PLAIN".into(),
            locales: "en_US".into(),
        })),
        AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: "queue".into(),
            exchange: "exchange".into(),
            routing_key: "key".into(),
            nowait: true,
            arguments: table(),
        })),
    ];
    for (at, class) in methods.iter().enumerate() {
        let mut out = Vec::new();
        wire::put_method(&mut out, 1, class).unwrap();
        write("differential", &format!("method-{at}"), &[&[2], &out[7..out.len() - 1]]);
        write("differential", &format!("framed-{at}"), &[&[1, 0, 1, 0], &out[7..out.len() - 1]]);
    }
    let mut hot: [Vec<u8>; 4] = Default::default();
    wire::put_publish(&mut hot[0], 1, "exchange", "key", true);
    wire::put_deliver(&mut hot[1], 1, "tag", 7, true, "exchange", "key");
    wire::put_ack(&mut hot[2], 1, 7, true);
    wire::put_nack(&mut hot[3], 1, 7, true, true);
    for (at, out) in hot.iter().enumerate() {
        write("differential", &format!("hot-{at}"), &[&[2], &out[7..out.len() - 1]]);
    }
    let mut raw = Vec::new();
    wire::put_properties(&mut raw, &properties());
    write("differential", "properties", &[&[3], &raw]);
    let mut out = Vec::new();
    wire::put_content_header(&mut out, 1, 77, &properties());
    write("differential", "header", &[&[1, 1, 1, 0], &out[7..out.len() - 1]]);
    let mut bytes = Vec::new();
    wire::put_table(&mut bytes, &table());
    write("differential", "table", &[&[4], &bytes]);
}

fn tables() {
    let mut bytes = Vec::new();
    wire::put_table(&mut bytes, &table());
    write("tables", "every-type", &[&[0], &bytes]);
    let voids = [&[0, 0, 0, 25, 1, b'A', b'A', 0, 0, 0, 18][..], &[b'V'; 18]].concat();
    write("tables", "voids", &[&[0], &voids]);
    // Built: a name and a value of each kind; tables in arrays, to the limit and beyond.
    let each: Vec<u8> = (1..24).flat_map(|kind| [1, kind, 1, 2, 3, 4, 5, 6, 7, 8]).collect();
    write("tables", "built", &[&[1], &each]);
    for depth in [31, 32, 40] {
        let deep: Vec<u8> = (0..depth).flat_map(|_| [18, 1]).collect();
        write("tables", &format!("deep-{depth}"), &[&[1], &deep]);
    }
    write("tables", "noise", &[&[1], &noise(3, 200)]);
}

fn uri() {
    for (at, text) in [
        "amqp://localhost",
        "amqps://user:p%40ss@broker.example:5671/%2F?heartbeat=30&name=orders",
        "amqp://u:p@[::1]:5672/vhost?frame_max=4096&channel_max=8&connections=1",
        "amqp://h?buffer_size=10&buffer_policy=drop_oldest&reconnect_attempts=3",
        "amqp://h?reconnect_initial_delay=100ms&reconnect_max_delay=1.5s&reconnect_multiplier=1.5",
        "amqp://h/?connection_timeout=2500",
        "amqp://b%C3%BCcher.example/a%2Fb",
        "http://h",
        "amqp://h?buffer_sise=1",
        "amqp://h?heartbeat=99999",
    ]
    .iter()
    .enumerate()
    {
        write("uri", &format!("plain-{at}"), &[&[0], text.as_bytes()]);
    }
    for (at, text) in ["u|||h", "u|/|?|h/v", "u|%|#|h?x=1", "|:|@|[::1]:1"].iter().enumerate() {
        write("uri", &format!("around-{at}"), &[&[1], text.as_bytes()]);
    }
    for (at, text) in ["user|h:1/v?heartbeat=3", "ü:/@?#|localhost"].iter().enumerate() {
        write("uri", &format!("encoded-{at}"), &[&[2], text.as_bytes()]);
    }
}
