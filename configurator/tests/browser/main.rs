//! The Configurator in a real browser: Chromium, by WebDriver.

mod browser;
mod journey;
mod keyboard;
mod looks;
mod process;
mod screenshots;
mod target;
