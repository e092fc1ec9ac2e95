//! Intel VMX (SDM volume 3C) under the vendor contract.
//!
//! A VMCS is active only while its vCPU is on its CPU: [`VmxCpu::load`] brings it in and
//! [`VmxCpu::release`] writes it back. What is set meanwhile waits in memory (`Image`), so that
//! any CPU may set up a vCPU that does not run.

mod control_register;
mod entry;
mod instruction;

use super::{
    ControlState, Event, Exit, IoExit, Missing, NestedFault, Registers, Segment, SegmentName,
    StartState, VirtConfig, VirtualInterrupt, exception, gpr,
};
use crate::arch::cpu::{self, efer, msr};
use crate::arch::segment;
use crate::percpu::{self, Page};
use acrn_abi::{Gpa, PcpuId, Vector};
use acrn_vmx::exit::{self, event, reason};
use acrn_vmx::{Capabilities, Controls, Entry, Field, Primary, Secondary};
use instruction::{Scope, read};
use spin::Once;

/// What this kind of processor can do, and how vCPUs are run on it.
static MACHINE: Once<(Capabilities, Controls)> = Once::new();

/// Whether the processor has VMX at all.
pub fn is_present() -> bool {
    cpu::cpuid(1, 0).ecx >> 5 & 1 != 0
}

/// Whether nested tables may use 1 GiB pages.
pub fn has_gib_pages() -> bool {
    MACHINE.get().is_some_and(|(caps, _)| caps.ept_gib_pages())
}

/// Looks for VMX with everything that is needed.
pub fn detect() -> Result<&'static str, Missing> {
    let caps = Capabilities::read(cpu::rdmsr);
    let mut missing = match caps.controls() {
        Ok(controls) => {
            MACHINE.call_once(|| (caps, controls));
            Missing::new()
        }
        Err(names) => names,
    };
    if !unlocked() {
        let _ = missing.try_push(
            "VMX: disabled by the firmware (IA32_FEATURE_CONTROL): enable \"VT-x\" or \"VMX\"",
        );
    }
    if missing.is_empty() {
        Ok("Intel VMX")
    } else {
        Err(missing)
    }
}

const LOCKED: u64 = 1 << 0;
const VMXON_OUTSIDE_SMX: u64 = 1 << 2;

/// Whether firmware lets VMXON be executed, or leaves it to us.
fn unlocked() -> bool {
    let control = cpu::rdmsr(msr::FEATURE_CONTROL);
    control & LOCKED == 0 || control & VMXON_OUTSIDE_SMX != 0
}

/// Turns VMX on for this CPU.
pub fn enable() -> Result<(), &'static str> {
    const DISABLED: &str = "VMX is disabled by the firmware on this CPU (IA32_FEATURE_CONTROL)";
    let (caps, controls) = MACHINE.get().ok_or("VMX was not looked for")?;
    if !unlocked() {
        return Err(DISABLED);
    }
    let control = cpu::rdmsr(msr::FEATURE_CONTROL);
    let region = percpu::current().host_state.get();
    // SAFETY: locking the register allows what is done next; CR0 and CR4 keep their bits and get
    // those that VMX operation needs; the region is this CPU's own page.
    unsafe {
        if control & LOCKED == 0 {
            cpu::wrmsr(msr::FEATURE_CONTROL, control | LOCKED | VMXON_OUTSIDE_SMX);
        }
        cpu::write_cr0(cpu::read_cr0() | caps.cr0_fixed[0]);
        cpu::write_cr4(cpu::read_cr4() | caps.cr4_fixed[0]);
        (*region).set_word(0, caps.revision);
        instruction::vmxon(region).map_err(|_| "VMXON failed")?;
    }
    drop_all(caps, controls);
    Ok(())
}

/// Drops what an earlier user of VMX left in this CPU.
fn drop_all(caps: &Capabilities, controls: &Controls) {
    if caps.ept_vpid >> 26 & 1 != 0 {
        instruction::invept(Scope::All, 0);
    }
    if controls.secondary.contains(Secondary::VPID) && caps.ept_vpid >> 42 & 1 != 0 {
        instruction::invvpid(Scope::All, 0);
    }
}

/// Lets an MSR pass in a bitmap of intercepted ones, all bits of which are set (SDM 25.6.9). Each
/// of its quarters is for reads or writes of one range.
pub fn pass_msr(bitmap: &mut [u8], index: u32) {
    let (base, offset) = match index {
        0..=0x1fff => (0, index),
        0xc000_0000..=0xc000_1fff => (1024, index - 0xc000_0000),
        _ => return,
    };
    for quarter in [base, base + 2048] {
        bitmap[quarter + offset as usize / 8] &= !(1 << (offset % 8));
    }
}

