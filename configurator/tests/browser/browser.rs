//! A browser with the Configurator in it.

use crate::process::Program;
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a page may take: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Board and scenario files that come with the program.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/config/data")
        .join(name)
        .canonicalize()
        .expect("it is there")
}

/// A browser.
pub struct Browser {
    client: Client,
    /// The address of the server.
    base: String,
    token: String,
    /// Home of the person.
    pub home: TempDir,
    _configurator: Program,
    _driver: Program,
}

impl Browser {
    /// With a window of that size, and files that are opened at once.
    pub async fn start(size: (u32, u32), files: Option<(PathBuf, PathBuf)>) -> Self {
        let mut arguments = Vec::new();
        if let Some((board, scenario)) = files {
            arguments.extend(["--board".into(), board, scenario]);
        }
        Self::with(size, &arguments).await
    }

    /// With arguments of the program.
    pub async fn with(size: (u32, u32), arguments: &[PathBuf]) -> Self {
        let home = tempfile::tempdir().expect("there is room");
        let mut command = Command::new(env!("CARGO_BIN_EXE_acrn-configurator"));
        command
            .arg("--no-browser")
            .env("HOME", home.path())
            .env_remove("XDG_STATE_HOME");
        command.args(arguments);
        let address = |line: &str| line.starts_with("http").then(|| line.to_owned());
        let (configurator, url) =
            Program::start(&mut command, address).unwrap_or_else(|error| panic!("{error}"));
        let (base, token) = url.split_once("/?token=").expect("it has a secret");
        let (driver, port) = driver(home.path());
        let client = client(&port, size, home.path()).await;
        let browser = Self {
            client,
            base: base.to_owned(),
            token: token.to_owned(),
            home,
            _configurator: configurator,
            _driver: driver,
        };
        browser
            .client
            .goto(&url)
            .await
            .expect("the start page is there");
        browser
    }

    /// From the start page to a new configuration, of a board file and a preset.
    pub async fn configure(&self, board: &Path, preset: &str) {
        self.put("#new-board", &board.display().to_string()).await;
        self.click_on(&format!("input[value={preset}]")).await;
        self.click_on("#new button").await;
        self.wait("document.getElementById('editor')").await;
    }

    /// Goes to a page.
    pub async fn go(&self, path: &str) {
        let url = format!("{}{path}?token={}", self.base, self.token);
        self.client.goto(&url).await.expect("the page is there");
        self.wait("document.readyState === 'complete'").await;
    }

    /// The value of an expression.
    pub async fn value(&self, expression: &str) -> Value {
        let script = format!("return {expression}");
        self.client
            .execute(&script, Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// A text.
    pub async fn text(&self, expression: &str) -> String {
        let value = self.value(expression).await;
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    pub async fn wait(&self, expression: &str) {
        let start = Instant::now();
        // Between two pages there is nothing to ask.
        while !self
            .client
            .execute(&format!("return Boolean({expression})"), Vec::new())
            .await
            .is_ok_and(|value| value == true)
        {
            let page = || async { self.text("document.body.innerText").await };
            assert!(
                start.elapsed() < PATIENCE,
                "still not: {expression}\n{}",
                page().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The element with an id.
    pub async fn element(&self, id: &str) -> Element {
        self.wait(&format!("document.getElementById({})", json!(id)))
            .await;
        let selector = format!("[id={}]", json!(id));
        self.client
            .find(Locator::Css(&selector))
            .await
            .unwrap_or_else(|error| panic!("{id}: {error}"))
    }

    /// Clicks what has an id.
    pub async fn click(&self, id: &str) {
        // The element may be replaced between the two.
        for _ in 0..3 {
            if self.element(id).await.click().await.is_ok() {
                return;
            }
        }
        panic!("{id} cannot be clicked");
    }

    /// Clicks the first that a selector finds.
    pub async fn click_on(&self, selector: &str) {
        let found = self.client.find(Locator::Css(selector)).await;
        found
            .unwrap_or_else(|error| panic!("{selector}: {error}"))
            .click()
            .await
            .expect("it can be clicked");
    }

    /// Types into what has an id, instead of what is there. It may be folded away.
    pub async fn fill(&self, id: &str, text: &str) {
        let select = "(field) => { field.closest('details:not([open])')?.setAttribute('open', ''); field.focus(); \
                      field.select(); return document.activeElement === field; }";
        let is_there = format!("({select})(document.getElementById({}))", json!(id));
        assert_eq!(
            self.value(&is_there).await,
            true,
            "{id} cannot be typed into"
        );
        self.press(text).await;
    }

    /// Puts a file or a text into what a selector finds.
    pub async fn put(&self, selector: &str, text: &str) {
        let element = self
            .client
            .find(Locator::Css(selector))
            .await
            .expect("it is there");
        element.send_keys(text).await.expect("it takes text");
    }

    /// Presses keys where the person is, one after the other. Control stays down until Null.
    pub async fn press(&self, keys: &str) {
        let control = char::from(Key::Control);
        let mut actions = KeyActions::new("keyboard".to_owned());
        for value in keys.chars() {
            actions = match value {
                value if value == control => actions.then(KeyAction::Down { value }),
                value if value == char::from(Key::Null) => {
                    actions.then(KeyAction::Up { value: control })
                }
                value => actions
                    .then(KeyAction::Down { value })
                    .then(KeyAction::Up { value }),
            };
        }
        self.client
            .perform_actions(actions)
            .await
            .expect("keys can be pressed");
    }

    /// Whether the scenario is shown as valid, once that is so or not.
    pub async fn wait_valid(&self, is_valid: bool) {
        let class = if is_valid { "good" } else { "bad" };
        self.wait(&format!(
            "document.getElementById('state').classList.contains('{class}')"
        ))
        .await;
    }

    /// A picture of the window, as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("there is a picture")
    }
}

/// ChromeDriver, and its port.
///
/// It takes a port that is free on `::1` and ends where the same one of 127.0.0.1 is in use, by a server or browser
/// of a test beside it for example. So it is asked again.
fn driver(home: &Path) -> (Program, String) {
    const ATTEMPTS: usize = 10;
    let port = |line: &str| {
        line.split("successfully on port ")
            .nth(1)
            .map(|rest| rest.trim_end_matches('.').to_owned())
    };
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("HOME", home);
        match Program::start(&mut command, port) {
            Ok(started) => return started,
            Err(error) => failure = error,
        }
    }
    panic!("{failure}");
}

async fn client(port: &str, (width, height): (u32, u32), home: &Path) -> Client {
    let profile = home.join("profile");
    let options = json!({
        "binary": "/usr/bin/chromium",
        "args": [
            "--headless=new",
            // Tests run as root too, and in containers with little shared memory.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            // A test's own certificate is nobody else's.
            "--ignore-certificate-errors",
            "--force-device-scale-factor=1",
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.display()),
        ],
    });
    let capabilities = [("goog:chromeOptions".to_owned(), options)];
    ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities.into_iter().collect())
        .connect(&format!("http://127.0.0.1:{port}"))
        .await
        .expect("the browser starts; cargo xtask setup installs it")
}
