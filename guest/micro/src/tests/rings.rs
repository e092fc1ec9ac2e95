//! Rings into which the hypervisor writes its trace and its log: what comes out, who may have them, and
//! what becomes of the hypervisor when their owner does not keep to the rules.

use super::addresses::hidden;
use super::hypercalls::hypercall;
use super::vm::UserVm;
use crate::cpu::cpuid;
use crate::report::Test;
use acrn_abi::hypercall::{Errno, HypercallId as Id, SbufParam, Vdev};
use acrn_abi::sbuf::{self, LOG_ELEMENT, SbufHeader, TraceEntry, id};
use acrn_abi::vm_flags::VmFlags;
use acrn_trace::line::Lines;
use acrn_trace::{Event, REASONS, Reader, Record, RingMemory};
use core::sync::atomic::{AtomicU32, Ordering};
use zerocopy::{FromZeros, IntoBytes};

const WORDS: usize = 1024;
/// Pages that a ring has, and one behind them that is not the hypervisor's to write.
#[repr(C, align(4096))]
struct Pages([AtomicU32; (RING + 1) * WORDS]);
const RING: usize = 2;
static MEMORY: Pages = Pages([const { AtomicU32::new(0) }; (RING + 1) * WORDS]);
const PATTERN: u32 = 0x5a5a_1234;

fn page(number: usize) -> u64 {
    (&raw const MEMORY) as u64 + number as u64 * 4096
}

/// The ring as its reader sees it. The order of the pages says where in it each is.
struct Shared([usize; RING]);

impl Shared {
    fn word(&self, offset: u32) -> &'static AtomicU32 {
        let (page, rest) = (offset as usize / 4096, offset as usize % 4096);
        &MEMORY.0[self.0[page] * WORDS + rest / 4]
    }
}

impl RingMemory for Shared {
    fn load(&self, offset: u32) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }
    fn store(&mut self, offset: u32, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }
}

/// An empty ring whose elements have this size, over all of its pages.
fn ring(element: usize, order: [usize; RING]) -> (Shared, Reader) {
    for word in &MEMORY.0 {
        word.store(PATTERN, Ordering::Relaxed);
    }
    let count = (RING * 4096 - size_of::<SbufHeader>()) / element;
    let header = SbufHeader::new(count as u32, element as u32, sbuf::FLAG_COUNT_OVERRUNS);
    let mut shared = Shared(order);
    shared.write(0, header.as_bytes());
    (shared, Reader::new(&header))
}

fn is_kept() -> bool {
    let behind = MEMORY.0.iter().skip(RING * WORDS);
    behind.fold(true, |kept, word| {
        kept & (word.load(Ordering::Relaxed) == PATTERN)
    })
}

fn set_up(vm: u64, cpu_id: u16, sbuf_id: u32, gpa: u64) -> i64 {
    let param = SbufParam {
        cpu_id,
        sbuf_id,
        gpa,
        ..SbufParam::default()
    };
    hypercall(Id::SETUP_SBUF, vm, (&raw const param) as u64)
}

fn failed(code: Errno) -> i64 {
    -i64::from(code.0)
}

/// Leaves the guest some times.
fn exits(count: u32) {
    for _ in 0..count {
        cpuid(0, 0);
    }
}

/// Leaves the guest some times and looks at what is in a ring then: entries and exits in turn, in the order of time. The ring
/// begins outside of the guest, where it was set up; later the last entry is that of who looks.
fn check(t: &Test, shared: &mut Shared, reader: &mut Reader, first: bool) {
    const LEAST: u32 = 50;
    exits(LEAST);
    let (mut last, mut inside, mut cpuids) = (0, !first, 0);
    let mut entry = TraceEntry::default();
    while reader.take(shared, entry.as_mut_bytes()) {
        let Some(record) = Record::decode(&entry) else {
            expect!(t, false, "an entry that means nothing: {entry:x?}");
            continue;
        };
        expect!(t, record.tsc >= last, "back in time: {record:x?}");
        expect!(t, record.cpu == 0, "not CPU 0's: {record:x?}");
        last = record.tsc;
        match record.event {
            Event::Exit { who, reason, rip } => {
                expect!(t, inside, "an exit without an entry: {record:x?}");
                let is_ours = (who.vm.0, who.vcpu.0) == (0, 0) && rip != 0;
                expect!(t, is_ours, "not ours: {record:x?}");
                let cpuid = REASONS.get(reason as usize) == Some(&"cpuid");
                cpuids += u32::from(cpuid);
                inside = false;
            }
            Event::Enter(_) => {
                expect!(t, !inside, "an entry without an exit: {record:x?}");
                inside = true;
            }
            Event::Turn(_) | Event::Interrupt { .. } | Event::Lost(_) => {}
        }
    }
    expect!(t, cpuids >= LEAST, "{cpuids} of {LEAST} exits");
}

