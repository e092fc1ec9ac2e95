//! Virtual devices as guests and the Service VM see them: other ends of serial ports and
//! consoles, kinds of disks, several queues, entropy.

use anyhow::{Result, ensure};

use super::life::{MAKE_INPUT, OPEN_INPUT};
use super::{COMMAND, Machine};
use crate::demo;

/// In the guest: each line that comes is sent back behind the name of the device.
const ECHO: &str = "cd /dev; for tty in ttyS1 ttyS2 ttyS3 hvc0 vport*p1; do \
    (exec 3<>$tty; stty raw -echo <&3 2>/dev/null; \
     while read -r line <&3; do echo $tty heard $line >&3; done) >/dev/null 2>&1 & done; cd";

/// COM2 to COM4 and three ports of a console, each with another kind of end.
pub(super) fn consoles(machine: &mut Machine) -> Result<()> {
    let before = machine.without_users_and_belongings()?;
    machine.start_user(
        1,
        "DM_OPTIONS='-l com2,tcp:7201 -l com3,unix:/tmp/com3 -l com4,pty \
         -s 6,virtio-console,@pty:con=/tmp/con,socket:data=/tmp/data,file:log=/tmp/port.log' \
         launch_user_vm_id1.sh",
    )?;
    let session = machine.user(1)?;
    session.check(ECHO, COMMAND)?;
    let names = session.check("cat /sys/class/virtio-ports/*/name", COMMAND)?;
    ensure!(
        names.split_whitespace().eq(["con", "data", "log"]),
        "the ports are called {names}"
    );
    session.check("sleep 1; echo into the file >$(ls /dev/vport*p2)", COMMAND)?;
    let session = machine.service()?;
    let pty = session.check(
        "sed -n 's/^com4 is //p' /var/log/launch_user_vm_id1.log",
        COMMAND,
    )?;
    for (place, device) in [
        ("7201", "ttyS1"),
        ("/tmp/com3", "ttyS2"),
        (pty.as_str(), "ttyS3"),
        ("/tmp/con", "hvc0"),
        ("/tmp/data", "vport3p1"),
    ] {
        for text in ["one", "two"] {
            let answer = session.check(&format!("vm-command --talk {place} {text}"), COMMAND)?;
            ensure!(
                answer == format!("{device} heard {text}"),
                "{place} answers {answer:?}"
            );
        }
    }
    let file = session.check("cat /tmp/port.log; rm /tmp/port.log", COMMAND)?;
    ensure!(file == "into the file", "the port's file has {file:?}");

    session.check(&format!("kill -INT $({})", demo::process(1)), COMMAND)?;
    let log = machine.user_ends(1)?;
    ensure!(
        log.contains("power button") && log.contains("switched itself off"),
        "SIGINT did not press the power button:\n{log}"
    );
    machine
        .service()?
        .check("! ls /tmp/com3 /tmp/con /tmp/data 2>/dev/null", COMMAND)?;
    machine.still_has(&before)
}

/// Flushes that reached a block device of the Service VM.
fn flushes(machine: &mut Machine, device: &str) -> Result<u64> {
    let command = format!("awk '{{ print $16 }}' /sys/block/{device}/stat");
    let text = machine.service()?.check(&command, COMMAND)?;
    Ok(text.parse()?)
}

