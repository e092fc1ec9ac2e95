//! The older half of a board file: texts of various tools, C macros among them, as ACRN's tools expect
//! them.

use std::fmt::Write as _;

use acrn_config::xml::Element;

use crate::classes::Tty;
use crate::cpu::Thread;
use crate::host::Host;
use crate::inspect::Iommus;
use crate::memory::Range;
use crate::namespace::Namespace;
use crate::pci::Function;
use crate::tables::{self, DIRECTORY, Drhd, Power, Register};
use crate::xml::leaf;

/// What the texts are made of.
pub struct Facts<'a> {
    /// The machine.
    pub host: &'a Host,
    /// CPUs.
    pub threads: &'a [Thread],
    /// RAM.
    pub ram: &'a [Range],
    /// Linux's map of addresses.
    pub map: &'a str,
    /// PCI functions.
    pub functions: &'a [Function],
    /// Serial ports.
    pub ttys: &'a [Tty],
    /// ACPI's namespace.
    pub namespace: &'a Namespace,
    /// IOMMUs.
    pub iommus: &'a Iommus,
    /// Folders with disk images.
    pub images: &'a [String],
}

/// Interrupts of the two 8259s that a serial port can get.
const IRQS: std::ops::Range<u64> = 3..16;

/// All of them, in the order of the format.
pub fn texts(facts: &Facts<'_>) -> Vec<Element> {
    let host = facts.host;
    let fadt = host.bytes(&format!("{DIRECTORY}/FACP")).unwrap_or_default();
    let power = tables::power(&fadt);
    let (devices, ids) = crate::pci::texts(host, facts.functions);
    let cpus: Vec<String> = facts
        .threads
        .iter()
        .map(|thread| thread.id.to_string())
        .collect();
    let vectors = facts
        .functions
        .iter()
        .filter_map(|function| function.capabilities.msix_entries);
    let vectors = vectors.max().unwrap_or(0).to_string();
    let mut disks = crate::classes::disks(host);
    disks.extend(crate::classes::images(host, facts.images));
    let texts = [
        ("BIOS_INFO", firmware(host)),
        ("BASE_BOARD_INFO", base_board(host)),
        ("PCI_DEVICE", devices),
        ("PCI_VID_PID", ids),
        ("WAKE_VECTOR_INFO", lines(&wake_vector(&power))),
        ("RESET_REGISTER_INFO", lines(&reset(&power))),
        ("PM_INFO", lines(&power_registers(&power))),
        ("S3_INFO", lines(&sleep("S3", facts.namespace.sleep[0]))),
        ("S5_INFO", lines(&sleep("S5", facts.namespace.sleep[1]))),
        ("DRHD_INFO", lines(&iommus(&facts.iommus.intel))),
        ("IVRS_INFO", lines(&crate::ivrs::lines(&facts.iommus.amd))),
        ("CPU_BRAND", lines(&[format!("\"{}\"", host.cpuid.brand())])),
        ("CX_INFO", lines(&idle_states(host))),
        ("PX_INFO", lines(&frequencies(host))),
        ("MMCFG_BASE_INFO", lines(&mmcfg(host))),
        ("TPM_INFO", lines(&[tpm(host)])),
        ("CLOS_INFO", lines(&classes_of_service(host))),
        (
            "IOMEM_INFO",
            lines(&facts.map.lines().map(str::to_owned).collect::<Vec<_>>()),
        ),
        ("BLOCK_DEVICE_INFO", lines(&disks)),
        (
            "TTYS_INFO",
            lines(&facts.ttys.iter().filter_map(serial).collect::<Vec<_>>()),
        ),
        ("AVAILABLE_IRQ_INFO", lines(&[free_irqs(host)])),
        ("TOTAL_MEM_INFO", lines(&[memory(facts.ram)])),
        ("CPU_PROCESSOR_INFO", lines(&[cpus.join(", ")])),
        ("MAX_MSIX_TABLE_NUM", lines(&[vectors])),
    ];
    texts
        .into_iter()
        .map(|(name, text)| leaf(name, text + "\n  "))
        .collect()
}

/// A text as the format has it: each line on one of its own, indented.
fn lines(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = write!(text, "\n    {line}");
        text
    })
}

fn fact(host: &Host, name: &str) -> String {
    host.text(&format!("/sys/class/dmi/id/{name}"))
        .unwrap_or_default()
}

fn firmware(host: &Host) -> String {
    if !host.exists("/sys/class/dmi/id") {
        let meaning = "the board file does not say which board and firmware it is for";
        host.gap(
            "/sys/class/dmi/id",
            "the firmware has no SMBIOS tables",
            meaning,
        );
    }
    lines(&[
        "BIOS Information".to_owned(),
        format!("Vendor: {}", fact(host, "bios_vendor")),
        format!("Version: {}", fact(host, "bios_version")),
        format!("Release Date: {}", fact(host, "bios_date")),
    ])
}

