//! AMD SVM (APM volume 2, chapter 15) under the vendor contract.
//!
//! Works on processors without next-RIP save and decode assists, and uses them where present.
//! Virtual interrupts are handed to hardware through V_IRQ, so that delivery needs no exit.

mod vmcb;

use super::image::{Image, RESET_DR6, RESET_DR7, RESET_PAT};
use super::{
    ControlState, Event, Exit, IoExit, Missing, NestedFault, NotAllowed, Registers, Segment,
    SegmentName, StartState, VirtConfig, gpr,
};
use crate::arch::cpu::{self, efer, msr};
use crate::percpu;
use acrn_abi::{Gpa, Vector};
use acrn_emulate::task;
use acrn_vdev::lapic::{PostedInterrupts, VLapic};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use vmcb::{Vmcb, exit_code, int_ctl, intercept1, intercept2};

/// CPUID 0x8000000A EDX, read once.
static FEATURES: AtomicU32 = AtomicU32::new(0);
/// Highest ASID, which vCPUs without one of their own share.
static LAST_ASID: AtomicU32 = AtomicU32::new(1);

const FEATURE_NPT: u32 = 1 << 0;
const FEATURE_NRIP: u32 = 1 << 3;
const FEATURE_FLUSH_BY_ASID: u32 = 1 << 6;
const FEATURE_DECODE_ASSISTS: u32 = 1 << 7;
const FEATURE_PAUSE_FILTER: u32 = 1 << 10;

fn has(feature: u32) -> bool {
    FEATURES.load(Ordering::Relaxed) & feature != 0
}

/// Whether nested tables may use 1 GiB pages.
pub fn has_gib_pages() -> bool {
    cpu::cpuid(0x8000_0001, 0).edx >> 26 & 1 != 0
}

/// Whether the processor has SVM at all.
pub fn is_present() -> bool {
    let extended = cpu::cpuid(0x8000_0000, 0).eax;
    extended >= 0x8000_000a && cpu::cpuid(0x8000_0001, 0).ecx >> 2 & 1 != 0
}

/// Looks for SVM with nested paging.
pub fn detect() -> Result<(), Missing> {
    let mut missing = Missing::new();
    let leaf = cpu::cpuid(0x8000_000a, 0);
    FEATURES.store(leaf.edx, Ordering::Relaxed);
    LAST_ASID.store(leaf.ebx.saturating_sub(1).max(1), Ordering::Relaxed);
    if !has(FEATURE_NPT) {
        missing.push("SVM nested paging (NPT)");
    }
    if cpu::rdmsr(msr::VM_CR) & 1 << 4 != 0 {
        missing.push("SVM is disabled by the firmware (VM_CR.SVMDIS): enable \"SVM\" or \"AMD-V\"");
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(missing)
    }
}

/// Lets an MSR pass in a bitmap of intercepted ones, all bits of which are set (APM volume 2,
/// 15.11): two bits an MSR.
pub fn pass_msr(bitmap: &mut [u8], index: u32) {
    let (base, offset) = match index {
        0..=0x1fff => (0, index),
        0xc000_0000..=0xc000_1fff => (2048, index - 0xc000_0000),
        _ => return,
    };
    bitmap[base + offset as usize / 4] &= !(3 << (offset % 4 * 2));
}

/// Turns SVM on for this CPU.
pub fn enable() -> Result<(), &'static str> {
    let this = percpu::current();
    // SAFETY: SVME adds instructions; the host save area is this CPU's own page and used for
    // nothing else; VMSAVE stores into the other one.
    unsafe {
        cpu::wrmsr(msr::EFER, cpu::rdmsr(msr::EFER) | efer::SVME);
        cpu::wrmsr(msr::VM_HSAVE_PA, this.host_save.get() as u64);
        asm!("vmsave rax", in("rax") this.host_state.get(), options(nostack));
    }
    Ok(())
}

/// Turns SVM off for this CPU.
pub fn disable() {
    // SAFETY: takes instructions away that nobody executes before `enable`; the CPU is in no guest.
    unsafe { cpu::wrmsr(msr::EFER, cpu::rdmsr(msr::EFER) & !efer::SVME) };
}

