//! The Service VM's exits on both vendors' virtualization, next to ACRN's.

use std::fmt::Write;

use serde::Serialize;

use super::report::Report;
use super::table::{BOOT_BAR, START_BAR, grouped};
use crate::machine::Emulator;

/// What ACRN executes from its entry to the first VM entry.
const ACRN_START: u64 = 21_000_000;

/// One line: instructions, or for the boot thousandths of the bare machine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Name for people.
    pub title: &'static str,
    /// SVM, in QEMU.
    pub svm: Option<u64>,
    /// VMX, in Bochs.
    pub vmx: Option<u64>,
    /// A release build of ACRN on VMX.
    pub acrn: Option<u64>,
    /// At most this.
    pub limit: u64,
}

impl Line {
    /// Whether all that is known meets the bar; none when nothing is known.
    fn met(&self) -> Option<bool> {
        let known = [self.svm, self.vmx].into_iter().flatten();
        Some(known.max()? <= self.limit)
    }

    fn cell(&self, value: Option<u64>) -> String {
        match value {
            None => "-".into(),
            Some(value) if self.title == BOOT => format!("{:.3}", value as f64 / 1000.0),
            Some(value) => grouped(value),
        }
    }
}

const BOOT: &str = "boot of the same kernel, of bare";

/// The lines that have a bar.
#[must_use]
pub fn lines(reports: &[Report]) -> Vec<Line> {
    let on = |emulator| reports.iter().find(|report| report.emulator == emulator);
    let both = [on(Emulator::Qemu), on(Emulator::Bochs)];
    let Some(first) = reports.first() else {
        return Vec::new();
    };
    let cells = |metric: &str| {
        both.map(|report| {
            let row = report?.rows.iter().find(|row| row.metric == metric)?;
            Some((row.cells[0], row.cells[1]?))
        })
    };
    let mut lines = Vec::new();
    for row in &first.rows {
        if let Some(limit) = row.limit {
            let [svm, vmx] = cells(row.metric).map(|cell| Some(cell?.1));
            lines.push(Line {
                title: row.title,
                svm,
                vmx,
                acrn: row.acrn,
                limit,
            });
        }
    }
    let [svm, vmx] = both.map(|report| report?.start());
    lines.push(Line {
        title: "start to first VM entry",
        svm,
        vmx,
        acrn: Some(ACRN_START),
        limit: START_BAR,
    });
    let [svm, vmx] = cells("boot").map(|cell| {
        let (bare, service) = cell?;
        Some((service * 1000).div_ceil(bare?.max(1)))
    });
    lines.push(Line {
        title: BOOT,
        svm,
        vmx,
        acrn: None,
        limit: (BOOT_BAR * 1000.0) as u64,
    });
    lines
}

/// Formats them.
#[must_use]
pub fn text(lines: &[Line]) -> String {
    let mut out = format!(
        "{:<34}{:>13}{:>13}{:>13}{:>9}  bar\n",
        "Service VM, instructions", "SVM, QEMU", "VMX, Bochs", "ACRN on VMX", "VMX/ACRN"
    );
    for line in lines {
        let share = line.vmx.zip(line.acrn).map_or("-".into(), |(ours, acrn)| {
            format!("{:.2}", ours as f64 / acrn as f64)
        });
        let _ = writeln!(
            out,
            "{:<34}{:>13}{:>13}{:>13}{share:>9}  {} (<= {})",
            line.title,
            line.cell(line.svm),
            line.cell(line.vmx),
            line.cell(line.acrn),
            match line.met() {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "-",
            },
            line.cell(Some(line.limit)),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::setup::{Figures, Setup};
    use super::*;

    fn report(emulator: Emulator, cpuid: u64, boot: u64) -> Report {
        let figures = |cpuid, boot| Figures {
            operations: [("cpuid".to_owned(), cpuid)].into(),
            boot: Some(boot),
            hypervisor_start: Some(4_000_000),
            ..Figures::default()
        };
        let results = [
            (Setup::Bare, figures(10, 1000)),
            (Setup::Service, figures(cpuid, boot)),
        ];
        Report::of(emulator, results.into(), Vec::new())
    }

    #[test]
    fn both_vendors_stand_side_by_side() {
        let lines = lines(&[
            report(Emulator::Qemu, 310, 900),
            report(Emulator::Bochs, 426, 1011),
        ]);
        let cpuid = &lines[0];
        assert_eq!((cpuid.svm, cpuid.vmx), (Some(300), Some(416)));
        assert_eq!(cpuid.met(), Some(false));
        let boot = lines.last().unwrap();
        assert_eq!(
            (boot.svm, boot.vmx, boot.met()),
            (Some(900), Some(1011), Some(false))
        );
        let text = text(&lines);
        assert!(
            text.contains("MISSED (<= 415)") && text.contains("1.011"),
            "{text}"
        );
    }

    #[test]
    fn one_emulator_leaves_a_gap() {
        let lines = lines(&[report(Emulator::Bochs, 310, 1010)]);
        assert_eq!((lines[0].svm, lines[0].vmx), (None, Some(300)));
        assert_eq!(lines.last().unwrap().met(), Some(true));
        assert_eq!(lines[1].met(), None);
        assert!(super::lines(&[]).is_empty());
    }
}
