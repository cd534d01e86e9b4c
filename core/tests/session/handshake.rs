//! The handshake: s1 to s5, f8.

use crate::harness::*;

#[test]
fn s01_another_protocol_header_is_a_version_mismatch_and_final() {
    let mut stage = Stage::new(config());
    stage.connect(PUB);
    assert_eq!(stage.next(PUB), Wrote::ProtocolHeader);
    stage.feed(PUB, b"AMQP\x03\x01\0\0");
    assert!(!stage.peers[PUB].up);
    stage.finish();
}
