//! The Configurator: VMs are laid out on a board in a browser.
//!
//! What it does is pure: a [`document`] is a board, a scenario and all that is known about the two, and
//! changes by typed edits that can be undone; [`pages`] shows it, with forms made of the scenario's schema and
//! a [`picture`] of the board; [`outputs`] is what is made of it. Around that is a thin shell: [`server`]
//! speaks HTTP to one person's browser and nobody else's, [`work`] has the open documents and their
//! files, [`recent`] remembers them. Models, rules and outputs themselves are those of `acrn-config`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod document;
pub mod outputs;
pub mod pages;
pub mod picture;
pub mod recent;
pub mod server;
pub mod work;
