//! From registers to a typed request.

use acrn_abi::hypercall::{CpuStateQuery, Errno, HypercallId, INVALID_VM, IrqLine};
use acrn_abi::{Gpa, VcpuId, Vector, VmId};
use core::fmt;

/// First vector that is not an exception's.
const FIRST_VECTOR: u64 = 0x20;

/// A request. `block` is where its parameter block lies in the caller's memory; nothing has been
/// read from there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Write the interface's version.
    ApiVersion {
        /// An `ApiVersion` to fill in.
        block: Gpa,
    },
    /// A CPU of the Service VM is not used any more.
    OfflineCpu {
        /// Its local APIC id.
        apic_id: u64,
    },
    /// Use another vector for the upcall.
    CallbackVector(Vector),
    /// Make a VM.
    CreateVm {
        /// A `VmCreation`, partly filled in.
        block: Gpa,
    },
    /// End a VM.
    DestroyVm(VmId),
    /// Let a VM run.
    StartVm(VmId),
    /// Stop a VM.
    PauseVm(VmId),
    /// Put a VM into the state after its creation.
    ResetVm(VmId),
    /// Nothing; kept for old callers.
    CreateVcpu,
    /// Set a vCPU's state.
    SetVcpuRegs {
        /// Which VM.
        vm: VmId,
        /// A `VcpuRegs`.
        block: Gpa,
    },
    /// Send an interrupt message.
    InjectMsi {
        /// Which VM.
        vm: VmId,
        /// An `MsiEntry`.
        block: Gpa,
    },
    /// Read interrupt counts, or delay interrupts.
    IntrMonitor {
        /// Which VM.
        vm: VmId,
        /// An `IntrMonitor`, filled in.
        block: Gpa,
    },
    /// Drive an interrupt line.
    SetIrqLine {
        /// Which VM.
        vm: VmId,
        /// Line and operation, not yet judged.
        line: IrqLine,
    },
    /// Set the I/O request page.
    SetIoreqBuffer {
        /// Which VM.
        vm: VmId,
        /// The page's address as a `u64`.
        block: Gpa,
    },
    /// An I/O request has been answered.
    RequestFinished {
        /// Which VM.
        vm: VmId,
        /// Whose request.
        vcpu: VcpuId,
    },
    /// Change a VM's memory map.
    SetMemoryRegions {
        /// A `SetMemoryRegions`.
        block: Gpa,
    },
    /// Set a ring up, or withdraw it.
    SetupRing {
        /// Whose memory has it.
        vm: VmId,
        /// An `SbufParam`.
        block: Gpa,
    },
    /// Add or remove a device that the hypervisor emulates.
    Vdev {
        /// Which VM.
        vm: VmId,
        /// A `Vdev`.
        block: Gpa,
        /// Which of the two.
        change: VdevChange,
    },
    /// Give or take a device of the machine.
    PassThrough {
        /// Which VM.
        vm: VmId,
        /// The block that [`PassThrough`] names.
        block: Gpa,
        /// Which operation.
        what: PassThrough,
    },
    /// Facts about the machine.
    HwInfo {
        /// An `HwInfo` to fill in.
        block: Gpa,
    },
    /// Power states of the CPUs.
    CpuState {
        /// What is asked.
        query: CpuStateQuery,
        /// What to fill in.
        block: Gpa,
    },
    /// A call of ACRN's that this hypervisor does not provide.
    NotProvided(HypercallId),
}

/// Adding or removing an emulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdevChange {
    /// Add.
    Create,
    /// Remove.
    Destroy,
}

/// Operations on devices of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the calls")]
pub enum PassThrough {
    SetInterrupt,
    ResetInterrupt,
    AssignPci,
    DeassignPci,
    AssignMmio,
    DeassignMmio,
}

/// Registers that are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCall {
    /// No call has this number.
    Unknown(u64),
    /// No VM can have this number.
    Vm(u64),
    /// No vCPU can have this number.
    Vcpu(u64),
    /// This vector is an exception's, or none.
    Vector(u64),
}

impl BadCall {
    /// The result for the caller.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Unknown(_) => Errno::ENOTTY,
            _ => Errno::EINVAL,
        }
    }
}

impl fmt::Display for BadCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(r8) => write!(f, "no hypercall has the number {r8:#x}"),
            Self::Vm(id) => write!(f, "{id:#x} is not the number of a VM"),
            Self::Vcpu(id) => write!(f, "{id:#x} is not the number of a vCPU"),
            Self::Vector(vector) => write!(f, "vector {vector:#x} is not 0x20 to 0xff"),
        }
    }
}

impl core::error::Error for BadCall {}

