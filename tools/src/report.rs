//! A trace in numbers.

use std::collections::BTreeMap;
use std::fmt;

use acrn_trace::{Event, REASONS, Who};
use serde::Serialize;

use crate::capture::Capture;
use crate::spans::{Doing, Spans};

/// Name of a reason.
pub fn reason_name(reason: u32) -> &'static str {
    REASONS.get(reason as usize).copied().unwrap_or("?")
}

/// How often, and how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figure {
    /// How often.
    pub count: u64,
    /// Microseconds in all.
    pub us: f64,
}

impl Figure {
    fn add(&mut self, us: f64) {
        self.count += 1;
        self.us += us;
    }

    fn average(&self) -> f64 {
        self.us / self.count.max(1) as f64
    }
}

/// A CPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u8,
    /// Time that is known of.
    pub us: f64,
    /// In guests.
    pub guest: Figure,
    /// Handling exits.
    pub exits: Figure,
    /// Bringing vCPUs in.
    pub switches: Figure,
    /// Waiting for something to do.
    pub idle: Figure,
}

/// A vCPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Vcpu {
    /// Number of its VM.
    pub vm: u16,
    /// Its number there.
    pub vcpu: u16,
    /// In the guest.
    pub guest: Figure,
    /// Interrupts that were made pending for it.
    pub interrupts: u64,
    /// Exits by reason.
    pub exits: BTreeMap<&'static str, Figure>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// From the first record to the last.
    pub us: f64,
    /// Number of records.
    pub records: usize,
    /// Records that found their ring full.
    pub lost: u64,
    /// Entries into guests and exits that do not belong together.
    pub unpaired: u64,
    /// Records before whose time their CPU has recorded something already.
    pub backward: u64,
    /// What cannot be understood.
    pub unknown: u64,
    /// By CPU.
    pub cpus: Vec<Cpu>,
    /// By vCPU.
    pub vcpus: Vec<Vcpu>,
}

impl Report {
    /// Counts.
    pub fn new(capture: &Capture) -> Self {
        let mut spans = Spans::default();
        let mut cpus: BTreeMap<u8, Cpu> = BTreeMap::new();
        let mut vcpus: BTreeMap<Who, Vcpu> = BTreeMap::new();
        let mut lost = 0;
        for record in &capture.records {
            match record.event {
                Event::Lost(count) => lost += count,
                Event::Interrupt { who, .. } => vcpus.entry(who).or_default().interrupts += 1,
                _ => {}
            }
            let Some(span) = spans.push(record) else {
                continue;
            };
            let us = capture.us(span.end) - capture.us(span.start);
            let cpu = cpus.entry(span.cpu).or_default();
            cpu.us += us;
            match span.doing {
                Doing::Guest(who) => {
                    cpu.guest.add(us);
                    vcpus.entry(who).or_default().guest.add(us);
                }
                Doing::Exit { who, reason, .. } => {
                    cpu.exits.add(us);
                    let exits = &mut vcpus.entry(who).or_default().exits;
                    exits.entry(reason_name(reason)).or_default().add(us);
                }
                Doing::Switch(_) => cpu.switches.add(us),
                Doing::Idle => cpu.idle.add(us),
            }
        }
        Self {
            us: capture.records.last().map_or(0.0, |r| capture.us(r.tsc)),
            records: capture.records.len(),
            lost,
            unpaired: spans.unpaired,
            backward: capture.backward,
            unknown: capture.unknown,
            cpus: cpus.into_iter().map(|(cpu, c)| Cpu { cpu, ..c }).collect(),
            vcpus: vcpus
                .into_iter()
                .map(|(who, v)| Vcpu {
                    vm: who.vm.0,
                    vcpu: who.vcpu.0,
                    ..v
                })
                .collect(),
        }
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        100.0 * part / whole
    } else {
        0.0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} records in {:.3} s", self.records, self.us / 1e6)?;
        for (count, what) in [
            (self.lost, "records were lost: a larger ring keeps more"),
            (self.unpaired, "entries or exits have no partner"),
            (self.backward, "records go back in time"),
            (self.unknown, "records or bytes at the end mean nothing"),
        ] {
            if count > 0 {
                writeln!(f, "{count} {what}")?;
            }
        }
        writeln!(
            f,
            "\n{:<6}{:>9}{:>9}{:>9}{:>9}",
            "CPU", "GUEST %", "EXITS %", "SWITCH %", "IDLE %"
        )?;
        for cpu in &self.cpus {
            write!(f, "{:<6}", cpu.cpu)?;
            for part in [cpu.guest, cpu.exits, cpu.switches, cpu.idle] {
                write!(f, "{:>9.2}", share(part.us, cpu.us))?;
            }
            writeln!(f)?;
        }
        for vcpu in &self.vcpus {
            writeln!(
                f,
                "\nvm{} vcpu{}: {:.2} % of the time in the guest, {} interrupts\n{:<16}{:>10}{:>14}{:>12}{:>9}",
                vcpu.vm,
                vcpu.vcpu,
                share(vcpu.guest.us, self.us),
                vcpu.interrupts,
                "EXIT",
                "COUNT",
                "US",
                "AVERAGE US",
                "TIME %"
            )?;
            let mut exits: Vec<_> = vcpu.exits.iter().collect();
            exits.sort_by(|a, b| b.1.us.total_cmp(&a.1.us));
            for (name, figure) in exits {
                writeln!(
                    f,
                    "{name:<16}{:>10}{:>14.1}{:>12.2}{:>9.2}",
                    figure.count,
                    figure.us,
                    figure.average(),
                    share(figure.us, self.us)
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::sample::{capture, who};
    use acrn_abi::Vector;

    fn report() -> Report {
        let vm1 = who(1, 0);
        let exit = |reason| Event::Exit {
            who: vm1,
            reason,
            rip: 0,
        };
        let vector = Vector(0xf3);
        Report::new(&capture(&[
            (0, 0, Event::Enter(vm1)),
            (50, 0, exit(0)),
            (60, 0, Event::Enter(vm1)),
            (80, 0, exit(4)),
            (85, 0, Event::Interrupt { who: vm1, vector }),
            (90, 0, Event::Turn(None)),
            (100, 0, Event::Turn(Some(vm1))),
        ]))
    }

    #[test]
    fn exits_are_counted_by_reason_and_time_by_what_was_done() {
        let report = report();
        assert_eq!((report.us, report.records, report.unpaired), (100.0, 7, 0));
        let cpu = &report.cpus[0];
        assert_eq!(
            (cpu.guest.us, cpu.exits.us, cpu.idle.us),
            (70.0, 20.0, 10.0)
        );
        let vcpu = &report.vcpus[0];
        assert_eq!((vcpu.vm, vcpu.vcpu, vcpu.interrupts), (1, 0, 1));
        let figure = |count, us| Figure { count, us };
        assert_eq!(vcpu.exits["cpuid"], figure(1, 10.0));
        assert_eq!(vcpu.exits["hlt"], figure(1, 10.0));
        assert_eq!(vcpu.guest, figure(2, 70.0));
    }

    #[test]
    fn the_text_has_the_shares() {
        let text = report().to_string();
        assert!(
            text.contains("0         70.00    20.00     0.00    10.00"),
            "{text}"
        );
        assert!(text.contains("vm1 vcpu0: 70.00 % of the time in the guest, 1 interrupts"));
        assert!(!text.contains("lost"), "{text}");
    }

    #[test]
    fn nothing_is_a_report_too() {
        let text = Report::new(&capture(&[])).to_string();
        assert!(text.starts_with("0 records in 0.000 s"), "{text}");
    }
}
