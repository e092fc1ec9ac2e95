//! Cases with micro-guests in place of the Service VM's kernel.
//!
//! A micro-guest says `PASS name` or `FAIL name: reason` on its console and ends QEMU through a debug
//! device, whose exit status says whether all of its tests held. Bochs has no such device: there the
//! last line is the end.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::support::POWER_OFF;
use super::{Context, Outcome};
use crate::grub::BootSet;
use crate::image;
use crate::machine::{Boot, Emulator, Machine};
use crate::session::{HYPERVISOR_PROMPT, Session};
use crate::{bochs, qemu};

/// Time for a group of tests; they take a few seconds on a machine that does nothing else.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// Time for what should appear at once.
pub(super) const SOON: Duration = Duration::from_secs(30);
/// What the debug device makes of the micro-guest's code for success: 2 * 0x10 + 1.
const ALL_HELD: i32 = 33;

pub(super) fn instructions(context: &Context) -> Result<Outcome> {
    hold(
        context,
        "cpuid,cpuid_policy,features,msr,ports,sleep,xsetbv,undefined,debug,cache",
        2,
    )
}

/// What only a guest that wants to be a hypervisor does.
pub(super) fn virtualization(context: &Context) -> Result<Outcome> {
    let tests = "virtualization,virtualization_msrs,control_registers";
    hold(context, tests, 2)?;
    match context.emulator {
        // It checks too little of what is written to control registers.
        Emulator::Qemu => Ok(Outcome::Passed),
        Emulator::Bochs => hold(context, "strict", 2),
    }
}

pub(super) fn timers(context: &Context) -> Result<Outcome> {
    hold(context, "timer,timer_x2apic,tsc_adjust", 2)
}

pub(super) fn interrupts(context: &Context) -> Result<Outcome> {
    let tests = "apic_modes,x2apic,self_ipi,priority,nmi,nested_nmi,nmi_wakes,shadow,halt,cut_off,\
                 cut_off_page_fault,cut_off_with_interrupt,ioapic_level,ioapic_pit,pic";
    hold(context, tests, 2)?;
    match context.emulator {
        // It fails an assertion of its own when CR8 falls.
        Emulator::Qemu => hold(context, "cut_off_interrupt", 2),
        Emulator::Bochs => hold(context, "task_priority,cut_off_interrupt", 2),
    }
}

/// The processor's modes and its tasks. Bochs checks what QEMU does not: limits in real mode, and some
/// corners of task switches.
pub(super) fn modes(context: &Context) -> Result<Outcome> {
    let tests = match context.emulator {
        Emulator::Qemu => "modes,tasks",
        Emulator::Bochs => "modes,tasks,strict_modes,strict_tasks",
    };
    hold(context, tests, 1)
}

pub(super) fn processors(context: &Context) -> Result<Outcome> {
    for cpus in [1, 2, 4] {
        let outcome = hold(context, "smp,ipi", cpus).with_context(|| format!("{cpus} CPUs"))?;
        if outcome != Outcome::Passed {
            return Ok(outcome);
        }
    }
    match context.emulator {
        Emulator::Qemu => Ok(Outcome::Passed),
        Emulator::Bochs => posted(context),
    }
}

/// A processor with posted interrupts and a preemption timer takes IPIs without leaving the guest, and
/// the timers of its guests need no interrupt of the host.
fn posted(context: &Context) -> Result<Outcome> {
    const SENT: u64 = 1000;
    let mut session = start(context, "bench_ipi,timer,wait", 2, true)?;
    session.expect("PASS timer", LIMIT)?;
    session.expect("waiting for a key", SOON)?;
    session.to_hypervisor()?;
    let exits = session.hypervisor_command("exits 0")?;
    let (sender, receiver) = exits
        .split_once("vm0 vcpu1")
        .with_context(|| format!("no second vCPU in:\n{exits}"))?;
    let left = counted(receiver, "interrupt");
    ensure!(left < SENT / 10, "{left} exits for {SENT} IPIs:\n{exits}");
    ensure!(counted(sender, "deadline") > 0, "no deadline in:\n{exits}");
    Ok(Outcome::Passed)
}

/// How often the shell's `exits` has counted a reason.
fn counted(exits: &str, reason: &str) -> u64 {
    let rows = exits.lines().map(str::split_whitespace);
    let row = rows
        .map(Iterator::collect::<Vec<_>>)
        .find(|words| words.first() == Some(&reason));
    row.and_then(|words| words.get(1)?.parse().ok())
        .unwrap_or(0)
}

