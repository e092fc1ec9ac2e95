//! Rings in memory of the Service VM, into which trace entries and log lines go.
//!
//! The Service VM gives the memory: its kernel with SETUP_SBUF, at an address of its own, or a program
//! with an *observer*, a VM without vCPUs that `/dev/acrn_hsm` makes, at an address of that one. The
//! driver keeps an observer's pages where they are, and ends the observer when the program has ended,
//! however that came; then its rings are gone before its memory goes back ([`withdraw_all`]).
//!
//! Each CPU writes into its own rings only. Their places are looked up once, when a ring is set up. They
//! stay the Service VM's meanwhile, so that nothing can be written here that it could not write itself.
//!
//! A writer that does not get the lock of its ring goes on without it: a log line may come from anywhere.

use crate::exit::hypercall::Refusal;
use crate::log;
use crate::memory::{self, OWNERS};
use crate::percpu::{self, Calls, MAX_CPUS, PerCpu};
use crate::vm::Vm;
use acrn_abi::hypercall::Errno;
use acrn_abi::sbuf::{MAX_SIZE, SbufHeader};
use acrn_abi::{Gpa, Hpa, PAGE_SIZE, PcpuId, VmId};
use acrn_lifecycle::VmState;
use acrn_lifecycle::validate::{Content, RingRequest};
use acrn_memory::Owner;
use acrn_trace::{Record, RingMemory, Writer, line};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;
use zerocopy::IntoBytes;

/// Pages of the largest ring.
const MOST_PAGES: usize = (MAX_SIZE as u64 / PAGE_SIZE) as usize;

/// A ring that is set up.
struct Ring {
    /// Whose memory it is in, as its owner gave it.
    holder: VmId,
    writer: Writer,
    pages: Pages,
}

/// The host's pages of a ring, by their numbers, which belong to whoever holds the ring's lock.
struct Pages(&'static [AtomicU32]);

/// Room for the numbers of each CPU's rings. Apart from these, since it is zero at first and so takes no
/// room in the image.
static NUMBERS: [[[AtomicU32; MOST_PAGES]; MAX_CPUS]; 2] =
    [const { [const { [const { AtomicU32::new(0) }; MOST_PAGES] }; MAX_CPUS] }; 2];

static TRACE: [Mutex<Option<Ring>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];
static LOG: [Mutex<Option<Ring>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];

fn numbers(content: Content, cpu: &PerCpu) -> &'static [AtomicU32] {
    let rings = match content {
        Content::Trace => &NUMBERS[0],
        Content::Log => &NUMBERS[1],
    };
    &rings[cpu.id().index()]
}

fn place(content: Content, cpu: &PerCpu) -> &'static Mutex<Option<Ring>> {
    let rings = match content {
        Content::Trace => &TRACE,
        Content::Log => &LOG,
    };
    &rings[cpu.id().index()]
}

/// Sets a ring in memory of `vm` up, or withdraws it.
pub fn change(vm: &Vm, request: &RingRequest) -> Result<u64, Refusal> {
    let state = vm.state.lock();
    if *state == VmState::PoweredOff {
        return Err(Refusal::NoVm(vm.id));
    }
    if !vm.is_service() && !vm.is_observer() {
        let reason = "rings are for the Service VM and its observers";
        return Err(Refusal::new(Errno::EACCES, reason));
    }
    let absent = Refusal::new(Errno::ENODEV, "the machine has no such CPU");
    let cpu = percpu::all().get(request.cpu.index()).ok_or(absent)?;
    match request.at {
        Some(at) => set_up(vm, request.content, cpu, at)?,
        None => withdraw(vm.id, request.content, cpu)?,
    }
    drop(state);
    Ok(0)
}

fn set_up(vm: &Vm, content: Content, cpu: &PerCpu, at: Gpa) -> Result<(), Refusal> {
    let mut ring = place(content, cpu).lock();
    if ring.is_some() {
        let reason = "this CPU writes into such a ring already";
        return Err(Refusal::new(Errno::EBUSY, reason));
    }
    let mut header = SbufHeader::default();
    if !vm.read(at, header.as_mut_bytes()) {
        return Err(Refusal::Unmapped(at));
    }
    let writer = Writer::new(&header, content.element())?;
    let pages = Pages::new(numbers(content, cpu), vm, at, writer.bytes())?;
    let ring = ring.insert(Ring {
        holder: vm.id,
        writer,
        pages,
    });
    match content {
        Content::Trace => cpu.call(Calls::TRACE),
        Content::Log => {
            // What was logged before is in one place; the first CPU's ring gets it.
            if cpu.id() == PcpuId(0) {
                ring.catch_up();
            }
            cpu.logged.store(true, Ordering::SeqCst);
        }
    }
    Ok(())
}

fn withdraw(holder: VmId, content: Content, cpu: &PerCpu) -> Result<(), Refusal> {
    let mut ring = place(content, cpu).lock();
    if ring.as_ref().is_none_or(|ring| ring.holder != holder) {
        let reason = "the VM has no such ring";
        return Err(Refusal::new(Errno::ENOENT, reason));
    }
    match content {
        Content::Trace => cpu.end_call(Calls::TRACE),
        Content::Log => cpu.logged.store(false, Ordering::SeqCst),
    }
    *ring = None;
    Ok(())
}

