//! The list of commands, which drives both `help` and the usage shown with an error.

use core::fmt;

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Help {
    /// First word.
    pub name: &'static str,
    /// The other words; optional ones in brackets.
    pub args: &'static str,
    /// What it does.
    pub text: &'static str,
    /// Whether it only looks.
    pub effect: Effect,
}

/// What a command does to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only shows something.
    Looks,
    /// Without arguments it only shows something.
    LooksAlone,
    /// It changes something.
    Changes,
}

/// What the operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Full,
    /// Look only.
    ReadOnly,
}

impl Help {
    /// The entry of a command.
    pub fn of(name: &str) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.name == name)
    }

    /// Whether a mode has the command, with arguments or without.
    pub fn is_in(&self, mode: Mode, arguments: bool) -> bool {
        let looks = match self.effect {
            Effect::Looks => true,
            Effect::LooksAlone => !arguments,
            Effect::Changes => false,
        };
        looks || mode == Mode::Full
    }

    /// Writes name and arguments.
    pub fn usage(&self, to: &mut impl fmt::Write) -> fmt::Result {
        let space = if self.args.is_empty() { "" } else { " " };
        write!(to, "{}{space}{}", self.name, self.args)
    }
}

/// As one line of the list that `help` prints.
impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<15} {:<20} {}", self.name, self.args, self.text)
    }
}

/// All commands.
pub const COMMANDS: [Help; 30] = [
    Help {
        name: "help",
        args: "[COMMAND]",
        text: "list the commands, or explain one",
        effect: Effect::Looks,
    },
    Help {
        name: "version",
        args: "",
        text: "version of the hypervisor",
        effect: Effect::Looks,
    },
    Help {
        name: "vm_list",
        args: "",
        text: "VMs with their state",
        effect: Effect::Looks,
    },
    Help {
        name: "vcpu_list",
        args: "",
        text: "vCPUs with their CPU and state",
        effect: Effect::Looks,
    },
    Help {
        name: "vcpu_dumpreg",
        args: "VM VCPU",
        text: "registers and stack of a vCPU",
        effect: Effect::Looks,
    },
    Help {
        name: "vm_console",
        args: "[VM]",
        text: "console of a VM (default 0); Ctrl-@ e leaves it",
        effect: Effect::Looks,
    },
    Help {
        name: "vm_pause",
        args: "VM",
        text: "stop the vCPUs of a VM",
        effect: Effect::Changes,
    },
    Help {
        name: "vm_resume",
        args: "VM",
        text: "let a paused VM continue",
        effect: Effect::Changes,
    },
    Help {
        name: "vm_reset",
        args: "VM",
        text: "reset a VM; that of a Device Model asks that to do it",
        effect: Effect::Changes,
    },
    Help {
        name: "vm_shutdown",
        args: "VM",
        text: "press the power button of a VM, or ask its Device Model to switch it off",
        effect: Effect::Changes,
    },
    Help {
        name: "vm_start",
        args: "VM",
        text: "start a VM again that the hypervisor has started and that is off",
        effect: Effect::Changes,
    },
    Help {
        name: "int",
        args: "",
        text: "host interrupts and their counts on each CPU",
        effect: Effect::Looks,
    },
    Help {
        name: "pt",
        args: "",
        text: "interrupts of passed-through devices",
        effect: Effect::Looks,
    },
    Help {
        name: "iommu",
        args: "",
        text: "IOMMUs, what devices may reach, and refused DMA",
        effect: Effect::Looks,
    },
    Help {
        name: "vioapic",
        args: "VM",
        text: "I/O APIC of a VM",
        effect: Effect::Looks,
    },
    Help {
        name: "dump_ioapic",
        args: "",
        text: "I/O APICs of the host",
        effect: Effect::Looks,
    },
    Help {
        name: "exits",
        args: "[VM]",
        text: "VM exits by reason, of one VM or all",
        effect: Effect::Looks,
    },
    Help {
        name: "mem",
        args: "",
        text: "whose each range of host memory is, and use of the pools",
        effect: Effect::Looks,
    },
    Help {
        name: "config",
        args: "",
        text: "the configuration in force, and what has no effect",
        effect: Effect::Looks,
    },
    Help {
        name: "log",
        args: "",
        text: "recent log lines",
        effect: Effect::Looks,
    },
    Help {
        name: "loglevel",
        args: "[LEVEL]",
        text: "show or set what is logged, 0 (none) to 6 (all)",
        effect: Effect::LooksAlone,
    },
    Help {
        name: "cpuid",
        args: "LEAF [SUBLEAF]",
        text: "CPUID of the host (hexadecimal)",
        effect: Effect::Looks,
    },
    Help {
        name: "rdmsr",
        args: "[-pCPU] MSR",
        text: "read a host register (hexadecimal)",
        effect: Effect::Looks,
    },
    Help {
        name: "wrmsr",
        args: "[-pCPU] MSR VALUE",
        text: "write a host register (hexadecimal)",
        effect: Effect::Changes,
    },
    Help {
        name: "dump",
        args: "VM GPA [LENGTH]",
        text: "memory of a VM by guest physical address",
        effect: Effect::Looks,
    },
    Help {
        name: "dump_guest_mem",
        args: "VM GVA [LENGTH]",
        text: "memory of a VM by the linear address of its vCPU 0",
        effect: Effect::Looks,
    },
    Help {
        name: "dump_host_mem",
        args: "HPA [LENGTH]",
        text: "memory of the host",
        effect: Effect::Looks,
    },
    Help {
        name: "trace",
        args: "[VM]",
        text: "last exits of each vCPU",
        effect: Effect::Looks,
    },
    Help {
        name: "reboot",
        args: "",
        text: "reset the machine at once",
        effect: Effect::Changes,
    },
    Help {
        name: "poweroff",
        args: "",
        text: "switch the machine off at once",
        effect: Effect::Changes,
    },
];
