//! Cases of the configuration: what takes effect, what is refused, and the shares of a CPU.

use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::micro::{SOON, machine, without_hypervisor};
use super::support::POWER_OFF;
use super::{Context, Outcome};
use crate::machine::{Boot, Machine};
use crate::session::{ESCAPE_KEYS, HYPERVISOR_PROMPT, Session};
use crate::{grub, scenario};

/// A machine with the board's CPUs and memory, whose Service VM runs the tests.
pub(super) fn board(
    context: &Context,
    tests: &str,
    config: PathBuf,
    words: &str,
) -> Result<Machine> {
    let mut machine = machine(context, tests, 0)?;
    scenario::fit(&mut machine)?;
    boot_with(&mut machine, config, words);
    Ok(machine)
}

pub(super) fn boot_with(machine: &mut Machine, config: PathBuf, words: &str) {
    if let Boot::Direct(set) = &mut machine.boot {
        set.config = config;
        words.clone_into(&mut set.hypervisor_args);
    }
}

pub(super) fn start(context: &Context, machine: &Machine, name: &str) -> Result<Session> {
    let log = context.log(name);
    Ok(Session::new(machine.start(context.layout, &log)?))
}

fn end(mut session: Session) -> Result<()> {
    session.vm.console.send_line("poweroff")?;
    session.vm.wait_for_end(POWER_OFF)
}

/// Asks the shell for something, and looks for texts in the answer.
fn answers(session: &mut Session, command: &str, wanted: &[&str]) -> Result<String> {
    let answer = session.hypervisor_command(command)?;
    contains(&answer, wanted).with_context(|| format!("`{command}`"))?;
    Ok(answer)
}

pub(super) fn contains(said: &str, wanted: &[&str]) -> Result<()> {
    for text in wanted {
        ensure!(said.contains(text), "no {text:?} in:\n{said}");
    }
    Ok(())
}

/// The same image with one configuration after the other.
pub(super) fn in_force(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let image = fs::read(&context.artefacts.hypervisor.flat)?;
    shared(context)?;
    by_grub(context)?;
    outranking(context)?;
    hidden_and_reserved(context)?;
    read_only_shell(context)?;
    no_shell(context)?;
    ensure!(
        image == fs::read(&context.artefacts.hypervisor.flat)?,
        "the hypervisor's image is another one now"
    );
    Ok(Outcome::Passed)
}

/// The preset as it is: names, levels and what has no effect.
fn shared(context: &Context) -> Result<()> {
    let config = scenario::of_preset(context.layout, context.emulator, "shared")?;
    let machine = board(context, "loop", config, "config=strict")?;
    let mut session = start(context, &machine, "shared")?;
    let said = session.expect("looping", SOON)?;
    contains(
        &said,
        &[
            "configuration: scenario shared, board qemu",
            "configuration: Hyper-V's interface for VMs: not supported yet",
            "no boot module has the tag Linux_ramdisk",
        ],
    )?;
    ensure!(
        !said.contains("info: Service VM"),
        "the console's level is not the configuration's:\n{said}"
    );
    session.to_hypervisor()?;
    answers(
        &mut session,
        "config",
        &[
            "in force: boot module acrn_config, scenario shared",
            "log level 3 on the console, 5 in memory; shell full",
            "CPU 3: BVT",
            "vm0 ACRN_Service_VM (service): CPUs 0xf, weight 1",
            "vm2 POST_RT_VM1 (post-launched): CPUs 0x8",
            "no effect: Hyper-V's interface for VMs: not supported yet",
        ],
    )?;
    answers(&mut session, "vm_list", &["ACRN_Service_VM", "running"])?;
    answers(&mut session, "loglevel", &["3"])?;
    end(session)
}

/// The module by multiboot2.
fn by_grub(context: &Context) -> Result<()> {
    let config = scenario::of_preset(context.layout, context.emulator, "shared")?;
    let mut machine = board(context, "loop", config, "")?;
    if let Boot::Direct(set) = &machine.boot {
        machine.boot = Boot::Grub {
            image: grub::image(context.layout, set)?,
            uefi: false,
        };
    }
    let mut session = start(context, &machine, "grub")?;
    session.expect("looping", SOON)?;
    session.to_hypervisor()?;
    answers(&mut session, "config", &["acrn_config, scenario shared"])?;
    end(session)
}

