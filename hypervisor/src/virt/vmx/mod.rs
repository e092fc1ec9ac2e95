//! Intel VMX (SDM volume 3C) under the vendor contract.
//!
//! A VMCS is active only while its vCPU is on its CPU: [`VmxCpu::load`] brings it in and
//! [`VmxCpu::release`] writes it back. What is set meanwhile waits in memory (`Image`), so that
//! any CPU may set up a vCPU that does not run.

mod apic;
mod bitmap;
mod control_register;
mod entry;
mod events;
mod exits;
mod instruction;
mod own_apic;
mod state;
mod task;
mod timer;

use super::image::{Image, RESET_DR6};
use super::{Missing, VirtConfig};
use crate::arch::cpu::{self, msr};
use crate::percpu::{self, Page};
use acrn_abi::{Gpa, PcpuId, Vector};
use acrn_vdev::lapic::{Changed, PostedInterrupts};
use acrn_vmx::{Capabilities, Controls, Field, Pin, Primary, Secondary};
pub use bitmap::{finish_msr_bitmap, pass_msr};
use instruction::Scope;
pub use own_apic::{gives_apic, leave_soon};
use spin::Once;
pub use timer::keeps_deadlines;

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
pub fn detect() -> Result<(), Missing> {
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
        Ok(())
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

/// Turns VMX off for this CPU. With it on, INIT would not reach the CPU.
pub fn disable() {
    // SAFETY: every VMCS was written back when its vCPU was taken off the CPU.
    unsafe { instruction::vmxoff() };
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

/// MSRs of a guest that hardware does not switch and the hypervisor does not use.
const SWITCHED: [u32; 5] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::KERNEL_GS_BASE,
];

/// The hardware half of a vCPU: its VMCS and what goes with it.
pub struct VmxCpu {
    vmcs: Page,
    /// Register page of the TPR shadow.
    virtual_apic: Page,
    config: VirtConfig,
    /// Address of the posted-interrupt descriptor.
    posted: u64,
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
    pin: Pin,
    primary: Primary,
    threshold: u8,
    /// The preemption timer counts once in `1 << timer_shift` ticks.
    timer_shift: u8,
    rsp: u64,
    rflags: u64,
    /// Guest interruptibility, as in the VMCS.
    interruptibility: u32,
    /// The processor keeps the local APIC; guest interrupt status and level-triggered vectors, as
    /// in the VMCS.
    keeps_apic: bool,
    status: u16,
    level: [u64; 4],
    /// What the register page does not show yet, besides what has changed since.
    unshown: Changed,
    /// The guest has the processor's local APIC to itself.
    has_apic: bool,
    /// Entry interruption information, error code and instruction length.
    event: u32,
    error_code: u32,
    length: u32,
    delivered: Option<Vector>,
    /// Exit reason, with [`acrn_vmx::exit::ENTRY_FAILED`].
    reason: u32,
    /// Of VMLAUNCH or VMRESUME, when [`Self::NOT_ENTERED`] is the reason.
    entry_error: u32,
    /// These are in the registers while the VMCS is loaded: the hypervisor uses neither.
    cr2: u64,
    dr6: u64,
    msrs: [u64; SWITCHED.len()],
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
            posted: 0,
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
            pin: Pin::empty(),
            primary: Primary::empty(),
            threshold: 0,
            timer_shift: 0,
            rsp: UNKNOWN,
            rflags: UNKNOWN,
            interruptibility: 0,
            keeps_apic: false,
            status: 0,
            level: [0; 4],
            unshown: Changed::all(),
            has_apic: false,
            event: 0,
            error_code: 0,
            length: 0,
            delivered: None,
            reason: 0,
            entry_error: 0,
            cr2: 0,
            dr6: RESET_DR6,
            msrs: [0; SWITCHED.len()],
        }
    }

    /// Sets up what does not change while the VM lives, and the state after reset.
    pub fn configure(&mut self, config: &VirtConfig, posted: &'static PostedInterrupts) {
        if let Some((caps, controls)) = MACHINE.get() {
            self.vmcs.set_word(0, caps.revision);
            self.controls = *controls;
            self.timer_shift = caps.preemption_timer_shift;
            [self.cr0_mask, self.cr4_mask] = control_register::masks(caps);
        }
        self.config = *config;
        self.posted = &raw const *posted as u64;
        self.fresh = true;
        self.host = None;
        self.flush = true;
        // Off until there is a deadline, and until the guest turns its local APIC on.
        self.pin = self.controls.pin - Pin::PREEMPTION_TIMER - Pin::POSTED_INTERRUPTS;
        self.primary = self.controls.primary;
        self.threshold = 0;
        self.keeps_apic = self
            .controls
            .secondary
            .contains(Secondary::INTERRUPT_DELIVERY);
        // Off until the guest turns its x2APIC on.
        self.controls.secondary -= Secondary::X2APIC_MODE;
        self.has_apic = false;
        self.reset();
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
}
