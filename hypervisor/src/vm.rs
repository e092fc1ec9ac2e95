//! A virtual machine: its vCPUs, its devices, its map of memory.
//!
//! VMs live in a static table. What other CPUs may touch is behind locks that are held for a few
//! instructions; no lock is held while a guest runs.

use crate::exit::hypercall::Batch;
use crate::interval_timer::IntervalTimer;
use crate::serial::Ports;
use crate::vcpu::{Vcpu, request};
use crate::virt::NestedTable;
use crate::virtual_pci::Functions;
use crate::{config, lapic_passthrough, memory, percpu, virtual_pci};
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Bdf, Gpa, Gsi, Hpa, PAGE_SIZE, Vector, VmId, guest_map};
use acrn_config_blob::LoadOrder;
use acrn_lifecycle::validate::UartPlace;
use acrn_lifecycle::{Restarts, Severity, Standing, VmState};
use acrn_memory::Access;
use acrn_vdev::counters::Counters;
use acrn_vdev::interrupt::{Delivery, DeliveryMode, Destination};
use acrn_vdev::ioapic::VIoApic;
use acrn_vdev::lapic::{LapicIdentity, route};
use acrn_vdev::pic::VPic;
use acrn_vdev::pm::Pm;
use acrn_vdev::rtc::VRtc;
use acrn_vdev::uart::VUart;
use arrayvec::ArrayVec;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use spin::Mutex;

/// Most VMs at a time, the Service VM included.
pub const MAX_VMS: usize = acrn_config_use::SLOTS as usize;
/// Most vCPUs of a VM: the I/O request page has that many slots.
pub const MAX_VCPUS: usize = 16;
/// Pins of a User VM's IOAPIC.
pub const USER_IOAPIC_PINS: u8 = 48;
/// Lines that several devices of the hypervisor may share.
const SHARED_LINES: usize = 64;
/// The console's number among the sources of a line.
pub const CONSOLE_SOURCE: u8 = 0;

/// Where a guest finds the UART of its console.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ConsolePlace {
    /// Nowhere: the guest has none.
    Absent,
    /// At I/O ports.
    Ports(UartPlace),
    /// On a PCI card.
    Card {
        /// The card.
        bdf: Bdf,
        /// The UART's interrupt as the card has told it.
        told: bool,
    },
}

/// The UART of a guest's console.
pub struct ConsoleUart {
    /// Where it is.
    pub place: ConsolePlace,
    /// The device.
    pub device: VUart,
}

impl ConsoleUart {
    /// None, until it gets a place.
    const fn absent() -> Self {
        Self {
            place: ConsolePlace::Absent,
            device: VUart::new(),
        }
    }

    /// Whether the guest has it.
    pub fn is_there(&self) -> bool {
        self.place != ConsolePlace::Absent
    }

    /// Gives it to the guest, as after power-up.
    pub fn put(&mut self, place: ConsolePlace) {
        *self = Self {
            place,
            ..Self::absent()
        };
    }

    /// Takes it from the guest.
    pub fn remove(&mut self) {
        self.place = ConsolePlace::Absent;
    }

    /// As after power-up.
    fn reset(&mut self) {
        self.device = VUart::new();
        if let ConsolePlace::Card { told, .. } = &mut self.place {
            *told = false;
        }
    }
}

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

/// The table, in the pool: its initial values would only make the image larger.
static VMS: AtomicPtr<Vm> = AtomicPtr::new(core::ptr::null_mut());

/// Makes the table of empty slots; once, at boot. `None` when the pool is too small.
pub fn make_table() -> Option<()> {
    let table = place::<Vm>(MAX_VMS)?;
    for id in 0..MAX_VMS as u16 {
        let vcpus = place::<Vcpu>(MAX_VCPUS)?;
        for index in 0..MAX_VCPUS as u16 {
            // SAFETY: inside the memory that was just taken for this many vCPUs; their VM is
            // written below, before the table is shown to anybody.
            unsafe {
                let home = table.add(id.into()).cast_const();
                fill(vcpus.add(index.into()), || Vcpu::new(home, id, index));
            }
        }
        // SAFETY: all MAX_VCPUS elements have been written and live for ever; likewise the slot
        // is inside the table.
        unsafe {
            let vcpus = core::slice::from_raw_parts(vcpus, MAX_VCPUS);
            fill(table.add(id.into()), || Vm::new(id, vcpus));
        }
    }
    VMS.store(table, Ordering::Release);
    Some(())
}

