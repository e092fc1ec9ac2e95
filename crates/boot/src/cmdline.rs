//! The hypervisor's options on its command line.
//!
//! Words are separated by blanks. `uart=`, `loglevel=`, `config=`, `cpu_perf_policy=` and
//! `USE_INIT_IPI` are for the hypervisor. `console=`, `earlycon=`, `earlyprintk=` and whatever follows a bare `--` are
//! for the Service VM ([`guest_words`]). Nothing on the command line keeps the machine from
//! booting: what is not understood is collected, to be warned of, and has no effect.

use acrn_abi::{Bdf, Hpa};
use arrayvec::ArrayVec;
use core::fmt;

/// Most problems that are kept.
pub const MAX_PROBLEMS: usize = 16;
/// Highest log level.
pub const MAX_LOGLEVEL: u8 = 6;

const HYPERVISOR_KEYS: [&str; 5] = [
    "uart",
    "loglevel",
    "config",
    "cpu_perf_policy",
    "USE_INIT_IPI",
];
const GUEST_KEYS: [&str; 3] = ["console", "earlycon", "earlyprintk"];

/// Where the hypervisor's console is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uart {
    /// Nothing was said: the configuration or the default decides.
    #[default]
    Unspecified,
    /// Nowhere.
    Disabled,
    /// A 16550 at an I/O port.
    Port(u16),
    /// A 16550 in memory.
    Mmio(Hpa),
    /// A PCI device.
    Pci(Bdf),
}

/// Something on the command line that has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem<'a> {
    /// Nobody knows this word.
    Unknown(&'a str),
    /// A known key with a value that is wrong.
    BadValue {
        /// The key.
        key: &'a str,
        /// The value.
        value: &'a str,
        /// What would be right.
        expected: &'static str,
    },
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "unknown option `{word}` on the command line"),
            Self::BadValue {
                key,
                value,
                expected,
            } => {
                write!(
                    f,
                    "`{value}` is no value for option `{key}`: {expected} expected"
                )
            }
        }
    }
}

/// The options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// `uart=port@HEX`, `mmio@HEX`, `bdf@HEX` (or `bdf@BB:DD.F`) or `disabled`.
    pub uart: Uart,
    /// `loglevel=N`, 0 to 6.
    pub loglevel: Option<u8>,
    /// `config=strict`: without a configuration in order no VM starts.
    pub strict: bool,
    /// `cpu_perf_policy=Performance` (true) or `Nominal` (false).
    pub performance: Option<bool>,
    /// `USE_INIT_IPI`: kick CPUs with INIT instead of an interrupt.
    pub use_init_ipi: bool,
    /// What had no effect; later ones are lost when it is full.
    pub problems: ArrayVec<Problem<'a>, MAX_PROBLEMS>,
}

impl<'a> Options<'a> {
    /// Reads a command line. Of a repeated option the last one counts.
    pub fn parse(cmdline: &'a str) -> Self {
        let mut options = Self::default();
        for (index, word) in cmdline.split_ascii_whitespace().enumerate() {
            if word == "--" {
                break;
            }
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let known = HYPERVISOR_KEYS.contains(&key);
            let for_guest = GUEST_KEYS.contains(&key);
            // Some loaders put the name of the image in front.
            let image = index == 0 && !known && !for_guest && !word.contains('=');
            if image || for_guest {
                continue;
            }
            if let Some(problem) = options.take(word, key, value) {
                // A full list has made its point.
                let _ = options.problems.try_push(problem);
            }
        }
        options
    }

