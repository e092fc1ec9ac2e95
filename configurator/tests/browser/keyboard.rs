//! Without a mouse.

use crate::browser::Browser;
use fantoccini::key::Key;
use serde_json::json;

/// More than there are things to stop at on any page.
const MOST_STOPS: usize = 120;

/// Goes on with Tab until an expression about `active` is true.
async fn tab_to(browser: &Browser, condition: &str) {
    let expression = format!("((active) => Boolean({condition}))(document.activeElement)");
    for _ in 0..MOST_STOPS {
        if browser.value(&expression).await == true {
            return;
        }
        browser.press(&char::from(Key::Tab).to_string()).await;
    }
    panic!("Tab does not lead to {condition}");
}

#[tokio::test]
async fn everything_is_done_by_the_keyboard() {
    let browser = Browser::start((1280, 900), None).await;
    let enter = char::from(Key::Enter).to_string();
    let with_control =
        |key: &str| format!("{}{key}{}", char::from(Key::Control), char::from(Key::Null));
    tab_to(&browser, "active.id === 'sample'").await;
    browser.press("QEMU").await;
    tab_to(&browser, "active.name === 'preset'").await;
    browser.press(&char::from(Key::Down).to_string()).await;
    browser.press(&enter).await;
    browser.wait("document.getElementById('editor')").await;

    tab_to(
        &browser,
        "active.matches('a.entry') && active.textContent.includes('PRE_STD_VM1')",
    )
    .await;
    browser.press(&enter).await;
    browser.wait("location.pathname.endsWith('/vm-1')").await;
    let name = json!("vm[2]/name");
    tab_to(&browser, &format!("active.id === {name}")).await;
    browser.press(&format!("{}second", with_control("a"))).await;
    browser
        .wait("document.getElementById('nav').textContent.includes('VM1 second')")
        .await;
    assert_eq!(
        browser.text("document.activeElement.id").await,
        "vm[2]/name",
        "the place is kept"
    );
    tab_to(&browser, "active.id === 'rt-2'").await;
    browser.press(" ").await;
    browser.wait("document.getElementById('rt-2').checked && document.querySelector('.picture').textContent.includes('VM1 RT')").await;
    assert_eq!(
        browser.text("document.activeElement.id").await,
        "rt-2",
        "the place is kept"
    );
    browser.press(&with_control("z")).await;
    browser
        .wait("!document.getElementById('rt-2').checked")
        .await;
    browser.press(&with_control("s")).await;
    browser
        .wait("document.getElementById('message').textContent.startsWith('Saved')")
        .await;
    let saved = browser.home.path().join("acrn/partitioned/partitioned.xml");
    assert!(
        std::fs::read_to_string(saved)
            .unwrap()
            .contains("<name>second</name>")
    );
}