/// Withdraws all rings in memory of a VM. Nobody writes there afterwards.
pub fn withdraw_all(holder: VmId) {
    for cpu in percpu::all() {
        for content in [Content::Trace, Content::Log] {
            // That there is none is as good.
            let _ = withdraw(holder, content, cpu);
        }
    }
}

/// Writes a trace entry into the ring of the CPU that is executing.
#[cold]
#[inline(never)]
pub fn write_trace(cpu: &PerCpu, record: &Record) {
    if let Some(mut ring) = place(Content::Trace, cpu).try_lock() {
        if let Some(Ring { writer, pages, .. }) = ring.as_mut() {
            writer.push(pages, record.encode().as_bytes());
        }
    }
}

/// Writes a log line, which ends with a line feed, into the ring of the CPU that is executing.
#[cold]
#[inline(never)]
pub fn write_line(cpu: &PerCpu, text: &[u8]) {
    if let Some(mut ring) = place(Content::Log, cpu).try_lock() {
        if let Some(ring) = ring.as_mut() {
            ring.line(text);
        }
    }
}

impl Ring {
    /// Puts a line in, all of it or nothing.
    fn line(&mut self, text: &[u8]) {
        let elements = line::elements(text);
        if (self.writer.room(&self.pages) as usize) < elements.len() {
            self.writer.lose(&mut self.pages);
            return;
        }
        for element in elements {
            self.writer.push(&mut self.pages, &element);
        }
    }

    /// Puts in what the log in memory has kept.
    fn catch_up(&mut self) {
        let mut text: ArrayVec<u8, { line::MAX_LINE }> = ArrayVec::new();
        log::replay(|byte| {
            // Lines end on a terminal with CR LF. One that is too long is cut.
            match byte {
                b'\r' => {}
                b'\n' => {
                    text.push(byte);
                    self.line(&text);
                    text.clear();
                }
                _ if text.remaining_capacity() > 1 => text.push(byte),
                _ => {}
            }
        });
    }
}

impl Pages {
    /// The pages behind `bytes` bytes of a VM's memory, which are the Service VM's and writable.
    fn new(numbers: &'static [AtomicU32], vm: &Vm, at: Gpa, bytes: u32) -> Result<Self, Refusal> {
        let large = Refusal::new(Errno::EINVAL, "the ring is too large");
        let count = bytes.div_ceil(PAGE_SIZE as u32) as usize;
        let numbers = numbers.get(..count).ok_or(large)?;
        for (index, place) in numbers.iter().enumerate() {
            let gpa = at.checked_add(index as u64 * PAGE_SIZE);
            let gpa = gpa.ok_or(Refusal::Unmapped(at))?;
            let hpa = vm.translate_for_write(gpa).ok_or(Refusal::Unmapped(gpa))?;
            let owner = OWNERS.lock().as_ref().and_then(|owners| owners.owner(hpa));
            if !is_given(owner, vm) {
                let reason = "a page of the ring is not the Service VM's memory";
                return Err(Refusal::new(Errno::EACCES, reason));
            }
            let number = u32::try_from(hpa.0 / PAGE_SIZE).map_err(|_| large)?;
            place.store(number, Ordering::Relaxed);
        }
        Ok(Self(numbers))
    }

    fn at(&self, offset: u32) -> Hpa {
        let page = self.0.get(offset as usize / PAGE_SIZE as usize);
        // The writer stays inside of the ring; nothing can be read or written at the highest page.
        let page = page.map_or(u32::MAX, |number| number.load(Ordering::Relaxed));
        Hpa(u64::from(page) * PAGE_SIZE + u64::from(offset) % PAGE_SIZE)
    }

    /// The pieces of a range in different pages: offset, and how many bytes.
    fn pieces(offset: u32, length: usize) -> impl Iterator<Item = (u32, core::ops::Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = offset + done as u32;
            let left = PAGE_SIZE as usize - at as usize % PAGE_SIZE as usize;
            let piece = done..length.min(done + left);
            done = piece.end;
            (!piece.is_empty()).then_some((at, piece))
        })
    }
}

/// Whether the Service VM may give a page with this owner for a ring in memory of `vm`.
fn is_given(page: Option<Owner>, vm: &Vm) -> bool {
    let service = crate::vm::service().id;
    match page {
        Some(Owner::Vm(id)) => vm.is_service() && id == service,
        Some(Owner::Lent { owner, .. } | Owner::LentJointly { owner, .. }) => {
            owner == service && page.is_some_and(|page| page.is_lent_to(vm.id))
        }
        _ => false,
    }
}

impl RingMemory for Pages {
    fn load(&self, offset: u32) -> u32 {
        memory::load_guest_u32(self.at(offset)).unwrap_or(0)
    }

    fn store(&mut self, offset: u32, value: u32) {
        memory::store_guest_u32(self.at(offset), value);
    }

    fn read(&self, offset: u32, bytes: &mut [u8]) {
        for (at, piece) in Self::pieces(offset, bytes.len()) {
            memory::read_guest(self.at(at), &mut bytes[piece]);
        }
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) {
        for (at, piece) in Self::pieces(offset, bytes.len()) {
            memory::write_guest(self.at(at), &bytes[piece]);
        }
    }
}