/// MSRs of a guest that hardware does not switch and the hypervisor does not use.
const SWITCHED: [u32; 5] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::KERNEL_GS_BASE,
];

/// State of a guest to begin with.
struct Image {
    control: ControlState,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    segments: [Segment; 8],
    gdt: (u64, u16),
    idt: (u64, u16),
    pat: u64,
}

impl Image {
    /// After INIT or power-up (SDM volume 3A, 10.1.1).
    const RESET: Self = {
        const fn segment(selector: u16, access: u32, base: u64) -> Segment {
            Segment {
                selector,
                access,
                limit: 0xffff,
                base,
            }
        }
        const DATA: Segment = segment(0, 0x93, 0);
        Self {
            control: ControlState {
                cr0: cpu::cr0::ET | cpu::cr0::NW | cpu::cr0::CD,
                cr2: 0,
                cr3: 0,
                cr4: 0,
                efer: 0,
                cpl: 0,
            },
            segments: [
                DATA,
                segment(0xf000, 0x9b, 0xffff_0000),
                DATA,
                DATA,
                DATA,
                DATA,
                segment(0, 0x82, 0),
                segment(0, 0x8b, 0),
            ],
            gdt: (0, 0xffff),
            idt: (0, 0xffff),
            pat: 0x0007_0406_0007_0406,
        }
    };
}

/// The hardware half of a vCPU: its VMCS and what goes with it.
pub struct VmxCpu {
    vmcs: Page,
    /// Register page of the TPR shadow.
    virtual_apic: Page,
    config: VirtConfig,
    controls: Controls,
    /// The control fields have not been written.
    fresh: bool,
    /// Guest state that has not been written.
    image: Option<Image>,
    /// The VMCS is the current one of this CPU.
    loaded: bool,
    launched: bool,
    /// Whose host state is in the VMCS.
    host: Option<PcpuId>,
    host_rsp: u64,
    vpid: u16,
    flush: bool,
    tsc_offset: u64,
    /// Bits of CR0 and CR4 that the guest does not change without an exit.
    cr0_mask: u64,
    cr4_mask: u64,
    /// What the VMCS has.
    primary: Primary,
    threshold: u8,
    rsp: u64,
    rflags: u64,
    /// Guest interruptibility, as in the VMCS.
    interruptibility: u32,
    /// Entry interruption information, error code and instruction length.
    event: u32,
    error_code: u32,
    length: u32,
    delivered: Option<Vector>,
    /// Exit reason, with [`exit::ENTRY_FAILED`].
    reason: u32,
    /// Of VMLAUNCH or VMRESUME, when [`Self::NOT_ENTERED`] is the reason.
    entry_error: u32,
    /// These are in the registers while the VMCS is loaded: the hypervisor uses neither.
    cr2: u64,
    dr6: u64,
    msrs: [u64; SWITCHED.len()],
}

/// Guest interruptibility (SDM 25.4.2).
mod blocked {
    pub const BY_STI: u32 = 1 << 0;
    pub const BY_MOV_SS: u32 = 1 << 1;
    pub const BY_NMI: u32 = 1 << 3;
}

/// Offset of the task priority in a register page.
const TPR: usize = 0x80;
/// No guest's RSP, and no RFLAGS.
const UNKNOWN: u64 = !0;

impl VmxCpu {
    /// In place of an exit reason: the instruction failed before it left the host.
    const NOT_ENTERED: u32 = u32::MAX;

    /// A vCPU that has not been set up.
    pub const fn new() -> Self {
        Self {
            vmcs: Page::new(),
            virtual_apic: Page::new(),
            config: VirtConfig {
                nested_root: 0,
                io_bitmap: 0,
                msr_bitmap: 0,
            },
            controls: Controls::REQUIRED,
            fresh: true,
            image: Some(Image::RESET),
            loaded: false,
            launched: false,
            host: None,
            host_rsp: 0,
            vpid: 0,
            flush: true,
            tsc_offset: 0,
            cr0_mask: !0,
            cr4_mask: !0,
            primary: Primary::empty(),
            threshold: 0,
            rsp: UNKNOWN,
            rflags: UNKNOWN,
            interruptibility: 0,
            event: 0,
            error_code: 0,
            length: 0,
            delivered: None,
            reason: 0,
            entry_error: 0,
            cr2: 0,
            dr6: 0xffff_0ff0,
            msrs: [0; SWITCHED.len()],
        }
    }

    /// Sets up what does not change while the VM lives, and the state after reset.
    pub fn configure(&mut self, config: &VirtConfig) {
        if let Some((caps, controls)) = MACHINE.get() {
            self.vmcs.set_word(0, caps.revision);
            self.controls = *controls;
            [self.cr0_mask, self.cr4_mask] = control_register::masks(caps);
        }
        self.config = *config;
        self.fresh = true;
        self.host = None;
        self.flush = true;
        self.primary = self.controls.primary;
        self.threshold = 0;
        self.set_image(Image::RESET);
    }

