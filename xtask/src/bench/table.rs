//! The table: operations, what they cost in each set-up, and the bars.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::setup::{Figures, Setup};
use crate::machine::Emulator;

/// Figures by set-up.
pub type Results = BTreeMap<Setup, Figures>;

/// How a row is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A virtual machine's figure less that of the bare machine is the cost of the exits.
    /// The hypervisor answers them: at most half of KVM's.
    Exit,
    /// The same, answered by the Device Model or a user-space monitor in a User VM.
    Emulated,
    /// The figure as it is.
    Whole,
    /// The figure less the time slept.
    Overshoot,
}

struct RowOf {
    metric: &'static str,
    title: &'static str,
    kind: Kind,
    /// What a release build of ACRN executes for the same on VMX; half of it is the limit.
    acrn: Option<u64>,
}

impl RowOf {
    const fn acrn(self, instructions: u64) -> Self {
        Self {
            acrn: Some(instructions),
            ..self
        }
    }
}

const fn row(metric: &'static str, title: &'static str, kind: Kind) -> RowOf {
    RowOf {
        metric,
        title,
        kind,
        acrn: None,
    }
}

const ROWS: &[RowOf] = &[
    row("cpuid", "CPUID", Kind::Exit).acrn(830),
    row("msr_read", "MSR read (IA32_PAT)", Kind::Exit).acrn(595),
    row("port_pic", "port read (8259 mask)", Kind::Exit).acrn(773),
    row("port_uart", "virtual UART, line status", Kind::Exit).acrn(1_440),
    row("ioapic_read", "IOAPIC register read (MMIO)", Kind::Exit).acrn(3_180),
    row(IPI, "IPI to another CPU", Kind::Exit).acrn(1_073),
    row("pci_config", "PCI configuration read", Kind::Exit),
    row("timer_pair", "LAPIC timer, armed and disarmed", Kind::Exit),
    // KVM's is the one that it refuses to user mode, its cheapest; ours is SET_IRQLINE.
    row("hypercall", "hypercall", Kind::Exit),
    row(
        "port_rtc",
        "I/O answered by the Device Model",
        Kind::Emulated,
    ),
    row("syscall", "system call", Kind::Whole),
    row("page_fault", "page fault", Kind::Whole),
    row("context_switch", "pipe round trip, 2 switches", Kind::Whole),
    row("sleep_100us", "100 us sleep, overshoot", Kind::Overshoot),
];

/// Sent by a micro-guest, in the Service VM alone.
const IPI: &str = "ipi";

/// Ticks of 100 us.
const fn sleep(emulator: Emulator) -> u64 {
    match emulator {
        Emulator::Qemu => 100_000,
        Emulator::Bochs => 5_000,
    }
}

/// At most this share of KVM's instructions.
const EXIT_BAR: f64 = 0.5;
/// At most this multiple of the bare machine's.
pub const BOOT_BAR: f64 = 1.01;
/// Most instructions from the hypervisor's entry to the first entry into a VM.
pub const START_BAR: u64 = 5_000_000;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name in JSON and in the program's output.
    pub metric: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Instructions, in the order of [`Setup::ALL`].
    pub cells: [Option<u64>; 4],
    /// Service VM's and User VM's share of KVM's.
    pub of_kvm: [Option<f64>; 2],
    /// ACRN's instructions for the same on VMX, where they are known.
    pub acrn: Option<u64>,
    /// Most instructions, half of ACRN's.
    pub limit: Option<u64>,
    /// Whether the bars are met; none where there is none.
    pub bar: Option<bool>,
}

/// Works the rows out.
#[must_use]
pub fn rows(emulator: Emulator, results: &Results) -> Vec<Row> {
    let mut rows: Vec<Row> = ROWS
        .iter()
        .map(|row| work_out(row, emulator, results))
        .collect();
    rows.push(boot(results));
    rows
}

