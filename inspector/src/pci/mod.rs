//! PCI functions as Linux lists them, and the tree of buses that they are on.

mod config;
mod names;

pub use config::{Capabilities, capabilities};

use std::collections::BTreeMap;

use acrn_config::xml::Element;

use crate::host::{Host, number};
use crate::memory::Range;
use crate::xml::{add, group, hex, hex_leaf, leaf, with};
use names::Names;

const DEVICES: &str = "/sys/bus/pci/devices";
/// Flags of a resource, as Linux has them.
const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
const PREFETCHABLE: u64 = 0x2000;
const WIDE: u64 = 0x10_0000;

/// A window of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Number, from 0.
    pub number: usize,
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
    /// Linux's flags.
    pub flags: u64,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Linux's name, such as `0000:00:1f.3`.
    pub name: String,
    /// Segment, bus, device and function.
    pub place: (u16, u8, u8, u8),
    /// Vendor and device.
    pub id: (u16, u16),
    /// Subsystem's vendor and device.
    pub subsystem: (u16, u16),
    /// Class code.
    pub class: u32,
    /// Its windows.
    pub bars: Vec<Bar>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The bus behind it, if it is a bridge.
    pub secondary: Option<u8>,
    /// Interrupt that it has.
    pub irq: u64,
    /// Its path in ACPI's namespace.
    pub acpi_path: Option<String>,
}

impl Function {
    /// Bus, device and function as people write them.
    pub fn bdf(&self) -> String {
        let (_, bus, device, function) = self.place;
        format!("{bus:02x}:{device:02x}.{function}")
    }

    /// Place, class and name.
    pub fn description(&self, names: &Names) -> String {
        let (class, name) = (names.class(self.class), names.device(self.id));
        format!("{} {class}: {name}", self.bdf())
    }
}

/// All functions.
pub fn functions(host: &Host) -> Vec<Function> {
    let names = host.names(DEVICES);
    if names.is_empty() {
        let meaning = "no device can be passed through";
        host.gap(DEVICES, "there is no PCI device", meaning);
    }
    let mut all: Vec<Function> = names
        .iter()
        .filter_map(|name| function(host, name))
        .collect();
    all.sort_by_key(|function| function.place);
    let elsewhere = all.iter().filter(|function| function.place.0 != 0).count();
    if elsewhere > 0 {
        let reason = format!("{elsewhere} PCI functions are on other segments than 0");
        let meaning = "they are left out, since VMs cannot have them: switch VMD off in the \
                       firmware's settings";
        host.gap("PCI segments", &reason, meaning);
        all.retain(|function| function.place.0 == 0);
    }
    all
}

fn function(host: &Host, name: &str) -> Option<Function> {
    let path = |file: &str| format!("{DEVICES}/{name}/{file}");
    let read = |file: &str| host.number(&path(file));
    let short = |file: &str| read(file).and_then(|value| u16::try_from(value).ok());
    let config = host.bytes(&path("config")).unwrap_or_default();
    let class = read("class").and_then(|class| u32::try_from(class).ok())?;
    let bridge = class >> 8 == 0x0604;
    Some(Function {
        name: name.to_owned(),
        place: place(name)?,
        id: (short("vendor")?, short("device")?),
        subsystem: (
            short("subsystem_vendor").unwrap_or(0),
            short("subsystem_device").unwrap_or(0),
        ),
        class,
        bars: bars(&host.text(&path("resource")).unwrap_or_default()),
        capabilities: capabilities(&config),
        secondary: config.get(0x19).copied().filter(|&bus| bridge && bus != 0),
        irq: read("irq").unwrap_or(0),
        acpi_path: host.text(&path("firmware_node/path")),
    })
}

fn place(name: &str) -> Option<(u16, u8, u8, u8)> {
    let (segment, rest) = name.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    Some((
        u16::from_str_radix(segment, 16).ok()?,
        u8::from_str_radix(bus, 16).ok()?,
        u8::from_str_radix(device, 16)
            .ok()
            .filter(|&device| device < 32)?,
        function.parse().ok().filter(|&function| function < 8)?,
    ))
}

/// The windows in Linux's file `resource`: first and last address and flags, a line each.
fn bars(text: &str) -> Vec<Bar> {
    let bar = |(index, line): (usize, &str)| {
        let mut words = line.split_whitespace().map(number);
        let (first, last, flags) = (words.next()??, words.next()??, words.next()??);
        let used = flags & (IO | MEMORY) != 0 && first <= last && last != 0;
        used.then_some(Bar {
            number: index,
            first,
            last,
            flags,
        })
    };
    text.lines().take(6).enumerate().filter_map(bar).collect()
}

