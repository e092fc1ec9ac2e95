//! Disks by the tools themselves: whoever lacks one skips the test by its message, which is checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn acrn_image(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acrn-image"));
    command.current_dir(directory).args(words).output().unwrap()
}

/// Runs it; nothing where a tool is not installed, which must be said so.
fn done(directory: &Path, words: &[&str]) -> Option<String> {
    let output = acrn_image(directory, words);
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("is not installed") {
        assert!(said.contains("; apt install "), "{said}");
        return None;
    }
    assert!(output.status.success(), "{words:?}: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn refused(directory: &Path, words: &[&str]) -> String {
    let output = acrn_image(directory, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A disk with the layout of `create` and one file; nothing where a tool is missing.
fn disk(directory: &TempDir) -> Option<PathBuf> {
    let tree = directory.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("kept"), "kept\n").unwrap();
    let image = directory.path().join("disk.img");
    let size = acrn_image::size::Size(64 << 20);
    let uuid = "6163726e-7273-4d6f-8000-000000000002";
    let boot = directory.path().join("boot.efi");
    fs::write(&boot, "boots\n").unwrap();
    match acrn_image::disk::write(&image, size, &tree, uuid, &boot) {
        Err(acrn_image::ImageError::Missing { .. }) => None,
        result => {
            result.unwrap();
            Some(image)
        }
    }
}

#[test]
fn a_disk_grows_and_keeps_its_files_and_never_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let Some(image) = disk(&directory) else {
        return;
    };
    let here = directory.path();
    done(here, &["check", "disk.img"]).unwrap();
    done(here, &["resize", "disk.img", "160M"]).unwrap();
    assert_eq!(fs::metadata(&image).unwrap().len(), 160 << 20);
    done(here, &["check", "disk.img"]).unwrap();
    let mut debugfs = Command::new("/sbin/debugfs");
    let root = format!("{}?offset={}", image.display(), 33 << 20);
    let output = debugfs
        .args(["-R", "cat kept"])
        .arg(&root)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"kept\n");
    let efi = format!("{}@@1M", image.display());
    let mut mtype = Command::new("mtype");
    let output = mtype
        .args(["-i", &efi, "::EFI/BOOT/BOOTX64.EFI"])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"boots\n");
    let output = Command::new("/sbin/dumpe2fs")
        .arg("-h")
        .arg(&root)
        .output()
        .unwrap();
    let header = String::from_utf8_lossy(&output.stdout).into_owned();
    let blocks = header
        .lines()
        .find_map(|line| line.strip_prefix("Block count:"));
    let blocks: u64 = blocks.unwrap().trim().parse().unwrap();
    assert!(blocks * 1024 >= 125 << 20, "{blocks}");
    assert!(refused(here, &["resize", "disk.img", "64M"]).contains("grows only"));
}

#[test]
fn a_damaged_file_system_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let Some(image) = disk(&directory) else {
        return;
    };
    let mut bytes = fs::read(&image).unwrap();
    // The groups' descriptors, behind the superblock.
    let descriptors = (33 << 20) + 2048;
    bytes[descriptors..descriptors + 512].fill(0xa5);
    fs::write(&image, bytes).unwrap();
    assert!(refused(directory.path(), &["check", "disk.img"]).contains("is damaged"));
}

#[test]
fn an_image_survives_every_format() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20..][..5].copy_from_slice(b"hello");
    fs::write(here.join("a.img"), &bytes).unwrap();
    let mut from = "a.img".to_owned();
    for to in ["b.qcow2", "c.vmdk", "d.vhdx", "e.vdi", "f.raw"] {
        if done(here, &["convert", &from, to]).is_none() {
            return;
        }
        assert!(done(here, &["check", to]).is_some(), "{to}");
        from = to.to_owned();
    }
    let end = fs::read(here.join("f.raw")).unwrap();
    assert_eq!(end[..bytes.len()], bytes);
    assert!(refused(here, &["convert", "a.img", "f.raw"]).contains("is there already"));
    assert!(refused(here, &["convert", "a.img", "b.iso"]).contains(".qcow2"));
}

#[test]
fn a_seed_has_the_files_that_cloud_init_looks_for() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    fs::write(here.join("key.pub"), "ssh-ed25519 AAAA \"me\"\n").unwrap();
    let words = [
        "seed",
        "seed.img",
        "--hostname",
        "vm1",
        "--ssh-key",
        "key.pub",
    ];
    if done(here, &words).is_none() {
        return;
    }
    let image = here.join("seed.img");
    let shown = |file: &str| {
        let mut mtype = Command::new("mtype");
        let output = mtype.arg("-i").arg(&image).arg(file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        shown("::meta-data"),
        "instance-id: vm1\nlocal-hostname: vm1\n"
    );
    let user = shown("::user-data");
    assert!(user.starts_with("#cloud-config\nhostname: vm1\n"), "{user}");
    assert!(
        user.contains("  - \"ssh-ed25519 AAAA \\\"me\\\"\"\n"),
        "{user}"
    );
    let bytes = fs::read(&image).unwrap();
    assert!(bytes.windows(6).any(|window| window == b"CIDATA"));
    assert!(refused(here, &words).contains("is there already"));
    assert!(refused(here, &["seed", "b.img", "--hostname", "a b"]).contains("no host name"));
}

#[test]
fn an_error_is_json_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let output = acrn_image(directory.path(), &["--json", "check", "absent.iso"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["error"].as_str().unwrap().contains("absent.iso"));
}