/// Models of AMD CPUs that lack what the usual one has: XSAVE, SMEP, SMAP, x2APIC, 1 GiB pages. (A
/// CPU with XSAVE and without XSAVEOPT is none of them: QEMU 7.2 hangs when CR4.OSXSAVE is set.)
const AMD_MODELS: &[&str] = &[
    "qemu64,+svm,+npt",
    "phenom",
    "Opteron_G1,+svm,+npt",
    "Opteron_G3,+svm,+npt",
    "Opteron_G5,+npt,+xsaveopt",
    "Opteron_G5,+npt,-xsave",
    "EPYC,-x2apic,-smap,-smep,-pdpe1gb",
    "EPYC-Rome",
    "max",
];

/// Models of Intel CPUs: without XSAVE and 1 GiB pages, without x2APIC and with plain APIC
/// virtualization, with virtual-interrupt delivery but without posted interrupts, and with these.
const INTEL_MODELS: &[&str] = &[
    "corei5_arrandale_m520",
    "corei7_sandy_bridge_2600k",
    "corei7_haswell_4770",
    "corei7_skylake_x",
];

/// Models on which the hypervisor cannot run, and what it says.
const UNFIT_AMD: &[(&str, &str)] = &[
    ("Haswell", "this CPU lacks virtualization, SVM (AMD-V)"),
    ("max,-svm", "this CPU lacks virtualization, SVM (AMD-V)"),
    ("qemu64,+svm", "this CPU lacks SVM nested paging (NPT)"),
    ("EPYC,-nx", "this CPU lacks NX (execute disable)"),
    ("EPYC,-apic", "this CPU lacks APIC"),
    ("EPYC,-tsc", "this CPU lacks TSC"),
    ("EPYC,-pat", "this CPU lacks PAT"),
    ("EPYC,-sse2,-fxsr", "this CPU lacks FXSR"),
    ("EPYC,-lm", "this CPU has no 64-bit long mode"),
    ("486", "this CPU has no 64-bit long mode"),
];

/// The same in Bochs.
const UNFIT_INTEL: &[(&str, &str)] = &[
    ("corei5_lynnfield_750", "this CPU lacks unrestricted guest"),
    ("core2_penryn_t9600", "this CPU lacks enable EPT"),
    ("core_duo_t2400_yonah", "this CPU has no 64-bit long mode"),
];

pub(super) fn models(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let tests = "cpuid,cpuid_policy,msr,virtualization,xsetbv,debug,timer,priority,tasks,smp,ipi,memory,vm_life,vm_neighbour";
    let (fit, unfit) = match context.emulator {
        Emulator::Qemu => (AMD_MODELS, UNFIT_AMD),
        Emulator::Bochs => (INTEL_MODELS, UNFIT_INTEL),
    };
    for model in fit {
        let mut session = on_model(context, model, tests)?;
        finish(&mut session, tests).with_context(|| (*model).to_owned())?;
    }
    for (model, sentence) in unfit {
        let mut session = on_model(context, model, tests)?;
        session
            .expect(sentence, SOON)
            .and_then(|_| session.expect("stopped", SOON))
            .with_context(|| (*model).to_owned())?;
    }
    Ok(Outcome::Passed)
}

fn usual_model(context: &Context) -> &'static str {
    match context.emulator {
        Emulator::Qemu => qemu::CPU_MODEL,
        Emulator::Bochs => bochs::CPU_MODEL,
    }
}

fn on_model(context: &Context, model: &str, tests: &str) -> Result<Session> {
    let mut machine = quiet_machine(context, tests, 2)?;
    model.clone_into(&mut machine.cpu_model);
    let log = context.log(model);
    Ok(Session::new(machine.start(context.layout, &log)?))
}

pub(super) fn devices(context: &Context) -> Result<Outcome> {
    hold(
        context,
        "ioapic_forms,string_io,string_endless,code_edges,moving_code",
        2,
    )
}

pub(super) fn isolation(context: &Context) -> Result<Outcome> {
    hold(context, "memory,holes,page_tables", 2)
}

pub(super) fn hypercalls(context: &Context) -> Result<Outcome> {
    hold(context, "hypercall_policy,hypercall_fuzz", 2)
}

/// The second start finds both CPUs, too.
pub(super) fn offline(context: &Context) -> Result<Outcome> {
    if context.bare {
        return hold(context, "offline", 2);
    }
    let machine = machine(context, "offline,wait", 2)?;
    let log = context.log("offline");
    let mut session = Session::new(machine.start(context.layout, &log)?);
    passes_offline(&mut session)?;
    session.to_hypervisor()?;
    session.hypervisor_command("vm_reset 0")?;
    session.expect("has CPU 1 again", SOON)?;
    ensure!(session.show(0)?, "the Service VM has no console");
    passes_offline(&mut session)?;
    Ok(Outcome::Passed)
}

