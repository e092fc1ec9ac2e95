//! A virtual machine: its vCPUs, its devices, its map of memory.
//!
//! VMs live in a static table. What other CPUs may touch is behind locks that are held for a few
//! instructions; no lock is held while a guest runs.

mod console;
mod guest_memory;
mod interrupts;
mod table;

pub use console::{CONSOLE_SOURCE, ConsolePlace};
pub use table::{all, get, make_table, service};

use crate::exit::hypercall::Batch;
use crate::interval_timer::IntervalTimer;
use crate::serial::Ports;
use crate::vcpu::{Vcpu, request};
use crate::virt::NestedTable;
use crate::virtual_pci::Functions;
use crate::{config, lapic_passthrough};
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Gpa, Gsi, VmId, guest_map};
use acrn_config_blob::LoadOrder;
use acrn_lifecycle::{Restarts, Severity, Standing, VmState};
use acrn_vdev::counters::Counters;
use acrn_vdev::ioapic::VIoApic;
use acrn_vdev::lapic::LapicIdentity;
use acrn_vdev::pic::VPic;
use acrn_vdev::pm::Pm;
use acrn_vdev::rtc::VRtc;
use arrayvec::ArrayVec;
use console::ConsoleUart;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use interrupts::{PicInputs, SHARED_LINES};
use spin::Mutex;

/// Most VMs at a time, the Service VM included.
pub const MAX_VMS: usize = acrn_config_use::SLOTS as usize;
/// Most vCPUs of a VM: the I/O request page has that many slots.
pub const MAX_VCPUS: usize = 16;
/// Pins of a User VM's IOAPIC.
pub const USER_IOAPIC_PINS: u8 = 48;

/// One VM.
pub struct Vm {
    /// Number.
    pub id: VmId,
    name: Mutex<ArrayVec<u8, 16>>,
    origin: AtomicU8,
    flags: AtomicU64,
    owns_apics: AtomicBool,
    severity: AtomicU8,
    real_time: AtomicBool,
    /// Its state; held while a life-cycle operation works on the VM.
    pub state: Mutex<VmState>,
    running: AtomicBool,
    /// Virtual CPUs; `vcpu_count` of them are in use.
    pub vcpus: &'static [Vcpu],
    count: AtomicU32,
    /// What the local APICs answer to, by vCPU.
    pub identities: [LapicIdentity; MAX_VCPUS],
    turn: AtomicUsize,
    /// Nested tables, while it exists.
    pub nested: Mutex<Option<NestedTable>>,
    /// A change of its memory that has not come to its end; under the lock of the state.
    pub batch: Mutex<Option<Batch>>,
    /// Pages and table frames that it had when its end began.
    pub possessions: Mutex<Option<(u64, u64)>>,
    /// IOAPICs.
    pub ioapics: Mutex<ArrayVec<(Gpa, VIoApic), { crate::arch::ioapic::MAX_IOAPICS }>>,
    pic: Mutex<VPic>,
    pic_inputs: PicInputs,
    pic_output: AtomicBool,
    /// For each line, which devices of the hypervisor assert it: a bit for each.
    asserted: Mutex<[u32; SHARED_LINES]>,
    /// Its ends of serial lines to other VMs, at ports.
    pub ports: Ports,
    /// PCI functions that the hypervisor has put on its bus.
    pub functions: Functions,
    /// UART of the hypervisor's console.
    pub uart: Mutex<ConsoleUart>,
    /// Counters of devices that are otherwise the Device Model's.
    pub counters: Mutex<Option<Counters>>,
    /// Its 8254, unless that is the machine's or the Device Model's.
    pub interval_timer: Mutex<Option<IntervalTimer>>,
    /// Host physical address of the I/O request page; 0 for none.
    pub ioreq_page: AtomicU64,
    /// What was written to 0xCF8.
    pub config_address: Mutex<u32>,
    /// The clock of a VM that has no Device Model and not the machine's.
    pub rtc: Mutex<VRtc>,
    /// Its power management registers.
    pub pm: Mutex<Pm>,
    /// What is to happen with it ([`crate::static_vm`]).
    pub owed: AtomicU8,
    /// Not before this TSC.
    pub owed_at: AtomicU64,
    /// When it has ended by mistake.
    pub restarts: Mutex<Restarts>,
    /// The operator wants it off, whatever its policy says.
    pub stays_off: AtomicBool,
}

