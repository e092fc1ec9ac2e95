//! ACPI's namespace: the devices that the firmware declares, and its sleep states.

use acrn_config::xml::Element;

use crate::aml::{Value, declarations};
use crate::host::Host;
use crate::tables::DIRECTORY;
use crate::xml::{add, leaf, with};

/// Where Linux shows devices.
const LINUX: &str = "/sys/bus/acpi/devices";
/// Length of a table's header.
const HEADER: usize = 36;

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiDevice {
    /// Its path, such as `\_SB_.PC00`.
    pub path: String,
    /// Hardware id.
    pub hid: Option<String>,
    /// Unique id.
    pub uid: Option<String>,
}

/// What the tables declare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Devices, in the order of their paths.
    pub devices: Vec<AcpiDevice>,
    /// Values that suspend the machine (S3) and switch it off (S5), for the two control blocks.
    pub sleep: [Option<(u64, u64)>; 2],
}

/// What the tables declare, and devices that exist under conditions or have computed ids, as far as Linux, which has
/// executed the tables, shows them.
pub fn read(host: &Host) -> Namespace {
    let mut namespace = declared(host);
    for found in executed(host) {
        let devices = &mut namespace.devices;
        match devices.binary_search_by(|device| device.path.cmp(&found.path)) {
            Ok(index) => {
                let device = &mut devices[index];
                device.hid = device.hid.take().or(found.hid);
                device.uid = device.uid.take().or(found.uid);
            }
            Err(index) => devices.insert(index, found),
        }
    }
    namespace
}

/// Devices that Linux has found to be there.
fn executed(host: &Host) -> Vec<AcpiDevice> {
    let device = |name: String| {
        let text = |file: &str| host.text(&format!("{LINUX}/{name}/{file}"));
        let hid = text("hid")?;
        // Linux's own names are for what has none.
        let is_there = !hid.starts_with("LNX") && text("status").is_none_or(|status| status != "0");
        let path = text("path").filter(|path| path.starts_with('\\'))?;
        is_there.then(|| AcpiDevice {
            path,
            hid: Some(hid),
            uid: text("uid"),
        })
    };
    host.names(LINUX).into_iter().filter_map(device).collect()
}

/// Reads the main table and those that add to it.
fn declared(host: &Host) -> Namespace {
    let meaning = "ACPI devices and sleep states are missing in the board file; the rest is complete; run as \
                   root";
    let Some(dsdt) = host.wanted(&format!("{DIRECTORY}/DSDT"), meaning) else {
        return Namespace::default();
    };
    let names = host.names(DIRECTORY).into_iter();
    let further = names.filter(|name| name.starts_with("SSDT"));
    let mut tables = vec![("DSDT".to_owned(), dsdt)];
    tables.extend(further.filter_map(|name| {
        let bytes = host.bytes(&format!("{DIRECTORY}/{name}")).ok()?;
        Some((name, bytes))
    }));
    let (mut devices, mut values) = (Vec::new(), Vec::new());
    for (name, bytes) in &tables {
        let found = declarations(bytes.get(HEADER..).unwrap_or_default());
        if found.broken > 0 {
            let reason = format!(
                "{} blocks cannot be read without executing them",
                found.broken
            );
            let meaning = "devices that they declare may be missing in the board file";
            host.gap(&format!("AML of {name}"), &reason, meaning);
        }
        devices.extend(found.devices);
        values.extend(found.values);
    }
    namespace(devices, &values)
}

fn namespace(mut paths: Vec<String>, values: &[(String, Value)]) -> Namespace {
    paths.sort();
    paths.dedup();
    let value = |path: &str| {
        values
            .iter()
            .find(|(name, _)| name == path)
            .map(|(_, value)| value)
    };
    let device = |path: String| AcpiDevice {
        hid: value(&format!("{path}._HID")).and_then(hardware_id),
        uid: value(&format!("{path}._UID")).and_then(unique_id),
        path,
    };
    let sleep = [value(r"\_S3_"), value(r"\_S5_")].map(|value| value.and_then(sleep));
    Namespace {
        devices: paths.into_iter().map(device).collect(),
        sleep,
    }
}

fn hardware_id(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(eisa(*number)),
        Value::Text(text) => Some(text.clone()),
        Value::Package(_) | Value::Other => None,
    }
}

fn unique_id(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::Text(text) => Some(text.clone()),
        Value::Package(_) | Value::Other => None,
    }
}