    /// Brings the VMCS in, with everything that was set meanwhile. `slot` is the vCPU's place on
    /// this CPU; `memory` reads the guest's memory.
    #[inline]
    pub fn load(&mut self, slot: usize, memory: impl Fn(Gpa) -> Option<u64>) {
        if self.loaded {
            return;
        }
        // SAFETY: the page is this vCPU's own, which no other CPU has loaded.
        let current = unsafe {
            let cleared = match self.fresh {
                true => instruction::vmclear(&self.vmcs),
                false => Ok(()),
            };
            cleared.and_then(|()| instruction::vmptrld(&self.vmcs))
        };
        if current.is_err() {
            panic!("VMPTRLD failed");
        }
        self.loaded = true;
        self.launched = false;
        if self.fresh {
            self.fresh = false;
            self.write_controls();
        }
        if self.host != Some(percpu::current_id()) {
            self.write_host();
            let own = self.controls.secondary.contains(Secondary::VPID);
            self.vpid = if own { slot as u16 + 1 } else { 0 };
            // SAFETY: one VPID for each slot of a CPU; 0 where there are none.
            unsafe { self.set_if(own, Field::Vpid, self.vpid.into()) };
            self.flush = true;
        }
        // SAFETY: affects the guest alone.
        unsafe { instruction::write(Field::TscOffset, self.tsc_offset) };
        if let Some(image) = self.image.take() {
            self.apply(&image);
            self.load_pdptes(&memory);
        }
        cpu::write_dr6(self.dr6);
        cpu::write_cr2(self.cr2);
    }

    /// Writes the VMCS back: another CPU may use it now.
    #[inline]
    pub fn release(&mut self) {
        if !self.loaded {
            return;
        }
        self.dr6 = cpu::read_dr6();
        self.cr2 = cpu::read_cr2();
        self.loaded = false;
        // SAFETY: it is this vCPU's own page.
        if unsafe { instruction::vmclear(&self.vmcs) }.is_err() {
            panic!("VMCLEAR failed");
        }
    }

    /// Loads the MSRs that hardware does not switch.
    pub fn load_msrs(&self) {
        for (index, value) in SWITCHED.into_iter().zip(self.msrs) {
            // SAFETY: these matter to SYSCALL and SWAPGS only, which the hypervisor does not use.
            // The guest could write the value itself.
            unsafe { cpu::wrmsr(index, value) };
        }
    }

    /// Saves the MSRs that hardware does not switch.
    pub fn save_msrs(&mut self) {
        self.msrs = SWITCHED.map(cpu::rdmsr);
    }

    /// # Safety
    /// As for [`instruction::write`].
    unsafe fn set_if(&self, exists: bool, field: Field, value: u64) {
        if exists {
            // SAFETY: the caller's duty.
            unsafe { instruction::write(field, value) };
        }
    }

    fn write_controls(&mut self) {
        use Field::*;
        let c = &self.controls;
        let exceptions = 1 << exception::DB | 1 << exception::AC;
        let fields = [
            (PinControls, u64::from(c.pin.bits())),
            (PrimaryControls, c.primary.bits().into()),
            (SecondaryControls, c.secondary.bits().into()),
            (ExitControls, c.exit.bits().into()),
            (EntryControls, c.entry.bits().into()),
            (ExceptionBitmap, exceptions),
            (PageFaultMask, 0),
            (PageFaultMatch, 0),
            (Cr3TargetCount, 0),
            (ExitMsrStoreCount, 0),
            (ExitMsrLoadCount, 0),
            (EntryMsrLoadCount, 0),
            (EntryInterruptionInfo, 0),
            (IoBitmapA, self.config.io_bitmap),
            (IoBitmapB, self.config.io_bitmap + 4096),
            (MsrBitmap, self.config.msr_bitmap),
            (EptPointer, self.config.nested_root),
            (VmcsLinkPointer, !0),
            (Cr0Mask, self.cr0_mask),
            (Cr4Mask, self.cr4_mask),
        ];
        for (field, value) in fields {
            // SAFETY: the controls were adjusted to the processor; the bitmaps and tables are
            // those of this VM and outlive its vCPUs.
            unsafe { instruction::write(field, value) };
        }
        let shadow = c.primary.contains(Primary::TPR_SHADOW);
        let pause = c.secondary.contains(Secondary::PAUSE_LOOP);
        // SAFETY: the page is a part of this vCPU; the others are numbers.
        unsafe {
            self.set_if(
                shadow,
                VirtualApicAddress,
                &raw const self.virtual_apic as u64,
            );
            self.set_if(shadow, TprThreshold, 0);
            self.set_if(pause, PleGap, 128);
            self.set_if(pause, PleWindow, 4096);
        }
    }

