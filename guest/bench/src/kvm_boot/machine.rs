//! The machine on KVM and its run loop.

use crate::load::{CODE, DATA, Entry, GDT_LIMIT};
use anyhow::{Context, Result, bail};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, Msrs, kvm_msr_entry, kvm_pit_config, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::io::{Stdout, stdout};
use std::ptr::null_mut;
use vm_superio::Serial;
use vm_superio::Trigger;
use vmm_sys_util::eventfd::EventFd;

const COM1: u16 = 0x3f8;
const COM1_LINE: u32 = 4;
/// Command port of the keyboard controller, and its command that resets the machine.
const KEYBOARD: u16 = 0x64;
const RESET: u8 = 0xfe;
/// Three pages that KVM wants on Intel, and one more.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSC: u32 = 0x10;
const HUGE_PAGE: usize = 2 << 20;
/// CPUID.1:ECX: x2APIC, TSC deadline, hypervisor present.
const ADDED_FEATURES: u32 = 1 << 21 | 1 << 24 | 1 << 31;

/// The guest's memory.
pub struct Memory {
    start: *mut u8,
    size: usize,
}

impl Memory {
    /// Zeroed memory, of huge pages where the host has them.
    pub fn new(size: usize) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses a free place.
        let start = unsafe { libc::mmap(null_mut(), size + HUGE_PAGE, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            bail!("no memory: {}", std::io::Error::last_os_error());
        }
        let start = start.cast::<u8>();
        let start = start.wrapping_add(start.align_offset(HUGE_PAGE));
        // SAFETY: within the mapping. Without huge pages it is slower, no more.
        unsafe { libc::madvise(start.cast(), size, libc::MADV_HUGEPAGE) };
        Ok(Self { start, size })
    }

    /// Its content, before the guest runs.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lives as long as the program, and no vCPU exists while the
        // exclusive borrow does.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.size) }
    }
}

/// Raises COM1's line.
struct Line(EventFd);

impl Trigger for Line {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// A machine with one vCPU.
pub struct Machine {
    _vm: VmFd,
    vcpu: VcpuFd,
    serial: Serial<Line, vm_superio::serial::NoEvents, Stdout>,
}

impl Machine {
    /// Makes the machine around `memory`.
    pub fn new(memory: &Memory) -> Result<Self> {
        let kvm = Kvm::new().context("cannot use /dev/kvm")?;
        let vm = kvm.create_vm().context("KVM makes no VM")?;
        vm.set_tss_address(TSS)?;
        vm.set_identity_map_address(IDENTITY_MAP)?;
        vm.create_irq_chip()?;
        vm.create_pit2(kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        })?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.size as u64,
            userspace_addr: memory.start as u64,
        };
        // SAFETY: the memory is mapped as long as the program runs.
        unsafe { vm.set_user_memory_region(region)? };
        let line = EventFd::new(0)?;
        vm.register_irqfd(&line, COM1_LINE)?;
        let vcpu = vm.create_vcpu(0)?;
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        for leaf in cpuid.as_mut_slice() {
            match leaf.function {
                // The local APIC's id is 0.
                1 => {
                    leaf.ecx |= ADDED_FEATURES;
                    leaf.ebx &= 0x00ff_ffff;
                }
                0xb => leaf.edx = 0,
                _ => {}
            }
        }
        vcpu.set_cpuid2(&cpuid)?;
        Ok(Self {
            _vm: vm,
            vcpu,
            serial: Serial::new(Line(line), stdout()),
        })
    }

    /// Runs the guest until it resets itself.
    pub fn run(mut self, entry: &Entry) -> Result<()> {
        self.set_registers(entry)?;
        println!("{{\"bench\":\"entry\",\"tsc\":{}}}", self.guest_tsc()?);
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(KEYBOARD, [RESET])) | Ok(VcpuExit::Shutdown) => return Ok(()),
                Ok(VcpuExit::IoOut(port, bytes)) => {
                    if let (Some(register), [byte]) = (register_of(port), bytes) {
                        self.serial
                            .write(register, *byte)
                            .map_err(|e| anyhow::anyhow!("COM1: {e:?}"))?;
                    }
                }
                Ok(VcpuExit::IoIn(port, bytes)) => match (register_of(port), &mut *bytes) {
                    (Some(register), [byte]) => *byte = self.serial.read(register),
                    // There is no PCI bus.
                    _ if (0xcf8..0xd00).contains(&port) => bytes.fill(0xff),
                    _ => bytes.fill(0),
                },
                Ok(VcpuExit::MmioRead(_, bytes)) => bytes.fill(0xff),
                Ok(VcpuExit::MmioWrite(..)) => {}
                Ok(other) => bail!("the guest stopped: {other:?}"),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => bail!("KVM_RUN: {error}"),
            }
        }
    }

    fn guest_tsc(&self) -> Result<u64> {
        let wanted = kvm_msr_entry {
            index: TSC,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[wanted])?;
        self.vcpu.get_msrs(&mut msrs)?;
        msrs.as_slice()
            .first()
            .map(|msr| msr.data)
            .context("KVM does not tell the guest's TSC")
    }

    /// 64-bit mode with paging, as the kernel's boot protocol asks for.
    fn set_registers(&self, entry: &Entry) -> Result<()> {
        let mut special = self.vcpu.get_sregs()?;
        let segment = |selector, type_, l| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            dpl: 0,
            db: 1 - l,
            s: 1,
            l,
            g: 1,
            ..Default::default()
        };
        special.cs = segment(CODE, 0xb, 1);
        let data = segment(DATA, 0x3, 0);
        (special.ds, special.es, special.ss) = (data, data, data);
        special.gdt.base = entry.gdt;
        special.gdt.limit = GDT_LIMIT;
        special.cr3 = entry.cr3;
        special.cr4 |= 1 << 5;
        special.cr0 |= 1 << 31 | 1;
        special.efer |= 1 << 8 | 1 << 10;
        self.vcpu.set_sregs(&special)?;
        let mut general = self.vcpu.get_regs()?;
        general.rip = entry.rip;
        general.rsi = entry.zero_page;
        general.rflags = 2;
        self.vcpu.set_regs(&general)?;
        Ok(())
    }
}

fn register_of(port: u16) -> Option<u8> {
    let register = port.wrapping_sub(COM1);
    (register < 8).then_some(register as u8)
}
