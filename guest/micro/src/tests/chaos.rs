//! A stream of accesses that follows no plan but its seed: MSRs, ports, device memory, hypercalls,
//! CPUID, control registers, in any order, with any values that leave the micro-guest itself
//! standing. Meanwhile another CPU of the VM works, and another VM.

use super::hypercalls::call;
use super::vm::{COUNTING, UserVm, counter};
use crate::apic;
use crate::cpu::{self, cpuid, ms, rdmsr, wait_for, wrmsr};
use crate::report::Test;
use crate::trap::{GP, guarded};
use crate::{params, smp, window};
use acrn_abi::hypercall::HypercallId as Id;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The stream of each run, unless the command line has `seed=N` or `steps=N`.
const SEED: u64 = 0x0123_4567_89ab_cdef;
const STEPS: u64 = 30_000;

fn setting(name: &str, default: u64) -> u64 {
    let words = params::command_line().split(' ');
    let mut value = words.filter_map(|word| word.strip_prefix(name)?.parse().ok());
    value.next_back().unwrap_or(default)
}

/// xorshift64*.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Values that break things more often than random ones do.
    pub(super) fn value(&mut self) -> u64 {
        let random = self.next();
        match random % 8 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (random >> 8 & 63),
            3 => (1 << (random >> 8 & 63)) - 1,
            4 => random >> 32,
            5 => random >> 56,
            _ => random,
        }
    }
}

static HEARTBEAT: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicBool = AtomicBool::new(false);

/// What the other CPU does: exits of its own.
fn work() {
    while !OVER.load(Ordering::SeqCst) {
        core::hint::black_box(cpuid(0, 0));
        core::hint::black_box(apic::read(apic::reg::VERSION));
        HEARTBEAT.fetch_add(1, Ordering::SeqCst);
    }
}

/// MSRs that the micro-guest itself stands on, or that stop time for it.
fn is_vital(index: u32) -> bool {
    matches!(
        index,
        0x10 | 0x1b | 0x3b | 0x6e0 | 0xc000_0080 | 0xc000_0101
    ) || (0x800..0x900).contains(&index)
}

fn any_msr(random: &mut Random) {
    let base = [
        0,
        0x150,
        0x200,
        0x400,
        0x680,
        0x800,
        0xc000_0080,
        0xc001_0000,
    ];
    let index = match random.below(4) {
        0 => random.value() as u32,
        _ => base[random.below(8) as usize] + random.below(0x120) as u32,
    };
    let value = random.value();
    let _ = guarded(index, |index| {
        core::hint::black_box(rdmsr(index));
    });
    if !is_vital(index) {
        let _ = guarded((index, value), |(index, value)| wrmsr(index, value));
    }
}

fn any_port(random: &mut Random) {
    let port = random.next() as u16;
    // Neither the console nor the device that ends the test.
    if (0x3f0..0x400).contains(&port) || (0xf0..0xf8).contains(&port) {
        return;
    }
    let value = match random.below(3) {
        0 => cpu::inb(port).into(),
        1 => cpu::inw(port).into(),
        _ => cpu::inl(port),
    };
    core::hint::black_box(value);
    // Writes where the hypervisor is in between: configuration addresses, the 8259s, and the
    // registers of functions that are not there.
    let value = random.value() as u32;
    match random.below(4) {
        0 => cpu::outb(
            [0x20, 0x21, 0xa0, 0xa1][random.below(4) as usize],
            value as u8,
        ),
        1 => {
            cpu::outl(0xcf8, value | 0x8000_0000);
            core::hint::black_box(cpu::inl(0xcfc));
        }
        2 => {
            cpu::outl(0xcf8, value & 0xff | 0x8000_0000 | 0x1f_f000);
            cpu::outl(0xcfc, value);
        }
        _ => cpu::outw(0xcf8, value as u16 & !0x400),
    }
    cpu::outb(0x21, 0xff);
    cpu::outb(0xa1, 0xff);
}

fn any_memory(random: &mut Random) {
    let bits = cpu::physical_bits().min(48);
    let address = match random.below(4) {
        0 => 0xfee0_0000 + random.below(0x1000),
        1 => 0xfec0_0000 + random.below(0x1000),
        2 => 0xb000_0000 + random.below(0x1000_0000),
        _ => random.value() & ((1 << bits) - 1),
    } & !7;
    // Registers of devices below 4 GiB are somebody's; reading some of them pops what was there.
    let harmless = address >= 1 << 32 || (0xb000_0000..0xc000_0000).contains(&address);
    let controller = (0xfec0_0000..0xfef0_0000).contains(&address);
    if !harmless && !controller {
        return;
    }
    core::hint::black_box(window::read(address));
    // What may be written without sending interrupts: a register select, a spurious write.
    if (0xfec0_0000..0xfec0_0010).contains(&address) {
        window::write(address, random.value() as u32);
    }
}

