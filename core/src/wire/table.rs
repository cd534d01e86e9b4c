//! Field tables (specification 4.2.5.5, with the field types of RabbitMQ's errata).
//!
//! amq-protocol's parser recurses once per nested table or array, so that a legal frame of 8 KiB can
//! overflow a thread's stack. [`check_table`] walks a table without recursion before that parser
//! sees it.

use amq_protocol::types::{AMQPType, AMQPValue, FieldTable};

use super::{
    WireError,
    read::{Reader, put_short},
};

/// How deep tables and arrays may be nested, the outermost table included.
pub const MAX_NESTING: usize = 32;

/// Walks the field table at the start of `bytes` and returns its whole length, that of its length
/// field included. What passes, amq-protocol's parser accepts.
///
/// Needs no heap and at most 512 bytes of stack, whatever the input.
///
/// # Errors
///
/// `Truncated` if `bytes` ends before the table does, `TableLength` if a length reaches beyond what
/// contains it, `TableTooDeep`, `UnknownFieldType`, `Utf8` for a name that is not UTF-8.
pub fn check_table(bytes: &[u8]) -> Result<usize, WireError> {
    let length = bytes
        .first_chunk()
        .map(|length| u32::from_be_bytes(*length) as usize)
        .filter(|length| *length <= bytes.len() - 4)
        .ok_or(WireError::Truncated { what: "a field table" })?;
    // The ends of what is open, innermost last: within each, its entries are names and values
    // (a table) or values (an array).
    let mut open = [Level { end: 0, named: true }; MAX_NESTING];
    open[0].end = 4 + length;
    let mut depth = 1;
    let mut at = 4;
    while depth > 0 {
        let Level { end, named } = open[depth - 1];
        if at == end {
            depth -= 1;
            continue;
        }
        // Every read is from this slice: nothing reaches beyond the innermost end.
        let mut entry = Entry(&bytes[at..end]);
        if named {
            let length = entry.u8()?;
            if std::str::from_utf8(entry.take(length.into())?).is_err() {
                return Err(WireError::Utf8 { what: "a name in a table" });
            }
        }
        let kind = entry.u8()?;
        let nested = match kind {
            b'V' => None,
            b't' | b'b' | b'B' => entry.skip(1)?,
            b's' | b'u' | b'U' => entry.skip(2)?,
            b'I' | b'i' | b'f' => entry.skip(4)?,
            b'D' => entry.skip(5)?,
            b'l' | b'L' | b'd' | b'T' => entry.skip(8)?,
            b'S' | b'x' => {
                let length = entry.u32()?;
                entry.skip(length)?
            }
            b'F' | b'A' => {
                let length = entry.u32()?;
                if length > entry.0.len() {
                    return Err(WireError::TableLength);
                }
                Some(length)
            }
            _ => return Err(WireError::UnknownFieldType(kind)),
        };
        at = end - entry.0.len();
        if let Some(length) = nested {
            let level = open.get_mut(depth).ok_or(WireError::TableTooDeep)?;
            *level = Level { end: at + length, named: kind == b'F' };
            depth += 1;
        }
    }
    Ok(at)
}

#[derive(Clone, Copy)]
struct Level {
    end: usize,
    named: bool,
}

/// What is left of the innermost table or array.
struct Entry<'a>(&'a [u8]);

impl<'a> Entry<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(WireError::TableLength)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn skip(&mut self, length: usize) -> Result<Option<usize>, WireError> {
        self.take(length).map(|_| None)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        let (byte, rest) = self.0.split_first().ok_or(WireError::TableLength)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn u32(&mut self) -> Result<usize, WireError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(WireError::TableLength)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes) as usize)
    }
}

/// Walks a property list (specification 4.2.6.1): two bytes of flags, then the properties whose
/// flags are set, and nothing after them. What passes, amq-protocol's parser accepts.
///
/// # Errors
///
/// Those of [`check_table`] for the headers, `Truncated`, `Utf8`, and `Malformed` for bytes after the
/// last property and for flags that no property of AMQP 0-9-1 has.
pub fn check_properties(raw: &[u8]) -> Result<(), WireError> {
    let mut reader = Reader::new(raw, "a property list");
    let flags = reader.u16()?;
    if flags & 0b11 != 0 {
        return Err(WireError::Malformed { what: "unknown property flags" });
    }
    for property in 0..14 {
        if flags & (0x8000 >> property) == 0 {
            continue;
        }
        match property {
            2 => {
                let length = check_table(reader.rest())?;
                reader.bytes(length)?;
            }
            3 | 4 => {
                reader.u8()?;
            }
            9 => {
                reader.u64()?;
            }
            _ => {
                if std::str::from_utf8(reader.short()?).is_err() {
                    return Err(WireError::Utf8 { what: "a property" });
                }
            }
        }
    }
    reader.finish("bytes after the last property")
}

/// Whether [`put_table`] can write this table and any peer read it.
pub(super) fn check_table_encodable(table: &FieldTable, depth: usize) -> Result<(), WireError> {
    if depth > MAX_NESTING {
        return Err(WireError::TableTooDeep);
    }
    for (name, value) in table {
        check_short(name.as_str())?;
        check_value_encodable(value, depth)?;
    }
    Ok(())
}

