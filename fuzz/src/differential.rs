//! Our own codec against amq-protocol's: what one accepts the other accepts, with the same value.
//!
//! The differences that are meant:
//!
//! - theirs has no `frame_max`, takes a protocol header for a frame and a heartbeat with a payload
//!   for a heartbeat;
//! - theirs parses tables nested more than 32 deep, by recursion, until the stack ends;
//! - theirs takes flags of properties that AMQP 0-9-1 does not have;
//! - ours takes names in deliver and publish that are not UTF-8, and looks at properties only when
//!   somebody asks;
//! - ours writes a value of the type `ShortString` as a long string, where theirs refuses.

use amq_protocol::{
    frame::{AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{
        AMQPClass,
        basic::{self, parse_properties},
        gen_class, parse_class,
    },
    types::{
        AMQPValue, FieldTable,
        generation::gen_field_table,
        parsing::{ParserError, parse_field_table},
    },
};
use lavinmq_core::wire::{self, FrameKind, Method, WireError};

use super::{frame_decode::check as round_trip, input::Input};

/// One input: what it is, and its bytes.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(5) {
        0 => {
            let mut bytes = input.rest();
            while let Some(used) = frame(bytes) {
                bytes = &bytes[used..];
            }
        }
        // Framed, so that lengths and end octets are right.
        1 => {
            let kind = input.of(&[FrameKind::Method, FrameKind::Header, FrameKind::Body]);
            let mut bytes = Vec::new();
            let channel = input.u16();
            wire::put_frame(&mut bytes, kind, channel, |out| out.extend_from_slice(input.rest()));
            frame(&bytes);
        }
        2 => method(input.rest()),
        3 => properties(input.rest()),
        _ => table(input.rest()),
    }
    let _ = round_trip(data);
}

/// Whether theirs may be given bytes of which ours says this: it recurses without limit.
fn is_too_deep<T>(ours: &Result<T, WireError>) -> bool {
    matches!(ours, Err(WireError::TableTooDeep))
}

/// Compares the first frame; its length.
fn frame(bytes: &[u8]) -> Option<usize> {
    let ours = wire::decode(bytes, u32::MAX);
    if let Ok(Some((frame, used))) = &ours {
        let inner = match frame.kind {
            FrameKind::Method => wire::decode_method(frame.payload).map(drop),
            FrameKind::Header => wire::decode_content_header(frame.payload)
                .and_then(|header| header.properties.decode())
                .map(drop),
            FrameKind::Body | FrameKind::Heartbeat => Ok(()),
        };
        if is_too_deep(&inner) {
            return Some(*used);
        }
        let theirs = parse_frame(bytes);
        match frame.kind {
            FrameKind::Method => method(frame.payload),
            FrameKind::Header => header(frame.payload),
            FrameKind::Body | FrameKind::Heartbeat => {}
        }
        match (inner, theirs) {
            (Ok(()), Ok((rest, theirs))) => {
                assert_eq!(rest.len(), bytes.len() - used);
                match (frame.kind, &theirs) {
                    (FrameKind::Method, AMQPFrame::Method(channel, _))
                    | (FrameKind::Header, AMQPFrame::Header(channel, _)) => {
                        assert_eq!(*channel, frame.channel);
                    }
                    (FrameKind::Body, AMQPFrame::Body(channel, body)) => {
                        assert_eq!((*channel, &body[..]), (frame.channel, frame.payload));
                    }
                    (FrameKind::Heartbeat, AMQPFrame::Heartbeat) => assert_eq!(frame.channel, 0),
                    (FrameKind::Heartbeat, AMQPFrame::InvalidHeartbeat(channel)) => {
                        assert_eq!(*channel, frame.channel);
                    }
                    other => panic!("another kind of frame: {other:?}"),
                }
            }
            (Err(_), Err(_)) => {}
            (Ok(()), Err(error)) => {
                assert!(
                    frame.kind == FrameKind::Method && has_names_that_are_not_text(frame.payload),
                    "theirs refuses {frame:?}: {error:?}"
                );
            }
            (Err(WireError::Malformed { .. }), Ok((_, AMQPFrame::Header(..)))) => {}
            (Err(error), Ok((_, theirs))) => panic!("ours refuses {theirs:?}: {error}"),
        }
        return Some(*used);
    }
    // A table in a frame that ours does not take could be deep: nothing that is not one of ours
    // goes to their parser, unless no table can be in it.
    if bytes.len() > 200 {
        return None;
    }
    match (ours, parse_frame(bytes)) {
        (Ok(None), Err(ParserError::Incomplete(_))) => {}
        // Theirs looks for the end octet only; ours at the kind and size first. Both refuse.
        (Err(_), Err(_)) => {}
        (Err(WireError::ProtocolHeader(_)), Ok((_, AMQPFrame::ProtocolHeader(_)))) => {}
        (
            Err(WireError::FrameTooLarge { .. }),
            Ok((_, AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_))),
        ) => {}
        // "AMQ" is the beginning of something else to theirs before it is long enough.
        (Ok(None), Err(_)) => {
            assert!(bytes.starts_with(b"AMQP") || bytes.len() < 7, "{bytes:?}");
        }
        (ours, theirs) => panic!("ours: {ours:?}, theirs: {theirs:?}"),
    }
    None
}

