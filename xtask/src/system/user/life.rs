//! The life of User VMs: from start to power-off, and what they do in between.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::support::COMMAND;
use super::Machine;
use crate::demo;

const NET_MIB: u32 = 64;
/// Under emulation the path of a packet is long.
const TRANSFER: Duration = Duration::from_secs(300);

/// Receiving with busybox's nc: it takes the end of its input for the end of its peer's
/// wish to hear, so its input is a pipe that never ends.
pub(super) const OPEN_INPUT: &str = "0<>/tmp/hold";
pub(super) const MAKE_INPUT: &str = "[ -p /tmp/hold ] || mkfifo /tmp/hold";

pub(super) const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

pub(super) fn two_cpus(machine: &mut Machine) -> Result<()> {
    let session = machine.user(1)?;
    let online = session.check("nproc", COMMAND)?;
    ensure!(online == "2", "{online} vCPUs are on line instead of 2");
    // Both take timer interrupts while they run, and tell each other of work (CAL or RES).
    let ticks = "awk '/LOC:/ { print $2, $3 }' /proc/interrupts";
    let before = numbers(&session.check(ticks, COMMAND)?)?;
    session.check(
        "for cpu in 0 1; do taskset -c $cpu sh -c \
         'n=0; while [ $n -lt 50000 ]; do n=$((n + 1)); done' || exit 1; done",
        COMMAND,
    )?;
    let after = numbers(&session.check(ticks, COMMAND)?)?;
    ensure!(
        before.len() == 2 && before.iter().zip(&after).all(|(old, new)| new > old),
        "timer interrupts went from {before:?} to {after:?}"
    );
    let table = session.check("cat /proc/interrupts", COMMAND)?;
    let count = |text: &str| table.lines().filter(|line| line.contains(text)).count();
    ensure!(
        count("PCI-MSI") >= 4 && count("virtio") >= 4,
        "the virtual devices do not use MSI-X:\n{table}"
    );
    for (name, allowed) in [("ERR:", 0), ("MIS:", 0)] {
        let line = table.lines().find(|line| line.trim().starts_with(name));
        let bad = line.is_some_and(|line| {
            let number = line.split_whitespace().nth(1).and_then(|n| n.parse().ok());
            number.unwrap_or(0) > allowed
        });
        ensure!(!bad, "the local APICs report errors:\n{table}");
    }
    Ok(())
}

fn numbers(text: &str) -> Result<Vec<u64>> {
    Ok(text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?)
}

pub(super) fn network(machine: &mut Machine) -> Result<()> {
    machine.user(1)?.check("ping -c 3 192.168.100.1", COMMAND)?;
    let session = machine.service()?;
    session.check("ping -c 3 192.168.100.2", COMMAND)?;
    let expected = session.check(
        &format!("head -c {NET_MIB}m /dev/urandom >/tmp/net && md5sum </tmp/net"),
        TRANSFER,
    )?;
    session.check("(nc -l -p 7001 </tmp/net >/dev/null 2>&1 &)", COMMAND)?;
    let session = machine.user(1)?;
    let received = session.check(
        &format!("{MAKE_INPUT}; nc 192.168.100.1 7001 {OPEN_INPUT} >/tmp/net; md5sum </tmp/net"),
        TRANSFER,
    )?;
    ensure!(
        received == expected,
        "the User VM received {received}, not {expected}"
    );

    let session = machine.service()?;
    session.check(
        &format!("rm /tmp/net; {MAKE_INPUT}; (nc -l -p 7002 {OPEN_INPUT} | md5sum >/tmp/sum &)"),
        COMMAND,
    )?;
    let session = machine.user(1)?;
    session.check("nc 192.168.100.1 7002 </tmp/net && rm /tmp/net", TRANSFER)?;
    let session = machine.service()?;
    let received = session.check(
        "for _ in $(seq 50); do [ -s /tmp/sum ] && break; sleep 0.2; done; cat /tmp/sum",
        COMMAND,
    )?;
    ensure!(
        received == expected,
        "the Service VM received {received}, not {expected}"
    );
    Ok(())
}

