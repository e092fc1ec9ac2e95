//! The serial console: the hypervisor's shell, or the UART of one VM at a time.
//!
//! While a VM has the console, its output goes straight out and what is typed goes to it; NUL
//! (Ctrl-Space) followed by `e` returns to the shell. The output of the other VMs is kept, the
//! last [`HISTORY`] bytes of each, and shown when its console is opened.

use crate::arch::{apic, tsc, uart};
use crate::percpu::{Calls, PerCpu};
use crate::vm::{self, MAX_VMS, Vm};
use crate::{irq, shell};
use acrn_abi::{PcpuId, VmId};
use acrn_acpi::Platform;
use acrn_lifecycle::validate::UartPlace;
use acrn_shell::{ConsoleInput, EscapeDetector};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use spin::Mutex;

/// Output that is kept of a VM whose console is not open, in bytes.
const HISTORY: usize = 4096;

/// Which VM has the console; `SHELL` for none.
static ATTACHED: AtomicU16 = AtomicU16::new(SHELL);
const SHELL: u16 = u16::MAX;

/// The UART has bytes for us, or may have.
static INPUT: AtomicBool = AtomicBool::new(false);
/// The VM's receive buffer was full: look again when it has read.
static BLOCKED: AtomicBool = AtomicBool::new(false);
/// The UART has an interrupt; else it is polled.
static BY_INTERRUPT: AtomicBool = AtomicBool::new(false);

static OUTPUT: Mutex<()> = Mutex::new(());
static ESCAPE: Mutex<EscapeDetector> = Mutex::new(EscapeDetector::new());

struct History {
    bytes: [u8; HISTORY],
    next: usize,
    length: usize,
}

static KEPT: [Mutex<History>; MAX_VMS] = [const {
    Mutex::new(History {
        bytes: [0; HISTORY],
        next: 0,
        length: 0,
    })
}; MAX_VMS];

impl History {
    fn push(&mut self, byte: u8) {
        self.bytes[self.next] = byte;
        self.next = (self.next + 1) % HISTORY;
        self.length = (self.length + 1).min(HISTORY);
    }

    fn take(&mut self, mut show: impl FnMut(u8)) {
        let start = (self.next + HISTORY - self.length) % HISTORY;
        for i in 0..self.length {
            show(self.bytes[(start + i) % HISTORY]);
        }
        self.length = 0;
    }
}

/// The UART without any lock, for the last words of a crash.
pub struct Raw;

impl fmt::Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(uart::send);
        Ok(())
    }
}

/// Output of the shell.
pub struct Out;

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let _guard = OUTPUT.lock();
        text.bytes().for_each(uart::send);
        Ok(())
    }
}

/// A piece of a log line.
pub fn write_log(text: &str) {
    let _guard = OUTPUT.lock();
    text.bytes().for_each(uart::send);
}

/// Gives the console to a VM and shows what it has said so far.
pub fn attach(id: VmId) {
    ATTACHED.store(id.0, Ordering::SeqCst);
    let _guard = OUTPUT.lock();
    KEPT[id.index() % MAX_VMS].lock().take(uart::send);
}

/// Takes the console back to the shell; where there is none, to the Service VM.
pub fn detach() {
    let service = vm::service();
    if !shell::is_on() && service.may_run() {
        attach(service.id);
        return;
    }
    ATTACHED.store(SHELL, Ordering::SeqCst);
    shell::prompt();
}

/// A VM has come to its end: if it has the console, the shell gets that.
pub fn left(id: VmId) {
    if ATTACHED.load(Ordering::SeqCst) == id.0 {
        detach();
    }
}

/// Forgets what a VM said, when another takes its slot; the shell gets its console.
pub fn forget(id: VmId) {
    KEPT[id.index() % MAX_VMS].lock().length = 0;
    left(id);
}

/// Moves a VM's output on: to the console, or to what is kept.
fn drain(vm: &Vm) {
    let attached = ATTACHED.load(Ordering::Relaxed) == vm.id.0;
    let mut uart = vm.uart.lock();
    let before = uart.device.irq();
    if attached {
        let _guard = OUTPUT.lock();
        while let Some(byte) = uart.device.transmit() {
            uart::send(byte);
        }
    } else {
        let mut kept = KEPT[vm.id.index()].lock();
        while let Some(byte) = uart.device.transmit() {
            kept.push(byte);
        }
    }
    let changed = before != uart.device.irq();
    drop(uart);
    if changed {
        vm.refresh_uart_line();
    }
    if BLOCKED.swap(false, Ordering::Relaxed) {
        request_input();
    }
}

/// A guest's access to the UART of its console, from a register on.
pub fn access(vm: &Vm, first: u8, size: u8, write: Option<u64>) -> u64 {
    let (value, changed) = {
        let mut uart = vm.uart.lock();
        let before = uart.device.irq();
        let value = uart.device.access(first, size, write);
        (value, before != uart.device.irq())
    };
    match write {
        Some(_) => drain(vm),
        None => room(vm),
    }
    // Draining changes the interrupt too, and looks for itself.
    if changed {
        vm.refresh_uart_line();
    }
    value
}

