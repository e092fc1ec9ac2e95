//! User VMs made by hypercalls, as a Device Model would: their life, their I/O, their end.
//!
//! Each VM runs a few instructions in 32-bit mode. Its memory and its request page are pages of
//! this image.

use super::addresses::hidden;
use super::hypercalls::hypercall;
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use crate::smp;
use crate::trap::count;
use acrn_abi::hypercall::{
    Errno, HypercallId as Id, MemoryRegion, MsiEntry, SetMemoryRegions, VcpuRegs, Vdev, VmCreation,
    memory,
};
use acrn_abi::ioreq::{DIRECTION_READ, DIRECTION_WRITE, IoRequest, Kind, OFFSET_PAYLOAD, State};
use acrn_abi::vm_flags::VmFlags;
use core::sync::atomic::{AtomicU32, Ordering};

const UPCALL: u8 = 0xf3;

#[repr(C, align(4096))]
struct Pages([AtomicU32; PAGES * 1024]);
const PAGES: usize = 8;
static MEMORY: Pages = Pages([const { AtomicU32::new(0) }; PAGES * 1024]);
static REQUESTS: Pages = Pages([const { AtomicU32::new(0) }; PAGES * 1024]);

/// Where the code is in the VM, and the counter that it increments at the end.
const CODE: usize = 0x1000;
const COUNTER: usize = 0x2000;

/// Writes a port, reads it, writes what came to memory that is not there, reads from there, writes
/// that to the port, and then counts for ever.
const TALKER: &[u8] = &[
    0x66, 0xba, 0x00, 0x05, // mov dx, 0x500
    0xb8, 0x78, 0x56, 0x34, 0x12, // mov eax, 0x12345678
    0xef, // out dx, eax
    0xed, // in eax, dx
    0xa3, 0x00, 0x00, 0x00, 0x80, // mov [0x80000000], eax
    0x8b, 0x1d, 0x04, 0x00, 0x00, 0x80, // mov ebx, [0x80000004]
    0x89, 0xd8, // mov eax, ebx
    0xef, // out dx, eax
    0xff, 0x05, 0x00, 0x20, 0x00, 0x00, // inc dword ptr [0x2000]
    0xeb, 0xf8, // jmp back
];
/// Writes a port, counts until it is told to end, and switches itself off.
const MORTAL: &[u8] = &[
    0x66, 0xba, 0x00, 0x05, // mov dx, 0x500
    0xef, // out dx, eax
    0xff, 0x05, 0x00, 0x20, 0x00, 0x00, // inc dword ptr [0x2000]
    0x83, 0x3d, 0x04, 0x20, 0x00, 0x00, 0x00, // cmp dword ptr [0x2004], 0
    0x74, 0xf1, // jz back
    0x66, 0xba, 0x04, 0x04, // mov dx, 0x404
    0x66, 0xb8, 0x00, 0x34, // mov ax, 0x3400
    0x66, 0xef, // out dx, ax
    0xf4, 0xeb, 0xfd, // hlt; jmp back
];
/// Tells [`MORTAL`] to end.
const END: usize = 0x2004;
/// A hypercall, which a User VM has none of: without handlers a triple fault.
const CALLER: &[u8] = &[0x0f, 0x01, 0xd9];
/// Halts with interrupts off, for ever.
const SLEEPER: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

/// Counts for ever.
pub(super) const COUNTING: &[u8] = &[0xff, 0x05, 0x00, 0x20, 0x00, 0x00, 0xeb, 0xf8];

/// A Device Model's view of its VM.
pub(super) struct UserVm {
    id: u64,
}

fn address<T>(value: &T) -> u64 {
    (&raw const *value) as u64
}

pub(super) fn failed(result: i64) -> bool {
    (-4095..0).contains(&result)
}

fn error(code: Errno) -> i64 {
    -i64::from(code.0)
}

impl UserVm {
    /// Creates a VM on the CPUs of the mask.
    pub(super) fn create(name: &[u8], cpus: u64) -> Result<Self, i64> {
        Self::create_with(name, cpus, VmFlags::empty())
    }

