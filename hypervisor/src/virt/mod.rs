//! The vendor contract: what SVM and VMX each provide, and nothing else knows which one runs.
//!
//! A vendor module prepares a CPU ([`enable`]), keeps the hardware state of a vCPU
//! ([`VirtCpu`]), enters the guest and decodes the exit into a neutral [`Exit`]. It decides
//! nothing: policy is in the modules above.

mod image;
#[macro_use]
mod stub;
mod svm;
mod vmx;

use acrn_abi::{Gpa, Vector};
use acrn_emulate::task;
pub use acrn_emulate::task::SegmentRegister as Segment;
use acrn_memory::{MapError, Mapping};
use acrn_vdev::lapic::{PostedInterrupts, VLapic};
use core::sync::atomic::{AtomicBool, Ordering};

/// Registers of a guest that the vendor's hardware does not keep.
#[repr(C, align(16))]
pub struct Registers {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 … r15: the order of the encoding.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// XMM0-15, which the hypervisor's own code uses.
    pub xmm: [[u64; 2]; 16],
    /// SSE control and status.
    pub mxcsr: u32,
}

impl Registers {
    /// State after power-up or INIT; `rip` and segments are the vendor's part.
    pub const fn new() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: 2,
            xmm: [[0; 2]; 16],
            mxcsr: 0x1f80,
        }
    }
}

/// Indexes into [`Registers::gpr`].
pub mod gpr {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
}

/// A port access that the guest made, packed so that handing it on is cheap.
#[derive(Clone, Copy, Debug)]
pub struct IoExit {
    /// Bits 2:0 bytes less one, bit 3 IN or INS, bit 4 a string instruction, bits 31:16 port: as
    /// VMX says it.
    bits: u32,
    /// Instruction after this one.
    pub next_rip: u64,
}

impl IoExit {
    /// From bits in the layout of VMX's exit qualification (SDM volume 3C, table 28-5), the rest
    /// of which is ignored.
    #[inline]
    pub const fn new(bits: u32, next_rip: u64) -> Self {
        Self { bits, next_rip }
    }
    /// Port.
    #[inline]
    pub const fn port(&self) -> u16 {
        (self.bits >> 16) as u16
    }
    /// Bytes: 1, 2 or 4.
    #[inline]
    pub const fn size(&self) -> u8 {
        (self.bits & 7) as u8 + 1
    }
    /// IN or INS.
    #[inline]
    pub const fn input(&self) -> bool {
        self.bits & 8 != 0
    }
    /// INS or OUTS.
    #[inline]
    pub const fn string(&self) -> bool {
        self.bits & 16 != 0
    }
}

/// A guest access that the nested tables do not allow.
#[derive(Clone, Copy, Debug)]
pub struct NestedFault {
    /// Guest physical address.
    pub gpa: Gpa,
    /// An instruction fetch.
    pub fetch: bool,
    /// Made by the guest's page walk, not by the instruction.
    pub page_walk: bool,
}

/// Why the guest stopped running. It is small, since it is handed on at each exit; what else the
/// hardware said stays with the vCPU until the next entry (`VirtCpu::port_access`,
/// `VirtCpu::nested_fault`, and the dump for what is unknown).
#[derive(Clone, Copy, Debug)]
pub enum Exit {
    /// CPUID.
    Cpuid,
    /// RDMSR or WRMSR.
    Msr {
        /// WRMSR.
        write: bool,
    },
    /// IN, OUT, INS, OUTS.
    Io,
    /// Nested page fault or EPT violation.
    NestedFault,
    /// The guest has ended a level-triggered interrupt, without asking its local APIC.
    EndOfInterrupt(Vector),
    /// HLT.
    Hlt,
    /// PAUSE, in a loop.
    Pause,
    /// A host interrupt is pending.
    Interrupt,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The time of [`VirtCpu::set_time_left`] has come, more or less.
    Deadline,
    /// A host NMI is pending.
    Nmi,
    /// The guest can take an NMI now.
    NmiWindow,
    /// An access to a control register that is left to [`VirtCpu::access_control_register`].
    ControlRegister,
    /// A switch to another task, which [`VirtCpu::task_switch`] describes.
    TaskSwitch,
    /// XSETBV.
    Xsetbv,
    /// WBINVD.
    Wbinvd,
    /// INVD.
    Invd,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// #UD that the vendor module did not recognise as a hypercall: the guest's own.
    UndefinedOpcode,
    /// An exception of the guest's own, by vector, that could keep the processor busy for ever.
    Exception(u8),
    /// A virtualization instruction, MONITOR, MWAIT, RDPMC, …: not there for guests.
    Refused,
    /// Triple fault.
    Shutdown,
    /// The state to enter with was invalid.
    InvalidState,
    /// Something that the vendor module does not know.
    Unknown,
}

