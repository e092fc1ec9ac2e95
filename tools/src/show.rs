//! A trace as lines.

use acrn_trace::{Event, Record};
use serde_json::{Value, json};

use crate::capture::Capture;
use crate::report::reason_name;

/// A record for people.
pub fn line(capture: &Capture, record: &Record) -> String {
    let what = match record.event {
        Event::Enter(who) => format!("enter {who}"),
        Event::Exit { who, reason, rip } => {
            format!("exit {who} {} rip {rip:#x}", reason_name(reason))
        }
        Event::Turn(Some(who)) => format!("turn {who}"),
        Event::Turn(None) => "turn -".into(),
        Event::Interrupt { who, vector } => format!("interrupt {who} vector {:#x}", vector.0),
        Event::Lost(count) => format!("lost {count}"),
    };
    format!("{:>16.3} cpu{} {what}", capture.us(record.tsc), record.cpu)
}

/// A record for programs.
pub fn json(capture: &Capture, record: &Record) -> Value {
    let mut value = match record.event {
        Event::Enter(who) => json!({ "event": "enter", "vm": who.vm.0, "vcpu": who.vcpu.0 }),
        Event::Exit { who, reason, rip } => json!({
            "event": "exit", "vm": who.vm.0, "vcpu": who.vcpu.0,
            "reason": reason_name(reason), "rip": rip,
        }),
        Event::Turn(Some(who)) => json!({ "event": "turn", "vm": who.vm.0, "vcpu": who.vcpu.0 }),
        Event::Turn(None) => json!({ "event": "turn" }),
        Event::Interrupt { who, vector } => json!({
            "event": "interrupt", "vm": who.vm.0, "vcpu": who.vcpu.0, "vector": vector.0,
        }),
        Event::Lost(count) => json!({ "event": "lost", "count": count }),
    };
    value["us"] = capture.us(record.tsc).into();
    value["cpu"] = record.cpu.into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::sample::{capture, who};

    #[test]
    fn lines_and_objects_say_the_same() {
        let vm1 = who(1, 0);
        let exit = Event::Exit {
            who: vm1,
            reason: 0,
            rip: 16,
        };
        let trace = capture(&[(0, 2, Event::Enter(vm1)), (1500, 2, exit)]);
        let last = &trace.records[1];
        assert_eq!(
            line(&trace, last),
            "        1500.000 cpu2 exit vm1 vcpu0 cpuid rip 0x10"
        );
        let value = json(&trace, last);
        assert_eq!((&value["us"], &value["cpu"]), (&json!(1500.0), &json!(2)));
        assert_eq!(
            (&value["reason"], &value["rip"]),
            (&json!("cpuid"), &json!(16))
        );
    }
}
