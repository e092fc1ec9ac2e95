//! What happens when acrn-dm is killed, or its files change under it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{COMMAND, Machine};
use crate::demo;

pub(super) fn kill_while_writing(machine: &mut Machine) -> Result<()> {
    let other = machine.user(2)?.check("date +%s; sleep 1", COMMAND)?;
    if machine.up.contains(&1) {
        machine.power_off_user(1)?;
    }
    let belongings = machine.belongings()?;
    let before = machine.memory()?;
    machine.user(1)?.check(
        "(while :; do dd if=/dev/urandom of=/root/junk bs=64k count=64 conv=fsync; done \
         >/dev/null 2>&1 &); sleep 2; ls -l /root/junk",
        COMMAND,
    )?;
    let process = demo::process(1);
    machine
        .service()?
        .check(&format!("kill -9 $({process})"), COMMAND)?;
    machine.up.retain(|&id| id != 1);

    // The others go on. Nobody could remove the killed one's socket.
    let left = machine
        .service()?
        .check(&format!("sleep 1; ls / >/dev/null; {process}"), COMMAND)?;
    ensure!(left.parse::<u32>().is_ok(), "what is left: {left}");
    let later = machine.user(2)?.check("date +%s", COMMAND)?;
    ensure!(later > other, "User VM 2 stands still at {later}");
    memory_is(machine, &before)?;

    // A second start finds nothing of the first in its way, and the disk recovers.
    let session = machine.user(1)?;
    let recovered = session.check(
        "dmesg | grep -i 'EXT4-fs.*\\(recovery complete\\|recovering journal\\|orphan\\)'",
        COMMAND,
    )?;
    ensure!(!recovered.is_empty(), "ext4 did not recover its journal");
    session.check(
        "rm -f /root/junk && echo fine >/root/after && sync && ! dmesg | grep -i 'EXT4-fs error'",
        COMMAND,
    )?;
    let sockets = machine.service()?.check(&process, COMMAND)?;
    ensure!(
        sockets.parse::<u32>().is_ok() && sockets != left,
        "beside the new socket lies one of process {left}: {sockets}"
    );
    machine.power_off_user(1)?;
    memory_is(machine, &before)?;
    machine.still_has(&belongings)?;
    machine.power_off_user(2).map(drop)
}

/// Every page that was lent is back, and every frame; the launch script needs a moment.
fn memory_is(machine: &mut Machine, expected: &super::Memory) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = machine.memory()?;
        if now == *expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("memory was {expected:?} and is {now:?}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The image loses its end while the guest uses it: errors for the guest, nothing else.
pub(super) fn disk_shrinks(machine: &mut Machine) -> Result<()> {
    machine.without_users()?;
    let session = machine.service()?;
    session.check("cp /data/user_vm1.img /tmp/shrinks.img", COMMAND)?;
    machine.start_user(1, "DISK=/tmp/shrinks.img launch_user_vm_id1.sh")?;
    machine
        .service()?
        .check("truncate -s 8M /tmp/shrinks.img", COMMAND)?;
    let session = machine.user(1)?;
    let read = session.run(
        "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=1M skip=16 count=4",
        COMMAND,
    )?;
    ensure!(
        read.status != 0 && read.text.contains("I/O error"),
        "reading beyond the end gave:\n{}",
        read.text
    );
    let session = machine.service()?;
    session.check("vm-command POST_STD_VM1 status", COMMAND)?;
    // The guest cannot read the programs that would end it.
    session.check("vm-command POST_STD_VM1 destroy", COMMAND)?;
    machine.up.clear();
    demo::wait_for_user_end(machine.service()?, 1)?;
    machine
        .service()?
        .check("rm /tmp/shrinks.img", COMMAND)
        .map(drop)
}