impl Vm {
    fn new(id: u16, vcpus: &'static [Vcpu]) -> Self {
        Self {
            id: VmId(id),
            name: Mutex::new(ArrayVec::new_const()),
            origin: AtomicU8::new(LoadOrder::PostLaunched as u8),
            flags: AtomicU64::new(0),
            owns_apics: AtomicBool::new(false),
            severity: AtomicU8::new(0),
            real_time: AtomicBool::new(false),
            state: Mutex::new(VmState::PoweredOff),
            running: AtomicBool::new(false),
            vcpus,
            count: AtomicU32::new(0),
            identities: [const { LapicIdentity::new() }; MAX_VCPUS],
            turn: AtomicUsize::new(0),
            nested: Mutex::new(None),
            batch: Mutex::new(None),
            possessions: Mutex::new(None),
            ioapics: Mutex::new(ArrayVec::new_const()),
            pic: Mutex::new(VPic::new()),
            pic_inputs: PicInputs::new(),
            pic_output: AtomicBool::new(false),
            asserted: Mutex::new([0; SHARED_LINES]),
            ports: Ports::new(),
            functions: Functions::new(),
            uart: Mutex::new(ConsoleUart::absent()),
            counters: Mutex::new(None),
            interval_timer: Mutex::new(None),
            ioreq_page: AtomicU64::new(0),
            config_address: Mutex::new(0),
            rtc: Mutex::new(VRtc::new()),
            pm: Mutex::new(Pm::new()),
            owed: AtomicU8::new(0),
            owed_at: AtomicU64::new(0),
            restarts: Mutex::new(Restarts::new()),
            stays_off: AtomicBool::new(false),
        }
    }

    /// Gives the VM its name and kind, before anything else.
    pub fn describe(&self, name: &[u8], origin: LoadOrder, flags: u64) {
        let mut own = self.name.lock();
        own.clear();
        own.extend(name.iter().copied().take(16));
        self.origin.store(origin as u8, Ordering::Relaxed);
        self.flags.store(flags, Ordering::Relaxed);
        let flags = VmFlags::from_bits_retain(flags);
        let rank = config::setup().rank(self.id.0, origin, flags);
        self.severity.store(rank.severity, Ordering::Relaxed);
        self.real_time.store(rank.real_time, Ordering::Relaxed);
        let owns = origin != LoadOrder::Service && flags.contains(VmFlags::LAPIC_PASSTHROUGH);
        let lacks = lapic_passthrough::lacks().filter(|_| owns);
        self.owns_apics
            .store(owns && lacks.is_none(), Ordering::Relaxed);
        if let Some(what) = lacks {
            warning!(
                "vm{} ({}) has virtual local APICs: to pass them through, this machine lacks {what}",
                self.id,
                own.as_slice().escape_ascii()
            );
        }
    }

