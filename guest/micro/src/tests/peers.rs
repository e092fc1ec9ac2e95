//! Devices by which VMs reach each other: serial lines at ports and on a PCI card, and shared memory
//! with doorbells, between this guest and the User VM `peer`. The configuration has to have them.

use super::addresses::hidden;
use super::chaos::Random;
use super::hypercalls::hypercall;
use super::vm::{UserVm, counter, failed};
use crate::cpu::{self, ms, rdtsc, wait_for};
use crate::report::Test;
use crate::trap::count;
use crate::{apic, params, pci};
use acrn_abi::guest_map::{IVSHMEM_ID, PCI_UART_ID};
use acrn_abi::hypercall::{Errno, HypercallId as Id, Vdev};
use core::arch::global_asm;

// The peer: opens both of its serial ports and its shared memory, and then sends back each character,
// plus 1. When its doorbell has been rung for the first time, as a bit in the request register of its
// local APIC shows, it answers the word in the memory, plus 1, and rings back.
global_asm!(
    r#"
.section .rodata
.balign 16
.global peer_start
peer_start:
.code32
    mov esp, 0x4000
    mov dx, 0x2fc
    mov al, 3
    out dx, al
    // 00:05.0 and 00:06.0 decode memory and send messages.
    mov ebx, 0x80002804
    call enable
    mov ebx, 0x80003004
    call enable
    mov byte ptr [0xc0002004], 3
    // MSI-X of the shared memory: its first entry is vector 0x40.
    mov dx, 0xcf8
    mov eax, 0x80002840
    out dx, eax
    mov dx, 0xcfc
    mov eax, 0x80000000
    out dx, eax
    mov dword ptr [0xc0001000], 0xfee00000
    mov dword ptr [0xc0001004], 0
    mov dword ptr [0xc0001008], 0x40
    mov dword ptr [0xc000100c], 0
    mov dword ptr [0xfee000f0], 0x1ff
    // Who I am.
    mov eax, [0xc0000008]
    mov [0xc0200008], eax
    xor edi, edi
1:  inc dword ptr [0x2000]
    mov dx, 0x2fd
    in al, dx
    test al, 1
    jz 2f
    mov dx, 0x2f8
    in al, dx
    inc al
    out dx, al
2:  test byte ptr [0xc0002005], 1
    jz 3f
    mov al, [0xc0002000]
    inc al
    mov [0xc0002000], al
3:  test edi, edi
    jnz 1b
    test dword ptr [0xfee00220], 1
    jz 1b
    inc edi
    mov eax, [0xc0200000]
    inc eax
    mov [0xc0200004], eax
    mov dword ptr [0xc000000c], 0
    jmp 1b
enable:
    mov dx, 0xcf8
    mov eax, ebx
    out dx, eax
    mov dx, 0xcfc
    mov eax, 6
    out dx, eax
    ret
.code64
.global peer_end
peer_end:
.section .text
"#
);