impl Exit {
    /// Number of distinct reasons that are counted.
    pub const REASONS: usize = acrn_trace::REASONS.len();

    /// Names in the order of [`Exit::reason`].
    pub const NAMES: [&'static str; Self::REASONS] = acrn_trace::REASONS;

    /// Index of the reason for counters.
    #[inline]
    pub fn reason(&self) -> usize {
        match self {
            Exit::Cpuid => 0,
            Exit::Msr { .. } => 1,
            Exit::Io => 2,
            Exit::NestedFault => 3,
            Exit::Hlt => 4,
            Exit::Pause => 5,
            Exit::Interrupt => 6,
            Exit::InterruptWindow => 7,
            Exit::Nmi => 8,
            Exit::NmiWindow => 9,
            Exit::Xsetbv => 10,
            Exit::Wbinvd => 11,
            Exit::Invd => 12,
            Exit::Hypercall => 13,
            Exit::UndefinedOpcode => 14,
            Exit::Refused => 15,
            Exit::Shutdown => 16,
            Exit::InvalidState => 17,
            Exit::Unknown => 18,
            Exit::Exception(..) => 19,
            Exit::ControlRegister => 20,
            Exit::EndOfInterrupt(..) => 21,
            Exit::Deadline => 22,
            Exit::TaskSwitch => 23,
        }
    }
}

/// Segment registers by the number in an instruction's encoding; then the system ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SegmentName {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

/// The architectural state that decides how a guest's memory is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlState {
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER as the guest sees it.
    pub efer: u64,
    /// Privilege level.
    pub cpl: u8,
}

/// A complete state to start from, as SET_VCPU_REGS gives it.
#[derive(Clone, Copy, Debug)]
pub struct StartState {
    /// Control registers.
    pub control: ControlState,
    /// Code segment.
    pub cs: Segment,
    /// ES, SS, DS, FS and GS.
    pub data: [Segment; 5],
    /// GDT base and limit.
    pub gdt: (u64, u16),
    /// IDT base and limit.
    pub idt: (u64, u16),
    /// LDT selector.
    pub ldt: u16,
    /// Task register selector.
    pub tr: u16,
}

/// An event to deliver at the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// External interrupt from the 8259 pair.
    External(u8),
    /// Non-maskable interrupt.
    Nmi,
    /// Exception with its error code, if it has one.
    Exception(u8, Option<u32>),
}

/// Exceptions that are injected.
pub mod exception {
    #![allow(missing_docs)]
    pub const DB: u8 = 1;
    pub const UD: u8 = 6;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const AC: u8 = 17;
}

/// What a vCPU needs to be set up.
#[derive(Clone, Copy, Debug)]
pub struct VirtConfig {
    /// Root of the nested tables, in the vendor's form.
    pub nested_root: u64,
    /// Which ports pass through.
    pub io_bitmap: u64,
    /// Which MSRs pass through.
    pub msr_bitmap: u64,
}

/// Nested tables in the format of this machine's vendor.
pub enum NestedTable {
    /// AMD nested page tables.
    Npt(acrn_memory::NestedTable<acrn_memory::Npt>),
    /// Intel extended page tables.
    Ept(acrn_memory::NestedTable<acrn_memory::Ept>),
}

