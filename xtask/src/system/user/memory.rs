//! Where a guest's memory comes from and what is left in it; programs without a kernel; what
//! acrn-dm may do.

use anyhow::{Context as _, Result, ensure};

use super::{COMMAND, Machine};
use crate::demo;
use crate::session::Session;

/// Where `acrn-dm` writes the first ACPI table, which begins with these bytes.
const RSDP: u64 = 0xf_2400;
const RSDP_BYTES: &str = "52 53 44 20 50 54 52 20";
const ZEROS: &str = "00 00 00 00 00 00 00 00";

/// The end of a VM leaves nothing of it in the pages that the Service VM gets back.
pub(super) fn zeroed(machine: &mut Machine) -> Result<()> {
    machine.without_users()?;
    machine.user(1)?;
    let guest = machine.hypervisor(&format!("dump 1 {RSDP:#x} 8"))?;
    ensure!(guest.contains(RSDP_BYTES), "the guest's table is {guest}");
    // The page frame in the Service VM, which sees memory at its own addresses.
    let place = machine.service()?.check(
        &format!(
            "pid=$({}); start=$(sed -n 's/-.*acrn-guest.*//p' /proc/$pid/maps | head -n 1); \
             entry=$(dd if=/proc/$pid/pagemap bs=8 count=1 skip=$(((0x$start + {RSDP}) / 4096)) \
             2>/dev/null | od -An -tx8 | tr -d ' '); \
             echo $(((0x$entry & 0x7fffffffffffff) * 4096 + {RSDP} % 4096))",
            demo::process(1)
        ),
        COMMAND,
    )?;
    let place: u64 = place.parse().with_context(|| format!("no page: {place}"))?;
    ensure!(place > 0x10_0000, "the page is at {place:#x}");
    machine.power_off_user(1)?;
    let left = machine.hypervisor(&format!("dump 0 {place:#x} 8"))?;
    ensure!(left.contains(ZEROS), "what is left of the VM: {left}");
    Ok(())
}

/// Two User VMs and the Service VM see the same memory, whoever ends first, and be it by `kill -9`; it comes back with
/// the last of them.
pub(super) fn shared(machine: &mut Machine) -> Result<()> {
    /// Turns the device on and prints where the memory is.
    const PLACE: &str = "for d in /sys/bus/pci/devices/*; do \
        if [ $(cat $d/vendor)$(cat $d/device) = 0x1af40x1110 ]; then \
        echo 1 >$d/enable; sed -n '3s/ .*//p' $d/resource; fi; done";
    const RING: &str = "od -An -tx4 -N4 /dev/shm/common";
    machine.without_users()?;
    let before = machine.memory()?;
    for id in [1, 2] {
        let options = "DM_OPTIONS='-s 7,ivshmem,dm:/common,2'";
        machine.start_user(id, &format!("{options} launch_user_vm_id{id}.sh"))?;
    }
    let place = machine.user(1)?.check(PLACE, COMMAND)?;
    let write = |word: &str| format!("devmem {place} 32 {word}");
    let read = format!("devmem {place} 32");
    let word = |session: &mut Session, command: &str, expected: &str| -> Result<()> {
        let found = session.check(command, COMMAND)?;
        ensure!(found == expected, "{found} instead of {expected}");
        Ok(())
    };
    machine.user(1)?.check(&write("0x11223344"), COMMAND)?;
    let session = machine.user(2)?;
    word(session, PLACE, &place)?;
    word(session, &read, "0x11223344")?;
    session.check(&write("0x55667788"), COMMAND)?;
    word(machine.user(1)?, &read, "0x55667788")?;
    word(machine.service()?, RING, "55667788")?;
    let map = machine.hypervisor("mem")?;
    ensure!(map.contains("lent to vm1 vm2"), "nothing is shared:\n{map}");

    let kill = format!("kill -9 $({})", demo::process(1));
    machine.service()?.check(&kill, COMMAND)?;
    machine.up.retain(|&id| id != 1);
    let session = machine.user(2)?;
    session.check(&write("0x99aabbcc"), COMMAND)?;
    word(machine.service()?, RING, "99aabbcc")?;
    machine.power_off_user(2)?;
    // What a killed one leaves goes at its next start; the cases behind this one count files.
    let rest = "rm /dev/shm/common /run/acrn/POST_STD_VM1.lock /run/acrn/mngr/POST_STD_VM1.*";
    machine.service()?.check(rest, COMMAND)?;
    let after = machine.memory()?;
    ensure!(after == before, "memory was {before:?} and is {after:?}");
    Ok(())
}