    /// Number of the VM.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Creates a VM with flags.
    pub(super) fn create_with(name: &[u8], cpus: u64, flags: VmFlags) -> Result<Self, i64> {
        let mut creation = VmCreation {
            cpu_affinity: cpus,
            vm_flag: flags.bits(),
            ..VmCreation::default()
        };
        creation.name[..name.len()].copy_from_slice(name);
        let result = hypercall(Id::CREATE_VM, (&raw mut creation) as u64, 0);
        // SAFETY: the hypervisor has written the block.
        let id = unsafe { (&raw const creation.vmid).read_volatile() };
        if result == 0 {
            Ok(Self { id: id.into() })
        } else {
            Err(result)
        }
    }

    pub(super) fn set_request_page(&self, page: u64) -> i64 {
        hypercall(Id::SET_IOREQ_BUFFER, self.id, address(&page))
    }

    pub(super) fn map(&self, gpa: u64, from: u64, size: u64) -> i64 {
        self.regions(&[MemoryRegion {
            operation: MemoryRegion::ADD,
            attributes: memory::RWX | memory::WB,
            user_vm_pa: gpa,
            service_vm_pa: from,
            size,
        }])
    }

    pub(super) fn unmap(&self, gpa: u64, size: u64) -> i64 {
        self.regions(&[MemoryRegion {
            operation: MemoryRegion::DELETE,
            user_vm_pa: gpa,
            size,
            ..MemoryRegion::default()
        }])
    }

    pub(super) fn regions(&self, list: &[MemoryRegion]) -> i64 {
        let batch = SetMemoryRegions {
            vmid: self.id as u16,
            region_count: list.len() as u32,
            regions_gpa: list.as_ptr() as u64,
            ..SetMemoryRegions::default()
        };
        hypercall(Id::VM_SET_MEMORY_REGIONS, address(&batch), 0)
    }

    /// 32-bit mode without paging, at `rip`.
    pub(super) fn set_registers(&self, rip: u64) -> i64 {
        hypercall(Id::SET_VCPU_REGS, self.id, address(&Self::flat(rip)))
    }

    fn flat(rip: u64) -> VcpuRegs {
        let mut block = VcpuRegs::default();
        let regs = &mut block.regs;
        regs.rip = rip;
        regs.cr0 = 0x11;
        regs.cs_ar = 0xc09b;
        regs.cs_limit = u32::MAX;
        regs.cs_sel = 0x10;
        regs.ss_sel = 0x18;
        regs.ds_sel = 0x18;
        regs.es_sel = 0x18;
        block
    }

    /// 32-bit mode with PAE paging, at `rip`.
    fn set_pae_paging(&self, rip: u64, cr3: u64) -> i64 {
        let mut block = Self::flat(rip);
        block.regs.cr0 = 0x8000_0011;
        block.regs.cr3 = cr3;
        block.regs.cr4 = 0x20;
        hypercall(Id::SET_VCPU_REGS, self.id, address(&block))
    }

    /// Real mode with all bases 0.
    pub(super) fn set_real_mode(&self, rip: u64) -> i64 {
        let mut block = VcpuRegs::default();
        let regs = &mut block.regs;
        regs.rip = rip;
        regs.cr0 = 0x10;
        regs.cs_ar = 0x9b;
        regs.cs_limit = 0xffff;
        hypercall(Id::SET_VCPU_REGS, self.id, address(&block))
    }

    pub(super) fn start(&self) -> i64 {
        hypercall(Id::START_VM, self.id, 0)
    }

    pub(super) fn pause(&self) -> i64 {
        hypercall(Id::PAUSE_VM, self.id, 0)
    }

    pub(super) fn reset(&self) -> i64 {
        hypercall(Id::RESET_VM, self.id, 0)
    }

    pub(super) fn destroy(&self) -> i64 {
        hypercall(Id::DESTROY_VM, self.id, 0)
    }

    pub(super) fn create_vdev(&self, vdev: &Vdev) -> i64 {
        hypercall(Id::CREATE_VDEV, self.id, address(vdev))
    }

