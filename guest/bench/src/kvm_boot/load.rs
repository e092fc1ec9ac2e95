//! The guest's memory before the first instruction: kernel, RAM disk, boot parameters, and
//! the tables that 64-bit mode needs.

use crate::mptable;
use acrn_abi::Gpa;
use acrn_boot::MemoryKind;
use acrn_boot::bzimage::{Initrd, KernelImage, LoadPlan, Search};
use acrn_boot::zero_page::{self, E820Entry};
use anyhow::{Context, Result, anyhow, bail};

/// Where execution begins.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// First instruction.
    pub rip: u64,
    /// The zero page, for RSI.
    pub zero_page: u64,
    /// Identity-mapping page tables for the first GiB.
    pub cr3: u64,
    /// Table with a code segment at [`CODE`] and a data segment at [`DATA`].
    pub gdt: u64,
}

/// Selector of the flat 64-bit code segment.
pub const CODE: u16 = 0x10;
/// Selector of the flat data segment.
pub const DATA: u16 = 0x18;
/// Limit of the descriptor table.
pub const GDT_LIMIT: u16 = 31;

const GDT: usize = 0x500;
const TABLES: usize = 0x1000;
const BOOT_PARAMETERS: u64 = 0x1_0000;
/// End of the memory below 640 KiB; the MP table is above it.
const LOW_END: u64 = mptable::ADDRESS as u64;
const HIGH_START: u64 = 1 << 20;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;

/// Fills `memory`, which begins at address 0.
pub fn linux(memory: &mut [u8], kernel: &[u8], initrd: &[u8], cmdline: &str) -> Result<Entry> {
    let top = memory.len() as u64;
    let image = KernelImage::from_slice(kernel).map_err(|e| anyhow!("the kernel: {e}"))?;
    let initrd_info = Initrd {
        size: initrd.len() as u64,
        in_place: None,
    };
    let find = |search: Search| Some(place(&search, top));
    let plan = LoadPlan::choose(&image, Some(initrd_info), cmdline.len() as u64, find)
        .map_err(|e| anyhow!("the kernel: {e}"))?;
    let e820 = [
        (0, LOW_END, MemoryKind::RAM),
        (LOW_END, HIGH_START - LOW_END, MemoryKind::RESERVED),
        (HIGH_START, top - HIGH_START, MemoryKind::RAM),
    ]
    .map(|(base, size, kind)| E820Entry {
        base: Gpa(base),
        size,
        kind,
    });
    let mut page = [0; 4096];
    zero_page::build(&mut page, &image, &plan, initrd_info.size, Gpa(0), e820)
        .map_err(|e| anyhow!("{e}"))?;

    let payload = usize::try_from(image.payload_offset)?;
    let payload = payload..payload + usize::try_from(image.payload_size)?;
    put(
        memory,
        plan.kernel.0,
        kernel.get(payload).context("the kernel is cut short")?,
    )?;
    put(memory, plan.zero_page.0, &page)?;
    put(memory, plan.cmdline.0, cmdline.as_bytes())?;
    if let Some(at) = plan.initrd {
        put(memory, at.0, initrd)?;
    }
    put(memory, mptable::ADDRESS as u64, &mptable::build())?;
    write_tables(memory)?;
    Ok(Entry {
        rip: plan.entry64().0,
        zero_page: plan.zero_page.0,
        cr3: TABLES as u64,
        gdt: GDT as u64,
    })
}

/// Three things are looked for, which cannot meet: boot parameters in low memory, the RAM
/// disk at the top, the kernel where it likes to be.
fn place(search: &Search, top: u64) -> u64 {
    if search.max < HIGH_START {
        BOOT_PARAMETERS
    } else if search.highest {
        let end = search.max.min(top);
        end.saturating_sub(search.size) & !(search.align.max(1) - 1)
    } else {
        search.min.next_multiple_of(search.align.max(1))
    }
}

fn write_tables(memory: &mut [u8]) -> Result<()> {
    let descriptors = [0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff];
    for (index, descriptor) in (0_u64..).zip(descriptors) {
        put(memory, GDT as u64 + index * 8, &descriptor.to_le_bytes())?;
    }
    let (top, directory, pages) = (
        TABLES as u64,
        TABLES as u64 + 0x1000,
        TABLES as u64 + 0x2000,
    );
    put(memory, top, &(directory | PRESENT_WRITABLE).to_le_bytes())?;
    put(memory, directory, &(pages | PRESENT_WRITABLE).to_le_bytes())?;
    for index in 0..512_u64 {
        let entry = index << 21 | PRESENT_WRITABLE | LARGE;
        put(memory, pages + index * 8, &entry.to_le_bytes())?;
    }
    Ok(())
}

fn put(memory: &mut [u8], at: u64, bytes: &[u8]) -> Result<()> {
    let at = usize::try_from(at)?;
    let Some(place) = memory
        .get_mut(at..)
        .and_then(|rest| rest.get_mut(..bytes.len()))
    else {
        bail!(
            "{} bytes at {at:#x} are outside of the guest's memory",
            bytes.len()
        );
    };
    place.copy_from_slice(bytes);
    Ok(())
}