/// Sets the global interrupt flag, which is set already. QEMU's processors share a word of flags with CPU 0
/// without a lock, so that the flag may have been lost: an idle CPU would then sleep for ever.
#[inline]
pub fn before_wait() {
    // SAFETY: interrupts stay off by RFLAGS.IF, and NMIs are possible anywhere in the hypervisor.
    unsafe { asm!("stgi", options(nomem, nostack)) };
}

/// The hardware half of a vCPU: its VMCB and what goes with it.
pub struct SvmCpu {
    vmcb: Vmcb,
    /// ASID slot is new on this CPU: drop its translations at the next entry.
    flush: bool,
    /// NMI handler is running (until IRET).
    nmi_blocked: bool,
    /// Vector given to V_IRQ at the last entry.
    offered: Option<Vector>,
}

impl SvmCpu {
    /// A vCPU that has not been set up.
    pub const fn new() -> Self {
        Self {
            vmcb: Vmcb::new(),
            flush: true,
            nmi_blocked: false,
            offered: None,
        }
    }

    /// Sets up what does not change while the VM lives, and the state after reset.
    pub fn configure(&mut self, config: &VirtConfig, _posted: &'static PostedInterrupts) {
        self.vmcb = Vmcb::new();
        let control = &mut self.vmcb.control;
        // #DB and #AC are the guest's own, but a guest can make the processor raise them without end
        // while it delivers them, and no interrupt would come in between.
        control.exceptions =
            1 << super::exception::UD | 1 << super::exception::DB | 1 << super::exception::AC;
        control.intercept1 = intercept1::INTR
            | intercept1::NMI
            | intercept1::SMI
            | intercept1::INIT
            | intercept1::RDPMC
            | intercept1::CPUID
            | intercept1::INVD
            | intercept1::HLT
            | intercept1::INVLPGA
            | intercept1::IOIO
            | intercept1::MSR
            | intercept1::FERR_FREEZE
            | intercept1::SHUTDOWN;
        control.intercept2 = intercept2::VMRUN
            | intercept2::VMMCALL
            | intercept2::VMLOAD
            | intercept2::VMSAVE
            | intercept2::STGI
            | intercept2::CLGI
            | intercept2::SKINIT
            | intercept2::WBINVD
            | intercept2::MONITOR
            | intercept2::MWAIT
            | intercept2::XSETBV
            | intercept2::RDPRU;
        if has(FEATURE_PAUSE_FILTER) {
            control.intercept1 |= intercept1::PAUSE;
            control.pause_filter_count = 3000;
        }
        control.iopm_base = config.io_bitmap;
        control.msrpm_base = config.msr_bitmap;
        control.nested_control = 1;
        control.nested_cr3 = config.nested_root;
        control.int_ctl = int_ctl::V_INTR_MASKING;
        self.reset();
    }

    /// State after INIT.
    pub fn reset(&mut self) {
        self.apply(&Image::RESET);
    }

    fn apply(&mut self, image: &Image) {
        let state = &mut self.vmcb.state;
        [
            state.es, state.cs, state.ss, state.ds, state.fs, state.gs, state.ldtr, state.tr,
        ] = image.segments.each_ref().map(to_vmcb);
        let table = |(base, limit): (u64, u16)| vmcb::VmcbSegment {
            limit: limit.into(),
            base,
            ..Default::default()
        };
        state.gdtr = table(image.gdt);
        state.idtr = table(image.idt);
        state.cpl = 0;
        state.efer = image.control.efer | efer::SVME;
        state.cr0 = image.control.cr0;
        state.cr2 = image.control.cr2;
        state.cr3 = image.control.cr3;
        state.cr4 = image.control.cr4;
        state.dr6 = RESET_DR6;
        state.dr7 = RESET_DR7;
        state.pat = RESET_PAT;
        self.vmcb.control.event_inj = 0;
        self.vmcb.control.interrupt_shadow = 0;
        self.vmcb.control.int_ctl = int_ctl::V_INTR_MASKING;
        self.vmcb.control.exit_int_info = 0;
        self.nmi_blocked = false;
        self.offered = None;
        self.flush = true;
    }

    /// The VMCB is always here.
    #[inline]
    pub fn load(&mut self, _slot: usize, _memory: impl Fn(Gpa) -> Option<u64>) {}