    pub(super) fn destroy_vdev(&self, vdev: &Vdev) -> i64 {
        hypercall(Id::DESTROY_VDEV, self.id, address(vdev))
    }

    /// A VM with memory and request page that has not started.
    pub(super) fn prepared(name: &[u8], cpus: u64, code: &[u8]) -> Result<Self, i64> {
        let vm = Self::create(name, cpus)?;
        load(code);
        let results = [
            vm.set_request_page(address(&REQUESTS)),
            vm.map(0, address(&MEMORY), (PAGES * 4096) as u64),
            vm.set_registers(CODE as u64),
        ];
        match results.iter().find(|r| **r != 0) {
            Some(result) => {
                vm.destroy();
                Err(*result)
            }
            None => Ok(vm),
        }
    }

    /// Answers the request of vCPU 0.
    pub(super) fn answer(&self, value: u64) {
        let slot = (&raw const REQUESTS) as u64;
        // SAFETY: the slot is in this image's own page; the vCPU waits for the answer.
        unsafe {
            ((slot + OFFSET_PAYLOAD as u64 + 24) as *mut u32).write_volatile(value as u32);
        }
        processed().store(State::COMPLETE.0, Ordering::SeqCst);
        hypercall(Id::NOTIFY_REQUEST_FINISH, self.id, 0);
    }
}

fn load(code: &[u8]) {
    for word in &MEMORY.0 {
        word.store(0, Ordering::Relaxed);
    }
    for (index, bytes) in code.chunks(4).enumerate() {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        MEMORY.0[CODE / 4 + index].store(u32::from_le_bytes(word), Ordering::SeqCst);
    }
}

pub(super) fn counter() -> u32 {
    word(COUNTER)
}

/// A word of the VM's memory.
pub(super) fn word(at: usize) -> u32 {
    MEMORY.0[at / 4].load(Ordering::SeqCst)
}

fn processed() -> &'static AtomicU32 {
    &REQUESTS.0[acrn_abi::ioreq::OFFSET_PROCESSED / 4]
}

/// A request as it stands in slot 0.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    kind: u32,
    direction: u32,
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) value: u32,
}

/// Waits for a request of vCPU 0.
pub(super) fn request() -> Option<Request> {
    let there = || processed().load(Ordering::SeqCst) == State::PENDING.0;
    if !wait_for(ms(10_000), there) {
        return None;
    }
    // SAFETY: a slot of this image's page, which the hypervisor has handed over.
    let slot = unsafe { ((&raw const REQUESTS) as *const IoRequest).read_volatile() };
    processed().store(State::PROCESSING.0, Ordering::SeqCst);
    Some(Request {
        kind: slot.kind,
        direction: slot.payload[0] as u32,
        address: slot.payload[1],
        size: slot.payload[2],
        value: slot.payload[3] as u32,
    })
}

fn port(direction: u32, address: u64, size: u64, value: u32) -> Request {
    Request {
        kind: Kind::PORT_IO.0,
        direction,
        address,
        size,
        value,
    }
}

fn mmio(direction: u32, address: u64, value: u32) -> Request {
    Request {
        kind: Kind::MMIO.0,
        direction,
        address,
        size: 4,
        value,
    }
}

/// The CPUs to try: the one that asks, and another where there is one.
fn placements() -> impl Iterator<Item = u64> {
    [1u64, 2].into_iter().take(smp::count().min(2))
}

/// Serves the conversation of [`TALKER`] and compares each request.
fn talk(t: &Test, vm: &UserVm) {
    let expected = [
        (port(DIRECTION_WRITE, 0x500, 4, 0x1234_5678), 0),
        (port(DIRECTION_READ, 0x500, 4, 0), 0xcafe_f00d),
        (mmio(DIRECTION_WRITE, 0x8000_0000, 0xcafe_f00d), 0),
        (mmio(DIRECTION_READ, 0x8000_0004, 0), 0x0bad_cafe),
        (port(DIRECTION_WRITE, 0x500, 4, 0x0bad_cafe), 0),
    ];
    for (wanted, answer) in expected {
        let before = count(UPCALL);
        let got = request();
        expect!(
            t,
            got.as_ref() == Some(&wanted),
            "{got:x?} instead of {wanted:x?}"
        );
        if got.is_none() {
            return;
        }
        let called = wait_for(ms(5000), || count(UPCALL) > 0 && count(UPCALL) >= before);
        expect!(t, called, "no upcall");
        vm.answer(answer);
    }
    expect!(
        t,
        wait_for(ms(10_000), || counter() > 100),
        "the VM does not go on"
    );
}

