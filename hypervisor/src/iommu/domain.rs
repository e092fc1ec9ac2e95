//! The addresses that the devices of a VM may use, as a second-level table.

use crate::memory::{self, Frames};
use crate::vm::Vm;
use acrn_abi::{Gpa, Hpa, VmId};
use acrn_acpi::dmar::Region;
use acrn_memory::{
    Access, Format, FrameStore, Limits, MapError, MemType, NestedTable, Owner, OwnerError,
};
use acrn_vtd::{DomainId, SecondLevel, Width};
use core::fmt;

/// Why there is no domain.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    /// The VM has no nested table, or there is no ownership map.
    NoMemory,
    /// The table cannot be made.
    Map(MapError),
    /// The VM has a page mapped that is not its own.
    Foreign(OwnerError),
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("the VM has no memory"),
            Self::Map(error) => write!(f, "its table: {error}"),
            Self::Foreign(error) => write!(f, "memory that is not the VM's: {error}"),
        }
    }
}

/// A domain.
#[derive(Debug)]
pub struct Domain {
    table: NestedTable<SecondLevel>,
    bytes: u64,
    id: DomainId,
}

impl Domain {
    /// All memory that a VM has mapped, at the addresses where the VM has it.
    ///
    /// # Errors
    /// See [`Error`]; nothing is mapped then.
    pub fn of(vm: &Vm, number: u16, gib_pages: bool) -> Result<Self, Error> {
        let mut domain = Self::empty(number, gib_pages)?;
        match domain.add_memory(vm) {
            Ok(()) => Ok(domain),
            Err(error) => {
                domain.table.destroy(&mut Frames, |_, _, _| {});
                Err(error)
            }
        }
    }

    /// No memory at all.
    ///
    /// # Errors
    /// There is no frame for the table.
    pub fn empty(number: u16, gib_pages: bool) -> Result<Self, Error> {
        let limits = Limits {
            guest_bits: Width::Four.bits(),
            host_bits: super::memory_bits(),
            gib_pages,
        };
        let table = NestedTable::new(&mut Frames, limits)?;
        Ok(Self {
            table,
            bytes: 0,
            id: DomainId(number),
        })
    }

    fn add_memory(&mut self, vm: &Vm) -> Result<(), Error> {
        let guard = vm.nested.lock();
        let nested = guard.as_ref().ok_or(Error::NoMemory)?;
        // Pieces that adjoin each other become large pages.
        let mut joined: Option<(Gpa, Hpa, u64)> = None;
        let all = 1 << Width::Three.bits();
        nested.visit(Gpa(0), all, |piece| {
            if piece.mem_type != MemType::WriteBack {
                return Ok(());
            }
            match &mut joined {
                Some((gpa, hpa, size))
                    if gpa.0 + *size == piece.gpa.0 && hpa.0 + *size == piece.hpa.0 =>
                {
                    *size += piece.size;
                    Ok(())
                }
                other => match other.replace((piece.gpa, piece.hpa, piece.size)) {
                    Some(complete) => self.add(vm, complete),
                    None => Ok(()),
                },
            }
        })?;
        joined.map_or(Ok(()), |last| self.add(vm, last))
    }

    fn add(&mut self, vm: &Vm, (gpa, hpa, size): (Gpa, Hpa, u64)) -> Result<(), Error> {
        let owners = memory::OWNERS.lock();
        let owners = owners.as_ref().ok_or(Error::NoMemory)?;
        let own = |owner| owner == Owner::Vm(vm.id);
        owners.check_range(hpa, size, own).map_err(Error::Foreign)?;
        self.map(gpa, hpa, size)?;
        self.bytes += size;
        Ok(())
    }

    /// Adds a region that firmware wants reachable, unless some of it is neither `vm`'s nor the firmware's.
    pub fn reserve(&mut self, vm: VmId, region: &Region) {
        let Region { start, size } = *region;
        let own = |owner| matches!(owner, Owner::Device) || owner == Owner::Vm(vm);
        let allowed = memory::OWNERS
            .lock()
            .as_ref()
            .is_some_and(|owners| owners.check_range(start, size, own).is_ok());
        if !allowed || self.map(Gpa(start.0), start, size).is_err() {
            warning!("firmware's DMA region {start} + {size:#x} is not made reachable");
        }
    }

    fn map(&mut self, gpa: Gpa, hpa: Hpa, size: u64) -> Result<(), MapError> {
        let kind = MemType::WriteBack;
        self.table
            .map(&mut Frames, gpa, hpa, size, Access::RW, kind)
    }

    /// The number by which units know it.
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// The top of the table for units that walk this many levels. With three these are the first
    /// 512 GiB.
    pub fn root(&self, width: Width) -> Hpa {
        match width {
            Width::Four => self.table.root(),
            Width::Three => SecondLevel::address(Frames.read(self.table.root(), 0), 4),
        }
    }

    /// Bytes of the VM's memory in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frames of its table.
    pub fn frames(&self) -> u64 {
        self.table.frames()
    }
}
