//! The hypervisor's trace and log, read in the Service VM.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::super::support::COMMAND;
use super::Machine;
use crate::session::Session;

/// A trace while a User VM boots, works and ends.
pub(super) fn trace(machine: &mut Machine) -> Result<()> {
    machine.without_users()?;
    machine.service()?.check(
        "acrntrace record -o /tmp/boot.dat 2>/tmp/trace.log & echo started",
        COMMAND,
    )?;
    machine.user(1)?.check("md5sum /bin/busybox", COMMAND)?;
    machine.without_users()?;
    let said = machine.service()?.check(
        "kill $(pidof acrntrace); while pidof acrntrace >/dev/null; do sleep 0.1; done; \
         cat /tmp/trace.log",
        COMMAND,
    )?;
    ensure!(said.contains("of 2 CPUs"), "acrntrace says {said}");
    is_whole(machine)?;
    is_a_picture(machine)?;
    let vms = machine.hypervisor("vm_list")?;
    ensure!(
        !vms.contains("acrntrace"),
        "its observer is still there:\n{vms}"
    );
    machine.service()?.check("rm /tmp/boot.*", COMMAND)?;
    Ok(())
}

/// Every exit has its entry, time goes forward, and the User VM's vCPUs are there.
fn is_whole(machine: &mut Machine) -> Result<()> {
    let text = machine
        .service()?
        .check("acrntrace report --json /tmp/boot.dat", COMMAND)?;
    let report: Value = serde_json::from_str(&text).context(text)?;
    for fault in ["unpaired", "backward", "unknown"] {
        ensure!(report[fault] == 0, "{fault} in {report}");
    }
    let records = report["records"].as_u64().unwrap_or(0);
    let lost = report["lost"].as_u64().unwrap_or(0);
    ensure!(lost < records / 10, "{lost} of {records} records were lost");
    for vcpu in [0, 1] {
        let found = report["vcpus"].as_array().and_then(|all| {
            let mut all = all.iter();
            all.find(|v| v["vm"] == 1 && v["vcpu"] == vcpu)
        });
        let found = found.with_context(|| format!("no vm1 vcpu{vcpu} in {report}"))?;
        for reason in ["msr", "hlt", "io"] {
            let count = found["exits"][reason]["count"].as_u64().unwrap_or(0);
            // The second vCPU asks the Device Model for little.
            let wanted = vcpu == 0 || reason == "hlt";
            ensure!(count > 0 || !wanted, "no {reason} in {found}");
        }
        let us = found["guest"]["us"].as_f64().unwrap_or(0.0);
        ensure!(us > 0.0, "no time in the guest: {found}");
    }
    let calls = &report["vcpus"][0]["exits"]["undefined"]["count"];
    ensure!(calls.as_u64() > Some(0), "no hypercall in {report}");
    Ok(())
}

/// The picture has both VMs, and as many times in User VM 1 as the report counts exits.
fn is_a_picture(machine: &mut Machine) -> Result<()> {
    let found = machine.service()?.check(
        "acrntrace convert /tmp/boot.dat -o /tmp/boot.json && \
         head -c 60 /tmp/boot.json | head -1; tail -n 1 /tmp/boot.json; \
         grep -c '\"name\":\"vm1 vcpu0\"' /tmp/boot.json; \
         acrntrace show /tmp/boot.dat | grep -c 'enter vm1 vcpu0'",
        COMMAND,
    )?;
    let lines: Vec<&str> = found.lines().map(str::trim).collect();
    let [begin, end, slices, entries] = lines[..] else {
        anyhow::bail!("the picture is {found}");
    };
    ensure!(
        begin.contains("traceEvents") && end == "]}",
        "the picture goes from {begin} to {end}"
    );
    ensure!(slices == entries, "{slices} slices, {entries} entries");
    Ok(())
}

/// What was logged before, and what is logged while somebody reads.
pub(super) fn log(machine: &mut Machine) -> Result<()> {
    machine.without_users()?;
    let session = machine.service()?;
    // The console's session takes plain lines for messages of the hypervisor and drops them.
    let before = session.check("acrnlog --json", COMMAND)?;
    let first = "\"cpu\":0,\"severity\":\"info\",\"text\":\"acrn-rs ";
    ensure!(before.contains(first), "the log is:\n{before}");
    session.check("acrnlog -f --json >/tmp/log & echo started", COMMAND)?;
    // One reads, and another is told so.
    let second = session.run("sleep 1; acrnlog", COMMAND)?;
    ensure!(
        second.status != 0 && second.text.contains("somebody else reads"),
        "a second acrnlog says {}",
        second.text
    );
    machine.user(1)?;
    machine.without_users()?;
    // The first one is killed, and the rings go with it.
    let session = machine.service()?;
    let lines = session.check(
        "sleep 1; kill -9 $(pidof acrnlog); cat /tmp/log; rm /tmp/log",
        COMMAND,
    )?;
    let mut last = 0;
    for line in lines.lines().map(str::trim).filter(|l| l.starts_with('{')) {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let us = entry["us"].as_u64().context("no time")?;
        ensure!(us >= last, "{line} comes after {last}");
        last = us;
    }
    for text in ["is created with 2 vCPUs", "is gone: "] {
        let found = lines.contains(text);
        ensure!(found, "no {text:?} in:\n{lines}");
    }
    let after = session.check("acrnlog --severity info | grep -c 'is gone: '", COMMAND)?;
    ensure!(after.trim() != "0", "acrnlog does not start anew");
    in_files(session)
}

/// All that is kept is more than two files of 1 KiB.
fn in_files(session: &mut Session) -> Result<()> {
    let listed = session.check(
        "mkdir /tmp/logs && acrnlog -o /tmp/logs/log -n 2 -s 1 && wc -c /tmp/logs/* && rm -r /tmp/logs",
        COMMAND,
    )?;
    let size_of = |name: &str| {
        let mut lines = listed.lines().map(str::split_whitespace);
        lines.find_map(|mut words| {
            let size = words.next()?.parse::<u64>().ok()?;
            (words.next()? == name).then_some(size)
        })
    };
    for name in ["/tmp/logs/log", "/tmp/logs/log.1"] {
        let fits = size_of(name).is_some_and(|size| (1..=1024).contains(&size));
        ensure!(fits, "{name} is not one of two files of 1 KiB:\n{listed}");
    }
    ensure!(
        size_of("/tmp/logs/log.2").is_none(),
        "a third file:\n{listed}"
    );
    Ok(())
}