fn any_hypercall(random: &mut Random, own: u64) {
    let number = random.below(0x100) | u64::from(Id::PREFIX);
    let id = if random.below(8) == 0 {
        random.value()
    } else {
        number
    };
    // These would stop the other CPU, and the upcall.
    if id == u64::from(Id::SERVICE_VM_OFFLINE_CPU.0) || id == u64::from(Id::SET_CALLBACK_VECTOR.0) {
        return;
    }
    // SAFETY: the pages are this test's.
    unsafe {
        for word in 0..16 {
            (own as *mut u64).add(word).write_volatile(random.value());
        }
    }
    let mut argument = || match random.below(4) {
        0 => own,
        1 => own + random.below(0x1000),
        2 => 2 + random.below(14),
        _ => random.value(),
    };
    let (first, second) = (argument(), argument());
    // The neighbour is VM 1.
    if first as u16 != 1 && first != 1 {
        let _ = guarded((id, first, second), |(id, first, second)| {
            core::hint::black_box(call(id, first, second));
        });
    }
}

/// Control registers with bits that nothing here depends on; what is refused faults.
fn any_control(random: &mut Random) {
    let value = random.value();
    match random.below(3) {
        0 => {
            // SMEP and SMAP would take this code away, OSFXSR its instructions.
            let old = cpu::read_cr4();
            let kept = 1 << 5 | 1 << 9 | 1 << 10;
            let wanted = value & 0x3f_ffff & !(1 << 20 | 1 << 21) | kept;
            let _ = guarded(wanted, cpu::write_cr4);
            cpu::write_cr4(old);
        }
        1 => {
            let _ = guarded(value, cpu::write_cr8);
            cpu::write_cr8(0);
        }
        _ => {
            let _ = guarded((value as u32 & 3, value), |(index, value)| {
                cpu::xsetbv(index, value)
            });
        }
    }
}

fn any_instruction(random: &mut Random) {
    match random.below(4) {
        0 => {
            core::hint::black_box(cpuid(random.value() as u32, random.value() as u32));
        }
        1 => {
            // SAFETY: writes caches back.
            unsafe { asm!("wbinvd", options(nostack)) };
        }
        2 => {
            let _ = guarded((), |()| {
                // SAFETY: has to fault.
                unsafe { asm!(".byte 0x0f,0x01,0xd8", in("rax") 0u64) };
            });
        }
        _ => {
            // An IPI to nobody.
            apic::command(0x7e, random.value() as u32 & 0xff | 0x4000);
        }
    }
}

pub(super) fn stream(t: &Test) {
    static mut PAGES: [u64; 3 * 512] = [0; 3 * 512];
    let own = ((&raw mut PAGES) as u64 + 4096) & !0xfff;
    let vm = match UserVm::prepared(b"neighbour", if smp::count() > 1 { 2 } else { 1 }, COUNTING) {
        Ok(vm) => vm,
        Err(result) => return expect!(t, false, "CREATE_VM: {result}"),
    };
    expect!(t, vm.start() == 0, "START_VM");
    OVER.store(false, Ordering::SeqCst);
    let others = smp::start_all() > 1;
    if others {
        smp::begin_on(1, work);
    }
    let (beats, counted) = (HEARTBEAT.load(Ordering::SeqCst), counter());
    let mut random = Random(setting("seed=", SEED).max(1));
    for _ in 0..setting("steps=", STEPS) {
        match random.below(6) {
            0 => any_msr(&mut random),
            1 => any_port(&mut random),
            2 => any_memory(&mut random),
            3 => any_hypercall(&mut random, own),
            4 => any_control(&mut random),
            _ => any_instruction(&mut random),
        }
    }
    let alive = !others || wait_for(ms(10_000), || HEARTBEAT.load(Ordering::SeqCst) > beats);
    expect!(t, alive, "CPU 1 stands still");
    let alive = wait_for(ms(10_000), || counter() != counted);
    expect!(t, alive, "the other VM stands still");
    OVER.store(true, Ordering::SeqCst);
    let idle = !others || wait_for(ms(10_000), || smp::is_idle(1));
    expect!(t, idle, "CPU 1 does not come back");
    let name = cpuid(0x4000_0000, 0).ebx;
    expect!(
        t,
        name == acrn_abi::cpuid::SIGNATURE_REGISTER,
        "CPUID {name:#x}"
    );
    let mut version = [0u32; 2];
    let result = call(Id::GET_API_VERSION.0.into(), (&raw mut version) as u64, 0);
    expect!(t, result == 0, "GET_API_VERSION: {result}");
    for other in 2..16 {
        call(Id::PAUSE_VM.0.into(), other, 0);
        call(Id::DESTROY_VM.0.into(), other, 0);
    }
    expect!(t, vm.destroy() == 0, "DESTROY_VM of the neighbour");
    apic::initialise();
    apic::initialise_pic(0);
    // The registers that the stream was kept from fault as ever.
    expect!(
        t,
        guarded(0x480, |i| {
            core::hint::black_box(rdmsr(i));
        }) == GP,
        "RDMSR 0x480"
    );
}

/// INIT and start-up IPIs faster than any CPU can follow: it is stopped and started in the midst of
/// its start.
pub(super) fn startup_storm(t: &Test) {
    let (2.., Some(page)) = (smp::start_all(), params::low_page()) else {
        return;
    };
    let mut random = Random(SEED);
    for _ in 0..2000 {
        let low = match random.below(4) {
            0 => apic::INIT,
            // De-assert, which does nothing.
            1 => 0x8500,
            _ => apic::STARTUP | (page >> 12) as u32,
        };
        apic::command(1, low);
    }
    expect!(t, smp::start(1), "CPU 1 does not start after the storm");
    fn nothing() {}
    expect!(t, smp::run_on(1, nothing), "CPU 1 does not work after it");
}
