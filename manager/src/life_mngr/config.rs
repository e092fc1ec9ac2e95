//! The configuration file, `/etc/life_mngr/life_mngr.conf`, in ACRN's form: `KEY=VALUE` lines.

use std::path::PathBuf;

use crate::definition::check_name;

/// Which side this machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The Service VM.
    Service,
    /// A User VM.
    User,
}

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which side this machine is.
    pub kind: Kind,
    /// This machine's name, which a User VM tells the Service VM.
    pub name: String,
    /// The lines: one in a User VM, one for each User VM in the Service VM.
    pub lines: Vec<PathBuf>,
    /// The line of the User VM that may have everything switched off.
    pub may_shut_down: Option<PathBuf>,
    /// The line of the User VM that may have everything started anew.
    pub may_reboot: Option<PathBuf>,
}

/// Why a file is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No `=`.
    #[error("line {line}: \"{text}\" is not of the form KEY=VALUE: mend or remove it")]
    Form {
        /// Line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A key that is none.
    #[error(
        "line {line}: {key} is no key: use VM_TYPE, VM_NAME, DEV_NAME, ALLOW_TRIGGER_S5 or \
         ALLOW_TRIGGER_SYSREBOOT"
    )]
    Key {
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key that is needed.
    #[error("{0} is missing: add a line {0}=VALUE")]
    Missing(&'static str),
    /// A kind that is none.
    #[error("VM_TYPE is \"{0}\": use service_vm or user_vm")]
    Kind(String),
    /// A name that is none.
    #[error("VM_NAME: {0}")]
    Name(String),
    /// Lines that are none.
    #[error(
        "DEV_NAME is \"{0}\": use tty: and absolute paths with commas between, such as tty:/dev/ttyS8,/dev/ttyS9"
    )]
    Lines(String),
    /// A User VM has one line.
    #[error("DEV_NAME has {0} lines: a User VM has one, to the Service VM; remove the others")]
    OneLine(usize),
    /// A trigger that is not a line.
    #[error("{key} is {}, which is not in DEV_NAME: add it there, or correct it", value.display())]
    Trigger {
        /// The key.
        key: &'static str,
        /// Its value.
        value: PathBuf,
    },
}

const KEYS: [&str; 5] = [
    "VM_TYPE",
    "VM_NAME",
    "DEV_NAME",
    "ALLOW_TRIGGER_S5",
    "ALLOW_TRIGGER_SYSREBOOT",
];

impl Config {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let [kind, name, lines, shutdown, reboot] = values(text)?;
        let kind = match kind.ok_or(ConfigError::Missing("VM_TYPE"))?.as_str() {
            "service_vm" => Kind::Service,
            "user_vm" => Kind::User,
            other => return Err(ConfigError::Kind(other.to_owned())),
        };
        let name = name.ok_or(ConfigError::Missing("VM_NAME"))?;
        check_name(&name).map_err(|error| ConfigError::Name(error.to_string()))?;
        let lines = paths(&lines.ok_or(ConfigError::Missing("DEV_NAME"))?)?;
        if kind == Kind::User && lines.len() != 1 {
            return Err(ConfigError::OneLine(lines.len()));
        }
        let trigger = |key, value: Option<String>| match value.map(PathBuf::from) {
            // In a User VM it has no meaning, and ACRN's own file has it there too.
            Some(value) if kind == Kind::Service && !lines.contains(&value) => {
                Err(ConfigError::Trigger { key, value })
            }
            value => Ok(value),
        };
        Ok(Self {
            kind,
            name,
            may_shut_down: trigger(KEYS[3], shutdown)?,
            may_reboot: trigger(KEYS[4], reboot)?,
            lines,
        })
    }
}

/// The value of each of [`KEYS`]; the last one counts where a key comes twice.
fn values(text: &str) -> Result<[Option<String>; 5], ConfigError> {
    let mut values: [Option<String>; 5] = Default::default();
    for (number, text) in text.lines().enumerate() {
        let (line, text) = (number + 1, text.trim());
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (key, value) = text.split_once('=').ok_or_else(|| ConfigError::Form {
            line,
            text: text.to_owned(),
        })?;
        let key = key.trim();
        let slot = KEYS.iter().position(|known| *known == key);
        let slot = slot.and_then(|index| values.get_mut(index));
        *slot.ok_or_else(|| ConfigError::Key {
            line,
            key: key.to_owned(),
        })? = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
    }
    Ok(values)
}

fn paths(value: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let wrong = || ConfigError::Lines(value.to_owned());
    let list = value.strip_prefix("tty:").ok_or_else(wrong)?;
    let paths: Vec<PathBuf> = list.split(',').map(|path| path.trim().into()).collect();
    if paths.iter().all(|path| path.is_absolute()) {
        Ok(paths)
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACRN: &str = "# comment\nVM_TYPE=service_vm\nVM_NAME=service_VM\n\
        DEV_NAME=tty:/dev/ttyS8,/dev/ttyS9,/dev/ttyS10\nALLOW_TRIGGER_S5=/dev/ttyS10\n\
        ALLOW_TRIGGER_SYSREBOOT=/dev/ttyS9\n";

    #[test]
    fn acrns_file_is_understood() {
        let config = Config::parse(ACRN).unwrap();
        assert_eq!(
            (config.kind, config.name.as_str()),
            (Kind::Service, "service_VM")
        );
        assert_eq!(config.lines.len(), 3);
        assert_eq!(config.may_shut_down, Some("/dev/ttyS10".into()));
        assert_eq!(config.may_reboot, Some("/dev/ttyS9".into()));
        let user = "VM_TYPE = user_vm\nVM_NAME=vm1\nDEV_NAME=tty:/dev/ttyS1\nALLOW_TRIGGER_S5=/x\n";
        assert_eq!(Config::parse(user).unwrap().kind, Kind::User);
    }

    #[test]
    fn mistakes_are_told_with_a_remedy() {
        for (from, to, word) in [
            ("VM_TYPE=service_vm", "VM_TYPE=sos", "service_vm or user_vm"),
            ("VM_TYPE=service_vm", "VM_TYPE=user_vm", "has 3 lines"),
            ("VM_TYPE=service_vm", "", "VM_TYPE is missing"),
            ("VM_NAME=service_VM", "VM_NAME=", "VM_NAME is missing"),
            ("VM_NAME=service_VM", "VM_NAME=a b", "no name"),
            ("VM_NAME=service_VM", "VM_NAME", "line 3"),
            ("VM_NAME", "VM_NAMES", "VM_NAMES is no key"),
            ("tty:/dev", "/dev", "use tty:"),
            ("/dev/ttyS9,", "ttyS9,", "absolute"),
            ("S5=/dev/ttyS10", "S5=/dev/ttyS11", "not in DEV_NAME"),
        ] {
            let error = Config::parse(&ACRN.replacen(from, to, 1)).unwrap_err();
            assert!(error.to_string().contains(word), "{to}: {error}");
        }
    }
}