/// The Service VM's own rings.
pub(super) fn rings(t: &Test) {
    refused(t);
    let (mut shared, mut reader) = ring(size_of::<TraceEntry>(), [0, 1]);
    let result = set_up(0, 0, id::TRACE, page(0));
    expect!(t, result == 0, "SETUP_SBUF: {result}");
    let again = set_up(0, 0, id::TRACE, page(0));
    expect!(t, again == failed(Errno::EBUSY), "a second ring: {again}");
    for round in 0..20 {
        check(t, &mut shared, &mut reader, round == 0);
    }
    let lost = reader.lost(&shared);
    expect!(t, lost == 0, "{lost} entries lost");
    exits(1000);
    let lost = reader.lost(&shared);
    expect!(t, lost > 100, "a full ring has lost {lost} entries");
    hostile(t, &mut shared);
    let result = set_up(0, 0, id::TRACE, 0);
    expect!(t, result == 0, "withdrawal: {result}");
    is_silent(t);
    let result = set_up(0, 0, id::TRACE, 0);
    expect!(t, result == failed(Errno::ENOENT), "again: {result}");
    log(t);
}

fn refused(t: &Test) {
    let element = size_of::<TraceEntry>();
    let with = |change: fn(&mut SbufHeader)| {
        let (mut shared, _) = ring(element, [0, 1]);
        let mut header = SbufHeader::new(200, element as u32, 0);
        change(&mut header);
        shared.write(0, header.as_bytes());
        set_up(0, 0, id::TRACE, page(0))
    };
    let wrong: [fn(&mut SbufHeader); 5] = [
        |header| header.magic = 0,
        |header| header.element_size = 16,
        |header| header.element_count = u32::MAX,
        |header| header.size = u32::MAX,
        |header| header.tail = 32,
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        let result = with(change);
        let refused = result == failed(Errno::EINVAL);
        expect!(t, refused, "header {index}: {result}");
    }
    let _ = ring(element, [0, 1]);
    let cases = [
        (
            "a CPU that is not there",
            99,
            id::TRACE,
            page(0),
            Errno::ENODEV,
        ),
        ("the profiler's", 0, id::SEP, page(0), Errno::ENOSYS),
        ("nobody's", 0, 77, page(0), Errno::EINVAL),
        (
            "inside of a page",
            0,
            id::TRACE,
            page(0) + 64,
            Errno::EINVAL,
        ),
        ("nowhere", 0, id::TRACE, !0xfff, Errno::EFAULT),
    ];
    for (what, cpu, ring, gpa, errno) in cases {
        let result = set_up(0, cpu, ring, gpa);
        expect!(t, result == failed(errno), "{what}: {result}");
    }
    for range in hidden() {
        let result = set_up(0, 0, id::TRACE, range.start & !0xfff);
        let refused = result == failed(Errno::EFAULT);
        expect!(t, refused, "memory of the hypervisor: {result}");
    }
    let nobody = set_up(5, 0, id::TRACE, page(0));
    expect!(t, nobody == failed(Errno::EINVAL), "no such VM: {nobody}");
}

/// Whatever the header says, nothing is written outside of the ring.
fn hostile(t: &Test, shared: &mut Shared) {
    for value in [0, 1, 31, 0x1f00, 0x8000, 0x7fff_ffe0, u32::MAX] {
        for offset in (8..44).step_by(4) {
            shared.store(offset, value);
            exits(40);
        }
        expect!(t, is_kept(), "behind the ring, with {value:#x}");
    }
}

