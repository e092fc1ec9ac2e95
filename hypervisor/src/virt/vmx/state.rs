//! What is in the VMCS: controls, host state, and the guest's registers as others see and set them.

use super::instruction::{self, read};
use super::{SWITCHED, UNKNOWN, VmxCpu, entry};
use crate::arch::cpu::{self, efer, msr};
use crate::arch::{apic, segment};
use crate::percpu;
use crate::virt::image::{Image, RESET_DR6, RESET_DR7, RESET_PAT};
use crate::virt::{ControlState, Registers, Segment, SegmentName, StartState, exception};
use acrn_vdev::lapic::Changed;
use acrn_vmx::{Entry, Field, Pin, Primary, Secondary};

impl VmxCpu {
    pub(super) fn write_controls(&mut self) {
        use Field::*;
        let c = &self.controls;
        let exceptions = 1 << exception::DB | 1 << exception::AC;
        let fields = [
            (PinControls, u64::from(self.pin.bits())),
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
        if self.keeps_apic {
            self.write_level();
        }
        // SAFETY: the page is a part of this vCPU; the others are numbers.
        unsafe {
            self.set_if(self.keeps_apic, GuestInterruptStatus, 0);
            self.set_if(
                shadow,
                VirtualApicAddress,
                &raw const self.virtual_apic as u64,
            );
            self.set_if(shadow, TprThreshold, 0);
            let posts = c.pin.contains(Pin::POSTED_INTERRUPTS);
            self.set_if(posts, PostedInterruptVector, apic::NOTIFY_VECTOR.into());
            self.set_if(posts, PostedInterruptDescriptor, self.posted);
            self.set_if(pause, PleGap, 128);
            self.set_if(pause, PleWindow, 4096);
        }
    }

    /// The state that an exit returns to.
    pub(super) fn write_host(&mut self) {
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

    /// # Safety
    /// As for [`instruction::write`].
    pub(super) unsafe fn set_if(&self, exists: bool, field: Field, value: u64) {
        if exists {
            // SAFETY: the caller's duty.
            unsafe { instruction::write(field, value) };
        }
    }

    /// Guest state for the next entry: at once when the VMCS is here, else when it is loaded.
    pub(super) fn set_image(&mut self, image: Image) {
        self.event = 0;
        self.delivered = None;
        self.interruptibility = 0;
        self.unshown = Changed::all();
        self.cr2 = image.control.cr2;
        self.dr6 = RESET_DR6;
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

    pub(super) fn apply(&mut self, image: &Image) {
        use Field::*;
        (self.rsp, self.rflags) = (UNKNOWN, UNKNOWN);
        for (number, segment) in image.segments.iter().enumerate() {
            self.write_segment(number, segment);
        }
        let control = &image.control;
        let fields = [
            (GuestCr3, control.cr3),
            (GuestPat, RESET_PAT),
            (GuestGdtrBase, image.gdt.0),
            (GuestGdtrLimit, image.gdt.1.into()),
            (GuestIdtrBase, image.idt.0),
            (GuestIdtrLimit, image.idt.1.into()),
            (GuestDr7, RESET_DR7),
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

    pub(super) fn write_segment(&self, number: usize, segment: &Segment) {
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
    pub(super) fn write_efer(&self, value: u64) {
        let mut entry = self.controls.entry;
        entry.set(Entry::IA32E_GUEST, value & efer::LMA != 0);
        // SAFETY: the guest's part; the control follows the guest's mode.
        unsafe {
            instruction::write(Field::GuestEfer, value);
            instruction::write(Field::EntryControls, entry.bits().into());
        }
    }

    /// State after INIT.
    pub fn reset(&mut self) {
        self.set_image(Image::RESET);
    }

    /// Start-up IPI: real mode at `page` * 4096.
    pub fn start_up(&mut self, registers: &mut Registers, page: u8) {
        const CS: usize = SegmentName::Cs as usize;
        let cs = Image::code_at(page);
        match &mut self.image {
            Some(image) => image.segments[CS] = cs,
            None => self.write_segment(CS, &cs),
        }
        registers.rip = 0;
    }

    /// Sets a whole state. Values were checked by the caller; what VMX would refuse at entry ends
    /// as [`crate::virt::Exit::InvalidState`] of that VM alone.
    pub fn set_state(&mut self, start: &StartState) {
        self.set_image(Image::starting(start));
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
            if self.has_apic {
                self.give_apic(true);
            }
        }
    }
}
