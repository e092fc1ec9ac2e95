//! The VMs of a configuration: a slice when one is made; when one is read, the places where they begin.
//! A VM is decoded when it is asked for, so that a configuration is small enough for any stack.

use crate::error::{Error, Problem};
use crate::field::{Field, Sink};
use crate::reader::Reader;
use crate::walk::Visitor;
use crate::{MAX_VMS, Vm};
use core::fmt;

/// At most [`MAX_VMS`] VMs; a VM's number is its place.
#[derive(Clone, Copy)]
pub struct Vms<'a>(Store<'a>);

#[derive(Clone, Copy)]
enum Store<'a> {
    Values(&'a [Vm<'a>]),
    /// The bytes from the first VM on, where in them each VM begins, and how many there are.
    Encoded(&'a [u8], [u32; MAX_VMS], usize),
}

impl<'a> Vms<'a> {
    /// These VMs; `None` when they are too many.
    pub const fn new(vms: &'a [Vm<'a>]) -> Option<Self> {
        if vms.len() > MAX_VMS {
            None
        } else {
            Some(Self(Store::Values(vms)))
        }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        match self.0 {
            Store::Values(vms) => vms.len(),
            Store::Encoded(_, _, count) => count,
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// VM number `index`.
    pub fn get(&self, index: usize) -> Option<Vm<'a>> {
        match self.0 {
            Store::Values(vms) => vms.get(index).cloned(),
            Store::Encoded(bytes, starts, count) => {
                let start = *starts.get(index).filter(|_| index < count)? as usize;
                Vm::read(&mut Reader::again(bytes.get(start..)?)).ok()
            }
        }
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = Vm<'a>> + use<'a> {
        let vms = *self;
        (0..self.len()).filter_map(move |index| vms.get(index))
    }
}

impl Default for Vms<'_> {
    fn default() -> Self {
        Self(Store::Values(&[]))
    }
}

impl PartialEq for Vms<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Vms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> Field<'a> for Vms<'a> {
    #[expect(private_interfaces, reason = "only this crate reads")]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let count = usize::from(u16::read(reader)?);
        if count > MAX_VMS {
            return Err(reader.error(Problem::TooMany {
                count,
                max: MAX_VMS,
            }));
        }
        let bytes = reader.rest();
        let mut starts = [0; MAX_VMS];
        for (index, start) in starts.iter_mut().enumerate().take(count) {
            reader.number(index);
            *start = (bytes.len() - reader.rest().len()) as u32;
            Vm::read(reader)?;
        }
        Ok(Self(Store::Encoded(bytes, starts, count)))
    }
    fn write(&self, sink: &mut Sink<'_>) {
        (self.len() as u16).write(sink);
        self.iter().for_each(|vm| vm.write(sink));
    }
    fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
        visitor.list(name, self.len());
        self.iter().for_each(|vm| vm.walk(name, visitor));
        visitor.end();
    }
}