    fn take(&mut self, word: &'a str, key: &'a str, value: &'a str) -> Option<Problem<'a>> {
        let bad = |expected| {
            Some(Problem::BadValue {
                key,
                value,
                expected,
            })
        };
        match key {
            "uart" => match uart(value) {
                Some(uart) => self.uart = uart,
                None => return bad("port@HEX, mmio@HEX, bdf@HEX or disabled"),
            },
            "loglevel" => match value.parse().ok().filter(|&level| level <= MAX_LOGLEVEL) {
                Some(level) => self.loglevel = Some(level),
                None => return bad("a number from 0 to 6"),
            },
            "config" => match value {
                "strict" => self.strict = true,
                _ => return bad("strict"),
            },
            "cpu_perf_policy" => match value {
                "Performance" => self.performance = Some(true),
                "Nominal" => self.performance = Some(false),
                _ => return bad("Performance or Nominal"),
            },
            "USE_INIT_IPI" if word == key => self.use_init_ipi = true,
            _ => return Some(Problem::Unknown(word)),
        }
        None
    }
}

fn uart(value: &str) -> Option<Uart> {
    if value == "disabled" {
        return Some(Uart::Disabled);
    }
    let (kind, place) = value.split_once('@')?;
    match kind {
        "port" => {
            let port = u16::try_from(hex(place)?).ok()?;
            // The eight registers must fit.
            (1..=0xFFF8).contains(&port).then_some(Uart::Port(port))
        }
        "mmio" => {
            let address = Hpa(hex(place)?);
            (address.0 != 0 && address.is_aligned(4) && address.0 < 1 << 52)
                .then_some(Uart::Mmio(address))
        }
        "bdf" => bdf(place).map(Uart::Pci),
        _ => None,
    }
}

fn bdf(text: &str) -> Option<Bdf> {
    let Some((bus, rest)) = text.split_once(':') else {
        return u16::try_from(hex(text)?).ok().map(Bdf);
    };
    let (device, function) = rest.split_once('.')?;
    let bus = u8::try_from(hex(bus)?).ok()?;
    let device = u8::try_from(hex(device)?).ok().filter(|&d| d < 32)?;
    let function = u8::try_from(hex(function)?).ok().filter(|&f| f < 8)?;
    Some(Bdf::new(bus, device, function))
}

/// A hexadecimal number, with or without `0x`.
fn hex(text: &str) -> Option<u64> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    // `from_str_radix` would take a sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Value of the last `key=value`, or `""` for a bare `key`; `None` when there is neither.
pub fn lookup<'a>(cmdline: &'a str, key: &str) -> Option<&'a str> {
    cmdline.split_ascii_whitespace().rev().find_map(|word| {
        let (found, value) = word.split_once('=').unwrap_or((word, ""));
        (found == key).then_some(value)
    })
}

/// The words that go to the Service VM, in order.
pub fn guest_words(cmdline: &str) -> impl Iterator<Item = &str> {
    let mut after_dashes = false;
    cmdline.split_ascii_whitespace().filter(move |word| {
        if after_dashes {
            return true;
        }
        after_dashes = *word == "--";
        let key = word.split_once('=').map_or(*word, |(key, _)| key);
        GUEST_KEYS.contains(&key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_of_uart_is_understood() {
        let uart = |text| Options::parse(text).uart;
        assert_eq!(uart("uart=port@0x3F8"), Uart::Port(0x3F8));
        assert_eq!(uart("uart=port@2f8"), Uart::Port(0x2F8));
        assert_eq!(uart("uart=mmio@0xFE034000"), Uart::Mmio(Hpa(0xFE03_4000)));
        assert_eq!(uart("uart=bdf@0xF8"), Uart::Pci(Bdf::new(0, 0x1F, 0)));
        assert_eq!(uart("uart=bdf@00:1e.2"), Uart::Pci(Bdf::new(0, 0x1E, 2)));
        assert_eq!(uart("uart=disabled"), Uart::Disabled);
        assert_eq!(uart(""), Uart::Unspecified);
    }

    #[test]
    fn a_wrong_value_has_no_effect_and_is_reported_with_its_key() {
        for value in [
            "",
            "port@",
            "port@0",
            "port@1FFFF",
            "mmio@3",
            "bdf@0:20.0",
            "usb@1",
            "port@+1",
        ] {
            let text = format!("uart={value}");
            let options = Options::parse(&text);
            assert_eq!(options.uart, Uart::Unspecified, "{value}");
            assert!(
                matches!(
                    options.problems[..],
                    [Problem::BadValue { key: "uart", .. }]
                ),
                "{value}"
            );
        }
        assert_eq!(Options::parse("x loglevel=7").problems.len(), 1);
    }

    #[test]
    fn the_name_of_the_image_in_front_is_no_option() {
        let options = Options::parse("/boot/acrn.bin loglevel=3 USE_INIT_IPI what=1 ever");
        assert_eq!((options.loglevel, options.use_init_ipi), (Some(3), true));
        assert_eq!(
            options.problems[..],
            [Problem::Unknown("what=1"), Problem::Unknown("ever")]
        );
    }

    #[test]
    fn a_configuration_can_be_demanded() {
        assert!(Options::parse("config=strict").strict);
        for text in ["", "config", "config=lax"] {
            let options = Options::parse(text);
            assert!(!options.strict, "{text}");
            assert_eq!(options.problems.len(), usize::from(!text.is_empty()));
        }
    }

    #[test]
    fn the_service_vm_gets_its_console_and_what_follows_the_dashes() {
        let text = "uart=disabled console=ttyS0 -- quiet root=/dev/sda";
        let words: Vec<_> = guest_words(text).collect();
        assert_eq!(words, ["console=ttyS0", "quiet", "root=/dev/sda"]);
        assert!(Options::parse(text).problems.is_empty());
    }

    #[test]
    fn the_last_of_several_counts() {
        assert_eq!(lookup("a=1 b a=2", "a"), Some("2"));
        assert_eq!(lookup("a=1 b a=2", "b"), Some(""));
        assert_eq!(lookup("a=1", "c"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", value in "\\PC{0,40}") {
            Options::parse(&text);
            let option = format!("uart={value}");
            Options::parse(&option);
            guest_words(&text).count();
        }
    }
}