/// A device that the scenario hides is not there, and the kernel is told to reserve huge pages for the two VMs
/// of 64 MiB, unless its own arguments say how many.
fn hidden_and_reserved(context: &Context) -> Result<()> {
    const HIDDEN: &str = "00:03.0";
    let text = busy_vms("SCHED_BVT").replace(
        "</hv>",
        &format!(
            "<HIDDEN_PDEV_REGION><HIDDEN_PDEV>{HIDDEN}</HIDDEN_PDEV></HIDDEN_PDEV_REGION></hv>"
        ),
    );
    let config = scenario::of_text(context.layout, context.emulator, "hidden", &text)?;
    let machine = board(context, "machine,loop", config, "")?;
    let mut session = start(context, &machine, "hidden")?;
    let said = session.expect("looping", SOON)?;
    let seen = format!("PCI {HIDDEN} is hidden from all VMs");
    contains(
        &said,
        &[&seen, " hugepagesz=2M hugepages=64", "function 00:1f.0"],
    )?;
    ensure!(
        !said.contains(&format!("function {HIDDEN}")),
        "the hidden device is there:\n{said}"
    );
    session.to_hypervisor()?;
    let shown = answers(&mut session, "pt", &[HIDDEN])?;
    let mut lines = shown.lines();
    ensure!(
        lines.any(|line| line.starts_with(HIDDEN) && line.contains(" hv")),
        "{shown}"
    );
    Ok(())
}

/// A real-time VM of the scenario is not disturbed by the Service VM.
fn outranking(context: &Context) -> Result<()> {
    let text = busy_vms("SCHED_BVT");
    let (others, own) = text.split_once("heavy").context("no VM heavy")?;
    let own = own.replacen("STANDARD_VM", "RTVM", 1);
    let own = own.replacen("<pcpu_id>1<", "<pcpu_id>3<", 1);
    let text = format!("{others}superior{own}");
    let config = scenario::of_text(context.layout, context.emulator, "outranking", &text)?;
    let machine = board(context, "vm_outranking", config, "")?;
    let mut session = start(context, &machine, "outranking")?;
    session.expect("PASS vm_outranking", SOON)?;
    Ok(())
}

/// Commands that look are there, those that change something are not.
fn read_only_shell(context: &Context) -> Result<()> {
    let machine = shell(context, "read-only")?;
    let mut session = start(context, &machine, "read-only")?;
    session.expect("looping", SOON)?;
    session.to_hypervisor()?;
    answers(&mut session, "version", &["acrn-rs"])?;
    answers(&mut session, "config", &["shell read-only"])?;
    for command in ["poweroff", "wrmsr 174 0", "loglevel 6"] {
        answers(&mut session, command, &["changes something"])?;
    }
    let help = answers(&mut session, "help", &["vm_list"])?;
    ensure!(!help.contains("poweroff"), "{help}");
    Ok(())
}

/// The keys that lead to the shell say that there is none.
fn no_shell(context: &Context) -> Result<()> {
    let machine = shell(context, "off")?;
    let mut session = start(context, &machine, "no-shell")?;
    session.expect("looping", SOON)?;
    session.vm.console.send(b"\0e")?;
    session
        .expect("has switched the hypervisor's shell off", SOON)
        .with_context(|| ESCAPE_KEYS)?;
    session.vm.console.send_line("version")?;
    let shown = session.expect(HYPERVISOR_PROMPT, Duration::from_secs(2));
    ensure!(shown.is_err(), "there is a shell");
    Ok(())
}

fn shell(context: &Context, mode: &str) -> Result<Machine> {
    let text = busy_vms("SCHED_BVT").replace(
        "</DEBUG_OPTIONS>",
        &format!("<SHELL_MODE>{mode}</SHELL_MODE></DEBUG_OPTIONS>"),
    );
    let config = scenario::of_text(context.layout, context.emulator, mode, &text)?;
    board(context, "loop", config, "")
}

/// Each reason is said, and a Service VM starts unless the command line forbids that.
pub(super) fn refused(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let good = scenario::of_preset(context.layout, context.emulator, "shared")?;
    let mut bytes = fs::read(&good)?;
    bytes[100] ^= 1;
    let damaged = scenario::file(context.layout, "damaged", &bytes)?;
    let cases = [
        (
            "absent",
            PathBuf::new(),
            "no boot module has the tag acrn_config",
        ),
        ("damaged", damaged, "module acrn_config: checksum"),
        (
            "board",
            good,
            "configuration for another board: it has 4 CPUs, this machine has 2",
        ),
    ];
    for (name, config, reason) in cases {
        safe_default(context, name, config.clone(), reason).with_context(|| name)?;
        strict(context, name, config, reason).with_context(|| format!("{name}, strict"))?;
    }
    Ok(Outcome::Passed)
}

fn safe_default(context: &Context, name: &str, config: PathBuf, reason: &str) -> Result<()> {
    let mut machine = machine(context, "loop", 2)?;
    boot_with(&mut machine, config, "");
    let mut session = start(context, &machine, name)?;
    let said = session.expect("looping", SOON)?;
    contains(&said, &[reason])?;
    session.to_hypervisor()?;
    let shown = ["the safe default, a Service VM alone", reason, "shell full"];
    answers(&mut session, "config", &shown)?;
    answers(&mut session, "vm_list", &["Service_VM", "running"])?;
    end(session)
}

