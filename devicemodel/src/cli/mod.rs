//! From the command line to a checked description of the VM.
//!
//! Options have ACRN's names. [`args`] declares them for the parser, [`values`] takes their
//! values apart, [`config_file`] reads the same settings from a file, and [`resolve`] turns all
//! of it into a [`VmSpec`] in which every value is known to be usable by itself.

pub mod args;
pub mod config_file;
pub mod values;

use std::path::PathBuf;

use acrn_abi::types::Bdf;
use acrn_abi::vm_flags::VmFlags;
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::exit::ExitCode;
use args::Args;
use values::{ComSpec, SlotSpec, VmName};

/// Least memory of a VM.
const MIN_MEMORY: u64 = 16 << 20;
/// Granularity of memory: the huge pages that it is made of.
const MEMORY_STEP: u64 = 2 << 20;
/// Memory when nothing is said, as ACRN has it.
const DEFAULT_MEMORY: u64 = 256 << 20;
/// Longest kernel command line, with its terminating zero one page less than two.
const MAX_BOOTARGS: usize = 2047;

/// What is wrong with the command line, in one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct CliError {
    /// Exit code.
    pub code: ExitCode,
    sentence: String,
}

impl CliError {
    /// A wrong option or value.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self {
            code: ExitCode::Usage,
            sentence: sentence.into(),
        }
    }

    /// Something that ACRN has and this Device Model does not.
    pub fn unsupported(sentence: impl Into<String>) -> Self {
        Self {
            code: ExitCode::Unsupported,
            sentence: sentence.into(),
        }
    }

    /// A problem with the configuration file.
    pub fn config(sentence: impl Into<String>) -> Self {
        Self {
            code: ExitCode::ConfigFile,
            sentence: sentence.into(),
        }
    }
}

/// What the VM starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootImage {
    /// A Linux bzImage with an optional initial RAM disk.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The RAM disk.
        ramdisk: Option<PathBuf>,
    },
    /// A static ELF program.
    Elf(PathBuf),
}

/// The VM as asked for.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// Name.
    pub name: VmName,
    /// Bytes of RAM.
    pub memory: u64,
    /// What to start.
    pub boot: BootImage,
    /// Kernel command line.
    pub bootargs: String,
    /// PCI functions, in the order given, without duplicates.
    pub slots: Vec<SlotSpec>,
    /// Serial ports.
    pub coms: Vec<ComSpec>,
    /// Local APIC ids of the CPUs; empty means that the hypervisor's configuration decides.
    pub cpu_affinity: Vec<u32>,
    /// Flags for the hypervisor.
    pub flags: VmFlags,
    /// Path for a monitor socket that speaks JSON.
    pub cmd_monitor: Option<PathBuf>,
    /// Most detailed level of messages on the console.
    pub log_level: log::LevelFilter,
    /// The debug-exit port exists.
    pub debug_exit: bool,
    /// Privileges are dropped once the VM runs.
    pub sandbox: bool,
    /// Only check, do not run.
    pub dry_run: bool,
    /// What was accepted but has no effect, for the user to know.
    pub warnings: Vec<String>,
}

impl VmSpec {
    /// Whether the guest may suspend to RAM. A real-time VM cannot be stopped for it.
    pub fn sleeps(&self) -> bool {
        !self.flags.contains(VmFlags::RT)
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run a VM.
    Run(Box<VmSpec>),
    /// Print this text and end.
    Print(String),
}

/// Reads the command line, `arguments` including the program's name.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse<I>(arguments: I) -> Result<Request, CliError>
where
    I: IntoIterator<Item = std::ffi::OsString>,
{
    match Args::try_parse_from(arguments) {
        Ok(args) => resolve(args).map(|spec| Request::Run(Box::new(spec))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Request::Print(error.to_string()))
            }
            _ => Err(CliError::usage(sentence(&error))),
        },
    }
}

/// One sentence for what the parser found.
fn sentence(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(value)) => value.clone(),
        Some(ContextValue::Strings(values)) => values.join(", "),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    let value = text(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let hint = text(ContextKind::SuggestedArg);
            if hint.is_empty() {
                format!("there is no option {argument}: acrn-dm --help lists them all")
            } else {
                format!("there is no option {argument}: did you mean {hint}?")
            }
        }
        ErrorKind::UnknownArgument => format!(
            "\"{argument}\" is one name too many: put options with spaces into quotes, and the \
             name of the VM at the end"
        ),
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("option {argument} lacks its value: acrn-dm --help shows what it takes")
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{argument} is missing: acrn-dm --help shows an example")
        }
        _ => {
            let all = error.to_string();
            let first = all
                .lines()
                .next()
                .unwrap_or("")
                .trim_start_matches("error: ");
            format!("{first}: acrn-dm --help lists the options")
        }
    }
}

