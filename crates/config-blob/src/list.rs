//! A list that is either a slice of values, when a configuration is made, or encoded records, when
//! one is read. Both look the same from outside.

use crate::error::{Error, Problem};
use crate::field::{Field, Record, Sink};
use crate::reader::Reader;
use crate::walk::Visitor;
use core::fmt;

/// At most `MAX` values of a type.
#[derive(Clone, Copy)]
pub struct List<'a, T, const MAX: usize>(Store<'a, T>);

#[derive(Clone, Copy)]
enum Store<'a, T> {
    Values(&'a [T]),
    Encoded(&'a [u8]),
}

impl<'a, T: Record, const MAX: usize> List<'a, T, MAX> {
    /// A list of these values; `None` when they are more than `MAX`.
    pub const fn new(values: &'a [T]) -> Option<Self> {
        if values.len() > MAX {
            None
        } else {
            Some(Self(Store::Values(values)))
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        match self.0 {
            Store::Values(values) => values.len(),
            Store::Encoded(bytes) => bytes.len() / T::SIZE.max(1),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value number `index`.
    pub fn get(&self, index: usize) -> Option<T> {
        match self.0 {
            Store::Values(values) => values.get(index).copied(),
            Store::Encoded(bytes) => {
                let start = index.checked_mul(T::SIZE)?;
                let record = bytes.get(start..start.checked_add(T::SIZE)?)?;
                T::read(&mut Reader::again(record)).ok()
            }
        }
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T, MAX> {
        let list = *self;
        (0..self.len()).filter_map(move |index| list.get(index))
    }
}

impl<T, const MAX: usize> Default for List<'_, T, MAX> {
    fn default() -> Self {
        Self(Store::Values(&[]))
    }
}

impl<'a, T: Record, const MAX: usize> Field<'a> for List<'a, T, MAX> {
    #[expect(private_interfaces, reason = "only this crate reads")]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let count = usize::from(u16::read(reader)?);
        if count > MAX {
            return Err(reader.error(Problem::TooMany { count, max: MAX }));
        }
        let list = Self(Store::Encoded(reader.take(count * T::SIZE)?));
        for index in (0..count).filter(|_| !reader.is_known()) {
            list.judge(index, reader)?;
        }
        Ok(list)
    }
    fn write(&self, sink: &mut Sink<'_>) {
        (self.len() as u16).write(sink);
        self.iter().for_each(|value| value.write(sink));
    }
    fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
        visitor.list(name, self.len());
        self.iter().for_each(|value| value.walk(name, visitor));
        visitor.end();
    }
}

impl<'a, T: Record, const MAX: usize> List<'a, T, MAX> {
    /// Decodes a record once, so that every later reading succeeds; an error gets the list's path.
    fn judge(&self, index: usize, reader: &Reader<'a>) -> Result<(), Error> {
        let Store::Encoded(bytes) = self.0 else {
            return Ok(());
        };
        let mut record = reader.fork(bytes.get(index * T::SIZE..).unwrap_or_default());
        record.number(index);
        T::read(&mut record).map(drop)
    }
}

impl<T: Record + PartialEq, const MAX: usize> PartialEq for List<'_, T, MAX> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Record + fmt::Debug, const MAX: usize> fmt::Debug for List<'_, T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
