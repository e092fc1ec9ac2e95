//! Switching the machine off, suspending and resetting it: for the shell, and for the Service VM, whose
//! writes to the registers that do it come here, so that other VMs end first.

use crate::arch::{cpu, device, tsc};
use crate::exit::io::{Answer, host_port};
use crate::sleep;
use crate::static_vm::{self, Owed};
use crate::vcpu::Vcpu;
use crate::vm;
use acrn_abi::{Bdf, Hpa};
use acrn_acpi::{Fadt, Register, SleepType};
use core::arch::asm;

/// PM1_CNT.SLP_EN and SLP_TYP (ACPI 4.8.3.2.1).
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 7 << 10;
/// The same in the sleep control register of hardware-reduced ACPI (4.8.3.7).
const REDUCED_ENABLE: u8 = 1 << 5;

/// Time that a machine may take to switch off: some wait for their disks.
const OFF_MS: u64 = 10_000;
/// Time that a machine may take to fall asleep.
const SUSPEND_MS: u64 = 2_000;
/// Time that a reset may take before the next way is tried.
const RESET_MS: u64 = 200;

fn fadt() -> Option<&'static Fadt> {
    crate::boot::platform().and_then(|platform| platform.fadt.as_ref())
}

/// First ports of the PM1 control registers.
fn control_ports() -> impl Iterator<Item = u16> {
    let registers = fadt().map(|fadt| [fadt.pm1a_control, fadt.pm1b_control]);
    let registers = registers.into_iter().flatten().flatten();
    registers.filter_map(|register| register.port())
}

fn reset_port() -> Option<u16> {
    fadt().and_then(|fadt| fadt.reset?.port())
}

/// Ports of the Service VM that lead here.
pub fn ports() -> impl Iterator<Item = u16> {
    let control = control_ports().flat_map(|base| [base, base.saturating_add(1)]);
    control.chain(reset_port())
}

/// Place of an access in a control register: bits to shift, if it stays inside.
fn lane(port: u16, size: u8) -> Option<u16> {
    let found = control_ports().find(|base| port.wrapping_sub(*base) < 2)?;
    let offset = port - found;
    (offset + u16::from(size) <= 2).then_some(offset * 8)
}

/// Whether an access is to one register here and nothing else.
pub fn is_register(port: u16, size: u8) -> bool {
    lane(port, size).is_some() || size == 1 && reset_port() == Some(port)
}