macro_rules! nested {
    ($self:ident, $table:ident => $body:expr) => {
        match $self {
            NestedTable::Npt($table) => $body,
            NestedTable::Ept($table) => $body,
        }
    };
}

impl NestedTable {
    /// An empty table; frames come from the hypervisor's pool.
    pub fn new() -> Result<Self, MapError> {
        let bits = crate::arch::cpu::physical_address_bits();
        let limits = acrn_memory::Limits {
            guest_bits: bits.min(48) as u8,
            host_bits: bits as u8,
            gib_pages: has_gib_pages(),
        };
        let frames = &mut crate::memory::Frames;
        Ok(match Vendor::of_this_machine() {
            Vendor::Svm => Self::Npt(acrn_memory::NestedTable::new(frames, limits)?),
            Vendor::Vmx => Self::Ept(acrn_memory::NestedTable::new(frames, limits)?),
        })
    }

    /// Value for [`VirtConfig::nested_root`].
    pub fn root_pointer(&self) -> u64 {
        nested!(self, t => t.root_pointer())
    }

    /// Table frames in use.
    pub fn frames(&self) -> u64 {
        nested!(self, t => t.frames())
    }

    /// Maps a range.
    pub fn map(
        &mut self,
        gpa: Gpa,
        hpa: acrn_abi::Hpa,
        size: u64,
        access: acrn_memory::Access,
        mem_type: acrn_memory::MemType,
    ) -> Result<(), MapError> {
        nested!(self, t => t.map(&mut crate::memory::Frames, gpa, hpa, size, access, mem_type))
    }

    /// Unmaps a range. The frames of tables that become empty are collected in `freed`, which has
    /// to live until no CPU uses the old translations any more.
    pub fn unmap_later(
        &mut self,
        gpa: Gpa,
        size: u64,
        freed: &mut crate::withheld::Withheld,
    ) -> Result<(), MapError> {
        nested!(self, t => t.unmap(freed, gpa, size))
    }

    /// Unmaps a range of a table that no CPU uses yet.
    pub fn unmap(&mut self, gpa: Gpa, size: u64) -> Result<(), MapError> {
        nested!(self, t => t.unmap(&mut crate::memory::Frames, gpa, size))
    }

    /// Where a guest address leads.
    pub fn translate(&self, gpa: Gpa) -> Option<Mapping> {
        nested!(self, t => t.translate(&crate::memory::Frames, gpa))
    }

    /// Shows each mapping that touches the range.
    pub fn visit<E: From<MapError>>(
        &self,
        gpa: Gpa,
        size: u64,
        visitor: impl FnMut(Mapping) -> Result<(), E>,
    ) -> Result<(), E> {
        nested!(self, t => t.visit(&crate::memory::Frames, gpa, size, visitor))
    }

    /// Frees all tables.
    pub fn destroy(self) {
        nested!(self, t => t.destroy(&mut crate::memory::Frames, |_, _, _| {}))
    }
}

/// Why this machine cannot run guests: each line names one missing thing.
pub type Missing = acrn_vmx::MissingControls;

/// The processor has nothing to be entered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Svm,
    Vmx,
}

/// Set by [`detect`] on a machine with VMX.
static IS_VMX: AtomicBool = AtomicBool::new(false);

impl Vendor {
    #[inline]
    fn of_this_machine() -> Self {
        match IS_VMX.load(Ordering::Relaxed) {
            true => Self::Vmx,
            false => Self::Svm,
        }
    }
}

/// Name of this machine's virtualization, once [`detect`] has found it.
pub fn name() -> &'static str {
    match Vendor::of_this_machine() {
        Vendor::Svm => "AMD SVM",
        Vendor::Vmx => "Intel VMX",
    }
}