/// Merges options and configuration file and checks every value.
fn resolve(mut args: Args) -> Result<VmSpec, CliError> {
    if let Some(path) = args.config.take() {
        config_file::merge(&path, &mut args)?;
    }
    args.reject_unsupported()?;
    let mut warnings = args.obsolete();
    let name = match args.name.as_deref() {
        Some(name) => values::vm_name(name)?,
        None => {
            return Err(CliError::usage(
                "the name of the VM is missing: put it at the end, such as acrn-dm -m 512M -k \
                 bzImage vm1",
            ));
        }
    };
    let memory = memory(args.memsize.as_deref())?;
    let boot = boot_image(&args)?;
    let bootargs = args.bootargs.clone().unwrap_or_default();
    if bootargs.len() > MAX_BOOTARGS || bootargs.contains('\0') {
        return Err(CliError::usage(format!(
            "-B holds {} bytes, and {MAX_BOOTARGS} without a zero byte are allowed: shorten the \
             command line",
            bootargs.len()
        )));
    }
    let slots = slots(&args.pci_slot)?;
    let coms = coms(&args.lpc)?;
    let cpu_affinity = match &args.cpu_affinity {
        Some(list) => values::lapic_ids(list)?,
        None => Vec::new(),
    };
    let mut flags = VmFlags::empty();
    if args.rtvm {
        flags |= VmFlags::RT | VmFlags::LAPIC_PASSTHROUGH | VmFlags::IO_COMPLETION_POLLING;
    } else if args.lapic_pt {
        warnings.push("--lapic_pt has no effect without --rtvm: add --rtvm".into());
    }
    let log_level = match &args.logger_setting {
        Some(setting) => values::log_level(setting, &mut warnings)?,
        None => log::LevelFilter::Info,
    };
    Ok(VmSpec {
        name,
        memory,
        boot,
        bootargs,
        slots,
        coms,
        cpu_affinity,
        flags,
        cmd_monitor: args.cmd_monitor,
        log_level,
        debug_exit: args.debugexit,
        sandbox: !args.no_sandbox,
        dry_run: args.dry_run,
        warnings,
    })
}

fn memory(text: Option<&str>) -> Result<u64, CliError> {
    let Some(text) = text else {
        return Ok(DEFAULT_MEMORY);
    };
    let bytes = values::memory_size(text)?;
    if bytes < MIN_MEMORY {
        return Err(CliError::usage(format!(
            "-m {text} is too little: a VM needs at least {}M",
            MIN_MEMORY >> 20
        )));
    }
    if !bytes.is_multiple_of(MEMORY_STEP) {
        return Err(CliError::usage(format!(
            "-m {text} is not a multiple of 2M: {}M is the next one",
            bytes.next_multiple_of(MEMORY_STEP) >> 20
        )));
    }
    Ok(bytes)
}

fn boot_image(args: &Args) -> Result<BootImage, CliError> {
    match (&args.kernel, &args.elf_file) {
        (Some(kernel), _) => Ok(BootImage::Kernel {
            kernel: kernel.clone(),
            ramdisk: args.ramdisk.clone(),
        }),
        (None, Some(_)) if args.ramdisk.is_some() => Err(CliError::usage(
            "-r belongs to a Linux kernel: leave it out with -E, or use -k",
        )),
        (None, Some(elf)) => Ok(BootImage::Elf(elf.clone())),
        (None, None) => Err(CliError::usage(
            "there is nothing to start: name a Linux bzImage with -k or a static ELF file with -E",
        )),
    }
}

fn slots(texts: &[String]) -> Result<Vec<SlotSpec>, CliError> {
    let mut slots: Vec<SlotSpec> = Vec::new();
    for text in texts {
        let slot = values::pci_slot(text)?;
        if let Some(other) = slots.iter().find(|other| other.bdf == slot.bdf) {
            return Err(CliError::usage(format!(
                "-s {text} takes the place of -s {},{}: give each device a slot of its own",
                slot_number(other.bdf),
                other.device
            )));
        }
        slots.push(slot);
    }
    for single in ["hostbridge", "lpc"] {
        if slots.iter().filter(|slot| slot.device == single).count() > 1 {
            return Err(CliError::usage(format!(
                "-s names {single} twice: a VM has one of it, remove the other"
            )));
        }
    }
    Ok(slots)
}

fn slot_number(bdf: Bdf) -> String {
    format!("{}:{}", bdf.device(), bdf.function())
}

fn coms(texts: &[String]) -> Result<Vec<ComSpec>, CliError> {
    let mut coms: Vec<ComSpec> = Vec::new();
    for text in texts {
        let com = values::com_port(text)?;
        if coms.iter().any(|other| other.port == com.port) {
            return Err(CliError::usage(format!(
                "-l {text} sets the same port again: give each of com1 to com4 one back end"
            )));
        }
        if com.backend == values::UartBackend::Stdio
            && coms
                .iter()
                .any(|other| other.backend == values::UartBackend::Stdio)
        {
            return Err(CliError::usage(format!(
                "-l {text} uses the terminal a second time: only one port can have stdio, use pty \
                 for the other"
            )));
        }
        coms.push(com);
    }
    Ok(coms)
}

