//! Types of single values.

use super::{Item, Kind};
use crate::parse::{bdf, number};
use acrn_abi::Bdf;

/// A type whose values are texts in the file.
pub trait Scalar: Sized + Clone + PartialEq {
    /// What may stand there.
    const KIND: Kind;
    /// What counts when nothing is there and the item has no default.
    fn nothing() -> Self;
    /// The value of a text; the error says what was expected.
    fn parse(text: &str, item: &Item) -> Result<Self, String>;
    /// The text of the value.
    fn text(&self) -> String;
}

/// A number that is written in hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex(pub u64);

/// A PCI device of the board: its place, and what else was written behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its place.
    pub bdf: Bdf,
    /// The whole text.
    pub text: String,
}

impl Scalar for bool {
    const KIND: Kind = Kind::Flag;
    fn nothing() -> Self {
        false
    }
    fn parse(text: &str, _: &Item) -> Result<Self, String> {
        match text {
            "y" => Ok(true),
            "n" => Ok(false),
            _ => Err("y or n".to_owned()),
        }
    }
    fn text(&self) -> String {
        if *self { "y" } else { "n" }.to_owned()
    }
}

impl Scalar for i64 {
    const KIND: Kind = Kind::Number;
    fn nothing() -> Self {
        0
    }
    fn parse(text: &str, item: &Item) -> Result<Self, String> {
        let value = match text.strip_prefix('-') {
            Some(positive) => number(positive).and_then(|value| 0i64.checked_sub_unsigned(value)),
            None => number(text).and_then(|value| Self::try_from(value).ok()),
        };
        let (least, greatest) = item.range.unwrap_or((Self::MIN, Self::MAX));
        let value = value.filter(|value| (least..=greatest).contains(value));
        value.ok_or_else(|| match item.range {
            Some((least, Self::MAX)) => format!("a number, {least} or more"),
            Some((least, greatest)) => format!("a number from {least} to {greatest}"),
            None => "a number".to_owned(),
        })
    }
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Scalar for Hex {
    const KIND: Kind = Kind::Hex;
    fn nothing() -> Self {
        Self(0)
    }
    fn parse(text: &str, _: &Item) -> Result<Self, String> {
        let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u64::from_str_radix(digits, 16).ok()
            }
            Some(_) => None,
            None => text.parse().ok(),
        };
        value
            .map(Self)
            .ok_or_else(|| "a hexadecimal number such as 0x2000".to_owned())
    }
    fn text(&self) -> String {
        format!("{:#x}", self.0)
    }
}

impl Scalar for String {
    const KIND: Kind = Kind::Text;
    fn nothing() -> Self {
        Self::new()
    }
    fn parse(text: &str, item: &Item) -> Result<Self, String> {
        item.pattern.check(text)?;
        Ok(text.to_owned())
    }
    fn text(&self) -> String {
        self.clone()
    }
}

impl Scalar for Bdf {
    const KIND: Kind = Kind::Bdf;
    fn nothing() -> Self {
        Self::default()
    }
    fn parse(text: &str, _: &Item) -> Result<Self, String> {
        bdf(text).ok_or_else(|| "bus, device and function such as 00:1f.3".to_owned())
    }
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Scalar for Device {
    const KIND: Kind = Kind::Device;
    fn nothing() -> Self {
        Self::default()
    }
    fn parse(text: &str, _: &Item) -> Result<Self, String> {
        let place = text.split_whitespace().next().and_then(bdf);
        let device = place.map(|bdf| Self {
            bdf,
            text: text.to_owned(),
        });
        device.ok_or_else(|| "a device such as “00:1f.3 Audio device”".to_owned())
    }
    fn text(&self) -> String {
        self.text.clone()
    }
}

impl super::Pattern {
    /// Whether a text has this form; the error says what was expected.
    pub fn check(self, text: &str) -> Result<(), String> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let bounded = |max: usize| !text.is_empty() && text.chars().count() <= max;
        let (right, expected) = match self {
            Self::Any => (true, String::new()),
            Self::Name(max) => (
                bounded(max) && text.chars().all(|c| word(c) || c == '-'),
                format!("1 to {max} letters, digits, _ or -"),
            ),
            Self::Word(max) => (
                bounded(max) && text.chars().all(word),
                format!("1 to {max} letters, digits or _"),
            ),
            Self::Tag(max) => (
                text.len() <= max && !text.contains(char::is_whitespace),
                format!("at most {max} characters without white space"),
            ),
            Self::Length(max) => (text.len() <= max, format!("at most {max} characters")),
            Self::Tty => (
                is_tty(text),
                "None or a serial port such as /dev/ttyS0".to_owned(),
            ),
        };
        if right { Ok(()) } else { Err(expected) }
    }
}

fn is_tty(text: &str) -> bool {
    let port = text.trim_end_matches(|c: char| c.is_ascii_digit());
    text == "None" || port.len() < text.len() && port.ends_with("ttyS")
}

/// Words for the values of an enum.
macro_rules! words {
    ($($ty:ty, $default:ident { $($case:ident $word:literal $title:literal,)* })*) => {
        $(
            impl $crate::model::Scalar for $ty {
                const KIND: $crate::model::Kind = $crate::model::Kind::Choice(&[
                    $($crate::model::Choice { word: $word, title: $title },)*
                ]);
                fn nothing() -> Self {
                    Self::$default
                }
                fn parse(text: &str, _: &$crate::model::Item) -> Result<Self, String> {
                    match text {
                        $($word => Ok(Self::$case),)*
                        _ => Err(format!("one of: {}", [$($word),*].join(", "))),
                    }
                }
                fn text(&self) -> String {
                    match self { $(Self::$case => $word,)* }.to_owned()
                }
            }
        )*
    };
}
pub(crate) use words;