pub(super) fn life(t: &Test) {
    hypercall(Id::SET_CALLBACK_VECTOR, UPCALL.into(), 0);
    cpu::enable_interrupts();
    for cpus in placements() {
        let vm = match UserVm::create(b"life", cpus) {
            Ok(vm) => vm,
            Err(result) => {
                expect!(t, false, "CREATE_VM on {cpus:#b}: {result}");
                continue;
            }
        };
        let result = UserVm::create(b"life", cpus).err();
        expect!(
            t,
            result == Some(error(Errno::EEXIST)),
            "second VM of that name: {result:?}"
        );
        load(TALKER);
        expect!(t, failed(vm.start()), "starts without a request page");
        let result = vm.set_request_page(address(&REQUESTS));
        expect!(t, result == 0, "SET_IOREQ_BUFFER: {result}");
        let free = REQUESTS.0[..1024]
            .chunks(64)
            .all(|slot| slot[34].load(Ordering::SeqCst) == State::FREE.0);
        expect!(t, free, "the slots are not free");
        let result = vm.map(0, address(&MEMORY), (PAGES * 4096) as u64);
        expect!(t, result == 0, "SET_MEMORY_REGIONS: {result}");
        let result = vm.set_registers(CODE as u64);
        expect!(t, result == 0, "SET_VCPU_REGS: {result}");
        let before = count(UPCALL);
        expect!(t, vm.start() == 0, "START_VM");
        expect!(t, failed(vm.start()), "a running VM starts");
        expect!(t, failed(vm.reset()), "a running VM is reset");
        expect!(
            t,
            failed(vm.set_registers(0)),
            "registers of a running VM are set"
        );
        talk(t, &vm);
        expect!(
            t,
            count(UPCALL) >= before + 5,
            "{} upcalls",
            count(UPCALL) - before
        );
        // Paused it stands still, then goes on where it was.
        expect!(t, vm.pause() == 0, "PAUSE_VM");
        let stopped = counter();
        wait_for(ms(20), || false);
        expect!(t, counter() == stopped, "a paused VM runs");
        expect!(t, vm.start() == 0, "START_VM after a pause");
        expect!(
            t,
            wait_for(ms(10_000), || counter() > stopped),
            "does not go on after a pause"
        );
        // Reset it begins anew.
        expect!(t, vm.pause() == 0 && vm.reset() == 0, "RESET_VM");
        load(TALKER);
        expect!(
            t,
            vm.set_registers(CODE as u64) == 0,
            "SET_VCPU_REGS after a reset"
        );
        expect!(t, vm.start() == 0, "START_VM after a reset");
        talk(t, &vm);
        // The end of a running VM; its number means nothing then.
        expect!(t, vm.destroy() == 0, "DESTROY_VM");
        let stopped = counter();
        wait_for(ms(10), || false);
        expect!(t, counter() == stopped, "a destroyed VM runs");
        let results = [
            vm.start(),
            vm.pause(),
            vm.reset(),
            vm.destroy(),
            vm.set_registers(0),
        ];
        expect!(
            t,
            results.into_iter().all(failed),
            "calls for a dead VM: {results:?}"
        );
    }
    cpu::disable_interrupts();
}

