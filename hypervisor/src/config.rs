//! The configuration: taken from the boot module once, and what is in force from then on.
//!
//! The module is copied into the pool, so that its memory can become the Service VM's, and is parsed
//! when the machine is known and before the first VM is made. What it means is decided by the
//! `acrn-config-use` crate.

use crate::arch::tsc;
use crate::{log, memory, pci, percpu};
use acrn_abi::{Bdf, Hpa, PcpuId};
use acrn_boot::BootInfo;
use acrn_boot::cmdline::{Options, Uart};
use acrn_config_blob::{Config, Machine};
use acrn_config_use::{MAX_SIZE, Refusal, Setup, without_effect};
use acrn_memory::MemoryKind;
use acrn_sched::Policy;
use core::fmt::Arguments;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

static SETUP: Once<Setup<'static>> = Once::new();
/// The command line has chosen the console, so the configuration's does not count.
static UART_CHOSEN: AtomicBool = AtomicBool::new(false);

/// What is in force; the safe default until it is known.
pub fn setup() -> &'static Setup<'static> {
    static UNKNOWN: Setup<'static> = Setup::Default(Refusal::Absent);
    SETUP.get().unwrap_or(&UNKNOWN)
}

/// How vCPUs share a CPU; asked when the rate of the clock is known.
pub fn policy(cpu: PcpuId) -> Policy {
    setup().policy(cpu, tsc::from_ms(1))
}

/// Takes the boot module, says what came of it, and lets the options take effect.
pub fn load(info: &BootInfo, options: &Options<'_>) {
    let setup = SETUP.call_once(|| Setup::judge(take(info), &ThisMachine, options.strict));
    UART_CHOSEN.store(options.uart != Uart::Unspecified, Ordering::Relaxed);
    match setup {
        Setup::Configured(config) => put_in_force(config, options),
        // The usual case, in few characters: a serial line takes 0.1 ms for each.
        Setup::Default(Refusal::Absent) => {
            let tag = acrn_abi::module_tag::CONFIG;
            info!("no boot module has the tag {tag}: a Service VM alone");
        }
        Setup::Default(reason) => {
            error!("{reason}; the safe default is used, a Service VM alone");
        }
        Setup::Stopped(reason) => error!(
            "{reason}; the command line has config=strict: stopped, no VM is started, the shell stays"
        ),
    }
}

fn put_in_force(config: &Config<'_>, options: &Options<'_>) {
    info!(
        "configuration: scenario {}, board {}",
        config.board.scenario, config.board.name
    );
    for_each_without_effect(config, &mut |line| warning!("configuration: {line}"));
    log::set_memory_level(config.options.memory_log_level);
    if options.loglevel.is_none() {
        log::set_level(config.options.console_log_level);
    }
}

/// Gives each part of the configuration that has no effect, in words, to `say`.
pub fn for_each_without_effect(config: &Config<'_>, say: &mut dyn FnMut(Arguments<'_>)) {
    without_effect(config, UART_CHOSEN.load(Ordering::Relaxed), say);
    let slots = crate::vm::MAX_VMS;
    let beyond = |vm: &acrn_config_blob::Vm<'_>| {
        setup()
            .slot(vm)
            .is_some_and(|slot| usize::from(slot) >= slots)
    };
    for vm in config.vms.iter().filter(beyond) {
        say(format_args!(
            "VM {}: there are {slots} VMs at most; it cannot be started",
            vm.name
        ));
    }
}

/// The module's bytes, copied into the pool.
fn take(info: &BootInfo) -> Result<&'static [u8], Refusal> {
    let module = info.config().ok_or(Refusal::Absent)?;
    let size = module.size();
    if size > MAX_SIZE {
        return Err(Refusal::TooLarge { size });
    }
    let bytes = memory::boot_bytes(size).ok_or(Refusal::NoMemory { size })?;
    if !memory::read_guest(module.start, bytes) {
        return Err(Refusal::NoMemory { size });
    }
    Ok(bytes)
}

/// The machine as it was found.
struct ThisMachine;

impl Machine for ThisMachine {
    fn cpus(&self) -> usize {
        percpu::all().len()
    }

    fn apic_id(&self, cpu: PcpuId) -> Option<u32> {
        let found = percpu::all().get(cpu.index())?;
        Some(found.apic_id.load(Ordering::Relaxed))
    }

    fn pci_id(&self, bdf: Bdf) -> Option<(u16, u16)> {
        pci::id(bdf)
    }

    fn is_ram(&self, start: Hpa, size: u64) -> bool {
        let guard = memory::HOST_MAP.lock();
        let Some(end) = start.checked_add(size) else {
            return false;
        };
        let mut blocks = guard.iter().flat_map(|map| map.iter());
        blocks.any(|block| {
            block.kind == MemoryKind::Usable && block.start <= start && end <= block.end
        })
    }
}
