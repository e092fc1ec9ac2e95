//! Rules about CPUs.

use super::{Context, Hits, Rule, error, vm_path, warning};
use crate::scenario::Vm;
use acrn_config_blob::{LoadOrder, MAX_CPUS, Scheduler, VmKind};

pub(super) const RULES: &[Rule] = &[
    error(
        "board-cpus",
        "the CPUs of the board file are numbered 0, 1, 2 … up to 63 at most",
        "inspect the board again with all CPUs online",
        board_cpus,
    ),
    error(
        "cpu-exists",
        "a VM's CPUs are CPUs of the board",
        "use numbers of CPUs from the board file: consecutive from 0, no APIC ids",
        cpu_exists,
    ),
    error(
        "cpu-twice",
        "a VM names a CPU once",
        "remove one of the two",
        cpu_twice,
    ),
    error(
        "vm-has-cpu",
        "each pre-launched and post-launched VM has a CPU",
        "add a pcpu to cpu_affinity",
        vm_has_cpu,
    ),
    error(
        "service-vm-has-cpu",
        "pre-launched VMs leave a CPU for the Service VM",
        "take a CPU from a pre-launched VM",
        service_vm_has_cpu,
    ),
    error(
        "rtvm-cpu-alone",
        "no other pre-launched or post-launched VM uses a real-time VM's CPUs",
        "give the other VM another CPU",
        rtvm_alone,
    ),
    error(
        "own-cpu-alone",
        "no other VM uses the CPUs of a VM with own_pcpu",
        "give the other VM another CPU, or set own_pcpu to n",
        own_alone,
    ),
    error(
        "cpu-kinds",
        "a VM's CPUs are either performance or efficiency cores",
        "choose CPUs of one kind",
        cpu_kinds,
    ),
    error(
        "rtvm-not-on-cpu-0",
        "CPU 0 is not for real-time VMs",
        "give the VM another CPU: CPU 0 serves the firmware and the hypervisor's own work",
        rtvm_not_on_cpu_0,
    ),
    warning(
        "vuart-timer-cpu",
        "VUART_TIMER_PCPU is not a CPU of a VM with passed-through local APICs",
        "choose a CPU of another VM",
        vuart_timer_cpu,
    ),
    error(
        "option-cpu-exists",
        "CPUs that options of the hypervisor name are CPUs of the board, and named once",
        "use numbers of CPUs from the board file",
        option_cpus,
    ),
    warning(
        "noop-cpu-alone",
        "a CPU with the scheduler SCHED_NOOP runs one VM",
        "choose another scheduler for that CPU, or other CPUs for one of the VMs",
        noop_alone,
    ),
];

/// Each VM's CPUs, with their places.
fn each_cpu<'c>(c: &'c Context<'_>) -> impl Iterator<Item = (usize, &'c Vm, usize, i64)> {
    let vms = c.scenario.vms.iter().enumerate();
    vms.filter(|(_, vm)| vm.load_order != LoadOrder::Service)
        .flat_map(|(index, vm)| {
            let cpus = vm.cpu_affinity.pcpus.iter().enumerate();
            cpus.map(move |(place, pcpu)| (index, vm, place, pcpu.id))
        })
}

fn path(vm: usize, place: usize) -> String {
    format!("{}/cpu_affinity/pcpu[{}]/pcpu_id", vm_path(vm), place + 1)
}

fn on_board(c: &Context<'_>, cpu: i64) -> bool {
    c.cpus.iter().any(|known| i64::from(known.id) == cpu)
}

fn board_cpus(c: &Context<'_>, hits: &mut Hits) {
    let ids: Vec<_> = c.cpus.iter().map(|cpu| usize::from(cpu.id)).collect();
    if ids.is_empty() || ids.len() > MAX_CPUS || !ids.iter().copied().eq(0..ids.len()) {
        hits.add("", format!("the board file has the CPUs {ids:?}"));
    }
}

fn cpu_exists(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm, place, cpu) in each_cpu(c).filter(|&(.., cpu)| !on_board(c, cpu)) {
        let message = format!(
            "VM {} wants CPU {cpu}, the board has {}",
            vm.name,
            c.cpus.len()
        );
        hits.add(path(index, place), message);
    }
}

fn cpu_twice(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm, place, cpu) in each_cpu(c) {
        if vm
            .cpu_affinity
            .pcpus
            .iter()
            .take(place)
            .any(|before| before.id == cpu)
        {
            hits.add(
                path(index, place),
                format!("VM {} names CPU {cpu} twice", vm.name),
            );
        }
    }
}

fn vm_has_cpu(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        if vm.load_order != LoadOrder::Service && vm.cpu_affinity.pcpus.is_empty() {
            hits.add(
                vm_path(index) + "/cpu_affinity",
                format!("VM {} has no CPU", vm.name),
            );
        }
    }
}

