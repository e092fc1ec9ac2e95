//! Fields that are one of a few things.

use crate::error::{Error, Problem};
use crate::field::{Field, Record, Sink};
use crate::reader::Reader;
use crate::walk::{Shown, Visitor};

macro_rules! choice {
    ($($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $number:literal $text:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            #[repr(u8)]
            pub enum $name { $($(#[$case_doc])* $case = $number,)* }

            impl $name {
                /// All of them.
                pub const ALL: &'static [Self] = &[$(Self::$case),*];
                /// Its name.
                pub const fn name(self) -> &'static str {
                    match self { $(Self::$case => $text,)* }
                }
            }

            impl core::fmt::Display for $name {
                fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    f.pad(self.name())
                }
            }

            impl<'a> Field<'a> for $name {
                #[expect(private_interfaces, reason = "only this crate reads")]
                fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
                    match u8::read(reader)? {
                        $($number => Ok(Self::$case),)*
                        other => Err(reader.error(Problem::Value(other.into()))),
                    }
                }
                fn write(&self, sink: &mut Sink<'_>) {
                    sink(&[*self as u8]);
                }
                fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
                    visitor.value(name, Shown::Text(self.name()));
                }
            }

            impl Record for $name {
                const SIZE: usize = 1;
            }
        )*
    };
}

choice! {
    /// Who starts a VM, and when. VMs are listed in this order.
    LoadOrder {
        /// The hypervisor, at boot, from modules.
        #[default]
        PreLaunched = 0 "pre-launched",
        /// The hypervisor; it owns what nobody else owns.
        Service = 1 "service",
        /// A Device Model in the Service VM.
        PostLaunched = 2 "post-launched",
    }
    /// What a VM is for.
    VmKind {
        /// General purpose.
        #[default]
        Standard = 0 "standard",
        /// Real time.
        RealTime = 1 "real-time",
        /// A trusted execution environment.
        Tee = 2 "TEE",
        /// The rich world beside a TEE.
        Ree = 3 "REE",
    }
    /// How vCPUs share a CPU.
    Scheduler {
        /// One vCPU a CPU.
        Noop = 0 "noop",
        /// Round robin.
        RoundRobin = 1 "round robin",
        /// Borrowed virtual time.
        #[default]
        Bvt = 2 "BVT",
        /// Fixed priorities.
        Priority = 3 "priority",
    }
    /// Fixed priority of a VM's vCPUs.
    Priority {
        /// Low.
        #[default]
        Low = 1 "low",
        /// High.
        High = 2 "high",
    }
    /// What the hypervisor's shell may do.
    ShellMode {
        /// There is no shell.
        Off = 0 "off",
        /// Commands that only look.
        ReadOnly = 1 "read-only",
        /// All commands.
        #[default]
        Full = 2 "full",
    }
    /// Frequencies that the hypervisor asks for.
    PerformancePolicy {
        /// The highest.
        #[default]
        Performance = 0 "performance",
        /// The nominal one.
        Nominal = 1 "nominal",
    }
    /// Where the hypervisor's serial console is.
    ConsoleKind {
        /// There is none.
        #[default]
        None = 0 "none",
        /// At an I/O port.
        Port = 1 "port",
        /// At a memory address.
        Memory = 2 "memory",
        /// On a PCI card; the address is bus, device and function.
        Pci = 3 "PCI",
    }
    /// How a kernel is loaded.
    KernelKind {
        /// Linux's bzImage.
        #[default]
        BzImage = 1 "bzImage",
        /// Bytes at an address.
        Raw = 2 "raw",
        /// ELF.
        Elf = 3 "ELF",
    }
    /// How a VM sees a vUART.
    VuartKind {
        /// At an I/O port.
        #[default]
        Legacy = 0 "legacy",
        /// As a PCI function.
        Pci = 1 "PCI",
    }
    /// What a PCI device of a VM is.
    DeviceKind {
        /// A physical device.
        #[default]
        PassThrough = 0 "pass-through",
        /// A host bridge of the hypervisor's.
        HostBridge = 1 "host bridge",
        /// Shared memory.
        SharedMemory = 2 "ivshmem",
        /// A serial card of the hypervisor's.
        Vuart = 3 "vmcs9900",
        /// A root port with Precision Time Measurement.
        RootPort = 4 "root port",
    }
    /// A device without PCI that is passed to a VM.
    MmioKind {
        /// Trusted platform module.
        #[default]
        Tpm2 = 0 "TPM2",
        /// Primary-to-sideband bridge.
        P2sb = 1 "P2SB",
    }
    /// What a cache mask is for.
    CacheKind {
        /// Code and data.
        #[default]
        Unified = 0 "unified",
        /// Code.
        Code = 1 "code",
        /// Data.
        Data = 2 "data",
    }
    /// What happens when a VM has crashed or switched itself off.
    Restart {
        /// It stays off.
        #[default]
        Never = 0 "never",
        /// It is started again after a crash.
        OnCrash = 1 "on crash",
        /// It is started again in any case.
        Always = 2 "always",
    }
}