fn has_names_that_are_not_text(payload: &[u8]) -> bool {
    let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    match wire::decode_method(payload) {
        Ok(Method::Deliver(deliver)) => {
            !(is_text(deliver.consumer_tag)
                && is_text(deliver.exchange())
                && is_text(deliver.routing_key()))
        }
        Ok(Method::Publish(publish)) => {
            !(is_text(publish.exchange()) && is_text(publish.routing_key()))
        }
        _ => false,
    }
}

fn method(payload: &[u8]) {
    let ours = wire::decode_method(payload);
    if is_too_deep(&ours) {
        return;
    }
    // Where ours stopped at a table for another reason, a deeper one can come after it in theirs.
    if ours.is_err() && payload.len() > 200 {
        return;
    }
    match (ours, parse_class(payload)) {
        (Err(WireError::Malformed { what: "bytes after the method" }), Ok((rest, _))) => {
            assert!(!rest.is_empty());
        }
        (Err(_), Err(_)) => {}
        (Ok(ours), Ok((rest, theirs))) => {
            assert!(rest.is_empty());
            assert_same(&ours, &theirs);
            let mut out = Vec::new();
            if wire::put_method(&mut out, 3, &theirs).is_ok() {
                let frame = AMQPFrame::Method(3, theirs);
                assert_eq!(out, generated(|out| gen_frame(&frame)(out)).unwrap());
            }
        }
        (Ok(ours), Err(error)) => {
            assert!(has_names_that_are_not_text(payload), "theirs refuses {ours:?}: {error:?}");
        }
        (Err(error), Ok((_, theirs))) => panic!("ours refuses {theirs:?}: {error}"),
    }
}

/// The same values, and the same bytes again from our own encoder.
fn assert_same(ours: &Method<'_>, theirs: &AMQPClass) {
    let mut out = Vec::new();
    match (ours, theirs) {
        (Method::Deliver(ours), AMQPClass::Basic(basic::AMQPMethod::Deliver(theirs))) => {
            assert_eq!(ours.consumer_tag, theirs.consumer_tag.as_str().as_bytes());
            assert_eq!(ours.delivery_tag, theirs.delivery_tag);
            assert_eq!(ours.redelivered, theirs.redelivered);
            assert_eq!(ours.exchange(), theirs.exchange.as_str().as_bytes());
            assert_eq!(ours.routing_key(), theirs.routing_key.as_str().as_bytes());
            wire::put_deliver(
                &mut out,
                3,
                theirs.consumer_tag.as_str(),
                theirs.delivery_tag,
                theirs.redelivered,
                theirs.exchange.as_str(),
                theirs.routing_key.as_str(),
            );
        }
        (Method::Ack(ours), AMQPClass::Basic(basic::AMQPMethod::Ack(theirs))) => {
            assert_eq!((ours.delivery_tag, ours.multiple), (theirs.delivery_tag, theirs.multiple));
            wire::put_ack(&mut out, 3, ours.delivery_tag, ours.multiple);
        }
        (Method::Nack(ours), AMQPClass::Basic(basic::AMQPMethod::Nack(theirs))) => {
            assert_eq!(
                (ours.delivery_tag, ours.multiple, ours.requeue),
                (theirs.delivery_tag, theirs.multiple, theirs.requeue)
            );
            wire::put_nack(&mut out, 3, ours.delivery_tag, ours.multiple, ours.requeue);
        }
        (Method::Publish(ours), AMQPClass::Basic(basic::AMQPMethod::Publish(theirs))) => {
            assert_eq!(ours.exchange(), theirs.exchange.as_str().as_bytes());
            assert_eq!(ours.routing_key(), theirs.routing_key.as_str().as_bytes());
            assert_eq!((ours.mandatory, ours.immediate), (theirs.mandatory, theirs.immediate));
            if theirs.immediate {
                return;
            }
            let (exchange, key) = (theirs.exchange.as_str(), theirs.routing_key.as_str());
            wire::put_publish(&mut out, 3, exchange, key, theirs.mandatory);
        }
        (Method::Other(ours), theirs) => {
            // By their words, since NaN differs from itself.
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
            return;
        }
        other => panic!("different methods: {other:?}"),
    }
    let frame = AMQPFrame::Method(3, theirs.clone());
    assert_eq!(out, generated(|out| gen_frame(&frame)(out)).unwrap());
    let payload = generated(|out| gen_class(theirs)(out)).unwrap();
    assert_eq!(out[wire::FRAME_HEADER..out.len() - 1], payload);
}