fn work_out(row: &RowOf, emulator: Emulator, results: &Results) -> Row {
    let raw = |setup| results.get(&setup)?.operations.get(row.metric).copied();
    let bare = raw(Setup::Bare);
    let cell = |setup: Setup| -> Option<u64> {
        let value = raw(setup)?;
        let exits = matches!(row.kind, Kind::Exit | Kind::Emulated);
        // A hypercall has no counterpart on the bare machine, and the IPI's is taken off already.
        let base = match (row.kind, row.metric) {
            (Kind::Overshoot, _) => sleep(emulator),
            (_, "hypercall" | IPI) => 0,
            _ if exits && setup != Setup::Bare => bare?,
            _ => 0,
        };
        let net = value.saturating_sub(base);
        let reached = match row.kind {
            // In the Service VM the port is the machine's own, or the hypervisor's.
            Kind::Emulated => setup != Setup::Service,
            // A User VM's UART is the Device Model's, as is its PCI configuration.
            Kind::Exit => setup != Setup::User || !matches!(row.metric, "port_uart" | "pci_config"),
            _ => true,
        };
        reached.then_some(net)
    };
    let cells = Setup::ALL.map(cell);
    let of_kvm = shares(&cells);
    let limit = row.acrn.map(|acrn| acrn / 2);
    let bar = match row.kind {
        Kind::Exit => judge(&of_kvm, [cells[1], cells[2]], limit),
        _ => None,
    };
    Row {
        metric: row.metric,
        title: row.title,
        cells,
        of_kvm,
        acrn: row.acrn,
        limit,
        bar,
    }
}

/// Whether all that is known meets the bars; none when nothing can be said.
fn judge(shares: &[Option<f64>; 2], ours: [Option<u64>; 2], limit: Option<u64>) -> Option<bool> {
    let shares = shares.iter().flatten().map(|share| *share <= EXIT_BAR);
    let absolute = ours.into_iter().flatten().zip(limit.into_iter().cycle());
    let all: Vec<bool> = shares
        .chain(absolute.map(|(cell, limit)| cell <= limit))
        .collect();
    (!all.is_empty()).then(|| all.iter().all(|met| *met))
}

fn shares(cells: &[Option<u64>; 4]) -> [Option<f64>; 2] {
    let kvm = cells[3].filter(|kvm| *kvm > 0);
    [cells[1], cells[2]].map(|ours| Some(ours? as f64 / kvm? as f64))
}

/// Kernel entry to init. KVM's guest has neither ACPI nor PCI here and therefore boots
/// faster than anything else: no ratio is made of it.
fn boot(results: &Results) -> Row {
    let cells = Setup::ALL.map(|setup| results.get(&setup)?.boot);
    let bar = cells[0]
        .zip(cells[1])
        .map(|(bare, service)| service as f64 <= bare as f64 * BOOT_BAR);
    Row {
        metric: "boot",
        title: "kernel entry to init",
        cells,
        of_kvm: [None, None],
        acrn: None,
        limit: None,
        bar,
    }
}

/// Titles of the rows that have a bar which cannot be judged, for a run of all set-ups.
#[must_use]
pub fn unmeasured(rows: &[Row]) -> Vec<&'static str> {
    let has_bar = |metric| {
        // KVM's guest has no PCI here.
        let judged = |row: &RowOf| row.kind == Kind::Exit && row.metric != "pci_config";
        metric == "boot" || ROWS.iter().any(|row| row.metric == metric && judged(row))
    };
    let is_open = |row: &&Row| match row.metric {
        "boot" => row.bar.is_none(),
        IPI => row.cells[1].is_none(),
        _ => row.of_kvm[0].is_none(),
    };
    rows.iter()
        .filter(|row| has_bar(row.metric))
        .filter(is_open)
        .map(|row| row.title)
        .collect()
}