/// A VM read its receive buffer: there may be room again.
fn room(vm: &Vm) {
    if BLOCKED.load(Ordering::Relaxed) && ATTACHED.load(Ordering::Relaxed) == vm.id.0 {
        BLOCKED.store(false, Ordering::Relaxed);
        request_input();
    }
}

fn request_input() {
    INPUT.store(true, Ordering::SeqCst);
    crate::run::kick(crate::percpu::get(PcpuId(0)));
}

/// Lets the UART interrupt the bootstrap processor.
pub fn enable_input(platform: &Platform) {
    let irq = match uart::location() {
        uart::Location::Port(0x3f8 | 0x3e8) => 4,
        uart::Location::Port(0x2f8 | 0x2e8) => 3,
        _ => return,
    };
    let route = platform.madt.isa(irq);
    irq::claim_pin(
        route.gsi,
        apic::UART_VECTOR,
        route.level(),
        route.active_low(),
    );
    uart::enable_receive_interrupt();
    BY_INTERRUPT.store(true, Ordering::Relaxed);
}

/// Where the Service VM sees its UART: where the hypervisor's is, if that is where a PC has one, else at
/// COM1.
pub fn service_uart(platform: &Platform) -> UartPlace {
    let (port, irq) = match uart::location() {
        uart::Location::Port(port @ (0x2f8 | 0x2e8)) => (port, 3),
        uart::Location::Port(port @ 0x3e8) => (port, 4),
        _ => (0x3f8, 4),
    };
    let gsi = platform.madt.isa(irq).gsi;
    UartPlace { port, gsi }
}

/// Ports of the hypervisor's UART.
pub fn host_uart_ports() -> core::ops::Range<u16> {
    match uart::location() {
        uart::Location::Port(base) => base..base.saturating_add(8),
        _ => 0..0,
    }
}

/// Host TSC at which the UART is to be looked at again; `u64::MAX` when it has an interrupt. For
/// the run loop of the first CPU.
#[inline]
pub fn next_look(this: &PerCpu, now: u64) -> u64 {
    /// Fast enough for a person.
    const PERIOD_MS: u64 = 10;
    if BY_INTERRUPT.load(Ordering::Relaxed) || this.id().0 != 0 {
        return u64::MAX;
    }
    now.saturating_add(tsc::from_ms(PERIOD_MS))
}

/// The UART's interrupt.
pub fn interrupt(this: &PerCpu) {
    INPUT.store(true, Ordering::SeqCst);
    this.call(Calls::ATTENTION);
}

/// Takes what was typed; called by the run loop, does nothing on other CPUs than the first.
#[inline]
pub fn poll(this: &PerCpu) {
    if this.id().0 != 0 {
        return;
    }
    if INPUT.swap(false, Ordering::SeqCst) || !BY_INTERRUPT.load(Ordering::Relaxed) {
        read_input();
    }
}

#[cold]
fn read_input() {
    // One FIFO at a time: bounded, and the interrupt comes again for the rest.
    for _ in 0..64 {
        let attached = ATTACHED.load(Ordering::SeqCst);
        let full = || !vm::get(VmId(attached)).uart.lock().device.can_receive();
        if attached != SHELL && full() {
            BLOCKED.store(true, Ordering::SeqCst);
            // The VM may have made room before it could see that somebody waits for it.
            if full() {
                return;
            }
        }
        let Some(byte) = uart::receive() else { return };
        if attached == SHELL {
            shell::input(byte);
        } else {
            to_vm(VmId(attached), byte);
        }
    }
    INPUT.store(true, Ordering::SeqCst);
}

fn to_vm(id: VmId, byte: u8) {
    let vm = vm::get(id);
    let action = ESCAPE.lock().push(byte);
    match action {
        ConsoleInput::Wait => {}
        ConsoleInput::Byte(byte) => {
            vm.uart.lock().device.receive(byte);
        }
        ConsoleInput::NulAndByte(byte) => {
            let mut uart = vm.uart.lock();
            uart.device.receive(0);
            uart.device.receive(byte);
        }
        ConsoleInput::Break => vm.uart.lock().device.receive_break(),
        ConsoleInput::Leave if shell::is_on() => detach(),
        ConsoleInput::Leave => shell::refuse(),
        ConsoleInput::Next => {
            let next = (1..=MAX_VMS)
                .map(|step| VmId(((id.index() + step) % MAX_VMS) as u16))
                .find(|candidate| vm::get(*candidate).uart.lock().is_there());
            if let Some(next) = next {
                attach(next);
            }
        }
    }
    vm.refresh_uart_line();
}
