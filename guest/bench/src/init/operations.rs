//! The operations. Each is reached by the same kernel code in every set-up, so the
//! difference to the bare machine is the hypervisor's work alone.

use crate::figure::{Figure, series};
use crate::place::Place;
use std::arch::asm;
use std::arch::x86_64::__cpuid;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::{null, null_mut};

mod hypercall;

const COUNT: usize = 2000;
const PAGE: usize = 4096;
/// IA32_PAT: kept by every hypervisor, so reading it exits.
const PAT: u64 = 0x277;
/// Ports: mask of the first 8259, line status of COM1, data of the RTC.
const PORTS: [(&str, u64); 3] = [("port_pic", 0x21), ("port_uart", 0x3fd), ("port_rtc", 0x71)];
const IOAPIC: libc::off_t = 0xfec0_0000;

/// Measures whatever this place offers.
pub fn measure_all(place: Place) {
    let empty = series(COUNT, |_| true).map_or(0, |figure| figure.min);
    let print = |name: &str, figure: Option<Figure>| {
        if let Some(figure) = figure {
            figure.print(name, empty);
        }
    };
    print("cpuid", series(COUNT, |_| __cpuid(0).eax > 0));
    print("syscall", series(COUNT, |_| system_call()));
    print("msr_read", device_reads("/dev/cpu/0/msr", PAT, 8));
    for (name, port) in PORTS {
        print(name, device_reads("/dev/port", port, 1));
    }
    print("ioapic_read", ioapic_reads());
    let host_bridge = "/sys/bus/pci/devices/0000:00:00.0/config";
    print("pci_config", device_reads(host_bridge, 0, 4));
    print("timer_pair", timer_pairs());
    print("hypercall", hypercall::measure(place));
    print("page_fault", page_faults());
    print("context_switch", context_switches());
    print("sleep_100us", sleeps());
}

fn system_call() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::syscall(libc::SYS_getppid) >= 0 }
}

/// Reads through a device file: one instruction of the kernel and the system call around it.
fn device_reads(path: &str, offset: u64, size: usize) -> Option<Figure> {
    let file = File::open(path).ok()?;
    let mut buffer = [0_u8; 8];
    let buffer = buffer.get_mut(..size)?;
    series(COUNT, |_| file.read_exact_at(buffer, offset).is_ok())
}

/// Reads the IOAPIC's window register, whatever it is set to.
fn ioapic_reads() -> Option<Figure> {
    let memory = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_SYNC)
        .open("/dev/mem")
        .ok()?;
    let page = Mapping::new(PAGE, libc::MAP_SHARED, memory.as_raw_fd(), IOAPIC)?;
    let window = page.at(0x10);
    series(COUNT, |_| {
        let value: u32;
        // SAFETY: reads a mapped register without side effect.
        unsafe {
            asm!("mov {value:e}, [{window}]", value = out(reg) value, window = in(reg) window,
                options(nostack, readonly, preserves_flags));
        }
        let _ = value;
        true
    })
}

/// Arms a timer that becomes the next event of the CPU, and takes it back: the kernel
/// programs the local APIC's timer twice.
fn timer_pairs() -> Option<Figure> {
    // SAFETY: takes no pointers.
    let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, 0) };
    if timer < 0 {
        return None;
    }
    let set = |nanoseconds: libc::c_long| {
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: 0,
                tv_nsec: nanoseconds,
            },
        };
        // SAFETY: `value` lives until the call has returned.
        unsafe { libc::timerfd_settime(timer, 0, &raw const value, null_mut()) == 0 }
    };
    let figure = series(COUNT, |_| set(300_000) && set(0));
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(timer) };
    figure
}

/// Touches fresh pages of anonymous memory.
fn page_faults() -> Option<Figure> {
    let region = Mapping::new(COUNT * PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
    // SAFETY: the region is ours. Huge pages would make one fault of many.
    unsafe { libc::madvise(region.start, region.size, libc::MADV_NOHUGEPAGE) };
    series(COUNT, |index| {
        // SAFETY: within the mapping, which is writable.
        unsafe { region.at(index * PAGE).cast::<u8>().write_volatile(1) };
        true
    })
}

/// A byte to another process and back: two switches a round.
fn context_switches() -> Option<Figure> {
    let (there, back) = (pipe()?, pipe()?);
    // SAFETY: the child only calls read, write and _exit.
    match unsafe { libc::fork() } {
        -1 => None,
        0 => {
            // SAFETY: the descriptors are open; the child ends without unwinding.
            unsafe {
                libc::close(there[1]);
                while transfer(there[0], back[1]) {}
                libc::_exit(0)
            }
        }
        child => {
            let figure = series(COUNT, |_| {
                let byte = 0_u8;
                // SAFETY: one byte from a variable.
                (unsafe { libc::write(there[1], (&raw const byte).cast(), 1) } == 1) && {
                    let mut byte = 0_u8;
                    // SAFETY: one byte to a variable.
                    unsafe { libc::read(back[0], (&raw mut byte).cast(), 1) == 1 }
                }
            });
            // SAFETY: the descriptors are ours; the child ends at the end of its input.
            unsafe {
                there.into_iter().chain(back).for_each(|end| {
                    libc::close(end);
                });
                libc::waitpid(child, null_mut(), 0);
            }
            figure
        }
    }
}

/// Moves one byte; false at the end of the input.
fn transfer(from: i32, to: i32) -> bool {
    let mut byte = 0_u8;
    // SAFETY: one byte to and from a variable.
    unsafe {
        libc::read(from, (&raw mut byte).cast(), 1) == 1
            && libc::write(to, (&raw const byte).cast(), 1) == 1
    }
}

fn pipe() -> Option<[i32; 2]> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    (unsafe { libc::pipe(ends.as_mut_ptr()) } == 0).then_some(ends)
}

/// Sleeps of 100 microseconds, whole.
fn sleeps() -> Option<Figure> {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 100_000,
    };
    // The default lets the kernel batch wake-ups of 50 microseconds.
    // SAFETY: takes no pointers; `time` lives until the calls have returned.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64);
        series(COUNT, |_| {
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &raw const time, null_mut()) == 0
        })
    }
}

/// Mapped memory.
struct Mapping {
    start: *mut libc::c_void,
    size: usize,
}

impl Mapping {
    fn new(size: usize, flags: i32, file: i32, offset: libc::off_t) -> Option<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses a free place.
        let start = unsafe {
            libc::mmap(
                null::<u8>() as *mut _,
                size,
                protection,
                flags,
                file,
                offset,
            )
        };
        (start != libc::MAP_FAILED).then_some(Self { start, size })
    }

    fn at(&self, offset: usize) -> *mut libc::c_void {
        assert!(offset < self.size, "{offset} is outside of the mapping");
        self.start.wrapping_byte_add(offset)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` and no pointer into it is kept.
        unsafe { libc::munmap(self.start, self.size) };
    }
}
