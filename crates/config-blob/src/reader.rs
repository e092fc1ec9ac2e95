//! A cursor over the body that knows which field it is at.

use crate::error::{Error, Path, Problem};

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    path: Path,
    /// Whether everything was read before, and found right.
    known: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            path: Path::default(),
            known: false,
        }
    }

    /// A reader of bytes that were read before.
    pub(crate) fn again(bytes: &'a [u8]) -> Self {
        Self {
            known: true,
            ..Self::new(bytes)
        }
    }

    /// Whether everything was read before, and found right.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        match self.bytes.split_at_checked(length) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None => Err(self.error(Problem::Ends)),
        }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        match self.bytes.split_first_chunk() {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(*taken)
            }
            None => Err(self.error(Problem::Ends)),
        }
    }

    /// Reads something that is called `name`, and is number `index` of its list.
    pub(crate) fn within<T>(
        &mut self,
        name: &'static str,
        index: Option<usize>,
        read: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let entered = self.path.push(name, index);
        let value = read(self)?;
        if entered {
            self.path.pop();
        }
        Ok(value)
    }

    /// The last step gets a number: entry `index` of the list that is being read.
    pub(crate) fn number(&mut self, index: usize) {
        self.path.number(Some(index));
    }

    pub(crate) fn error(&self, problem: Problem) -> Error {
        Error::Field {
            path: self.path.clone(),
            problem,
        }
    }

    /// A reader of other bytes at the same field.
    pub(crate) fn fork(&self, bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            path: self.path.clone(),
            known: false,
        }
    }

    /// Fails when something is left.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(self.error(Problem::Trailing(left))),
        }
    }
}