/// An access of the Service VM for which [`is_register`] holds.
pub fn register(vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> Answer {
    let Some(value) = write else {
        return Answer::Done(host_port(port, size, None));
    };
    let resets = fadt().is_some_and(|fadt| u32::from(fadt.reset_value) == value & 0xff);
    if reset_port() == Some(port) && resets {
        return service_reset(vcpu, "the ACPI reset register");
    }
    if let Some(shift) = lane(port, size) {
        let value = (value << shift) as u16;
        if value & SLEEP_ENABLE != 0 {
            return service_sleep(vcpu, (value & SLEEP_TYPE) >> 10);
        }
    }
    Answer::Done(host_port(port, size, write))
}

fn service_sleep(vcpu: &Vcpu, kind: u16) -> Answer {
    let s5 = crate::boot::platform().and_then(|platform| platform.s5);
    if s5.is_some_and(|s5| kind == s5.a.into()) {
        let vm = vcpu.vm();
        let owed = static_vm::after_power_off(vm);
        if static_vm::others_run(vm) || owed != Owed::Off {
            info!("the Service VM switches itself off");
            static_vm::owe_guest(vcpu, owed);
            return Answer::Done(0);
        }
        info!("the Service VM powers the machine off");
        off();
    }
    if crate::boot::platform()
        .and_then(|platform| platform.s3)
        .is_some_and(|s3| kind == s3.a.into())
    {
        sleep::service_suspends(vcpu);
        return Answer::Done(0);
    }
    if crate::log::limited() {
        warning!("the Service VM asks for sleep type {kind:#x}: not supported");
    }
    Answer::Done(0)
}

/// Switches the machine off by ACPI; returns never.
pub fn off() -> ! {
    enter(crate::boot::platform().and_then(|platform| platform.s5));
    wait(OFF_MS);
    error!("the machine does not switch off by ACPI; stopped");
    cpu::halt_forever()
}

/// Has the machine sleep with its memory kept. Returns only when it does not.
pub fn suspend() {
    enter(crate::boot::platform().and_then(|platform| platform.s3));
    wait(SUSPEND_MS);
}

/// Whether the registers are where the firmware's tables say.
pub fn answers() -> bool {
    // SAFETY: reading the register has no effect.
    control_ports().all(|port| unsafe { cpu::inw(port) } != u16::MAX)
}

/// Enters a sleep state by ACPI, where the machine has it.
fn enter(state: Option<SleepType>) {
    let Some((fadt, state)) = fadt().zip(state) else {
        return;
    };
    let pairs = [(fadt.pm1a_control, state.a), (fadt.pm1b_control, state.b)];
    let ports = pairs.map(|(register, kind)| register.and_then(|r| Some((r.port()?, kind))));
    // The type goes to both halves before the first is told to sleep.
    for (port, kind) in ports.into_iter().flatten() {
        write_control(port, kind, 0);
    }
    for (port, kind) in ports.into_iter().flatten() {
        write_control(port, kind, SLEEP_ENABLE);
    }
    if let Some(register) = fadt.sleep_control {
        write(&register, state.a << 2 | REDUCED_ENABLE);
    }
}

fn write_control(port: u16, kind: u8, enable: u16) {
    // SAFETY: what runs has ended or is at rest; other bits stay.
    unsafe {
        let kept = cpu::inw(port) & !(SLEEP_TYPE | SLEEP_ENABLE);
        cpu::outw(port, kept | u16::from(kind) << 10 | enable);
    }
}

/// One byte to a register that the FADT names.
fn write(register: &Register, value: u8) {
    match register.space {
        Register::IO => {
            if let Some(port) = register.port() {
                // SAFETY: a register whose purpose is to end what runs.
                unsafe { cpu::outb(port, value) };
            }
        }
        Register::MEMORY => device::write(Hpa(register.address), 1, value.into()),
        Register::PCI => {
            let at = register.address;
            let bdf = Bdf::new(0, (at >> 32 & 0x1f) as u8, (at >> 16 & 7) as u8);
            device::config_write(bdf, (at & 0xff) as u16, 1, value.into());
        }
        _ => {}
    }
}

fn wait(ms: u64) {
    tsc::delay_us(ms * 1000);
}

/// Resets the machine by the first of all known ways that works; returns never.
pub fn reboot() -> ! {
    if let Some(fadt) = fadt() {
        if let Some(register) = fadt.reset {
            write(&register, fadt.reset_value);
            wait(RESET_MS);
        }
    }
    // SAFETY: the traditional ways to reset a PC: the reset control register, the keyboard
    // controller once it takes commands, port 0x92.
    unsafe {
        cpu::outb(0xcf9, 0x02);
        cpu::outb(0xcf9, 0x06);
        wait(RESET_MS);
        for _ in 0..1000 {
            if cpu::inb(0x64) & 2 == 0 {
                break;
            }
            tsc::delay_us(10);
        }
        cpu::outb(0x64, 0xfe);
        wait(RESET_MS);
        cpu::outb(0x92, cpu::inb(0x92) & !1 | 1);
        wait(RESET_MS);
    }
    triple_fault()
}

/// No handler for anything: the processor gives up, which a machine takes as a reset.
fn triple_fault() -> ! {
    let nothing = [0u16; 5];
    // SAFETY: nothing is to go on behind this.
    unsafe {
        asm!("lidt [{}]", "int3", in(reg) nothing.as_ptr(), options(nostack, readonly));
    }
    cpu::halt_forever()
}

/// The Service VM resets itself, and with it the machine, unless other VMs go on.
pub fn service_reset(vcpu: &Vcpu, by: &str) -> Answer {
    if static_vm::others_run(vcpu.vm()) {
        info!("the Service VM resets itself by {by}");
        static_vm::owe_guest(vcpu, Owed::Reset);
        return Answer::Done(0);
    }
    info!("the Service VM resets the machine by {by}");
    for vm in vm::all().iter().filter(|vm| vm.id != vcpu.vm_id()) {
        vm.stop_running();
    }
    reboot()
}