fn base_board(host: &Host) -> String {
    let or = |first: String, second: &str| {
        if first.is_empty() {
            fact(host, second)
        } else {
            first
        }
    };
    lines(&[
        "Base Board Information".to_owned(),
        format!(
            "Manufacturer: {}",
            or(fact(host, "board_vendor"), "sys_vendor")
        ),
        format!(
            "Product Name: {}",
            or(fact(host, "board_name"), "product_name")
        ),
        format!("Version: {}", fact(host, "board_version")),
    ])
}

fn macro_line(name: &str, value: &str) -> String {
    format!("#define {name:<24} {value}")
}

/// The FACS has the waking vectors at 12 and at 24.
fn wake_vector(power: &Power) -> Vec<String> {
    if power.facs == 0 {
        return Vec::new();
    }
    [("WAKE_VECTOR_32", 12), ("WAKE_VECTOR_64", 24)]
        .map(|(name, offset)| {
            macro_line(name, &format!("{:#X}UL", power.facs.saturating_add(offset)))
        })
        .to_vec()
}

fn space(register: &Register) -> &'static str {
    match register.space {
        0 => "SPACE_SYSTEM_MEMORY",
        1 => "SPACE_SYSTEM_IO",
        2 => "SPACE_PCI_CONFIG",
        _ => "SPACE_FFixedHW",
    }
}

fn reset(power: &Power) -> Vec<String> {
    let Some((register, value)) = &power.reset else {
        return Vec::new();
    };
    vec![
        macro_line(
            "RESET_REGISTER_ADDRESS",
            &format!("{:#X}UL", register.address),
        ),
        macro_line("RESET_REGISTER_SPACE_ID", space(register)),
        macro_line("RESET_REGISTER_VALUE", &format!("{value:#X}U")),
    ]
}

fn power_registers(power: &Power) -> Vec<String> {
    let [event_a, event_b] = &power.events;
    let [control_a, control_b] = &power.controls;
    let registers = [
        ("PM1A_EVT", event_a),
        ("PM1B_EVT", event_b),
        ("PM1A_CNT", control_a),
        ("PM1B_CNT", control_b),
    ];
    let lines = |(name, register): (&str, &Register)| {
        vec![
            macro_line(&format!("{name}_SPACE_ID"), space(register)),
            macro_line(
                &format!("{name}_BIT_WIDTH"),
                &format!("{:#X}U", register.width),
            ),
            macro_line(
                &format!("{name}_BIT_OFFSET"),
                &format!("{:#X}U", register.offset),
            ),
            macro_line(
                &format!("{name}_ADDRESS"),
                &format!("{:#X}UL", register.address),
            ),
            macro_line(
                &format!("{name}_ACCESS_SIZE"),
                &format!("{:#X}U", register.access),
            ),
        ]
    };
    registers.into_iter().flat_map(lines).collect()
}

fn sleep(name: &str, values: Option<(u64, u64)>) -> Vec<String> {
    let (a, b) = values.unwrap_or_default();
    let value = |value: u64| format!("{value:#x}U");
    vec![
        macro_line(&format!("{name}_PKG_VAL_PM1A"), &value(a)),
        macro_line(&format!("{name}_PKG_VAL_PM1B"), &value(b)),
        macro_line(&format!("{name}_PKG_RESERVED"), &value(0)),
    ]
}

fn iommus(units: &[Drhd]) -> Vec<String> {
    let mut all = vec![macro_line("DRHD_COUNT", &format!("{}U", units.len()))];
    for (number, unit) in units.iter().enumerate() {
        let own = |name: &str, value: String| macro_line(&format!("DRHD{number}_{name}"), &value);
        all.push(own("DEV_CNT", format!("{:#X}U", unit.scopes.len())));
        all.push(own("SEGMENT", format!("{:#X}U", unit.segment)));
        all.push(own("FLAGS", format!("{:#X}U", unit.flags)));
        all.push(own("REG_BASE", format!("{:#X}UL", unit.base)));
        all.push(own("IGNORE", "false".to_owned()));
        for (index, scope) in unit.scopes.iter().enumerate() {
            let own = |name: &str, value: u8| {
                own(&format!("DEVSCOPE{index}_{name}"), format!("{value:#X}U"))
            };
            let (device, function) = scope.path.first().copied().unwrap_or_default();
            all.push(own("TYPE", scope.kind));
            all.push(own("ID", scope.id));
            all.push(own("BUS", scope.bus));
            all.push(own("PATH", device << 3 | function & 7));
        }
    }
    all
}

fn idle_states(host: &Host) -> Vec<String> {
    const CPUIDLE: &str = "/sys/devices/system/cpu/cpu0/cpuidle";
    let state = |name: &String| host.text(&format!("{CPUIDLE}/{name}/name"));
    let states: Vec<String> = host.names(CPUIDLE).iter().filter_map(state).collect();
    if states.is_empty() {
        return vec!["/* Cx data is not available */".to_owned()];
    }
    states
        .iter()
        .map(|state| format!("/* {state} */"))
        .collect()
}