#[cfg(test)]
mod tests {
    use super::values::UartBackend;
    use super::*;

    fn run(line: &str) -> Result<VmSpec, CliError> {
        let words = std::iter::once("acrn-dm").chain(line.split_whitespace());
        match parse(words.map(Into::into))? {
            Request::Run(spec) => Ok(*spec),
            Request::Print(text) => panic!("printed {text}"),
        }
    }

    fn complaint(line: &str) -> (ExitCode, String) {
        let error = run(line).expect_err("this must be refused");
        let text = error.to_string();
        assert!(!text.contains('\n'), "not one sentence: {text}");
        (error.code, text)
    }

    #[test]
    fn a_launch_script_of_acrn_is_understood() {
        let spec = run("-A -m 512M -s 0:0,hostbridge -s 1:0,lpc -l com1,stdio \
             -s 3,virtio-blk,/disk.img -s 5:1,virtio-rnd --mac_seed x \
             --cpu_affinity 0,2 -k /bzImage -r /initrd -B console=ttyS0 vm1")
        .unwrap();
        assert_eq!(spec.name.as_str(), "vm1");
        assert_eq!(spec.memory, 512 << 20);
        assert_eq!(spec.slots.len(), 4);
        assert_eq!(spec.slots[2].options, "/disk.img");
        assert_eq!(spec.slots[3].bdf, Bdf::new(0, 5, 1));
        assert_eq!(spec.coms[0].backend, UartBackend::Stdio);
        assert_eq!(spec.cpu_affinity, [0, 2]);
        assert_eq!(spec.warnings.len(), 2);
    }

    #[test]
    fn wrong_sizes_are_refused_with_what_to_write_instead() {
        assert!(complaint("-k k -m 512 v").1.contains("512M"));
        assert!(complaint("-k k -m 1M v").1.contains("16M"));
        assert!(complaint("-k k -m 33M v").1.contains("34M"));
        assert!(complaint("-k k -m 99999999999G v").1.contains("-m"));
        assert!(complaint("-k k -m xM v").1.contains("-m"));
    }

    #[test]
    fn unknown_options_are_named() {
        let (code, text) = complaint("--memsise 1G -k k v");
        assert_eq!(code, ExitCode::Usage);
        assert!(
            text.contains("--memsise") && text.contains("--memsize"),
            "{text}"
        );
        assert!(complaint("-k k --frobnicate v").1.contains("--frobnicate"));
        assert!(complaint("-k k v extra").1.contains("extra"));
        assert!(complaint("-k").1.contains("-k"));
    }

    #[test]
    fn what_acrn_has_and_this_has_not_is_said_so() {
        for line in [
            "--ovmf /OVMF.fd v",
            "-k k --acpidev_pt MSFT0101 v",
            "-k k --vtpm2 sock_path=/x v",
            "-k k --ssram L2,vcpu=0,size=4K v",
            "-k k --enable_trusty v",
            "-k k --mmiodev_pt fed40000,1000 v",
        ] {
            assert_eq!(complaint(line).0, ExitCode::Unsupported, "{line}");
        }
    }

    #[test]
    fn names_and_slots_are_checked() {
        assert!(complaint("-k k").1.contains("name"));
        assert!(complaint("-k k sixteen-letters-").1.contains("15"));
        assert!(complaint("-k k ../x").1.contains("../x"));
        assert!(
            complaint("-k k -s 3,virtio-rnd -s 3:0,virtio-rnd v")
                .1
                .contains("3:0")
        );
        assert!(complaint("-k k -s 32,virtio-rnd v").1.contains("0 to 31"));
        assert!(complaint("-k k -s 1:2:0,virtio-rnd v").1.contains("bus 0"));
        assert!(complaint("-k k -s 3 v").1.contains("-s 3"));
        assert!(complaint("-k k -l com9,stdio v").1.contains("com9"));
        assert!(
            complaint("-k k -l com1,stdio -l com2,stdio v")
                .1
                .contains("pty")
        );
        assert!(complaint("v").1.contains("-k"));
        assert!(
            complaint("-k k --cpu_affinity 1,,2 v")
                .1
                .contains("--cpu_affinity")
        );
    }

    #[test]
    fn a_real_time_vm_sets_its_flags() {
        let spec = run("-k k --rtvm --lapic_pt v").unwrap();
        assert!(
            spec.flags
                .contains(VmFlags::RT | VmFlags::LAPIC_PASSTHROUGH)
        );
        assert!(run("-k k --lapic_pt v").unwrap().flags.is_empty());
    }

    #[test]
    fn help_and_version_are_printed() {
        for option in ["-h", "--help", "-v", "--version"] {
            let words = ["acrn-dm", option].map(Into::into);
            assert!(matches!(parse(words), Ok(Request::Print(_))), "{option}");
        }
    }
}
