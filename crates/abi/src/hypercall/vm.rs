//! Creating a VM and setting its first state.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Description of a VM to be created.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmCreation {
    /// Out: number of the VM, relative to the Service VM.
    pub vmid: u16,
    /// Zero.
    pub reserved0: u16,
    /// Out: number of vCPUs.
    pub vcpu_num: u16,
    /// Zero.
    pub reserved1: u16,
    /// Name, padded with zeros. Linux calls the field `uuid`.
    pub name: [u8; 16],
    /// [`VmFlags`](crate::vm_flags::VmFlags).
    pub vm_flag: u64,
    /// In the ioctl the user address of the request page; the hypercall ignores it.
    pub ioreq_buf: u64,
    /// Bit n: physical CPU n. The lowest is vCPU 0.
    pub cpu_affinity: u64,
}
layout!(VmCreation: 48 { vcpu_num @ 4, name @ 8, vm_flag @ 24, ioreq_buf @ 32, cpu_affinity @ 40 });

impl VmCreation {
    /// The name up to the first zero, if it is UTF-8.
    pub fn name(&self) -> Option<&str> {
        let end = self
            .name
            .iter()
            .position(|&b| b == 0)
            .unwrap_or(self.name.len());
        core::str::from_utf8(self.name.get(..end)?).ok()
    }
}

/// General purpose registers, in the order of their encoding.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of the manual")]
pub struct GpRegs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}
layout!(GpRegs: 128 { rsp @ 32, rdi @ 56, r15 @ 120 });

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct DescriptorPtr {
    /// Limit in bytes, minus one.
    pub limit: u16,
    /// Linear address.
    pub base: u64,
    /// Zero.
    pub reserved: [u16; 3],
}
layout!(DescriptorPtr: 16 { base @ 2, reserved @ 10 });

/// State of a vCPU at its start.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of the manual")]
pub struct Regs {
    pub gprs: GpRegs,
    pub gdt: DescriptorPtr,
    pub idt: DescriptorPtr,
    pub rip: u64,
    pub cs_base: u64,
    pub cr0: u64,
    pub cr4: u64,
    pub cr3: u64,
    pub ia32_efer: u64,
    pub rflags: u64,
    pub reserved_64: [u64; 4],
    /// Access rights of CS in the VMCS's format (Intel SDM vol. 3, 25.4.1).
    pub cs_ar: u32,
    pub cs_limit: u32,
    pub reserved_32: [u32; 3],
    pub cs_sel: u16,
    pub ss_sel: u16,
    pub ds_sel: u16,
    pub es_sel: u16,
    pub fs_sel: u16,
    pub gs_sel: u16,
    pub ldt_sel: u16,
    pub tr_sel: u16,
    /// Rounds up to 8 bytes.
    pub padding: u32,
}
layout!(Regs: 288 { gdt @ 128, idt @ 144, rip @ 160, cs_base @ 168, cr0 @ 176, cr4 @ 184,
    cr3 @ 192, ia32_efer @ 200, rflags @ 208, reserved_64 @ 216, cs_ar @ 248, cs_limit @ 252,
    reserved_32 @ 256, cs_sel @ 268, tr_sel @ 282, padding @ 284 });

/// Parameter of [`SET_VCPU_REGS`](super::HypercallId::SET_VCPU_REGS).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuRegs {
    /// Number of the vCPU.
    pub vcpu_id: u16,
    /// Zero.
    pub reserved: [u16; 3],
    /// Its state.
    pub regs: Regs,
}
layout!(VcpuRegs: 296 { regs @ 8 });
