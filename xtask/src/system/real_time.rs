//! The case of real-time VMs: what LAPIC pass-through saves is counted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::micro::without_hypervisor;
use super::support::{BOOT, COMMAND, POWER_OFF, machine};
use super::{Context, Outcome};
use crate::demo::Options;
use crate::session::Session;

/// Slot of the pre-launched VM: the last one.
const SLOT: u16 = 7;
const HOST: &str = "rt-vm";
/// Debian's kernel unpacks itself for 20 seconds in Bochs.
const RT_BOOT: Duration = Duration::from_secs(240);
/// Wake-ups of the real-time thread, one each millisecond.
const CYCLES: u32 = 100_000;
const LATENCY: Duration = Duration::from_secs(180);
/// Until nothing of the console is under way any more, and how long exits are counted.
const SETTLED: Duration = Duration::from_secs(1);
const WATCHED: Duration = Duration::from_secs(3);

/// A PREEMPT_RT Linux on CPUs of its own: in steady state nothing makes its real-time CPU leave the guest,
/// and yet it can be interrupted, paused, reset and switched off.
pub(super) fn passed_through(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let options = Options {
        scenario: Some("hybrid_rt".to_owned()),
        ..Options::default()
    };
    let machine = machine(context, &options)?;
    let mut session = Session::new(machine.start(context.layout, &context.log("real_time"))?);
    session.wait_for_service_shell(BOOT)?;
    session.to_guest(SLOT, HOST, RT_BOOT)?;
    is_real_time_linux(&mut session)?;
    session.to_hypervisor()?;
    let log = session.hypervisor_command("log")?;
    for cpu in 0..2 {
        let wanted = format!("vm{SLOT} vcpu{cpu} has the local APIC of CPU {}", cpu + 2);
        ensure!(log.contains(&wanted), "no {wanted:?} in:\n{log}");
    }
    session.to_guest(SLOT, HOST, BOOT)?;
    steady_state(&mut session)?;
    pause(&mut session)?;
    resets(&mut session)?;
    session.to_hypervisor()?;
    for command in ["vm_pause", "vm_shutdown"] {
        session.hypervisor_command(&format!("{command} {SLOT}"))?;
    }
    session.to_service()?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// Debian's kernel, in x2APIC mode, with both of its CPUs.
fn is_real_time_linux(session: &mut Session) -> Result<()> {
    let version = session.check("uname -v", COMMAND)?;
    ensure!(version.contains("PREEMPT_RT"), "the kernel is {version}");
    session.check("test $(nproc --all) = 2", COMMAND)?;
    session.check(
        "dmesg | grep -qi 'x2apic.*physical\\|physical x2apic'",
        COMMAND,
    )?;
    Ok(())
}

/// A thread that wakes up each millisecond on the isolated CPU, and no exit of any CPU in the meantime.
fn steady_state(session: &mut Session) -> Result<()> {
    session.check(
        &format!("(rt-latency 1 {CYCLES} 1000 >/tmp/latency &)"),
        COMMAND,
    )?;
    // Its start and the console are interrupts of the other CPU.
    session.check("sleep 1", COMMAND)?;
    session.to_hypervisor()?;
    std::thread::sleep(SETTLED);
    let before = exits(session)?;
    std::thread::sleep(WATCHED);
    let after = exits(session)?;
    ensure!(
        before == after,
        "exits in steady state: {before:?}, then {after:?}"
    );
    session.to_guest(SLOT, HOST, BOOT)?;
    session
        .check("pidof rt-latency", COMMAND)
        .context("the real-time thread did not run as long as exits were counted")?;
    let end = "until grep -q 'CPU 1' /tmp/latency; do sleep 0.1; done; cat /tmp/latency";
    let latency = session.check(end, LATENCY)?;
    let ticks = session.check("awk '/LOC/ { print $3 }' /proc/interrupts", COMMAND)?;
    println!("    {latency}");
    let ticks: u32 = ticks.parse().with_context(|| ticks.clone())?;
    ensure!(ticks > CYCLES / 2, "vCPU 1 had {ticks} timer interrupts");
    Ok(())
}

/// Exits of the real-time VM's vCPUs so far, by vCPU and reason.
fn exits(session: &mut Session) -> Result<Vec<String>> {
    let shown = session.hypervisor_command(&format!("exits {SLOT}"))?;
    let mut vcpu = "";
    let mut counts = Vec::new();
    for line in shown.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, name] => vcpu = name,
            [reason, count, _, _] if count != "COUNT" => {
                counts.push(format!("{vcpu} {reason} {count}"));
            }
            _ => {}
        }
    }
    ensure!(!counts.is_empty(), "no exits in:\n{shown}");
    Ok(counts)
}

/// A pause and going on.
fn pause(session: &mut Session) -> Result<()> {
    session.to_guest(SLOT, HOST, BOOT)?;
    session.check("touch /tmp/still-there", COMMAND)?;
    session.to_hypervisor()?;
    session.hypervisor_command(&format!("vm_pause {SLOT}"))?;
    session.hypervisor_command(&format!("vm_resume {SLOT}"))?;
    session.to_guest(SLOT, HOST, BOOT)?;
    session.check("sleep 0.1; test -e /tmp/still-there", COMMAND)?;
    Ok(())
}

/// The local APICs are given back and taken anew.
fn resets(session: &mut Session) -> Result<()> {
    session.vm.console.send_line("reboot -f")?;
    session.expect(&format!("{HOST} login:"), RT_BOOT)?;
    session.log_in_to(HOST)?;
    session.check("! test -e /tmp/still-there", COMMAND)?;
    is_real_time_linux(session)
}
