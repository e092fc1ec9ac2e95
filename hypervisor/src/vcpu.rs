//! A virtual CPU: what its physical CPU alone touches, and what others may.
//!
//! Others never reach into a running vCPU. They post interrupts and request bits and wake it; its
//! own CPU acts on them before the next entry. The private part is reached through
//! [`Vcpu::local`], either by the run loop of its CPU while [`Shared::on_cpu`] is set, or by a
//! hypercall that has stopped the VM and waited for `on_cpu` to fall.

use crate::arch::apic;
use crate::exit::PendingIo;
use crate::lapic_passthrough;
use crate::percpu;
use crate::stats::{ExitRing, ExitStats};
use crate::virt::{Registers, VirtCpu};
use crate::vm::Vm;
use acrn_abi::{PcpuId, VcpuId, Vector, VmId};
use acrn_vdev::lapic::{Posted, PostedInterrupts, VLapic};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Things that others ask of a vCPU.
pub mod request {
    #![allow(missing_docs)]
    pub const NMI: u32 = 1 << 0;
    pub const INIT: u32 = 1 << 1;
    pub const SIPI: u32 = 1 << 2;
    pub const FLUSH: u32 = 1 << 3;
    pub const IO_DONE: u32 = 1 << 4;
    pub const EXTINT: u32 = 1 << 5;
    pub const TIMER: u32 = 1 << 6;
    pub const STOP: u32 = 1 << 7;
    /// The VM is to be switched off, or reset, by its Device Model.
    pub const OFF: u32 = 1 << 8;
    pub const RESET: u32 = 1 << 9;
    /// A [`FLUSH`] of which note was taken before it could be done.
    pub const LATE_FLUSH: u32 = 1 << 10;
}

/// Why a vCPU does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wait {
    /// It runs, or could.
    Nothing = 0,
    /// Halted until an interrupt can be delivered.
    Halt = 1,
    /// An I/O request is with the Device Model.
    Io = 2,
    /// Waits for a start-up IPI.
    StartUp = 3,
    /// Stopped after a fatal exit or offline.
    Stopped = 4,
}

impl Wait {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Nothing,
            1 => Self::Halt,
            2 => Self::Io,
            3 => Self::StartUp,
            _ => Self::Stopped,
        }
    }
}

/// What any CPU may touch.
pub struct Shared {
    /// Interrupts from other CPUs and devices.
    pub posted: PostedInterrupts,
    /// Bits of [`request`].
    pub requests: AtomicU32,
    /// Page number of a start-up IPI.
    pub sipi_page: AtomicU8,
    /// Physical CPU that it is pinned to.
    pub pcpu: AtomicU32,
    /// Place in that CPU's run queue.
    pub slot: AtomicU32,
    /// Whether it takes part at all: created and not destroyed.
    pub active: AtomicBool,
    /// Its CPU is between scheduling it and leaving it.
    pub on_cpu: AtomicBool,
    /// See [`Wait`].
    wait: AtomicU8,
    /// Host TSC at which its timer is due; `u64::MAX` for never.
    pub deadline: AtomicU64,
    /// Counts how often its state was replaced, so that a CPU knows what it has loaded.
    pub generation: AtomicU32,
    /// Exits by reason.
    pub stats: ExitStats,
}

/// What its own CPU alone touches.
pub struct Local {
    /// General registers.
    pub registers: Registers,
    /// Hardware state.
    pub virt: VirtCpu,
    /// Local APIC.
    pub lapic: VLapic,
    /// Bytes of the extended state that is not loaded.
    pub xsave: XsaveArea,
    /// Guest's XCR0.
    pub xcr0: u64,
    /// Guest's TSC_AUX while not loaded.
    pub tsc_aux: u64,
    /// Guest's DR0 to DR3 while not loaded.
    pub breakpoints: [u64; 4],
    /// Instruction that waits for the answer to an I/O request.
    pub pending_io: PendingIo,
    /// RIP at which the processor last refused to enter, and how often in a row.
    pub refused: (u64, u32),
    /// MSRs that are kept for the guest.
    pub msrs: crate::exit::msr::Kept,
    /// Where its last instructions were fetched from.
    pub walks: crate::exit::fetch::Walks,
}

/// Room for XSAVE's standard format: x87, SSE, AVX, AVX-512, PKRU.
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; 4096]);