fn check_value_encodable(value: &AMQPValue, depth: usize) -> Result<(), WireError> {
    match value {
        AMQPValue::FieldTable(table) => check_table_encodable(table, depth + 1),
        AMQPValue::FieldArray(_) if depth >= MAX_NESTING => Err(WireError::TableTooDeep),
        AMQPValue::FieldArray(array) => {
            array.as_slice().iter().try_for_each(|value| check_value_encodable(value, depth + 1))
        }
        _ => Ok(()),
    }
}

pub(super) const fn check_short(string: &str) -> Result<(), WireError> {
    if string.len() > 255 {
        return Err(WireError::ShortStringTooLong { length: string.len() });
    }
    Ok(())
}

/// The encoded length of a table in bytes, that of its length field included.
#[must_use]
pub fn table_len(table: &FieldTable) -> usize {
    4 + table
        .into_iter()
        .map(|(name, value)| 1 + name.as_str().len() + value_len(value))
        .sum::<usize>()
}

/// The encoded length of a value, its type octet included.
fn value_len(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(string) => 4 + string.as_str().len(),
        AMQPValue::LongString(string) => 4 + string.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(value_len).sum::<usize>(),
        AMQPValue::FieldTable(table) => table_len(table),
    }
}

/// Appends a table. A value of type `ShortString` is written as a long string: no peer knows a field
/// type for short ones.
///
/// Recurses as deep as the table is nested; [`check_encodable`](super::check_encodable) limits that.
pub fn put_table(out: &mut Vec<u8>, table: &FieldTable) {
    put_sized(out, |out| {
        for (name, value) in table {
            put_entry(out, name.as_str(), value);
        }
    });
}

pub(super) fn put_entry(out: &mut Vec<u8>, name: &str, value: &AMQPValue) {
    put_short(out, name.as_bytes());
    put_value(out, value);
}

