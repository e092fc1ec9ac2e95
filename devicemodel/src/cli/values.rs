//! Values of options.

use std::fmt;
use std::path::PathBuf;

use acrn_abi::types::Bdf;

use super::CliError;

/// Longest name of a VM.
pub const MAX_NAME: usize = 15;

/// Name of a VM: 1 to 15 characters that are harmless in a file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmName(String);

impl VmName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the hypervisor takes it, padded with zeros.
    pub fn padded(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        bytes
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A PCI function to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// Where.
    pub bdf: Bdf,
    /// Which device.
    pub device: String,
    /// Its options, not yet looked at.
    pub options: String,
}

/// The other end of a serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UartBackend {
    /// The terminal that acrn-dm runs in.
    Stdio,
    /// A new pseudo-terminal, whose path is printed.
    Pty,
    /// A TCP port on the loopback interface that a client connects to.
    Tcp(u16),
    /// A Unix socket that a client connects to.
    Unix(PathBuf),
    /// A file that output is appended to.
    File(PathBuf),
    /// A terminal device.
    Tty(PathBuf),
    /// The hypervisor's console of this VM.
    Hypervisor,
    /// Nothing: output is lost.
    Null,
}

/// A serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComSpec {
    /// 0 for COM1 to 3 for COM4.
    pub port: usize,
    /// Its other end.
    pub backend: UartBackend,
}

/// Checks the name of a VM.
///
/// # Errors
/// Empty, too long, or with characters that would not do in a file name.
pub fn vm_name(text: &str) -> Result<VmName, CliError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.+@:".contains(c);
    if text.is_empty() || text.len() > MAX_NAME {
        return Err(CliError::usage(format!(
            "the VM name \"{text}\" has {} characters: choose 1 to {MAX_NAME}",
            text.len()
        )));
    }
    if !text.chars().all(good) || text.starts_with(['.', '-']) {
        return Err(CliError::usage(format!(
            "the VM name \"{text}\" is not allowed: use letters, digits, - and _, with a letter \
             or digit first"
        )));
    }
    Ok(VmName(text.to_owned()))
}

/// A size with unit, in bytes.
///
/// # Errors
/// No number, no unit, or too large.
pub fn memory_size(text: &str) -> Result<u64, CliError> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "" if !digits.is_empty() => {
            return Err(CliError::usage(format!(
                "-m {text} has no unit: write {text}M or {text}G"
            )));
        }
        _ => {
            return Err(CliError::usage(format!(
                "-m {text} is not a size: write a number and k, M or G, such as 512M"
            )));
        }
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes <= 1 << 40)
        .ok_or_else(|| {
            CliError::usage(format!(
                "-m {text} is not a possible size: write something like 512M"
            ))
        })
}

/// `[bus:]slot[:function],device[,options]`.
///
/// # Errors
/// Not of that form, or out of range.
pub fn pci_slot(text: &str) -> Result<SlotSpec, CliError> {
    let form = || {
        CliError::usage(format!(
            "-s {text} is not a device: write SLOT,DEVICE or SLOT:FUNCTION,DEVICE with its \
             options, such as 3,virtio-blk,/disk.img"
        ))
    };
    let (place, rest) = text.split_once(',').ok_or_else(form)?;
    let (device, options) = rest.split_once(',').unwrap_or((rest, ""));
    let numbers = place
        .split([':', '/', '.'])
        .map(|number| number.trim().parse::<u32>().map_err(|_| form()))
        .collect::<Result<Vec<_>, _>>()?;
    let (bus, slot, function) = match numbers[..] {
        [slot] => (0, slot, 0),
        [slot, function] => (0, slot, function),
        [bus, slot, function] => (bus, slot, function),
        _ => return Err(form()),
    };
    if device.is_empty() {
        return Err(form());
    }
    if bus != 0 {
        return Err(CliError::usage(format!(
            "-s {text} names bus {bus}: there is only bus 0, write {slot}:{function},{rest}"
        )));
    }
    if slot > 31 || function > 7 {
        return Err(CliError::usage(format!(
            "-s {text} is out of range: slots are 0 to 31 and functions 0 to 7"
        )));
    }
    Ok(SlotSpec {
        bdf: Bdf::new(0, slot as u8, function as u8),
        device: device.to_owned(),
        options: options.to_owned(),
    })
}

