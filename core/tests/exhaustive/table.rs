//! Every state against every failure: an asserted outcome for each cell.
//!
//! A line reads: what fails | what we write about it | what is told (the loss, or events) | when, and
//! when the next attempt comes after that | how many copies of the message reached the broker, and its
//! outcome | what the call that waits is told. `N:` is a channel's number. Behind each cell the world
//! runs on to a clean end, where the accounts must hold.

use crate::{cells::outcome, failures::What, states::Where};

/// Each failure in this state comes out as its line says, and none is left out.
fn check(state: Where, table: &str) {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let expected: Vec<_> = table.lines().map(cells).filter(|line| line.len() > 1).collect();
    let actual: Vec<_> =
        What::ALL.map(|what| cells(&format!("{what:?} | {}", outcome(state, what)))).into();
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_eq!(actual.join(" | "), expected.join(" | "), "{state:?}");
    }
    assert_eq!(actual.len(), expected.len(), "{state:?}");
}

macro_rules! states {
    ($($name:ident: $state:ident = $table:literal;)*) => {$(
        #[test]
        fn $name() {
            check(Where::$state, $table);
        }
    )*};
}

// ---- states of the connection ------------------------------------------------------------------

states! {
    while_dialling: Dialling = "
        Eof        | impossible: there is no stream yet
        Reset      | nothing | dial refused   | at once, again after 100ms   | 1 confirmed | answered
        Silence    | nothing | dial timed out | after 10s, again after 100ms | 1 confirmed | answered
        WriteError | impossible: there is no stream yet
        Close320   | impossible: nothing can be read
        Close530   | impossible: nothing can be read
        Close541   | impossible: nothing can be read
        Channel404 | impossible: nothing can be read
        Channel406 | impossible: nothing can be read
        Unexpected | impossible: nothing can be read
        NoChannel  | impossible: nothing can be read
        Malformed  | impossible: nothing can be read
        Heartbeat  | impossible: nothing can be read
        Late       | impossible: nothing can be read
        Alarm      | impossible: nothing can be read
        Cancel     | impossible: nothing can be read
        Crossing   | impossible: nothing can be read
    ";

    while_start_is_due: AwaitStart = "
        Eof        | nothing  | eof                 | at once, again after 100ms   | 1 confirmed | answered
        Reset      | nothing  | ConnectionReset     | at once, again after 100ms   | 1 confirmed | answered
        Silence    | nothing  | handshake timed out | after 10s, again after 100ms | 1 confirmed | answered
        WriteError | nothing  | BrokenPipe          | at once, again after 100ms   | 1 confirmed | answered
        Close320   | close-ok | closed 320          | at once, again after 100ms   | 1 confirmed | answered
        Close530   | close-ok | closed 530          | at once, again after 100ms   | 1 confirmed | answered
        Close541   | close-ok | closed 541          | at once, again after 100ms   | 1 confirmed | answered
        Channel404 | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Channel406 | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Unexpected | nothing  | protocol 503        | at once, again after 100ms   | 1 confirmed | answered
        NoChannel  | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Malformed  | nothing  | protocol 501        | at once, again after 100ms   | 1 confirmed | answered
        Heartbeat  | nothing  | protocol 501        | at once, again after 100ms   | 1 confirmed | answered
        Late       | impossible: the deadline of the handshake hangs up: see Silence
        Alarm      | nothing  | protocol 503        | at once, again after 100ms   | 1 confirmed | answered
        Cancel     | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_tune_is_due: AwaitTune = "
        Eof        | nothing  | eof                 | at once, again after 100ms   | 1 confirmed | answered
        Reset      | nothing  | ConnectionReset     | at once, again after 100ms   | 1 confirmed | answered
        Silence    | nothing  | handshake timed out | after 10s, again after 100ms | 1 confirmed | answered
        WriteError | nothing  | BrokenPipe          | at once, again after 100ms   | 1 confirmed | answered
        Close320   | close-ok | closed 320          | at once, again after 100ms   | 1 confirmed | answered
        Close530   | close-ok | closed 530          | at once, again after 100ms   | 1 confirmed | answered
        Close541   | close-ok | closed 541          | at once, again after 100ms   | 1 confirmed | answered
        Channel404 | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Channel406 | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Unexpected | nothing  | protocol 503        | at once, again after 100ms   | 1 confirmed | answered
        NoChannel  | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Malformed  | nothing  | protocol 501        | at once, again after 100ms   | 1 confirmed | answered
        Heartbeat  | nothing  | protocol 501        | at once, again after 100ms   | 1 confirmed | answered
        Late       | impossible: the deadline of the handshake hangs up: see Silence
        Alarm      | nothing  | protocol 503        | at once, again after 100ms   | 1 confirmed | answered
        Cancel     | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_open_ok_is_due: AwaitOpenOk = "
        Eof        | nothing  | eof                 | at once, again after 100ms   | 1 confirmed | answered
        Reset      | nothing  | ConnectionReset     | at once, again after 100ms   | 1 confirmed | answered
        Silence    | nothing  | handshake timed out | after 10s, again after 100ms | 1 confirmed | answered
        WriteError | nothing  | BrokenPipe          | at once, again after 100ms   | 1 confirmed | answered
        Close320   | close-ok | closed 320          | at once, again after 100ms   | 1 confirmed | answered
        Close530   | close-ok | vhost refused       | at once, again after 30s     | 1 confirmed | timed out
        Close541   | close-ok | closed 541          | at once, again after 100ms   | 1 confirmed | answered
        Channel404 | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Channel406 | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Unexpected | nothing  | protocol 503        | at once, again after 100ms   | 1 confirmed | answered
        NoChannel  | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Malformed  | nothing  | protocol 501        | at once, again after 100ms   | 1 confirmed | answered
        Heartbeat  | nothing  | protocol 501        | at once, again after 100ms   | 1 confirmed | answered
        Late       | impossible: the deadline of the handshake hangs up: see Silence
        Alarm      | nothing  | protocol 503        | at once, again after 100ms   | 1 confirmed | answered
        Cancel     | nothing  | protocol 504        | at once, again after 100ms   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_idle: Idle = "
        Eof        | nothing     | eof                | at once, again at once   | 1 confirmed | answered
        Reset      | nothing     | ConnectionReset    | at once, again at once   | 1 confirmed | answered
        Silence    | nothing     | silence            | after 20s, again at once | 1 confirmed | timed out
        WriteError | nothing     | BrokenPipe         | at once, again at once   | 1 confirmed | answered
        Close320   | close-ok    | closed 320         | at once, again at once   | 1 confirmed | answered
        Close530   | close-ok    | closed 530         | at once, again at once   | 1 confirmed | answered
        Close541   | close-ok    | closed 541         | at once, again at once   | 1 confirmed | answered
        Channel404 | 3: close-ok | channel closed 404 | stands                   | 1 confirmed | answered
        Channel406 | 3: close-ok | channel closed 406 | stands                   | 1 confirmed | answered
        Unexpected | close 503   | protocol 503       | at once, again at once   | 1 confirmed | answered
        NoChannel  | close 504   | protocol 504       | at once, again at once   | 1 confirmed | answered
        Malformed  | close 501   | protocol 501       | at once, again at once   | 1 confirmed | answered
        Heartbeat  | close 501   | protocol 501       | at once, again at once   | 1 confirmed | answered
        Late       | impossible: no call waits
        Alarm      | nothing     | nothing            | stands                   | 1 confirmed | answered
        Cancel     | close 503   | protocol 503       | at once, again at once   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    with_half_a_publish_written: HalfWritten = "
        Eof        | nothing      | eof                | at once, again at once   | 1 confirmed  | answered
        Reset      | nothing      | ConnectionReset    | at once, again at once   | 1 confirmed  | answered
        Silence    | nothing      | silence            | after 20s, again at once | 1 confirmed  | timed out
        WriteError | nothing      | BrokenPipe         | at once, again at once   | 1 confirmed  | answered
        Close320   | close-ok     | closed 320         | at once, again at once   | 1 confirmed  | answered
        Close530   | close-ok     | closed 530         | at once, again at once   | 1 confirmed  | answered
        Close541   | close-ok     | closed 541         | at once, again at once   | 1 confirmed  | answered
        Channel404 | 3: close-ok  | channel closed 404 | stands                   | 0 failed 404 | answered
        Channel406 | 3: close-ok  | channel closed 406 | stands                   | 1 confirmed  | answered
        Unexpected | close 503    | protocol 503       | at once, again at once   | 1 confirmed  | answered
        NoChannel  | close 504    | protocol 504       | at once, again at once   | 1 confirmed  | answered
        Malformed  | close 501    | protocol 501       | at once, again at once   | 1 confirmed  | answered
        Heartbeat  | close 501    | protocol 501       | at once, again at once   | 1 confirmed  | answered
        Late       | 1: close 200 | nothing            | stands                   | 1 confirmed  | timed out
        Alarm      | nothing      | nothing            | stands                   | 1 confirmed  | answered
        Cancel     | close 503    | protocol 503       | at once, again at once   | 1 confirmed  | answered
        Crossing   | impossible: no close of ours is out
    ";

    with_a_message_unconfirmed: Unconfirmed = "
        Eof        | nothing      | eof                | at once, again at once   | 2 confirmed  | answered
        Reset      | nothing      | ConnectionReset    | at once, again at once   | 2 confirmed  | answered
        Silence    | nothing      | silence            | after 20s, again at once | 2 confirmed  | timed out
        WriteError | nothing      | BrokenPipe         | at once, again at once   | 2 confirmed  | answered
        Close320   | close-ok     | closed 320         | at once, again at once   | 2 confirmed  | answered
        Close530   | close-ok     | closed 530         | at once, again at once   | 2 confirmed  | answered
        Close541   | close-ok     | closed 541         | at once, again at once   | 2 confirmed  | answered
        Channel404 | 3: close-ok  | channel closed 404 | stands                   | 1 failed 404 | answered
        Channel406 | 3: close-ok  | channel closed 406 | stands                   | 2 confirmed  | answered
        Unexpected | close 503    | protocol 503       | at once, again at once   | 2 confirmed  | answered
        NoChannel  | close 504    | protocol 504       | at once, again at once   | 2 confirmed  | answered
        Malformed  | close 501    | protocol 501       | at once, again at once   | 2 confirmed  | answered
        Heartbeat  | close 501    | protocol 501       | at once, again at once   | 2 confirmed  | answered
        Late       | 1: close 200 | nothing            | stands                   | 1 confirmed  | timed out
        Alarm      | nothing      | nothing            | stands                   | 1 confirmed  | answered
        Cancel     | close 503    | protocol 503       | at once, again at once   | 2 confirmed  | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_blocked: Blocked = "
        Eof        | nothing     | eof                | at once, again at once   | 1 confirmed | answered
        Reset      | nothing     | ConnectionReset    | at once, again at once   | 1 confirmed | answered
        Silence    | nothing     | silence            | after 20s, again at once | 1 confirmed | answered
        WriteError | nothing     | BrokenPipe         | at once, again at once   | 1 confirmed | answered
        Close320   | close-ok    | closed 320         | at once, again at once   | 1 confirmed | answered
        Close530   | close-ok    | closed 530         | at once, again at once   | 1 confirmed | answered
        Close541   | close-ok    | closed 541         | at once, again at once   | 1 confirmed | answered
        Channel404 | 3: close-ok | channel closed 404 | stands                   | 1 confirmed | answered
        Channel406 | 3: close-ok | channel closed 406 | stands                   | 1 confirmed | answered
        Unexpected | close 503   | protocol 503       | at once, again at once   | 1 confirmed | answered
        NoChannel  | close 504   | protocol 504       | at once, again at once   | 1 confirmed | answered
        Malformed  | close 501   | protocol 501       | at once, again at once   | 1 confirmed | answered
        Heartbeat  | close 501   | protocol 501       | at once, again at once   | 1 confirmed | answered
        Late       | nothing     | nothing            | stands                   | 1 confirmed | answered
        Alarm      | nothing     | nothing            | stands                   | 1 confirmed | answered
        Cancel     | close 503   | protocol 503       | at once, again at once   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_we_close: Goodbye = "
        Eof        | nothing  | ended          | at once, for good   | none | none
        Reset      | nothing  | ended          | at once, for good   | none | none
        Silence    | nothing  | ended          | after 10s, for good | none | none
        WriteError | nothing  | ended          | at once, for good   | none | none
        Close320   | close-ok | ended          | at once, for good   | none | none
        Close530   | close-ok | ended          | at once, for good   | none | none
        Close541   | close-ok | ended          | at once, for good   | none | none
        Channel404 | nothing  | ignored, ended | at once, for good   | none | none
        Channel406 | nothing  | ignored, ended | at once, for good   | none | none
        Unexpected | nothing  | ignored, ended | at once, for good   | none | none
        NoChannel  | nothing  | ignored, ended | at once, for good   | none | none
        Malformed  | nothing  | ended          | at once, for good   | none | none
        Heartbeat  | nothing  | ignored, ended | at once, for good   | none | none
        Late       | impossible: the deadline of the close hangs up: see Silence
        Alarm      | nothing  | ended          | after 10s, for good | none | none
        Cancel     | nothing  | ignored, ended | at once, for good   | none | none
        Crossing   | close-ok | ended          | at once, for good   | none | none
    ";

    while_we_close_on_a_peer_that_broke_the_protocol: Broken = "
        Eof        | nothing  | interrupted, resumed          | again at once  | 2 confirmed | answered
        Reset      | nothing  | interrupted, resumed          | again at once  | 2 confirmed | answered
        Silence    | nothing  | interrupted, resumed          | again after 1s | 2 confirmed | answered
        WriteError | nothing  | interrupted, resumed          | again at once  | 2 confirmed | answered
        Close320   | close-ok | interrupted, resumed          | again at once  | 2 confirmed | answered
        Close530   | close-ok | interrupted, resumed          | again at once  | 2 confirmed | answered
        Close541   | close-ok | interrupted, resumed          | again at once  | 2 confirmed | answered
        Channel404 | nothing  | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Channel406 | nothing  | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Unexpected | nothing  | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        NoChannel  | nothing  | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Malformed  | nothing  | interrupted, resumed          | again at once  | 2 confirmed | answered
        Heartbeat  | nothing  | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Late       | impossible: the deadline of the close hangs up: see Silence
        Alarm      | nothing  | ignored, interrupted, resumed | again after 1s | 2 confirmed | answered
        Cancel     | nothing  | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Crossing   | close-ok | interrupted, resumed          | again at once  | 2 confirmed | answered
    ";

    while_the_peers_close_is_being_answered: Draining = "
        Eof        | nothing  | interrupted, resumed          | again at once  | 2 confirmed | answered
        Reset      | nothing  | interrupted, resumed          | again at once  | 2 confirmed | answered
        Silence    | nothing  | interrupted, resumed          | again after 1s | 2 confirmed | answered
        WriteError | nothing  | interrupted, resumed          | again at once  | 2 confirmed | answered
        Close320   | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Close530   | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Close541   | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Channel404 | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Channel406 | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Unexpected | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        NoChannel  | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Malformed  | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Heartbeat  | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Late       | impossible: the deadline of the close hangs up: see Silence
        Alarm      | nothing  | ignored, interrupted, resumed | again after 1s | 2 confirmed | answered
        Cancel     | close-ok | ignored, interrupted, resumed | again at once  | 2 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    between_two_attempts: Waiting = "
        Eof        | nothing | resumed | again after 100ms | 1 confirmed | answered
        Reset      | nothing | resumed | again after 100ms | 1 confirmed | answered
        Silence    | impossible: nobody is listened to
        WriteError | nothing | resumed | again after 100ms | 1 confirmed | answered
        Close320   | impossible: nothing can be read
        Close530   | impossible: nothing can be read
        Close541   | impossible: nothing can be read
        Channel404 | impossible: nothing can be read
        Channel406 | impossible: nothing can be read
        Unexpected | impossible: nothing can be read
        NoChannel  | impossible: nothing can be read
        Malformed  | impossible: nothing can be read
        Heartbeat  | impossible: nothing can be read
        Late       | impossible: nothing can be read
        Alarm      | impossible: nothing can be read
        Cancel     | impossible: nothing can be read
        Crossing   | impossible: nothing can be read
    ";
}