/// What a Device Model must not lend.
pub(super) fn lending(t: &Test) {
    let (Ok(one), Ok(two)) = (UserVm::create(b"one", 1), UserVm::create(b"two", 1)) else {
        expect!(t, false, "CREATE_VM");
        return;
    };
    let own = address(&MEMORY);
    expect!(t, one.map(0, own, 4096) == 0, "own memory");
    expect!(t, failed(two.map(0, own, 4096)), "a page is lent twice");
    expect!(
        t,
        failed(two.map(0, own - 4096, 8192)),
        "a range with a page that is lent"
    );
    expect!(
        t,
        failed(one.map(0, own + 4096, 4096)),
        "mapped over what is there"
    );
    expect!(t, one.unmap(0, 4096) == 0, "unmap");
    expect!(t, two.map(0, own, 4096) == 0, "a page that came back");
    // Half of a batch does not stay.
    let list = [own + 4096, own + 4097].map(|from| MemoryRegion {
        operation: MemoryRegion::ADD,
        attributes: memory::RWX | memory::WB,
        user_vm_pa: 0x10_0000 + (from & !1) - own,
        service_vm_pa: from,
        size: 4096,
    });
    expect!(t, failed(one.regions(&list)), "a misaligned page");
    expect!(
        t,
        two.map(0x20_0000, own + 4096, 4096) == 0,
        "a page of a refused batch is lent"
    );
    for range in hidden() {
        for at in [range.start, range.end - 4096] {
            expect!(
                t,
                failed(one.map(0x4000, at, 4096)),
                "{at:#x} of the hypervisor is lent"
            );
        }
        let across = range.start - 4096;
        expect!(
            t,
            failed(one.map(0x4000, across, 8192)),
            "{across:#x} and on is lent"
        );
        let page = range.start;
        expect!(
            t,
            failed(one.set_request_page(page)),
            "requests go to {page:#x}"
        );
    }
    for at in [
        0xfee0_0000,
        0xfec0_0000,
        0xb000_0000,
        1 << 40,
        u64::MAX - 4095,
    ] {
        expect!(t, failed(one.map(0x4000, at, 4096)), "{at:#x} is lent");
        expect!(
            t,
            failed(one.set_request_page(at)),
            "requests go to {at:#x}"
        );
    }
    expect!(
        t,
        failed(one.set_request_page(own + 8)),
        "requests go to half a page"
    );
    let results = [
        one.map(0, own, 0),
        one.map(1, own + 8192, 4096),
        one.map(0xfee0_0000, own + 8192, 4096),
        one.map(u64::MAX - 4095, own + 8192, 8192),
        one.map(0x8000, own + 8192, 1 << 63),
    ];
    expect!(
        t,
        results.into_iter().all(failed),
        "strange ranges: {results:?}"
    );
    expect!(t, one.destroy() == 0 && two.destroy() == 0, "DESTROY_VM");
}

/// What the Device Model lends for reading is not written, by no instruction.
pub(super) fn read_only(t: &Test) {
    /// Reads a port into the page at 64 KiB; the #GP that this gets it ends the VM.
    const WRITER: &[u8] = &[
        0xbf, 0x00, 0x00, 0x01, 0x00, // mov edi, 0x10000
        0x66, 0xba, 0x00, 0x05, // mov dx, 0x500
        0x6c, // insb
        0xff, 0x05, 0x00, 0x20, 0x00, 0x00, // inc dword ptr [0x2000]
        0xeb, 0xf8, // jmp back
    ];
    static LENT: Pages = Pages([const { AtomicU32::new(0) }; PAGES * 1024]);
    cpu::enable_interrupts();
    LENT.0[0].store(0x1234_5678, Ordering::SeqCst);
    match UserVm::prepared(b"reader", 1, WRITER) {
        Ok(vm) => {
            let result = vm.regions(&[MemoryRegion {
                operation: MemoryRegion::ADD,
                attributes: memory::READ | memory::WB,
                user_vm_pa: 0x1_0000,
                service_vm_pa: address(&LENT),
                size: 4096,
            }]);
            expect!(t, result == 0, "read-only memory: {result}");
            expect!(t, vm.start() == 0, "START_VM");
            let got = request();
            let wanted = port(DIRECTION_READ, 0x500, 1, 0);
            expect!(t, got.as_ref() == Some(&wanted), "{got:x?}");
            vm.answer(0x99);
            let got = request();
            let off = got.is_some_and(|got| got.address == 0x404);
            expect!(t, off && counter() == 0, "the VM has gone on");
            let word = LENT.0[0].load(Ordering::SeqCst);
            expect!(t, word == 0x1234_5678, "read-only memory is {word:#x}");
            expect!(t, vm.destroy() == 0, "DESTROY_VM");
        }
        Err(result) => expect!(t, false, "preparing the VM: {result}"),
    }
    cpu::disable_interrupts();
}

