//! VM-execution, VM-exit and VM-entry controls (SDM volume 3C, 25.6 to 25.8), by the names of the
//! manual.

#![allow(missing_docs, reason = "the names of the manual")]

use bitflags::bitflags;

macro_rules! controls {
    ($(#[$doc:meta])* $set:ident { $($flag:ident = $bit:literal, $text:literal;)* }) => {
        bitflags! {
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[allow(missing_docs)]
            pub struct $set: u32 {
                $(const $flag = 1 << $bit;)*
                const _ = !0;
            }
        }

        impl $set {
            /// Names of the manual, by bit.
            pub const NAMES: &[(u32, &str)] = &[$(($bit, $text)),*];
        }
    };
}

controls! {
    /// Pin-based VM-execution controls.
    Pin {
        EXTERNAL_INTERRUPT = 0, "external-interrupt exiting";
        NMI = 3, "NMI exiting";
        VIRTUAL_NMIS = 5, "virtual NMIs";
        PREEMPTION_TIMER = 6, "VMX-preemption timer";
        POSTED_INTERRUPTS = 7, "process posted interrupts";
    }
}

controls! {
    /// Primary processor-based VM-execution controls.
    Primary {
        INTERRUPT_WINDOW = 2, "interrupt-window exiting";
        TSC_OFFSETTING = 3, "use TSC offsetting";
        HLT = 7, "HLT exiting";
        INVLPG = 9, "INVLPG exiting";
        MWAIT = 10, "MWAIT exiting";
        RDPMC = 11, "RDPMC exiting";
        RDTSC = 12, "RDTSC exiting";
        CR3_LOAD = 15, "CR3-load exiting";
        CR3_STORE = 16, "CR3-store exiting";
        CR8_LOAD = 19, "CR8-load exiting";
        CR8_STORE = 20, "CR8-store exiting";
        TPR_SHADOW = 21, "use TPR shadow";
        NMI_WINDOW = 22, "NMI-window exiting";
        MOV_DR = 23, "MOV-DR exiting";
        UNCONDITIONAL_IO = 24, "unconditional I/O exiting";
        IO_BITMAPS = 25, "use I/O bitmaps";
        MONITOR_TRAP = 27, "monitor trap flag";
        MSR_BITMAPS = 28, "use MSR bitmaps";
        MONITOR = 29, "MONITOR exiting";
        PAUSE = 30, "PAUSE exiting";
        SECONDARY = 31, "activate secondary controls";
    }
}

controls! {
    /// Secondary processor-based VM-execution controls.
    Secondary {
        APIC_ACCESSES = 0, "virtualize APIC accesses";
        EPT = 1, "enable EPT";
        DESCRIPTOR_TABLE = 2, "descriptor-table exiting";
        RDTSCP = 3, "enable RDTSCP";
        X2APIC_MODE = 4, "virtualize x2APIC mode";
        VPID = 5, "enable VPID";
        WBINVD = 6, "WBINVD exiting";
        UNRESTRICTED_GUEST = 7, "unrestricted guest";
        APIC_REGISTERS = 8, "APIC-register virtualization";
        INTERRUPT_DELIVERY = 9, "virtual-interrupt delivery";
        PAUSE_LOOP = 10, "PAUSE-loop exiting";
        RDRAND = 11, "RDRAND exiting";
        INVPCID = 12, "enable INVPCID";
        VM_FUNCTIONS = 13, "enable VM functions";
        VMCS_SHADOWING = 14, "VMCS shadowing";
        RDSEED = 16, "RDSEED exiting";
        PML = 17, "enable PML";
        EPT_VIOLATION_VE = 18, "EPT-violation #VE";
        XSAVES = 20, "enable XSAVES/XRSTORS";
        MODE_BASED_EXECUTE = 22, "mode-based execute control for EPT";
        TSC_SCALING = 25, "use TSC scaling";
        USER_WAIT = 26, "enable user wait and pause";
    }
}

controls! {
    /// VM-exit controls.
    Exits {
        SAVE_DEBUG = 2, "save debug controls";
        HOST_64 = 9, "host address-space size";
        LOAD_PERF_GLOBAL = 12, "load IA32_PERF_GLOBAL_CTRL";
        ACKNOWLEDGE_INTERRUPT = 15, "acknowledge interrupt on exit";
        SAVE_PAT = 18, "save IA32_PAT";
        LOAD_PAT = 19, "load IA32_PAT";
        SAVE_EFER = 20, "save IA32_EFER";
        LOAD_EFER = 21, "load IA32_EFER";
        SAVE_PREEMPTION_TIMER = 22, "save VMX-preemption timer value";
    }
}

controls! {
    /// VM-entry controls.
    Entry {
        LOAD_DEBUG = 2, "load debug controls";
        IA32E_GUEST = 9, "IA-32e mode guest";
        SMM = 10, "entry to SMM";
        DUAL_MONITOR = 11, "deactivate dual-monitor treatment";
        LOAD_PERF_GLOBAL = 13, "load IA32_PERF_GLOBAL_CTRL";
        LOAD_PAT = 14, "load IA32_PAT";
        LOAD_EFER = 15, "load IA32_EFER";
        LOAD_BNDCFGS = 16, "load IA32_BNDCFGS";
    }
}

impl Secondary {
    /// The processor keeps the local APIC of a guest: all of it or none is used.
    pub const APIC_VIRTUALIZATION: Self = Self::X2APIC_MODE
        .union(Self::APIC_REGISTERS)
        .union(Self::INTERRUPT_DELIVERY);
}

/// Everything that a vCPU is run with, adjusted to what the processor allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controls {
    /// Pin-based.
    pub pin: Pin,
    /// Primary.
    pub primary: Primary,
    /// Secondary.
    pub secondary: Secondary,
    /// VM exit.
    pub exit: Exits,
    /// VM entry.
    pub entry: Entry,
}