fn passes_offline(session: &mut Session) -> Result<()> {
    let said = session.expect("waiting for a key", LIMIT)?;
    ensure!(said.contains("PASS offline"), "not passed:\n{said}");
    Ok(())
}

pub(super) fn rings(context: &Context) -> Result<Outcome> {
    hold(context, "rings,observer", 2)
}

pub(super) fn chaos(context: &Context) -> Result<Outcome> {
    for cpus in [1, 4] {
        let tests = "startup_storm,chaos,smp,ipi";
        let outcome = hold(context, tests, cpus).with_context(|| format!("{cpus} CPUs"))?;
        if outcome != Outcome::Passed {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Passed)
}

pub(super) fn user_vms(context: &Context) -> Result<Outcome> {
    let tests = "vm_life,vm_lending,vm_fault,vm_slots,vm_scattered";
    match (hold(context, tests, 2)?, context.emulator) {
        // What QEMU enters the guest with is a fault of the guest later.
        (Outcome::Passed, Emulator::Bochs) => refused_entry(context),
        (outcome, _) => Ok(outcome),
    }
}

/// The hypervisor says which check of the processor a state has failed.
fn refused_entry(context: &Context) -> Result<Outcome> {
    let mut session = start(context, "vm_refused", 2, false)?;
    let said = session.expect("micro-guest: end", LIMIT)?;
    for wanted in [
        "VM entry refused: guest PDPTE0",
        "reserved bits are set",
        "27.3.1.6",
        "PASS vm_refused",
    ] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(Outcome::Passed)
}

/// The image, built once.
fn kernel(context: &Context) -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let path = image::micro_guest(context.layout)?.flat;
    Ok(built.insert(path).clone())
}

/// A machine whose Service VM runs the tests, separated by commas.
pub(super) fn machine(context: &Context, tests: &str, cpus: u32) -> Result<Machine> {
    let kernel = kernel(context)?;
    let boot = Boot::Direct(BootSet {
        hypervisor: context.artefacts.hypervisor.flat.clone(),
        hypervisor_args: String::new(),
        kernel,
        kernel_args: format!("test={tests}"),
        ..BootSet::default()
    });
    let mut machine = Machine::on(context.emulator, boot);
    machine.cpus = cpus;
    machine.memory_mib = 1024;
    if context.emulator == Emulator::Qemu {
        let exit_device = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
        machine.extra = exit_device.map(str::to_owned).to_vec();
    }
    Ok(machine)
}

/// A machine whose hypervisor says little: messages would cut into the lines of the micro-guest.
pub(super) fn quiet_machine(context: &Context, tests: &str, cpus: u32) -> Result<Machine> {
    let mut machine = machine(context, tests, cpus)?;
    if let Boot::Direct(set) = &mut machine.boot {
        "loglevel=1".clone_into(&mut set.hypervisor_args);
    }
    Ok(machine)
}

pub(super) fn start(context: &Context, tests: &str, cpus: u32, quiet: bool) -> Result<Session> {
    let first = tests.split(',').next().unwrap_or(tests);
    let log = context.log(&format!("{first}-{cpus}"));
    let machine = if quiet {
        quiet_machine(context, tests, cpus)?
    } else {
        machine(context, tests, cpus)?
    };
    Ok(Session::new(machine.start(context.layout, &log)?))
}

pub(super) fn without_hypervisor() -> Outcome {
    Outcome::Skipped("there is no hypervisor to test (--bare)".into())
}

/// Runs the tests, each of which has to pass.
fn hold(context: &Context, tests: &str, cpus: u32) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let mut session = start(context, tests, cpus, true)?;
    finish(&mut session, tests)?;
    Ok(Outcome::Passed)
}

