//! `--config`: the settings of the command line in a TOML or JSON file.
//!
//! Keys are the long names of the options. What the command line says wins; devices and serial
//! ports of both are put together.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::CliError;
use super::args::Args;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    name: Option<String>,
    memsize: Option<String>,
    kernel: Option<PathBuf>,
    ramdisk: Option<PathBuf>,
    bootargs: Option<String>,
    elf_file: Option<PathBuf>,
    pci_slot: Vec<String>,
    lpc: Vec<String>,
    cpu_affinity: Option<Affinity>,
    rtvm: bool,
    lapic_pt: bool,
    logger_setting: Option<String>,
    cmd_monitor: Option<PathBuf>,
    debugexit: bool,
    no_sandbox: bool,
}

/// Either spelling of a list of CPUs.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Affinity {
    Ids(Vec<u32>),
    Text(String),
}

/// Fills in from the file what `args` leaves open.
pub(super) fn merge(path: &Path, args: &mut Args) -> Result<(), CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::config(format!(
            "--config {}: {error}; check the path and its permissions",
            path.display()
        ))
    })?;
    let json = path
        .extension()
        .is_some_and(|extension| extension == "json")
        || text.trim_start().starts_with('{');
    let file: ConfigFile = if json {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| position(&text, &error))
    }
    .map_err(|reason| {
        CliError::config(format!(
            "--config {}: {}; mend the file",
            path.display(),
            reason
        ))
    })?;
    let affinity = file.cpu_affinity.map(|affinity| match affinity {
        Affinity::Text(text) => text,
        Affinity::Ids(ids) => ids
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(","),
    });
    fill(&mut args.name, file.name);
    fill(&mut args.memsize, file.memsize);
    if args.kernel.is_none() && args.elf_file.is_none() {
        args.kernel = file.kernel;
        args.elf_file = file.elf_file;
    }
    fill(&mut args.ramdisk, file.ramdisk);
    fill(&mut args.bootargs, file.bootargs);
    fill(&mut args.cpu_affinity, affinity);
    fill(&mut args.logger_setting, file.logger_setting);
    fill(&mut args.cmd_monitor, file.cmd_monitor);
    args.pci_slot.splice(0..0, file.pci_slot);
    args.lpc.splice(0..0, file.lpc);
    args.rtvm |= file.rtvm;
    args.lapic_pt |= file.lapic_pt;
    args.debugexit |= file.debugexit;
    args.no_sandbox |= file.no_sandbox;
    Ok(())
}

fn fill<T>(option: &mut Option<T>, value: Option<T>) {
    if option.is_none() {
        *option = value;
    }
}

/// The parser's message in one line, with its place.
fn position(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or("");
            format!("line {}: {message}", before.matches('\n').count() + 1)
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::{Request, parse};
    use crate::exit::ExitCode;

    fn with_file(suffix: &str, text: &str, options: &[&str]) -> Result<Request, CliError> {
        let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let words = ["acrn-dm", "--config", &path]
            .into_iter()
            .chain(options.iter().copied());
        parse(words.map(Into::into).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_wins_and_devices_add_up() {
        let toml = "name = 'vm1'\nmemsize = '64M'\nkernel = '/k'\ncpu_affinity = [1, 3]\n\
                    pci_slot = ['3,virtio-rnd']\nlpc = ['com1,pty']\n";
        let request = with_file(".toml", toml, &["-m", "128M", "-s", "4,virtio-rnd"]).unwrap();
        let Request::Run(spec) = request else {
            panic!("not a run")
        };
        assert_eq!((spec.memory, spec.slots.len()), (128 << 20, 2));
        assert_eq!(spec.cpu_affinity, [1, 3]);
    }

    #[test]
    fn json_is_understood_too() {
        let json = r#"{ "name": "vm1", "kernel": "/k", "rtvm": true }"#;
        assert!(matches!(with_file(".json", json, &[]), Ok(Request::Run(_))));
    }

    #[test]
    fn a_mistake_is_reported_with_its_line() {
        let error = with_file(".toml", "name = 'v'\nmemory = '1G'\n", &[]).unwrap_err();
        assert_eq!(error.code, ExitCode::ConfigFile);
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = parse(["acrn-dm", "--config", "/no/such"].map(Into::into)).unwrap_err();
        assert!(error.to_string().contains("/no/such"));
    }
}
