//! The program as a user meets it: what it says and with which code it ends.

use std::process::{Command, Output};

fn acrn_dm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_acrn-dm"))
        .args(arguments)
        .output()
        .expect("runs")
}

/// Exit code and the one sentence on standard error.
fn complaint(arguments: &[&str]) -> (i32, String) {
    let output = acrn_dm(arguments);
    let text = String::from_utf8(output.stderr).expect("text");
    let last = text.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("acrn-dm: "), "{arguments:?}: {text}");
    (output.status.code().expect("ends by itself"), last)
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn each_kind_of_mistake_has_its_code_and_names_its_option() {
    let empty = file(b"");
    let empty = empty.path().to_str().unwrap();
    let toml = file(b"memory = 1");
    let toml = toml.path().to_str().unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--frobnicate"], 2, "--frobnicate"),
        (&["-k", "/none", "-m", "512", "vm"], 2, "-m 512"),
        (&["-k", "/none", "--ovmf", "x", "vm"], 3, "--ovmf"),
        (&["--config", toml, "vm"], 4, toml),
        (&["-k", "/none", "vm"], 10, "/none"),
        (&["-k", empty, "vm"], 12, empty),
        (&["-E", empty, "vm"], 12, empty),
    ];
    for (arguments, code, word) in cases {
        let (actual, text) = complaint(arguments);
        assert_eq!(actual, code, "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
}

#[test]
fn help_goes_to_standard_output_and_succeeds() {
    let output = acrn_dm(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--pci_slot"));
}