    /// The state that an exit returns to.
    fn write_host(&mut self) {
        use Field::*;
        self.host = Some(percpu::current_id());
        self.host_rsp = 0;
        let tables = segment::Tables::of_this_cpu();
        let fields = [
            (HostEsSelector, u64::from(segment::DATA)),
            (HostCsSelector, segment::CODE.into()),
            (HostSsSelector, segment::DATA.into()),
            (HostDsSelector, segment::DATA.into()),
            (HostFsSelector, 0),
            (HostGsSelector, 0),
            (HostTrSelector, segment::TASK.into()),
            (HostFsBase, 0),
            (HostGsBase, cpu::rdmsr(msr::GS_BASE)),
            (HostTrBase, tables.task_base),
            (HostGdtrBase, tables.gdt_base),
            (HostIdtrBase, tables.idt_base),
            (HostCr0, cpu::read_cr0()),
            (HostCr3, cpu::read_cr3()),
            (HostCr4, cpu::read_cr4()),
            (HostPat, cpu::rdmsr(msr::PAT)),
            (HostEfer, cpu::rdmsr(msr::EFER)),
            (HostSysenterCs, 0),
            (HostSysenterEsp, 0),
            (HostSysenterEip, 0),
            (HostRip, &raw const entry::vmx_left as u64),
        ];
        for (field, value) in fields {
            // SAFETY: what is in force on this CPU right now.
            unsafe { instruction::write(field, value) };
        }
    }

    /// Guest state for the next entry: at once when the VMCS is here, else when it is loaded.
    fn set_image(&mut self, image: Image) {
        self.event = 0;
        self.delivered = None;
        self.interruptibility = 0;
        self.cr2 = image.control.cr2;
        self.dr6 = 0xffff_0ff0;
        self.msrs = [0; SWITCHED.len()];
        self.flush = true;
        if self.loaded {
            self.apply(&image);
            cpu::write_dr6(self.dr6);
            cpu::write_cr2(self.cr2);
            self.load_msrs();
        } else {
            self.image = Some(image);
        }
    }

    fn apply(&mut self, image: &Image) {
        use Field::*;
        (self.rsp, self.rflags) = (UNKNOWN, UNKNOWN);
        for (number, segment) in image.segments.iter().enumerate() {
            self.write_segment(number, segment);
        }
        let control = &image.control;
        let fields = [
            (GuestCr3, control.cr3),
            (GuestPat, image.pat),
            (GuestGdtrBase, image.gdt.0),
            (GuestGdtrLimit, image.gdt.1.into()),
            (GuestIdtrBase, image.idt.0),
            (GuestIdtrLimit, image.idt.1.into()),
            (GuestDr7, 0x400),
            (GuestDebugControl, 0),
            (GuestPendingDebug, 0),
            (GuestActivity, 0),
            (GuestInterruptibility, 0),
            (GuestSysenterCs, 0),
            (GuestSysenterEsp, 0),
            (GuestSysenterEip, 0),
        ];
        for (field, value) in fields {
            // SAFETY: the guest's part.
            unsafe { instruction::write(field, value) };
        }
        self.write_cr4(control.cr4);
        self.write_cr0(control.cr0);
        self.write_efer(control.efer);
    }

    fn write_segment(&self, number: usize, segment: &Segment) {
        let [selector, base, limit, access] = Field::segment(number);
        // A code or data segment that is present and in use has been accessed.
        let in_use = segment.access & 0x1_0090 == 0x90;
        let accessed = u32::from(in_use && segment.access & 0x10 != 0);
        // SAFETY: the guest's part.
        unsafe {
            instruction::write(selector, segment.selector.into());
            instruction::write(base, segment.base);
            instruction::write(limit, segment.limit.into());
            instruction::write(access, (segment.access | accessed).into());
        }
    }

    /// EFER, and the mode of the next entry with it.
    fn write_efer(&self, value: u64) {
        let mut entry = self.controls.entry;
        entry.set(Entry::IA32E_GUEST, value & efer::LMA != 0);
        // SAFETY: the guest's part; the control follows the guest's mode.
        unsafe {
            instruction::write(Field::GuestEfer, value);
            instruction::write(Field::EntryControls, entry.bits().into());
        }
    }

    /// State after INIT; the registers too.
    pub fn init(&mut self, registers: &mut Registers) {
        self.set_image(Image::RESET);
        *registers = Registers::new();
        registers.gpr[gpr::RDX] = u64::from(cpu::cpuid(1, 0).eax);
    }