unsafe extern "C" {
    static peer_start: u8;
    static peer_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const peer_start;
    let length = (&raw const peer_end) as usize - start as usize;
    // SAFETY: the assembler laid this out.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// Where this guest puts the BARs: registers, table and memory of the shared memory, and registers and
/// table of the card.
const REGISTERS: u64 = 0xd000_0000;
const TABLE: u64 = 0xd000_1000;
const MEMORY: u64 = 0xd020_0000;
const CARD: u64 = 0xd000_2000;
const CARD_TABLE: u64 = 0xd000_3000;
/// Bytes of the memory.
const SIZE: u64 = 2 << 20;
const POSITION: u64 = 8;
const DOORBELL: u64 = 12;
/// Vectors of this guest for the doorbell and the card.
const RUNG: u8 = 0x60;
const RECEIVED: u8 = 0x61;
/// Where the peer's code is.
const CODE: u64 = 0x1000;
/// The line at ports.
const PORTS: u16 = 0x2f8;
const LINE_STATUS: u16 = 5;
const READY: u8 = 0x20;

fn load(address: u64) -> u32 {
    // SAFETY: identity-mapped; what is there is a device of the test or nothing.
    unsafe { (address as *const u32).read_volatile() }
}

fn store(address: u64, value: u32) {
    // SAFETY: as for `load`.
    unsafe { (address as *mut u32).write_volatile(value) }
}

fn load_byte(address: u64) -> u8 {
    // SAFETY: as for `load`.
    unsafe { (address as *const u8).read_volatile() }
}

fn store_byte(address: u64, value: u8) {
    // SAFETY: as for `load`.
    unsafe { (address as *mut u8).write_volatile(value) }
}

/// The device on bus 0 with these ids.
fn find(id: (u16, u16)) -> Option<u32> {
    let wanted = u32::from(id.1) << 16 | u32::from(id.0);
    (0..32).find(|device| pci::read(*device, 0) == wanted)
}

/// Gives a function its BARs, and its first interrupt this vector.
fn enable(device: u32, bars: [u64; 3], vector: u8) {
    for (index, at) in (0u32..).zip(bars) {
        pci::write(device, 0x10 + 4 * index, at as u32);
    }
    pci::write(device, 0x1c, 0);
    pci::write(device, 4, 6);
    pci::write(device, 0x40, 1 << 31);
    let table = bars[1];
    store(table, 0xfee0_0000 | apic::id() << 12);
    store(table + 4, 0);
    store(table + 8, vector.into());
    store(table + 12, 0);
}

fn shared_memory(name: &[u8]) -> Vdev {
    let mut vdev = Vdev {
        vendor: IVSHMEM_ID.0,
        device: IVSHMEM_ID.1,
        legacy_id: 0,
        slot: 5 << 3,
        io_addr: [0xc000_0000, 0xc000_1000, 0xc020_000c, 0, 0, 0],
        io_size: [0, 0, SIZE as u32, 0, 0, 0],
        args: [0; 128],
    };
    vdev.args[..name.len()].copy_from_slice(name);
    vdev
}

fn card(vuart: u8) -> Vdev {
    let mut vdev = shared_memory(&[vuart]);
    (vdev.vendor, vdev.device) = PCI_UART_ID;
    vdev.slot = 6 << 3;
    vdev.io_addr = [0xc000_2000, 0xc000_3000, 0, 0, 0, 0];
    vdev
}

const NAME: &[u8] = b"hv:/shm";

/// The peer with its devices, started.
fn peer(t: &Test) -> Option<UserVm> {
    let vm = match UserVm::prepared(b"peer", 2, code()) {
        Ok(vm) => vm,
        Err(result) => {
            expect!(t, false, "preparing the VM: {result}");
            return None;
        }
    };
    let results = [
        vm.create_vdev(&shared_memory(NAME)),
        vm.create_vdev(&card(2)),
        vm.start(),
    ];
    expect!(
        t,
        results == [0; 3],
        "CREATE_VDEV and START_VM: {results:?}"
    );
    expect!(t, wait_for(ms(10_000), || counter() > 10), "it is silent");
    Some(vm)
}

/// Both kinds of device both ways; what does not belong together stays apart; the end of one VM
/// leaves the other what is its own.
pub(super) fn devices(t: &Test) {
    hypercall(Id::SET_CALLBACK_VECTOR, 0xf3, 0);
    let found = (find(IVSHMEM_ID), find(PCI_UART_ID));
    let (Some(memory), Some(serial)) = found else {
        return expect!(t, false, "no devices on the bus: {found:?}");
    };
    enable(memory, [REGISTERS, TABLE, MEMORY], RUNG);
    enable(serial, [CARD, CARD_TABLE, 0], RECEIVED);
    cpu::enable_interrupts();
    cpu::outb(PORTS + 4, 3);
    store_byte(CARD + 4, 0xb);
    store_byte(CARD + 1, 1);
    expect!(t, load(MEMORY) == 0, "the memory is not clear");
    store(MEMORY + SIZE - 4, 0x1357_9bdf);
    for round in 0..2u32 {
        let Some(vm) = peer(t) else { break };
        serial_at_ports(t);
        serial_on_card(t);
        doorbells(t, round);
        kept(t, &vm);
        after_reset(t, &vm, 10 + round);
        expect!(t, vm.destroy() == 0, "DESTROY_VM");
        nobody_there(t);
    }
    let last = load(MEMORY + SIZE - 4);
    expect!(t, last == 0x1357_9bdf, "the memory was changed: {last:#x}");
    refused(t);
    misplaced(t, memory);
    hostile(t, [memory, serial]);
    throughput(t);
    cpu::disable_interrupts();
}

fn receives(status: impl Fn() -> u8) -> bool {
    wait_for(ms(10_000), || status() & 1 != 0)
}

fn serial_at_ports(t: &Test) {
    for byte in b"ping" {
        cpu::outb(PORTS, *byte);
        let there = receives(|| cpu::inb(PORTS + LINE_STATUS));
        let answer = cpu::inb(PORTS);
        expect!(t, there && answer == byte + 1, "{byte:#x} gave {answer:#x}");
    }
}

/// With an interrupt for each.
fn serial_on_card(t: &Test) {
    for byte in b"pong" {
        let before = count(RECEIVED);
        store_byte(CARD, *byte);
        let there = receives(|| load_byte(CARD + u64::from(LINE_STATUS)));
        let told = wait_for(ms(1000), || count(RECEIVED) == before + 1);
        let answer = load_byte(CARD);
        expect!(t, there && answer == byte + 1, "{byte:#x} gave {answer:#x}");
        expect!(t, told, "no interrupt for {byte:#x}");
    }
}

fn doorbells(t: &Test, round: u32) {
    let own = load(REGISTERS + POSITION);
    let its = load(MEMORY + 8);
    expect!(t, (own, its) == (0, 1), "positions {own} and {its}");
    let before = count(RUNG);
    store(MEMORY, 1000 + round);
    store(MEMORY + 4, 0);
    // Neither a VM that is not there nor a vector that does not exist hurts anybody.
    for nobody in [2 << 16, 0xffff_0000, 1 << 16 | 8, 1 << 16 | 0xffff] {
        store(REGISTERS + DOORBELL, nobody);
    }
    expect!(t, load(MEMORY + 4) == 0, "the peer answers to nothing");
    store(REGISTERS + DOORBELL, its << 16);
    let answered = wait_for(ms(10_000), || count(RUNG) > before);
    expect!(t, answered, "the peer does not ring");
    let answer = load(MEMORY + 4);
    expect!(t, answer == 1001 + round, "the peer says {answer}");
}

/// A peer that is reset opens its devices anew; this guest's stay as they are.
fn after_reset(t: &Test, vm: &UserVm, round: u32) {
    store_byte(CARD + 7, 0x5a);
    let results = [vm.pause(), vm.reset(), vm.set_registers(CODE), vm.start()];
    expect!(t, results == [0; 4], "a reset: {results:?}");
    let scratch = load_byte(CARD + 7);
    expect!(
        t,
        scratch == 0x5a,
        "the other UART is reset too: {scratch:#x}"
    );
    serial_at_ports(t);
    serial_on_card(t);
    doorbells(t, round);
}

/// What a Device Model cannot do to a running VM's shared memory.
fn kept(t: &Test, vm: &UserVm) {
    expect!(
        t,
        failed(vm.map(
            0xc020_0000,
            params::high_memory(4096, 1 << 32).unwrap_or(0),
            4096
        )),
        "memory is lent where the shared memory is"
    );
    let word = load(MEMORY + 4);
    expect!(t, vm.unmap(0xc020_0000, 4096) == 0, "unmap");
    expect!(t, load(MEMORY + 4) == word, "the shared memory has gone");
    expect!(
        t,
        failed(vm.map(0x4000_0000, MEMORY, 4096)),
        "shared memory is lent"
    );
    expect!(
        t,
        failed(vm.set_request_page(MEMORY)),
        "requests go to shared memory"
    );
}

/// What is sent to a VM that is gone is lost, and keeps nobody waiting.
fn nobody_there(t: &Test) {
    for byte in 0..=255 {
        cpu::outb(PORTS, byte);
        store_byte(CARD, byte);
    }
    let status = [
        cpu::inb(PORTS + LINE_STATUS),
        load_byte(CARD + u64::from(LINE_STATUS)),
    ];
    let ready = status.iter().all(|status| status & (READY | 1) == READY);
    expect!(t, ready, "line status {status:#x?}");
    store(REGISTERS + DOORBELL, 1 << 16);
}

fn refused(t: &Test) {
    let Ok(stranger) = UserVm::create(b"stranger", 2) else {
        return expect!(t, false, "CREATE_VM");
    };
    let Ok(vm) = UserVm::create(b"peer", 2) else {
        return expect!(t, false, "CREATE_VM");
    };
    let mut elsewhere = shared_memory(NAME);
    elsewhere.slot = 1 << 16;
    let mut small = shared_memory(NAME);
    small.io_size[2] = 4096;
    let cases = [
        (&stranger, shared_memory(NAME), Errno::EACCES),
        (&stranger, card(2), Errno::ENODEV),
        (&vm, card(1), Errno::ENODEV),
        (&vm, card(9), Errno::ENODEV),
        (&vm, shared_memory(b"hv:/other"), Errno::ENODEV),
        (&vm, shared_memory(b"hv:/"), Errno::EINVAL),
        (&vm, shared_memory(&[b'x'; 128]), Errno::EINVAL),
        (&vm, elsewhere, Errno::EINVAL),
        (&vm, small, Errno::EINVAL),
    ];
    for (index, (vm, vdev, wanted)) in cases.iter().enumerate() {
        let result = vm.create_vdev(vdev);
        expect!(t, result == -i64::from(wanted.0), "case {index}: {result}");
    }
    let (first, second) = (shared_memory(NAME), card(2));
    let results = [
        vm.destroy_vdev(&first),
        vm.create_vdev(&first),
        vm.create_vdev(&first),
        vm.create_vdev(&second),
        vm.create_vdev(&second),
        vm.destroy_vdev(&first),
        vm.create_vdev(&first),
    ];
    let (none, busy) = (-i64::from(Errno::ENODEV.0), -i64::from(Errno::EBUSY.0));
    let wanted = [none, 0, busy, 0, busy, 0, 0];
    expect!(t, results == wanted, "{results:?}");
    let ended = stranger.destroy() == 0 && vm.destroy() == 0;
    expect!(t, ended, "DESTROY_VM");
}

/// A BAR over memory, or over the hypervisor's own, decodes nothing there.
fn misplaced(t: &Test, device: u32) {
    let own = params::high_memory(SIZE, 1 << 32).unwrap_or(0) & !(SIZE - 1);
    let places = hidden().map(|range| range.start);
    for at in core::iter::once(own).chain(places) {
        store(own, 0x2468);
        pci::write(device, 0x18, at as u32);
        let command = pci::read(device, 4) & 2;
        expect!(t, command == 0, "it decodes memory at {at:#x}");
        expect!(t, load(own) == 0x2468, "own memory is hidden");
    }
    pci::write(device, 0x18, MEMORY as u32);
    pci::write(device, 4, 6);
    let last = load(MEMORY + SIZE - 4);
    expect!(t, last == 0x1357_9bdf, "the memory does not come back");
    // Elsewhere, where it is the machine's address space before and after.
    pci::write(device, 0x18, 0xd040_0000);
    let moved = load(0xd040_0000 + SIZE - 4);
    expect!(t, moved == 0x1357_9bdf, "the memory does not move");
    expect!(t, load(MEMORY + SIZE - 4) != 0x1357_9bdf, "it stays behind");
    pci::write(device, 0x18, MEMORY as u32);
}

/// Any configuration, and accesses of any width to all registers. What is in the MSI-X table stays: it
/// could send this guest an INIT.
fn hostile(t: &Test, devices: [u32; 2]) {
    let mut random = Random(0x0123_4567_89ab_cdef);
    for _ in 0..5000 {
        let device = devices[random.below(2) as usize];
        let (register, value) = (random.below(0x80) as u32, random.value());
        pci::select(device, register & !3);
        match random.below(6) {
            0 => cpu::outb(0xcfc + (register & 3) as u16, value as u8),
            1 => cpu::outw(0xcfc + (register & 2) as u16, value as u16),
            2 => cpu::outl(0xcfc, value as u32),
            3 => {
                core::hint::black_box(cpu::inb(0xcfc + (register & 3) as u16));
            }
            4 => any_access(REGISTERS + random.below(0x200), &mut random),
            _ => any_access(CARD + random.below(0x20), &mut random),
        }
    }
    enable(devices[0], [REGISTERS, TABLE, MEMORY], RUNG);
    enable(devices[1], [CARD, CARD_TABLE, 0], RECEIVED);
    let before = count(RUNG);
    store(REGISTERS + DOORBELL, 0);
    let rung = wait_for(ms(1000), || count(RUNG) > before);
    expect!(t, rung, "the doorbell is broken");
    store_byte(CARD + 3, 0);
    store_byte(CARD + 7, 0x5a);
    let scratch = load_byte(CARD + 7);
    expect!(t, scratch == 0x5a, "the UART is broken: {scratch:#x}");
}

fn any_access(at: u64, random: &mut Random) {
    let value = random.value();
    // SAFETY: a BAR, or a place of the machine's bus where nothing is.
    unsafe {
        match random.below(6) {
            0 => (at as *mut u8).write_volatile(value as u8),
            1 => (at as *mut u16).write_unaligned(value as u16),
            2 => (at as *mut u32).write_unaligned(value as u32),
            3 => (at as *mut u64).write_unaligned(value),
            4 => {
                core::hint::black_box((at as *const u16).read_unaligned());
            }
            _ => {
                core::hint::black_box((at as *const u64).read_unaligned());
            }
        }
    }
}

/// Shared memory is as fast as a VM's own: nothing stands between the VM and it.
fn throughput(t: &Test) {
    const PIECE: u64 = 256 << 10;
    let Some(own) = params::high_memory(2 * PIECE, 1 << 32) else {
        return expect!(t, false, "no free memory");
    };
    let best = |to: u64| {
        let time = |_| {
            let start = rdtsc();
            copy(own, to, PIECE);
            rdtsc() - start
        };
        (0..8).map(time).min().unwrap_or(u64::MAX).max(1)
    };
    let (shared, plain) = (best(MEMORY), best(own + PIECE));
    let rate = (PIECE * cpu::tsc_khz() / shared * 1000) >> 20;
    let percent = plain * 100 / shared;
    print!("shared memory: {rate} MiB/s, {percent} % of a copy in own memory\n");
    expect!(t, percent >= 50, "{percent} % of a copy in own memory");
    expect!(
        t,
        load(MEMORY + PIECE - 4) == load(own + PIECE - 4),
        "no copy"
    );
}

fn copy(from: u64, to: u64, size: u64) {
    // SAFETY: both ranges are free memory, or the shared memory.
    unsafe {
        core::arch::asm!("rep movsq", inout("rcx") size / 8 => _, inout("rsi") from => _,
            inout("rdi") to => _, options(nostack));
    }
}
