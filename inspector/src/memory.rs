//! RAM and the windows of PCI buses, from the address maps that Linux prints.

use acrn_config::xml::Element;

use crate::host::Host;
use crate::xml::{group, hex, with};

/// A range of addresses and what Linux calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
    /// What it is.
    pub name: String,
}

impl Range {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

/// The outermost ranges of a map such as `/proc/iomem`, with the windows of buses wherever they are.
pub fn ranges(map: &str) -> Vec<Range> {
    let line = |line: &str| {
        let (range, name) = line.split_once(" : ")?;
        let inner = line.starts_with(' ') && !name.starts_with("PCI Bus");
        let (first, last) = range.trim().split_once('-')?;
        let (first, last) = (address(first)?, address(last)?);
        let name = name.trim().to_owned();
        (!inner && first <= last).then_some(Range { first, last, name })
    };
    map.lines().filter_map(line).collect()
}

fn address(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

/// What `/proc/iomem` says; Linux shows zeros to all but root.
pub fn map(host: &Host) -> String {
    let meaning =
        "PCI windows are not known, and RAM only as far as the firmware tells; run as root";
    let map = host.wanted_text("/proc/iomem", meaning).unwrap_or_default();
    let hidden = !map.is_empty() && ranges(&map).iter().all(|range| range.last == 0);
    if hidden {
        host.gap(
            "/proc/iomem",
            "all addresses are 0 for ordinary users",
            meaning,
        );
        return String::new();
    }
    map
}

/// RAM: of `/proc/iomem`, else of the firmware's map.
pub fn ram(host: &Host, map: &str) -> Vec<Range> {
    let is_ram = |range: &Range| range.name == "System RAM";
    let ram: Vec<Range> = ranges(map).into_iter().filter(is_ram).collect();
    if ram.is_empty() {
        firmware_map(host)
    } else {
        ram
    }
}

fn firmware_map(host: &Host) -> Vec<Range> {
    const MAP: &str = "/sys/firmware/memmap";
    let entry = |name: String| {
        let kind = host.text(&format!("{MAP}/{name}/type"))?;
        let first = host.number(&format!("{MAP}/{name}/start"))?;
        let last = host.number(&format!("{MAP}/{name}/end"))?;
        let name = "System RAM".to_owned();
        (kind == name && first <= last).then_some(Range { first, last, name })
    };
    let mut ram: Vec<Range> = host.names(MAP).into_iter().filter_map(entry).collect();
    ram.sort_by_key(|range| range.first);
    ram
}

/// The element `memory`.
pub fn memory(ram: &[Range]) -> Element {
    let range = |range: &Range| {
        let (first, last) = (hex(range.first), hex(range.last));
        let size = range.size().to_string();
        with(
            "range",
            &[("start", &first), ("end", &last), ("size", &size)],
        )
    };
    group("memory", ram.iter().map(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "00001000-0009fbff : System RAM\n\
        80000000-bfffffff : PCI Bus 0000:00\n  \
        80000000-800fffff : PCI Bus 0000:01\n    \
        80000000-80003fff : 0000:01:00.0\n\
        100000000-17fffffff : System RAM\nnonsense\nz-1 : x\n5-4 : x\n";

    #[test]
    fn the_map_is_read_with_buses_inside_of_buses() {
        let all = ranges(MAP);
        let names: Vec<&str> = all.iter().map(|range| range.name.as_str()).collect();
        let expected = [
            "System RAM",
            "PCI Bus 0000:00",
            "PCI Bus 0000:01",
            "System RAM",
        ];
        assert_eq!(names, expected);
        assert_eq!(all[3].size(), 2 << 30);
    }

    #[test]
    fn the_firmwares_map_serves_where_linux_hides_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/iomem", "00000000-00000000 : System RAM\n");
        for (file, text) in [
            ("type", "System RAM\n"),
            ("start", "0x1000\n"),
            ("end", "0x9ffff\n"),
        ] {
            write(&format!("sys/firmware/memmap/0/{file}"), text);
        }
        let host = Host::new(folder.path());
        let map = map(&host);
        let ram = ram(&host, &map);
        assert_eq!((ram.len(), ram[0].last), (1, 0x9ffff));
        assert!(host.gaps()[0].meaning.contains("root"));
    }
}