/// Nothing is written any more.
fn is_silent(t: &Test) {
    for word in &MEMORY.0 {
        word.store(PATTERN, Ordering::SeqCst);
    }
    exits(100);
    let changed = MEMORY
        .0
        .iter()
        .position(|w| w.load(Ordering::SeqCst) != PATTERN);
    expect!(t, changed.is_none(), "word {changed:?} has changed");
}

/// Log lines: those of before, and a new one.
fn log(t: &Test) {
    let (mut shared, mut reader) = ring(LOG_ELEMENT, [0, 1]);
    let result = set_up(0, 0, id::LOG, page(0));
    expect!(t, result == 0, "log ring: {result}");
    let before = lines(&mut shared, &mut reader, b"Service VM");
    expect!(t, before > 0, "no line of before");
    // Refused, and said.
    set_up(0, 0, 77, page(0));
    let now = lines(&mut shared, &mut reader, b"no ring has the number 77");
    expect!(t, now == 1, "{now} lines about the refusal");
    let result = set_up(0, 0, id::LOG, 0);
    expect!(t, result == 0, "withdrawal: {result}");
}

/// Number of lines in the ring with these words.
fn lines(shared: &mut Shared, reader: &mut Reader, words: &[u8]) -> usize {
    let (mut lines, mut found) = (Lines::default(), 0);
    let mut element = [0; LOG_ELEMENT];
    while reader.take(shared, &mut element) {
        if let Some(line) = lines.push(&element) {
            found += usize::from(line.windows(words.len()).any(|part| part == words));
        }
    }
    found
}

/// Where an observer has its ring, in its own addresses.
const AT: u64 = 0x10_0000;

fn device(sbuf_id: u32, gpa: u64) -> Vdev {
    let param = SbufParam {
        sbuf_id,
        gpa,
        ..SbufParam::default()
    };
    let mut vdev = Vdev::new_zeroed();
    vdev.legacy_id = Vdev::LEGACY_RING;
    vdev.args[..size_of::<SbufParam>()].copy_from_slice(param.as_bytes());
    vdev
}

/// Rings of a program: an observer, whose pages are not in order.
pub(super) fn observer(t: &Test) {
    let order = [1, 0];
    let (mut shared, mut reader) = ring(size_of::<TraceEntry>(), order);
    let flags = VmFlags::OBSERVER;
    let vm = match UserVm::create_with(b"observer", 1, flags) {
        Ok(vm) => vm,
        Err(error) => {
            expect!(t, false, "CREATE_VM: {error}");
            return;
        }
    };
    expect!(t, vm.id() > 1, "VM {} is for a VM that runs", vm.id());
    for (index, number) in order.into_iter().enumerate() {
        let result = vm.map(AT + index as u64 * 4096, page(number), 4096);
        expect!(t, result == 0, "memory: {result}");
    }
    let result = vm.start();
    expect!(t, result == failed(Errno::EINVAL), "START_VM: {result}");
    let create = |gpa| {
        let block = device(id::TRACE, gpa);
        hypercall(Id::CREATE_VDEV, vm.id(), (&raw const block) as u64)
    };
    let result = create(AT + 2 * 4096);
    expect!(t, result == failed(Errno::EFAULT), "no memory: {result}");
    let result = create(AT);
    expect!(t, result == 0, "CREATE_VDEV: {result}");
    check(t, &mut shared, &mut reader, true);
    let result = vm.destroy();
    expect!(t, result == 0, "DESTROY_VM: {result}");
    is_silent(t);
    other_vm(t);
}

/// A VM that runs has no ring: its guest would read what others do.
fn other_vm(t: &Test) {
    let Ok(vm) = UserVm::create(b"curious", 1) else {
        expect!(t, false, "CREATE_VM");
        return;
    };
    let _ = ring(size_of::<TraceEntry>(), [0, 1]);
    let result = vm.map(AT, page(0), 2 * 4096);
    expect!(t, result == 0, "memory: {result}");
    let block = device(id::TRACE, AT);
    let result = hypercall(Id::CREATE_VDEV, vm.id(), (&raw const block) as u64);
    expect!(t, result == failed(Errno::EACCES), "CREATE_VDEV: {result}");
    let result = set_up(vm.id(), 0, id::TRACE, AT);
    expect!(t, result == failed(Errno::EACCES), "SETUP_SBUF: {result}");
    let result = vm.destroy();
    expect!(t, result == 0, "DESTROY_VM: {result}");
}
