//! A text of bounded length.

use crate::error::{Error, Problem};
use crate::field::{Field, Record, Sink};
use crate::reader::Reader;
use crate::walk::{Shown, Visitor};
use arrayvec::ArrayString;
use core::fmt;
use core::ops::Deref;

/// A text of at most `MAX` bytes, without control characters.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Text<'a, const MAX: usize>(&'a str);

impl<'a, const MAX: usize> Text<'a, MAX> {
    /// The text; `None` when it is too long or has control characters.
    pub fn new(text: &'a str) -> Option<Self> {
        (text.len() <= MAX && printable(text)).then_some(Self(text))
    }

    /// The text, for as long as the configuration's bytes live.
    pub const fn as_str(&self) -> &'a str {
        self.0
    }
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

impl<const MAX: usize> Deref for Text<'_, MAX> {
    type Target = str;
    fn deref(&self) -> &str {
        self.0
    }
}

impl<const MAX: usize> fmt::Debug for Text<'_, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl<const MAX: usize> fmt::Display for Text<'_, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl<'a, const MAX: usize> Field<'a> for Text<'a, MAX> {
    #[expect(private_interfaces, reason = "only this crate reads")]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let length = usize::from(u16::read(reader)?);
        if length > MAX {
            return Err(reader.error(Problem::TooLong { length, max: MAX }));
        }
        let text = core::str::from_utf8(reader.take(length)?).ok();
        let text = text.filter(|text| printable(text));
        text.map(Self).ok_or_else(|| reader.error(Problem::NotText))
    }
    fn write(&self, sink: &mut Sink<'_>) {
        (self.0.len() as u16).write(sink);
        sink(self.0.as_bytes());
    }
    fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
        visitor.value(name, Shown::Text(self.0));
    }
}

/// A text within a record: a length byte and `N` bytes, filled up with zeros.
impl<'a, const N: usize> Field<'a> for ArrayString<N> {
    #[expect(private_interfaces, reason = "only this crate reads")]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let length = usize::from(u8::read(reader)?);
        let bytes = reader.take(N)?;
        let (text, rest) = bytes
            .split_at_checked(length)
            .ok_or_else(|| reader.error(Problem::TooLong { length, max: N }))?;
        let text = core::str::from_utf8(text).ok();
        let text = text.filter(|text| printable(text) && rest.iter().all(|&byte| byte == 0));
        text.and_then(|text| Self::from(text).ok())
            .ok_or_else(|| reader.error(Problem::NotText))
    }
    fn write(&self, sink: &mut Sink<'_>) {
        sink(&[self.len() as u8]);
        sink(self.as_bytes());
        (self.len()..N).for_each(|_| sink(&[0]));
    }
    fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
        visitor.value(name, Shown::Text(self));
    }
}

impl<const N: usize> Record for ArrayString<N> {
    const SIZE: usize = 1 + N;
}
