//! Field tables: the walk, the parser behind it, the encoder, and their limits on depth and memory.

use amq_protocol::types::{AMQPValue, FieldTable, parsing::parse_field_table};
use lavinmq_core::{
    Properties,
    wire::{self, MAX_NESTING, WireError},
};

use super::{heap, input::Input};

/// What a value costs on the heap for each byte of it received (an array of voids is the worst).
const HEAP_PER_BYTE: usize = 80;
/// The same, whatever was received.
const HEAP_AT_ALL: usize = 4096;

/// One input: bytes, or decisions from which a table is built.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    if input.bool() {
        let mut bytes = Vec::new();
        let depth = build(&mut bytes, &mut input);
        let checked = wire::check_table(&bytes);
        if depth > MAX_NESTING {
            assert_eq!(checked, Err(WireError::TableTooDeep));
        } else {
            assert_eq!(checked, Ok(bytes.len()));
        }
        any(&bytes);
        // Cut anywhere, it is refused; a byte after it is not its own.
        let cut = usize::from(input.u16()) % bytes.len();
        assert!(wire::check_table(&bytes[..cut]).is_err());
        if checked.is_ok() {
            let length = bytes.len();
            bytes.push(0);
            assert_eq!(wire::check_table(&bytes), Ok(length));
        }
    } else {
        any(input.rest());
    }
}

fn any(bytes: &[u8]) {
    let (checked, spent) = heap::spent(|| wire::check_table(bytes));
    assert_eq!(spent, 0, "the walk needs no heap");
    let Ok(length) = checked else {
        return;
    };
    assert!(length <= bytes.len());
    let (parsed, spent) = heap::spent(|| parse_field_table(&bytes[..length]));
    let limit = HEAP_AT_ALL + HEAP_PER_BYTE * length;
    assert!(spent <= limit, "{spent} bytes allocated for {length}");
    let (rest, table) = parsed.expect("what passes the walk can be parsed");
    assert!(rest.is_empty());
    assert!(depth(&table) <= MAX_NESTING);

    let mut out = Vec::new();
    wire::put_table(&mut out, &table);
    assert_eq!(out.len(), wire::table_len(&table));
    // Shorter if it had a name twice.
    assert!(out.len() <= length);
    assert_eq!(wire::check_table(&out), Ok(out.len()));
    let (_, again) = parse_field_table(&out[..]).expect("was encoded by us");
    // By their words, since NaN differs from itself.
    assert_eq!(format!("{again:?}"), format!("{table:?}"));
    let mut twice = Vec::new();
    wire::put_table(&mut twice, &again);
    assert_eq!(twice, out, "encoding is stable");

    // As the headers of a message.
    let properties = Properties::default().with_headers(table);
    assert_eq!(wire::check_encodable(&properties), Ok(()));
    let mut raw = Vec::new();
    wire::put_properties(&mut raw, &properties);
    assert_eq!(raw[2..], out);
    assert_eq!(wire::check_properties(&raw), Ok(()));
}

/// How deep it is nested, itself included.
fn depth(table: &FieldTable) -> usize {
    fn of(value: &AMQPValue) -> usize {
        match value {
            AMQPValue::FieldTable(table) => depth(table),
            AMQPValue::FieldArray(array) => 1 + array.as_slice().iter().map(of).max().unwrap_or(0),
            _ => 0,
        }
    }
    1 + table.into_iter().map(|(_, value)| of(value)).max().unwrap_or(0)
}

/// Writes a well-formed table; how deep it is nested.
fn build(out: &mut Vec<u8>, input: &mut Input<'_>) -> usize {
    // Open levels: where their length is, and whether their entries have names.
    let mut open = vec![(0, true)];
    out.extend_from_slice(&[0; 4]);
    let mut deepest = 1;
    while let Some(&(at, named)) = open.last() {
        let choice = input.below(24);
        // Without input left, everything is closed.
        if choice == 0 || input.is_empty() {
            let length = u32::try_from(out.len() - at - 4).unwrap();
            out[at..at + 4].copy_from_slice(&length.to_be_bytes());
            open.pop();
            continue;
        }
        if named {
            let name = input.of(&["", "k", "x-death", "ü"]);
            out.push(u8::try_from(name.len()).unwrap());
            out.extend_from_slice(name.as_bytes());
        }
        let fixed = |n| Some(n);
        let kinds = [
            (b'V', fixed(0)),
            (b't', fixed(1)),
            (b'b', fixed(1)),
            (b'B', fixed(1)),
            (b's', fixed(2)),
            (b'u', fixed(2)),
            (b'U', fixed(2)),
            (b'I', fixed(4)),
            (b'i', fixed(4)),
            (b'f', fixed(4)),
            (b'D', fixed(5)),
            (b'l', fixed(8)),
            (b'L', fixed(8)),
            (b'd', fixed(8)),
            (b'T', fixed(8)),
            (b'S', None),
            (b'x', None),
            (b'F', None),
            (b'A', None),
            (b'F', None),
            (b'A', None),
            (b'F', None),
            (b'A', None),
        ];
        let (kind, length) = kinds[choice - 1];
        out.push(kind);
        match (kind, length) {
            (_, Some(length)) => {
                let bytes = input.bytes(length);
                out.extend_from_slice(bytes);
                out.resize(out.len() + length - bytes.len(), 0);
            }
            (b'S' | b'x', None) => {
                let n = input.below(20);
                let bytes = input.bytes(n);
                out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
                out.extend_from_slice(bytes);
            }
            _ => {
                open.push((out.len(), kind == b'F'));
                out.extend_from_slice(&[0; 4]);
                deepest = deepest.max(open.len());
            }
        }
    }
    deepest
}