    /// Any CPU may use the VMCB.
    #[inline]
    pub fn release(&mut self) {}

    /// VMLOAD and VMSAVE switch all of them.
    #[inline]
    pub fn load_msrs(&self) {}

    /// VMLOAD and VMSAVE switch all of them.
    #[inline]
    pub fn save_msrs(&mut self) {}

    /// No such access exits.
    pub fn access_control_register(
        &mut self,
        _registers: &mut Registers,
        _memory: impl Fn(Gpa) -> Option<u64>,
    ) -> Result<(), NotAllowed> {
        Err(NotAllowed)
    }

    /// Start-up IPI: real mode at `page` * 4096.
    pub fn start_up(&mut self, registers: &mut Registers, page: u8) {
        self.vmcb.state.cs = to_vmcb(&Image::code_at(page));
        registers.rip = 0;
    }

    /// Sets a whole state. Values were checked by the caller; what SVM would refuse at entry ends
    /// as [`Exit::InvalidState`] of that VM alone.
    pub fn set_state(&mut self, start: &StartState) {
        self.apply(&Image::starting(start));
    }

    /// Control registers and privilege level.
    #[inline]
    pub fn control(&self) -> ControlState {
        let state = &self.vmcb.state;
        ControlState {
            cr0: state.cr0,
            cr2: state.cr2,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer & !efer::SVME,
            cpl: state.cpl,
        }
    }

    /// CR4.
    #[inline]
    pub fn cr4(&self) -> u64 {
        self.vmcb.state.cr4
    }

    /// Sets EFER as a guest's WRMSR does; the value was checked.
    pub fn set_efer(&mut self, value: u64) {
        let lma = self.vmcb.state.efer & efer::LMA;
        self.vmcb.state.efer = value & !efer::LMA | lma | efer::SVME;
    }

    /// Sets CR2, before a page fault is injected.
    pub fn set_cr2(&mut self, value: u64) {
        self.vmcb.state.cr2 = value;
    }

    /// Guest PAT.
    pub fn pat(&self) -> u64 {
        self.vmcb.state.pat
    }

    /// Sets the guest PAT; the value was checked.
    pub fn set_pat(&mut self, value: u64) {
        self.vmcb.state.pat = value;
    }

    /// A segment register.
    pub fn segment(&self, name: SegmentName) -> Segment {
        let state = &self.vmcb.state;
        from_vmcb(match name {
            SegmentName::Es => &state.es,
            SegmentName::Cs => &state.cs,
            SegmentName::Ss => &state.ss,
            SegmentName::Ds => &state.ds,
            SegmentName::Fs => &state.fs,
            SegmentName::Gs => &state.gs,
            SegmentName::Ldtr => &state.ldtr,
            SegmentName::Tr => &state.tr,
        })
    }

    /// Base of a segment register; FS and GS are current after an exit.
    #[inline]
    pub fn segment_base(&self, name: SegmentName) -> u64 {
        self.segment(name).base
    }

    /// What the guest's TSC is ahead of the host's.
    pub fn tsc_offset(&self) -> u64 {
        self.vmcb.control.tsc_offset
    }