/// Images and block devices; read-only, write-back and write-through; queues and discard.
pub(super) fn disks(machine: &mut Machine) -> Result<()> {
    let before = machine.without_users_and_belongings()?;
    machine.service()?.check(
        "cd /tmp && truncate -s 1M ro.img && head -c 16m /dev/urandom >wb.img && \
         truncate -s 16M wt.img && losetup /dev/loop0 wb.img && losetup /dev/loop1 wt.img; \
         status=$?; cd; (exit $status)",
        COMMAND,
    )?;
    machine.start_user(
        1,
        "DM_OPTIONS='-s 6,virtio-blk,/tmp/ro.img,ro \
         -s 7,virtio-blk,/dev/loop0,writeback,discard,mq=2,aio=io_uring \
         -s 8,virtio-blk,/dev/loop1,writethru,aio=threads \
         -s 9,virtio-blk,nodisk,ro,aio=threads' launch_user_vm_id1.sh",
    )?;
    let process = demo::process(1);
    let rings = machine.service()?.check(
        &format!("ls -l /proc/$({process})/fd | grep -c io_uring"),
        COMMAND,
    )?;
    // One for the root and one for the first disk, which is the default, two for the second.
    ensure!(rings == "4", "acrn-dm uses {rings} rings instead of 4");
    let session = machine.user(1)?;
    session.check(
        "[ $(blockdev --getro /dev/vdb) = 1 ] && \
         ! dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null",
        COMMAND,
    )?;
    let kinds = session.check(
        "for disk in vdc vdd; do cat /sys/block/$disk/queue/write_cache; \
         ls /sys/block/$disk/mq | wc -l; done",
        COMMAND,
    )?;
    ensure!(
        kinds.lines().eq(["write back", "2", "write through", "1"]),
        "the disks are:\n{kinds}"
    );

    let write = |disk: &str, how: &str| {
        format!("dd if=/bin/busybox of=/dev/{disk} bs=64k count=8 {how} 2>/dev/null")
    };
    let start = flushes(machine, "loop0")?;
    machine
        .user(1)?
        .check(&write("vdc", "oflag=direct"), COMMAND)?;
    let written = flushes(machine, "loop0")?;
    ensure!(written == start, "a write to the write-back disk flushes");
    machine
        .user(1)?
        .check(&write("vdc", "conv=fsync"), COMMAND)?;
    let flushed = flushes(machine, "loop0")?;
    ensure!(
        flushed > written,
        "the guest's flush does not reach the disk"
    );
    let start = flushes(machine, "loop1")?;
    machine
        .user(1)?
        .check(&write("vdd", "oflag=direct"), COMMAND)?;
    let through = flushes(machine, "loop1")?;
    ensure!(
        through > start,
        "a write to the write-through disk stays in a cache"
    );

    let expected = machine
        .user(1)?
        .check("head -c 512k /bin/busybox | md5sum", COMMAND)?;
    let session = machine.service()?;
    for image in ["wb.img", "wt.img"] {
        let found = session.check(&format!("head -c 512k /tmp/{image} | md5sum"), COMMAND)?;
        ensure!(found == expected, "{image} has {found}, not {expected}");
    }
    machine.user(1)?.check("blkdiscard /dev/vdc", COMMAND)?;
    let left = machine
        .service()?
        .check("stat -c %b /tmp/wb.img", COMMAND)?;
    ensure!(left == "0", "{left} blocks are left after a discard");

    let size = "cat /sys/block/vde/size";
    let empty = machine.user(1)?.check(size, COMMAND)?;
    machine.service()?.check(
        "vm-command POST_STD_VM1 blkrescan 9,/tmp/wt.img && \
         ! vm-command POST_STD_VM1 blkrescan 9,/tmp/ro.img && \
         ! vm-command POST_STD_VM1 blkrescan 10,/tmp/ro.img",
        COMMAND,
    )?;
    let session = machine.user(1)?;
    let full = session.check(&format!("sleep 1; {size}"), COMMAND)?;
    ensure!(
        (empty.as_str(), full.as_str()) == ("0", "32768"),
        "the empty drive had {empty} sectors and has {full}"
    );
    let found = session.check("head -c 512k /dev/vde | md5sum", COMMAND)?;
    ensure!(found == expected, "the medium has {found}, not {expected}");

    machine.power_off_user(1)?;
    machine.service()?.check(
        "losetup -d /dev/loop0 && losetup -d /dev/loop1 && rm /tmp/ro.img /tmp/wb.img /tmp/wt.img",
        COMMAND,
    )?;
    machine.still_has(&before)
}

/// A network adapter with two queue pairs, its offloads, and the entropy device.
pub(super) fn queues(machine: &mut Machine) -> Result<()> {
    let before = machine.without_users_and_belongings()?;
    machine.start_user(
        1,
        "DM_OPTIONS='-s 6,virtio-net,tap=two_queues,mq=2' launch_user_vm_id1.sh",
    )?;
    machine.service()?.check(
        "ip addr add 192.168.7.1/24 dev two_queues && ip link set two_queues up",
        COMMAND,
    )?;
    let session = machine.user(1)?;
    let found = session.check(
        "ip addr add 192.168.7.2/24 dev eth1 && ip link set eth1 up && \
         ls /sys/class/net/eth1/queues && ping -c 2 192.168.7.1 >/dev/null",
        COMMAND,
    )?;
    ensure!(
        found
            .split_whitespace()
            .eq(["rx-0", "rx-1", "tx-0", "tx-1"]),
        "the queues are {found}"
    );
    // Checksums and segments are left to the host, both ways (bits 0, 1, 7 and 11).
    let features = session.check("cat /sys/class/net/eth0/device/features", COMMAND)?;
    for bit in [0, 1, 7, 11] {
        ensure!(
            features.as_bytes().get(bit) == Some(&b'1'),
            "feature {bit} is missing in {features}"
        );
    }
    // From each CPU, which has a queue of its own.
    for cpu in [0, 1] {
        machine.service()?.check(
            &format!("{MAKE_INPUT}; (nc -l -p 7300 {OPEN_INPUT} | md5sum >/tmp/sum &)"),
            COMMAND,
        )?;
        let sent = machine.user(1)?.check(
            &format!(
                "sleep 1; taskset -c {cpu} nc 192.168.7.1 7300 </bin/busybox; md5sum </bin/busybox"
            ),
            COMMAND,
        )?;
        let received = machine.service()?.check(
            "for _ in $(seq 50); do [ -s /tmp/sum ] && break; sleep 0.2; done; \
             cat /tmp/sum; rm /tmp/sum",
            COMMAND,
        )?;
        ensure!(received == sent, "CPU {cpu}: {received} instead of {sent}");
    }
    let random = "head -c 256 /dev/hwrng | md5sum";
    let session = machine.user(1)?;
    let source = session.check("cat /sys/class/misc/hw_random/rng_current", COMMAND)?;
    ensure!(source.contains("virtio"), "entropy comes from {source:?}");
    let first = session.check(random, COMMAND)?;
    ensure!(
        first != session.check(random, COMMAND)?,
        "the same bytes twice"
    );
    machine.power_off_user(1)?;
    machine.still_has(&before)
}
