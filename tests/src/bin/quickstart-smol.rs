//! lavinmq-smol's example `quickstart`, as a program that tests can start: cargo tells them where it
//! is, which it does not for examples (and both examples would be built to one and the same place).

use std::process::ExitCode;

#[path = "../../../runtime-smol/examples/quickstart.rs"]
mod example;

fn main() -> ExitCode {
    example::main()
}
