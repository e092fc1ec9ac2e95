//! A trace as a picture: JSON that Perfetto (<https://ui.perfetto.dev>) and `chrome://tracing` show.
//!
//! Each CPU has a track with what it does, and each vCPU one with when it runs, its exits and its
//! interrupts.

use std::collections::BTreeSet;
use std::io::{self, Write};

use acrn_trace::{Event, Who};
use serde_json::{Value, json};

use crate::capture::Capture;
use crate::report::reason_name;
use crate::spans::{Doing, Span, Spans};

/// The process that stands for the CPUs; the VMs come behind it.
const CPUS: u32 = 1;

fn process(who: Who) -> u32 {
    CPUS + 1 + u32::from(who.vm.0)
}

/// Writes the picture.
///
/// # Errors
/// Writing failed.
pub fn write(capture: &Capture, to: &mut impl Write) -> io::Result<()> {
    let mut list = List { to, first: true };
    write!(list.to, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    names(capture, &mut list)?;
    let mut spans = Spans::default();
    for record in &capture.records {
        if let Event::Interrupt { who, vector } = record.event {
            list.add(&json!({
                "name": format!("interrupt {:#x}", vector.0), "ph": "i", "s": "t",
                "ts": capture.us(record.tsc), "pid": process(who), "tid": who.vcpu.0,
            }))?;
        }
        if let Some(span) = spans.push(record) {
            slices(capture, &span, &mut list)?;
        }
    }
    writeln!(list.to, "\n]}}")
}

/// The elements of an array.
struct List<'a, W> {
    to: &'a mut W,
    first: bool,
}

impl<W: Write> List<'_, W> {
    fn add(&mut self, event: &Value) -> io::Result<()> {
        let comma = if self.first { "" } else { "," };
        self.first = false;
        write!(self.to, "{comma}\n{event}")
    }
}

/// Names of the tracks.
fn names(capture: &Capture, list: &mut List<impl Write>) -> io::Result<()> {
    let cpus: BTreeSet<u8> = capture.records.iter().map(|record| record.cpu).collect();
    let vcpus: BTreeSet<Who> = capture
        .records
        .iter()
        .filter_map(|record| match record.event {
            Event::Enter(who) | Event::Exit { who, .. } | Event::Interrupt { who, .. } => Some(who),
            Event::Turn(who) => who,
            Event::Lost(_) => None,
        })
        .collect();
    let mut name = |kind: &str, pid: u32, tid: u32, name: String| {
        list.add(&json!({
            "name": kind, "ph": "M", "pid": pid, "tid": tid, "args": { "name": name },
        }))
    };
    name("process_name", CPUS, 0, "CPUs".into())?;
    for cpu in cpus {
        name("thread_name", CPUS, cpu.into(), format!("CPU {cpu}"))?;
    }
    for who in vcpus {
        name("process_name", process(who), 0, format!("VM {}", who.vm))?;
        let vcpu = format!("vCPU {}", who.vcpu);
        name("thread_name", process(who), who.vcpu.0.into(), vcpu)?;
    }
    Ok(())
}

/// A span on the track of its CPU, and on that of its vCPU.
fn slices(capture: &Capture, span: &Span, list: &mut List<impl Write>) -> io::Result<()> {
    let start = capture.us(span.start);
    let duration = capture.us(span.end) - start;
    let mut slice = |name: &str, pid: u32, tid: u32, args: Value| {
        list.add(&json!({
            "name": name, "ph": "X", "ts": start, "dur": duration, "pid": pid, "tid": tid,
            "args": args,
        }))
    };
    let cpu = u32::from(span.cpu);
    match span.doing {
        Doing::Guest(who) => {
            slice(&who.to_string(), CPUS, cpu, json!({}))?;
            slice(
                "runs",
                process(who),
                who.vcpu.0.into(),
                json!({ "cpu": cpu }),
            )
        }
        Doing::Exit { who, reason, rip } => {
            let (name, rip) = (reason_name(reason), format!("{rip:#x}"));
            slice(
                name,
                CPUS,
                cpu,
                json!({ "vcpu": who.to_string(), "rip": rip }),
            )?;
            slice(
                name,
                process(who),
                who.vcpu.0.into(),
                json!({ "cpu": cpu, "rip": rip }),
            )
        }
        Doing::Switch(who) => slice("switch", CPUS, cpu, json!({ "to": who.to_string() })),
        // What is not drawn is idle.
        Doing::Idle => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::sample::{capture, who};
    use acrn_abi::Vector;

    #[test]
    fn the_picture_has_tracks_slices_and_interrupts() {
        let vm1 = who(1, 2);
        let vector = Vector(0x30);
        let trace = capture(&[
            (10, 3, Event::Enter(vm1)),
            (
                30,
                3,
                Event::Exit {
                    who: vm1,
                    reason: 2,
                    rip: 0xabc,
                },
            ),
            (31, 3, Event::Interrupt { who: vm1, vector }),
            (35, 3, Event::Turn(None)),
            (90, 3, Event::Turn(None)),
        ]);
        let mut text = Vec::new();
        write(&trace, &mut text).unwrap();
        let picture: Value = serde_json::from_slice(&text).unwrap();
        let events = picture["traceEvents"].as_array().unwrap();
        let named = |name: &str| {
            events
                .iter()
                .filter(move |e| e["name"] == name)
                .collect::<Vec<_>>()
        };
        let guest = named("vm1 vcpu2");
        assert_eq!(
            (&guest[0]["ts"], &guest[0]["dur"]),
            (&json!(0.0), &json!(20.0))
        );
        assert_eq!((&guest[0]["pid"], &guest[0]["tid"]), (&json!(1), &json!(3)));
        let exits = named("io");
        assert_eq!(exits.len(), 2);
        assert_eq!((&exits[1]["pid"], &exits[1]["tid"]), (&json!(3), &json!(2)));
        assert_eq!(exits[1]["args"]["rip"], "0xabc");
        assert_eq!(named("interrupt 0x30")[0]["ph"], "i");
        let names: Vec<_> = named("thread_name")
            .iter()
            .map(|e| e["args"]["name"].clone())
            .collect();
        assert_eq!(names, ["CPU 3", "vCPU 2"]);
    }
}
