//! Board files and scenario files: what they mean, whether they are right, and the binary configuration
//! that the hypervisor boots with.
//!
//! The way of a scenario: [`xml`] reads a text into a tree that forgets nothing; [`model`] turns the tree
//! into structures that are declared once, in [`scenario`] and [`board`], together with everything that
//! people should know about each element; [`validate`] judges them by its rules; [`allocate`] decides what
//! they leave open; [`build`] encodes the result with `acrn-config-blob`, whose types the hypervisor reads.
//! [`launch`] writes how
//! post-launched VMs are started, [`deploy`] brings all of it to the machine. [`migrate`] brings older files up to date, [`diff`] compares, [`presets`] has files to begin with.

#![forbid(unsafe_code)]

pub mod allocate;
pub mod board;
mod build;
pub mod cli;
pub mod deploy;
pub mod diff;
mod file;
pub mod finding;
pub mod launch;
pub mod migrate;
pub mod model;
mod parse;
pub mod presets;
pub mod scenario;
pub mod tree;
pub mod validate;
pub mod xml;

pub use board::Board;
pub use build::{Built, build, plan};
pub use file::{BoardFile, File, LoadError, Model, ScenarioFile};
pub use finding::{Finding, Severity};
pub use scenario::Scenario;
