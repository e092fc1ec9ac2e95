//! Looking at a configuration without knowing its types: for printing and for comparing.

use acrn_abi::Bdf;

/// A value as people want to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// A count, an id or a size.
    Number(u64),
    /// A number that may be negative.
    Signed(i64),
    /// An address.
    Address(u64),
    /// A set of bits.
    Bits(u64),
    /// Yes or no.
    Flag(bool),
    /// A text, or the name of a choice.
    Text(&'a str),
    /// A place on a PCI bus.
    Bdf(Bdf),
    /// An optional value that is not there.
    Nothing,
}

/// Is called for each part of a configuration, in order. What is between [`list`](Self::list) or
/// [`group`](Self::group) and the [`end`](Self::end) that belongs to it is part of it; the entries of a
/// list are all called like the list.
pub trait Visitor {
    /// A value.
    fn value(&mut self, name: &'static str, value: Shown<'_>);
    /// A structure begins.
    fn group(&mut self, name: &'static str);
    /// A list of that many entries begins.
    fn list(&mut self, name: &'static str, length: usize);
    /// The last structure or list ends.
    fn end(&mut self);
}
