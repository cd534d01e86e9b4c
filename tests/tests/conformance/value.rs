//! Fields of tables (headers, arguments) in a form that no client owns.

use std::{collections::BTreeMap, fmt};

/// The types of integers, as scripts and transcripts name them.
pub const INTEGERS: [&str; 7] = ["i8", "u8", "i16", "u16", "i32", "u32", "i64"];

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    /// With the name of its type.
    Int(&'static str, i64),
    Float(&'static str, f64),
    Str(String),
    Bytes(Vec<u8>),
    Timestamp(u64),
    Void,
    /// Scale and value.
    Decimal(u8, i32),
    List(Vec<Self>),
    Table(BTreeMap<String, Self>),
}

impl Value {
    /// `TYPE:VALUE`; the elements of a list lie between commas, those of a table are `NAME~TYPE:VALUE`.
    pub fn parse(text: &str) -> Self {
        let (kind, value) =
            text.split_once(':').unwrap_or_else(|| panic!("not TYPE:VALUE: {text}"));
        let elements = || value.split(',').filter(|element| !element.is_empty());
        match kind {
            "bool" => Self::Bool(value.parse().unwrap()),
            "f32" => Self::Float("f32", value.parse().unwrap()),
            "f64" => Self::Float("f64", value.parse().unwrap()),
            "str" => Self::Str(value.to_owned()),
            "bytes" => Self::Bytes(value.as_bytes().to_vec()),
            "timestamp" => Self::Timestamp(value.parse().unwrap()),
            "void" => Self::Void,
            "decimal" => {
                let (whole, part) = value.split_once('.').unwrap();
                Self::Decimal(part.len() as u8, format!("{whole}{part}").parse().unwrap())
            }
            "list" => Self::List(elements().map(Self::parse).collect()),
            "table" => Self::Table(
                elements()
                    .map(|element| element.split_once('~').unwrap())
                    .map(|(name, value)| (name.to_owned(), Self::parse(value)))
                    .collect(),
            ),
            _ => {
                let kind = INTEGERS.into_iter().find(|name| *name == kind);
                Self::Int(kind.unwrap_or_else(|| panic!("no type: {text}")), value.parse().unwrap())
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "bool:{value}"),
            Self::Int(kind, value) => write!(f, "{kind}:{value}"),
            Self::Float(kind, value) => write!(f, "{kind}:{value}"),
            Self::Str(value) => write!(f, "str:{value}"),
            Self::Bytes(value) => write!(f, "bytes:{}", String::from_utf8_lossy(value)),
            Self::Timestamp(value) => write!(f, "timestamp:{value}"),
            Self::Void => write!(f, "void"),
            Self::Decimal(scale, value) => write!(f, "decimal:{value}e-{scale}"),
            Self::List(values) => {
                let values: Vec<_> = values.iter().map(ToString::to_string).collect();
                write!(f, "list:[{}]", values.join(", "))
            }
            Self::Table(table) => write!(f, "table:{}", show_table(table)),
        }
    }
}

pub fn show_table(table: &BTreeMap<String, Value>) -> String {
    let fields: Vec<_> = table.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{{{}}}", fields.join(", "))
}
