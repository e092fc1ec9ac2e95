//! Commands as data.

use crate::help::{Help, Mode};
use acrn_abi::{Gpa, Gva, Hpa, PcpuId, VcpuId, VmId};
use core::fmt;

/// Highest log level.
pub const MAX_LOGLEVEL: u8 = 6;
/// Most bytes that a dump shows.
pub const MAX_DUMP: u32 = 1024;
/// What a dump shows unless told.
pub const DEFAULT_DUMP: u32 = 64;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The list of commands, or one of them.
    Help(Option<&'static Help>),
    /// Version of the hypervisor.
    Version,
    /// VMs.
    VmList,
    /// vCPUs.
    VcpuList,
    /// Registers of a vCPU.
    VcpuDumpreg(VmId, VcpuId),
    /// Give the serial port to a VM.
    VmConsole(VmId),
    /// Stop a VM's vCPUs.
    VmPause(VmId),
    /// Let a paused VM continue.
    VmResume(VmId),
    /// Restart a VM.
    VmReset(VmId),
    /// Switch a VM off.
    VmShutdown(VmId),
    /// Start a VM that is off.
    VmStart(VmId),
    /// Host interrupts.
    Interrupts,
    /// Interrupts of passed-through devices.
    PassThrough,
    /// IOMMUs.
    Iommu,
    /// I/O APIC of a VM.
    Vioapic(VmId),
    /// I/O APICs of the host.
    HostIoapic,
    /// Exit counters of a VM, or of all.
    Exits(Option<VmId>),
    /// Owners of memory.
    Memory,
    /// The configuration.
    Config,
    /// Recent log lines.
    Log,
    /// Show the log level, or set it.
    Loglevel(Option<u8>),
    /// CPUID of the host.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// Read an MSR of the host.
    ReadMsr {
        /// Where; `None` for the CPU that runs the shell.
        cpu: Option<PcpuId>,
        /// Its number.
        msr: u32,
    },
    /// Write an MSR of the host.
    WriteMsr {
        /// Where; `None` for the CPU that runs the shell.
        cpu: Option<PcpuId>,
        /// Its number.
        msr: u32,
        /// What.
        value: u64,
    },
    /// Memory.
    Dump {
        /// First byte.
        from: DumpFrom,
        /// Bytes, 1 to [`MAX_DUMP`].
        length: u32,
    },
    /// Last exits of each vCPU of a VM, or of all.
    Trace(Option<VmId>),
    /// Reset the machine.
    Reboot,
    /// Switch the machine off.
    Poweroff,
}

/// Which memory is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpFrom {
    /// The host's.
    Host(Hpa),
    /// A VM's.
    Guest(VmId, Gpa),
    /// A VM's, as the page tables of its vCPU 0 say.
    Linear(VmId, Gva),
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<'a> {
    /// Nobody knows the first word.
    Unknown {
        /// The word.
        word: &'a str,
    },
    /// A word is not there.
    Missing {
        /// What is missing, as in the usage.
        argument: &'static str,
        /// The command.
        command: &'static Help,
    },
    /// A word cannot be understood.
    Bad {
        /// What it should be, as in the usage.
        argument: &'static str,
        /// The word.
        word: &'a str,
        /// What would be right.
        expected: &'static str,
        /// The command.
        command: &'static Help,
    },
    /// A word too many.
    Surplus {
        /// The word.
        word: &'a str,
        /// The command.
        command: &'static Help,
    },
    /// A command that changes something, where one may only look.
    ReadOnly {
        /// The command.
        command: &'static Help,
    },
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = match self {
            Self::Unknown { word } => {
                return write!(f, "unknown command `{word}`; try `help`");
            }
            Self::ReadOnly { command } => {
                let alone = if command.is_in(Mode::ReadOnly, false) {
                    " with arguments"
                } else {
                    ""
                };
                return write!(
                    f,
                    "`{}`{alone} changes something, and the configuration lets this shell look only",
                    command.name
                );
            }
            Self::Missing { argument, command } => {
                write!(f, "{argument} is missing")?;
                command
            }
            Self::Bad {
                argument,
                word,
                expected,
                command,
            } => {
                write!(f, "`{word}` is no {argument}: {expected} expected")?;
                command
            }
            Self::Surplus { word, command } => {
                write!(f, "`{word}` is too much")?;
                command
            }
        };
        f.write_str("; usage: ")?;
        command.usage(f)
    }
}

