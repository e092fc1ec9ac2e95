//! Wrong options and bad files: one sentence, a code of its own, and a Service VM as it was.

use anyhow::{Result, ensure};

use super::{COMMAND, Machine};

/// Arguments, exit code and a part of the sentence.
type Wrong = (&'static str, i32, &'static str);

const COMMON: &str = "-s 0:0,hostbridge -s 1:0,lpc -l com1,hv";

const WRONG_OPTIONS: &[Wrong] = &[
    ("", 2, "name"),
    ("--no-such-option vm", 2, "no-such-option"),
    ("-m 17 -k /data/bzImage vm", 2, "-m"),
    ("-m lots -k /data/bzImage vm", 2, "lots"),
    ("-s 40,virtio-rnd -k /data/bzImage vm", 2, "40"),
    (
        "-s 3,no-such-device -k /data/bzImage vm",
        24,
        "no-such-device",
    ),
    (
        "-k /data/bzImage a-name-that-is-too-long-for-a-vm",
        2,
        "name",
    ),
    ("--cpu_affinity 77 -k /data/bzImage vm", 2, "77"),
    ("--windows -k /data/bzImage vm", 3, "Windows"),
    ("--config /nowhere.toml vm", 4, "/nowhere.toml"),
    ("-s 4,virtio-net,tap=no/tap -k /data/bzImage vm", 24, "tap"),
    ("-m 64G -k /data/bzImage vm", 22, "memory"),
];

pub(super) fn wrong_options(machine: &mut Machine) -> Result<()> {
    let before = machine.belongings()?;
    refuses(machine, WRONG_OPTIONS)?;
    let session = machine.service()?;
    session.check("mv /dev/acrn_hsm /dev/hidden", COMMAND)?;
    let result = refuses(machine, &[("-k /data/bzImage vm", 20, "/dev/acrn_hsm")]);
    machine
        .service()?
        .check("mv /dev/hidden /dev/acrn_hsm", COMMAND)?;
    result?;
    machine.still_has(&before)?;

    // A second VM of the same name.
    let session = machine.service()?;
    session.check(
        "(acrn-dm -m 64M -k /data/bzImage -B x vm </dev/null >/tmp/first 2>&1 &); \
         for _ in $(seq 50); do ls /run/acrn/mngr/vm.* && break; sleep 0.2; done >/dev/null 2>&1; \
         sleep 1; vm-command vm status",
        COMMAND,
    )?;
    refuses(machine, &[("-k /data/bzImage vm", 23, "vm")])?;
    let session = machine.service()?;
    session.check("vm-command vm destroy; sleep 2", COMMAND)?;
    machine.still_has(&before)
}

const BAD_FILES: &[Wrong] = &[
    ("-k /tmp/bad/none vm", 10, "/tmp/bad/none"),
    ("-k /data/bzImage -r /tmp/bad/none vm", 11, "/tmp/bad/none"),
    ("-k /tmp/bad/empty vm", 12, "/tmp/bad/empty"),
    ("-k /tmp/bad/short vm", 12, "/tmp/bad/short"),
    ("-k /tmp/bad/cut vm", 12, "/tmp/bad/cut"),
    ("-k /tmp/bad/random vm", 12, "/tmp/bad/random"),
    ("-k /tmp/bad vm", 10, "/tmp/bad"),
    ("-E /tmp/bad/random vm", 12, "/tmp/bad/random"),
    ("-m 64M -k /data/bzImage -r /tmp/bad/huge vm", 13, "needs"),
    (
        "-k /data/bzImage -s 3,virtio-blk,/tmp/bad/none vm",
        24,
        "/tmp/bad/none",
    ),
    (
        "-k /data/bzImage -s 3,virtio-blk,/tmp/ro/disk vm",
        24,
        "/tmp/ro/disk",
    ),
    (
        "-k /data/bzImage -s 3,virtio-blk,/tmp/bad/empty vm",
        24,
        "/tmp/bad/empty",
    ),
];

pub(super) fn files(machine: &mut Machine) -> Result<()> {
    let before = machine.belongings()?;
    machine.service()?.check(
        "mkdir -p /tmp/bad /tmp/ro && cd /tmp/bad && >empty && head -c 600 /data/bzImage >short && \
         head -c 1m /data/bzImage >cut && head -c 1m /dev/urandom >random && \
         truncate -s 100M huge && mount -t tmpfs tmpfs /tmp/ro && head -c 1m /dev/zero >/tmp/ro/disk && \
         mount -o remount,ro /tmp/ro; status=$?; cd; (exit $status)",
        COMMAND,
    )?;
    refuses(machine, BAD_FILES)?;
    // The header is good, the rest is noise: the guest dies as it likes, and alone.
    machine.service()?.check(
        "{ head -c 32k /data/bzImage; head -c $(($(stat -c %s /data/bzImage) - 32768)) /dev/urandom; } \
         >/tmp/bad/noise && { timeout -k 5 8 acrn-dm -m 64M -k /tmp/bad/noise noise </dev/null; true; } && \
         sleep 1 && uname -r",
        COMMAND,
    )?;
    machine
        .service()?
        .check("umount /tmp/ro && rm -rf /tmp/bad /tmp/ro", COMMAND)?;
    machine.still_has(&before)
}

fn refuses(machine: &mut Machine, cases: &[Wrong]) -> Result<()> {
    let session = machine.service()?;
    for (arguments, code, sentence) in cases {
        let command = format!("timeout 20 acrn-dm {COMMON} {arguments} </dev/null");
        let output = session.run(&command, COMMAND)?;
        ensure!(
            output.status == *code && output.text.contains(sentence),
            "`acrn-dm {arguments}` ended with {} instead of {code} and said: {}",
            output.status,
            output.text
        );
        let said = output.text.lines().filter(|line| line.contains("error"));
        ensure!(
            said.count() <= 1,
            "`acrn-dm {arguments}` says more than one sentence: {}",
            output.text
        );
    }
    Ok(())
}
