//! Walks of the guest's own page tables (SDM 3A, chapter 4).
//!
//! All five ways of translation: none, 32-bit, PAE, 4-level and 5-level. The walk only reads: it
//! does not set accessed and dirty bits, which the processor did before the exit that is being
//! handled. Protection keys are not looked at.

use core::fmt;

use acrn_abi::{Gpa, Gva};

/// The guest's memory, as the hypervisor reaches it.
pub trait GuestPhysical {
    /// Eight aligned bytes; `None` where the guest has no memory.
    fn read_u64(&self, gpa: Gpa) -> Option<u64>;
    /// Four aligned bytes; `None` where the guest has no memory.
    fn read_u32(&self, gpa: Gpa) -> Option<u32>;
}

/// Kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// Registers that govern translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkContext {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// RFLAGS, for AC.
    pub rflags: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// Width of guest physical addresses: higher bits in entries are reserved.
    pub physical_bits: u8,
}

/// A page fault to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// Error code (SDM 3A, figure 4-12).
    pub error_code: u32,
    /// For CR2.
    pub address: Gva,
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest gets #PF.
    Fault(PageFault),
    /// The address is not canonical: the guest gets #GP, or #SS for the stack.
    NonCanonical(Gva),
    /// A table lies where the guest has no memory.
    NoTable(Gpa),
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => {
                write!(
                    f,
                    "page fault at {}, error code {:#x}",
                    fault.address, fault.error_code
                )
            }
            Self::NonCanonical(gva) => write!(f, "address {gva} is not canonical"),
            Self::NoTable(gpa) => write!(f, "a page table at {gpa}, where there is no memory"),
        }
    }
}

impl core::error::Error for WalkError {}

/// Result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest physical address.
    pub gpa: Gpa,
    /// Size of the guest's page, in bytes; 4 GiB without paging.
    pub page_size: u64,
}

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_AC: u64 = 1 << 18;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

const ERROR_PRESENT: u32 = 1 << 0;
const ERROR_WRITE: u32 = 1 << 1;
const ERROR_USER: u32 = 1 << 2;
const ERROR_RESERVED: u32 = 1 << 3;
const ERROR_FETCH: u32 = 1 << 4;

/// Bits 51..12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Rights that all levels grant together.
#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    no_execute: bool,
}

impl Rights {
    const ALL: Self = Self {
        writable: true,
        user: true,
        no_execute: false,
    };

    fn narrow(&mut self, entry: u64) {
        self.writable &= entry & WRITABLE != 0;
        self.user &= entry & USER != 0;
        self.no_execute |= entry & NO_EXECUTE != 0;
    }
}

impl WalkContext {
    const fn has(register: u64, bit: u64) -> bool {
        register & bit != 0
    }

    /// Translates a linear address for an access at the context's privilege level.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn translate(
        &self,
        memory: &impl GuestPhysical,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, WalkError> {
        if !Self::has(self.cr0, CR0_PG) {
            return Ok(Translation {
                gpa: Gpa(gva.0 & 0xffff_ffff),
                page_size: 1 << 32,
            });
        }
        let walk = Walk {
            context: self,
            memory,
            gva,
            access,
        };
        if Self::has(self.efer, EFER_LMA) {
            let levels = if Self::has(self.cr4, CR4_LA57) { 5 } else { 4 };
            let unused = 64 - (12 + 9 * levels);
            if (gva.0 << unused) as i64 >> unused != gva.0 as i64 {
                return Err(WalkError::NonCanonical(gva));
            }
            return walk.wide(self.cr3 & ADDRESS, levels, Rights::ALL);
        }
        let walk = Walk {
            gva: Gva(gva.0 & 0xffff_ffff),
            ..walk
        };
        if Self::has(self.cr4, CR4_PAE) {
            walk.pae()
        } else {
            walk.narrow()
        }
    }

    /// Whether a load of CR3 is allowed with regard to the page-directory pointers that it brings with
    /// PAE paging: none that is present may have reserved bits (SDM 4.4.1). Other ways of paging have
    /// none.
    ///
    /// # Errors
    /// An address where the guest has no memory.
    pub fn has_valid_pointers(&self, memory: &impl GuestPhysical) -> Result<bool, Gpa> {
        let pae = Self::has(self.cr0, CR0_PG)
            && Self::has(self.cr4, CR4_PAE)
            && !Self::has(self.efer, EFER_LMA);
        if !pae {
            return Ok(true);
        }
        for index in 0..4 {
            let at = Gpa((self.cr3 & 0xffff_ffe0) + index * 8);
            let entry = memory.read_u64(at).ok_or(at)?;
            if entry & PRESENT != 0 && entry & (self.reserved_in_pointers() | 1 << 5) != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reserved bits of every 64-bit entry.
    fn reserved_wide(&self) -> u64 {
        let beyond = ADDRESS & !((1u64 << self.physical_bits.min(52)) - 1);
        if self.efer & EFER_NXE == 0 {
            beyond | NO_EXECUTE
        } else {
            beyond
        }
    }

    /// Reserved bits of a page-directory pointer of PAE paging. Bit 5 is one, too, but QEMU sets it as
    /// if it were an accessed bit.
    fn reserved_in_pointers(&self) -> u64 {
        self.reserved_wide() | NO_EXECUTE | 0x1c6
    }
}

struct Walk<'a, M> {
    context: &'a WalkContext,
    memory: &'a M,
    gva: Gva,
    access: Access,
}

impl<M: GuestPhysical> Walk<'_, M> {
    fn fault(&self, cause: u32) -> WalkError {
        let context = self.context;
        let mut error_code = cause;
        if self.access == Access::Write {
            error_code |= ERROR_WRITE;
        }
        if context.cpl == 3 {
            error_code |= ERROR_USER;
        }
        let nx = context.cr4 & CR4_PAE != 0 && context.efer & EFER_NXE != 0;
        if self.access == Access::Execute && (nx || context.cr4 & CR4_SMEP != 0) {
            error_code |= ERROR_FETCH;
        }
        WalkError::Fault(PageFault {
            error_code,
            address: self.gva,
        })
    }

