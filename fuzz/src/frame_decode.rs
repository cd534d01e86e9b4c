//! Decoding, encoding what was decoded, and the same bytes or values again.

use amq_protocol::types::parsing::parse_field_table;
use lavinmq_core::wire::{
    self, ContentHeader, Frame, FrameKind, IdPrefix, Method, Template, WireError,
};

/// Decodes `data` (four bytes of `frame_max`, then frames) as far as it goes, encodes what was
/// decoded, and compares. Returns how many frames there were, and the error that ended them or the
/// last one found inside them.
pub fn check(data: &[u8]) -> (usize, Option<WireError>) {
    let Some((frame_max, mut rest)) = data.split_first_chunk() else {
        return (0, None);
    };
    let frame_max = u32::from_be_bytes(*frame_max);
    fragments(rest);
    let (mut frames, mut last) = (0, None);
    loop {
        match wire::decode(rest, frame_max) {
            Ok(None) => return (frames, last),
            Err(error) => {
                assert_eq!(error.code(), 501);
                return (frames, Some(error));
            }
            Ok(Some((frame, used))) => {
                assert!(used as u64 <= u64::from(frame_max));
                frames += 1;
                if let Err(error) = check_frame(&frame, &rest[..used]) {
                    assert!([502, 540].contains(&error.code()));
                    last = Some(error);
                }
                rest = &rest[used..];
            }
        }
    }
}

/// The decoders below frames, on bytes that need not be framed.
fn fragments(bytes: &[u8]) {
    if let Ok(length) = wire::check_table(bytes) {
        let (rest, _) = parse_field_table(bytes).expect("what passes the walk can be parsed");
        assert_eq!(bytes.len() - rest.len(), length);
    }
    let _ = check_method(bytes);
    let _ = check_properties(bytes);
}

fn check_frame(frame: &Frame<'_>, bytes: &[u8]) -> Result<(), WireError> {
    let mut again = Vec::new();
    wire::put_frame(&mut again, frame.kind, frame.channel, |out| {
        out.extend_from_slice(frame.payload);
    });
    assert_eq!(again, bytes);
    match frame.kind {
        FrameKind::Method => check_method(frame.payload),
        FrameKind::Header => check_header(frame.payload),
        FrameKind::Body => {
            again.clear();
            wire::put_body(&mut again, frame.channel, frame.payload, u32::MAX);
            assert!(again == bytes || frame.payload.is_empty());
            Ok(())
        }
        FrameKind::Heartbeat => Ok(()),
    }
}

fn check_method(payload: &[u8]) -> Result<(), WireError> {
    let method = wire::decode_method(payload)?;
    let mut out = Vec::new();
    match &method {
        Method::Deliver(deliver) => {
            let strings = [deliver.consumer_tag, deliver.exchange(), deliver.routing_key()];
            let [Ok(tag), Ok(exchange), Ok(routing_key)] = strings.map(std::str::from_utf8) else {
                return Ok(());
            };
            let (number, redelivered) = (deliver.delivery_tag, deliver.redelivered);
            wire::put_deliver(&mut out, 1, tag, number, redelivered, exchange, routing_key);
        }
        Method::Ack(ack) => wire::put_ack(&mut out, 1, ack.delivery_tag, ack.multiple),
        Method::Nack(nack) => {
            wire::put_nack(&mut out, 1, nack.delivery_tag, nack.multiple, nack.requeue);
        }
        Method::Publish(publish) => {
            let strings = [publish.exchange(), publish.routing_key()];
            let [Ok(exchange), Ok(routing_key)] = strings.map(std::str::from_utf8) else {
                return Ok(());
            };
            if publish.immediate {
                return Ok(());
            }
            wire::put_publish(&mut out, 1, exchange, routing_key, publish.mandatory);
        }
        Method::Other(class) => wire::put_method(&mut out, 1, class).expect("was decoded"),
        _ => unreachable!("a kind of method that is not tested"),
    }
    let (frame, _) = wire::decode(&out, u32::MAX).unwrap().expect("a whole frame");
    let again = wire::decode_method(frame.payload).expect("was encoded by us");
    // By their words, since NaN differs from itself.
    assert_eq!(format!("{again:?}"), format!("{method:?}"));
    Ok(())
}

fn check_header(payload: &[u8]) -> Result<(), WireError> {
    let ContentHeader { class, body_size, properties } = wire::decode_content_header(payload)?;
    let mut out = Vec::new();
    wire::put_content_header_raw(&mut out, 1, body_size, properties.as_bytes());
    let (frame, _) = wire::decode(&out, u32::MAX).unwrap().expect("a whole frame");
    let again = ContentHeader { class: 60, body_size, properties };
    assert_eq!(wire::decode_content_header(frame.payload), Ok(again));
    // Class, and a weight, that were others.
    assert!(frame.payload == payload || class != 60 || payload[2..4] != [0; 2]);
    check_properties(properties.as_bytes())
}

fn check_properties(raw: &[u8]) -> Result<(), WireError> {
    let checked = wire::check_properties(raw);
    let properties = wire::decode_properties(raw);
    assert_eq!(checked.as_ref().err(), properties.as_ref().err());
    let properties = properties?;
    assert_eq!(wire::check_encodable(&properties), Ok(()));
    let mut out = Vec::new();
    wire::put_properties(&mut out, &properties);
    assert_eq!(out.len(), wire::properties_len(&properties));
    // Shorter if the headers had a name twice.
    assert!(out.len() <= raw.len());
    let again = wire::decode_properties(&out).expect("was encoded by us");
    assert_eq!(format!("{again:?}"), format!("{properties:?}"));

    let template = Template::with_attempt("", "q", true, &properties, Some(IdPrefix(1)), true, 2);
    out.clear();
    template.encode(&mut out, 7, 8, 9);
    let (method, used) = wire::decode(&out, u32::MAX).unwrap().expect("a whole frame");
    assert!(matches!(wire::decode_method(method.payload), Ok(Method::Publish(_))));
    let (header, rest) = wire::decode(&out[used..], u32::MAX).unwrap().expect("a whole frame");
    assert_eq!((used + rest, header.channel), (out.len(), 7));
    let header = wire::decode_content_header(header.payload).expect("was encoded by us");
    let published = header.properties.decode().expect("was encoded by us");
    let id = published.message_id().as_ref().expect("each has one").as_str();
    match properties.message_id() {
        Some(given) => assert_eq!(id, given.as_str()),
        None => assert_eq!(wire::parse_generated_id(id), Some((1, 9))),
    }
    Ok(())
}