pub(super) fn pause_resume(machine: &mut Machine) -> Result<()> {
    let boot = machine.user(1)?.check(BOOT_ID, COMMAND)?;
    machine
        .service()?
        .check("vm-command POST_STD_VM1 pause", COMMAND)?;
    stands_still(machine)?;
    let status = machine
        .service()?
        .check("vm-command POST_STD_VM1 status", COMMAND)?;
    ensure!(status.contains("paused"), "the status is {status}");
    machine
        .service()?
        .check("vm-command POST_STD_VM1 resume", COMMAND)?;
    goes_on(machine, &boot)?;

    let answer = machine.hypervisor("vm_pause 1")?;
    ensure!(answer.contains("paused"), "vm_pause answered {answer:?}");
    stands_still(machine)?;
    let answer = machine.hypervisor("vm_resume 1")?;
    ensure!(answer.contains("running"), "vm_resume answered {answer:?}");
    goes_on(machine, &boot)
}

/// The guest sleeps, by its own wish and by its sleep button, and is woken by its clock, from outside,
/// and by the power button, which then ends it. What ran in it goes on.
pub(super) fn suspend(machine: &mut Machine) -> Result<()> {
    let session = machine.user(1)?;
    let boot = session.check(BOOT_ID, COMMAND)?;
    let disk = "head -c 1m /dev/urandom >/root/s3 && sync && md5sum </root/s3";
    let written = session.check(disk, TRANSFER)?;
    session.check("(while :; do echo; sleep 0.1; done >/tmp/ticks &)", COMMAND)?;
    // An alarm before the guest is down keeps it awake, as it should: a busy host needs longer.
    let sleep = "for seconds in 10 30 60; do echo 0 >wakealarm; echo +$seconds >wakealarm; \
                 echo mem >/sys/power/state && break; done";
    session.check(&format!("(cd /sys/class/rtc/rtc0 && {sleep})"), TRANSFER)?;
    works_after_sleep(machine, &boot, &written)?;

    let before = machine.memory()?;
    for (sleep, wake) in [("suspend", "resume"), ("suspend", "stop")] {
        let command = |command| format!("vm-command POST_STD_VM1 {command}");
        let session = machine.service()?;
        session.check(&command(sleep), COMMAND)?;
        session.check(
            "until vm-command POST_STD_VM1 status | grep suspended; do sleep 0.1; done",
            TRANSFER,
        )?;
        stands_still(machine)?;
        let session = machine.service()?;
        session.check(&command(wake), COMMAND)?;
        if wake == "resume" {
            works_after_sleep(machine, &boot, &written)?;
        }
    }
    let after = machine.memory()?;
    ensure!(
        before.owners == after.owners,
        "{before:?} became {after:?} by sleeping"
    );
    let log = machine.user_ends(1)?;
    ensure!(
        log.contains("switched itself off"),
        "the power button did not end the woken guest:\n{log}"
    );
    Ok(())
}

fn works_after_sleep(machine: &mut Machine, boot: &str, written: &str) -> Result<()> {
    goes_on(machine, boot)?;
    let session = machine.user(1)?;
    let read = session.check(
        "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/s3",
        COMMAND,
    )?;
    ensure!(read == written, "the disk gave {read} instead of {written}");
    let online = session.check("nproc", COMMAND)?;
    ensure!(online == "2", "{online} vCPUs came back instead of 2");
    session.check(
        "a=$(wc -l </tmp/ticks); sleep 1; [ $(wc -l </tmp/ticks) -gt $a ] && \
         head -c 64 /dev/hwrng >/dev/null",
        COMMAND,
    )?;
    Ok(())
}

/// A paused VM answers no ping.
pub(super) fn stands_still(machine: &mut Machine) -> Result<()> {
    let ping = machine
        .service()?
        .run("ping -c 2 -W 2 192.168.100.2", COMMAND)?;
    ensure!(
        ping.status != 0,
        "the paused VM answers ping:\n{}",
        ping.text
    );
    Ok(())
}

pub(super) fn goes_on(machine: &mut Machine, boot: &str) -> Result<()> {
    machine
        .service()?
        .check("ping -c 2 192.168.100.2", COMMAND)?;
    let now = machine.user(1)?.check(BOOT_ID, COMMAND)?;
    ensure!(now == boot, "the VM has been started anew meanwhile");
    Ok(())
}

