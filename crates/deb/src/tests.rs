use std::process::Command;

use super::*;

fn sample() -> Package {
    let mut package = Package::new(Control {
        name: "sample".into(),
        version: "1.0".into(),
        architecture: "all".into(),
        section: "admin".into(),
        relations: vec![("Depends", "bash".into())],
        summary: "sample of a package".into(),
        description: vec!["One paragraph.".into(), "And another.".into()],
    });
    package.file("/usr/bin/sample", 0o755, "#!/bin/sh\n");
    package.conffile("/etc/sample.conf", 0o644, "on\n");
    package.link("/usr/bin/alias", "sample");
    package.script("postinst", "#!/bin/sh\nset -e\n");
    package
}

/// What a tool of Debian's says about the sample; nothing where it is not installed.
fn said_by(arguments: &[&str]) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.deb");
    std::fs::write(&path, sample().build(1_700_000_000).unwrap()).unwrap();
    let mut command = Command::new("dpkg-deb");
    command
        .args(&arguments[..1])
        .arg(path)
        .args(&arguments[1..]);
    let output = command.env("TZ", "UTC").output().ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn two_packages_of_the_same_input_are_equal() {
    assert_eq!(sample().build(1).unwrap(), sample().build(1).unwrap());
    assert_ne!(sample().build(1).unwrap(), sample().build(2).unwrap());
    assert_eq!(sample().file_name(), "sample_1.0_all.deb");
}

#[test]
fn dpkg_lists_the_files_with_modes_owners_and_time() {
    let Some(list) = said_by(&["--contents"]) else {
        return;
    };
    for line in [
        "drwxr-xr-x root/root         0 2023-11-14 22:13 ./usr/bin/",
        "-rwxr-xr-x root/root        10 2023-11-14 22:13 ./usr/bin/sample",
        "./usr/bin/alias -> sample",
    ] {
        assert!(list.contains(line), "{list}");
    }
}

#[test]
fn dpkg_reads_the_fields_and_the_description() {
    let Some(fields) = said_by(&["--field"]) else {
        return;
    };
    assert!(
        fields.contains("Package: sample\nVersion: 1.0\n"),
        "{fields}"
    );
    assert!(fields.contains("Depends: bash\n"), "{fields}");
    let description = "Description: sample of a package\n One paragraph.\n .\n And another.\n";
    assert!(fields.contains(description), "{fields}");
}

#[test]
fn settings_are_listed_and_have_no_sum() {
    let sums = sample().sums();
    assert!(sums.contains("  usr/bin/sample\n") && !sums.contains("sample.conf"));
    let files = sample().control_files().unwrap();
    let conffiles = Entry::File {
        mode: 0o644,
        bytes: b"/etc/sample.conf\n".to_vec(),
    };
    assert_eq!(files["conffiles"], conffiles);
}

#[test]
fn a_field_with_two_lines_is_refused() {
    let mut control = sample().control;
    control.summary = "two\nlines".into();
    let error = Package::new(control).build(0).unwrap_err();
    assert!(error.to_string().contains("Description"), "{error}");
}
