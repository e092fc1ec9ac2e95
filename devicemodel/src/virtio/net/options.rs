//! Options of `virtio-net`: `tap=NAME[,vhost][,mac=M|mac_seed=S][,mq=N]`.

use std::fmt;
use std::str::FromStr;

use crate::pci::DeviceError;
use crate::virtio::hash::fnv1a;
use crate::virtio::options::{DeviceOption, OptionList, refuse};

/// Name of the device in errors.
pub const NAME: &str = "virtio-net";
/// Most pairs of queues.
pub const MOST_PAIRS: u16 = 16;
/// Longest name of a network interface (`IFNAMSIZ` without the final zero).
const LONGEST_NAME: usize = 15;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// An address in the range that virtual machines use (00:16:3E), from `parts` that tell
    /// this card from all others: the host, the VM, the slot, a seed. The same parts give the
    /// same address.
    pub fn derived(parts: &[&[u8]]) -> Self {
        // The length of each part goes in, too, so that "ab","c" differs from "a","bc".
        let text: Vec<u8> = parts
            .iter()
            .flat_map(|part| {
                (part.len() as u32)
                    .to_le_bytes()
                    .into_iter()
                    .chain(part.iter().copied())
            })
            .collect();
        let hash = fnv1a(&text);
        let folded = hash ^ hash >> 24 ^ hash >> 48;
        let [a, b, c, ..] = folded.to_le_bytes();
        Self([0x00, 0x16, 0x3e, a, b, c])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ();

    /// Six hexadecimal bytes with colons; the address of a single card, not zero.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let digits = parts
                .next()
                .filter(|part| (1..=2).contains(&part.len()))
                .ok_or(())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ())?;
        }
        let usable = parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6];
        if usable { Ok(Self(bytes)) } else { Err(()) }
    }
}

/// The options as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetOptions {
    /// Name of the TAP interface.
    pub tap: String,
    /// Let the Service VM's kernel move the packets.
    pub vhost: bool,
    /// The address, if given.
    pub mac: Option<Mac>,
    /// What to derive the address from, if given.
    pub seed: Option<String>,
    /// Number of queue pairs.
    pub pairs: u16,
}

impl NetOptions {
    /// Reads the option string.
    ///
    /// # Errors
    /// The first option that is not understood, or a missing name.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let mut options = Self {
            pairs: 1,
            ..Self::default()
        };
        for option in OptionList::new(text) {
            options.take(option)?;
        }
        if options.tap.is_empty() {
            return Err(refuse(
                NAME,
                text,
                "name the interface with tap=NAME".into(),
            ));
        }
        Ok(options)
    }

    fn take(&mut self, option: DeviceOption<'_>) -> Result<(), DeviceError> {
        let wrong = |remedy: &str| Err(refuse(NAME, option.text, remedy.to_owned()));
        match (option.key, option.value) {
            ("tap", Some(name)) => self.tap = interface_name(option, name)?,
            ("vhost", None) => self.vhost = true,
            ("mac", Some(text)) => match text.parse() {
                Ok(mac) => self.mac = Some(mac),
                Err(()) => return wrong("write a unicast address such as mac=00:16:3e:12:34:56"),
            },
            ("mac_seed", Some(seed)) => self.seed = Some(seed.to_owned()),
            ("mq", Some(count)) => match count.parse() {
                Ok(count @ 1..=MOST_PAIRS) => self.pairs = count,
                _ => return wrong("the number of queue pairs is 1 to 16"),
            },
            // Old launch scripts write the bare name first.
            (name, None) if self.tap.is_empty() => self.tap = interface_name(option, name)?,
            _ => return wrong("it takes tap=NAME, vhost, mac=, mac_seed= and mq="),
        }
        Ok(())
    }
}

fn interface_name(option: DeviceOption<'_>, name: &str) -> Result<String, DeviceError> {
    let fits = (1..=LONGEST_NAME).contains(&name.len());
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if fits && plain {
        return Ok(name.to_owned());
    }
    let remedy = "an interface name has 1 to 15 printable characters without / : and %";
    Err(refuse(NAME, option.text, remedy.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_launch_scripts_are_read() {
        let options = NetOptions::parse("tap=tap_YaaG3,vhost,mac=00:16:3E:39:0f:cd,mq=2").unwrap();
        let mac = Some(Mac([0, 0x16, 0x3e, 0x39, 0x0f, 0xcd]));
        let expected = NetOptions {
            tap: "tap_YaaG3".into(),
            vhost: true,
            mac,
            seed: None,
            pairs: 2,
        };
        assert_eq!(options, expected);
        assert_eq!(NetOptions::parse("tap0,mac_seed=x").unwrap().tap, "tap0");
    }

    #[test]
    fn each_mistake_is_named_with_a_remedy() {
        for (text, named) in [
            ("", "tap=NAME"),
            ("tap=sixteencharacter", "1 to 15"),
            ("tap=a/b", "without /"),
            ("tap=t,mac=01:00:00:00:00:01", "unicast"),
            ("tap=t,mac=00:16:3e:1", "unicast"),
            ("tap=t,mac=00:00:00:00:00:00", "unicast"),
            ("tap=t,mq=17", "1 to 16"),
            ("tap=t,fast", "mac_seed"),
        ] {
            let error = NetOptions::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn derived_addresses_are_stable_and_differ_by_each_part() {
        let base = Mac::derived(&[b"host", b"vm1", b"3"]);
        assert_eq!(base, Mac::derived(&[b"host", b"vm1", b"3"]));
        assert_eq!(base.0[..3], [0x00, 0x16, 0x3e]);
        let others = [
            Mac::derived(&[b"host", b"vm2", b"3"]),
            Mac::derived(&[b"host", b"vm1", b"4"]),
            Mac::derived(&[b"hos", b"tvm1", b"3"]),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn a_thousand_machines_have_a_thousand_addresses() {
        let all: std::collections::HashSet<_> = (0..1000)
            .map(|n| Mac::derived(&[b"host", format!("vm{n}").as_bytes(), &[3]]).0)
            .collect();
        assert_eq!(all.len(), 1000);
    }
}
