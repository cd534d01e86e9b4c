//! The benchmark program, over the allocator that users have.

use std::process::ExitCode;

fn main() -> ExitCode {
    lavinmq_benches::main(None, None)
}
