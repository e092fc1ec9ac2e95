//! A VMCS in each mode that a guest may be in, and then one that differs in one respect.

mod controls;
mod guest;
mod host;
mod random;
mod segments;

use super::{Failed, Processor, Vmcs, failed_check};
use crate::{Capabilities, ControlMsr, Entry, Exits, Field, Pin, Primary, Secondary};
use std::collections::HashMap;

/// A VMCS in memory.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    values: HashMap<Field, u64>,
    priority: Option<u8>,
}

impl Vmcs for Fields {
    fn read(&self, field: Field) -> u64 {
        self.values.get(&field).copied().unwrap_or(0)
    }

    fn virtual_task_priority(&self) -> Option<u8> {
        self.priority
    }
}

impl Fields {
    pub fn set(&mut self, field: Field, value: u64) -> &mut Self {
        let mask = u64::MAX >> (64 - field.width());
        self.values.insert(field, value & mask);
        self
    }

    pub fn add(&mut self, field: Field, bits: u64) -> &mut Self {
        self.set(field, self.read(field) | bits)
    }

    pub fn take(&mut self, field: Field, bits: u64) -> &mut Self {
        self.set(field, self.read(field) & !bits)
    }

    pub fn secondary(&mut self, controls: Secondary) -> &mut Self {
        self.add(Field::SecondaryControls, controls.bits().into())
    }

    pub fn without(&mut self, controls: Secondary) -> &mut Self {
        self.take(Field::SecondaryControls, controls.bits().into())
    }

    pub fn primary(&mut self, controls: Primary) -> &mut Self {
        self.add(Field::PrimaryControls, controls.bits().into())
    }

    pub fn entry(&mut self, controls: Entry) -> &mut Self {
        self.add(Field::EntryControls, controls.bits().into())
    }

    pub fn exit(&mut self, controls: Exits) -> &mut Self {
        self.add(Field::ExitControls, controls.bits().into())
    }

    /// An event to inject: valid, of this kind, with this vector and these bits.
    pub fn event(&mut self, bits: u32) -> &mut Self {
        self.set(Field::EntryInterruptionInfo, u64::from(bits) | 1 << 31)
    }
}

/// A processor that has everything, with the bits that the manual calls default 1.
pub(super) fn capabilities() -> Capabilities {
    let word = |must| ControlMsr {
        must,
        may: u32::MAX,
    };
    Capabilities {
        revision: 0x12,
        narrow_addresses: false,
        string_io_information: true,
        any_error_code: false,
        pin: word(0x16),
        primary: word(0x0400_6172),
        secondary: ControlMsr {
            must: 0,
            // Bits 27 to 31 are not there.
            may: 0x07ff_ffff,
        },
        exit: word(0x3_6dfb),
        entry: ControlMsr {
            must: 0x11fb,
            may: 0x3_ffff,
        },
        preemption_timer_shift: 0,
        activity_states: 7,
        cr3_targets: 4,
        zero_length_injection: false,
        cr0_fixed: [0x8000_0021, 0xffff_ffff],
        cr4_fixed: [0x2000, 0xff_7fff],
        // Uncacheable and write-back tables, 4 and 5 levels, accessed flags.
        ept_vpid: 1 << 6 | 1 << 7 | 1 << 8 | 1 << 14 | 1 << 21,
    }
}

pub(super) fn check_with(fields: &Fields, capabilities: &Capabilities) -> Option<Failed> {
    failed_check(fields, &Processor::new(capabilities, 40, 48))
}

pub(super) fn check(fields: &Fields) -> Option<Failed> {
    check_with(fields, &capabilities())
}

/// Asserts that a check fails with this field, this reason and this section.
#[track_caller]
pub(super) fn fails(fields: &Fields, field: Field, reason: &str, section: &str) {
    let failed = check(fields);
    let found = failed.map(|f| (f.field, f.reason, f.section));
    assert_eq!(found, Some((field, reason, section)), "{failed:x?}");
}