fn frequencies(host: &Host) -> Vec<String> {
    const CPUFREQ: &str = "/sys/devices/system/cpu/cpu0/cpufreq";
    let list = host.text(&format!("{CPUFREQ}/scaling_available_frequencies"));
    let khz: Vec<u64> = list
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(crate::host::number)
        .collect();
    if khz.is_empty() {
        return vec!["/* Px data is not available */".to_owned()];
    }
    let state = |khz: &u64| {
        format!(
            "{{{:#x}UL, 0x0UL, 0x0AUL, 0x0AUL, 0x0UL, 0x0UL}},",
            khz / 1000
        )
    };
    khz.iter().map(state).collect()
}

fn mmcfg(host: &Host) -> Vec<String> {
    let mcfg = host.bytes(&format!("{DIRECTORY}/MCFG")).unwrap_or_default();
    let base = tables::mmcfg_base(&mcfg);
    base.map(|base| macro_line("DEFAULT_PCI_MMCFG_BASE", &format!("{base:#x}UL")))
        .into_iter()
        .collect()
}

fn tpm(host: &Host) -> String {
    let there = host.exists(&format!("{DIRECTORY}/TPM2"));
    if there { "TPM2" } else { "no TPM device" }.to_owned()
}

fn classes_of_service(host: &Host) -> Vec<String> {
    let [_, levels, ..] = host.cpuid.leaf(0x10, 0);
    let resources = [(1, "L3", 1), (2, "L2", 2)]
        .into_iter()
        .filter(|(bit, ..)| levels >> bit & 1 == 1);
    let line = |(_, name, sub): (u32, &str, u32)| {
        let [mask, _, _, last] = host.cpuid.leaf(0x10, sub);
        let (bits, classes) = ((mask & 0x1f) + 1, (last & 0xffff) + 1);
        let all = u32::try_from((1_u64 << bits) - 1).unwrap_or(u32::MAX);
        vec![
            format!("rdt resources supported: {name}"),
            format!("rdt resource clos max: {classes}"),
            format!("rdt resource mask max: {all:#x}"),
        ]
    };
    let all: Vec<String> = resources.flat_map(line).collect();
    if all.is_empty() {
        vec!["clos is not supported".to_owned()]
    } else {
        all
    }
}

/// A line of `TTYS_INFO`; nothing for a file without a port.
fn serial(tty: &Tty) -> Option<String> {
    let (path, irq) = (&tty.path, tty.irq);
    let place = match (tty.port, tty.memory) {
        (port @ 1.., _) => format!("type:portio base:{port:#X}"),
        (0, memory @ 1..) => format!("type:mmio base:{memory:#X}"),
        (0, 0) => return None,
    };
    let card = tty
        .pci
        .as_ref()
        .map_or(String::new(), |bdf| format!(" bdf:\"{bdf}\""));
    (tty.kind != 0).then(|| format!("seri:{path} {place} irq:{irq}{card}"))
}

/// Interrupts that no driver has.
fn free_irqs(host: &Host) -> String {
    let meaning = "all interrupts are taken to be in use: serial lines between VMs are polled";
    let table = host.wanted_text("/proc/interrupts", meaning);
    let table = table.unwrap_or_default();
    let used: Vec<u64> = table
        .lines()
        .filter_map(|line| line.trim_start().split_once(':')?.0.parse().ok())
        .collect();
    let free = IRQS.filter(|irq| !table.is_empty() && !used.contains(irq));
    let free: Vec<String> = free.map(|irq| irq.to_string()).collect();
    free.join(", ")
}

/// All RAM, in KiB.
fn memory(ram: &[Range]) -> String {
    let bytes = ram
        .iter()
        .fold(0_u64, |sum, range| sum.saturating_add(range.size()));
    (bytes >> 10).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_ports_are_told_where_they_are() {
        let mut tty = Tty {
            path: "/dev/ttyS0".into(),
            kind: 4,
            port: 0x3f8,
            memory: 0,
            irq: 4,
            pci: None,
        };
        assert_eq!(
            serial(&tty).unwrap(),
            "seri:/dev/ttyS0 type:portio base:0x3F8 irq:4"
        );
        (tty.port, tty.memory, tty.pci) = (0, 0xfe00_0000, Some("00:1e.0".into()));
        let expected = "seri:/dev/ttyS0 type:mmio base:0xFE000000 irq:4 bdf:\"00:1e.0\"";
        assert_eq!(serial(&tty).unwrap(), expected);
        tty.kind = 0;
        assert_eq!(serial(&tty), None);
    }

    #[test]
    fn iommus_become_macros() {
        let unit = Drhd {
            flags: 1,
            segment: 0,
            base: 0xfed9_0000,
            scopes: vec![tables::Scope {
                kind: 3,
                id: 2,
                bus: 0xf0,
                path: vec![(0x1f, 7)],
            }],
        };
        let text = iommus(&[unit]).join("\n");
        for line in [
            "#define DRHD_COUNT               1U",
            "#define DRHD0_REG_BASE           0xFED90000UL",
            "#define DRHD0_DEVSCOPE0_PATH     0xFFU",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