// ---- states of a channel -----------------------------------------------------------------------

states! {
    while_a_lane_opens: Opening = "
        Eof        | nothing     | eof                       | at once, again at once   | 1 confirmed | answered
        Reset      | nothing     | ConnectionReset           | at once, again at once   | 1 confirmed | answered
        Silence    | nothing     | no answer to channel.open | after 10s, again at once | 1 confirmed | timed out
        WriteError | nothing     | BrokenPipe                | at once, again at once   | 1 confirmed | answered
        Close320   | close-ok    | closed 320                | at once, again at once   | 1 confirmed | answered
        Close530   | close-ok    | closed 530                | at once, again at once   | 1 confirmed | answered
        Close541   | close-ok    | closed 541                | at once, again at once   | 1 confirmed | answered
        Channel404 | 4: close-ok | channel closed 404        | stands                   | 1 confirmed | answered
        Channel406 | 4: close-ok | channel closed 406        | stands                   | 1 confirmed | answered
        Unexpected | close 503   | protocol 503              | at once, again at once   | 1 confirmed | answered
        NoChannel  | close 504   | protocol 504              | at once, again at once   | 1 confirmed | answered
        Malformed  | close 501   | protocol 501              | at once, again at once   | 1 confirmed | answered
        Heartbeat  | close 501   | protocol 501              | at once, again at once   | 1 confirmed | answered
        Late       | nothing     | no answer to channel.open | after 10s, again at once | 1 confirmed | timed out
        Alarm      | nothing     | nothing                   | stands                   | 1 confirmed | answered
        Cancel     | close 503   | protocol 503              | at once, again at once   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_confirm_select_is_unanswered: Selecting = "
        Eof        | nothing                    | eof                | at once, again at once   | 1 confirmed | answered
        Reset      | nothing                    | ConnectionReset    | at once, again at once   | 1 confirmed | answered
        Silence    | nothing                    | silence            | after 20s, again at once | 1 confirmed | timed out
        WriteError | nothing                    | BrokenPipe         | at once, again at once   | 1 confirmed | answered
        Close320   | close-ok                   | closed 320         | at once, again at once   | 1 confirmed | answered
        Close530   | close-ok                   | closed 530         | at once, again at once   | 1 confirmed | answered
        Close541   | close-ok                   | closed 541         | at once, again at once   | 1 confirmed | answered
        Channel404 | 4: close-ok                | channel closed 404 | stands                   | 1 confirmed | answered
        Channel406 | 4: close-ok                | channel closed 406 | stands                   | 1 confirmed | answered
        Unexpected | close 503                  | protocol 503       | at once, again at once   | 1 confirmed | answered
        NoChannel  | close 504                  | protocol 504       | at once, again at once   | 1 confirmed | answered
        Malformed  | close 501                  | protocol 501       | at once, again at once   | 1 confirmed | answered
        Heartbeat  | close 501                  | protocol 501       | at once, again at once   | 1 confirmed | answered
        Late       | 1: close 200, 4: close 200 | channel closed 0   | stands                   | 1 confirmed | timed out
        Alarm      | nothing                    | nothing            | stands                   | 1 confirmed | answered
        Cancel     | close 503                  | protocol 503       | at once, again at once   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_qos_is_unanswered: Qos = "
        Eof        | nothing                    | eof             | at once, again at once   | 2 confirmed | answered
        Reset      | nothing                    | ConnectionReset | at once, again at once   | 2 confirmed | answered
        Silence    | nothing                    | silence         | after 20s, again at once | 2 confirmed | timed out
        WriteError | nothing                    | BrokenPipe      | at once, again at once   | 2 confirmed | answered
        Close320   | close-ok                   | closed 320      | at once, again at once   | 2 confirmed | answered
        Close530   | close-ok                   | closed 530      | at once, again at once   | 2 confirmed | answered
        Close541   | close-ok                   | closed 541      | at once, again at once   | 2 confirmed | answered
        Channel404 | 4: close-ok                | nothing         | stands                   | 1 confirmed | refused 404
        Channel406 | 4: close-ok                | nothing         | stands                   | 1 confirmed | refused 406
        Unexpected | close 503                  | protocol 503    | at once, again at once   | 2 confirmed | answered
        NoChannel  | close 504                  | protocol 504    | at once, again at once   | 2 confirmed | answered
        Malformed  | close 501                  | protocol 501    | at once, again at once   | 2 confirmed | answered
        Heartbeat  | close 501                  | protocol 501    | at once, again at once   | 2 confirmed | answered
        Late       | 4: close 200               | nothing         | stands                   | 1 confirmed | timed out
        Alarm      | nothing                    | nothing         | stands                   | 1 confirmed | answered
        Cancel     | 4: cancel-ok, 4: close 200 | cancelled       | stands                   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_consume_is_unanswered: Subscribing = "
        Eof        | nothing                    | eof             | at once, again at once   | 2 confirmed | answered
        Reset      | nothing                    | ConnectionReset | at once, again at once   | 2 confirmed | answered
        Silence    | nothing                    | silence         | after 20s, again at once | 2 confirmed | timed out
        WriteError | nothing                    | BrokenPipe      | at once, again at once   | 2 confirmed | answered
        Close320   | close-ok                   | closed 320      | at once, again at once   | 2 confirmed | answered
        Close530   | close-ok                   | closed 530      | at once, again at once   | 2 confirmed | answered
        Close541   | close-ok                   | closed 541      | at once, again at once   | 2 confirmed | answered
        Channel404 | 4: close-ok                | nothing         | stands                   | 1 confirmed | refused 404
        Channel406 | 4: close-ok                | nothing         | stands                   | 1 confirmed | refused 406
        Unexpected | close 503                  | protocol 503    | at once, again at once   | 2 confirmed | answered
        NoChannel  | close 504                  | protocol 504    | at once, again at once   | 2 confirmed | answered
        Malformed  | close 501                  | protocol 501    | at once, again at once   | 2 confirmed | answered
        Heartbeat  | close 501                  | protocol 501    | at once, again at once   | 2 confirmed | answered
        Late       | 4: close 200               | nothing         | stands                   | 1 confirmed | timed out
        Alarm      | nothing                    | nothing         | stands                   | 1 confirmed | answered
        Cancel     | 4: cancel-ok, 4: close 200 | cancelled       | stands                   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    with_a_delivery_in_hand: Consuming = "
        Eof        | nothing                    | eof                      | at once, again at once   | 2 confirmed | answered
        Reset      | nothing                    | ConnectionReset          | at once, again at once   | 2 confirmed | answered
        Silence    | nothing                    | silence                  | after 20s, again at once | 2 confirmed | timed out
        WriteError | nothing                    | BrokenPipe               | at once, again at once   | 2 confirmed | answered
        Close320   | close-ok                   | closed 320               | at once, again at once   | 2 confirmed | answered
        Close530   | close-ok                   | closed 530               | at once, again at once   | 2 confirmed | answered
        Close541   | close-ok                   | closed 541               | at once, again at once   | 2 confirmed | answered
        Channel404 | 2: close-ok                | interrupted 404, resumed | stands                   | 1 confirmed | answered
        Channel406 | 2: close-ok                | interrupted 406, resumed | stands                   | 1 confirmed | answered
        Unexpected | close 503                  | protocol 503             | at once, again at once   | 2 confirmed | answered
        NoChannel  | close 504                  | protocol 504             | at once, again at once   | 2 confirmed | answered
        Malformed  | close 501                  | protocol 501             | at once, again at once   | 2 confirmed | answered
        Heartbeat  | close 501                  | protocol 501             | at once, again at once   | 2 confirmed | answered
        Late       | 1: close 200               | nothing                  | stands                   | 1 confirmed | timed out
        Alarm      | nothing                    | nothing                  | stands                   | 1 confirmed | answered
        Cancel     | 2: cancel-ok, 2: close 200 | cancelled, resumed       | stands                   | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_declare_is_unanswered: Declaring = "
        Eof        | nothing      | eof             | at once, again at once   | 2 confirmed | answered
        Reset      | nothing      | ConnectionReset | at once, again at once   | 2 confirmed | answered
        Silence    | nothing      | silence         | after 20s, again at once | 2 confirmed | timed out
        WriteError | nothing      | BrokenPipe      | at once, again at once   | 2 confirmed | answered
        Close320   | close-ok     | closed 320      | at once, again at once   | 2 confirmed | answered
        Close530   | close-ok     | closed 530      | at once, again at once   | 2 confirmed | answered
        Close541   | close-ok     | closed 541      | at once, again at once   | 2 confirmed | answered
        Channel404 | 1: close-ok  | nothing         | stands                   | 1 confirmed | refused 404
        Channel406 | 1: close-ok  | nothing         | stands                   | 1 confirmed | refused 406
        Unexpected | close 503    | protocol 503    | at once, again at once   | 2 confirmed | answered
        NoChannel  | close 504    | protocol 504    | at once, again at once   | 2 confirmed | answered
        Malformed  | close 501    | protocol 501    | at once, again at once   | 2 confirmed | answered
        Heartbeat  | close 501    | protocol 501    | at once, again at once   | 2 confirmed | answered
        Late       | 1: close 200 | nothing         | stands                   | 1 confirmed | timed out
        Alarm      | nothing      | nothing         | stands                   | 1 confirmed | answered
        Cancel     | close 503    | protocol 503    | at once, again at once   | 2 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_a_lane_waits_to_be_reopened: Reopening = "
        Eof        | nothing                   | eof                       | at once, again at once     | 1 confirmed | answered
        Reset      | nothing                   | ConnectionReset           | at once, again at once     | 1 confirmed | answered
        Silence    | nothing                   | no answer to channel.open | after 10.1s, again at once | 1 confirmed | timed out
        WriteError | nothing                   | BrokenPipe                | at once, again at once     | 1 confirmed | answered
        Close320   | close-ok                  | closed 320                | at once, again at once     | 1 confirmed | answered
        Close530   | close-ok                  | closed 530                | at once, again at once     | 1 confirmed | answered
        Close541   | close-ok                  | closed 541                | at once, again at once     | 1 confirmed | answered
        Channel404 | close 504                 | protocol 504              | at once, again at once     | 1 confirmed | answered
        Channel406 | close 504                 | protocol 504              | at once, again at once     | 1 confirmed | answered
        Unexpected | close 504                 | protocol 504              | at once, again at once     | 1 confirmed | answered
        NoChannel  | close 504                 | protocol 504              | at once, again at once     | 1 confirmed | answered
        Malformed  | close 501                 | protocol 501              | at once, again at once     | 1 confirmed | answered
        Heartbeat  | close 501                 | protocol 501              | at once, again at once     | 1 confirmed | answered
        Late       | 3: close-ok, 1: close 200 | channel closed 406        | stands                     | 1 confirmed | timed out
        Alarm      | 3: close-ok               | channel closed 406        | stands                     | 1 confirmed | answered
        Cancel     | close 504                 | protocol 504              | at once, again at once     | 1 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    while_we_close_a_lane: Closing = "
        Eof        | nothing     | eof                        | at once, again at once   | 2 confirmed | answered
        Reset      | nothing     | ConnectionReset            | at once, again at once   | 2 confirmed | answered
        Silence    | nothing     | no answer to channel.close | after 10s, again at once | 2 confirmed | timed out
        WriteError | nothing     | BrokenPipe                 | at once, again at once   | 2 confirmed | answered
        Close320   | close-ok    | closed 320                 | at once, again at once   | 2 confirmed | answered
        Close530   | close-ok    | closed 530                 | at once, again at once   | 2 confirmed | answered
        Close541   | close-ok    | closed 541                 | at once, again at once   | 2 confirmed | answered
        Channel404 | 4: close-ok | nothing                    | stands                   | 2 confirmed | answered
        Channel406 | 4: close-ok | nothing                    | stands                   | 2 confirmed | answered
        Unexpected | nothing     | nothing                    | stands                   | 2 confirmed | answered
        NoChannel  | close 504   | protocol 504               | at once, again at once   | 2 confirmed | answered
        Malformed  | close 501   | protocol 501               | at once, again at once   | 2 confirmed | answered
        Heartbeat  | close 501   | protocol 501               | at once, again at once   | 2 confirmed | answered
        Late       | nothing     | no answer to channel.close | after 10s, again at once | 2 confirmed | timed out
        Alarm      | nothing     | nothing                    | stands                   | 2 confirmed | answered
        Cancel     | nothing     | nothing                    | stands                   | 2 confirmed | answered
        Crossing   | 4: close-ok | nothing                    | stands                   | 2 confirmed | answered
    ";

    while_the_peers_channel_close_is_being_answered: ClosedByPeer = "
        Eof        | nothing     | eof                       | at once, again at once   | 2 confirmed | answered
        Reset      | nothing     | ConnectionReset           | at once, again at once   | 2 confirmed | answered
        Silence    | nothing     | no answer to channel.open | after 10s, again at once | 2 confirmed | timed out
        WriteError | nothing     | BrokenPipe                | at once, again at once   | 2 confirmed | answered
        Close320   | close-ok    | closed 320                | at once, again at once   | 2 confirmed | answered
        Close530   | close-ok    | closed 530                | at once, again at once   | 2 confirmed | answered
        Close541   | close-ok    | closed 541                | at once, again at once   | 2 confirmed | answered
        Channel404 | close 504   | protocol 504              | at once, again at once   | 2 confirmed | answered
        Channel406 | close 504   | protocol 504              | at once, again at once   | 2 confirmed | answered
        Unexpected | close 504   | protocol 504              | at once, again at once   | 2 confirmed | answered
        NoChannel  | close 504   | protocol 504              | at once, again at once   | 2 confirmed | answered
        Malformed  | close 501   | protocol 501              | at once, again at once   | 2 confirmed | answered
        Heartbeat  | close 501   | protocol 501              | at once, again at once   | 2 confirmed | answered
        Late       | nothing     | no answer to channel.open | after 10s, again at once | 2 confirmed | timed out
        Alarm      | 3: close-ok | nothing                   | stands                   | 2 confirmed | answered
        Cancel     | close 504   | protocol 504              | at once, again at once   | 2 confirmed | answered
        Crossing   | impossible: no close of ours is out
    ";

    with_a_tombstone: Tombstone = "
        Eof        | nothing     | eof                        | at once, again at once   | 2 confirmed | timed out
        Reset      | nothing     | ConnectionReset            | at once, again at once   | 2 confirmed | timed out
        Silence    | nothing     | no answer to channel.close | after 10s, again at once | 2 confirmed | timed out
        WriteError | nothing     | BrokenPipe                 | at once, again at once   | 2 confirmed | timed out
        Close320   | close-ok    | closed 320                 | at once, again at once   | 2 confirmed | timed out
        Close530   | close-ok    | closed 530                 | at once, again at once   | 2 confirmed | timed out
        Close541   | close-ok    | closed 541                 | at once, again at once   | 2 confirmed | timed out
        Channel404 | 1: close-ok | nothing                    | stands                   | 1 confirmed | timed out
        Channel406 | 1: close-ok | nothing                    | stands                   | 1 confirmed | timed out
        Unexpected | nothing     | nothing                    | stands                   | 1 confirmed | timed out
        NoChannel  | close 504   | protocol 504               | at once, again at once   | 2 confirmed | timed out
        Malformed  | close 501   | protocol 501               | at once, again at once   | 2 confirmed | timed out
        Heartbeat  | close 501   | protocol 501               | at once, again at once   | 2 confirmed | timed out
        Late       | nothing     | no answer to channel.close | after 10s, again at once | 2 confirmed | timed out
        Alarm      | nothing     | nothing                    | stands                   | 1 confirmed | timed out
        Cancel     | nothing     | nothing                    | stands                   | 1 confirmed | timed out
        Crossing   | 1: close-ok | nothing                    | stands                   | 1 confirmed | timed out
    ";
}
