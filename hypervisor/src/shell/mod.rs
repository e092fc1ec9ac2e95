//! The shell on the serial console: takes what is typed and carries commands out.
//!
//! It runs in the loop of the first CPU, between two vCPUs, so a long answer delays that CPU's
//! guests and nobody else. What belongs to another CPU is asked for through [`work`]. A log line
//! takes the line being typed off the screen and puts it back below itself ([`hide_line`]).

mod configuration;
mod dump;
mod guests;
mod ioapic;
mod machine;
mod memory;
pub mod work;

use crate::console::{self, Out};
use crate::{config, power};
use acrn_abi::VmId;
use acrn_config_blob::ShellMode;
use acrn_lifecycle::VmState;
use acrn_shell::{COMMANDS, Command, Help, LineEditor, Mode, PROMPT};
use core::fmt::Write;
use spin::{Mutex, MutexGuard};

/// The line being typed, and whether the screen shows it.
struct Screen {
    editor: LineEditor,
    shown: bool,
}

static SCREEN: Mutex<Screen> = Mutex::new(Screen {
    editor: LineEditor::new(),
    shown: false,
});

/// Whether the configuration lets the shell be used.
pub fn is_on() -> bool {
    config::setup().shell() != ShellMode::Off
}

/// Says that the shell is off.
pub fn refuse() {
    say(format_args!(
        "\r\nthe configuration has switched the hypervisor's shell off"
    ));
}

/// What the operator may do.
fn mode() -> Mode {
    match config::setup().shell() {
        ShellMode::Full => Mode::Full,
        ShellMode::ReadOnly | ShellMode::Off => Mode::ReadOnly,
    }
}

/// Shows the prompt on a line of its own.
pub fn prompt() {
    if !is_on() {
        refuse();
        return;
    }
    let _ = Out.write_str("\r\n");
    show(&mut SCREEN.lock());
}

fn show(screen: &mut Screen) {
    screen.shown = true;
    let _ = write!(Out, "{PROMPT} {}", screen.editor.text());
}

/// Takes a typed byte.
pub fn input(byte: u8) {
    if !is_on() {
        return;
    }
    let mut screen = SCREEN.lock();
    let line = screen.editor.push(byte, &mut |byte| {
        let _ = Out.write_char(char::from(byte));
    });
    let Some(line) = line else { return };
    // Free while the command runs: it may log.
    screen.shown = false;
    drop(screen);
    let stays = match Command::parse(&line, mode()) {
        None => true,
        Some(Ok(command)) => execute(command),
        Some(Err(error)) => {
            say(format_args!("{error}"));
            true
        }
    };
    if stays {
        show(&mut SCREEN.lock());
    }
}

/// Keeps the line being typed off the screen while it lives.
pub struct Hidden(MutexGuard<'static, Screen>);

/// Makes room for a log line.
pub fn hide_line() -> Hidden {
    let screen = SCREEN.lock();
    if screen.shown {
        let _ = write!(
            Out,
            "\r{:1$}\r",
            "",
            PROMPT.len() + 1 + screen.editor.text().len()
        );
    }
    Hidden(screen)
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.0.shown {
            show(&mut self.0);
        }
    }
}

/// One line of an answer.
fn say(text: core::fmt::Arguments<'_>) {
    let _ = write!(Out, "{text}\r\n");
}

/// Carries a command out; `false` when the console is no longer the shell's.
fn execute(command: Command) -> bool {
    match command {
        Command::Help(None) => {
            let mode = mode();
            let usable = COMMANDS.iter().filter(|help| help.is_in(mode, false));
            usable.for_each(|help| say(format_args!("{help}")));
            say(format_args!(
                "Tab completes a command, the arrow keys edit and recall, Ctrl-C forgets the line."
            ));
        }
        Command::Help(Some(help)) => explain(help),
        Command::Version => machine::version(),
        Command::VmList => guests::list_vms(),
        Command::VcpuList => guests::list_vcpus(),
        Command::VcpuDumpreg(vm, vcpu) => guests::registers(vm, vcpu),
        Command::VmConsole(vm) => return !attach(vm),
        Command::VmPause(vm) => guests::pause(vm),
        Command::VmResume(vm) => guests::resume(vm),
        Command::VmReset(vm) => guests::reset(vm),
        Command::VmShutdown(vm) => guests::shutdown(vm),
        Command::VmStart(vm) => guests::start(vm),
        Command::Interrupts => machine::interrupts(),
        Command::PassThrough => machine::pass_through(),
        Command::Iommu => machine::iommu(),
        Command::Vioapic(vm) => ioapic::guest(vm),
        Command::Exits(vm) => guests::exits(vm),
        Command::Memory => memory::show(),
        Command::Config => configuration::show(),
        Command::Log => crate::log::replay(|byte| {
            let _ = Out.write_char(char::from(byte));
        }),
        Command::Loglevel(None) => say(format_args!("{}", crate::log::level())),
        Command::Loglevel(Some(level)) => crate::log::set_level(level),
        Command::Cpuid { leaf, subleaf } => machine::cpuid(leaf, subleaf),
        Command::ReadMsr { cpu, msr } => machine::read_msr(cpu, msr),
        Command::WriteMsr { cpu, msr, value } => machine::write_msr(cpu, msr, value),
        Command::HostIoapic => ioapic::host(),
        Command::Dump { from, length } => dump::show(from, length),
        Command::Trace(vm) => {
            crate::stats::dump_last_exits(&mut Out, |id| vm.is_none_or(|v| v == id));
        }
        Command::Reboot => {
            guests::stop_all();
            power::reboot()
        }
        Command::Poweroff => {
            guests::stop_all();
            power::off()
        }
    }
    true
}

fn explain(help: &Help) {
    let _ = help.usage(&mut Out);
    say(format_args!(": {}", help.text));
}

/// Gives the console to a VM; says why not when it has none.
fn attach(id: VmId) -> bool {
    let Some(vm) = guests::existing(id) else {
        return false;
    };
    if !vm.uart.lock().is_there() {
        let state = *vm.state.lock();
        let hint = match state {
            VmState::Created => "its Device Model is still at work; try again",
            _ => "`acrn-dm -l com1,hv` gives it one",
        };
        say(format_args!("vm{id} has no console UART; {hint}"));
        return false;
    }
    say(format_args!(
        "console of vm{id} ({}); Ctrl-Space, then e, comes back here",
        vm.name()
    ));
    console::attach(id);
    true
}
