//! The older part of a board file: texts of various tools, as far as they are still needed.

use super::{Board, Ram};
use crate::parse::{bdf, hex, number};
use acrn_abi::Bdf;

/// A serial port of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tty {
    /// Its device file, such as `/dev/ttyS0`.
    pub path: String,
    /// Where it is.
    pub place: TtyPlace,
    /// Its interrupt.
    pub irq: Option<u32>,
}

/// Where a serial port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtyPlace {
    /// At an I/O port.
    Port(u64),
    /// At an address.
    Memory(u64),
    /// On a PCI card.
    Pci(Bdf),
}

impl Board {
    /// The serial ports of `TTYS_INFO`, whose lines are words such as `seri:/dev/ttyS0 type:portio
    /// base:0x3F8 irq:4 bdf:"00:1e.0"`.
    pub fn ttys(&self) -> Vec<Tty> {
        self.ttys_info.lines().filter_map(tty).collect()
    }

    /// Interrupts that no device uses, of `AVAILABLE_IRQ_INFO`.
    pub fn free_irqs(&self) -> Vec<u32> {
        let words = self.available_irq_info.split([',', ' ', '\n', '\t']);
        words
            .filter_map(|word| number(word.trim()))
            .filter_map(|irq| u32::try_from(irq).ok())
            .collect()
    }

    /// All RAM of `TOTAL_MEM_INFO`, in bytes.
    pub(super) fn legacy_memory_size(&self) -> Option<u64> {
        number(self.total_mem_info.trim()).and_then(|kib| kib.checked_mul(1024))
    }

    /// RAM by `IOMEM_INFO`: lines such as `00100000-7fffffff : System RAM`.
    pub(super) fn legacy_ram(&self) -> Vec<Ram> {
        self.iomem_info.lines().filter_map(ram).collect()
    }

    /// CPUs by `CPU_PROCESSOR_INFO`.
    pub(super) fn legacy_cpus(&self) -> Vec<u16> {
        let words = self.cpu_processor_info.split([',', ' ', '\n', '\t']);
        words
            .filter_map(|word| number(word.trim()))
            .filter_map(|cpu| u16::try_from(cpu).ok())
            .collect()
    }

    /// Whether the board has a TPM 2.0.
    pub fn has_tpm2(&self) -> bool {
        self.tpm_info.contains("TPM2")
    }
}

fn tty(line: &str) -> Option<Tty> {
    let word = |key: &str| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix(key))
    };
    let base = word("base:").and_then(hex);
    let card = word("bdf:").and_then(|text| bdf(text.trim_matches('"')));
    let place = match (word("type:")?, card) {
        ("portio", _) => TtyPlace::Port(base?),
        (_, Some(bdf)) => TtyPlace::Pci(bdf),
        ("mmio", None) => TtyPlace::Memory(base?),
        _ => return None,
    };
    let irq = word("irq:")
        .and_then(number)
        .and_then(|irq| u32::try_from(irq).ok());
    Some(Tty {
        path: word("seri:")?.to_owned(),
        place,
        irq,
    })
}

fn ram(line: &str) -> Option<Ram> {
    let (range, what) = line.split_once(" : ")?;
    let indented = line.trim_start_matches('\t').starts_with(' ');
    if what.trim() != "System RAM" || indented {
        return None;
    }
    let (start, last) = range.trim().split_once('-')?;
    let (start, last) = (hex(start)?, hex(last)?);
    let size = last.checked_sub(start)?.checked_add(1)?;
    Some(Ram { start, size })
}
