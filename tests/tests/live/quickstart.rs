//! Both quickstarts against a real broker, which is killed under them.

use crate::{broker::Broker, programs::Quickstart, runtimes::Rt};

pub async fn f19_quickstart_loses_nothing_when_the_broker_is_killed_twice<R: Rt>(broker: &Broker) {
    let mut quickstart = Quickstart::start(R::NAME, Some(&broker.url), &[]);
    // Its queue is declared by then.
    quickstart.until_confirmed(1000);
    broker.sync();
    for third in [33_334, 66_667] {
        quickstart.until_confirmed(third);
        broker.control("kill");
        broker.control("start");
    }
    let ended = quickstart.end();
    let accounts = ended.accounts();
    for full in ["accepted", "confirmed", "received_unique"] {
        assert_eq!(accounts[full], 100_000, "{full}: {}\n{}", ended.last_line, ended.said);
    }
    assert_eq!(accounts["lost"], 0, "{}", ended.last_line);
    assert!(accounts["resent"] > 0, "{}", ended.last_line);
    assert!(accounts["cuts"] >= 5, "{}", ended.last_line);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
}

pub async fn quickstart_notices_a_message_thrown_away<R: Rt>(broker: &Broker) {
    let arguments = ["--messages", "20000", "--sabotage", "skip-one"];
    let ended = Quickstart::start(R::NAME, Some(&broker.url), &arguments).end();
    let accounts = ended.accounts();
    assert_eq!((accounts["confirmed"], accounts["lost"]), (20_000, 1), "{}", ended.last_line);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
}
