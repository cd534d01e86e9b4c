//! The command line.

use std::{env, process};

pub(super) const USAGE: &str = "\
usage: quickstart [--messages N] [--size BYTES] [--no-faults] [--sabotage skip-one] [AMQP-URL]

  --messages N          how many orders (100000)
  --size BYTES          how long each is, at least 32 (100)
  --no-faults           leave the network alone
  --sabotage skip-one   throw one order away as it arrives: the accounts must show it
  AMQP-URL              a broker of yours, also from AMQP_URL; without one, one in this process";

/// What the command line asks for.
pub(super) struct Wanted {
    pub(super) messages: u64,
    pub(super) size: usize,
    pub(super) faults: bool,
    pub(super) sabotage: bool,
    pub(super) url: Option<String>,
}

impl Wanted {
    pub(super) fn from_command_line() -> std::result::Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut wanted = Self {
            messages: 100_000,
            size: 100,
            faults: true,
            sabotage: false,
            url: env::var("AMQP_URL").ok(),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("messages") => wanted.messages = arguments.value()?.parse()?,
                Long("size") => wanted.size = arguments.value()?.parse()?,
                Long("no-faults") => wanted.faults = false,
                Long("sabotage") => match arguments.value()?.string()?.as_str() {
                    "skip-one" => wanted.sabotage = true,
                    other => return Err(format!("--sabotage: {other} is not known").into()),
                },
                Long("help") | Short('h') => {
                    println!("{USAGE}");
                    process::exit(0);
                }
                Value(url) => wanted.url = Some(url.string()?),
                other => return Err(other.unexpected()),
            }
        }
        if wanted.messages == 0 {
            return Err("--messages: at least 1".into());
        }
        Ok(wanted)
    }
}
