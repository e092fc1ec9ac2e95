//! `acrn-hypervisor`: the image, and entries in GRUB's menu.

use acrn_deb::{Control, Package};
use anyhow::Result;

use super::{new, read, source};
use crate::image;
use crate::layout::Layout;

pub(super) fn package(layout: &Layout, version: &str) -> Result<Package> {
    let image = image::hypervisor(layout)?;
    let mut package = new(layout, control(version))?;
    package.file("/boot/acrn.bin", 0o644, read(&image.flat)?);
    let script = source(layout, "hypervisor/25_acrn")?;
    package.conffile("/etc/grub.d/25_acrn", 0o755, script);
    let settings = source(layout, "hypervisor/acrn.cfg")?;
    package.conffile("/etc/default/grub.d/acrn.cfg", 0o644, settings);
    for name in ["postinst", "postrm"] {
        package.script(name, &source(layout, &format!("hypervisor/{name}"))?);
    }
    Ok(package)
}

fn control(version: &str) -> Control {
    Control {
        name: "acrn-hypervisor".into(),
        version: version.into(),
        architecture: "amd64".into(),
        section: "kernel".into(),
        relations: vec![
            ("Depends", "grub2-common".into()),
            ("Recommends", "acrn-tools, linux-image-acrn".into()),
        ],
        summary: "bare-metal hypervisor with the interfaces of ACRN".into(),
        description: vec![
            "The hypervisor starts before Linux, which becomes its Service VM: that owns the machine's \
             devices and starts other VMs."
                .into(),
            "GRUB's menu gets an entry for each kernel with CONFIG_ACRN_HSM, which boots by default, and \
             entries to fall back on. Other entries and settings are left alone."
                .into(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    /// What the script needs of GRUB's.
    const LIBRARY: &str = "\
        grub_quote() { sed \"s/'/'\\\\\\\\\\\\\\\\''/g\"; }\n\
        make_system_path_relative_to_its_root() { echo \"${1#\"$TOP\"}\"; }\n\
        prepare_grub_to_access_device() { echo \"search $1\"; }\n\
        grub_get_device_id() { echo \"id-of-$1\"; }\n";

    /// The entries that the script writes where these files are in `/boot`.
    fn menu(files: &[(&str, &str)]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().to_str().unwrap();
        for (name, text) in files {
            let path = directory.path().join("boot").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(directory.path().join("grub-mkconfig_lib"), LIBRARY).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/hypervisor/25_acrn");
        let script = fs::read_to_string(source).unwrap();
        let output = Command::new("sh")
            .arg("-c")
            .arg(script.replace("/boot", &format!("{top}/boot")))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TOP", top)
            .env("pkgdatadir", top)
            .env("GRUB_DEVICE", "/dev/sda2")
            .env("GRUB_DEVICE_UUID", "1234")
            .env("GRUB_DEVICE_PARTUUID", "5678")
            .env("GRUB_CMDLINE_LINUX", "quiet")
            .env("ACRN_CMDLINE", "loglevel=4")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    const IMAGE: (&str, &str) = ("acrn.bin", "");
    const OLD: [(&str, &str); 2] = [
        ("vmlinuz-6.1.9-acrn", ""),
        ("config-6.1.9-acrn", "CONFIG_ACRN_HSM=m\n"),
    ];
    const NEW: [(&str, &str); 3] = [
        ("vmlinuz-6.1.10-acrn", ""),
        ("config-6.1.10-acrn", "CONFIG_ACRN_HSM=y\n"),
        ("initrd.img-6.1.10-acrn", ""),
    ];
    const PLAIN: [(&str, &str); 2] = [
        ("vmlinuz-6.12.1", ""),
        ("config-6.12.1", "# CONFIG_ACRN_GUEST is not set\n"),
    ];

    /// The lines of the entry with this id.
    fn entry<'a>(menu: &'a str, id: &str) -> &'a str {
        let start = menu.find(&format!("--id {id} ")).unwrap();
        menu[start..].split("\n}").next().unwrap()
    }

    #[test]
    fn each_kernel_with_the_driver_has_an_entry_and_the_newest_is_the_default() {
        let files = [&[IMAGE][..], &OLD, &NEW, &PLAIN].concat();
        let menu = menu(&files);
        assert!(!menu.contains("module2 /boot/vmlinuz-6.12.1"), "{menu}");
        let newest = entry(&menu, "acrn");
        assert!(newest.contains("multiboot2 /boot/acrn.bin loglevel=4\n"));
        assert!(
            newest.contains(
                "module2 /boot/vmlinuz-6.1.10-acrn Linux_bzImage root=UUID=1234 ro quiet"
            )
        );
        assert!(newest.contains("module2 /boot/initrd.img-6.1.10-acrn Linux_ramdisk"));
        // Without a RAM disk the kernel has to find its root itself.
        let older = entry(&menu, "acrn-6.1.9-acrn");
        assert!(older.contains("root=PARTUUID=5678"), "{older}");
        assert!(!menu.contains("acrn_config") && !menu.contains("acrn-previous"));
        assert_eq!(menu.matches("--id acrn-safe --hotkey=s").count(), 1);
    }

    #[test]
    fn configurations_are_modules_and_the_previous_one_has_a_key() {
        let configured = [
            ("acrn/current/acrn.cfg", ""),
            (
                "acrn/current/entry",
                "kernel=Kernel_mod\nramdisk=My_ramdisk\ncmdline=hugepages=8 a;b\n",
            ),
            ("acrn/previous/acrn.cfg", ""),
            ("acrn/modules/RT_bzImage", ""),
        ];
        let files = [&[IMAGE][..], &NEW, &configured].concat();
        let menu = menu(&files);
        let newest = entry(&menu, "acrn");
        assert!(newest.contains(" Kernel_mod root=UUID=1234"), "{newest}");
        assert!(newest.contains("hugepages=8 a\\;b"), "{newest}");
        assert!(newest.contains("initrd.img-6.1.10-acrn My_ramdisk\n"));
        assert!(newest.contains("module2 /boot/acrn/current/acrn.cfg acrn_config\n"));
        assert!(newest.contains("module2 /boot/acrn/modules/RT_bzImage RT_bzImage"));
        let previous = entry(&menu, "acrn-previous");
        assert!(previous.starts_with("--id acrn-previous --hotkey=p"));
        assert!(previous.contains("/boot/acrn/previous/acrn.cfg acrn_config\n"));
        assert!(!entry(&menu, "acrn-safe").contains("acrn_config"));
    }

    #[test]
    fn a_scenario_without_service_vm_boots_no_linux() {
        let configured = [
            ("acrn/current/acrn.cfg", ""),
            ("acrn/current/entry", "kernel=\nramdisk=\ncmdline=\n"),
        ];
        let files = [&[IMAGE][..], &NEW, &configured].concat();
        let menu = menu(&files);
        assert!(!entry(&menu, "acrn").contains("vmlinuz"), "{menu}");
        assert!(entry(&menu, "acrn-safe").contains("vmlinuz"));
    }

    /// An entry that fails would keep a machine without keyboard from booting.
    #[test]
    fn secure_boot_hides_all_entries_and_boots_a_kernel_of_others() {
        let menu = menu(&[&[IMAGE][..], &OLD, &NEW, &PLAIN].concat());
        let inside = menu
            .strip_prefix("if [ \"$lockdown\" != y ]; then\n")
            .and_then(|rest| rest.strip_suffix("\nfi\n"));
        let inside = inside.unwrap_or_else(|| panic!("{menu}"));
        let (entries, default) = inside
            .split_once("\nelif [ \"$default\" = acrn ]; then\n")
            .unwrap();
        assert_eq!(entries.matches("menuentry").count(), 3);
        assert_eq!(
            default.trim(),
            "set default='gnulinux-advanced-id-of-/dev/sda2>gnulinux-6.12.1-advanced-id-of-/dev/sda2'"
        );
    }

    #[test]
    fn there_is_no_empty_condition_which_grub_would_refuse() {
        assert_eq!(menu(&[&[IMAGE][..], &PLAIN].concat()), "");
        let menu = menu(&[&[IMAGE][..], &NEW].concat());
        assert!(
            !menu.contains("elif") && menu.ends_with("}\nfi\n"),
            "{menu}"
        );
    }

    #[test]
    fn without_the_hypervisor_there_is_no_entry() {
        assert_eq!(menu(&NEW), "");
    }
}