    /// Name.
    pub fn name(&self) -> arrayvec::ArrayString<16> {
        let mut text = arrayvec::ArrayString::new();
        for byte in self.name.lock().iter() {
            let shown = if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                '?'
            };
            let _ = text.try_push(shown);
        }
        text
    }

    /// Whether it is the Service VM.
    #[inline]
    pub fn is_service(&self) -> bool {
        self.origin.load(Ordering::Relaxed) == LoadOrder::Service as u8
    }

    /// Whether the hypervisor has started it, beside the Service VM or without one.
    #[inline]
    pub fn is_pre_launched(&self) -> bool {
        self.origin.load(Ordering::Relaxed) == LoadOrder::PreLaunched as u8
    }

    /// Who starts it.
    pub fn origin(&self) -> LoadOrder {
        match (self.is_service(), self.is_pre_launched()) {
            (true, _) => LoadOrder::Service,
            (_, true) => LoadOrder::PreLaunched,
            _ => LoadOrder::PostLaunched,
        }
    }

    /// Whether its vCPUs have the local APICs of their CPUs to themselves ([`crate::lapic_passthrough`]).
    #[inline]
    pub fn owns_apics(&self) -> bool {
        self.owns_apics.load(Ordering::Relaxed)
    }

    /// Whether it never runs: a program of the Service VM has it for the sake of its memory.
    pub fn is_observer(&self) -> bool {
        let flags = VmFlags::from_bits_retain(self.flags.load(Ordering::Relaxed));
        flags.contains(VmFlags::OBSERVER)
    }

    /// Whether it is a real-time VM.
    pub fn is_real_time(&self) -> bool {
        self.real_time.load(Ordering::Relaxed)
    }

    /// What the state machine asks about it.
    pub fn standing(&self) -> Standing {
        Standing {
            severity: Severity(self.severity.load(Ordering::Relaxed)),
            real_time: self.is_real_time(),
            pre_launched: self.is_pre_launched(),
            ready_to_start: self.origin() != LoadOrder::PostLaunched
                || self.ioreq_page.load(Ordering::Relaxed) != 0 && !self.is_observer(),
        }
    }

    /// Whether its vCPUs may enter the guest.
    #[inline]
    pub fn may_run(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Lets its vCPUs run.
    pub fn let_run(&self) {
        self.running.store(true, Ordering::SeqCst);
        self.active_vcpus()
            .for_each(|vcpu| vcpu.ask(request::TIMER));
    }

    /// Keeps its vCPUs from entering the guest and waits until none is in it. Not for the VM
    /// whose vCPU is calling.
    pub fn stop_running(&self) {
        self.running.store(false, Ordering::SeqCst);
        self.wait_until_out(|_| true);
    }

    fn wait_until_out(&self, concerned: impl Fn(&Vcpu) -> bool) {
        for vcpu in self.active_vcpus() {
            vcpu.wake();
        }
        for vcpu in self.active_vcpus() {
            while concerned(vcpu) && vcpu.shared.on_cpu.load(Ordering::SeqCst) {
                core::hint::spin_loop();
            }
        }
    }

    /// Makes every vCPU drop its cached translations before it runs guest code again, and waits
    /// until none can use an old one.
    pub fn flush_translations(&self, caller: Option<&Vcpu>) {
        for vcpu in self.active_vcpus() {
            vcpu.shared
                .requests
                .fetch_or(request::FLUSH, Ordering::SeqCst);
        }
        for vcpu in self.active_vcpus() {
            if caller.is_some_and(|own| core::ptr::eq(own, vcpu)) {
                continue;
            }
            // One that is not on its CPU sees the request before it enters the guest.
            if !vcpu.shared.on_cpu.load(Ordering::SeqCst) {
                continue;
            }
            vcpu.wake();
            while vcpu.shared.on_cpu.load(Ordering::SeqCst)
                && vcpu.shared.requests.load(Ordering::SeqCst) & request::FLUSH != 0
            {
                // Two CPUs may wait for each other: the other one's request is ours to see.
                if let Some(own) = caller {
                    crate::run::note_flush_while_waiting(own);
                }
                core::hint::spin_loop();
            }
        }
    }

    /// Number of vCPUs.
    #[inline]
    pub fn vcpu_count(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }

    /// Sets the number of vCPUs.
    pub fn set_vcpu_count(&self, count: usize) {
        self.count
            .store(count.min(MAX_VCPUS) as u32, Ordering::Relaxed);
    }

    /// A vCPU by number.
    pub fn vcpu(&self, index: usize) -> Option<&'static Vcpu> {
        get(self.id).vcpus[..self.vcpu_count()].get(index)
    }

    /// vCPUs in use.
    pub fn active_vcpus(&self) -> impl Iterator<Item = &'static Vcpu> + use<> {
        get(self.id).vcpus[..self.vcpu_count()].iter()
    }

    /// Gives the VM the interrupt controllers of a PC with one IOAPIC, as after power-up.
    pub fn become_pc(&self) {
        self.reset_devices();
        let mut ioapics = self.ioapics.lock();
        ioapics.clear();
        let device = VIoApic::new(0, Gsi(0), USER_IOAPIC_PINS);
        let _ = ioapics.try_push((guest_map::IOAPIC_BASE, device));
    }

    /// Forgets the devices' state, for a reset or a new VM in this slot.
    pub fn reset_devices(&self) {
        *self.pic.lock() = VPic::new();
        self.pic_output.store(false, Ordering::Relaxed);
        for (_, ioapic) in self.ioapics.lock().iter_mut() {
            ioapic.reset();
        }
        *self.asserted.lock() = [0; SHARED_LINES];
        self.uart.lock().reset();
        if let Some(counters) = self.counters.lock().as_mut() {
            counters.reset();
        }
        if let Some(timer) = self.interval_timer.lock().as_mut() {
            timer.reset();
        }
        *self.config_address.lock() = 0;
        *self.pm.lock() = Pm::new();
    }
}