impl Call {
    /// Takes R8 (number), RDI and RSI (arguments) apart.
    ///
    /// # Errors
    /// [`BadCall`] when the number is unknown, lacks the prefix or has more than 32 bits, or a
    /// number in an argument cannot be meant.
    pub fn decode(r8: u64, rdi: u64, rsi: u64) -> Result<Self, BadCall> {
        use HypercallId as Id;
        let id = HypercallId::from_register(r8)
            .filter(|id| id.name().is_some())
            .ok_or(BadCall::Unknown(r8))?;
        let vm = || vm_id(rdi);
        let block = Gpa(rsi);
        let vdev = |change| {
            Ok(Self::Vdev {
                vm: vm()?,
                block,
                change,
            })
        };
        let pass = |what| {
            Ok(Self::PassThrough {
                vm: vm()?,
                block,
                what,
            })
        };
        Ok(match id {
            Id::GET_API_VERSION => Self::ApiVersion { block: Gpa(rdi) },
            Id::SERVICE_VM_OFFLINE_CPU => Self::OfflineCpu { apic_id: rdi },
            Id::SET_CALLBACK_VECTOR => match rdi {
                FIRST_VECTOR..=0xff => Self::CallbackVector(Vector(rdi as u8)),
                _ => return Err(BadCall::Vector(rdi)),
            },
            Id::CREATE_VM => Self::CreateVm { block: Gpa(rdi) },
            Id::DESTROY_VM => Self::DestroyVm(vm()?),
            Id::START_VM => Self::StartVm(vm()?),
            Id::PAUSE_VM => Self::PauseVm(vm()?),
            Id::RESET_VM => Self::ResetVm(vm()?),
            Id::CREATE_VCPU => Self::CreateVcpu,
            Id::SET_VCPU_REGS => Self::SetVcpuRegs { vm: vm()?, block },
            Id::INJECT_MSI => Self::InjectMsi { vm: vm()?, block },
            Id::VM_INTR_MONITOR => Self::IntrMonitor { vm: vm()?, block },
            Id::SET_IRQLINE => Self::SetIrqLine {
                vm: vm()?,
                line: IrqLine::from_register(rsi),
            },
            Id::SET_IOREQ_BUFFER => Self::SetIoreqBuffer { vm: vm()?, block },
            Id::NOTIFY_REQUEST_FINISH => Self::RequestFinished {
                vm: vm()?,
                vcpu: VcpuId(u16::try_from(rsi).map_err(|_| BadCall::Vcpu(rsi))?),
            },
            Id::VM_SET_MEMORY_REGIONS => Self::SetMemoryRegions { block: Gpa(rdi) },
            Id::SETUP_SBUF => Self::SetupRing { vm: vm()?, block },
            Id::CREATE_VDEV => vdev(VdevChange::Create)?,
            Id::DESTROY_VDEV => vdev(VdevChange::Destroy)?,
            Id::SET_PTDEV_INTR => pass(PassThrough::SetInterrupt)?,
            Id::RESET_PTDEV_INTR => pass(PassThrough::ResetInterrupt)?,
            Id::ASSIGN_PCIDEV => pass(PassThrough::AssignPci)?,
            Id::DEASSIGN_PCIDEV => pass(PassThrough::DeassignPci)?,
            Id::ASSIGN_MMIODEV => pass(PassThrough::AssignMmio)?,
            Id::DEASSIGN_MMIODEV => pass(PassThrough::DeassignMmio)?,
            Id::GET_HW_INFO => Self::HwInfo { block: Gpa(rdi) },
            Id::PM_GET_CPU_STATE => Self::CpuState {
                query: CpuStateQuery(rdi),
                block,
            },
            other => Self::NotProvided(other),
        })
    }
}

fn vm_id(register: u64) -> Result<VmId, BadCall> {
    match u16::try_from(register) {
        Ok(id) if VmId(id) != INVALID_VM => Ok(VmId(id)),
        _ => Err(BadCall::Vm(register)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_argument_goes_where_the_call_wants_it() {
        let create = Call::decode(HypercallId::CREATE_VM.0.into(), 0x1234_5678_9abc, 9);
        let block = Gpa(0x1234_5678_9abc);
        assert_eq!(create, Ok(Call::CreateVm { block }));
        let line = Call::decode(HypercallId::SET_IRQLINE.0.into(), 3, 0x1_0000_0009);
        let wanted = IrqLine {
            gsi: 9,
            operation: IrqLine::LOW,
        };
        assert_eq!(
            line,
            Ok(Call::SetIrqLine {
                vm: VmId(3),
                line: wanted
            })
        );
    }

    #[test]
    fn a_number_without_the_prefix_or_with_more_than_32_bits_is_unknown() {
        for r8 in [0x10, 0x8100_0010, 0x1_8000_0010, u64::MAX, 0] {
            assert_eq!(Call::decode(r8, 1, 0), Err(BadCall::Unknown(r8)));
        }
        assert_eq!(BadCall::Unknown(0).errno(), Errno::ENOTTY);
    }

    #[test]
    fn a_vm_number_is_not_cut_to_16_bits() {
        for rdi in [0x1_0001, 0xffff, u64::MAX] {
            let start = Call::decode(HypercallId::START_VM.0.into(), rdi, 0);
            assert_eq!(start, Err(BadCall::Vm(rdi)));
        }
        let notify = Call::decode(HypercallId::NOTIFY_REQUEST_FINISH.0.into(), 1, 0x1_0000);
        assert_eq!(notify, Err(BadCall::Vcpu(0x1_0000)));
    }

    #[test]
    fn the_upcall_has_a_vector_above_the_exceptions() {
        let set = |vector| Call::decode(HypercallId::SET_CALLBACK_VECTOR.0.into(), vector, 0);
        assert_eq!(set(0x20), Ok(Call::CallbackVector(Vector(0x20))));
        assert_eq!(set(0xff), Ok(Call::CallbackVector(Vector(0xff))));
        assert_eq!(set(0x1f), Err(BadCall::Vector(0x1f)));
        assert_eq!(set(0x120), Err(BadCall::Vector(0x120)));
    }

    #[test]
    fn every_number_with_a_name_decodes_and_no_other_does() {
        for index in 0..=0xffu32 {
            let id = HypercallId(HypercallId::PREFIX | index);
            let known = Call::decode(id.0.into(), 0x40, 0).is_ok();
            assert_eq!(known, id.name().is_some(), "{index:#x}");
        }
    }

    proptest! {
        #[test]
        fn no_registers_are_too_strange(r8: u64, rdi: u64, rsi: u64, index in 0u64..256) {
            let _ = Call::decode(r8, rdi, rsi);
            let _ = Call::decode(0x8000_0000 | index, rdi, rsi);
        }
    }
}