/// Room for `count` values in the pool, which have yet to be written.
fn place<T>(count: usize) -> Option<*mut T> {
    let size = (size_of::<T>() * count) as u64;
    memory::allocate_unset(size, PAGE_SIZE).map(|start| start.get() as *mut T)
}

/// Makes a value in its place. Values of several pages must not become part of the caller's frame.
///
/// # Safety
/// `place` is aligned room for a value.
#[inline(never)]
unsafe fn fill<T>(place: *mut T, make: impl FnOnce() -> T) {
    // SAFETY: the caller's duty.
    unsafe { place.write(make()) };
}

/// All slots; none before [`make_table`].
#[inline]
pub fn all() -> &'static [Vm] {
    let table = VMS.load(Ordering::Relaxed);
    let count = if table.is_null() { 0 } else { MAX_VMS };
    let table = if table.is_null() {
        core::ptr::dangling()
    } else {
        table.cast_const()
    };
    // SAFETY: once the pointer is set, the whole table is written and lives for ever.
    unsafe { core::slice::from_raw_parts(table, count) }
}

/// A VM by number, which is taken modulo [`MAX_VMS`].
#[inline]
pub fn get(id: VmId) -> &'static Vm {
    let table = VMS.load(Ordering::Relaxed);
    assert!(
        !table.is_null(),
        "VMs are asked for before their table is made"
    );
    // SAFETY: the table has MAX_VMS written elements and lives for ever.
    unsafe { &*table.add(id.index() % MAX_VMS) }
}

/// The Service VM.
#[inline]
pub fn service() -> &'static Vm {
    get(VmId(0))
}

/// Which input of the 8259 pair is the same line as each of the first pins of the IOAPICs.
struct PicInputs([AtomicU8; Self::PINS]);

impl PicInputs {
    const PINS: usize = 24;
    const NONE: u8 = u8::MAX;

    /// As in a PC: the numbers are the same, but for the timer, which is on pin 2 of the IOAPIC
    /// and input 0 of the 8259s.
    const fn new() -> Self {
        let mut inputs = [const { AtomicU8::new(Self::NONE) }; Self::PINS];
        let mut pin = 0;
        while pin < 16 {
            inputs[pin] = AtomicU8::new(if pin == 2 { 0 } else { pin as u8 });
            pin += 1;
        }
        Self(inputs)
    }

    fn of(&self, gsi: Gsi) -> Option<u8> {
        let input = self.0.get(gsi.0 as usize)?.load(Ordering::Relaxed);
        (input != Self::NONE).then_some(input)
    }
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

    /// Host address of a guest address; `None` where the guest has no memory.
    #[inline]
    pub fn translate(&self, gpa: Gpa) -> Option<Hpa> {
        let guard = self.nested.lock();
        let mapping = guard.as_ref()?.translate(gpa)?;
        Some(mapping.hpa)
    }

    /// Host address of a guest address where the guest may write.
    pub fn translate_for_write(&self, gpa: Gpa) -> Option<Hpa> {
        let guard = self.nested.lock();
        let mapping = guard.as_ref()?.translate(gpa)?;
        mapping
            .access
            .contains(Access::WRITE)
            .then_some(mapping.hpa)
    }

    /// Reads 8 bytes of guest memory.
    pub fn read_word(&self, gpa: Gpa) -> Option<u64> {
        let mut word = [0; 8];
        self.read(gpa, &mut word).then(|| u64::from_le_bytes(word))
    }

    /// Copies guest memory out; `false` when part of the range is not there.
    pub fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> bool {
        let mut done = 0;
        while done < buffer.len() {
            let Some(at) = gpa.checked_add(done as u64) else {
                return false;
            };
            let here = ((PAGE_SIZE - at.page_offset()) as usize).min(buffer.len() - done);
            let Some(hpa) = self.translate(at) else {
                return false;
            };
            if !memory::read_guest(hpa, &mut buffer[done..done + here]) {
                return false;
            }
            done += here;
        }
        true
    }

