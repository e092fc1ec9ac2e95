//! The machine's sleep: the Service VM suspends to memory and is woken by its clock, and User VMs go on.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::support::{BOOT, COMMAND, POWER_OFF, machine, service_vm};
use super::{Context, Outcome};
use crate::demo::{Firmware, Options};
use crate::grub;
use crate::session::Session;

/// Under emulation the way to sleep is long.
const SLEEP: Duration = Duration::from_secs(120);
/// Disk and network of the Service VM.
const DEVICES: &str = "echo 3 >/proc/sys/vm/drop_caches; disk=$(ls /dev/vda /dev/sda 2>/dev/null); \
                       card=$(ip route | awk '/^default/ { print $5 }'); \
                       dd if=$disk of=/dev/null bs=64k count=16 && \
                       udhcpc -i $card -q -n -s /bin/true";
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// Twice, since what is made for the first sleep has to serve for the next one.
pub(super) fn with_user_vm(context: &Context) -> Result<Outcome> {
    let machine = machine(context, &Options::default())?;
    let mut session = service_vm(context, &machine, "sleep")?;
    session.check("acrnctl start POST_STD_VM1", COMMAND)?;
    session.to_user_login(1, BOOT)?;
    session.log_in(1)?;
    let boot = session.check(BOOT_ID, COMMAND)?;
    for _ in 0..2 {
        session.to_service()?;
        sleeps(&mut session)?;
        session.check("ping -c 2 192.168.100.2", COMMAND)?;
        session.check(DEVICES, COMMAND)?;
        session.to_user_shell(1)?;
        let now = session.check(BOOT_ID, COMMAND)?;
        ensure!(now == boot, "the User VM was started anew");
        session.check("dd if=/dev/vda of=/dev/null bs=64k count=16", COMMAND)?;
    }
    session.to_service()?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// With the other firmware.
pub(super) fn uefi(context: &Context) -> Result<Outcome> {
    let (code, _) = grub::ovmf();
    if !code.exists() {
        return Ok(Outcome::Skipped(format!("{} is missing", code.display())));
    }
    let options = Options {
        firmware: Firmware::Uefi,
        ..Options::default()
    };
    let machine = machine(context, &options)?;
    let mut session = service_vm(context, &machine, "uefi")?;
    sleeps(&mut session)?;
    session.check(DEVICES, COMMAND)?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// The Service VM sleeps with the machine, and goes on: memory, CPUs and clocks.
pub(super) fn sleeps(session: &mut Session) -> Result<()> {
    let before = session.check("nproc; cat /proc/sys/kernel/random/boot_id", COMMAND)?;
    let written = session.check("head -c 1m /dev/urandom >/tmp/s3; md5sum </tmp/s3", COMMAND)?;
    let slept = session.vm.console.transcript().matches("is awake").count();
    // Bochs wakes at once, and the alarm of the sleep before is still set.
    session.check(
        "alarm=/sys/class/rtc/rtc0/wakealarm; echo 0 >$alarm; echo +10 >$alarm && \
         echo mem >/sys/power/state",
        SLEEP,
    )?;
    let log = session.vm.console.transcript();
    ensure!(
        log.matches("is awake").count() == slept + 1 && !log.contains("does not sleep"),
        "the machine has not slept"
    );
    let after = session.check("nproc; cat /proc/sys/kernel/random/boot_id", COMMAND)?;
    ensure!(after == before, "before: {before}\nafter: {after}");
    let read = session.check("md5sum </tmp/s3", COMMAND)?;
    ensure!(read == written, "memory has changed");
    session.check(
        "a=$(awk '/LOC:/ { print $2 + $3 }' /proc/interrupts); sleep 1; \
         [ $(awk '/LOC:/ { print $2 + $3 }' /proc/interrupts) -gt $a ]",
        COMMAND,
    )?;
    Ok(())
}
