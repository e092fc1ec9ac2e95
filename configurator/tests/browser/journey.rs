//! What people come for: from a board to files, with mistakes on the way.

use crate::browser::{Browser, data};
use acrn_config_blob::Config;
use std::fs;
use std::process::{Command, Stdio};

const SIZE: (u32, u32) = (1280, 900);

/// A new configuration on QEMU's board.
async fn new(browser: &Browser, preset: &str) {
    let board = data("qemu/board.xml");
    browser.configure(&board, preset).await;
}

#[tokio::test]
async fn from_a_board_file_to_a_configuration() {
    let browser = Browser::start(SIZE, None).await;
    new(&browser, "shared").await;
    browser.go("/d/1/vm-1").await;
    browser.fill("vm[2]/memory/size", "1024").await;
    browser
        .wait("document.querySelector('.picture').textContent.includes('POST_STD_VM1 1 GiB')")
        .await;
    browser.fill("vm[2]/name", "HMI").await;
    browser
        .wait("document.getElementById('nav').textContent.includes('VM1 HMI')")
        .await;
    browser.wait_valid(true).await;

    browser.go("/d/1/outputs").await;
    let directory = browser.home.path().join("result");
    browser
        .fill("directory", &directory.display().to_string())
        .await;
    browser.click_on("[data-save-form] button").await;
    browser
        .wait("document.getElementById('message').textContent.startsWith('Saved')")
        .await;
    let blob = fs::read(directory.join("acrn.cfg")).unwrap();
    let config = Config::parse(&blob).unwrap();
    let names: Vec<String> = config.vms.iter().map(|vm| vm.name.to_string()).collect();
    assert_eq!(
        names,
        ["ACRN_Service_VM", "HMI", "POST_RT_VM1", "POST_STD_VM2"]
    );
    assert!(
        fs::read_to_string(directory.join("launch_user_vm_id1.sh"))
            .unwrap()
            .contains("1024")
    );
    assert!(
        fs::read_to_string(directory.join("summary.html"))
            .unwrap()
            .contains("HMI")
    );

    browser.go("/").await;
    browser
        .wait("document.querySelector('[data-open=recent]')")
        .await;
    browser.click_on("[data-open=recent] button").await;
    browser.wait("location.pathname === '/d/2/board'").await;
    browser.wait_valid(true).await;
}

#[tokio::test]
async fn a_conflict_is_shown_where_it_is_and_repaired() {
    let browser = Browser::start(SIZE, None).await;
    new(&browser, "shared").await;
    browser.go("/d/1/vm-1").await;
    // CPU 3 is the real-time VM's.
    browser.click("cpu-3").await;
    browser.wait_valid(false).await;
    browser
        .wait("document.querySelector('.picture .conflict')")
        .await;
    assert!(
        browser
            .text("document.querySelector('.picture .conflict').textContent")
            .await
            .contains("CPU 3")
    );
    assert!(
        browser
            .text("document.querySelector('#page .problem.error').textContent")
            .await
            .contains("real-time")
    );
    browser.go("/d/1/hypervisor").await;
    browser.click_on("#findings li.error a").await;
    browser.wait("location.pathname.startsWith('/d/1/vm-') && document.activeElement.closest('table, .field')").await;
    browser.go("/d/1/vm-1").await;
    browser.click("cpu-3").await;
    browser.wait_valid(true).await;
    browser
        .wait("!document.querySelector('.picture .conflict')")
        .await;
}

#[tokio::test]
async fn an_invalid_scenario_is_only_a_draft() {
    let browser = Browser::start(SIZE, None).await;
    new(&browser, "partitioned").await;
    browser.go("/d/1/vm-0").await;
    browser.fill("vm[1]/name", "two words").await;
    browser.wait_valid(false).await;
    assert_eq!(
        browser
            .text("document.getElementById('save').textContent")
            .await,
        "Save draft"
    );
    browser.click("save").await;
    browser
        .wait("document.getElementById('message').textContent.includes('partitioned.draft.xml')")
        .await;
    let directory = browser.home.path().join("acrn/partitioned");
    assert!(
        directory.join("partitioned.draft.xml").exists() && !directory.join("acrn.cfg").exists()
    );
}