    /// Sets the offset that hardware adds to the TSC.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.control.tsc_offset = offset;
    }

    /// There is no such timer.
    #[inline]
    pub fn use_deadline(&mut self, _on: bool) -> bool {
        false
    }

    /// There is no such timer.
    #[inline]
    pub fn set_time_left(&mut self, _ticks: u64) {}

    /// That would be AVIC, which is not used.
    #[inline]
    pub fn takes_posted(&self) -> bool {
        false
    }

    /// The guest has a virtual one.
    #[inline]
    pub fn has_apic(&self) -> bool {
        false
    }

    /// It stays so.
    pub fn give_apic(&mut self, _on: bool) {}

    /// Host interrupts stay pending at an exit.
    #[inline]
    pub fn acknowledged(&self) -> Option<u8> {
        None
    }

    /// Another nested table root, after the VM was rebuilt.
    pub fn request_flush(&mut self) {
        self.flush = true;
    }

    /// Whether an exception, interrupt or NMI was being delivered when the guest stopped, or is
    /// to be delivered already.
    #[inline]
    pub fn event_pending(&self) -> bool {
        self.vmcb.control.event_inj & vmcb::EVENT_VALID != 0
    }

    /// Delivers `event` at the next entry. An event that is there already stays when it is an
    /// interrupted delivery and the new one is not an exception.
    pub fn inject(&mut self, event: Event) {
        let (vector, kind, code) = match event {
            Event::External(vector) => (vector, 0, None),
            Event::Nmi => {
                self.nmi_blocked = true;
                self.vmcb.control.intercept1 |= intercept1::IRET;
                (2, 2, None)
            }
            Event::Exception(vector, code) => (vector, 3, code),
        };
        let mut value = u64::from(vector) | kind << 8 | vmcb::EVENT_VALID;
        if let Some(code) = code {
            value |= 1 << 11 | u64::from(code) << 32;
        }
        self.vmcb.control.event_inj = value;
        if kind == 3 {
            self.vmcb.control.interrupt_shadow = 0;
        }
    }

    /// Whether an external interrupt can be injected now.
    #[inline]
    pub fn interrupt_possible(&self, registers: &Registers) -> bool {
        registers.rflags & 1 << 9 != 0
            && self.vmcb.control.interrupt_shadow & 1 == 0
            && !self.event_pending()
    }

    /// Whether an NMI can be injected now.
    #[inline]
    pub fn nmi_possible(&self) -> bool {
        !self.nmi_blocked && self.vmcb.control.interrupt_shadow & 1 == 0 && !self.event_pending()
    }

    /// IRET is intercepted since the last NMI was injected; a shadow ends by itself.
    #[inline]
    pub fn request_nmi_window(&mut self) {}

    /// IRET after an NMI was seen: NMIs are possible behind it.
    pub fn end_nmi(&mut self) {
        self.nmi_blocked = false;
        self.vmcb.control.intercept1 &= !intercept1::IRET;
        // The IRET itself has still to run: hold the next NMI back for one instruction.
        self.vmcb.control.interrupt_shadow |= 1;
    }

    /// Gives the pending virtual interrupt and the task priority to hardware.
    #[inline]
    fn offer_interrupt(&mut self, lapic: &VLapic, window: bool) {
        let control = &mut self.vmcb.control;
        let base = int_ctl::V_INTR_MASKING | u64::from(lapic.tpr() >> 4);
        self.offered = None;
        if window {
            control.int_ctl = base | int_ctl::V_IRQ | int_ctl::V_IGN_TPR | 0xf << 16;
            control.intercept1 |= intercept1::VINTR;
            return;
        }
        control.intercept1 &= !intercept1::VINTR;
        self.offered = lapic.pending_ignoring_tpr();
        control.int_ctl = base;
        if let Some(vector) = self.offered {
            control.int_ctl |=
                int_ctl::V_IRQ | u64::from(vector.0 >> 4) << 16 | u64::from(vector.0) << 32;
        }
    }

    /// Tells the local APIC what was delivered since the last entry, and the task priority.
    #[inline]
    fn collect_interrupt(&mut self, lapic: &mut VLapic) {
        let int_ctl = self.vmcb.control.int_ctl;
        if let Some(vector) = self.offered.take()
            && int_ctl & int_ctl::V_IRQ == 0
        {
            lapic.delivered(vector);
        }
        let tpr = (int_ctl as u8 & 0xf) << 4;
        if tpr != lapic.tpr() & 0xf0 {
            lapic.set_tpr(tpr);
        }
    }

    /// Instruction bytes that hardware fetched for a nested fault, where it does.
    pub fn fetched(&self) -> &[u8] {
        let control = &self.vmcb.control;
        if !has(FEATURE_DECODE_ASSISTS) {
            return &[];
        }
        &control.fetched[..usize::from(control.fetched_count & 0xf).min(15)]
    }

    /// QEMU's processor does not look at the shadow in the VMCB.
    #[inline]
    pub fn may_lose_shadow(&self) -> bool {
        self.vmcb.control.interrupt_shadow & 1 != 0
    }

    /// Continues behind the instruction that caused the exit, `length` bytes long when hardware
    /// does not say it.
    #[inline]
    pub fn advance(&mut self, registers: &mut Registers, length: u64) {
        let next = self.vmcb.control.next_rip;
        registers.rip = if has(FEATURE_NRIP) && next != 0 {
            next
        } else {
            registers.rip.wrapping_add(length)
        };
        self.finish_instruction(registers);
    }

    /// What retiring an instruction does besides moving RIP.
    #[inline]
    pub fn finish_instruction(&mut self, registers: &mut Registers) {
        self.vmcb.control.interrupt_shadow = 0;
        if self.vmcb.state.efer & efer::LMA == 0 || self.vmcb.state.cs.attributes & 1 << 9 == 0 {
            registers.rip &= 0xffff_ffff;
        }
    }

    /// Runs the guest until the next exit. `slot` is the vCPU's place on this CPU.
    pub fn enter(
        &mut self,
        registers: &mut Registers,
        slot: usize,
        lapic: &mut VLapic,
        window: bool,
        _posted: &PostedInterrupts,
    ) -> Exit {
        self.offer_interrupt(lapic, window);
        let control = &mut self.vmcb.control;
        let last = LAST_ASID.load(Ordering::Relaxed);
        let own = (slot as u32 + 1) < last;
        control.asid = if own { slot as u32 + 1 } else { last };
        control.tlb_control = 0;
        if self.flush || !own {
            control.tlb_control = if has(FEATURE_FLUSH_BY_ASID) { 3 } else { 1 };
            self.flush = false;
        }
        control.clean_bits = 0;
        let state = &mut self.vmcb.state;
        state.rax = registers.gpr[gpr::RAX];
        state.rsp = registers.gpr[gpr::RSP];
        state.rip = registers.rip;
        state.rflags = registers.rflags;
        let host = percpu::current().host_state.get();
        // SAFETY: the VMCB is complete and pinned in static memory; the bitmaps and the nested
        // root it names belong to this VM; the stub saves what the guest may change.
        unsafe { vmcb::svm_enter(registers, &raw mut self.vmcb, host) };
        let state = &self.vmcb.state;
        registers.gpr[gpr::RAX] = state.rax;
        registers.gpr[gpr::RSP] = state.rsp;
        registers.rip = state.rip;
        registers.rflags = state.rflags;
        self.collect_interrupt(lapic);
        let control = &mut self.vmcb.control;
        control.event_inj = cut_off_event(control.exit_int_info);
        self.decode()
    }

    #[inline]
    fn decode(&self) -> Exit {
        let control = &self.vmcb.control;
        match control.exit_code {
            exit_code::INTR => Exit::Interrupt,
            exit_code::CPUID => Exit::Cpuid,
            exit_code::MSR => Exit::Msr {
                write: control.exit_info1 & 1 != 0,
            },
            exit_code::IOIO => Exit::Io,
            exit_code::NPF => Exit::NestedFault,
            exit_code::HLT => Exit::Hlt,
            exit_code::PAUSE => Exit::Pause,
            exit_code::VINTR => Exit::InterruptWindow,
            exit_code::NMI => Exit::Nmi,
            exit_code::IRET => Exit::NmiWindow,
            exit_code::XSETBV => Exit::Xsetbv,
            exit_code::WBINVD => Exit::Wbinvd,
            exit_code::INVD => Exit::Invd,
            exit_code::VMMCALL => Exit::Hypercall,
            exit_code::EXCEPTION_UD => Exit::UndefinedOpcode,
            exit_code::EXCEPTION_DB => Exit::Exception(super::exception::DB),
            exit_code::EXCEPTION_AC => Exit::Exception(super::exception::AC),
            exit_code::VMRUN
            | exit_code::VMLOAD
            | exit_code::VMSAVE
            | exit_code::STGI
            | exit_code::CLGI
            | exit_code::SKINIT
            | exit_code::INVLPGA
            | exit_code::MONITOR
            | exit_code::MWAIT
            | exit_code::RDPRU
            | exit_code::RDPMC => Exit::Refused,
            exit_code::SHUTDOWN => Exit::Shutdown,
            exit_code::INVALID | exit_code::INVALID_32 | exit_code::BUSY => Exit::InvalidState,
            // SMI and INIT arrive at the host once GIF is set again.
            exit_code::SMI | exit_code::INIT => Exit::Interrupt,
            _ => Exit::Unknown,
        }
    }

    /// The access behind [`Exit::Io`].
    #[inline]
    pub fn port_access(&self) -> IoExit {
        let control = &self.vmcb.control;
        // IN in bit 0, a string instruction in bit 2, bytes in bits 6:4 (APM volume 2, 15.10.2).
        let info = control.exit_info1 as u32;
        let size = (info >> 4 & 7).wrapping_sub(1) & 7;
        let bits = info & 0xffff_0000 | (info & 4) << 2 | (info & 1) << 3 | size;
        IoExit::new(bits, control.exit_info2)
    }

    /// The access behind [`Exit::NestedFault`].
    #[inline]
    pub fn nested_fault(&self) -> NestedFault {
        let control = &self.vmcb.control;
        NestedFault {
            gpa: Gpa(control.exit_info2),
            fetch: control.exit_info1 & 16 != 0,
            page_walk: control.exit_info1 >> 33 & 1 != 0,
        }
    }

    /// The processor switches tasks by itself.
    pub fn task_switch(&mut self, _registers: &Registers) -> Option<(task::Request, task::State)> {
        None
    }

    /// Never asked for: there are no switches to complete.
    pub fn set_task(
        &mut self,
        _registers: &mut Registers,
        _state: &task::State,
        _memory: impl Fn(Gpa) -> Option<u64>,
    ) {
    }

    /// Shows the vendor's part of a state dump.
    pub fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let (c, s) = (&self.vmcb.control, &self.vmcb.state);
        if matches!(c.exit_code, exit_code::INVALID | exit_code::INVALID_32) {
            writeln!(out, "VMRUN refused the state (VMEXIT_INVALID)\r")?;
        }
        writeln!(
            out,
            "exit code {:#x} info1 {:#x} info2 {:#x} intinfo {:#x} int_ctl {:#x} inj {:#x}\r",
            c.exit_code, c.exit_info1, c.exit_info2, c.exit_int_info, c.int_ctl, c.event_inj
        )?;
        writeln!(
            out,
            "cs {:04x} attr {:03x} base {:x}  ss {:04x}  tr {:04x}  cpl {}  efer {:x}\r",
            s.cs.selector, s.cs.attributes, s.cs.base, s.ss.selector, s.tr.selector, s.cpl, s.efer
        )?;
        // QEMU's CPUs share a word of flags with CPU 0 without a lock: when another one loads
        // x87 state just as CPU 0 leaves its guest, nested paging stays on.
        if s.rip == &raw const vmcb::svm_left as u64 {
            writeln!(
                out,
                "this is the host's own state: a defect of QEMU's emulation, not of the guest\r"
            )?;
        }
        Ok(())
    }
}

