//! The capability MSRs (SDM volume 3D, appendix A) as a typed structure.

use crate::control::{Controls, Entry, Exits, Pin, Primary, Secondary};
use arrayvec::ArrayVec;
use core::fmt;

/// Numbers of the capability MSRs.
pub mod msr {
    #![allow(missing_docs)]
    pub const BASIC: u32 = 0x480;
    pub const PIN: u32 = 0x481;
    pub const PRIMARY: u32 = 0x482;
    pub const EXIT: u32 = 0x483;
    pub const ENTRY: u32 = 0x484;
    pub const MISC: u32 = 0x485;
    pub const CR0_FIXED0: u32 = 0x486;
    pub const CR0_FIXED1: u32 = 0x487;
    pub const CR4_FIXED0: u32 = 0x488;
    pub const CR4_FIXED1: u32 = 0x489;
    pub const SECONDARY: u32 = 0x48b;
    pub const EPT_VPID: u32 = 0x48c;
    pub const TRUE_PIN: u32 = 0x48d;
    pub const TRUE_PRIMARY: u32 = 0x48e;
    pub const TRUE_EXIT: u32 = 0x48f;
    pub const TRUE_ENTRY: u32 = 0x490;
}

/// First and last of the capability MSRs.
pub const MSRS: core::ops::RangeInclusive<u32> = 0x480..=0x493;

/// Which values a word of controls may have: a bit of `must` is 1, a bit outside of `may` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlMsr {
    /// Bits that have to be set.
    pub must: u32,
    /// Bits that may be set.
    pub may: u32,
}

impl ControlMsr {
    /// From an MSR: the lower half are the bits that have to be 1, the upper those that may be.
    pub const fn new(value: u64) -> Self {
        Self {
            must: value as u32,
            may: (value >> 32) as u32,
        }
    }

    /// Whether the processor takes this value.
    pub const fn allows(&self, value: u32) -> bool {
        value & self.must == self.must && value & !self.may == 0
    }

    const fn adjust(&self, required: u32, welcome: u32) -> u32 {
        self.must | required | welcome & self.may
    }
}

/// What the processor can do, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// First word of a VMCS and of the VMXON region.
    pub revision: u32,
    /// Addresses of VMX structures have at most 32 bits.
    pub narrow_addresses: bool,
    /// INS and OUTS exits describe their memory operand.
    pub string_io_information: bool,
    /// Any exception may be injected with an error code or without.
    pub any_error_code: bool,
    /// Pin-based controls.
    pub pin: ControlMsr,
    /// Primary controls.
    pub primary: ControlMsr,
    /// Secondary controls; nothing may be set where there are none.
    pub secondary: ControlMsr,
    /// VM-exit controls.
    pub exit: ControlMsr,
    /// VM-entry controls.
    pub entry: ControlMsr,
    /// The preemption timer counts down when this bit of the TSC changes.
    pub preemption_timer_shift: u8,
    /// Activity states besides "active": bit 0 HLT, 1 shutdown, 2 wait for SIPI.
    pub activity_states: u8,
    /// CR3-target values.
    pub cr3_targets: u16,
    /// Entry may inject software events with an instruction length of 0.
    pub zero_length_injection: bool,
    /// CR0 bits that have to be 1 in VMX operation, and that may be.
    pub cr0_fixed: [u64; 2],
    /// The same for CR4.
    pub cr4_fixed: [u64; 2],
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: u64,
}

/// Controls that are needed and missing, by their names; more than a few say no more.
pub type MissingControls = ArrayVec<&'static str, 6>;