#[tokio::test]
async fn edits_are_undone_and_done_again() {
    let browser = Browser::start(SIZE, None).await;
    new(&browser, "hybrid").await;
    browser.click_on("details.menu summary").await;
    browser.click("add-POST_LAUNCHED_VM-false").await;
    browser
        .wait("document.querySelectorAll('#nav .entry .swatch').length === 5")
        .await;
    browser.wait_valid(true).await;
    browser.click("duplicate").await;
    browser
        .wait("document.querySelectorAll('#nav .entry .swatch').length === 6")
        .await;
    browser.click("undo").await;
    browser.click("undo").await;
    browser
        .wait("document.querySelectorAll('#nav .entry .swatch').length === 4")
        .await;
    browser
        .wait("document.getElementById('undo').disabled")
        .await;
    browser.click("redo").await;
    browser
        .wait("document.querySelectorAll('#nav .entry .swatch').length === 5")
        .await;
}

#[tokio::test]
async fn what_is_typed_while_an_answer_comes_is_kept() {
    let browser = Browser::start(SIZE, None).await;
    new(&browser, "shared").await;
    browser.go("/d/1/vm-1").await;
    let words = "-k /data/bzImage -B \"root=/dev/vda rw console=ttyS0 one two three four five\"";
    for (size, name) in [("1024", "One"), ("256", "Two"), ("768", "Three")] {
        browser.fill("vm[2]/memory/size", size).await;
        browser.fill("vm[2]/name", name).await;
        browser.fill("vm[2]/customized_parameters", words).await;
    }
    for (field, wanted) in [
        ("memory/size", "768"),
        ("name", "Three"),
        ("customized_parameters", words),
    ] {
        let value = format!("document.getElementById('vm[2]/{field}').value");
        assert_eq!(browser.text(&value).await, wanted);
    }
    browser.click("save").await;
    browser
        .wait("document.getElementById('message').textContent.startsWith('Saved')")
        .await;
    let saved = fs::read_to_string(browser.home.path().join("acrn/shared/shared.xml")).unwrap();
    for wanted in ["<size>768</size>", "<name>Three</name>", "three four five"] {
        assert!(saved.contains(wanted), "no {wanted} in:\n{saved}");
    }
}

/// As ACRN 2.x wrote them.
const OLD: &str = r#"<acrn-config board="qemu" scenario="old">
  <hv>
    <DEBUG_OPTIONS><RELEASE>n</RELEASE><SERIAL_CONSOLE>/dev/ttyS0</SERIAL_CONSOLE></DEBUG_OPTIONS>
  </hv>
  <vm id="0"><vm_type>SERVICE_VM</vm_type><name>Service</name></vm>
</acrn-config>"#;

#[tokio::test]
async fn an_old_file_is_brought_up_to_date_and_says_what_changed() {
    let browser = Browser::start(SIZE, None).await;
    let old = browser.home.path().join("old.xml");
    fs::write(&old, OLD).unwrap();
    browser
        .put("#open [name=scenario_path]", &old.display().to_string())
        .await;
    browser
        .put(
            "#open [name=board_path]",
            &data("qemu/board.xml").display().to_string(),
        )
        .await;
    browser.click_on("#open .primary").await;
    browser.wait("location.pathname === '/d/1/changes'").await;
    assert!(
        browser
            .text("document.getElementById('changes').textContent")
            .await
            .contains("RELEASE")
    );
    browser.go("/d/1/vm-0").await;
    assert_eq!(
        browser
            .text("document.getElementById('vm[1]/load_order').value")
            .await,
        "SERVICE_VM"
    );
}

#[tokio::test]
async fn with_a_certificate_it_speaks_https() {
    let directory = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]);
    openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null());
    assert!(openssl.status().is_ok_and(|status| status.success()));
    let browser = Browser::with(SIZE, &["--tls-cert".into(), cert, "--tls-key".into(), key]).await;
    assert_eq!(browser.text("location.protocol").await, "https:");
    new(&browser, "shared").await;
    browser.go("/d/1/vm-1").await;
    browser.click("cpu-2").await;
    browser
        .wait("document.getElementById('undo').disabled === false")
        .await;
}
