//! What a user says of a VM: `/etc/acrn/vms/NAME.toml`.
//!
//! The file's stem is the VM's name. It holds what the manager does with the VM, and either a
//! table `[vm]`, in the form of `acrn-dm --config`, or the path of a launch script.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest name, which is `acrn-dm`'s.
const MAX_NAME: usize = 15;

/// When a VM that has ended by itself is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// When its exit status is not 0.
    OnFailure,
    /// Whenever nobody has asked it to stop.
    Always,
}

/// A definition.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// It is started when the Service VM has booted.
    #[serde(default)]
    pub autostart: bool,
    /// VMs that start before it, where they start at all.
    #[serde(default)]
    pub after: Vec<String>,
    /// What happens when it ends.
    #[serde(default)]
    pub restart: Restart,
    /// Seconds before the first restart; each further one waits twice as long.
    #[serde(default = "first_delay")]
    pub restart_delay: u64,
    /// The longest such wait, in seconds.
    #[serde(default = "most_delay")]
    pub restart_delay_most: u64,
    /// Seconds that a guest has for its power button before it is switched off.
    #[serde(default = "stop_limit")]
    pub stop_timeout: u64,
    /// A launch script, instead of `vm`.
    pub script: Option<PathBuf>,
    /// Words for the script.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Variables for the script.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The keys of `acrn-dm --config`.
    pub vm: Option<toml::Table>,
}

const fn first_delay() -> u64 {
    1
}

const fn most_delay() -> u64 {
    60
}

const fn stop_limit() -> u64 {
    60
}

/// Why a definition is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// It is not TOML, or has an unknown key or a value of the wrong type.
    #[error("line {line}: {message}; mend the file")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// Neither or both of script and table.
    #[error("give the VM either a table [vm] or a script, not {0}")]
    Kind(&'static str),
    /// The script would be looked for in whatever directory the daemon is.
    #[error("script \"{}\" is not an absolute path: begin it with /", .0.display())]
    Relative(PathBuf),
    /// Words for a script without a script.
    #[error("{0} is for scripts: say it in [vm], or give a script")]
    WithoutScript(&'static str),
    /// A time that is no time.
    #[error("{key} is {value} seconds: use 1 to 86400")]
    Seconds {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
    },
    /// A name that `acrn-dm` would refuse.
    #[error(
        "\"{0}\" is no name of a VM: use 1 to 15 letters, digits and -_.+@:, beginning with \
         neither . nor -"
    )]
    Name(String),
}

/// Checks a VM's name.
///
/// # Errors
/// `acrn-dm` would refuse it.
pub fn check_name(name: &str) -> Result<(), DefinitionError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+@:".contains(c);
    let good = (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with(['.', '-']);
    if good {
        Ok(())
    } else {
        Err(DefinitionError::Name(name.to_owned()))
    }
}

impl Default for Definition {
    /// That of a VM whose file is gone or cannot be read: nothing happens by itself.
    fn default() -> Self {
        Self {
            autostart: false,
            after: Vec::new(),
            restart: Restart::Never,
            restart_delay: first_delay(),
            restart_delay_most: most_delay(),
            stop_timeout: stop_limit(),
            script: None,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            vm: None,
        }
    }
}

impl Definition {
    /// Reads a definition.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        let this: Self = toml::from_str(text).map_err(|error| {
            let begin = error.span().map_or(0, |span| span.start);
            let before = text.get(..begin).unwrap_or("");
            DefinitionError::Syntax {
                line: before.matches('\n').count() + 1,
                message: error.message().replace('\n', " "),
            }
        })?;
        this.check()?;
        Ok(this)
    }

    fn check(&self) -> Result<(), DefinitionError> {
        match (&self.script, &self.vm) {
            (None, None) => return Err(DefinitionError::Kind("neither")),
            (Some(_), Some(_)) => return Err(DefinitionError::Kind("both")),
            (Some(script), None) if !script.is_absolute() => {
                return Err(DefinitionError::Relative(script.clone()));
            }
            (None, Some(_)) if !self.arguments.is_empty() => {
                return Err(DefinitionError::WithoutScript("arguments"));
            }
            (None, Some(_)) if !self.environment.is_empty() => {
                return Err(DefinitionError::WithoutScript("environment"));
            }
            _ => {}
        }
        for name in &self.after {
            check_name(name)?;
        }
        for (key, value) in [
            ("restart_delay", self.restart_delay),
            ("restart_delay_most", self.restart_delay_most),
            ("stop_timeout", self.stop_timeout),
        ] {
            if !(1..=86_400).contains(&value) {
                return Err(DefinitionError::Seconds { key, value });
            }
        }
        Ok(())
    }

    /// The other end of the first serial port, where `[vm]` says it.
    pub fn console(&self) -> Option<&str> {
        let ports = self.vm.as_ref()?.get("lpc")?.as_array()?;
        let first = ports.iter().filter_map(toml::Value::as_str);
        first
            .filter_map(|port| port.split_once(','))
            .map(|(_, end)| end)
            .next()
    }

    /// Time that the guest has for its power button.
    pub fn stop_limit(&self) -> Duration {
        Duration::from_secs(self.stop_timeout)
    }

    /// The wait before a restart that follows `failures` others.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1_u64.checked_shl(failures).unwrap_or(u64::MAX);
        let seconds = self.restart_delay.saturating_mul(factor);
        Duration::from_secs(seconds.min(self.restart_delay_most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_definition_has_the_defaults_of_the_book() {
        let this = Definition::parse("[vm]\nkernel = '/k'\n").unwrap();
        assert!(!this.autostart);
        assert_eq!(this.restart, Restart::Never);
        assert_eq!((this.stop_timeout, this.restart_delay), (60, 1));
        assert_eq!(this.vm.unwrap()["kernel"].as_str(), Some("/k"));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let error = Definition::parse("autostart = true\nautostrat = true\n").unwrap_err();
        assert!(
            matches!(error, DefinitionError::Syntax { line: 2, .. }),
            "{error}"
        );
        for (text, word) in [
            ("autostart = true", "neither"),
            ("script = '/s'\n[vm]\n", "both"),
            ("script = 's'", "absolute"),
            ("arguments = ['a']\n[vm]\n", "arguments"),
            ("environment = { A = 'b' }\n[vm]\n", "environment"),
            ("stop_timeout = 0\n[vm]\n", "stop_timeout"),
            ("after = ['../x']\n[vm]\n", "../x"),
        ] {
            let error = Definition::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_those_of_acrn_dm() {
        for good in ["vm1", "POST_STD_VM1", "a.b+c@d:e-f"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", "..", "-f", "a/b", "sixteen_letters_", "a b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_console_is_the_other_end_of_the_first_port() {
        let text = "[vm]\nlpc = ['com1,unix:/run/c', 'com2,hv']\n";
        let this = Definition::parse(text).unwrap();
        assert_eq!(this.console(), Some("unix:/run/c"));
        assert_eq!(Definition::default().console(), None);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let this = Definition::parse("restart_delay = 2\n[vm]\n").unwrap();
        let waits: Vec<u64> = [0, 1, 2, 5, 63, 64, u32::MAX]
            .iter()
            .map(|&failures| this.delay(failures).as_secs())
            .collect();
        assert_eq!(waits, [2, 4, 8, 60, 60, 60, 60]);
    }
}
