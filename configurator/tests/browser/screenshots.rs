//! The book's pictures of the Configurator. `ACRN_WRITE_SCREENSHOTS=1 cargo test -p acrn-configurator --test
//! browser` takes them anew.

use crate::browser::{Browser, data};
use std::fs;
use std::path::Path;

const BOOK: &str = include_str!("../../../docs/src/configurator.md");
const SIZE: (u32, u32) = (1280, 980);

/// Name, page, and what is done there first.
const PICTURES: [(&str, &str, &str); 5] = [
    ("start", "/", ""),
    ("board", "/d/1/board", ""),
    ("vm", "/d/1/vm-2", ""),
    ("problem", "/d/1/vm-2", "cpu-3"),
    ("outputs", "/d/1/outputs", ""),
];

#[tokio::test]
async fn the_book_shows_the_main_pages() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/images");
    let is_wanted = std::env::var_os("ACRN_WRITE_SCREENSHOTS").is_some();
    let files = (data("generic/board.xml"), data("generic/everything.xml"));
    let browser = Browser::start(SIZE, Some(files)).await;
    for (name, page, click) in PICTURES {
        browser.go(page).await;
        if !click.is_empty() {
            browser.click(click).await;
            browser.wait_valid(false).await;
        }
        let picture = browser.screenshot().await;
        let file = format!("configurator-{name}.png");
        if is_wanted {
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(&file), &picture).unwrap();
        }
        if !click.is_empty() {
            browser.click("undo").await;
            browser.wait_valid(true).await;
        }
        assert!(
            BOOK.contains(&format!("(images/{file})")),
            "the book does not show {file}"
        );
        let kept =
            fs::read(directory.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(size(&kept), size(&picture), "{file} is of another size");
    }
}

/// Width and height of a PNG.
fn size(png: &[u8]) -> Option<[u8; 8]> {
    const BEHIND: usize = 16;
    png.get(BEHIND..BEHIND + 8)?.try_into().ok()
}