    /// Start-up IPI: real mode at `page` * 4096.
    pub fn start_up(&mut self, registers: &mut Registers, page: u8) {
        const CS: usize = SegmentName::Cs as usize;
        let mut cs = Image::RESET.segments[CS];
        cs.selector = u16::from(page) << 8;
        cs.base = u64::from(page) << 12;
        match &mut self.image {
            Some(image) => image.segments[CS] = cs,
            None => self.write_segment(CS, &cs),
        }
        registers.rip = 0;
    }

    /// Sets a whole state. Values were checked by the caller; what VMX would refuse at entry ends
    /// as [`Exit::InvalidState`] of that VM alone.
    pub fn set_state(&mut self, start: &StartState) {
        let mut image = Image::RESET;
        image.control = start.control;
        image.control.cr0 |= cpu::cr0::ET;
        let value = &mut image.control.efer;
        *value &= efer::SCE | efer::LME | efer::LMA | efer::NXE;
        if *value & efer::LME != 0 && image.control.cr0 & cpu::cr0::PG != 0 {
            *value |= efer::LMA;
        }
        let [es, ss, ds, fs, gs] = start.data;
        let [.., ldtr, tr] = &mut image.segments;
        ldtr.selector = start.ldt;
        tr.selector = start.tr;
        let (ldtr, tr) = (*ldtr, *tr);
        image.segments = [es, start.cs, ss, ds, fs, gs, ldtr, tr];
        image.gdt = start.gdt;
        image.idt = start.idt;
        self.set_image(image);
    }

    /// Control registers and privilege level.
    #[inline]
    pub fn control(&self) -> ControlState {
        if let Some(image) = &self.image {
            return image.control;
        }
        let mask = self.cr0_mask;
        ControlState {
            cr0: read(Field::GuestCr0) & !mask | read(Field::Cr0Shadow) & mask,
            cr2: cpu::read_cr2(),
            cr3: read(Field::GuestCr3),
            cr4: self.cr4(),
            efer: read(Field::GuestEfer),
            cpl: (read(Field::GuestSsAccess) >> 5 & 3) as u8,
        }
    }

    /// CR4 as the guest sees it.
    #[inline]
    pub fn cr4(&self) -> u64 {
        let mask = self.cr4_mask;
        read(Field::GuestCr4) & !mask | read(Field::Cr4Shadow) & mask
    }

    /// Sets EFER as a guest's WRMSR does; the value was checked.
    pub fn set_efer(&mut self, value: u64) {
        let lma = read(Field::GuestEfer) & efer::LMA;
        self.write_efer(value & !efer::LMA | lma);
    }

    /// Sets CR2, before a page fault is injected.
    pub fn set_cr2(&mut self, value: u64) {
        cpu::write_cr2(value);
    }

    /// Guest PAT.
    pub fn pat(&self) -> u64 {
        read(Field::GuestPat)
    }

    /// Sets the guest PAT; the value was checked.
    pub fn set_pat(&mut self, value: u64) {
        // SAFETY: the guest's part.
        unsafe { instruction::write(Field::GuestPat, value) };
    }

    /// A segment register.
    pub fn segment(&self, name: SegmentName) -> Segment {
        if let Some(image) = &self.image {
            return image.segments[name as usize];
        }
        let [selector, base, limit, access] = Field::segment(name as usize);
        Segment {
            selector: read(selector) as u16,
            access: read(access) as u32,
            limit: read(limit) as u32,
            base: read(base),
        }
    }

    /// Base of a segment register.
    #[inline]
    pub fn segment_base(&self, name: SegmentName) -> u64 {
        let [_, base, _, _] = Field::segment(name as usize);
        read(base)
    }

