//! The command about the configuration.

use super::say;
use crate::console::Out;
use crate::{config, log, percpu};
use acrn_abi::module_tag;
use acrn_config_blob::{Config, Vm};
use acrn_config_use::Setup;
use core::fmt::Write;

pub(super) fn show() {
    let setup = config::setup();
    match setup {
        Setup::Configured(config) => say(format_args!(
            "in force: boot module {}, scenario {}, board {}",
            module_tag::CONFIG,
            config.board.scenario,
            config.board.name
        )),
        Setup::Default(reason) => {
            say(format_args!(
                "in force: the safe default, a Service VM alone"
            ));
            say(format_args!("refused: {reason}"));
        }
        Setup::Stopped(reason) => {
            say(format_args!(
                "in force: nothing, config=strict; no VM is started"
            ));
            say(format_args!("refused: {reason}"));
        }
    }
    say(format_args!(
        "log level {} on the console, {} in memory; shell {}",
        log::level(),
        log::memory_level(),
        setup.shell()
    ));
    for cpu in percpu::all() {
        say(format_args!(
            "CPU {}: {}",
            cpu.id(),
            setup.scheduler(cpu.id())
        ));
    }
    if let Some(config) = setup.config() {
        list_vms(setup, config);
        config::for_each_without_effect(config, &mut |line| {
            say(format_args!("no effect: {line}"));
        });
    }
}

fn list_vms(setup: &Setup<'_>, config: &Config<'_>) {
    let service = config.service_vm().map(|vm| vm.id);
    for vm in config.vms.iter() {
        let _ = match setup.slot(&vm) {
            Some(slot) => write!(Out, "vm{slot}"),
            None if Some(vm.id) == service => write!(Out, "vm0"),
            None => write!(Out, "-"),
        };
        say(format_args!(
            " {} ({}): CPUs {:#x}, {}",
            vm.name,
            vm.load_order,
            vm.cpu_mask(),
            Share(&vm)
        ));
    }
}

/// A VM's share of a CPU.
struct Share<'a>(&'a Vm<'a>);

impl core::fmt::Display for Share<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let share = &self.0.scheduling;
        write!(f, "weight {}, priority {}", share.weight, share.priority)?;
        if share.warp_value == 0 {
            return Ok(());
        }
        write!(
            f,
            ", warp {} for {} of {}",
            share.warp_value, share.warp_limit, share.unwarp_period
        )
    }
}