pub(super) fn reset(machine: &mut Machine) -> Result<()> {
    let before = machine.user(1)?.check(BOOT_ID, COMMAND)?;
    // While it writes, so that requests are on their way.
    machine.session.check(
        "(while :; do dd if=/dev/urandom of=/root/junk bs=64k count=16 conv=fsync; done \
         >/dev/null 2>&1 &)",
        COMMAND,
    )?;
    let pid = machine.service()?.check("pidof acrn-dm", COMMAND)?;
    machine
        .service()?
        .check("vm-command POST_STD_VM1 reset", COMMAND)?;
    anew(machine, &before, &pid)
}

pub(super) fn reboot_inside(machine: &mut Machine) -> Result<()> {
    let pid = machine.service()?.check("pidof acrn-dm", COMMAND)?;
    let before = machine.user(1)?.check(BOOT_ID, COMMAND)?;
    machine.session.vm.console.send_line("reboot")?;
    anew(machine, &before, &pid)
}

/// The guest begins anew under the same Device Model.
fn anew(machine: &mut Machine, before: &str, pid: &str) -> Result<()> {
    machine.session.to_user_login(1, super::BOOT)?;
    machine.session.log_in(1)?;
    let now = machine.user(1)?.check(BOOT_ID, COMMAND)?;
    ensure!(now != before, "the guest has not been started anew");
    let online = machine.session.check("nproc", COMMAND)?;
    ensure!(online == "2", "{online} vCPUs came back instead of 2");
    let after = machine.service()?.check("pidof acrn-dm", COMMAND)?;
    ensure!(after == pid, "acrn-dm was process {pid} and is {after}");
    Ok(())
}

pub(super) fn disk_persists(machine: &mut Machine) -> Result<()> {
    let session = machine.user(1)?;
    let written = session.check(
        "head -c 8m /dev/urandom >/root/kept && sync && md5sum </root/kept",
        COMMAND,
    )?;
    let log = machine.power_off_user(1)?;
    ensure!(
        log.contains("switched itself off"),
        "acrn-dm did not see the power-off:\n{log}"
    );
    let session = machine.user(1)?;
    let read = session.check("md5sum </root/kept && rm /root/kept", COMMAND)?;
    ensure!(
        read == written,
        "the disk gave back {read} instead of {written}"
    );
    Ok(())
}

pub(super) fn two_vms(machine: &mut Machine) -> Result<()> {
    let expected = machine.user(1)?.check("md5sum </bin/busybox", COMMAND)?;
    let first = machine.session.check(BOOT_ID, COMMAND)?;
    let second = machine.user(2)?.check(BOOT_ID, COMMAND)?;
    ensure!(first != second, "two VMs with one boot identity");
    let list = machine.hypervisor("vm_list")?;
    ensure!(
        list.contains("POST_STD_VM1") && list.contains("POST_STD_VM2"),
        "vm_list shows:\n{list}"
    );
    let session = machine.user(1)?;
    session.check("ping -c 2 192.168.100.3", COMMAND)?;
    session.check("(nc -l -p 7003 </bin/busybox >/dev/null 2>&1 &)", COMMAND)?;
    let received = machine.user(2)?.check(
        &format!("{MAKE_INPUT}; nc 192.168.100.2 7003 {OPEN_INPUT} | md5sum"),
        TRANSFER,
    )?;
    ensure!(
        received == expected,
        "User VM 2 received {received}, not {expected}"
    );

    let session = machine.service()?;
    session.check(&format!("kill $({})", demo::process(2)), COMMAND)?;
    let log = machine.user_ends(2)?;
    ensure!(
        log.contains("power button") && log.contains("switched itself off"),
        "SIGTERM did not press the power button:\n{log}"
    );
    machine.user(1)?.check("true", COMMAND).map(drop)
}

pub(super) fn debian(machine: &mut Machine) -> Result<()> {
    machine.without_users()?;
    machine.start_user(1, "launch_user_vm_debian.sh")?;
    let session = machine.user(1)?;
    let kernel = session.check("uname -r -v", COMMAND)?;
    ensure!(kernel.contains("Debian"), "the kernel is {kernel}");
    // Its timer interrupt works without being excused from the kernel's own check.
    session.check("! grep no_timer_check /proc/cmdline", COMMAND)?;
    let online = session.check("nproc", COMMAND)?;
    ensure!(online == "2", "{online} vCPUs are on line instead of 2");
    session.check("ping -c 2 192.168.100.1", COMMAND)?;
    session.check("echo kept >/root/kept && sync", COMMAND)?;
    machine.power_off_user(1).map(drop)
}