impl Capabilities {
    /// Reads all of them; `read` reads an MSR that exists.
    pub fn read(read: impl Fn(u32) -> u64) -> Self {
        let basic = read(msr::BASIC);
        let has_true = basic >> 55 & 1 != 0;
        let control = |plain, exact| ControlMsr::new(read(if has_true { exact } else { plain }));
        let primary = control(msr::PRIMARY, msr::TRUE_PRIMARY);
        let has_secondary = primary.may & Primary::SECONDARY.bits() != 0;
        let secondary = match has_secondary {
            true => ControlMsr::new(read(msr::SECONDARY)),
            false => ControlMsr::default(),
        };
        let paging = Secondary::EPT | Secondary::VPID;
        let ept_vpid = match secondary.may & paging.bits() != 0 {
            true => read(msr::EPT_VPID),
            false => 0,
        };
        let misc = read(msr::MISC);
        Self {
            revision: basic as u32 & 0x7fff_ffff,
            narrow_addresses: basic >> 48 & 1 != 0,
            string_io_information: basic >> 54 & 1 != 0,
            any_error_code: basic >> 56 & 1 != 0,
            pin: control(msr::PIN, msr::TRUE_PIN),
            primary,
            secondary,
            exit: control(msr::EXIT, msr::TRUE_EXIT),
            entry: control(msr::ENTRY, msr::TRUE_ENTRY),
            preemption_timer_shift: misc as u8 & 0x1f,
            activity_states: (misc >> 6) as u8 & 7,
            cr3_targets: (misc >> 16) as u16 & 0x1ff,
            zero_length_injection: misc >> 30 & 1 != 0,
            cr0_fixed: [read(msr::CR0_FIXED0), read(msr::CR0_FIXED1)],
            cr4_fixed: [read(msr::CR4_FIXED0), read(msr::CR4_FIXED1)],
            ept_vpid,
        }
    }

    /// The controls to run vCPUs with.
    ///
    /// # Errors
    /// The names of what is needed and missing.
    pub fn controls(&self) -> Result<Controls, MissingControls> {
        let (required, welcome) = (&Controls::REQUIRED, &Controls::WELCOME);
        let mut missing = MissingControls::new();
        let mut note = |lacking: u32, names: &[(u32, &'static str)]| {
            for (_, name) in names.iter().filter(|(bit, _)| lacking >> bit & 1 != 0) {
                let _ = missing.try_push(name);
            }
        };
        note(required.pin.bits() & !self.pin.may, Pin::NAMES);
        note(required.primary.bits() & !self.primary.may, Primary::NAMES);
        note(
            required.secondary.bits() & !self.secondary.may,
            Secondary::NAMES,
        );
        note(required.exit.bits() & !self.exit.may, Exits::NAMES);
        note(required.entry.bits() & !self.entry.may, Entry::NAMES);
        let has_ept = self.secondary.may & Secondary::EPT.bits() != 0;
        for (bit, name) in EPT_REQUIRED {
            if has_ept && self.ept_vpid >> bit & 1 == 0 {
                let _ = missing.try_push(name);
            }
        }
        if has_ept && self.ept_vpid >> 25 & 3 == 0 {
            let _ = missing.try_push("INVEPT of one or of all contexts");
        }
        let tpr = self.primary.may & Primary::TPR_SHADOW.bits() != 0;
        let cr8 = Primary::CR8_LOAD | Primary::CR8_STORE;
        if !tpr && self.primary.may & cr8.bits() != cr8.bits() {
            let _ = missing.try_push("use TPR shadow, or CR8-load and CR8-store exiting");
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        let mut controls = Controls {
            pin: Pin::from_bits_retain(self.pin.adjust(required.pin.bits(), welcome.pin.bits())),
            primary: Primary::from_bits_retain(
                self.primary
                    .adjust(required.primary.bits(), welcome.primary.bits()),
            ),
            secondary: Secondary::from_bits_retain(
                self.secondary
                    .adjust(required.secondary.bits(), welcome.secondary.bits()),
            ),
            exit: Exits::from_bits_retain(
                self.exit.adjust(required.exit.bits(), welcome.exit.bits()),
            ),
            entry: Entry::from_bits_retain(
                self.entry
                    .adjust(required.entry.bits(), welcome.entry.bits()),
            ),
        };
        if !tpr {
            controls.primary |= cr8;
        }
        let virtualizes = Secondary::APIC_VIRTUALIZATION;
        if !tpr || !controls.secondary.contains(virtualizes) {
            controls.secondary -= virtualizes;
        }
        let posts = controls.exit.contains(Exits::ACKNOWLEDGE_INTERRUPT)
            && controls.secondary.contains(Secondary::INTERRUPT_DELIVERY);
        if !posts {
            controls.pin -= Pin::POSTED_INTERRUPTS;
        }
        // Windows are opened when they are needed.
        controls.primary -= Primary::INTERRUPT_WINDOW | Primary::NMI_WINDOW;
        // Translations of a VPID have to be dropped one by one, or at least all at once.
        let invvpid = self.ept_vpid >> 32 & 1 != 0 && self.ept_vpid >> 41 & 3 != 0;
        if !invvpid {
            controls.secondary.remove(Secondary::VPID);
        }
        Ok(controls)
    }

    /// Whether a guest may have a local APIC of hardware to itself, and `controls` are what it is run
    /// with else.
    pub fn gives_apic(&self, controls: &Controls) -> bool {
        let own = controls.with_own_apic();
        controls.pin.contains(Pin::PREEMPTION_TIMER)
            && self.pin.allows(own.pin.bits())
            && self.primary.allows(own.primary.bits())
            && self.secondary.allows(own.secondary.bits())
    }

    /// Whether EPT entries may map 1 GiB.
    pub const fn ept_gib_pages(&self) -> bool {
        self.ept_vpid >> 17 & 1 != 0
    }

    /// INVEPT can drop one EPTP's translations.
    pub const fn invept_single(&self) -> bool {
        self.ept_vpid >> 25 & 1 != 0
    }

    /// INVVPID can drop one VPID's translations.
    pub const fn invvpid_single(&self) -> bool {
        self.ept_vpid >> 41 & 1 != 0
    }

    /// CR0 of a guest: PE and PG are free for an unrestricted guest.
    pub const fn guest_cr0(&self, wanted: u64) -> u64 {
        const FREE: u64 = 1 | 1 << 31;
        wanted | self.cr0_fixed[0] & !FREE
    }

    /// CR4 with the bits that VMX operation needs.
    pub const fn guest_cr4(&self, wanted: u64) -> u64 {
        wanted | self.cr4_fixed[0]
    }
}

/// Bits of IA32_VMX_EPT_VPID_CAP that are needed.
const EPT_REQUIRED: [(u32, &str); 4] = [
    (6, "EPT page walks of 4 levels"),
    (14, "EPT tables in write-back memory"),
    (16, "EPT pages of 2 MiB"),
    (20, "INVEPT"),
];

impl fmt::Display for ControlMsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x} of {:#010x}", self.must, self.may)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every control may be set, and those that the SDM calls default 1 have to be.
    fn full(index: u32) -> u64 {
        match index {
            msr::BASIC => 1 << 55 | 1 << 54 | 6 << 50 | 0x1000 << 32 | 0x12,
            msr::TRUE_PIN => 0xffff_ffff_0000_0016,
            msr::TRUE_PRIMARY => 0xffff_ffff_0400_6172,
            msr::TRUE_EXIT => 0xffff_ffff_0003_6dfb,
            msr::TRUE_ENTRY => 0xffff_ffff_0000_11fb,
            msr::SECONDARY => 0xffff_ffff_0000_0000,
            msr::CR0_FIXED0 => 0x8000_0021,
            msr::CR4_FIXED0 => 0x2000,
            msr::CR0_FIXED1 | msr::CR4_FIXED1 => u64::MAX,
            msr::EPT_VPID => u64::MAX,
            msr::MISC => 0x4000_0000 | 0x1c0 | 5,
            _ => 0,
        }
    }