    fn check_entry(&self, entry: u64, reserved: u64) -> Result<(), WalkError> {
        if entry & PRESENT == 0 {
            return Err(self.fault(0));
        }
        if entry & reserved != 0 {
            return Err(self.fault(ERROR_PRESENT | ERROR_RESERVED));
        }
        Ok(())
    }

    /// Tables of 64-bit entries: `levels` levels from `table` on.
    fn wide(&self, table: u64, levels: u8, rights: Rights) -> Result<Translation, WalkError> {
        let mut rights = rights;
        let mut table = table;
        let reserved = self.context.reserved_wide();
        let mut level = levels;
        loop {
            let shift = 12 + 9 * (u32::from(level) - 1);
            let at = Gpa(table + (self.gva.0 >> shift & 0x1ff) * 8);
            let entry = self.memory.read_u64(at).ok_or(WalkError::NoTable(at))?;
            let large = level > 1 && entry & LARGE != 0;
            let mut bad = reserved;
            if level >= 4 {
                bad |= LARGE;
            } else if large {
                // Address bits below the page; bit 12 is the PAT bit.
                bad |= ((1 << shift) - 1) & ADDRESS & !(1 << 12);
            }
            self.check_entry(entry, bad)?;
            rights.narrow(entry);
            if level == 1 || large {
                return self.finish(entry & ADDRESS & !((1 << shift) - 1), shift, rights);
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    /// PAE: four page-directory-pointer entries without rights, then two levels.
    fn pae(&self) -> Result<Translation, WalkError> {
        let at = Gpa((self.context.cr3 & 0xffff_ffe0) + (self.gva.0 >> 30 & 3) * 8);
        let entry = self.memory.read_u64(at).ok_or(WalkError::NoTable(at))?;
        self.check_entry(entry, self.context.reserved_in_pointers())?;
        self.wide(entry & ADDRESS, 2, Rights::ALL)
    }

    /// 32-bit tables with 4 KiB and, with CR4.PSE, 4 MiB pages (whose bits 20..13 are address bits
    /// 39..32).
    fn narrow(&self) -> Result<Translation, WalkError> {
        let mut rights = Rights::ALL;
        let read = |table: u64, index: u64| {
            let at = Gpa(table + index * 4);
            self.memory
                .read_u32(at)
                .map(u64::from)
                .ok_or(WalkError::NoTable(at))
        };
        let directory = read(self.context.cr3 & 0xffff_f000, self.gva.0 >> 22 & 0x3ff)?;
        let large = directory & LARGE != 0 && self.context.cr4 & CR4_PSE != 0;
        self.check_entry(directory, if large { 1 << 21 } else { 0 })?;
        rights.narrow(directory);
        if large {
            let page = directory & 0xffc0_0000 | (directory >> 13 & 0xff) << 32;
            return self.finish(page, 22, rights);
        }
        let entry = read(directory & 0xffff_f000, self.gva.0 >> 12 & 0x3ff)?;
        self.check_entry(entry, 0)?;
        rights.narrow(entry);
        self.finish(entry & 0xffff_f000, 12, rights)
    }

    fn finish(&self, page: u64, shift: u32, rights: Rights) -> Result<Translation, WalkError> {
        if !self.allowed(rights) {
            return Err(self.fault(ERROR_PRESENT));
        }
        let page_size = 1u64 << shift;
        Ok(Translation {
            gpa: Gpa(page | self.gva.0 & (page_size - 1)),
            page_size,
        })
    }

    /// SDM 3A, 4.6.1.
    fn allowed(&self, rights: Rights) -> bool {
        let context = self.context;
        let is_user = context.cpl == 3;
        if is_user && !rights.user {
            return false;
        }
        let foreign = !is_user && rights.user;
        if self.access == Access::Execute {
            let smep = foreign && context.cr4 & CR4_SMEP != 0;
            return !rights.no_execute && !smep;
        }
        if foreign && context.cr4 & CR4_SMAP != 0 && context.rflags & RFLAGS_AC == 0 {
            return false;
        }
        self.access == Access::Read || rights.writable || !is_user && context.cr0 & CR0_WP == 0
    }
}
