//! What a browser does of the journey of `cargo xtask test --full`: from the board file of a machine that was
//! inspected to the package that is installed there.

use crate::browser::Browser;
use std::fs;
use std::path::PathBuf;

const SIZE: (u32, u32) = (1280, 900);
/// What the preset's VMs are started with, and the words that an emulated machine needs besides.
const KERNEL: &str = "-k /data/bzImage -B \"root=/dev/vda rw console=ttyS0 tsc=reliable \
                      vm_name=user-vm1 vm_ip=192.168.100.2\"";

/// A file that the system test names.
fn path_in(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.unwrap_or_else(|| panic!("{variable} is not set; cargo xtask test --full runs this"))
        .into()
}

#[tokio::test]
#[ignore = "cargo xtask test --full --filter journey runs it, with the board file of its machine"]
async fn a_package_for_an_inspected_machine() {
    let (board, result) = (path_in("ACRN_BOARD"), path_in("ACRN_PACKAGE"));
    let browser = Browser::start(SIZE, None).await;
    browser.configure(&board, "shared").await;
    // The preset's other VMs are for larger machines.
    for vm in [3, 2] {
        browser.go(&format!("/d/1/vm-{vm}")).await;
        browser.click("delete").await;
        let left = format!("document.querySelectorAll('#nav .entry .swatch').length === {vm}");
        browser.wait(&left).await;
    }
    browser.go("/d/1/vm-0").await;
    browser
        .fill("vm[1]/os_config/bootargs", "no_timer_check")
        .await;
    browser.go("/d/1/vm-1").await;
    browser.click("cpu-1").await;
    browser.fill("vm[2]/memory/size", "256").await;
    browser.fill("vm[2]/customized_parameters", KERNEL).await;
    browser
        .wait("document.querySelector('.picture').textContent.includes('POST_STD_VM1 256 MiB')")
        .await;
    browser.wait_valid(true).await;
    browser.click("save").await;
    browser
        .wait("document.getElementById('message').textContent.startsWith('Saved')")
        .await;
    browser.go("/d/1/outputs").await;
    // A click leaves it to the browser's policy whether a package is a file that one may want.
    let bytes = browser
        .value(
            "fetch(document.querySelector(\"a[href$='/package']\").href)\
             .then(async (answer) => [...new Uint8Array(await answer.arrayBuffer())])",
        )
        .await;
    let bytes: Vec<u8> = serde_json::from_value(bytes).unwrap();
    assert!(bytes.starts_with(b"!<arch>\n"), "this is no package");
    fs::write(result, bytes).unwrap();
}