/// The VM asks for power-off, and ends.
fn expect_power_off(t: &Test, vm: &UserVm) {
    let wanted = port(DIRECTION_WRITE, 0x404, 2, 5 << 10 | 1 << 13);
    let got = request();
    expect!(
        t,
        got.as_ref() == Some(&wanted),
        "{got:x?} instead of {wanted:x?}"
    );
    vm.answer(0);
    expect!(t, vm.destroy() == 0, "DESTROY_VM");
}

/// A User VM that cannot go on asks its Device Model to be switched off.
pub(super) fn fault(t: &Test) {
    cpu::enable_interrupts();
    for cpus in placements() {
        match UserVm::prepared(b"fault", cpus, CALLER) {
            Ok(vm) => {
                expect!(t, vm.start() == 0, "START_VM");
                expect_power_off(t, &vm);
            }
            Err(result) => expect!(t, false, "preparing the VM: {result}"),
        }
    }
    cpu::disable_interrupts();
}

/// A state that SET_VCPU_REGS takes, and that the processor refuses to enter with: reserved bits in
/// the page-directory pointers of PAE paging, which are memory.
pub(super) fn refused(t: &Test) {
    const POINTERS: usize = 0x3000;
    cpu::enable_interrupts();
    match UserVm::prepared(b"refused", 0, COUNTING) {
        Ok(vm) => {
            MEMORY.0[POINTERS / 4].store(7, Ordering::SeqCst);
            let result = vm.set_pae_paging(CODE as u64, POINTERS as u64);
            expect!(t, result == 0, "SET_VCPU_REGS: {result}");
            expect!(t, vm.start() == 0, "START_VM");
            expect_power_off(t, &vm);
        }
        Err(result) => expect!(t, false, "preparing the VM: {result}"),
    }
    cpu::disable_interrupts();
}

/// A VM that the scenario makes real-time outranks this one: whatever would disturb it is refused, until it
/// ends by itself.
pub(super) fn outranking(t: &Test) {
    let refused = error(Errno::EACCES);
    hypercall(Id::SET_CALLBACK_VECTOR, UPCALL.into(), 0);
    cpu::enable_interrupts();
    let vm = match UserVm::prepared(b"superior", 0, MORTAL) {
        Ok(vm) => vm,
        Err(result) => return expect!(t, false, "preparing the VM: {result}"),
    };
    expect!(t, vm.start() == 0, "START_VM");
    expect!(t, request().is_some(), "the VM asks nothing");
    vm.answer(0);
    expect!(
        t,
        wait_for(ms(10_000), || counter() > 0),
        "an answer is refused, too"
    );
    let message = MsiEntry {
        address: 0xfee0_0000,
        data: 0x40,
    };
    let tried = [
        ("PAUSE_VM", vm.pause()),
        ("RESET_VM", vm.reset()),
        ("DESTROY_VM", vm.destroy()),
        ("SET_MEMORY_REGIONS", vm.unmap(0x5000, 4096)),
        (
            "INJECT_MSI",
            hypercall(Id::INJECT_MSI, vm.id, address(&message)),
        ),
        (
            "SET_IRQLINE",
            hypercall(Id::SET_IRQLINE, vm.id, 1 << 32 | 5),
        ),
    ];
    for (call, result) in tried {
        let wanted = match call {
            // Of a running VM, whoever asks.
            "RESET_VM" => failed(result),
            _ => result == refused,
        };
        expect!(t, wanted, "{call}: {result}");
    }
    let before = counter();
    expect!(
        t,
        wait_for(ms(10_000), || counter() > before),
        "the VM stands still"
    );
    MEMORY.0[END / 4].store(1, Ordering::SeqCst);
    let off = request().is_some_and(|got| got.address == 0x404);
    expect!(t, off, "the VM does not switch itself off");
    vm.answer(0);
    expect!(t, vm.destroy() == 0, "DESTROY_VM of one that has ended");
    // One that cannot go on has ended, too.
    match UserVm::prepared(b"superior", 0, CALLER) {
        Ok(vm) => {
            expect!(t, vm.start() == 0, "START_VM");
            let off = request().is_some_and(|got| got.address == 0x404);
            expect!(t, off, "a fault does not end the VM");
            expect!(t, vm.destroy() == 0, "DESTROY_VM after a fault");
        }
        Err(result) => expect!(t, false, "preparing it again: {result}"),
    }
    cpu::disable_interrupts();
}