    #[test]
    fn all_controls_of_a_full_processor_are_used() {
        let caps = Capabilities::read(full);
        let controls = caps.controls().unwrap();
        assert!(controls.pin.contains(Controls::REQUIRED.pin));
        assert!(
            controls
                .secondary
                .contains(Secondary::VPID | Secondary::EPT)
        );
        assert!(controls.primary.contains(Primary::TPR_SHADOW));
        assert!(!controls.primary.contains(Primary::CR8_LOAD));
        assert!(caps.pin.allows(controls.pin.bits()));
        assert!(caps.primary.allows(controls.primary.bits()));
        assert!(caps.exit.allows(controls.exit.bits()));
        assert!(caps.entry.allows(controls.entry.bits()));
        assert_eq!((caps.revision, caps.preemption_timer_shift), (0x12, 5));
    }

    #[test]
    fn each_missing_control_is_named() {
        for (bit, name) in Secondary::NAMES {
            if Controls::REQUIRED.secondary.bits() >> bit & 1 == 0 {
                continue;
            }
            let caps = Capabilities::read(|index| match index {
                msr::SECONDARY => full(index) & !(1 << (32 + bit)),
                _ => full(index),
            });
            assert!(caps.controls().unwrap_err().contains(name), "{name}");
        }
        let caps = Capabilities::read(|index| match index {
            msr::PRIMARY | msr::TRUE_PRIMARY => full(index) & !(1 << 63),
            _ => full(index),
        });
        let missing = caps.controls().unwrap_err();
        assert!(missing.contains(&"activate secondary controls"));
        assert!(missing.contains(&"enable EPT"));
        let caps = Capabilities::read(|index| match index {
            msr::EPT_VPID => full(index) & !(1 << 20),
            _ => full(index),
        });
        assert_eq!(caps.controls().unwrap_err()[..], ["INVEPT"]);
    }