/// Formats the table.
#[must_use]
pub fn text(title: &str, rows: &[Row]) -> String {
    let mut out = format!(
        "{:<34}{:>13}{:>13}{:>13}{:>13}{:>9}{:>9}  bar\n",
        title, "bare", "Service VM", "User VM", "KVM guest", "S/KVM", "U/KVM"
    );
    for row in rows {
        let _ = write!(out, "{:<34}", row.title);
        for cell in row.cells {
            let _ = write!(out, "{:>13}", cell.map_or("-".into(), grouped));
        }
        for share in row.of_kvm {
            let _ = write!(
                out,
                "{:>9}",
                share.map_or("-".into(), |share| format!("{share:.2}"))
            );
        }
        if let Some(met) = row.bar {
            let bars = match (row.metric, row.limit) {
                ("boot", _) => format!("<= {BOOT_BAR:.2} of bare"),
                (_, Some(limit)) if row.of_kvm == [None; 2] => format!("<= {}", grouped(limit)),
                (_, Some(limit)) => format!("<= {EXIT_BAR:.2} of KVM, <= {}", grouped(limit)),
                (_, None) => format!("<= {EXIT_BAR:.2} of KVM"),
            };
            let _ = write!(out, "  {} ({bars})", if met { "met" } else { "MISSED" });
        }
        out.push('\n');
    }
    if let [Some(bare), Some(service), ..] = rows.last().map_or([None; 4], |row| row.cells) {
        let ratio = service as f64 / bare as f64;
        let _ = writeln!(out, "boot as Service VM: {ratio:.3} of bare");
    }
    out
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results<const N: usize>(cells: [(Setup, u64); N], metric: &str) -> Results {
        cells
            .into_iter()
            .map(|(setup, value)| {
                let figures = Figures {
                    operations: [(metric.to_owned(), value)].into(),
                    boot: Some(value),
                    ..Figures::default()
                };
                (setup, figures)
            })
            .collect()
    }

    fn find(rows: &[Row], metric: &str) -> Row {
        rows.iter()
            .find(|row| row.metric == metric)
            .unwrap()
            .clone()
    }

    const CELLS: [(Setup, u64); 4] = [
        (Setup::Bare, 10),
        (Setup::Service, 310),
        (Setup::User, 1010),
        (Setup::Kvm, 1510),
    ];

    #[test]
    fn an_exit_costs_what_it_costs_more_than_on_the_bare_machine() {
        let row = find(&rows(Emulator::Qemu, &results(CELLS, "cpuid")), "cpuid");
        assert_eq!(row.cells, [Some(10), Some(300), Some(1000), Some(1500)]);
        assert_eq!(row.of_kvm[0], Some(0.2));
        assert_eq!(
            row.bar,
            Some(false),
            "the User VM's share is above one half"
        );
    }

    #[test]
    fn an_exit_has_a_limit_besides() {
        let cells = |ours| {
            [
                (Setup::Bare, 10),
                (Setup::Service, ours),
                (Setup::Kvm, 9000),
            ]
        };
        let bar = |ours| {
            find(
                &rows(Emulator::Qemu, &results(cells(ours), "cpuid")),
                "cpuid",
            )
            .bar
        };
        assert_eq!((bar(425), bar(426)), (Some(true), Some(false)));
        let alone = results([(Setup::Bare, 10), (Setup::User, 700)], "cpuid");
        assert_eq!(
            find(&rows(Emulator::Bochs, &alone), "cpuid").bar,
            Some(false)
        );
    }

    #[test]
    fn an_ipi_is_judged_by_its_limit_alone() {
        let bar = |ours| {
            let all = rows(Emulator::Bochs, &results([(Setup::Service, ours)], IPI));
            (
                find(&all, IPI).bar,
                unmeasured(&all).contains(&"IPI to another CPU"),
            )
        };
        assert_eq!(bar(536), (Some(true), false));
        assert_eq!(bar(537), (Some(false), false));
        assert!(
            unmeasured(&rows(Emulator::Bochs, &Results::new())).contains(&"IPI to another CPU")
        );
    }

    #[test]
    fn what_is_slept_depends_on_the_clock() {
        let all = results([(Setup::Bare, 101_500)], "sleep_100us");
        let cell = |emulator| find(&rows(emulator, &all), "sleep_100us").cells[0];
        assert_eq!(cell(Emulator::Qemu), Some(1_500));
        assert_eq!(cell(Emulator::Bochs), Some(96_500));
    }

    #[test]
    fn what_the_device_model_answers_has_no_bar() {
        let row = find(
            &rows(Emulator::Qemu, &results(CELLS, "port_rtc")),
            "port_rtc",
        );
        assert_eq!(row.cells[1], None);
        assert_eq!(row.bar, None);
        let row = find(
            &rows(Emulator::Qemu, &results(CELLS, "port_uart")),
            "port_uart",
        );
        assert_eq!((row.cells[2], row.bar), (None, Some(true)));
    }

    #[test]
    fn the_boot_is_compared_with_the_bare_machine() {
        let row = find(&rows(Emulator::Qemu, &results(CELLS, "cpuid")), "boot");
        assert_eq!(row.bar, Some(false));
        assert!(text("", &[row]).contains("MISSED"));
    }

    #[test]
    fn a_set_up_that_was_not_run_leaves_gaps() {
        let row = find(&rows(Emulator::Qemu, &Results::new()), "cpuid");
        assert_eq!((row.cells, row.bar), ([None; 4], None));
        assert!(text("", &[row]).contains('-'));
    }

    #[test]
    fn a_bar_that_cannot_be_judged_is_named() {
        let all = rows(Emulator::Qemu, &results(CELLS, "cpuid"));
        let open = unmeasured(&all);
        assert!(!open.contains(&"CPUID") && !open.contains(&"kernel entry to init"));
        assert!(open.contains(&"hypercall") && !open.contains(&"PCI configuration read"));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(715_454_703), "715,454,703");
        assert_eq!(grouped(12), "12");
    }
}
