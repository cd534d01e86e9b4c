//! Hostile nesting costs an error, not a stack (semantics f21), on threads with little of it.

use std::thread;

use lavinmq_core::wire::{self, MAX_NESTING, WireError};

/// A field table with `depth` tables in each other, itself included.
pub fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for _ in 1..depth {
        let mut outer = u32::try_from(bytes.len() + 3).unwrap().to_be_bytes().to_vec();
        outer.extend_from_slice(b"\x01kF");
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    bytes
}

fn start(depth: usize) -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 10, 0, 9];
    payload.extend_from_slice(&nested(depth));
    payload.extend_from_slice(&[0; 8]);
    payload
}

fn properties(depth: usize) -> Vec<u8> {
    let mut raw = vec![0x20, 0];
    raw.extend_from_slice(&nested(depth));
    raw
}

fn on_a_stack_of(bytes: usize, test: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(bytes).spawn(test).unwrap().join().unwrap();
}

#[test]
fn f21_nesting_600_deep_is_an_error_on_a_stack_of_64_kib() {
    on_a_stack_of(64 << 10, || {
        for depth in [MAX_NESTING + 1, 600, 18_000] {
            let error = WireError::TableTooDeep;
            assert_eq!(wire::check_table(&nested(depth)), Err(error.clone()));
            assert_eq!(wire::decode_method(&start(depth)), Err(error.clone()));
            assert_eq!(wire::decode_properties(&properties(depth)), Err(error));
        }
    });
}

#[test]
fn f21_the_deepest_nesting_allowed_needs_little_stack() {
    // Optimised, 64 KiB do.
    on_a_stack_of(512 << 10, || {
        assert!(wire::decode_method(&start(MAX_NESTING)).is_ok());
        assert!(wire::decode_properties(&properties(MAX_NESTING)).is_ok());
    });
}