impl XsaveArea {
    /// No component has a state, which XRSTOR takes for the initial one; for FXRSTOR the x87
    /// control word is that of FNINIT, and SSE's that of power-up.
    pub fn reset(&mut self) {
        self.0.fill(0);
        self.0[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        self.0[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    }
}

/// A virtual CPU.
pub struct Vcpu {
    vm: VmId,
    /// Its VM's slot.
    home: *const Vm,
    /// Number in its VM.
    pub id: VcpuId,
    /// Its tag in the rings of exits.
    pub tag: u64,
    /// What any CPU may touch.
    pub shared: Shared,
    local: UnsafeCell<Local>,
}

// SAFETY: `local` is reached only under the rule in the module's head; `home` is Sync itself; the
// rest is atomics.
unsafe impl Sync for Vcpu {}

impl Vcpu {
    /// An unused vCPU for the table of VMs.
    ///
    /// # Safety
    /// `home` is the place of the VM with this number, which is written before the vCPU is used
    /// and then lives for ever.
    pub const unsafe fn new(home: *const Vm, vm: u16, id: u16) -> Self {
        Self {
            vm: VmId(vm),
            home,
            id: VcpuId(id),
            tag: ExitRing::tag(vm, id),
            shared: Shared {
                posted: PostedInterrupts::new(),
                requests: AtomicU32::new(0),
                sipi_page: AtomicU8::new(0),
                pcpu: AtomicU32::new(0),
                slot: AtomicU32::new(0),
                active: AtomicBool::new(false),
                on_cpu: AtomicBool::new(false),
                wait: AtomicU8::new(Wait::Stopped as u8),
                deadline: AtomicU64::new(u64::MAX),
                generation: AtomicU32::new(0),
                stats: ExitStats::new(),
            },
            local: UnsafeCell::new(Local {
                registers: Registers::new(),
                virt: VirtCpu::new(),
                lapic: VLapic::unconnected(0, false, 0),
                xsave: XsaveArea([0; 4096]),
                xcr0: 1,
                tsc_aux: 0,
                breakpoints: [0; 4],
                pending_io: PendingIo::None,
                refused: (0, 0),
                msrs: crate::exit::msr::Kept::new(),
                walks: crate::exit::fetch::Walks::new(),
            }),
        }
    }

    /// Its VM.
    #[inline]
    pub fn vm(&self) -> &'static Vm {
        // SAFETY: the promise to `new`.
        unsafe { &*self.home }
    }

    /// Number of its VM.
    pub fn vm_id(&self) -> VmId {
        self.vm
    }

    /// The CPU that runs it.
    pub fn pcpu(&self) -> PcpuId {
        PcpuId(self.shared.pcpu.load(Ordering::Relaxed) as u16)
    }

    /// Id of its local APIC: the machine's in the Service VM, its number in others.
    pub fn apic_id(&self) -> u32 {
        match self.vm().is_service() {
            true => percpu::get(self.pcpu()).apic_id.load(Ordering::Relaxed),
            false => self.id.0.into(),
        }
    }

    /// The private part.
    ///
    /// # Safety
    /// The caller is the run loop of the vCPU's CPU, with `on_cpu` set; or it has stopped the VM
    /// under its state lock and seen `on_cpu` clear. No other reference to it lives.
    #[allow(clippy::mut_from_ref)]
    #[inline]
    pub unsafe fn local(&self) -> &mut Local {
        // SAFETY: the caller's duty.
        unsafe { &mut *self.local.get() }
    }

    /// Why it does not run.
    pub fn wait(&self) -> Wait {
        Wait::from_u8(self.shared.wait.load(Ordering::Relaxed))
    }

    /// Whether it waits for nothing.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.shared.wait.load(Ordering::Relaxed) == Wait::Nothing as u8
    }

    /// Sets why it does not run.
    pub fn set_wait(&self, wait: Wait) {
        self.shared.wait.store(wait as u8, Ordering::SeqCst);
    }

    /// Makes its CPU look at it.
    pub fn wake(&self) {
        let cpu = percpu::get(self.pcpu());
        cpu.wake.fetch_or(
            1 << self.shared.slot.load(Ordering::Relaxed),
            Ordering::SeqCst,
        );
        crate::run::kick(cpu);
    }

    /// Lets its CPU take what was posted, in the guest or before it enters it again.
    fn notify(&self) {
        let cpu = percpu::get(self.pcpu());
        // The own CPU is not in a guest now, and looks before it enters one.
        if cpu.id() != percpu::current_id() {
            apic::send_fixed(cpu.apic_id.load(Ordering::Relaxed), apic::NOTIFY_VECTOR);
        }
    }

    /// Posts an interrupt and wakes it.
    pub fn post(&self, vector: Vector, level: bool) {
        if percpu::current().is_traced() {
            return self.post_traced(vector, level);
        }
        self.post_now(vector, level);
    }

    /// A function of its own, so that the other way keeps its registers.
    #[cold]
    fn post_traced(&self, vector: Vector, level: bool) {
        crate::trace::interrupt(self, vector);
        self.post_now(vector, level);
    }

    #[inline(always)]
    fn post_now(&self, vector: Vector, level: bool) {
        match self.shared.posted.post(vector, level) {
            Posted::Already => {}
            Posted::Notify => self.notify(),
            Posted::Wake => {
                let cpu = percpu::get(self.pcpu());
                match cpu.is_apic_given() {
                    true => lapic_passthrough::forward(self, cpu),
                    false => self.wake(),
                }
            }
        }
    }

    /// Asks for something and wakes it.
    pub fn ask(&self, bits: u32) {
        self.shared.requests.fetch_or(bits, Ordering::SeqCst);
        self.wake();
    }
}

/// Guest TSC now.
#[inline]
pub fn guest_tsc(local: &Local) -> u64 {
    crate::arch::cpu::rdtsc().wrapping_add(local.virt.tsc_offset())
}