/// Waits for the end of the tests and judges what they said.
fn finish(session: &mut Session, tests: &str) -> Result<()> {
    let ends = ["micro-guest: end", "the Service VM is gone"];
    let found = session.wait(&ends, LIMIT)?;
    let said = found.before;
    ensure!(found.index == 0, "the Service VM died:\n{said}");
    let failures: Vec<_> = said.lines().filter(|l| l.starts_with("FAIL")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    for test in tests.split(',') {
        let line = format!("PASS {test}");
        ensure!(said.lines().any(|l| l == line), "{test} did not report");
    }
    end(session)
}

/// The end of the emulator, where the micro-guest can bring it about.
fn end(session: &mut Session) -> Result<()> {
    if session.vm.emulator() == Emulator::Qemu {
        let status = session.vm.wait_for_exit(POWER_OFF)?;
        ensure!(
            status.code() == Some(ALL_HELD),
            "a test failed: QEMU ended with {status}"
        );
    }
    Ok(())
}

/// The figures of the shell's `mem` before and after ten thousand User VMs.
pub(super) fn cycles(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let [before, after] = memory_around(context, "vm_cycles", usual_model(context))?;
    ensure!(
        before == after && before.contains("vm0 keeps"),
        "memory before:\n{before}\nand after:\n{after}"
    );
    Ok(Outcome::Passed)
}

/// Creations that fail at each step for want of a table frame leave the memory as it was.
pub(super) fn no_frames(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let [before, after] = memory_around(context, "vm_no_frames", usual_model(context))?;
    ensure!(
        before == after && before.contains("vm0 keeps"),
        "memory before:\n{before}\nand after:\n{after}"
    );
    Ok(Outcome::Passed)
}

/// Table frames stay with other VMs however many addresses the Service VM touches, with large
/// pages and without.
pub(super) fn device_memory(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let without_large_pages = match context.emulator {
        Emulator::Qemu => "EPYC,-pdpe1gb",
        Emulator::Bochs => "corei7_sandy_bridge_2600k",
    };
    for model in [usual_model(context), without_large_pages] {
        let [before, after] = memory_around(context, "device_memory,vm_life", model)?;
        let (before, after) = (frames_used(&before)?, frames_used(&after)?);
        ensure!(
            after < before + 256,
            "{model}: {before} table frames before, {after} after"
        );
    }
    Ok(Outcome::Passed)
}

/// The first number of the line about frames.
fn frames_used(memory: &str) -> Result<u64> {
    let line = memory.lines().find_map(|l| l.split_once("frames: "));
    let number = line.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    number.with_context(|| format!("no count of table frames in:\n{memory}"))
}

/// What the shell's `mem` says before and after a test.
fn memory_around(context: &Context, test: &str, model: &str) -> Result<[String; 2]> {
    let tests = format!("wait,{test},wait");
    let mut session = on_model(context, model, &tests)?;
    let mut figures = [String::new(), String::new()];
    for memory in &mut figures {
        session.expect("waiting for a key", LIMIT * 2)?;
        session.to_hypervisor()?;
        *memory = session.hypervisor_command("mem")?;
        ensure!(session.show(0)?, "vm0 has no console");
        session.vm.console.send(b"x")?;
        session.expect("PASS wait", SOON)?;
    }
    let said = session.expect("micro-guest: end", SOON)?;
    ensure!(!said.contains("FAIL"), "{said}");
    end(&mut session)?;
    Ok(figures)
}

/// Ways in which a VM cannot go on: it ends, and the hypervisor's shell answers.
pub(super) fn fatal(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    for (test, reason) in [
        ("tables_in_mmio", "page tables where the VM has no memory"),
        ("code_in_mmio", "page tables where the VM has no memory"),
        (
            "tables_in_hypervisor",
            "page tables where the VM has no memory",
        ),
        ("tables_in_rom", ""),
        (
            "idt_in_hypervisor",
            "interrupt tables or stack where the VM has no memory",
        ),
        (
            "gdt_in_hypervisor",
            "interrupt tables or stack where the VM has no memory",
        ),
        (
            "stack_in_mmio",
            "interrupt tables or stack where the VM has no memory",
        ),
        ("triple_fault", "triple fault"),
    ] {
        survives(context, test, reason).with_context(|| test.to_owned())?;
    }
    Ok(Outcome::Passed)
}

fn survives(context: &Context, test: &str, reason: &str) -> Result<()> {
    let mut session = start(context, test, 2, true)?;
    session.expect(reason, SOON)?;
    session.expect("the Service VM is gone", SOON)?;
    session.expect(HYPERVISOR_PROMPT, SOON)?;
    // The other CPU takes a moment to stop its vCPU.
    let deadline = Instant::now() + SOON;
    loop {
        let vcpus = session.hypervisor_command("vcpu_list")?;
        if vcpus.matches("stopped").count() == 2 {
            break;
        }
        ensure!(Instant::now() < deadline, "{vcpus}");
    }
    let vms = session.hypervisor_command("vm_list")?;
    ensure!(vms.contains("paused"), "{vms}");
    let registers = session.hypervisor_command("vcpu_dumpreg 0 0")?;
    ensure!(registers.contains("waits for stopped"), "{registers}");
    let msr = session.hypervisor_command("rdmsr -p1 1b")?;
    ensure!(msr.contains("CPU 1 MSR 0x1b: 0x"), "{msr}");
    session.vm.console.send_line("poweroff")?;
    session.vm.wait_for_end(POWER_OFF)?;
    Ok(())
}