    #[test]
    fn a_processor_without_tpr_shadow_exits_on_cr8() {
        let caps = Capabilities::read(|index| match index {
            msr::TRUE_PRIMARY => full(index) & !(1 << (32 + 21)),
            _ => full(index),
        });
        let controls = caps.controls().unwrap();
        assert!(
            controls
                .primary
                .contains(Primary::CR8_LOAD | Primary::CR8_STORE)
        );
    }

    #[test]
    fn the_local_apic_is_virtualized_wholly_or_not_at_all() {
        for bit in [4, 8, 9] {
            let caps = Capabilities::read(|index| match index {
                msr::SECONDARY => full(index) & !(1 << (32 + bit)),
                _ => full(index),
            });
            let secondary = caps.controls().unwrap().secondary;
            assert!(!secondary.intersects(Secondary::APIC_VIRTUALIZATION));
        }
    }

    #[test]
    fn interrupts_are_posted_only_with_what_that_needs() {
        let posts = |msr_index: u32, bit: u32| {
            let caps = Capabilities::read(|index| match index {
                _ if index == msr_index => full(index) & !(1 << (32 + bit)),
                _ => full(index),
            });
            caps.controls()
                .unwrap()
                .pin
                .contains(Pin::POSTED_INTERRUPTS)
        };
        assert!(posts(0, 0));
        assert!(!posts(msr::TRUE_PIN, 7));
        assert!(!posts(msr::TRUE_EXIT, 15));
        assert!(!posts(msr::SECONDARY, 9));
    }

    #[test]
    fn an_apic_is_given_where_all_its_interrupts_may_pass() {
        let gives = |msr_index: u32, change: u64| {
            let caps = Capabilities::read(|index| match index {
                _ if index == msr_index => full(index) ^ change,
                _ => full(index),
            });
            caps.gives_apic(&caps.controls().unwrap())
        };
        assert!(gives(0, 0));
        let exits_for_ever = 1;
        assert!(!gives(msr::TRUE_PIN, exits_for_ever));
        let halts_exit = 1 << 7;
        assert!(!gives(msr::TRUE_PRIMARY, halts_exit));
        let no_preemption_timer = 1 << (32 + 6);
        assert!(!gives(msr::TRUE_PIN, no_preemption_timer));
        let own = Capabilities::read(full).controls().unwrap().with_own_apic();
        let interrupts = Pin::EXTERNAL_INTERRUPT | Pin::POSTED_INTERRUPTS;
        assert!(!own.pin.intersects(interrupts) && own.pin.contains(Pin::NMI));
        assert!(!own.primary.intersects(Primary::TPR_SHADOW | Primary::HLT));
        assert!(!own.secondary.intersects(Secondary::APIC_VIRTUALIZATION));
        assert!(own.secondary.contains(Secondary::EPT));
    }

    #[test]
    fn plain_msrs_are_read_where_there_are_no_exact_ones() {
        let caps = Capabilities::read(|index| match index {
            msr::BASIC => 7,
            msr::TRUE_PIN..=msr::TRUE_ENTRY => panic!("MSR {index:#x} does not exist"),
            msr::PIN => 0x7f_0000_0016,
            _ => full(index),
        });
        assert_eq!(
            caps.pin,
            ControlMsr {
                must: 0x16,
                may: 0x7f
            }
        );
    }

    #[test]
    fn vpids_that_cannot_be_dropped_are_not_used() {
        let caps = Capabilities::read(|index| match index {
            msr::EPT_VPID => full(index) & !(1 << 32),
            _ => full(index),
        });
        let controls = caps.controls().unwrap();
        assert!(!controls.secondary.contains(Secondary::VPID));
    }
}
