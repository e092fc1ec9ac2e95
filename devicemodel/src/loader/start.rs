//! The state in which the first CPU starts: descriptor tables, page tables, registers.

use acrn_abi::hypercall::{DescriptorPtr, GpRegs, Regs, VcpuRegs};

use super::{LoadError, write};
use crate::pci::GuestRam;

const GDT: u64 = 0x1000;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
/// Four page directories, one for each GiB.
const DIRECTORIES: u64 = 0xb000;

/// Selectors as Linux's boot protocol wants them (Documentation/arch/x86/boot.rst, "64-bit boot
/// protocol").
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
/// Descriptors: null, unused, 64-bit code, data, 32-bit code.
const DESCRIPTORS: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
];
/// The 32-bit code segment.
const CODE32: u16 = 0x20;

/// Access rights of CS in the VMCS's format: present, accessed code; L for 64 bits, D for 32.
const CS_RIGHTS_64: u32 = 0xa09b;
const CS_RIGHTS_32: u32 = 0xc09b;
const CS_RIGHTS_16: u32 = 0x9b;

const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 0x80;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Writes GDT and page tables.
pub(super) fn write_tables(ram: &GuestRam) -> Result<(), LoadError> {
    write(ram, GDT, &words(DESCRIPTORS.into_iter()))?;
    let mut top = vec![0u8; 4096];
    top[..8].copy_from_slice(&(PDPT | PRESENT_WRITABLE).to_le_bytes());
    write(ram, PML4, &top)?;
    let mut pointers = words((0..4).map(|gib| (DIRECTORIES + gib * 4096) | PRESENT_WRITABLE));
    pointers.resize(4096, 0);
    write(ram, PDPT, &pointers)?;
    write(
        ram,
        DIRECTORIES,
        &words((0..2048).map(|page| page << 21 | LARGE | PRESENT_WRITABLE)),
    )
}

fn words(values: impl Iterator<Item = u64>) -> Vec<u8> {
    values.flat_map(u64::to_le_bytes).collect()
}

fn registers(code: u16) -> Regs {
    Regs {
        gdt: DescriptorPtr {
            limit: 8 * DESCRIPTORS.len() as u16 - 1,
            base: GDT,
            ..<_>::default()
        },
        rflags: 0x2,
        cs_limit: u32::MAX,
        cs_sel: code,
        ss_sel: DATA,
        ds_sel: DATA,
        es_sel: DATA,
        fs_sel: DATA,
        gs_sel: DATA,
        ..Regs::default()
    }
}

/// Real mode at an address of the first megabyte, as after a wake-up (ACPI 5.2.10).
pub fn real_mode(address: u32) -> VcpuRegs {
    let segment = address >> 4 & 0xffff;
    let regs = Regs {
        rip: u64::from(address & 0xf),
        cr0: CR0_ET,
        rflags: 0x2,
        cs_sel: segment as u16,
        cs_base: u64::from(segment) << 4,
        cs_limit: 0xffff,
        cs_ar: CS_RIGHTS_16,
        idt: DescriptorPtr {
            limit: 0x3ff,
            ..<_>::default()
        },
        ..Regs::default()
    };
    VcpuRegs {
        regs,
        ..VcpuRegs::default()
    }
}

/// 64-bit mode with paging, RSI pointing to the boot parameters.
pub(super) fn long_mode(entry: u64, boot_params: u64) -> VcpuRegs {
    let regs = Regs {
        gprs: GpRegs {
            rsi: boot_params,
            ..GpRegs::default()
        },
        rip: entry,
        cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
        cr3: PML4,
        cr4: CR4_PAE,
        ia32_efer: EFER_LME | EFER_LMA,
        cs_ar: CS_RIGHTS_64,
        ..registers(CODE)
    };
    VcpuRegs {
        regs,
        ..VcpuRegs::default()
    }
}

/// 32-bit protected mode without paging, registers as multiboot wants them.
pub(super) fn protected_mode(entry: u64, eax: u32, ebx: u64) -> VcpuRegs {
    let gprs = GpRegs {
        rax: eax.into(),
        rbx: ebx,
        ..GpRegs::default()
    };
    let regs = Regs {
        gprs,
        rip: entry,
        cr0: CR0_PE | CR0_ET | CR0_NE,
        cs_ar: CS_RIGHTS_32,
        ..registers(CODE32)
    };
    VcpuRegs {
        regs,
        ..VcpuRegs::default()
    }
}