impl Controls {
    /// The same for a guest with a local APIC of hardware to itself: interrupts, HLT, PAUSE and CR8 are
    /// its own, and the VMX-preemption timer is for those who want it to leave.
    pub const fn with_own_apic(self) -> Self {
        let interrupts = Pin::EXTERNAL_INTERRUPT
            .union(Pin::POSTED_INTERRUPTS)
            .union(Pin::PREEMPTION_TIMER);
        let priority = Primary::TPR_SHADOW
            .union(Primary::CR8_LOAD)
            .union(Primary::CR8_STORE);
        let waiting = Primary::HLT.union(Primary::PAUSE);
        Self {
            pin: self.pin.difference(interrupts),
            primary: self.primary.difference(priority.union(waiting)),
            secondary: self
                .secondary
                .difference(Secondary::APIC_VIRTUALIZATION)
                .difference(Secondary::PAUSE_LOOP),
            ..self
        }
    }

    /// What the hypervisor cannot do without.
    pub const REQUIRED: Self = Self {
        pin: Pin::EXTERNAL_INTERRUPT
            .union(Pin::NMI)
            .union(Pin::VIRTUAL_NMIS),
        primary: Primary::INTERRUPT_WINDOW
            .union(Primary::TSC_OFFSETTING)
            .union(Primary::HLT)
            .union(Primary::MWAIT)
            .union(Primary::RDPMC)
            .union(Primary::NMI_WINDOW)
            .union(Primary::IO_BITMAPS)
            .union(Primary::MSR_BITMAPS)
            .union(Primary::MONITOR)
            .union(Primary::SECONDARY),
        secondary: Secondary::EPT
            .union(Secondary::UNRESTRICTED_GUEST)
            .union(Secondary::WBINVD),
        exit: Exits::SAVE_DEBUG
            .union(Exits::HOST_64)
            .union(Exits::SAVE_PAT)
            .union(Exits::LOAD_PAT)
            .union(Exits::SAVE_EFER)
            .union(Exits::LOAD_EFER),
        entry: Entry::LOAD_DEBUG
            .union(Entry::LOAD_PAT)
            .union(Entry::LOAD_EFER),
    };

    /// What is used where the processor has it. Of CR8 exits and the TPR shadow one is needed; of
    /// the instructions each is left out where CPUID has none.
    pub const WELCOME: Self = Self {
        pin: Pin::PREEMPTION_TIMER.union(Pin::POSTED_INTERRUPTS),
        primary: Primary::TPR_SHADOW,
        secondary: Secondary::APIC_VIRTUALIZATION
            .union(Secondary::VPID)
            .union(Secondary::RDTSCP)
            .union(Secondary::INVPCID)
            .union(Secondary::PAUSE_LOOP),
        exit: Exits::ACKNOWLEDGE_INTERRUPT,
        entry: Entry::empty(),
    };
}