/// Appends what `content` appends, with its length in four bytes before it.
pub(super) fn put_sized(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = long_len(out.len() - start - 4);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &AMQPValue) {
    out.push(match value.get_type() {
        AMQPType::ShortString => b'S',
        kind => kind.get_id() as u8,
    });
    match value {
        AMQPValue::Void => {}
        AMQPValue::Boolean(value) => out.push((*value).into()),
        AMQPValue::ShortShortInt(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::ShortShortUInt(value) => out.push(*value),
        AMQPValue::ShortInt(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::ShortUInt(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::LongInt(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::LongUInt(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::LongLongInt(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::Timestamp(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::Float(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::Double(value) => out.extend_from_slice(&value.to_be_bytes()),
        AMQPValue::DecimalValue(value) => {
            out.push(value.scale);
            out.extend_from_slice(&value.value.to_be_bytes());
        }
        AMQPValue::ShortString(value) => put_long(out, value.as_str().as_bytes()),
        AMQPValue::LongString(value) => put_long(out, value.as_bytes()),
        AMQPValue::ByteArray(value) => put_long(out, value.as_slice()),
        AMQPValue::FieldArray(array) => put_sized(out, |out| {
            for value in array.as_slice() {
                put_value(out, value);
            }
        }),
        AMQPValue::FieldTable(table) => put_table(out, table),
    }
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&long_len(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Nothing that is over 4 GiB fits into a frame: callers compare lengths with `frame_max` first.
fn long_len(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failure here")]

    use amq_protocol::types::{
        FieldArray, generation::gen_field_table, parsing::parse_field_table,
    };

    use super::{
        super::{check_encodable, decode_properties, properties_len, samples},
        *,
    };
    use crate::message::Properties;

    fn encoded(table: &FieldTable) -> Vec<u8> {
        let mut out = Vec::new();
        put_table(&mut out, table);
        out
    }

    /// A table with one entry of this type octet and these bytes after it.
    fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(value.len() + 3).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&[1, b'k', kind]);
        bytes.extend_from_slice(value);
        bytes
    }

    #[test]
    fn tables_are_written_and_read_as_amq_protocol_does() {
        for table in [FieldTable::default(), samples::table()] {
            let bytes = encoded(&table);
            assert_eq!(bytes, gen_field_table(&table)(Vec::new().into()).unwrap().write);
            assert_eq!(bytes.len(), table_len(&table));
            assert_eq!(check_table(&bytes), Ok(bytes.len()));
            assert_eq!(parse_field_table(&bytes[..]).unwrap(), (&[][..], table));
        }
    }

    #[test]
    fn what_follows_a_table_is_left_alone() {
        let mut bytes = encoded(&samples::table());
        let length = bytes.len();
        bytes.extend_from_slice(b"more");
        assert_eq!(check_table(&bytes), Ok(length));
    }

    #[test]
    fn every_field_type_that_the_parser_knows_passes_and_no_other() {
        for kind in 0..=255u8 {
            for length in 0..=9 {
                let bytes = entry(kind, &[0; 9][..length]);
                let parsed = parse_field_table(&bytes[..]).is_ok();
                assert_eq!(check_table(&bytes).is_ok(), parsed, "{kind} with {length} bytes");
            }
        }
        assert_eq!(check_table(&entry(b'z', b"")), Err(WireError::UnknownFieldType(b'z')));
    }

    #[test]
    fn f21_tables_and_arrays_may_be_nested_32_deep_together() {
        let deepest = samples::nested(MAX_NESTING);
        assert_eq!(check_table(&deepest), Ok(deepest.len()));
        assert!(parse_field_table(&deepest[..]).is_ok());
        for depth in [MAX_NESTING + 1, 600] {
            assert_eq!(check_table(&samples::nested(depth)), Err(WireError::TableTooDeep));
        }
    }

    #[test]
    fn f21_many_tables_side_by_side_are_not_deep() {
        let inner = AMQPValue::FieldTable(FieldTable::default());
        let array = FieldArray::from(vec![inner; 1000]);
        let mut table = FieldTable::default();
        table.insert("many".into(), AMQPValue::FieldArray(array));
        assert!(check_table(&encoded(&table)).is_ok());
    }

    #[test]
    fn f21_a_table_cut_anywhere_is_an_error() {
        let bytes = encoded(&samples::table());
        for length in 0..bytes.len() {
            assert_eq!(
                check_table(&bytes[..length]),
                Err(WireError::Truncated { what: "a field table" }),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn f21_a_length_beyond_its_parent_is_an_error() {
        for kind in *b"SxFA" {
            for length in [1, 5, u32::MAX] {
                let bytes = entry(kind, &length.to_be_bytes());
                assert_eq!(check_table(&bytes), Err(WireError::TableLength), "{kind} {length}");
            }
        }
        // The inner table claims bytes that belong to its parent's sibling.
        let mut bytes = entry(b'F', &[0, 0, 0, 3, 1, b'a', b'V', 1, b'b', b'V']);
        assert_eq!(check_table(&bytes), Ok(bytes.len()));
        bytes[10] = 4;
        assert_eq!(check_table(&bytes), Err(WireError::TableLength));
    }

    #[test]
    fn f21_lengths_changed_at_random_places_never_pass_what_the_parser_refuses() {
        let bytes = encoded(&samples::table());
        for at in 0..bytes.len() {
            for value in [0, 1, 0x41, 0x46, 0x7F, 0x80, 0xFF] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                if check_table(&bytes).is_ok() {
                    assert!(parse_field_table(&bytes[..]).is_ok(), "{value} at {at}");
                }
            }
        }
    }

    #[test]
    fn f21_a_name_that_is_not_utf8_is_an_error() {
        let mut bytes = entry(b'V', b"");
        bytes[5] = 0xFF;
        assert_eq!(check_table(&bytes), Err(WireError::Utf8 { what: "a name in a table" }));
    }

    #[test]
    fn s12_a_short_string_value_is_sent_as_a_long_one() {
        let mut table = FieldTable::default();
        table.insert("k".into(), AMQPValue::ShortString("v".into()));
        let bytes = encoded(&table);
        assert_eq!(bytes.len(), table_len(&table));
        let value = parse_field_table(&bytes[..]).unwrap().1.inner()["k"].clone();
        assert_eq!(value, AMQPValue::LongString("v".into()));
    }

    #[test]
    fn f21_tables_nested_too_deep_are_not_encodable() {
        let with_depth = |depth: usize| {
            let mut table = FieldTable::default();
            for _ in 1..depth {
                let mut outer = FieldTable::default();
                outer.insert("k".into(), AMQPValue::FieldTable(table));
                table = outer;
            }
            Properties::default().with_headers(table)
        };
        let deepest = with_depth(MAX_NESTING);
        assert_eq!(check_encodable(&deepest), Ok(()));
        let mut out = Vec::new();
        super::super::put_properties(&mut out, &deepest);
        assert_eq!(out.len(), properties_len(&deepest));
        assert_eq!(decode_properties(&out), Ok(deepest));
        assert_eq!(check_encodable(&with_depth(MAX_NESTING + 1)), Err(WireError::TableTooDeep));
    }

    #[test]
    fn f21_arrays_count_as_nesting_when_encoding_too() {
        let mut value = AMQPValue::FieldArray(FieldArray::default());
        for _ in 0..MAX_NESTING - 2 {
            value = AMQPValue::FieldArray(vec![value].into());
        }
        let with = |value: AMQPValue| {
            let mut table = FieldTable::default();
            table.insert("k".into(), value);
            table
        };
        let deepest = with(value.clone());
        assert_eq!(check_table_encodable(&deepest, 1), Ok(()));
        assert!(check_table(&encoded(&deepest)).is_ok());
        let deeper = with(AMQPValue::FieldArray(vec![value].into()));
        assert_eq!(check_table_encodable(&deeper, 1), Err(WireError::TableTooDeep));
        assert_eq!(check_table(&encoded(&deeper)), Err(WireError::TableTooDeep));
    }
}
