//! Opening the browser.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Opens an address with a secret in it. Everybody on the machine sees the words of a command, so the browser
/// is sent to a file that only this person can read, which sends it on.
///
/// # Errors
/// The file cannot be written, or there is no `xdg-open`.
pub fn open_browser(url: &str, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join("acrn-configurator.html");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(redirect(url).as_bytes())?;
    let mut command = Command::new("xdg-open");
    command
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().map(drop)
}

fn redirect(url: &str) -> String {
    maud::html! {
        (maud::DOCTYPE)
        meta http-equiv="refresh" content={ "0; url=" (url) };
        a href=(url) { "ACRN Configurator" }
    }
    .into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_sends_the_browser_on() {
        let page = redirect("http://127.0.0.1:1/?token=a&b");
        assert!(page.contains("0; url=http://127.0.0.1:1/?token=a&amp;b"));
    }
}