fn strict(context: &Context, name: &str, config: PathBuf, reason: &str) -> Result<()> {
    let mut machine = machine(context, "loop", 2)?;
    boot_with(&mut machine, config, "config=strict");
    let mut session = start(context, &machine, &format!("{name}-strict"))?;
    let said = session.expect(HYPERVISOR_PROMPT, SOON)?;
    contains(&said, &[reason, "config=strict: stopped, no VM is started"])?;
    answers(&mut session, "config", &["in force: nothing", reason])?;
    let vms = session.hypervisor_command("vm_list")?;
    ensure!(!vms.contains("Service_VM"), "{vms}");
    end(session)
}

/// Two VMs on CPU 1, which the Service VM has too but leaves idle; their weights are 1 and 3, their
/// priorities low and high.
fn busy_vms(scheduler: &str) -> String {
    let vm = |id, name, weight, priority| {
        format!(
            "<vm id=\"{id}\"><load_order>POST_LAUNCHED_VM</load_order><name>{name}</name>\
             <vm_type>STANDARD_VM</vm_type><memory><size>64</size></memory>\
             <cpu_affinity><pcpu><pcpu_id>1</pcpu_id></pcpu></cpu_affinity>\
             <priority>{priority}</priority><bvt_weight>{weight}</bvt_weight></vm>"
        )
    };
    format!(
        "<acrn-config board=\"qemu\" scenario=\"busy\"><hv>\
         <FEATURES><SCHEDULER>{scheduler}</SCHEDULER></FEATURES>\
         <DEBUG_OPTIONS><SERIAL_CONSOLE>/dev/ttyS0</SERIAL_CONSOLE></DEBUG_OPTIONS></hv>\
         <vm id=\"0\"><load_order>SERVICE_VM</load_order><name>SERVICE</name>\
         <os_config><kern_mod>Linux_bzImage</kern_mod></os_config></vm>{}{}</acrn-config>",
        vm(1, "light", 1, "PRIO_LOW"),
        vm(2, "heavy", 3, "PRIO_HIGH"),
    )
}

/// Schedulers, and the share of the VM with the smaller weight and priority that each allows, in
/// thousandths. Round robin does not make up for a turn that ends late, as turns do in an emulator on a
/// busy host.
const SHARES: &[(&str, RangeInclusive<u64>)] = &[
    ("SCHED_BVT", 230..=270),
    ("SCHED_IORR", 430..=570),
    ("SCHED_PRIO", 0..=5),
];
/// For how long they are looked at.
const LOOK: Duration = Duration::from_secs(6);

pub(super) fn shares(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    for (scheduler, allowed) in SHARES {
        let light = share(context, scheduler).with_context(|| *scheduler)?;
        ensure!(
            allowed.contains(&light),
            "{scheduler}: {light} thousandths instead of {allowed:?}"
        );
    }
    // A CPU for one, and the Service VM has it: there is no room for others (ENOSPC).
    let mut session = busy(context, "SCHED_NOOP")?;
    session.expect("refused: -28 -28", SOON)?;
    session.expect("PASS vm_shares", SOON)?;
    Ok(Outcome::Passed)
}

/// The share of the first VM in what both have of the CPU, in thousandths.
fn share(context: &Context, scheduler: &str) -> Result<u64> {
    let mut session = busy(context, scheduler)?;
    session.expect("waiting for a key", SOON)?;
    session.to_hypervisor()?;
    answers(&mut session, "vm_list", &["1     light", "2     heavy"])?;
    let before = times(&mut session)?;
    std::thread::sleep(LOOK);
    let after = times(&mut session)?;
    let [light, heavy] = [0, 1].map(|vm: usize| after[vm] - before[vm]);
    let all = light + heavy;
    let least = LOOK.as_millis() as u64 * 9 / 10;
    ensure!(all >= least, "both together had the CPU for {all} ms only");
    Ok(light * 1000 / all)
}

/// For how long VM 1 and VM 2 have had their CPU, in milliseconds.
fn times(session: &mut Session) -> Result<[u64; 2]> {
    let list = session.hypervisor_command("vcpu_list")?;
    let of = |vm: &str| {
        let rows = list.lines().map(|line| line.split_whitespace().collect());
        let mut rows = rows.filter(|row: &Vec<&str>| row.first() == Some(&vm));
        let time = rows.next().and_then(|row| row.get(5)?.parse().ok());
        time.with_context(|| format!("no time of VM {vm} in:\n{list}"))
    };
    Ok([of("1")?, of("2")?])
}

/// A machine whose Service VM makes the two VMs.
fn busy(context: &Context, scheduler: &str) -> Result<Session> {
    let text = busy_vms(scheduler);
    let config = scenario::of_text(context.layout, context.emulator, scheduler, &text)?;
    let machine = board(context, "vm_shares", config, "loglevel=1")?;
    start(context, &machine, scheduler)
}
