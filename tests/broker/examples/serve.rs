//! Serves a broker for clients in other languages: prints its URL, and ends with its standard input.
//!
//! `cargo run -p lavinmq-testing --example serve [rabbitmq|lavinmq]`

use std::io::{self, Read};

use lavinmq_testing::{Broker, Personality};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let personality = match std::env::args().nth(1).as_deref() {
        Some("rabbitmq") => Personality::RabbitMq,
        None | Some("lavinmq") => Personality::LavinMq,
        Some(other) => return Err(format!("no such broker: {other}").into()),
    };
    let broker = Broker::builder().personality(personality).start()?;
    println!("{}", broker.url());
    io::stdin().read_to_end(&mut Vec::new())?;
    println!("{:?}", broker.counters());
    Ok(())
}
