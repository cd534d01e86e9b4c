//! Publishing: s10 to s12, s18, s19, s23, f18.

use crate::harness::*;

#[test]
fn s18_tags_are_counted_in_wire_order_from_one() {
    let mut stage = Stage::connected(config());
    let producer = stage.producer("orders", PublishMode::Confirm);
    for body in ["1", "2", "3"] {
        stage.publish(producer, body);
    }
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    let copies = stage.expect_publishes(PUB, &["1", "2", "3"]);
    assert!(copies.iter().all(|copy| copy.channel == channel && copy.routing_key == "orders"));
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.ack(PUB, channel, 3, true);
    assert_eq!(stage.verdicts(), [(1, None), (3, None)]);
    stage.finish();
}
