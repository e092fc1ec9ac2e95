//! Nothing is cut off, in any of the usual widths, light and dark.

use crate::browser::{Browser, data};

const PAGES: [&str; 9] = [
    "/",
    "/d/1/board",
    "/d/1/hypervisor",
    "/d/1/vm-0",
    "/d/1/vm-1",
    "/d/1/vm-2",
    "/d/1/vm-3",
    "/d/1/outputs",
    "/d/1/summary",
];

/// What is wider than the room that it has. What scrolls by itself, as a field for text does, is left out.
const CUT_OFF: &str = r#"(() => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    const described = (element) => `${element.tagName} ${element.id || element.className}: ${element.textContent.trim().slice(0, 60)}`;
    const isWide = (element) => element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1;
    const blocks = [...document.querySelectorAll("body *:not(input, textarea, select, option, svg, svg *)")].filter(isWide);
    const isLong = (text) => text.getComputedTextLength() > Number(text.dataset.room) + 0.5;
    const texts = [...document.querySelectorAll("svg text[data-room]")].filter(isLong);
    const page = document.documentElement.scrollWidth > window.innerWidth ? ["the page"] : [];
    return [...blocks, ...texts].map(described).concat(page).join("\n");
})()"#;

/// The least contrast of texts and what is behind them that the main colours have.
const CONTRAST: &str = r#"(() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const light = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const linear = (part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
        return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    };
    const probe = document.body.appendChild(document.createElement("span"));
    const named = (name) => {
        probe.style.color = `var(${name})`;
        return light(getComputedStyle(probe).color);
    };
    const contrast = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const bars = [...document.querySelectorAll(".picture rect[class^=vm-]")].map((bar) => light(getComputedStyle(bar).fill));
    const pairs = [["--ink", "--ground"], ["--ink", "--panel"], ["--quiet", "--panel"], ["--quiet", "--sunken"],
        ["--accent", "--panel"], ["--accent-ink", "--accent"], ["--error", "--error-soft"], ["--warning", "--warning-soft"], ["--good", "--panel"]];
    const all = pairs.map(([ink, ground]) => contrast(named(ink), named(ground)));
    return Math.min(...all, ...bars.map((bar) => contrast(named("--ink"), bar)));
})()"#;

async fn looks_right(width: u32, theme: &str) {
    let files = (data("generic/board.xml"), data("generic/everything.xml"));
    let browser = Browser::start((width, 900), Some(files)).await;
    browser.go("/d/1/vm-2").await;
    browser
        .value(&format!("document.cookie = 'theme={theme}; path=/'"))
        .await;
    // With problems on the page, long ones too.
    browser.click("cpu-3").await;
    browser.wait_valid(false).await;
    for page in PAGES {
        browser.go(page).await;
        let cut_off = browser.text(CUT_OFF).await;
        assert!(
            cut_off.is_empty(),
            "{page} at {width}, {theme}: cut off:\n{cut_off}"
        );
    }
    browser.go("/d/1/board").await;
    let contrast = browser.value(CONTRAST).await.as_f64().unwrap_or_default();
    assert!(contrast >= 4.5, "{theme}: contrast {contrast}");
}

#[tokio::test]
async fn nothing_is_cut_off_at_1280() {
    looks_right(1280, "light").await;
    looks_right(1280, "dark").await;
}

#[tokio::test]
async fn nothing_is_cut_off_at_1920() {
    looks_right(1920, "dark").await;
    looks_right(1920, "light").await;
}

#[tokio::test]
async fn light_and_dark_are_chosen_and_kept() {
    let browser = Browser::start((1280, 900), None).await;
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = browser.text(ground).await;
    browser
        .value("(document.getElementById('theme').focus(), 0)")
        .await;
    browser.press("Dark").await;
    browser.wait(&format!("{ground} !== '{light}'")).await;
    let dark = browser.text(ground).await;
    browser.go("/").await;
    assert_eq!(browser.text(ground).await, dark);
}