/// What to inject for an event whose delivery was cut off by the exit: itself, unless it comes again
/// without that. Instructions raise theirs anew (INT n is a kind of its own, INT3 and INTO are
/// exceptions). QEMU calls external interrupts exceptions too, and leaves V_IRQ set for them.
#[inline]
fn cut_off_event(information: u64) -> u64 {
    const EXCEPTION: u64 = 3;
    const SOFTWARE: u64 = 4;
    let comes_again = match (information >> 8 & 7, information & 0xff) {
        (SOFTWARE, _) => true,
        (EXCEPTION, vector) => matches!(vector, 3 | 4 | 32..),
        _ => false,
    };
    match information & vmcb::EVENT_VALID != 0 && !comes_again {
        true => information,
        false => 0,
    }
}

/// VMX access rights to VMCB attributes: bits 7:0 stay, 15:12 move to 11:8.
fn to_vmcb(segment: &Segment) -> vmcb::VmcbSegment {
    vmcb::VmcbSegment {
        selector: segment.selector,
        attributes: (segment.access & 0xff | segment.access >> 4 & 0xf00) as u16,
        limit: segment.limit,
        base: segment.base,
    }
}

fn from_vmcb(segment: &vmcb::VmcbSegment) -> Segment {
    let attributes = u32::from(segment.attributes);
    Segment {
        selector: segment.selector,
        access: attributes & 0xff | (attributes & 0xf00) << 4,
        limit: segment.limit,
        base: segment.base,
    }
}