/// `com1,back end`.
///
/// # Errors
/// No such port or back end.
pub fn com_port(text: &str) -> Result<ComSpec, CliError> {
    let (port, backend) = text.split_once(',').unwrap_or((text, ""));
    let port = match port.to_ascii_lowercase().as_str() {
        "com1" => 0,
        "com2" => 1,
        "com3" => 2,
        "com4" => 3,
        "com5" => {
            return Err(CliError::unsupported(format!(
                "-l {text}: the S5 port com5 is not supported, since the ACPI power button stops \
                 the VM: leave it out"
            )));
        }
        other => {
            return Err(CliError::usage(format!(
                "-l {text} names no serial port \"{other}\": write com1 to com4, such as \
                 com1,stdio"
            )));
        }
    };
    let wrong = |what: &str| {
        CliError::usage(format!(
            "-l {text}: {what}; write stdio, pty, tcp:PORT, unix:PATH, file:PATH, hv or the path \
             of a terminal"
        ))
    };
    let backend = match backend.split_once(':') {
        Some(("tcp", number)) => match number.parse() {
            Ok(0) | Err(_) => return Err(wrong("a TCP port is a number from 1 to 65535")),
            Ok(number) => UartBackend::Tcp(number),
        },
        Some(("unix", path)) if !path.is_empty() => UartBackend::Unix(path.into()),
        Some(("file", path)) if !path.is_empty() => UartBackend::File(path.into()),
        _ => match backend {
            "" | "null" => UartBackend::Null,
            "stdio" => UartBackend::Stdio,
            "pty" => UartBackend::Pty,
            "hv" => UartBackend::Hypervisor,
            path if path.starts_with('/') => UartBackend::Tty(path.into()),
            _ => return Err(wrong("there is no such back end")),
        },
    };
    Ok(ComSpec { port, backend })
}

/// Local APIC ids with commas between.
///
/// # Errors
/// Not a list of numbers, or one is there twice.
pub fn lapic_ids(text: &str) -> Result<Vec<u32>, CliError> {
    let mut ids = Vec::new();
    for part in text.split(',') {
        let id = part.parse::<u32>().map_err(|_| {
            CliError::usage(format!(
                "--cpu_affinity {text} is not a list of local APIC ids: write numbers with commas \
                 between and no spaces, such as 1,2"
            ))
        })?;
        if ids.contains(&id) {
            return Err(CliError::usage(format!(
                "--cpu_affinity {text} names {id} twice: name each CPU once"
            )));
        }
        ids.push(id);
    }
    Ok(ids)
}

/// ACRN's `console,level=4;kmsg,level=3;disk,level=5`, of which the console counts.
///
/// # Errors
/// Not of that form.
pub fn log_level(text: &str, warnings: &mut Vec<String>) -> Result<log::LevelFilter, CliError> {
    let wrong = || {
        CliError::usage(format!(
            "--logger_setting {text} is not understood: write console,level=N with N from 1 \
             (errors) to 5 (debug)"
        ))
    };
    let mut result = log::LevelFilter::Info;
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let (channel, level) = part.split_once(',').ok_or_else(wrong)?;
        let number = level.trim().strip_prefix("level=").ok_or_else(wrong)?;
        let level = match number {
            "0" => log::LevelFilter::Off,
            "1" => log::LevelFilter::Error,
            "2" => log::LevelFilter::Warn,
            // ACRN's "notice" and "info".
            "3" | "4" => log::LevelFilter::Info,
            "5" => log::LevelFilter::Debug,
            _ => return Err(wrong()),
        };
        match channel.trim() {
            "console" => result = level,
            other @ ("kmsg" | "disk") => warnings.push(format!(
                "--logger_setting {other} has no effect: messages go to the console only"
            )),
            _ => return Err(wrong()),
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_either_case() {
        assert_eq!(memory_size("4g").unwrap(), 4 << 30);
        assert_eq!(memory_size("512M").unwrap(), 512 << 20);
        assert_eq!(memory_size("2048k").unwrap(), 2 << 20);
        assert!(memory_size("").is_err());
        assert!(memory_size("M").is_err());
        assert!(memory_size("18446744073709551615G").is_err());
    }

    #[test]
    fn back_ends_are_told_apart() {
        let backend = |text: &str| com_port(text).map(|com| com.backend);
        assert_eq!(backend("com1,tcp:5000").unwrap(), UartBackend::Tcp(5000));
        assert_eq!(
            backend("com2,unix:/s").unwrap(),
            UartBackend::Unix("/s".into())
        );
        assert_eq!(
            backend("com3,/dev/pts/3").unwrap(),
            UartBackend::Tty("/dev/pts/3".into())
        );
        assert_eq!(backend("com4,hv").unwrap(), UartBackend::Hypervisor);
        assert!(backend("com1,tcp:0").is_err());
        assert!(backend("com1,serial").is_err());
    }

    #[test]
    fn log_levels_follow_acrn() {
        let mut warnings = Vec::new();
        let level = log_level("console,level=5;kmsg,level=3", &mut warnings).unwrap();
        assert_eq!((level, warnings.len()), (log::LevelFilter::Debug, 1));
        assert!(log_level("console=5", &mut warnings).is_err());
    }

    #[test]
    fn a_name_is_padded_for_the_hypervisor() {
        assert_eq!(vm_name("vm1").unwrap().padded()[..4], *b"vm1\0");
        assert!(vm_name("a/b").is_err());
        assert!(vm_name("").is_err());
    }
}