/// Looks for a vendor's virtualization with everything that is needed.
pub fn detect() -> Result<(), Missing> {
    if svm::is_present() {
        return svm::detect();
    }
    if vmx::is_present() {
        IS_VMX.store(true, Ordering::Relaxed);
        return vmx::detect();
    }
    let mut missing = Missing::new();
    missing.push(
        "virtualization, SVM (AMD-V) or VMX (Intel VT-x): not on this CPU, or hidden by the \
         firmware or the emulator",
    );
    Err(missing)
}

/// Whether nested tables may use pages of 1 GiB.
pub fn has_gib_pages() -> bool {
    match Vendor::of_this_machine() {
        Vendor::Svm => svm::has_gib_pages(),
        Vendor::Vmx => vmx::has_gib_pages(),
    }
}

/// Turns virtualization on for this CPU.
pub fn enable() -> Result<(), &'static str> {
    match Vendor::of_this_machine() {
        Vendor::Svm => svm::enable(),
        Vendor::Vmx => vmx::enable(),
    }
}

/// Turns virtualization off for this CPU, which has no vCPU loaded.
pub fn disable() {
    match Vendor::of_this_machine() {
        Vendor::Svm => svm::disable(),
        Vendor::Vmx => vmx::disable(),
    }
}

/// Comes before the wait of a CPU that has nothing to do.
#[inline]
pub fn before_wait() {
    match Vendor::of_this_machine() {
        Vendor::Svm => svm::before_wait(),
        Vendor::Vmx => {}
    }
}

/// Whether [`VirtCpu::use_deadline`] works.
#[inline]
pub fn keeps_deadlines() -> bool {
    match Vendor::of_this_machine() {
        Vendor::Svm => false,
        Vendor::Vmx => vmx::keeps_deadlines(),
    }
}

/// Whether a vCPU can have its processor's local APIC to itself ([`VirtCpu::give_apic`]).
pub fn gives_apic() -> bool {
    match Vendor::of_this_machine() {
        Vendor::Svm => false,
        Vendor::Vmx => vmx::gives_apic(),
    }
}

/// From the handler of an NMI: the guest that has this processor's local APIC to itself leaves before
/// its next instruction, even if it is just about to be entered.
pub fn leave_soon() {
    match Vendor::of_this_machine() {
        Vendor::Svm => {}
        Vendor::Vmx => vmx::leave_soon(),
    }
}

/// Bytes of a bitmap that says which MSRs pass through, and of its variants for the ways in which a guest
/// may have its local APIC.
pub const MSR_BITMAP_SIZE: usize = 4 * 4096;

/// Lets reads and writes of an MSR pass in a bitmap of ones.
pub fn pass_msr(bitmap: &mut [u8; MSR_BITMAP_SIZE], index: u32) {
    match Vendor::of_this_machine() {
        Vendor::Svm => svm::pass_msr(bitmap, index),
        Vendor::Vmx => vmx::pass_msr(bitmap, index),
    }
}

/// Completes a bitmap of MSRs.
pub fn finish_msr_bitmap(bitmap: &mut [u8; MSR_BITMAP_SIZE]) {
    match Vendor::of_this_machine() {
        Vendor::Svm => {}
        Vendor::Vmx => vmx::finish_msr_bitmap(bitmap),
    }
}

/// The hardware half of a vCPU. [`VirtCpu::load`] comes before everything that enters the guest
/// or looks at its state, [`VirtCpu::release`] before another CPU does; only setting it up is
/// possible without.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each vCPU, in its place from the beginning"
)]
pub enum VirtCpu {
    /// AMD.
    Svm(svm::SvmCpu),
    /// Intel.
    Vmx(vmx::VmxCpu),
}

macro_rules! vendor {
    ($self:ident, $cpu:ident => $body:expr) => {
        match $self {
            VirtCpu::Svm($cpu) => $body,
            VirtCpu::Vmx($cpu) => $body,
        }
    };
}