impl Command {
    /// Understands a line, as far as the mode has the command; `None` for an empty one. Words are
    /// separated by blanks or commas.
    pub fn parse(line: &str, mode: Mode) -> Option<Result<Self, Error<'_>>> {
        let mut words = Words { rest: line };
        let name = words.next()?;
        let arguments = { words }.next().is_some();
        Some(match Help::of(name) {
            Some(command) if !command.is_in(mode, arguments) => Err(Error::ReadOnly { command }),
            Some(command) => Args { words, command }.parse(),
            None => Err(Error::Unknown { word: name }),
        })
    }
}

/// The words of a line.
#[derive(Clone, Copy)]
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let separator = |c: char| c == ',' || c.is_ascii_whitespace();
        let start = self.rest.trim_start_matches(separator);
        let (word, rest) = start.split_once(separator).unwrap_or((start, ""));
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// The words after a command's name.
struct Args<'a> {
    words: Words<'a>,
    command: &'static Help,
}

const DECIMAL: &str = "a number";
const HEXADECIMAL: &str = "a hexadecimal number";

impl<'a> Args<'a> {
    fn parse(mut self) -> Result<Command, Error<'a>> {
        let command = match self.command.name {
            "help" => Command::Help(self.help()?),
            "version" => Command::Version,
            "vm_list" => Command::VmList,
            "vcpu_list" => Command::VcpuList,
            "vcpu_dumpreg" => {
                Command::VcpuDumpreg(self.vm()?, VcpuId(self.need("VCPU", DECIMAL, decimal)?))
            }
            "vm_console" => Command::VmConsole(self.vm_or_all()?.unwrap_or(VmId(0))),
            "vm_pause" => Command::VmPause(self.vm()?),
            "vm_resume" => Command::VmResume(self.vm()?),
            "vm_reset" => Command::VmReset(self.vm()?),
            "vm_shutdown" => Command::VmShutdown(self.vm()?),
            "vm_start" => Command::VmStart(self.vm()?),
            "int" => Command::Interrupts,
            "pt" => Command::PassThrough,
            "iommu" => Command::Iommu,
            "vioapic" => Command::Vioapic(self.vm()?),
            "dump_ioapic" => Command::HostIoapic,
            "exits" => Command::Exits(self.vm_or_all()?),
            "mem" => Command::Memory,
            "config" => Command::Config,
            "log" => Command::Log,
            "loglevel" => Command::Loglevel(self.loglevel()?),
            "cpuid" => Command::Cpuid {
                leaf: self.need("LEAF", HEXADECIMAL, hex32)?,
                subleaf: self.may("SUBLEAF", HEXADECIMAL, hex32)?.unwrap_or(0),
            },
            "rdmsr" => Command::ReadMsr {
                cpu: self.cpu()?,
                msr: self.need("MSR", HEXADECIMAL, hex32)?,
            },
            "wrmsr" => Command::WriteMsr {
                cpu: self.cpu()?,
                msr: self.need("MSR", HEXADECIMAL, hex32)?,
                value: self.need("VALUE", HEXADECIMAL, hex)?,
            },
            "dump" => {
                let vm = self.vm()?;
                let gpa = Gpa(self.need("GPA", HEXADECIMAL, hex)?);
                self.dump(DumpFrom::Guest(vm, gpa))?
            }
            "dump_guest_mem" => {
                let vm = self.vm()?;
                let gva = Gva(self.need("GVA", HEXADECIMAL, hex)?);
                self.dump(DumpFrom::Linear(vm, gva))?
            }
            "dump_host_mem" => {
                let hpa = Hpa(self.need("HPA", HEXADECIMAL, hex)?);
                self.dump(DumpFrom::Host(hpa))?
            }
            "trace" => Command::Trace(self.vm_or_all()?),
            "reboot" => Command::Reboot,
            "poweroff" => Command::Poweroff,
            name => return Err(Error::Unknown { word: name }),
        };
        match self.words.next() {
            Some(word) => Err(Error::Surplus {
                word,
                command: self.command,
            }),
            None => Ok(command),
        }
    }

    fn may<T>(
        &mut self,
        argument: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error<'a>> {
        let Some(word) = self.words.next() else {
            return Ok(None);
        };
        match read(word) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::Bad {
                argument,
                word,
                expected,
                command: self.command,
            }),
        }
    }

    fn need<T>(
        &mut self,
        argument: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error<'a>> {
        let missing = Error::Missing {
            argument,
            command: self.command,
        };
        self.may(argument, expected, read)?.ok_or(missing)
    }

    fn vm(&mut self) -> Result<VmId, Error<'a>> {
        self.need("VM", DECIMAL, decimal).map(VmId)
    }

    fn vm_or_all(&mut self) -> Result<Option<VmId>, Error<'a>> {
        Ok(self.may("VM", DECIMAL, decimal)?.map(VmId))
    }

    fn help(&mut self) -> Result<Option<&'static Help>, Error<'a>> {
        self.may("COMMAND", "the name of a command", Help::of)
    }

    fn dump(&mut self, from: DumpFrom) -> Result<Command, Error<'a>> {
        let length = self.may("LENGTH", "a number from 1 to 1024", dump_length)?;
        Ok(Command::Dump {
            from,
            length: length.unwrap_or(DEFAULT_DUMP),
        })
    }

    fn loglevel(&mut self) -> Result<Option<u8>, Error<'a>> {
        self.may("LEVEL", "a number from 0 to 6", |word| {
            decimal(word)
                .and_then(|level| u8::try_from(level).ok())
                .filter(|&l| l <= MAX_LOGLEVEL)
        })
    }

    /// `-pN`, if the next word looks like it.
    fn cpu(&mut self) -> Result<Option<PcpuId>, Error<'a>> {
        let mut ahead = self.words;
        if !ahead.next().is_some_and(|word| word.starts_with('-')) {
            return Ok(None);
        }
        self.may("-pCPU", "-p and the number of a CPU", |word| {
            decimal(word.strip_prefix("-p")?).map(PcpuId)
        })
    }
}

