//! Cases of VMs that the hypervisor starts itself, with and without a Service VM.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::micro::{SOON, without_hypervisor};
use super::scenario::{board, contains};
use super::support::{BOOT, COMMAND, POWER_OFF, machine, md5_of, service_vm};
use super::{Context, Outcome};
use crate::demo::Options;
use crate::machine::{Boot, DiskBus};
use crate::rootfs::write;
use crate::session::Session;

/// Slots of the pre-launched VMs: the last ones of the table.
const FIRST_OF_TWO: u16 = 6;
const LAST: u16 = 7;
/// The second of four.
const RAW: u16 = 5;

fn scenario(name: &str) -> Options {
    Options {
        scenario: Some(name.to_owned()),
        ..Options::default()
    }
}

/// What the hypervisor says of VMs.
fn list(session: &mut Session) -> Result<String> {
    session.to_hypervisor()?;
    session.hypervisor_command("vm_list")
}

/// Waits until the list of VMs has a line with all these words.
fn wait_for_state(session: &mut Session, name: &str, state: &str) -> Result<()> {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let list = list(session)?;
        let found = |line: &str| line.contains(name) && line.contains(state);
        if list.lines().any(found) {
            return Ok(());
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "{name} is not {state}:\n{list}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Seconds since the guest's start, in the guest whose shell is shown.
fn uptime(session: &mut Session) -> Result<f64> {
    let text = session.check("cut -d ' ' -f 1 /proc/uptime", COMMAND)?;
    text.parse()
        .with_context(|| format!("no number of seconds: {text:?}"))
}

/// Two VMs and no Service VM: each has its own CPUs, memory and devices, and its end is its own.
pub(super) fn partitioned(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let options = Options {
        disk: Some(DiskBus::Ahci),
        ..scenario("partitioned")
    };
    let machine = machine(context, &options)?;
    let mut session = Session::new(machine.start(context.layout, &context.log("partitioned"))?);
    session.expect("vm0 login:", BOOT)?;
    session.log_in_to("vm0")?;
    own_share(&mut session)?;
    // Its controller, and nobody else's, by DMA into its own memory.
    let read = session.check("md5sum </dev/sda | cut -c 1-32", COMMAND)?;
    ensure!(
        read == md5_of(&context.artefacts.data_disk)?,
        "the disk reads as {read}"
    );
    session.to_guest(LAST, "vm1", BOOT)?;
    own_share(&mut session)?;
    session.check("! test -e /dev/sda", COMMAND)?;
    session.check("udhcpc -i eth0 -q -n -s /bin/true", COMMAND)?;
    domains(&mut session)?;
    session.to_guest(LAST, "vm1", BOOT)?;
    let before = uptime(&mut session)?;
    each_reset(&mut session)?;
    switched_off_and_on(&mut session)?;
    session.to_guest(LAST, "vm1", BOOT)?;
    let after = uptime(&mut session)?;
    ensure!(after > before, "the other VM has started anew, too");
    ends_with_the_last(&mut session)?;
    Ok(Outcome::Passed)
}

/// Each VM's devices are kept to its memory, and none of their accesses was refused.
fn domains(session: &mut Session) -> Result<()> {
    session.to_hypervisor()?;
    let shown = session.hypervisor_command("iommu")?;
    for wanted in ["domain of vm6: 524", "domain of vm7: 524", "faults: 0"] {
        ensure!(shown.contains(wanted), "no {wanted:?} in:\n{shown}");
    }
    let shown = session.hypervisor_command("pt")?;
    for (function, owner) in [("00:1f.2", "vm6"), ("00:03.0", "vm7")] {
        let mut lines = shown.lines();
        ensure!(
            lines.any(|line| line.starts_with(function) && line.contains(owner)),
            "{function} is not {owner}'s:\n{shown}"
        );
    }
    Ok(())
}

/// Two CPUs and half a GiB, and ACPI and the clock say what they should.
fn own_share(session: &mut Session) -> Result<()> {
    session.check("test $(nproc) = 2", COMMAND)?;
    let memory = session.check("awk '/MemTotal/ { print $2 }' /proc/meminfo", COMMAND)?;
    let memory: u64 = memory.parse().with_context(|| memory.clone())?;
    ensure!(
        (420_000..512 * 1024).contains(&memory),
        "{memory} KiB of memory"
    );
    session.check("dmesg | grep -q 'Power Button'", COMMAND)?;
    let year = session.check("hwclock -u | grep -o '20[0-9][0-9]' || date +%Y", COMMAND)?;
    ensure!(year.starts_with("20"), "the clock shows {year:?}");
    Ok(())
}

/// Every way in which a PC is reset starts the VM anew.
fn each_reset(session: &mut Session) -> Result<()> {
    let ways = [
        ("reboot -f", "resets itself by port 0xCF9"),
        (
            "printf '\\376' | dd of=/dev/port bs=1 seek=100 2>/dev/null",
            "resets itself by the keyboard controller",
        ),
        (
            "printf '\\001' | dd of=/dev/port bs=1 seek=146 2>/dev/null",
            "resets itself by port 0x92",
        ),
    ];
    for (command, said) in ways {
        session.to_guest(FIRST_OF_TWO, "vm0", BOOT)?;
        let before = uptime(session)?;
        session.vm.console.send_line(command)?;
        session
            .expect("vm0 login:", BOOT)
            .with_context(|| command)?;
        session.log_in_to("vm0")?;
        ensure!(uptime(session)? < before + 1000.0);
        session.to_hypervisor()?;
        let log = session.hypervisor_command("log")?;
        ensure!(log.contains(said), "no {said:?} in:\n{log}");
    }
    Ok(())
}

fn switched_off_and_on(session: &mut Session) -> Result<()> {
    session.to_guest(FIRST_OF_TWO, "vm0", BOOT)?;
    session.vm.console.send_line("poweroff")?;
    wait_for_state(session, "PRE_STD_VM0", "powered off")?;
    wait_for_state(session, "PRE_STD_VM1", "running")?;
    let said = session.hypervisor_command(&format!("vm_start {FIRST_OF_TWO}"))?;
    ensure!(said.contains("is started"), "{said}");
    wait_for_state(session, "PRE_STD_VM0", "running")?;
    session.to_guest(FIRST_OF_TWO, "vm0", BOOT)
}

/// The power button of one, then the power-off of the other, which is the machine's.
fn ends_with_the_last(session: &mut Session) -> Result<()> {
    session.to_hypervisor()?;
    let said = session.hypervisor_command(&format!("vm_shutdown {LAST}"))?;
    ensure!(said.contains("power button is pressed"), "{said}");
    wait_for_state(session, "PRE_STD_VM1", "powered off")?;
    session.to_guest(FIRST_OF_TWO, "vm0", BOOT)?;
    session.power_off(POWER_OFF)
}

/// A VM beside the Service VM, whatever happens to that.
pub(super) fn hybrid(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let machine = machine(context, &scenario("hybrid"))?;
    let mut session = service_vm(context, &machine, "hybrid")?;
    // Its CPU is another VM's, and the tables do not speak of it.
    let cpus = session.check("cat /sys/devices/system/cpu/online", COMMAND)?;
    ensure!(cpus == "0-2", "the Service VM has the CPUs {cpus}");
    session.check("! dmesg | grep -q 'do_boot_cpu failed'", COMMAND)?;
    session.to_guest(LAST, "safety-vm", BOOT)?;
    let mut before = uptime(&mut session)?;
    service_vm_suspends(&mut session)?;
    for incident in [service_vm_resets, service_vm_crashes, service_vm_ends] {
        incident(&mut session)?;
        session.to_guest(LAST, "safety-vm", COMMAND)?;
        let after = uptime(&mut session)?;
        ensure!(after > before, "the pre-launched VM has started anew");
        before = after;
    }
    // The policy of the scenario starts it again, but for the operator.
    session.vm.console.send_line("poweroff -f")?;
    session.expect("safety-vm login:", BOOT)?;
    session.to_hypervisor()?;
    session.hypervisor_command(&format!("vm_shutdown {LAST}"))?;
    wait_for_state(&mut session, "SAFETY_VM0", "powered off")?;
    session.to_service()?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// With another VM the machine does not sleep, and the Service VM is woken at once.
fn service_vm_suspends(session: &mut Session) -> Result<()> {
    session.to_service()?;
    session.check("echo mem >/sys/power/state", BOOT)?;
    let log = session.vm.console.transcript();
    ensure!(
        log.contains("does not sleep: pre-launched VMs run") && !log.contains("is awake"),
        "the machine has slept under a pre-launched VM"
    );
    session.check("dd if=/dev/vda of=/dev/null bs=1M count=8", COMMAND)?;
    session.to_guest(LAST, "safety-vm", COMMAND)
}

fn service_vm_resets(session: &mut Session) -> Result<()> {
    session.to_service()?;
    session.vm.console.send_line("reboot -f")?;
    session.expect("This is the Service VM", BOOT)?;
    session.wait_for_service_shell(BOOT)?;
    // The devices work again.
    session.check("dd if=/dev/vda of=/dev/null bs=1M count=8", COMMAND)?;
    Ok(())
}

fn service_vm_crashes(session: &mut Session) -> Result<()> {
    session.to_service()?;
    session
        .vm
        .console
        .send_line("echo c > /proc/sysrq-trigger")?;
    std::thread::sleep(Duration::from_secs(2));
    session.to_hypervisor()?;
    let said = session.hypervisor_command("vm_reset 0")?;
    ensure!(said.contains("vm0 is reset"), "{said}");
    session.show(0)?;
    session.wait_for_service_shell(BOOT)
}

fn service_vm_ends(session: &mut Session) -> Result<()> {
    session.to_service()?;
    session.vm.console.send_line("poweroff")?;
    wait_for_state(session, "ACRN_Service_VM", "powered off")?;
    session.hypervisor_command("vm_start 0")?;
    session.show(0)?;
    session.wait_for_service_shell(BOOT)
}

/// A device of the machine that one VM has and the Service VM does not.
pub(super) fn device(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    const FUNCTION: &str = "0000:00:03.0";
    let machine = machine(context, &scenario("hybrid_rt"))?;
    let mut session = service_vm(context, &machine, "hybrid_rt")?;
    session.check(
        &format!("! test -e /sys/bus/pci/devices/{FUNCTION}"),
        COMMAND,
    )?;
    session.to_guest(LAST, "rt-vm", BOOT)?;
    session.check("test $(grep -c ^processor /proc/cpuinfo) = 2", COMMAND)?;
    session.check("udhcpc -i eth0 -q -n -s /bin/true", COMMAND)?;
    session.to_hypervisor()?;
    let shown = session.hypervisor_command("iommu")?;
    for wanted in ["domain of vm0", "domain of vm7", "faults: 0"] {
        ensure!(shown.contains(wanted), "no {wanted:?} in:\n{shown}");
    }
    remapped_pins_have_receivers(&session.hypervisor_command("dump_ioapic")?)?;
    session.hypervisor_command(&format!("vm_shutdown {LAST}"))?;
    wait_for_state(&mut session, "PRE_RT_VM0", "powered off")?;
    session.to_service()?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// The shell knows where interrupts go that the IOMMU remaps: to one of the board's four local APICs.
fn remapped_pins_have_receivers(shown: &str) -> Result<()> {
    let open = shown.lines().filter_map(|line| {
        let [_, _, "Fixed", _, _, _, "0", rest @ ..] =
            &line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            return None;
        };
        Some(rest.join(" "))
    });
    let open: Vec<String> = open.collect();
    let possible = |text: &String| {
        (0..4).any(|id| *text == format!("Destination {{ id: {id}, logical: false }}"))
    };
    ensure!(
        !open.is_empty() && open.iter().all(possible),
        "the pins go to {open:?} in:\n{shown}"
    );
    Ok(())
}

/// 32-bit code that prints the command line of its multiboot information, or nothing when it was not
/// entered as multiboot has it: `cmp eax, 0x2badb002; jne 1f; mov esi, [ebx+16]; mov dx, 0x3f8`, then
/// `0: lodsb; test al, al; jz 1f; out dx, al; jmp 0b`, and `1: hlt; jmp 1b`.
const PRINTS_ARGUMENTS: &[u8] = &[
    0x81, 0xf8, 0x02, 0xb0, 0xad, 0x2b, 0x75, 0x0f, 0x8b, 0x73, 0x10, 0x66, 0xba, 0xf8, 0x03, 0xac,
    0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xf4, 0xeb, 0xfd,
];

/// `ud2`, and behind it what prints "RAW": `mov dx, 0x3f8; mov al, 'R'; out dx, al` and so on.
const PRINTS_RAW: &[u8] = &[
    0x0f, 0x0b, 0x66, 0xba, 0xf8, 0x03, 0xb0, b'R', 0xee, 0xb0, b'A', 0xee, 0xb0, b'W', 0xee, 0xf4,
    0xeb, 0xfd,
];

/// Prints "F" and faults where there are no handlers: `mov dx, 0x3f8; mov al, 'F'; out dx, al; ud2`.
const FAULTS: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'F', 0xee, 0x0f, 0x0b];

/// A static ELF32 program of this code, for 2 MiB.
fn elf(code: &[u8]) -> Vec<u8> {
    const ADDRESS: u32 = 0x20_0000;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    let mut put = |words: &[u32]| file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // Executable for 386, version, entry, program headers behind this one, flags.
    put(&[3 << 16 | 2, 1, ADDRESS, 52, 0, 0]);
    // Sizes of headers and one program header, no sections.
    put(&[32 << 16 | 52, 1, 0]);
    let length = code.len() as u32;
    put(&[1, 84, ADDRESS, ADDRESS, length, length, 5, 0]);
    file.extend(code);
    file
}

fn program(id: u16, name: &str, cpu: u16, os: &str) -> String {
    format!(
        "<vm id=\"{id}\"><load_order>PRE_LAUNCHED_VM</load_order><name>{name}</name>\
         <vm_type>STANDARD_VM</vm_type><console_vuart>COM Port 1</console_vuart>\
         <memory><size>32</size></memory>\
         <cpu_affinity><pcpu><pcpu_id>{cpu}</pcpu_id></pcpu></cpu_affinity>\
         <os_config>{os}</os_config></vm>"
    )
}

/// Programs without Linux's boot protocol: an ELF file gets multiboot's information, bytes are entered where
/// the scenario says.
///
/// Those that only fault are reset, as a PC is, but not without end.
pub(super) fn programs(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let faulting = "<kern_type>KERNEL_RAWIMAGE</kern_type><kern_mod>Program_faults</kern_mod>\
                    <kern_load_addr>0x100000</kern_load_addr>\
                    <kern_entry_addr>0x100000</kern_entry_addr>";
    let again = program(3, "again", 3, faulting);
    let vms = [
        program(
            0,
            "elf",
            0,
            "<kern_type>KERNEL_ELF</kern_type><kern_mod>Program_elf</kern_mod>\
             <bootargs>these arguments</bootargs>",
        ),
        program(
            1,
            "raw",
            1,
            "<kern_type>KERNEL_RAWIMAGE</kern_type><kern_mod>Program_raw</kern_mod>\
             <kern_load_addr>0x100000</kern_load_addr>\
             <kern_entry_addr>0x100002</kern_entry_addr>",
        ),
        program(2, "once", 2, faulting),
        again.replace("</vm>", "<restart>on-crash</restart></vm>"),
    ];
    let text = format!(
        "<acrn-config board=\"qemu\" scenario=\"programs\"><hv>\
         <FEATURES><SCHEDULER>SCHED_BVT</SCHEDULER></FEATURES>\
         <DEBUG_OPTIONS><SERIAL_CONSOLE>/dev/ttyS0</SERIAL_CONSOLE></DEBUG_OPTIONS></hv>{}\
         </acrn-config>",
        vms.concat()
    );
    let config = crate::scenario::of_text(context.layout, context.emulator, "programs", &text)?;
    let mut machine = machine(context, &scenario("partitioned"))?;
    if let Boot::Direct(set) = &mut machine.boot {
        set.config = config;
        for (tag, bytes) in [
            ("Program_elf", elf(PRINTS_ARGUMENTS)),
            ("Program_raw", PRINTS_RAW.to_vec()),
            ("Program_faults", FAULTS.to_vec()),
        ] {
            let path = context.layout.images().join(tag);
            write(&path, &bytes)?;
            set.modules.push((tag, path));
        }
    }
    let mut session = Session::new(machine.start(context.layout, &context.log("programs"))?);
    // The second time one policy ends it, and the other waits longer and longer.
    let said = session.expect("(again) starts again in 4000 ms", SOON)?;
    contains(
        &said,
        &[
            "these arguments",
            "(once) starts again in 0 ms",
            "it is gone; `vm_reset 6`",
            "(again) starts again in 0 ms",
            "(again) starts again in 1000 ms",
            "(again) starts again in 2000 ms",
        ],
    )?;
    ensure!(
        said.matches("(once) starts again").count() == 1,
        "a VM without a policy starts again and again:\n{said}"
    );
    session.to_hypervisor()?;
    wait_for_state(&mut session, "once", "paused")?;
    for vm in [FIRST_OF_TWO, LAST] {
        session.hypervisor_command(&format!("vm_pause {vm}"))?;
        session.hypervisor_command(&format!("vm_shutdown {vm}"))?;
    }
    wait_for_state(&mut session, "again", "powered off")?;
    ensure!(session.show(RAW)?, "the raw program has no console");
    session.expect("RAW", SOON)?;
    wait_for_state(&mut session, "elf", "running")?;
    wait_for_state(&mut session, "raw", "running")?;
    session.vm.console.send_line("poweroff")?;
    session.vm.wait_for_end(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// All memory above 4 GiB is a VM's. Shared memory would like to be at the highest place that is free.
pub(super) fn memory(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    const ALL: &str = "0x100000000   0x17fffffff        2097152  vm7";
    let raw = program(
        0,
        "raw",
        3,
        "<kern_type>KERNEL_RAWIMAGE</kern_type><kern_mod>Program_raw</kern_mod>\
         <kern_load_addr>0x100000</kern_load_addr><kern_entry_addr>0x100002</kern_entry_addr>",
    );
    let text = format!(
        "<acrn-config board=\"qemu\" scenario=\"memory\"><hv>\
         <FEATURES><SCHEDULER>SCHED_BVT</SCHEDULER>\
         <IVSHMEM><IVSHMEM_REGION><NAME>shm</NAME><PROVIDED_BY>Hypervisor</PROVIDED_BY>\
         <IVSHMEM_SIZE>16</IVSHMEM_SIZE><IVSHMEM_VMS>\
         <IVSHMEM_VM><VM_NAME>raw</VM_NAME></IVSHMEM_VM>\
         <IVSHMEM_VM><VM_NAME>SERVICE</VM_NAME></IVSHMEM_VM></IVSHMEM_VMS></IVSHMEM_REGION>\
         </IVSHMEM></FEATURES>\
         <DEBUG_OPTIONS><SERIAL_CONSOLE>/dev/ttyS0</SERIAL_CONSOLE></DEBUG_OPTIONS></hv>{}\
         <vm id=\"1\"><load_order>SERVICE_VM</load_order><name>SERVICE</name>\
         <os_config><kern_mod>Linux_bzImage</kern_mod></os_config></vm></acrn-config>",
        raw.replace("<size>32</size>", "<size>2048</size>")
    );
    let config = crate::scenario::of_text(context.layout, context.emulator, "memory", &text)?;
    let mut machine = board(context, "loop", config, "")?;
    if let Boot::Direct(set) = &mut machine.boot {
        let path = context.layout.images().join("Program_raw");
        write(&path, PRINTS_RAW)?;
        set.modules.push(("Program_raw", path));
    }
    let mut session = Session::new(machine.start(context.layout, &context.log("memory"))?);
    session.expect("looping", SOON)?;
    session.to_hypervisor()?;
    let owners = session.hypervisor_command("mem")?;
    contains(&owners, &["shared 16384 KiB", "vm7 keeps 2097152 KiB", ALL])?;
    ensure!(session.show(LAST)?, "the raw program has no console");
    session.expect("RAW", SOON)?;
    Ok(Outcome::Passed)
}

/// What the shell says of VMs that it cannot treat like others.
pub(super) fn refused(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let machine = machine(context, &scenario("hybrid"))?;
    let mut session = service_vm(context, &machine, "refused")?;
    session.to_hypervisor()?;
    let cases = [
        ("vm_pause 0", "is the Service VM"),
        ("vm_shutdown 0", "say `poweroff` to it"),
        ("vm_start 0", "only one that is off starts"),
        ("vm_pause 7", "vm7 is paused"),
        ("vm_shutdown 7", "vm7 is switched off"),
        ("vm_resume 7", "powered off"),
        ("vm_reset 7", "`vm_start 7` starts it"),
        ("vm_shutdown 7", "is off already"),
    ];
    for (command, wanted) in cases {
        let said = session.hypervisor_command(command)?;
        ensure!(
            said.contains(wanted),
            "`{command}`: no {wanted:?} in {said}"
        );
        if said.contains("switched off") {
            wait_for_state(&mut session, "SAFETY_VM0", "powered off")?;
        }
    }
    session.vm.console.send_line("poweroff")?;
    session.vm.wait_for_end(POWER_OFF)?;
    Ok(Outcome::Passed)
}
