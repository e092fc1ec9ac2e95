//! Commands about the machine.

use super::say;
use super::work::{Answer, Work, ask};
use crate::arch::cpu::{self, msr};
use crate::arch::{apic, boot, tsc};
use crate::console::Out;
use crate::irq::{self, Source};
use crate::memory;
use crate::{percpu, stats, virt};
use acrn_abi::PcpuId;
use core::fmt::Write;
use core::sync::atomic::Ordering;

pub(super) fn version() {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let vendor = virt::name();
    say(format_args!(
        "acrn-rs {} ({profile}), {vendor}, {} CPUs, TSC {} kHz",
        env!("CARGO_PKG_VERSION"),
        percpu::all().len(),
        tsc::khz()
    ));
    let image = boot::image();
    let (start, size) = memory::pool();
    say(format_args!(
        "image {} KiB at {:#x}, pool {} KiB at {start}",
        (image.end - image.start) >> 10,
        image.start,
        size >> 10
    ));
    match stats::FIRST_ENTRY.load(Ordering::Relaxed) {
        0 => say(format_args!("no VM has been entered yet")),
        first => {
            let ticks = first.wrapping_sub(tsc::start());
            let us = ticks.saturating_mul(1000) / tsc::khz().max(1);
            say(format_args!(
                "first VM entry {ticks} ticks ({us} us) after the hypervisor's"
            ));
        }
    }
}

pub(super) fn interrupts() {
    let mut line = Out;
    let _ = write!(line, "{:<7}{:<28}", "VECTOR", "MEANING");
    for cpu in percpu::all() {
        let _ = write!(line, "{:>9}{:<3}", "CPU", cpu.id().0);
    }
    let _ = line.write_str("\r\n");
    for vector in 32..=255u8 {
        let count =
            |cpu: &percpu::PerCpu| cpu.interrupts[usize::from(vector)].load(Ordering::Relaxed);
        let source = irq::source(vector);
        if source == Source::None && percpu::all().iter().all(|cpu| count(cpu) == 0) {
            continue;
        }
        let _ = write!(
            line,
            "{vector:#04x}   {:<28}",
            Meaning(vector, source).text()
        );
        for cpu in percpu::all() {
            let _ = write!(line, "{:>12}", count(cpu));
        }
        let _ = line.write_str("\r\n");
    }
}

struct Meaning(u8, Source);

impl Meaning {
    fn text(&self) -> arrayvec::ArrayString<48> {
        let mut text = arrayvec::ArrayString::new();
        // Cut where it is too long.
        let _ = match (self.0, self.1) {
            (apic::TIMER_VECTOR, _) => text.write_str("timer"),
            (apic::KICK_VECTOR, _) => text.write_str("kick"),
            (apic::UART_VECTOR, _) => text.write_str("console"),
            (apic::IOMMU_VECTOR, _) => text.write_str("IOMMU fault"),
            (apic::SPURIOUS_VECTOR, _) => text.write_str("spurious"),
            (_, Source::None) => text.write_str("no owner"),
            (
                _,
                Source::Pin {
                    gsi,
                    vm,
                    guest,
                    level,
                },
            ) => {
                let trigger = if level { "level" } else { "edge" };
                write!(text, "GSI {gsi} -> vm{vm} GSI {guest} {trigger}")
            }
            (_, Source::Message { vm, delivery }) => {
                write!(text, "MSI -> vm{vm} vector {:#x}", delivery.vector.0)
            }
        };
        text
    }
}

/// Functions and interrupts that are passed through.
pub(super) fn pass_through() {
    let _ = crate::pci::list(&mut Out);
}

/// Units, what they let through, and what they have refused.
pub(super) fn iommu() {
    if let Some(platform) = crate::boot::platform() {
        let _ = crate::iommu::list(platform, &mut Out);
    }
}

pub(super) fn cpuid(leaf: u32, subleaf: u32) {
    let r = cpu::cpuid(leaf, subleaf);
    say(format_args!(
        "eax {:08x} ebx {:08x} ecx {:08x} edx {:08x}",
        r.eax, r.ebx, r.ecx, r.edx
    ));
}

/// The CPU that is meant, when there is such a one.
fn chosen(cpu: Option<PcpuId>) -> Option<PcpuId> {
    let id = cpu.unwrap_or_else(percpu::current_id);
    let known = percpu::all().get(id.index());
    if known.is_some_and(|cpu| cpu.online.load(Ordering::SeqCst)) {
        return Some(id);
    }
    say(format_args!("CPU {id} is not running"));
    None
}

pub(super) fn read_msr(cpu: Option<PcpuId>, msr: u32) {
    let Some(id) = chosen(cpu) else { return };
    match ask(id, Work::ReadMsr(msr)) {
        Answer::Value(value) => say(format_args!("CPU {id} MSR {msr:#x}: {value:#018x}")),
        other => complain(id, msr, &other),
    }
}

/// Registers on which the hypervisor itself stands: its mode, its interrupts, its clock, its data.
fn is_own(index: u32) -> bool {
    matches!(
        index,
        msr::EFER
            | msr::APIC_BASE
            | msr::FS_BASE
            | msr::GS_BASE
            | msr::TSC
            | msr::TSC_ADJUST
            | msr::PAT
            | msr::VM_CR
            | msr::VM_HSAVE_PA
            | 0x800..=0x8ff
    )
}

pub(super) fn write_msr(cpu: Option<PcpuId>, msr: u32, value: u64) {
    let Some(id) = chosen(cpu) else { return };
    let same = matches!(ask(id, Work::ReadMsr(msr)), Answer::Value(old) if old == value);
    if is_own(msr) && !same {
        say(format_args!(
            "MSR {msr:#x} is the hypervisor's own and stays as it is"
        ));
        return;
    }
    match ask(id, Work::WriteMsr(msr, value)) {
        Answer::Done => say(format_args!("CPU {id} MSR {msr:#x} <- {value:#018x}")),
        other => complain(id, msr, &other),
    }
}

fn complain(id: PcpuId, msr: u32, answer: &Answer) {
    match answer {
        Answer::Faulted => say(format_args!("CPU {id} refuses MSR {msr:#x} (#GP)")),
        _ => say(format_args!("CPU {id} does not answer")),
    }
}