/// A decimal number, or a hexadecimal one with `0x`.
fn decimal(word: &str) -> Option<u16> {
    if word.starts_with("0x") {
        return hex(word).and_then(|number| u16::try_from(number).ok());
    }
    if word.starts_with('+') {
        None
    } else {
        word.parse().ok()
    }
}

/// A hexadecimal number, with or without `0x`.
fn hex(word: &str) -> Option<u64> {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    if digits.starts_with('+') {
        None
    } else {
        u64::from_str_radix(digits, 16).ok()
    }
}

fn hex32(word: &str) -> Option<u32> {
    hex(word).and_then(|number| u32::try_from(number).ok())
}

fn dump_length(word: &str) -> Option<u32> {
    decimal(word)
        .map(u32::from)
        .filter(|length| (1..=MAX_DUMP).contains(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::help::COMMANDS;
    use proptest::prelude::*;

    fn parse(line: &str) -> Command {
        Command::parse(line, Mode::Full).unwrap().unwrap()
    }

    fn error(line: &str) -> String {
        Command::parse(line, Mode::Full)
            .unwrap()
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn words_are_separated_by_blanks_or_commas() {
        let expected = Command::VcpuDumpreg(VmId(1), VcpuId(2));
        assert_eq!(parse("vcpu_dumpreg 1 2"), expected);
        assert_eq!(parse(" vcpu_dumpreg,1 , 2 "), expected);
        assert_eq!(Command::parse(" , ", Mode::Full), None);
    }

    #[test]
    fn each_command_of_the_list_is_understood() {
        for help in COMMANDS {
            let mut line = help.name.to_string();
            for arg in help
                .args
                .split(' ')
                .filter(|arg| !arg.is_empty() && !arg.starts_with('['))
            {
                line += if matches!(arg, "GPA" | "GVA" | "HPA") {
                    " 1000"
                } else {
                    " 1"
                };
            }
            assert!(
                matches!(Command::parse(&line, Mode::Full), Some(Ok(_))),
                "{line}"
            );
            assert!(error(&format!("{line} 1 1 1 1")).contains("is"), "{line}");
        }
    }

    #[test]
    fn optional_arguments_have_defaults() {
        assert_eq!(parse("vm_console"), Command::VmConsole(VmId(0)));
        assert_eq!(parse("vm_console 3"), Command::VmConsole(VmId(3)));
        assert_eq!(parse("exits"), Command::Exits(None));
        assert_eq!(parse("loglevel"), Command::Loglevel(None));
        assert_eq!(parse("loglevel 5"), Command::Loglevel(Some(5)));
        assert_eq!(
            parse("cpuid 40000000"),
            Command::Cpuid {
                leaf: 0x4000_0000,
                subleaf: 0
            }
        );
        assert_eq!(parse("help int"), Command::Help(Help::of("int")));
    }

    #[test]
    fn msr_commands_take_a_cpu() {
        assert_eq!(
            parse("rdmsr 1b"),
            Command::ReadMsr {
                cpu: None,
                msr: 0x1B
            }
        );
        let cpu = Some(PcpuId(2));
        assert_eq!(parse("rdmsr -p2 0x1b"), Command::ReadMsr { cpu, msr: 0x1B });
        let write = Command::WriteMsr {
            cpu,
            msr: 0xC000_0080,
            value: u64::MAX,
        };
        assert_eq!(parse("wrmsr -p2 c0000080 ffffffffffffffff"), write);
        assert!(error("rdmsr -q2 1b").contains("`-q2` is no -pCPU"));
    }

    #[test]
    fn errors_name_the_argument_and_show_the_usage() {
        assert_eq!(error("vm_pause"), "VM is missing; usage: vm_pause VM");
        assert_eq!(
            error("vm_pause x"),
            "`x` is no VM: a number expected; usage: vm_pause VM"
        );
        assert_eq!(error("version 1"), "`1` is too much; usage: version");
        assert_eq!(error("format c:"), "unknown command `format`; try `help`");
        assert!(error("loglevel 7").contains("0 to 6"));
        assert!(error("vm_pause +1").contains("`+1`"));
    }

    #[test]
    fn a_read_only_shell_has_the_commands_that_look() {
        let refused = |line| {
            matches!(
                Command::parse(line, Mode::ReadOnly),
                Some(Err(Error::ReadOnly { .. }))
            )
        };
        for line in [
            "vm_pause 1",
            "vm_shutdown",
            "wrmsr 1b 0",
            "reboot",
            "poweroff",
            "loglevel 5",
        ] {
            assert!(refused(line), "{line}");
        }
        for line in [
            "help",
            "vm_list",
            "vm_console 0",
            "rdmsr 1b",
            "loglevel",
            "config",
        ] {
            assert!(!refused(line), "{line}");
        }
        let error = Command::parse("loglevel 5", Mode::ReadOnly)
            .unwrap()
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`loglevel` with arguments changes")
        );
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "[a-z_]{0,12}[ ,]\\PC{0,40}", which in 0..COMMANDS.len()) {
            let _ = Command::parse(&line, Mode::Full);
            let line = format!("{} {line}", COMMANDS[which].name);
            let _ = Command::parse(&line, Mode::Full).map(|result| result.map_err(|error| error.to_string()));
        }
    }
}
