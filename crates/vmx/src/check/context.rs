//! What all checks use: the control words, and ways to say that something does not hold.

use super::{Failed, Processor, Vmcs};
use crate::{Entry, Exits, Field, Pin, Primary, Secondary};

/// Outcome of one check.
pub(super) type Verdict = Result<(), Failed>;

/// PE, WP and PG of CR0.
pub(super) const CR0_PE: u64 = 1 << 0;
pub(super) const CR0_WP: u64 = 1 << 16;
pub(super) const CR0_PG: u64 = 1 << 31;
/// PAE, PCIDE and CET of CR4.
pub(super) const CR4_PAE: u64 = 1 << 5;
pub(super) const CR4_PCIDE: u64 = 1 << 17;
pub(super) const CR4_CET: u64 = 1 << 23;
/// LME and LMA of EFER.
pub(super) const EFER_LME: u64 = 1 << 8;
pub(super) const EFER_LMA: u64 = 1 << 10;
/// TF, IF and VM of RFLAGS.
pub(super) const RFLAGS_TF: u64 = 1 << 8;
pub(super) const RFLAGS_IF: u64 = 1 << 9;
pub(super) const RFLAGS_VM: u64 = 1 << 17;

/// The VMCS, the processor, and the controls in force.
#[derive(Clone, Copy)]
pub(super) struct Checker<'a> {
    vmcs: &'a dyn Vmcs,
    /// What the processor can do.
    pub processor: &'a Processor<'a>,
    section: &'static str,
    /// Pin-based controls.
    pub pin: Pin,
    /// Primary controls.
    pub primary: Primary,
    /// Secondary controls; none while they are not activated.
    pub secondary: Secondary,
    /// VM-exit controls.
    pub exit: Exits,
    /// VM-entry controls.
    pub entry: Entry,
}

impl<'a> Checker<'a> {
    pub fn new(vmcs: &'a dyn Vmcs, processor: &'a Processor<'a>) -> Self {
        let word = |field| vmcs.read(field) as u32;
        let primary = Primary::from_bits_retain(word(Field::PrimaryControls));
        let secondary = match primary.contains(Primary::SECONDARY) {
            true => word(Field::SecondaryControls),
            false => 0,
        };
        Self {
            vmcs,
            processor,
            section: "27.2",
            pin: Pin::from_bits_retain(word(Field::PinControls)),
            primary,
            secondary: Secondary::from_bits_retain(secondary),
            exit: Exits::from_bits_retain(word(Field::ExitControls)),
            entry: Entry::from_bits_retain(word(Field::EntryControls)),
        }
    }

    /// The same for checks of a section of the manual.
    pub fn section(&self, section: &'static str) -> Self {
        Self { section, ..*self }
    }

    pub fn get(&self, field: Field) -> u64 {
        self.vmcs.read(field)
    }

    pub fn virtual_task_priority(&self) -> Option<u8> {
        self.vmcs.virtual_task_priority()
    }

    fn verdict(
        &self,
        holds: bool,
        field: Field,
        with: Option<Field>,
        reason: &'static str,
    ) -> Verdict {
        if holds {
            return Ok(());
        }
        Err(Failed {
            field,
            value: self.get(field),
            reason,
            with: with.map(|field| (field, self.get(field))),
            section: self.section,
        })
    }

    /// Whether `holds`, which is about one field.
    pub fn ensure(&self, holds: bool, field: Field, reason: &'static str) -> Verdict {
        self.verdict(holds, field, None, reason)
    }

    /// Whether `holds`, which is about a field and another one.
    pub fn agree(&self, holds: bool, field: Field, with: Field, reason: &'static str) -> Verdict {
        self.verdict(holds, field, Some(with), reason)
    }

    /// Whether the bits of a field are all 0.
    pub fn clear(&self, field: Field, bits: u64, reason: &'static str) -> Verdict {
        self.ensure(self.get(field) & bits == 0, field, reason)
    }

    /// Bits that no physical address of a VMX structure has.
    fn beyond_physical(&self) -> u64 {
        let bits = match self.processor.capabilities.narrow_addresses {
            true => 32,
            false => self.processor.physical_bits.min(63),
        };
        !((1 << bits) - 1)
    }

    /// Bits beyond the width of physical addresses, in CR3 and in entries of paging structures.
    pub fn beyond_width(&self) -> u64 {
        !((1 << self.processor.physical_bits.min(63)) - 1)
    }

    /// Whether a field is the address of a structure that is aligned to `alignment` bytes.
    pub fn address(&self, field: Field, alignment: u64) -> Verdict {
        self.clear(field, alignment - 1, "the address is not aligned")?;
        self.clear(
            field,
            self.beyond_physical(),
            "the address is wider than the processor's physical addresses",
        )
    }

    /// Whether a list of MSRs, if there is one, is aligned and lies below the end of memory.
    pub fn msr_list(&self, count: Field, address: Field) -> Verdict {
        let entries = self.get(count);
        if entries == 0 {
            return Ok(());
        }
        self.address(address, 16)?;
        let last = self.get(address).checked_add(entries * 16 - 1);
        let inside = last.is_some_and(|last| last & self.beyond_physical() == 0);
        self.agree(inside, address, count, "the list ends beyond memory")
    }

    /// Whether an address has all bits above the width equal.
    pub fn is_canonical(&self, address: u64) -> bool {
        let shift = 64 - self.processor.linear_bits.clamp(32, 64);
        ((address << shift) as i64 >> shift) as u64 == address
    }

    /// Whether a field holds a canonical address.
    pub fn canonical(&self, field: Field) -> Verdict {
        self.ensure(
            self.is_canonical(self.get(field)),
            field,
            "the address is not canonical",
        )
    }

    /// Whether each byte of a field is a memory type of IA32_PAT.
    pub fn pat(&self, field: Field) -> Verdict {
        let value = self.get(field);
        let valid = |kind: &u8| matches!(kind, 0 | 1 | 4..=7);
        self.ensure(
            value.to_le_bytes().iter().all(valid),
            field,
            "a byte is no memory type",
        )
    }

    /// Whether a control register has the bits that VMX operation fixes; `free` may be 0.
    pub fn fixed_bits(&self, field: Field, fixed: [u64; 2], free: u64) -> Verdict {
        let value = self.get(field);
        self.ensure(
            value & fixed[0] & !free == fixed[0] & !free,
            field,
            "a bit is 0 that VMX operation needs",
        )?;
        self.ensure(
            value & !fixed[1] == 0,
            field,
            "a bit is set that the processor does not have",
        )
    }
}
