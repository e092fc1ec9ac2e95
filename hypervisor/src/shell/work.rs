//! Work for another CPU: what only that CPU can do or see.
//!
//! One mailbox a CPU, looked at in its loop between two vCPUs, where none of its vCPUs is on the
//! CPU. There is one shell, so a mailbox never holds two letters. Who asks waits for a bounded
//! time and takes the letter back if nobody has begun.

use crate::arch::{cpu, tsc};
use crate::exit::fetch;
use crate::percpu::{self, MAX_CPUS, PerCpu};
use crate::run;
use crate::vcpu::{Local, Vcpu, Wait};
use crate::virt::{ControlState, Segment, SegmentName};
use acrn_abi::{Gva, PcpuId};
use acrn_emulate::paging::Access;
use core::sync::atomic::{AtomicU8, Ordering};
use spin::Mutex;

/// What is wanted.
#[derive(Clone, Copy)]
pub enum Work {
    /// Read a host MSR.
    ReadMsr(u32),
    /// Write a host MSR.
    WriteMsr(u32, u64),
    /// Copy the state of a vCPU of that CPU.
    Snapshot(&'static Vcpu),
}

/// What came of it.
#[derive(Clone, Copy)]
#[expect(
    clippy::large_enum_variant,
    reason = "one mailbox a CPU, and no heap to box it"
)]
pub enum Answer {
    /// Value of an MSR.
    Value(u64),
    /// Done.
    Done,
    /// The processor refused.
    Faulted,
    /// A life-cycle operation works on the VM at this moment, or the vCPU is not there.
    Busy,
    /// State of the vCPU.
    Snapshot(Snapshot),
    /// The CPU did not look into its mailbox in time.
    Silent,
}

/// Words of the stack in a snapshot.
pub const STACK_WORDS: usize = 32;

/// State of a vCPU at one moment.
#[derive(Clone, Copy)]
pub struct Snapshot {
    /// General registers in the order of their encoding.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Control registers.
    pub control: ControlState,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub segments: [Segment; 8],
    /// Top of the stack, as far as it is mapped.
    pub stack: [Option<u64>; STACK_WORDS],
    /// Why it does not run.
    pub wait: Wait,
}

const FREE: u8 = 0;
const ASKED: u8 = 1;
const BEGUN: u8 = 2;
const DONE: u8 = 3;

struct Mailbox {
    state: AtomicU8,
    work: Mutex<Option<Work>>,
    answer: Mutex<Answer>,
}

static MAILBOXES: [Mailbox; MAX_CPUS] = [const {
    Mailbox {
        state: AtomicU8::new(FREE),
        work: Mutex::new(None),
        answer: Mutex::new(Answer::Silent),
    }
}; MAX_CPUS];

/// Longest wait for another CPU, in milliseconds.
const PATIENCE_MS: u64 = 500;

/// Has `work` done by a CPU and returns the result.
pub fn ask(id: PcpuId, work: Work) -> Answer {
    if id == percpu::current_id() {
        return perform(percpu::current(), work);
    }
    let mailbox = &MAILBOXES[id.index() % MAX_CPUS];
    *mailbox.work.lock() = Some(work);
    mailbox.state.store(ASKED, Ordering::SeqCst);
    run::kick(percpu::get(id));
    let end = cpu::rdtsc() + tsc::from_ms(PATIENCE_MS);
    while mailbox.state.load(Ordering::SeqCst) != DONE {
        let late = cpu::rdtsc() > end;
        let taken_back = late
            && mailbox
                .state
                .compare_exchange(ASKED, FREE, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        if taken_back {
            return Answer::Silent;
        }
        core::hint::spin_loop();
    }
    let answer = *mailbox.answer.lock();
    mailbox.state.store(FREE, Ordering::SeqCst);
    answer
}

/// Looks into the own mailbox; called by the run loop while none of its vCPUs is on the CPU.
#[inline]
pub fn poll(this: &PerCpu) {
    let mailbox = &MAILBOXES[this.id().index()];
    if mailbox.state.load(Ordering::Relaxed) == ASKED {
        serve(this, mailbox);
    }
}

#[cold]
fn serve(this: &PerCpu, mailbox: &Mailbox) {
    let begun = mailbox
        .state
        .compare_exchange(ASKED, BEGUN, Ordering::SeqCst, Ordering::SeqCst);
    if begun.is_err() {
        return;
    }
    if let Some(work) = mailbox.work.lock().take() {
        *mailbox.answer.lock() = perform(this, work);
    }
    mailbox.state.store(DONE, Ordering::SeqCst);
}

fn perform(this: &PerCpu, work: Work) -> Answer {
    match work {
        Work::ReadMsr(msr) => cpu::try_rdmsr(msr).map_or(Answer::Faulted, Answer::Value),
        // SAFETY: the operator asks for it at the machine's own console, and is told that it is
        // a host register.
        Work::WriteMsr(msr, value) => match unsafe { cpu::try_wrmsr(msr, value) } {
            Ok(()) => Answer::Done,
            Err(_) => Answer::Faulted,
        },
        Work::Snapshot(vcpu) => snapshot(this, vcpu),
    }
}

fn snapshot(this: &PerCpu, vcpu: &'static Vcpu) -> Answer {
    let vm = vcpu.vm();
    // Whoever replaces the state of a stopped VM holds this lock.
    let Some(_state) = vm.state.try_lock() else {
        return Answer::Busy;
    };
    if vcpu.pcpu() != this.id() || !vcpu.shared.active.load(Ordering::SeqCst) {
        return Answer::Busy;
    }
    // SAFETY: this is the loop of the vCPU's CPU, which is not running it, and nobody else works
    // on a stopped VM while its state lock is held here.
    let local = unsafe { vcpu.local() };
    let slot = vcpu.shared.slot.load(Ordering::Relaxed) as usize;
    local.virt.load(slot, |gpa| vm.read_word(gpa));
    let snapshot = look(vcpu, local);
    local.virt.release();
    Answer::Snapshot(snapshot)
}

/// What can be seen of a vCPU whose state is in this CPU.
fn look(vcpu: &'static Vcpu, local: &Local) -> Snapshot {
    let vm = vcpu.vm();
    let rsp = local.registers.gpr[4];
    let segments = [
        SegmentName::Es,
        SegmentName::Cs,
        SegmentName::Ss,
        SegmentName::Ds,
        SegmentName::Fs,
        SegmentName::Gs,
        SegmentName::Ldtr,
        SegmentName::Tr,
    ];
    Snapshot {
        gpr: local.registers.gpr,
        rip: local.registers.rip,
        rflags: local.registers.rflags,
        control: local.virt.control(),
        segments: segments.map(|name| local.virt.segment(name)),
        stack: core::array::from_fn(|i| {
            let at = Gva(rsp.wrapping_add(i as u64 * 8));
            let gpa = fetch::translate(vm, local, at, Access::Read).ok()?;
            vm.read_word(gpa)
        }),
        wait: vcpu.wait(),
    }
}
