//! CPUID leaves by which a guest recognises the hypervisor.

/// `CPUID.1:ECX` bit that says "this is a virtual machine".
pub const HYPERVISOR_PRESENT: u32 = 1 << 31;

/// Leaf with the signature; EAX is the highest hypervisor leaf.
pub const LEAF_SIGNATURE: u32 = 0x4000_0000;
/// Leaf with the abilities of the calling VM: [`CAP_PRIVILEGED`].
pub const LEAF_FEATURES: u32 = 0x4000_0001;
/// Leaf with the frequency of the TSC in EAX, in kHz. Linux trusts it blindly; never zero.
pub const LEAF_TIMING: u32 = 0x4000_0010;
/// Highest leaf offered.
pub const LEAF_MAX: u32 = LEAF_TIMING;

/// The signature as text, spread over EBX, ECX and EDX of [`LEAF_SIGNATURE`].
pub const SIGNATURE: [u8; 12] = *b"ACRNACRNACRN";
/// EBX, ECX and EDX of [`LEAF_SIGNATURE`]: the same four letters three times.
pub const SIGNATURE_REGISTER: u32 = u32::from_le_bytes(*b"ACRN");

/// First of the leaves that say "KVM" to VMs with LAPIC pass-through: Linux turns x2APIC mode on without
/// interrupt remapping only for hypervisors that it knows, and distributions' kernels do not know
/// ACRN. Of KVM's features none is offered.
pub const LEAF_KVM_SIGNATURE: u32 = 0x4000_0100;
/// Highest of those leaves: the features.
pub const LEAF_KVM_MAX: u32 = 0x4000_0101;
/// EBX, ECX and EDX of [`LEAF_KVM_SIGNATURE`].
pub const KVM_SIGNATURE: [u32; 3] = [
    u32::from_le_bytes(*b"KVMK"),
    u32::from_le_bytes(*b"VMKV"),
    u32::from_le_bytes(*b"M\0\0\0"),
];

/// EAX bit of [`LEAF_FEATURES`]: the caller is the Service VM and may manage others.
pub const CAP_PRIVILEGED: u32 = 1 << 0;
