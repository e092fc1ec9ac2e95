use super::*;
use proptest::prelude::*;

/// A processor that says yes to everything.
struct Vcpu {
    id: u32,
    cpus: u32,
    cr4: u64,
    owns_apic: bool,
    is_service: bool,
}

const PLAIN: Vcpu = Vcpu {
    id: 3,
    cpus: 4,
    cr4: 0,
    owns_apic: false,
    is_service: false,
};

impl Guest for Vcpu {
    fn host(&self, _: u32, _: u32) -> CpuidResult {
        CpuidResult {
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
        }
    }
    fn apic_id(&self) -> u32 {
        self.id
    }
    fn cpus(&self) -> u32 {
        self.cpus
    }
    fn cr4(&self) -> u64 {
        self.cr4
    }
    fn owns_apic(&self) -> bool {
        self.owns_apic
    }
    fn is_service(&self) -> bool {
        self.is_service
    }
    fn tsc_khz(&self) -> u32 {
        2_400_000
    }
}

/// Bits of leaf 1 ECX.
const VMX: u32 = 1 << 5;
const MONITOR: u32 = 1 << 3;
/// Bit of leaf 0x80000001 ECX.
const SVM: u32 = 1 << 2;

#[test]
fn virtualization_and_monitor_are_the_hypervisors() {
    let features = answer(&PLAIN, 1, 0);
    assert_eq!(features.ecx & (VMX | MONITOR), 0);
    assert_eq!(answer(&PLAIN, 0x8000_0001, 0).ecx & SVM, 0);
    assert_ne!(features.ecx & abi::HYPERVISOR_PRESENT, 0);
}

#[test]
fn the_vcpus_own_numbers_replace_the_processors() {
    let features = answer(&PLAIN, 1, 0);
    assert_eq!(features.ebx >> 24, 3);
    assert_eq!(features.ebx >> 16 & 0xff, 4);
    let core = answer(&PLAIN, 0xb, 1);
    assert_eq!((core.eax, core.ebx, core.edx), (2, 4, 3));
    assert_eq!(answer(&PLAIN, 0x8000_0008, 0).ecx, 3);
}

#[test]
fn what_the_guest_has_enabled_shows() {
    let enabled = Vcpu {
        cr4: CR4_OSXSAVE | CR4_PKE,
        ..PLAIN
    };
    assert_eq!(answer(&PLAIN, 1, 0).ecx & OSXSAVE, 0);
    assert_eq!(answer(&enabled, 1, 0).ecx & OSXSAVE, OSXSAVE);
    assert_eq!(answer(&PLAIN, 7, 0).ecx & OSPKE, 0);
    assert_eq!(answer(&enabled, 7, 0).ecx & OSPKE, OSPKE);
}

#[test]
fn acrn_says_its_name_its_abilities_and_the_rate_of_the_tsc() {
    let name = answer(&PLAIN, 0x4000_0000, 0);
    assert_eq!(name.eax, abi::LEAF_TIMING);
    assert_eq!(
        [name.ebx, name.ecx, name.edx]
            .map(u32::to_le_bytes)
            .concat(),
        abi::SIGNATURE
    );
    let service = Vcpu {
        is_service: true,
        ..PLAIN
    };
    assert_eq!(
        answer(&service, abi::LEAF_FEATURES, 0).eax,
        abi::CAP_PRIVILEGED
    );
    assert_eq!(answer(&PLAIN, abi::LEAF_FEATURES, 0).eax, 0);
    assert_eq!(answer(&PLAIN, abi::LEAF_TIMING, 0).eax, 2_400_000);
}

#[test]
fn kvms_name_and_no_adjustment_are_for_those_with_a_local_apic_of_their_own() {
    let owner = Vcpu {
        owns_apic: true,
        ..PLAIN
    };
    assert_eq!(answer(&PLAIN, abi::LEAF_KVM_SIGNATURE, 0), NOTHING);
    assert_eq!(
        answer(&owner, abi::LEAF_KVM_SIGNATURE, 0).ebx,
        abi::KVM_SIGNATURE[0]
    );
    assert_eq!(answer(&owner, abi::LEAF_KVM_MAX, 0), NOTHING);
    assert_eq!(answer(&PLAIN, 7, 0).ebx & TSC_ADJUST, TSC_ADJUST);
    assert_eq!(answer(&owner, 7, 0).ebx & TSC_ADJUST, 0);
}

#[test]
fn extended_states_are_those_that_xcr0_takes() {
    let all = answer(&PLAIN, 0xd, 0);
    assert_eq!(u64::from(all.edx) << 32 | u64::from(all.eax), XCR0_ALLOWED);
    assert_eq!(answer(&PLAIN, 0xd, 3), NOTHING, "MPX");
    assert_ne!(answer(&PLAIN, 0xd, 9), NOTHING, "PKRU");
    assert_eq!(answer(&PLAIN, 0xd, 64), NOTHING);
}

proptest! {
    /// Leaves that nobody has thought about say nothing, even where the processor says something.
    #[test]
    fn unknown_leaves_are_empty(leaf: u32, subleaf: u32) {
        let known = matches!(leaf,
            0..=2 | 4 | 6 | 7 | 0xb | 0xd | 0x4000_0000..=0x4000_00ff | 0x8000_0000..=0x8000_0008);
        if !known {
            prop_assert_eq!(answer(&PLAIN, leaf, subleaf), NOTHING);
        }
    }
}
