//! Flags that say what kind of VM is to be built.

use bitflags::bitflags;

bitflags! {
    /// `vm_flag` of [`VmCreation`](crate::hypercall::VmCreation) and the guest flags of the
    /// scenario. Bits without a name are kept, so that they can be reported.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VmFlags: u64 {
        /// The VM has a second, secure world.
        const SECURE_WORLD = 1 << 0;
        /// The VM owns the local APICs of its CPUs once it has switched them to x2APIC mode.
        const LAPIC_PASSTHROUGH = 1 << 1;
        /// A vCPU polls for the end of an I/O request instead of sleeping.
        const IO_COMPLETION_POLLING = 1 << 2;
        /// CPUID tells of no MTRRs.
        const HIDE_MTRR = 1 << 3;
        /// A real-time VM.
        const RT = 1 << 4;
        /// The VM may use virtualization itself.
        const NESTED = 1 << 5;
        /// The VM gets TPM and SMBIOS data of the platform.
        const SECURITY_VM = 1 << 6;
        /// The VM may use its part of the cache allocation masks.
        const VCAT = 1 << 7;
        /// The VM is described in the scenario (as opposed to one that the Device Model invents).
        const STATIC_VM = 1 << 8;
        /// A trusted execution environment.
        const TEE = 1 << 9;
        /// The normal world that belongs to a [`TEE`](Self::TEE) VM.
        const REE = 1 << 10;
        /// The VM owns the performance counters of its CPUs.
        const PMU_PASSTHROUGH = 1 << 11;
        /// The VM controls hardware P-states of its CPUs.
        const VHWP = 1 << 12;
        /// The VM sees the thermal interrupts of its CPUs.
        const VTM = 1 << 13;
        /// Nothing is lost when this VM is switched off without a word.
        const STATELESS = 1 << 14;
        /// Not ACRN's: no VM that runs, but memory of a program in the Service VM that wants to read
        /// the hypervisor's trace and log. It has no vCPU.
        const OBSERVER = 1 << 63;

        const _ = !0;
    }
}

impl VmFlags {
    /// The flags that a Device Model may choose; the others come from the scenario only.
    pub const SET_BY_DEVICE_MODEL: Self = Self::SECURE_WORLD
        .union(Self::LAPIC_PASSTHROUGH)
        .union(Self::IO_COMPLETION_POLLING)
        .union(Self::RT);
}
