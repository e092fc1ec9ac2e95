//! The vendor contract: what SVM and VMX each provide, and nothing else knows which one runs.
//!
//! A vendor module prepares a CPU ([`enable`]), keeps the hardware state of a vCPU
//! ([`VirtCpu`]), enters the guest and decodes the exit into a neutral [`Exit`]. It decides
//! nothing: policy is in the modules above.

pub mod svm;

use acrn_abi::{Gpa, Vector};
use acrn_memory::{MapError, Mapping};

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
    /// Bit 0 IN or INS, bit 2 a string instruction, bits 6:4 bytes, bits 31:16 port: as SVM says it.
    bits: u32,
    /// Instruction after this one.
    pub next_rip: u64,
}

impl IoExit {
    /// From bits in the layout of SVM's EXITINFO1 (APM volume 2, 15.10.2), the rest of which is
    /// ignored.
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
        (self.bits >> 4 & 7) as u8
    }
    /// IN or INS.
    #[inline]
    pub const fn input(&self) -> bool {
        self.bits & 1 != 0
    }
    /// INS or OUTS.
    #[inline]
    pub const fn string(&self) -> bool {
        self.bits & 4 != 0
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
    /// HLT.
    Hlt,
    /// PAUSE, in a loop.
    Pause,
    /// A host interrupt is pending.
    Interrupt,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// A host NMI is pending.
    Nmi,
    /// The guest can take an NMI now.
    NmiWindow,
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
    pub const REASONS: usize = 21;

    /// Names in the order of [`Exit::reason`].
    pub const NAMES: [&'static str; Self::REASONS] = [
        "cpuid",
        "msr",
        "io",
        "nested-fault",
        "hlt",
        "pause",
        "interrupt",
        "irq-window",
        "nmi",
        "nmi-window",
        "xsetbv",
        "wbinvd",
        "invd",
        "hypercall",
        "undefined",
        "refused",
        "shutdown",
        "invalid-state",
        "unknown",
        "exception",
        "ioreq",
    ];

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
        }
    }
}

/// A segment register with its hidden part. `access` has the layout of VMX access rights
/// (SDM 25.4.1), which ACRN's interface uses too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Access rights; bit 16 unusable.
    pub access: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Linear base.
    pub base: u64,
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
}

macro_rules! nested {
    ($self:ident, $table:ident => $body:expr) => {
        match $self {
            NestedTable::Npt($table) => $body,
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
        Ok(Self::Npt(acrn_memory::NestedTable::new(
            &mut crate::memory::Frames,
            limits,
        )?))
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
pub type Missing = arrayvec::ArrayVec<&'static str, 4>;

/// Looks for a vendor's virtualization.
pub fn detect() -> Result<&'static str, Missing> {
    svm::detect()
}

/// Whether nested tables may use pages of 1 GiB.
pub fn has_gib_pages() -> bool {
    svm::has_gib_pages()
}

/// Turns virtualization on for this CPU.
pub fn enable() -> Result<(), &'static str> {
    svm::enable()
}

/// The hardware half of a vCPU.
pub type VirtCpu = svm::SvmCpu;

/// What goes to hardware as the pending virtual interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualInterrupt {
    /// None.
    None,
    /// Deliver this vector as soon as the guest's IF and TPR allow.
    Deliver(Vector),
    /// Tell when the guest could take an interrupt.
    Window,
}