/// A guest in 64-bit mode on a 64-bit host.
pub(super) fn long_mode() -> Fields {
    let mut f = Fields {
        values: HashMap::new(),
        priority: None,
    };
    let c = capabilities();
    let pin = Pin::EXTERNAL_INTERRUPT | Pin::NMI | Pin::VIRTUAL_NMIS;
    f.set(Field::PinControls, (c.pin.must | pin.bits()).into());
    f.set(Field::PrimaryControls, c.primary.must.into());
    f.primary(
        Primary::SECONDARY | Primary::IO_BITMAPS | Primary::MSR_BITMAPS | Primary::TPR_SHADOW,
    );
    f.secondary(Secondary::EPT | Secondary::VPID | Secondary::UNRESTRICTED_GUEST);
    f.set(Field::ExitControls, c.exit.must.into());
    f.exit(Exits::HOST_64 | Exits::LOAD_EFER | Exits::LOAD_PAT | Exits::LOAD_PERF_GLOBAL);
    f.set(Field::EntryControls, c.entry.must.into());
    f.entry(Entry::LOAD_DEBUG | Entry::LOAD_EFER | Entry::LOAD_PAT | Entry::IA32E_GUEST);
    f.set(Field::Vpid, 1)
        .set(Field::IoBitmapA, 0x1000)
        .set(Field::IoBitmapB, 0x2000)
        .set(Field::MsrBitmap, 0x3000)
        .set(Field::VirtualApicAddress, 0x4000)
        .set(Field::EptPointer, 0x5000 | 3 << 3 | 6)
        .set(Field::HostCr0, 0x8005_0033)
        .set(Field::HostCr3, 0x6000)
        .set(Field::HostCr4, 0x26a0)
        .set(Field::HostEfer, 0xd01)
        .set(Field::HostPat, 0x0007_0406_0007_0406)
        .set(Field::HostCsSelector, 8)
        .set(Field::HostSsSelector, 16)
        .set(Field::HostTrSelector, 24)
        .set(Field::HostRip, 0xffff_8000_0000_1000)
        .set(Field::GuestCr0, 0x8005_0033)
        .set(Field::GuestCr3, 0x7000)
        .set(Field::GuestCr4, 0x20a0)
        .set(Field::GuestEfer, 0xd01)
        .set(Field::GuestPat, 0x0007_0406_0007_0406)
        .set(Field::GuestDr7, 0x400)
        .set(Field::GuestRflags, 2)
        .set(Field::GuestRip, 0xffff_8000_0000_0000)
        .set(Field::GuestGdtrLimit, 0xffff)
        .set(Field::GuestIdtrLimit, 0xffff)
        .set(Field::VmcsLinkPointer, u64::MAX);
    for number in [0, 2, 3, 4, 5] {
        segment(&mut f, number, 0x10, 0, 0xffff_ffff, 0xc093);
    }
    segment(&mut f, 1, 8, 0, 0xffff_ffff, 0xa09b);
    segment(&mut f, 6, 0, 0, 0, 1 << 16);
    segment(&mut f, 7, 0x28, 0x9000, 0x67, 0x8b);
    f
}

pub(super) fn segment(
    f: &mut Fields,
    number: usize,
    selector: u64,
    base: u64,
    limit: u64,
    access: u64,
) {
    let values = [selector, base, limit, access];
    for (field, value) in Field::segment(number).into_iter().zip(values) {
        f.set(field, value);
    }
}

/// 32-bit protected mode with 32-bit paging.
pub(super) fn protected_mode() -> Fields {
    let mut f = long_mode();
    f.take(Field::EntryControls, Entry::IA32E_GUEST.bits().into())
        .set(Field::GuestEfer, 0)
        .set(Field::GuestCr4, 0x2000)
        .set(Field::GuestRip, 0x10_0000)
        .set(Field::GuestCsAccess, 0xc09b);
    f
}

/// 32-bit protected mode with PAE paging.
pub(super) fn pae_mode() -> Fields {
    let mut f = protected_mode();
    f.set(Field::GuestCr4, 0x2020)
        .set(Field::GuestPdpte0, 0x8001)
        .set(Field::GuestPdpte3, 0xfff0);
    f
}

/// Real-address mode, which an unrestricted guest may be in.
pub(super) fn real_mode() -> Fields {
    let mut f = protected_mode();
    f.set(Field::GuestCr0, 0x30)
        .set(Field::GuestRip, 0xfff0)
        .set(Field::GuestTrLimit, 0xffff);
    for number in [0, 2, 3, 4, 5] {
        segment(&mut f, number, 0, 0, 0xffff, 0x93);
    }
    segment(&mut f, 1, 0xf000, 0xffff_0000, 0xffff, 0x9b);
    f
}

/// Virtual-8086 mode.
pub(super) fn virtual_8086() -> Fields {
    let mut f = protected_mode();
    f.set(Field::GuestRflags, 1 << 17 | 3 << 12 | 2)
        .set(Field::GuestRip, 0x100);
    for number in 0..6 {
        segment(&mut f, number, 0x1234, 0x1_2340, 0xffff, 0xf3);
    }
    f
}

/// All of them.
pub(super) fn modes() -> [(&'static str, Fields); 5] {
    [
        ("64-bit", long_mode()),
        ("32-bit", protected_mode()),
        ("PAE", pae_mode()),
        ("real-address", real_mode()),
        ("virtual-8086", virtual_8086()),
    ]
}

#[test]
fn a_valid_vmcs_passes_in_each_mode() {
    for (name, fields) in modes() {
        assert_eq!(check(&fields), None, "{name}");
    }
}

#[test]
fn without_secondary_controls_their_bits_do_not_count() {
    let mut f = long_mode();
    f.take(Field::PrimaryControls, Primary::SECONDARY.bits().into())
        .set(Field::SecondaryControls, u64::MAX)
        .set(Field::EptPointer, u64::MAX);
    assert_eq!(check(&f), None);
}

#[test]
fn a_failed_check_is_a_sentence_with_the_values_and_the_section() {
    let mut f = long_mode();
    f.set(Field::GuestRflags, 0x8002);
    assert_eq!(
        check(&f).unwrap().to_string(),
        "guest RFLAGS: reserved bits are set (0x8002), SDM volume 3C, 27.3.1.4"
    );
    let mut f = long_mode();
    f.set(Field::GuestEfer, 0xc01);
    assert_eq!(
        check(&f).unwrap().to_string(),
        "guest IA32_EFER: LMA and LME differ while paging is on (0xc01; guest CR0 0x80050033), \
         SDM volume 3C, 27.3.1.1"
    );
}