/// A compressed id, such as 0x080ad041 for PNP0A08 (ACPI 6.5, 19.3.4).
fn eisa(number: u64) -> String {
    let bytes = (number as u32).swap_bytes();
    let letter = |shift: u32| char::from(b'@' + (bytes >> shift & 0x1f) as u8);
    let [first, second, third] = [26, 21, 16].map(letter);
    format!("{first}{second}{third}{:04X}", bytes & 0xffff)
}

fn sleep(value: &Value) -> Option<(u64, u64)> {
    let Value::Package(elements) = value else {
        return None;
    };
    let number = |index: usize| match elements.get(index) {
        Some(Some(Value::Number(number))) => Some(*number),
        _ => None,
    };
    Some((number(0)?, number(1).unwrap_or(0)))
}

/// The devices that are no PCI functions, as elements; PCI's are in its own tree.
pub fn elements(namespace: &Namespace) -> Vec<Element> {
    let own = |device: &&AcpiDevice| {
        let hid = device.hid.as_deref();
        !matches!(hid, None | Some("PNP0A03" | "PNP0A08"))
    };
    namespace.devices.iter().filter(own).map(element).collect()
}

fn element(device: &AcpiDevice) -> Element {
    let hid = device.hid.as_deref().unwrap_or_default();
    let mut element = with("device", &[("id", hid)]);
    element.add(leaf("acpi_object", &device.path));
    add(
        &mut element,
        device.uid.as_ref().map(|uid| leaf("acpi_uid", uid)),
    );
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_their_ids_and_host_bridges_are_left_to_pci() {
        let folder = tempfile::tempdir().unwrap();
        let tables = folder.path().join("sys/firmware/acpi/tables");
        std::fs::create_dir_all(&tables).unwrap();
        let table = |program: &[u8]| [&[0; HEADER][..], program].concat();
        std::fs::write(tables.join("DSDT"), table(crate::aml::tests::PROGRAM)).unwrap();
        // `Device (\TPM_) { Name (_HID, "MSFT0101") }`, and something broken.
        let tpm = b"\x5b\x82\x15\\TPM_\x08_HID\x0dMSFT0101\x00\x72";
        std::fs::write(tables.join("SSDT1"), table(tpm)).unwrap();
        let host = Host::new(folder.path());
        let namespace = read(&host);
        assert_eq!(namespace.sleep, [None, Some((5, 6))]);
        let ids: Vec<&str> = namespace
            .devices
            .iter()
            .filter_map(|device| device.hid.as_deref())
            .collect();
        assert_eq!(ids, ["MSFT0101", "PNP0A08"]);
        assert_eq!(namespace.devices[1].uid.as_deref(), Some("1"));
        assert_eq!(elements(&namespace).len(), 1);
        assert!(host.gaps()[0].what.contains("SSDT1"), "{:?}", host.gaps());
    }

    #[test]
    fn what_linux_has_found_completes_what_tables_declare() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, files: &[(&str, &str)]| {
            let directory = folder.path().join("sys/bus/acpi/devices").join(name);
            std::fs::create_dir_all(&directory).unwrap();
            for (file, text) in files {
                std::fs::write(directory.join(file), format!("{text}\n")).unwrap();
            }
        };
        let tables = folder.path().join("sys/firmware/acpi/tables");
        std::fs::create_dir_all(&tables).unwrap();
        let device = b"\x5b\x82\x05COM1";
        std::fs::write(tables.join("DSDT"), [&[0; HEADER][..], device].concat()).unwrap();
        let com = [("path", r"\COM1"), ("hid", "PNP0501"), ("uid", "2")];
        put("PNP0501:00", &com);
        put(
            "MSFT0101:00",
            &[
                ("path", r"\_SB_.TPM_"),
                ("hid", "MSFT0101"),
                ("status", "15"),
            ],
        );
        put(
            "INT33A1:00",
            &[("path", r"\_SB_.PEPD"), ("hid", "INT33A1"), ("status", "0")],
        );
        put("LNXSYBUS:00", &[("path", r"\_SB_"), ("hid", "LNXSYBUS")]);
        put("device:00", &[("path", r"\_SB_.PCI0.GFX0")]);
        let found = read(&Host::new(folder.path())).devices;
        let found: Vec<(&str, Option<&str>, Option<&str>)> = found
            .iter()
            .map(|device| {
                (
                    device.path.as_str(),
                    device.hid.as_deref(),
                    device.uid.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (r"\COM1", Some("PNP0501"), Some("2")),
                (r"\_SB_.TPM_", Some("MSFT0101"), None),
            ]
        );
    }

    #[test]
    fn compressed_ids_are_spelled_out() {
        assert_eq!(eisa(0x080a_d041), "PNP0A08");
        assert_eq!(eisa(0x0105_d041), "PNP0501");
    }
}