fn generated<E>(
    write: impl FnOnce(WriteContext<Vec<u8>>) -> Result<WriteContext<Vec<u8>>, E>,
) -> Option<Vec<u8>> {
    write(Vec::new().into()).ok().map(|out| out.write)
}

fn header(payload: &[u8]) {
    let Ok(ours) = wire::decode_content_header(payload) else {
        return;
    };
    let decoded = ours.properties.decode();
    if is_too_deep(&decoded) || decoded.is_err() && payload.len() > 200 {
        return;
    }
    match (decoded, amq_protocol::frame::parsing::parse_content_header(payload)) {
        (Ok(properties), Ok((rest, theirs))) => {
            assert!(rest.is_empty());
            assert_eq!((ours.class, ours.body_size), (theirs.class_id, theirs.body_size));
            assert_eq!(format!("{properties:?}"), format!("{:?}", theirs.properties));
        }
        (Err(WireError::Malformed { .. }), Ok(_)) | (Err(_), Err(_)) => {}
        other => panic!("{other:?}"),
    }
}

fn properties(raw: &[u8]) {
    let ours = wire::decode_properties(raw);
    if is_too_deep(&ours) || ours.is_err() && raw.len() > 200 {
        return;
    }
    match (ours, parse_properties(raw)) {
        (Ok(ours), Ok((rest, theirs))) => {
            assert!(rest.is_empty());
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
            let mut out = Vec::new();
            wire::put_properties(&mut out, &theirs);
            if let Some(bytes) = generated(|out| basic::gen_properties(&theirs)(out)) {
                assert_eq!(out, bytes);
            }
        }
        // Bytes after them, and flags of no property.
        (Err(WireError::Malformed { .. }), Ok(_)) | (Err(_), Err(_)) => {}
        other => panic!("{other:?}"),
    }
}

fn table(bytes: &[u8]) {
    let ours = wire::check_table(bytes);
    if is_too_deep(&ours) || ours.is_err() && bytes.len() > 200 {
        return;
    }
    match (ours, parse_field_table(bytes)) {
        (Ok(length), Ok((rest, theirs))) => {
            assert_eq!(rest.len(), bytes.len() - length);
            let mut out = Vec::new();
            wire::put_table(&mut out, &theirs);
            match generated(|out| gen_field_table(&theirs)(out)) {
                Some(bytes) => assert_eq!(out, bytes),
                None => assert!(has_short_string(&theirs), "theirs cannot write {theirs:?}"),
            }
        }
        (Err(_), Err(_)) => {}
        other => panic!("{other:?}"),
    }
}

fn has_short_string(table: &FieldTable) -> bool {
    fn value_has(value: &AMQPValue) -> bool {
        match value {
            AMQPValue::ShortString(_) => true,
            AMQPValue::FieldTable(table) => has_short_string(table),
            AMQPValue::FieldArray(array) => array.as_slice().iter().any(value_has),
            _ => false,
        }
    }
    table.into_iter().any(|(_, value)| value_has(value))
}