/// The element `bus` of the root bus, with everything below it.
pub fn tree(host: &Host, functions: &[Function], windows: &[Range]) -> Element {
    let mut by_bus: BTreeMap<u8, Vec<&Function>> = BTreeMap::new();
    for function in functions {
        by_bus.entry(function.place.1).or_default().push(function);
    }
    let names = Names::load(host);
    let mut root = with(
        "bus",
        &[("id", "PNP0A08"), ("type", "pci"), ("address", "0x0")],
    );
    let path = host.text("/sys/devices/pci0000:00/firmware_node/path");
    root.add(leaf(
        "acpi_object",
        path.as_deref().unwrap_or(r"\_SB_.PCI0"),
    ));
    let own = windows
        .iter()
        .filter(|window| window.name == "PCI Bus 0000:00");
    add(
        &mut root,
        own.enumerate()
            .map(|(index, window)| root_window(index, window)),
    );
    let mut usb = crate::classes::usb_by_controller(host);
    let mut tree = Tree {
        by_bus: &by_bus,
        names: &names,
        usb: &mut usb,
    };
    add(&mut root, tree.bus(0, 0));
    // Buses that no bridge leads to: those of further host bridges.
    let behind: Vec<u8> = functions
        .iter()
        .filter_map(|function| function.secondary)
        .collect();
    let others = by_bus
        .keys()
        .copied()
        .filter(|bus| *bus != 0 && !behind.contains(bus));
    let mut further = Vec::new();
    for bus in others {
        let mut element = with("bus", &[("type", "pci"), ("address", &hex(bus))]);
        add(&mut element, tree.bus(bus, 0));
        further.push(element);
    }
    let mut system = with("bus", &[("type", "system")]);
    system.add(leaf("acpi_object", r"\_SB_"));
    system.add(root);
    add(&mut system, further);
    system
}

fn root_window(index: usize, window: &Range) -> Element {
    // Ports come from another map, and are 16 bits wide.
    let kind = if window.last <= 0xffff {
        "io_port"
    } else {
        "memory"
    };
    let (id, first, last) = (format!("res{index}"), hex(window.first), hex(window.last));
    let length = hex(window.size());
    let attributes = [
        ("id", id.as_str()),
        ("type", kind),
        ("min", &first),
        ("max", &last),
        ("len", &length),
    ];
    with("resource", &attributes)
}

/// Bridges may be wired in a circle by a broken list; no bus is deeper.
const DEEPEST: usize = 16;

struct Tree<'a> {
    by_bus: &'a BTreeMap<u8, Vec<&'a Function>>,
    names: &'a Names,
    usb: &'a mut BTreeMap<String, Vec<Element>>,
}

impl Tree<'_> {
    fn bus(&mut self, bus: u8, depth: usize) -> Vec<Element> {
        let functions = self.by_bus.get(&bus).cloned().unwrap_or_default();
        functions
            .iter()
            .map(|function| self.device(function, depth))
            .collect()
    }

    fn device(&mut self, function: &Function, depth: usize) -> Element {
        let (_, _, device, number) = function.place;
        let address = hex(u64::from(device) << 16 | u64::from(number));
        let (id, description) = (hex(function.id.1), function.description(self.names));
        let attributes = [
            ("address", address.as_str()),
            ("id", &id),
            ("description", &description),
        ];
        let mut element = with("device", &attributes);
        element.add(hex_leaf("vendor", function.id.0));
        element.add(hex_leaf("identifier", function.id.1));
        if function.subsystem != (0, 0) {
            element.add(hex_leaf("subsystem_vendor", function.subsystem.0));
            element.add(hex_leaf("subsystem_identifier", function.subsystem.1));
        }
        element.add(leaf("class", format!("{:#08x}", function.class)));
        add(
            &mut element,
            function
                .acpi_path
                .as_ref()
                .map(|path| leaf("acpi_object", path)),
        );
        if let Some(secondary) = function.secondary {
            element.add(hex_leaf("secondary_bus", secondary));
        }
        add(&mut element, function.bars.iter().map(bar_element));
        add(
            &mut element,
            function
                .capabilities
                .names
                .iter()
                .map(|name| capability(name, function)),
        );
        add(
            &mut element,
            self.usb.remove(&function.name).unwrap_or_default(),
        );
        if let Some(secondary) = function.secondary.filter(|_| depth < DEEPEST) {
            let mut bus = with("bus", &[("type", "pci"), ("address", &hex(secondary))]);
            add(&mut bus, self.bus(secondary, depth + 1));
            element.add(bus);
        }
        element
    }
}