macro_rules! contract {
    ($($(#[$doc:meta])* fn $name:ident($me:ident: $kind:ty $(, $argument:ident: $ty:ty)* $(,)?)
        $(-> $result:ty)?;)*) => {
        impl VirtCpu {
            $($(#[$doc])*
            #[inline(always)]
            pub fn $name($me: $kind $(, $argument: $ty)*) $(-> $result)? {
                vendor!($me, cpu => cpu.$name($($argument),*))
            })*
        }
    };
}

impl VirtCpu {
    /// A vCPU that has not been set up.
    pub const fn new() -> Self {
        Self::Svm(svm::SvmCpu::new())
    }

    /// Sets up what does not change while the VM lives, and the state after reset. Interrupts for
    /// the vCPU are left in `posted`.
    pub fn configure(&mut self, config: &VirtConfig, posted: &'static PostedInterrupts) {
        match (Vendor::of_this_machine(), &self) {
            (Vendor::Svm, Self::Svm(_)) | (Vendor::Vmx, Self::Vmx(_)) => {}
            (Vendor::Svm, _) => *self = Self::Svm(svm::SvmCpu::new()),
            (Vendor::Vmx, _) => *self = Self::Vmx(vmx::VmxCpu::new()),
        }
        vendor!(self, cpu => cpu.configure(config, posted));
    }

    /// State after INIT; the registers too.
    pub fn init(&mut self, registers: &mut Registers) {
        vendor!(self, cpu => cpu.reset());
        *registers = Registers::new();
        registers.gpr[gpr::RDX] = u64::from(crate::arch::cpu::cpuid(1, 0).eax);
    }

    /// Brings its state into this CPU. `slot` is the vCPU's place on the CPU; `memory` reads a
    /// word of the guest's memory.
    #[inline]
    pub fn load(&mut self, slot: usize, memory: impl Fn(Gpa) -> Option<u64>) {
        vendor!(self, cpu => cpu.load(slot, memory));
    }

    /// Carries out the access to a control register behind [`Exit::ControlRegister`], and goes on
    /// behind it.
    ///
    /// # Errors
    /// The value is not allowed: the guest gets #GP(0).
    #[inline]
    pub fn access_control_register(
        &mut self,
        registers: &mut Registers,
        memory: impl Fn(Gpa) -> Option<u64>,
    ) -> Result<(), NotAllowed> {
        vendor!(self, cpu => cpu.access_control_register(registers, memory))
    }

    /// Loads the task that was switched to: all of `state`.
    pub fn set_task(
        &mut self,
        registers: &mut Registers,
        state: &task::State,
        memory: impl Fn(Gpa) -> Option<u64>,
    ) {
        vendor!(self, cpu => cpu.set_task(registers, state, memory));
    }
}

contract! {
    /// Takes its state out of this CPU, so that another one may use it.
    fn release(self: &mut Self);
    /// Loads the MSRs that the hardware does not switch, when another vCPU's are in this CPU.
    fn load_msrs(self: &Self);
    /// Saves the MSRs that the hardware does not switch.
    fn save_msrs(self: &mut Self);
    /// Start-up IPI: real mode at `page` * 4096.
    fn start_up(self: &mut Self, registers: &mut Registers, page: u8);
    /// Sets a whole state. Values were checked by the caller; what the hardware would refuse at
    /// entry ends as [`Exit::InvalidState`] of that VM alone.
    fn set_state(self: &mut Self, start: &StartState);
    /// Control registers and privilege level.
    fn control(self: &Self) -> ControlState;
    /// CR4 as the guest sees it.
    fn cr4(self: &Self) -> u64;
    /// Sets EFER as a guest's WRMSR does; the value was checked.
    fn set_efer(self: &mut Self, value: u64);
    /// Sets CR2, before a page fault is injected.
    fn set_cr2(self: &mut Self, value: u64);
    /// Guest PAT.
    fn pat(self: &Self) -> u64;
    /// Sets the guest PAT; the value was checked.
    fn set_pat(self: &mut Self, value: u64);
    /// A segment register.
    fn segment(self: &Self, name: SegmentName) -> Segment;
    /// Base of a segment register.
    fn segment_base(self: &Self, name: SegmentName) -> u64;
    /// What the guest's TSC is ahead of the host's.
    fn tsc_offset(self: &Self) -> u64;
    /// Sets the offset that hardware adds to the TSC.
    fn set_tsc_offset(self: &mut Self, offset: u64);
    /// Whether the guest has to be left by a certain time, which [`Self::set_time_left`] says
    /// before each entry. Whether the processor can.
    fn use_deadline(self: &mut Self, on: bool) -> bool;
    /// Leaves the guest with [`Exit::Deadline`] about `ticks` of the TSC after the next entry.
    fn set_time_left(self: &mut Self, ticks: u64);
    /// Whether the processor takes what is posted for the vCPU when it is notified.
    fn takes_posted(self: &Self) -> bool;
    /// Whether the guest has the processor's local APIC to itself.
    fn has_apic(self: &Self) -> bool;
    /// Gives the guest the processor's local APIC in x2APIC mode, or takes it away again. Then interrupts
    /// and HLT are its own, and only [`leave_soon`] makes it leave. Nothing happens where [`gives_apic`]
    /// says no.
    fn give_apic(self: &mut Self, on: bool);
    /// The nested tables have changed: old translations go before the next entry.
    fn request_flush(self: &mut Self);
    /// Whether an exception, interrupt or NMI was being delivered when the guest stopped, or is
    /// to be delivered already.
    fn event_pending(self: &Self) -> bool;
    /// Delivers `event` at the next entry, in place of what was to be delivered.
    fn inject(self: &mut Self, event: Event);
    /// Whether an external interrupt can be injected now.
    fn interrupt_possible(self: &Self, registers: &Registers) -> bool;
    /// Whether an NMI can be injected now.
    fn nmi_possible(self: &Self) -> bool;
    /// Tell when an NMI is possible, by [`Exit::NmiWindow`].
    fn request_nmi_window(self: &mut Self);
    /// The NMI window has opened.
    fn end_nmi(self: &mut Self);
    /// Instruction bytes that hardware fetched for a nested fault, where it does.
    fn fetched(self: &Self) -> &[u8];
    /// Whether the guest is in the shadow of STI or MOV SS, and a processor of this vendor is known
    /// that forgets it at the next entry.
    fn may_lose_shadow(self: &Self) -> bool;
    /// Continues behind the instruction that caused the exit, `length` bytes long when hardware
    /// does not say it.
    fn advance(self: &mut Self, registers: &mut Registers, length: u64);
    /// What retiring an instruction does besides moving RIP.
    fn finish_instruction(self: &mut Self, registers: &mut Registers);
    /// Runs the guest until the next exit. What the local APIC has requested is delivered as soon
    /// as the guest allows it; afterwards the APIC knows what was delivered, and the task
    /// priority. `window`: tell when the guest could take another interrupt. `posted` is what the
    /// vCPU was configured with.
    fn enter(self: &mut Self, registers: &mut Registers, slot: usize, lapic: &mut VLapic,
        window: bool, posted: &PostedInterrupts) -> Exit;
    /// The vector behind [`Exit::Interrupt`], if the processor has acknowledged it already.
    fn acknowledged(self: &Self) -> Option<u8>;
    /// The access behind [`Exit::Io`].
    fn port_access(self: &Self) -> IoExit;
    /// The access behind [`Exit::NestedFault`].
    fn nested_fault(self: &Self) -> NestedFault;
    /// The switch behind [`Exit::TaskSwitch`], and what it begins with. An event that a task gate
    /// was to deliver is the caller's from now on. `None` where the processor switches tasks by
    /// itself.
    fn task_switch(self: &mut Self, registers: &Registers)
        -> Option<(task::Request, task::State)>;
    /// Shows the vendor's part of a state dump.
    fn dump(self: &Self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}

/// The value is not allowed in a control register: #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAllowed;