fn service_vm_has_cpu(c: &Context<'_>, hits: &mut Hits) {
    let taken = |cpu: i64| {
        each_cpu(c).any(|(_, vm, _, id)| vm.load_order == LoadOrder::PreLaunched && id == cpu)
    };
    for (index, vm) in c.scenario.vms_of(LoadOrder::Service) {
        if c.cpus.iter().all(|cpu| taken(cpu.id.into())) {
            hits.add(
                vm_path(index),
                format!("pre-launched VMs leave no CPU for VM {}", vm.name),
            );
        }
    }
}

/// Reports CPUs of VMs that `owns` picks and that another VM uses too.
fn alone(c: &Context<'_>, hits: &mut Hits, owns: fn(&Vm) -> bool, called: &str) {
    for (index, vm, place, cpu) in each_cpu(c).filter(|(_, vm, ..)| owns(vm)) {
        // Of two owners, the later one is reported.
        let other = each_cpu(c)
            .filter(|&(other, user, ..)| other != index && (other < index || !owns(user)))
            .find(|&(.., id)| id == cpu);
        if let Some((_, user, ..)) = other {
            let message = format!(
                "CPU {cpu} of {called} VM {} is used by VM {} too",
                vm.name, user.name
            );
            hits.add(path(index, place), message);
        }
    }
}

fn rtvm_alone(c: &Context<'_>, hits: &mut Hits) {
    alone(c, hits, |vm| vm.kind == VmKind::RealTime, "real-time");
}

fn own_alone(c: &Context<'_>, hits: &mut Hits) {
    alone(c, hits, |vm| vm.own_pcpu, "exclusive");
}

fn cpu_kinds(c: &Context<'_>, hits: &mut Hits) {
    let kind = |id: i64| {
        c.cpus
            .iter()
            .find(|cpu| i64::from(cpu.id) == id)
            .map(|cpu| &cpu.kind)
    };
    for (index, vm, place, cpu) in each_cpu(c) {
        let first = vm
            .cpu_affinity
            .pcpus
            .first()
            .and_then(|first| kind(first.id));
        if let (Some(first), Some(this)) = (first, kind(cpu)) {
            if first != this {
                let message = format!("VM {} has CPUs of the kinds {first} and {this}", vm.name);
                hits.add(path(index, place), message);
            }
        }
    }
}

fn rtvm_not_on_cpu_0(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm, place, cpu) in each_cpu(c) {
        if vm.kind == VmKind::RealTime && cpu == 0 {
            hits.add(
                path(index, place),
                format!("real-time VM {} is on CPU 0", vm.name),
            );
        }
    }
}

fn vuart_timer_cpu(c: &Context<'_>, hits: &mut Hits) {
    let timer = c.scenario.hv.features.vuart_timer_pcpu;
    if let Some((_, vm, ..)) =
        each_cpu(c).find(|(_, vm, _, cpu)| vm.lapic_passthrough && *cpu == timer)
    {
        let message = format!(
            "CPU {timer} belongs to VM {}, which drives its local APIC itself",
            vm.name
        );
        hits.add("hv/FEATURES/VUART_TIMER_PCPU", message);
    }
}

fn option_cpus(c: &Context<'_>, hits: &mut Hits) {
    let features = &c.scenario.hv.features;
    if !on_board(c, features.vuart_timer_pcpu) {
        let message = format!("the board has no CPU {}", features.vuart_timer_pcpu);
        hits.add("hv/FEATURES/VUART_TIMER_PCPU", message);
    }
    let choices = &features.cpu_schedulers.list;
    for (index, choice) in choices.iter().enumerate() {
        let twice = choices
            .iter()
            .take(index)
            .any(|before| before.pcpu == choice.pcpu);
        let path = format!(
            "hv/FEATURES/CPU_SCHEDULERS/CPU_SCHEDULER[{}]/PCPU_ID",
            index + 1
        );
        if twice {
            hits.add(path, format!("CPU {} has a scheduler already", choice.pcpu));
        } else if !on_board(c, choice.pcpu) {
            hits.add(path, format!("the board has no CPU {}", choice.pcpu));
        }
    }
}

fn noop_alone(c: &Context<'_>, hits: &mut Hits) {
    let features = &c.scenario.hv.features;
    for cpu in &c.cpus {
        let id = i64::from(cpu.id);
        let choice = features
            .cpu_schedulers
            .list
            .iter()
            .find(|choice| choice.pcpu == id);
        let scheduler = choice.map_or(features.scheduler, |choice| choice.scheduler);
        let mut users = each_cpu(c).filter(|&(.., used)| used == id);
        let (first, second) = (users.next(), users.next());
        if let (Scheduler::Noop, Some((_, one, ..)), Some((index, two, place, _))) =
            (scheduler, first, second)
        {
            let message = format!(
                "CPU {id} has the scheduler SCHED_NOOP and the VMs {} and {}",
                one.name, two.name
            );
            hits.add(path(index, place), message);
        }
    }
}