    /// Copies into guest memory; `false` when part of the range is not there, or not writable.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let Some(at) = gpa.checked_add(done as u64) else {
                return false;
            };
            let here = ((PAGE_SIZE - at.page_offset()) as usize).min(bytes.len() - done);
            let Some(hpa) = self.translate_for_write(at) else {
                return false;
            };
            if !memory::write_guest(hpa, &bytes[done..done + here]) {
                return false;
            }
            done += here;
        }
        true
    }

    /// Whether the 8259 pair has an interrupt, from a cached copy: cheap enough for each entry.
    #[inline]
    pub fn pic_output(&self) -> bool {
        self.pic_output.load(Ordering::Relaxed)
    }

    /// Works on the 8259 pair; tells the bootstrap processor when its output rose.
    pub fn with_pic<R>(&self, work: impl FnOnce(&mut VPic) -> R) -> R {
        let mut pic = self.pic.lock();
        let result = work(&mut pic);
        let output = pic.has_interrupt();
        let before = self.pic_output.swap(output, Ordering::Relaxed);
        drop(pic);
        if output && !before && self.vcpu_count() > 0 {
            get(self.id).vcpus[0].ask(request::EXTINT);
        }
        result
    }

    /// Reads a port of the 8259 pair.
    #[inline]
    pub fn read_pic(&self, port: u16) -> u8 {
        let value = self.pic.lock().peek(port);
        value.unwrap_or_else(|| self.with_pic(|pic| pic.read(port)))
    }

    /// Acknowledges the 8259 pair's interrupt, if there still is one.
    pub fn pic_acknowledge(&self) -> Option<u8> {
        self.with_pic(|pic| pic.has_interrupt().then(|| pic.acknowledge().0))
    }

    /// Sends an interrupt message to the local APICs that it addresses.
    pub fn deliver(&self, delivery: Delivery) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let identities = &self.identities[..self.vcpu_count()];
        for index in route(identities, delivery.destination, delivery.mode, turn) {
            let Some(vcpu) = self.vcpu(index) else {
                continue;
            };
            match delivery.mode {
                DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                    vcpu.post(delivery.vector, delivery.level);
                }
                DeliveryMode::Nmi => vcpu.ask(request::NMI),
                DeliveryMode::Init => vcpu.ask(request::INIT),
                DeliveryMode::ExtInt => vcpu.ask(request::EXTINT),
                DeliveryMode::Smi | DeliveryMode::Reserved | DeliveryMode::StartUp => {}
            }
        }
    }

    /// Physical CPU of the first vCPU that a message reaches, for programming hardware.
    pub fn target_cpu(&self, destination: Destination) -> Option<&'static Vcpu> {
        let identities = &self.identities[..self.vcpu_count()];
        let index = route(identities, destination, DeliveryMode::Fixed, 0).next()?;
        self.vcpu(index)
    }

    /// Connects the lines of the machine to the inputs of the 8259 pair as its tables say. Before
    /// the VM runs.
    pub fn connect_pic(&self, input: impl Fn(Gsi) -> Option<u8>) {
        for (pin, slot) in self.pic_inputs.0.iter().enumerate() {
            let input = input(Gsi(pin as u32)).unwrap_or(PicInputs::NONE);
            slot.store(input, Ordering::Relaxed);
        }
    }

    /// Sets an interrupt line: the IOAPIC pin and the 8259 input, where it has one.
    pub fn set_line(&self, gsi: Gsi, asserted: bool) {
        self.with_pin(gsi, |ioapic, pin| ioapic.set_level(pin, asserted));
        if let Some(irq) = self.pic_inputs.of(gsi) {
            self.with_pic(|pic| pic.set_irq(irq, asserted));
        }
    }

    /// One of the devices that share a line asserts it or does not.
    pub fn set_shared_line(&self, gsi: Gsi, source: u8, asserted: bool) {
        let mut lines = self.asserted.lock();
        let Some(by) = lines.get_mut(gsi.0 as usize) else {
            return;
        };
        let bit = 1u32.checked_shl(source.into()).unwrap_or(0);
        *by = if asserted { *by | bit } else { *by & !bit };
        // With the lock, so that nobody undoes a newer level with an older one.
        self.set_line(gsi, *by != 0);
    }

    /// A short pulse on an interrupt line.
    pub fn pulse_line(&self, gsi: Gsi) {
        self.with_pin(gsi, |ioapic, pin| ioapic.pulse(pin));
        if let Some(irq) = self.pic_inputs.of(gsi) {
            self.with_pic(|pic| {
                pic.set_irq(irq, true);
                pic.set_irq(irq, false);
            });
        }
    }

    fn with_pin(&self, gsi: Gsi, work: impl FnOnce(&mut VIoApic, u8) -> Option<Delivery>) {
        let delivery = {
            let mut ioapics = self.ioapics.lock();
            ioapics
                .iter_mut()
                .find_map(|(_, ioapic)| ioapic.pin_of(gsi).map(|pin| (ioapic, pin)))
                .and_then(|(ioapic, pin)| work(ioapic, pin))
        };
        if let Some(delivery) = delivery {
            self.deliver(delivery);
            if delivery.level && self.owns_apics() {
                self.forget_service(delivery.vector);
            }
        }
    }

    /// Nobody will hear of the EOI to a level-triggered interrupt: its pins may send again when their
    /// lines rise again.
    fn forget_service(&self, vector: Vector) {
        let given = |vcpu: &Vcpu| percpu::get(vcpu.pcpu()).is_apic_given();
        if self.active_vcpus().any(given) {
            let mut ioapics = self.ioapics.lock();
            ioapics
                .iter_mut()
                .for_each(|(_, ioapic)| ioapic.forget_service(vector));
        }
    }

    /// A guest ended a level-triggered interrupt: lines that are still high deliver again, and
    /// passed-through ones are opened at the hardware.
    pub fn end_of_interrupt(&self, vector: Vector) {
        let mut again: ArrayVec<Delivery, 8> = ArrayVec::new();
        let mut ended: ArrayVec<Gsi, 8> = ArrayVec::new();
        {
            let mut ioapics = self.ioapics.lock();
            for (_, ioapic) in ioapics.iter_mut() {
                let base = ioapic.gsi_base().0;
                // A passed-through line falls first: the hardware says whether it is still high
                // once its pin is open again.
                for pin in 0..ioapic.pins() {
                    let gsi = Gsi(base + u32::from(pin));
                    let concerned = ioapic.is_asserted(pin)
                        && ioapic
                            .rte(pin)
                            .is_some_and(|r| r.level() && r.vector() == vector)
                        && crate::irq::is_passed_through(self.id, gsi);
                    if concerned && ended.try_push(gsi).is_ok() {
                        let _ = ioapic.set_level(pin, false);
                    }
                }
                ioapic.end_of_interrupt(vector, &mut |_, delivery| {
                    if let Some(delivery) = delivery {
                        let _ = again.try_push(delivery);
                    }
                });
            }
        }
        for gsi in ended {
            if let Some(irq) = self.pic_inputs.of(gsi) {
                self.with_pic(|pic| pic.set_irq(irq, false));
            }
            crate::irq::reopen(self, gsi);
        }
        for delivery in again {
            self.deliver(delivery);
        }
    }

    /// Brings the UART's interrupt in step with the device.
    pub fn refresh_uart_line(&self) {
        // The lock is held until the line is set: another CPU that changes the UART in between
        // would see its own, newer level undone, and the guest would miss an interrupt for good.
        let mut uart = self.uart.lock();
        let level = uart.device.irq();
        match &mut uart.place {
            ConsolePlace::Absent => {}
            ConsolePlace::Ports(place) => self.set_shared_line(place.gsi, CONSOLE_SOURCE, level),
            ConsolePlace::Card { bdf, told } => {
                let before = core::mem::replace(told, level);
                if level && !before {
                    virtual_pci::raise(self, *bdf, 0);
                }
            }
        }
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