fn bar_element(bar: &Bar) -> Element {
    let io = bar.flags & IO != 0;
    let (first, last) = (hex(bar.first), hex(bar.last));
    let length = hex((bar.last - bar.first).saturating_add(1));
    let id = format!("bar{}", bar.number);
    let kind = if io { "io_port" } else { "memory" };
    let mut element = with(
        "resource",
        &[
            ("type", kind),
            ("min", &first),
            ("max", &last),
            ("len", &length),
            ("id", &id),
        ],
    );
    if !io {
        let wide = if bar.flags & WIDE != 0 { "64" } else { "32" };
        let prefetchable = if bar.flags & PREFETCHABLE != 0 {
            "1"
        } else {
            "0"
        };
        element.set_attribute("width", wide);
        element.set_attribute("prefetchable", prefetchable);
    }
    element
}

fn capability(name: &str, function: &Function) -> Element {
    let mut element = with("capability", &[("id", name)]);
    let size = function
        .capabilities
        .msix_entries
        .filter(|_| name == "MSI-X");
    add(&mut element, size.map(|size| leaf("table_size", size)));
    element
}

/// What `lspci` would say: the texts `PCI_DEVICE` and `PCI_VID_PID`.
pub fn texts(host: &Host, functions: &[Function]) -> (String, String) {
    let names = Names::load(host);
    let (mut devices, mut ids) = (String::new(), String::new());
    for function in functions {
        devices.push_str(&format!("\n    {}", function.description(&names)));
        for bar in &function.bars {
            devices.push_str(&format!("\n    \t{}", region(bar)));
        }
        let (vendor, device) = function.id;
        let class = function.class >> 8;
        ids.push_str(&format!(
            "\n    {} {class:04x}: {vendor:04x}:{device:04x}",
            function.bdf()
        ));
    }
    (devices, ids)
}

fn region(bar: &Bar) -> String {
    let size = (bar.last - bar.first).saturating_add(1);
    let size = match size {
        0x10_0000.. => format!("{}M", size >> 20),
        0x400.. => format!("{}K", size >> 10),
        _ => size.to_string(),
    };
    if bar.flags & IO != 0 {
        return format!(
            "Region {}: I/O ports at {:x} [size={size}]",
            bar.number, bar.first
        );
    }
    let wide = if bar.flags & WIDE != 0 { "64" } else { "32" };
    let non = if bar.flags & PREFETCHABLE != 0 {
        ""
    } else {
        "non-"
    };
    let (number, first) = (bar.number, bar.first);
    format!("Region {number}: Memory at {first:x} ({wide}-bit, {non}prefetchable) [size={size}]")
}

/// The devices of the machine: PCI's tree, and what ACPI declares beside it.
pub fn devices(
    host: &Host,
    functions: &[Function],
    windows: &[Range],
    acpi: Vec<Element>,
) -> Element {
    let mut system = tree(host, functions, windows);
    add(&mut system, acpi);
    group("devices", [system])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_are_places() {
        assert_eq!(place("0000:00:1f.3"), Some((0, 0, 0x1f, 3)));
        assert_eq!(place("10000:e1:00.0"), None);
        for bad in ["", "0000:00:20.0", "0000:00:00.8", "0000:00", "x:00:00.0"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }

    #[test]
    fn windows_are_read_with_their_kind() {
        let text = "0x00000000febd4000 0x00000000febd7fff 0x0000000000040200\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x000000000000c080 0x000000000000c09f 0x0000000000040101\n\
            0x0000006000000000 0x000000600fffffff 0x000000000014220c\nnonsense\n";
        let bars = bars(text);
        let numbers: Vec<usize> = bars.iter().map(|bar| bar.number).collect();
        assert_eq!(numbers, [0, 2, 3]);
        assert_eq!(
            region(&bars[0]),
            "Region 0: Memory at febd4000 (32-bit, non-prefetchable) [size=16K]"
        );
        assert_eq!(region(&bars[1]), "Region 2: I/O ports at c080 [size=32]");
        assert_eq!(
            region(&bars[2]),
            "Region 3: Memory at 6000000000 (64-bit, prefetchable) [size=256M]"
        );
        assert_eq!(bar_element(&bars[2]).attribute("width"), Some("64"));
    }
}