/// Linux comes and goes in a User VM, and everything is back each time.
pub(super) fn cycles(machine: &mut Machine) -> Result<()> {
    let rounds = if machine.full { 100 } else { 2 };
    let before = machine.without_users_and_belongings()?;
    let memory = machine.memory()?;
    for round in 1..=rounds {
        machine.user(1)?;
        machine.power_off_user(1)?;
        machine
            .still_has(&before)
            .with_context(|| format!("round {round}"))?;
        let now = machine.memory()?;
        ensure!(
            now == memory,
            "round {round}: memory was {memory:?} and is {now:?}"
        );
    }
    Ok(())
}

/// No thread of acrn-dm can do what a Device Model need not do.
pub(super) fn sandbox(machine: &mut Machine) -> Result<()> {
    machine.user(1)?;
    let threads = machine.service()?.check(
        &format!(
            "grep -hE '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$({})/task/*/status | sort -u",
            demo::process(1)
        ),
        COMMAND,
    )?;
    // CAP_IPC_LOCK; mode 2 is a filter.
    let expected = [
        "CapBnd: 0000000000004000",
        "CapEff: 0000000000004000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
    ];
    let found: Vec<String> = threads
        .lines()
        .map(|line| line.replace('\t', " "))
        .collect();
    ensure!(found == expected, "acrn-dm's threads have:\n{threads}");
    Ok(())
}

/// Without huge pages a VM gets ordinary memory, and a sentence says so.
pub(super) fn ordinary(machine: &mut Machine) -> Result<()> {
    let before = machine.without_users_and_belongings()?;
    let lent = machine.memory()?;
    machine.service()?.check(
        "mkdir /tmp/nothing && mount --bind /tmp/nothing /sys/kernel/mm/hugepages",
        COMMAND,
    )?;
    let started = machine.start_user(1, "MEMORY_MIB=128 launch_user_vm_id1.sh");
    machine.service()?.check(
        "umount /sys/kernel/mm/hugepages && rmdir /tmp/nothing",
        COMMAND,
    )?;
    started?;
    machine.user(1)?.check(
        "head -c 32m /dev/urandom >/dev/shm/noise && sync && rm /dev/shm/noise",
        COMMAND,
    )?;
    let log = machine.power_off_user(1)?;
    ensure!(
        log.contains("no huge pages for the guest"),
        "acrn-dm does not say that it uses ordinary memory:\n{log}"
    );
    let now = machine.memory()?;
    ensure!(now == lent, "memory was {lent:?} and is {now:?}");
    machine.still_has(&before)
}

/// A 64-bit ELF file that prints "Hi" on COM1 and writes 5 to the debug-exit port: headers of
/// 0x78 bytes, one segment for 1 MiB, then `mov dx, 0x3f8; mov al, 'H'; out dx, al` and so on,
/// at the end `hlt`.
const PROGRAM: &str = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00\x01\x00\x00\x00\x78\x00\x10\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x00\x38\x00\x01\x00\x40\x00\x00\x00\x00\x00\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x8d\x00\x00\x00\x00\x00\x00\x00\x8d\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x66\xba\xf8\x03\xb0\x48\xee\xb0\x69\xee\xb0\x0a\xee\x66\xba\xf4\x00\xb0\x05\xee\xf4";

/// A static program instead of a kernel; the power button of a guest that has none.
pub(super) fn elf(machine: &mut Machine) -> Result<()> {
    let before = machine.without_users_and_belongings()?;
    let session = machine.service()?;
    let ended = session.run(
        &format!(
            "printf '{PROGRAM}' >/tmp/program; \
             timeout 30 acrn-dm -m 16M -l com1,stdio -E /tmp/program --debugexit elf </dev/null"
        ),
        COMMAND,
    )?;
    ensure!(
        ended.status == 5 << 1 | 1,
        "the program's exit code is {}:\n{}",
        ended.status,
        ended.text
    );
    ensure!(
        ended.text.lines().any(|line| line.trim() == "Hi"),
        "the program printed:\n{}",
        ended.text
    );
    // Without the port it stands at its HLT and ignores the first request.
    let ended = session.run(
        "acrn-dm -m 16M -E /tmp/program elf </dev/null & pid=$!; sleep 2; \
         kill -INT $pid; sleep 1; kill -0 $pid && kill -INT $pid; wait $pid",
        COMMAND,
    )?;
    ensure!(
        ended.status == 30 && ended.text.contains("by force"),
        "a guest without a power button ended with {}:\n{}",
        ended.status,
        ended.text
    );
    session.check("rm /tmp/program", COMMAND)?;
    machine.still_has(&before)
}
