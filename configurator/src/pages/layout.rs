//! What is around all pages.

use maud::{DOCTYPE, Markup, html};

/// Light or dark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// As the browser's other pages.
    #[default]
    Auto,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl Theme {
    /// Of its name in the cookie.
    pub fn of(name: &str) -> Self {
        match name {
            "light" => Self::Light,
            "dark" => Self::Dark,
            _ => Self::Auto,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// A page.
pub fn page(title: &str, theme: Theme, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" data-theme=(theme.name()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – ACRN Configurator" }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/style.css";
                script src="/assets/script.js" defer {}
            }
            body { (body) }
        }
    }
}

/// The name of the program, which leads to the start page.
pub fn brand() -> Markup {
    html! {
        a.brand href="/" title="All configurations" {
            img src="/assets/icon.svg" alt="" width="22" height="22";
            span { "ACRN Configurator" }
        }
    }
}

/// Chooses light or dark.
pub fn theme_switch() -> Markup {
    html! {
        select #theme.quiet aria-label="Colours" {
            option value="auto" { "Auto" }
            option value="light" { "Light" }
            option value="dark" { "Dark" }
        }
    }
}

/// A page that says what went wrong.
pub fn problem(theme: Theme, title: &str, text: &str) -> Markup {
    let body = html! {
        header.bar { (brand()) span.spacer {} (theme_switch()) }
        main.narrow {
            h1 { (title) }
            p { (text) }
            p { a href="/" { "All configurations" } }
        }
    };
    page(title, theme, &body)
}