    /// What the guest's TSC is ahead of the host's.
    pub fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// Sets the offset that hardware adds to the TSC.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
        if self.loaded {
            // SAFETY: the guest's part.
            unsafe { instruction::write(Field::TscOffset, offset) };
        }
    }

    /// The nested tables have changed.
    pub fn request_flush(&mut self) {
        self.flush = true;
    }

    /// Whether an exception, interrupt or NMI was being delivered when the guest stopped, or is
    /// to be delivered already.
    #[inline]
    pub fn event_pending(&self) -> bool {
        self.event & exit::EVENT_VALID != 0
    }

    /// Delivers `event` at the next entry, in place of what was to be delivered.
    pub fn inject(&mut self, event: Event) {
        let (vector, mut kind, code) = match event {
            Event::External(vector) => (vector, event::EXTERNAL, None),
            Event::Nmi => (2, event::NMI, None),
            Event::Exception(vector, code) => (vector, event::HARDWARE_EXCEPTION, code),
        };
        if vector == exception::DB && self.reason == u32::from(reason::EXCEPTION_OR_NMI) {
            // INT1's own exception is a trap of that instruction.
            let own = read(Field::ExitInterruptionInfo) as u32 & event::KIND;
            if own == event::PRIVILEGED_SOFTWARE_EXCEPTION {
                kind = own;
                self.length = read(Field::ExitInstructionLength) as u32;
            }
        }
        self.event = u32::from(vector) | kind | exit::EVENT_VALID;
        // Real mode has no error codes.
        if let Some(code) = code
            && read(Field::GuestCr0) & cpu::cr0::PE != 0
        {
            self.event |= exit::EVENT_ERROR_CODE;
            self.error_code = code;
        }
        if matches!(event, Event::Exception(..)) {
            self.end_shadow();
        }
    }

    /// Interrupts are no longer blocked by STI or MOV SS.
    #[inline]
    fn end_shadow(&mut self) {
        self.set_interruptibility(self.interruptibility & !(blocked::BY_STI | blocked::BY_MOV_SS));
    }

    #[inline]
    fn set_interruptibility(&mut self, value: u32) {
        if self.interruptibility != value {
            self.interruptibility = value;
            // SAFETY: the guest's part.
            unsafe { instruction::write(Field::GuestInterruptibility, value.into()) };
        }
    }

    /// Whether an external interrupt can be injected now.
    #[inline]
    pub fn interrupt_possible(&self, registers: &Registers) -> bool {
        registers.rflags & 1 << 9 != 0
            && self.interruptibility & (blocked::BY_STI | blocked::BY_MOV_SS) == 0
            && !self.event_pending()
    }

    /// Whether an NMI can be injected now.
    #[inline]
    pub fn nmi_possible(&self) -> bool {
        let blocking = blocked::BY_STI | blocked::BY_MOV_SS | blocked::BY_NMI;
        self.interruptibility & blocking == 0 && !self.event_pending()
    }

    /// Tell when an NMI is possible, by [`Exit::NmiWindow`].
    pub fn request_nmi_window(&mut self) {
        self.set_primary(self.primary | Primary::NMI_WINDOW);
    }

    /// The NMI window has opened.
    pub fn end_nmi(&mut self) {
        self.set_primary(self.primary - Primary::NMI_WINDOW);
    }

    #[inline]
    fn set_primary(&mut self, value: Primary) {
        if self.primary != value {
            self.primary = value;
            // SAFETY: both window controls are required ones.
            unsafe { instruction::write(Field::PrimaryControls, value.bits().into()) };
        }
    }

    /// Injects the pending interrupt, or asks for the exit at which that will be possible.
    #[inline]
    fn offer_interrupt(&mut self, registers: &Registers, interrupt: VirtualInterrupt, tpr: u8) {
        let mut primary = self.primary - Primary::INTERRUPT_WINDOW;
        let mut threshold = 0;
        match interrupt {
            VirtualInterrupt::None => {}
            VirtualInterrupt::Window => primary |= Primary::INTERRUPT_WINDOW,
            VirtualInterrupt::Deliver(vector) if vector.0 >> 4 <= tpr >> 4 => {
                threshold = vector.0 >> 4;
            }
            VirtualInterrupt::Deliver(vector) if self.interrupt_possible(registers) => {
                self.event = u32::from(vector.0) | event::EXTERNAL | exit::EVENT_VALID;
                self.delivered = Some(vector);
            }
            VirtualInterrupt::Deliver(_) => primary |= Primary::INTERRUPT_WINDOW,
        }
        self.set_primary(primary);
        // Without a shadow page, each write of CR8 exits.
        self.virtual_apic.set_word(TPR, tpr.into());
        if threshold != self.threshold && primary.contains(Primary::TPR_SHADOW) {
            self.threshold = threshold;
            // SAFETY: not above the priority in the page, as the condition above says.
            unsafe { instruction::write(Field::TprThreshold, threshold.into()) };
        }
    }

    /// The vector that the last entry delivered, once, and the task priority.
    #[inline]
    pub fn take_delivered(&mut self) -> (Option<Vector>, u8) {
        let tpr = self.virtual_apic.word(TPR) as u8 & 0xf0;
        (self.delivered.take(), tpr)
    }

    /// Instruction bytes that hardware fetched for a nested fault: it does not.
    pub fn fetched(&self) -> &[u8] {
        &[]
    }

    /// Continues behind the instruction that caused the exit, `length` bytes long when hardware
    /// does not say it.
    #[inline]
    pub fn advance(&mut self, registers: &mut Registers, length: u64) {
        let length = match self.reason as u16 {
            reason::EPT_VIOLATION => length,
            _ => read(Field::ExitInstructionLength),
        };
        registers.rip = registers.rip.wrapping_add(length);
        self.finish_instruction(registers);
    }

    /// What retiring an instruction does besides moving RIP.
    #[inline]
    pub fn finish_instruction(&mut self, registers: &mut Registers) {
        self.end_shadow();
        if registers.rip >> 32 != 0 && !self.is_64_bit() {
            registers.rip &= 0xffff_ffff;
        }
    }

    fn is_64_bit(&self) -> bool {
        read(Field::GuestEfer) & efer::LMA != 0 && read(Field::GuestCsAccess) & 1 << 13 != 0
    }

    /// Runs the guest until the next exit. The VMCS is loaded.
    pub fn enter(
        &mut self,
        registers: &mut Registers,
        _slot: usize,
        interrupt: VirtualInterrupt,
        tpr: u8,
    ) -> Exit {
        self.offer_interrupt(registers, interrupt, tpr);
        if self.flush {
            self.flush = false;
            self.drop_translations();
        }
        // SAFETY: the guest's part; events were put together by `inject` and `collect_event`.
        unsafe {
            if self.event_pending() {
                instruction::write(Field::EntryInterruptionInfo, self.event.into());
                if self.event & exit::EVENT_ERROR_CODE != 0 {
                    instruction::write(Field::EntryExceptionErrorCode, self.error_code.into());
                }
                if self.event & event::KIND == event::PRIVILEGED_SOFTWARE_EXCEPTION {
                    instruction::write(Field::EntryInstructionLength, self.length.into());
                }
            }
            instruction::write(Field::GuestRip, registers.rip);
            if registers.gpr[gpr::RSP] != self.rsp {
                instruction::write(Field::GuestRsp, registers.gpr[gpr::RSP]);
            }
            if registers.rflags != self.rflags {
                instruction::write(Field::GuestRflags, registers.rflags);
            }
        }
        // SAFETY: the VMCS is complete and the current one; its host part was written here.
        let result = unsafe { entry::vmx_enter(registers, self.launched, &mut self.host_rsp) };
        if result != entry::LEFT {
            return self.entry_refused(result);
        }
        self.reason = read(Field::ExitReason) as u32;
        if self.reason & exit::ENTRY_FAILED != 0 {
            self.delivered = None;
            (self.rsp, self.rflags) = (UNKNOWN, UNKNOWN);
            return Exit::InvalidState;
        }
        self.launched = true;
        self.rsp = read(Field::GuestRsp);
        self.rflags = read(Field::GuestRflags);
        registers.rip = read(Field::GuestRip);
        registers.gpr[gpr::RSP] = self.rsp;
        registers.rflags = self.rflags;
        self.interruptibility = read(Field::GuestInterruptibility) as u32;
        self.event = 0;
        self.decode()
    }

    #[cold]
    fn entry_refused(&mut self, result: u32) -> Exit {
        self.reason = Self::NOT_ENTERED;
        self.entry_error = match result {
            entry::HAS_ERROR => read(Field::InstructionError) as u32,
            _ => 0,
        };
        self.delivered = None;
        Exit::InvalidState
    }

    #[cold]
    fn drop_translations(&mut self) {
        let Some((caps, _)) = MACHINE.get() else {
            return;
        };
        let scope = |single| if single { Scope::Single } else { Scope::All };
        instruction::invept(scope(caps.invept_single()), self.config.nested_root);
        if self.vpid != 0 {
            instruction::invvpid(scope(caps.invvpid_single()), self.vpid);
        }
    }

    /// An event whose delivery was cut off by the exit is delivered again at the next entry;
    /// software interrupts are raised anew by their instruction. Instructions that exit do so
    /// outside of any delivery, so only other exits look here.
    #[inline]
    fn collect_event(&mut self) {
        let cut_off = read(Field::IdtVectoringInfo) as u32;
        if cut_off & exit::EVENT_VALID != 0 {
            self.keep_event(cut_off);
        }
    }

    fn keep_event(&mut self, cut_off: u32) {
        match cut_off & event::KIND {
            event::EXTERNAL | event::HARDWARE_EXCEPTION => {}
            event::NMI => {
                self.set_interruptibility(self.interruptibility & !blocked::BY_NMI);
            }
            _ => return,
        }
        // The bits between are undefined here and have to be 0 at entry.
        self.event = cut_off & (exit::EVENT_VALID | 0xfff);
        if cut_off & exit::EVENT_ERROR_CODE != 0 {
            self.error_code = read(Field::IdtVectoringErrorCode) as u32;
        }
    }

    #[inline]
    fn decode(&mut self) -> Exit {
        match self.reason as u16 {
            reason::EXTERNAL_INTERRUPT => Exit::Interrupt,
            reason::CPUID => Exit::Cpuid,
            reason::RDMSR => Exit::Msr { write: false },
            reason::WRMSR => Exit::Msr { write: true },
            reason::IO => Exit::Io,
            reason::EPT_VIOLATION => self.ept_violation(),
            reason::HLT => Exit::Hlt,
            reason::PAUSE => Exit::Pause,
            reason::INTERRUPT_WINDOW | reason::TPR_BELOW_THRESHOLD => Exit::InterruptWindow,
            reason::NMI_WINDOW => Exit::NmiWindow,
            reason::EXCEPTION_OR_NMI => self.exception(),
            reason::VMCALL => Exit::Hypercall,
            reason::CONTROL_REGISTER => Exit::ControlRegister,
            reason::XSETBV => Exit::Xsetbv,
            reason::WBINVD => Exit::Wbinvd,
            reason::INVD => Exit::Invd,
            reason::GETSEC
            | reason::RDPMC
            | reason::VMCLEAR..=reason::VMXON
            | reason::MWAIT
            | reason::MONITOR
            | reason::INVEPT
            | reason::INVVPID
            | reason::VMFUNC
            | reason::ENCLS
            | reason::XSAVES
            | reason::XRSTORS
            | reason::UMWAIT
            | reason::TPAUSE => Exit::Refused,
            reason::TRIPLE_FAULT => Exit::Shutdown,
            reason::INIT | reason::SIPI => Exit::Interrupt,
            _ => {
                self.collect_event();
                Exit::Unknown
            }
        }
    }

    /// An exception that is intercepted, or an NMI of the host.
    #[cold]
    fn exception(&mut self) -> Exit {
        self.collect_event();
        let info = read(Field::ExitInterruptionInfo) as u32;
        if info & event::KIND == event::NMI {
            instruction::deliver_nmi();
            return Exit::Nmi;
        }
        self.block_nmis_again(info & exit::EVENT_NMI_UNBLOCKED != 0);
        let vector = info as u8;
        if vector == exception::DB {
            // The exit leaves DR6 alone and says what would have been in it (SDM 28.2.1).
            const CAUSES: u64 = 0xf;
            let found = read(Field::ExitQualification) & 0xe00f;
            cpu::write_dr6(cpu::read_dr6() & !CAUSES | found);
        }
        Exit::Exception(vector)
    }

    #[inline]
    fn ept_violation(&mut self) -> Exit {
        self.collect_event();
        let qualification = read(Field::ExitQualification);
        self.block_nmis_again(qualification & 1 << 12 != 0);
        Exit::NestedFault
    }

    /// The IRET that ended an NMI handler has caused the exit: it will be executed again.
    fn block_nmis_again(&mut self, unblocked: bool) {
        if unblocked && !self.event_pending() {
            self.set_interruptibility(self.interruptibility | blocked::BY_NMI);
        }
    }

    /// The access behind [`Exit::Io`].
    #[inline]
    pub fn port_access(&self) -> IoExit {
        let next = read(Field::GuestRip).wrapping_add(read(Field::ExitInstructionLength));
        IoExit::new(read(Field::ExitQualification) as u32, next)
    }

    /// The access behind [`Exit::NestedFault`].
    #[inline]
    pub fn nested_fault(&self) -> NestedFault {
        const LINEAR_VALID: u64 = 1 << 7;
        const TRANSLATED: u64 = 1 << 8;
        let qualification = read(Field::ExitQualification);
        NestedFault {
            gpa: Gpa(read(Field::GuestPhysicalAddress)),
            fetch: qualification & 4 != 0,
            page_walk: qualification & (LINEAR_VALID | TRANSLATED) != LINEAR_VALID | TRANSLATED,
        }
    }

    /// Shows the vendor's part of a state dump.
    pub fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        if self.reason == Self::NOT_ENTERED {
            let error = self.entry_error;
            writeln!(
                out,
                "VM entry failed with error {error}: {}\r",
                exit::instruction_error(error)
            )?;
        }
        writeln!(
            out,
            "exit reason {:#x} qualification {:#x} gpa {:#x} idt {:#x} inj {:#x} interruptibility {:#x}\r",
            self.reason,
            read(Field::ExitQualification),
            read(Field::GuestPhysicalAddress),
            read(Field::IdtVectoringInfo),
            self.event,
            self.interruptibility
        )?;
        let segment = |name| self.segment(name);
        let (cs, ss) = (segment(SegmentName::Cs), segment(SegmentName::Ss));
        writeln!(
            out,
            "cs {:04x} access {:05x} base {:x}  ss {:04x} access {:05x}  tr {:04x}  efer {:x}\r",
            cs.selector,
            cs.access,
            cs.base,
            ss.selector,
            ss.access,
            segment(SegmentName::Tr).selector,
            read(Field::GuestEfer)
        )
    }
}