/// All slots at once, and one more.
pub(super) fn slots(t: &Test) {
    let mut vms: [Option<UserVm>; 16] = [const { None }; 16];
    let mut made = 0;
    for (index, slot) in vms.iter_mut().enumerate() {
        match UserVm::create(&[b's', b'a' + index as u8], 0) {
            Ok(vm) => {
                *slot = Some(vm);
                made += 1;
            }
            Err(result) => {
                expect!(t, failed(result), "CREATE_VM without a slot: {result}");
                break;
            }
        }
    }
    expect!(t, made == 7, "{made} VMs beside this one");
    for vm in vms.iter().flatten() {
        expect!(t, vm.destroy() == 0, "DESTROY_VM of {}", vm.id);
    }
    let again = UserVm::create(b"again", 0);
    expect!(
        t,
        again.as_ref().is_ok_and(|vm| vm.destroy() == 0),
        "no slot came back"
    );
}

/// VMs made and ended, at every stage of their life.
pub(super) fn cycles(t: &Test) {
    cpu::enable_interrupts();
    let mut failures = 0;
    for round in 0..10_000u64 {
        let cpus = if round % 2 == 0 || smp::count() < 2 {
            1
        } else {
            2
        };
        let done = match round % 4 {
            // Only created; with memory; asleep; in the midst of a request.
            0 => UserVm::create(b"cycle", cpus).map(|vm| vm.destroy()),
            1 => UserVm::prepared(b"cycle", cpus, SLEEPER).map(|vm| vm.destroy()),
            2 => UserVm::prepared(b"cycle", cpus, SLEEPER).map(|vm| vm.start() + vm.destroy()),
            _ => UserVm::prepared(b"cycle", cpus, TALKER).map(|vm| {
                let started = vm.start();
                let asked = request().is_some();
                started + vm.destroy() + i64::from(!asked)
            }),
        };
        if done != Ok(0) {
            failures += 1;
            expect!(t, false, "round {round}: {done:?}");
        }
        if failures > 3 {
            break;
        }
    }
    cpu::disable_interrupts();
}

/// Two VMs for the hypervisor's shell, one that runs and one that was only made; what the first one
/// asks is shown and answered until there is a key.
pub(super) fn shell(t: &Test) {
    hypercall(Id::SET_CALLBACK_VECTOR, UPCALL.into(), 0);
    cpu::enable_interrupts();
    let (Ok(one), Ok(two)) = (
        UserVm::prepared(b"runner", 2, COUNTING),
        UserVm::create(b"bare", 1),
    ) else {
        expect!(t, false, "CREATE_VM");
        return;
    };
    expect!(t, one.start() == 0, "START_VM");
    print!("waiting for a key\n");
    while cpu::inb(0x3fd) & 1 == 0 {
        if processed().load(Ordering::SeqCst) == State::PENDING.0 {
            if let Some(asked) = request() {
                print!("asked {:#x} <- {:#x}\n", asked.address, asked.value);
                one.answer(0);
            }
        }
        cpu::relax();
    }
    cpu::inb(0x3f8);
    expect!(t, one.destroy() == 0 && two.destroy() == 0, "DESTROY_VM");
    cpu::disable_interrupts();
}

/// Waits for a key, so that the host can look at the hypervisor meanwhile.
pub(super) fn wait(_: &Test) {
    print!("waiting for a key\n");
    while cpu::inb(0x3fd) & 1 == 0 {
        cpu::relax();
    }
    cpu::inb(0x3f8);
}
