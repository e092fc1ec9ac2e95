//! `acrnlog` and `acrntrace`: what the hypervisor says and does, read in the Service VM.
//!
//! * [`observer`]: rings that the hypervisor writes into, by `/dev/acrn_hsm`;
//! * [`log`]: log lines as data, and their order; [`rotate`]: files that they are kept in;
//! * [`capture`]: the file that `acrntrace record` writes;
//! * [`spans`]: what each CPU did from when to when;
//! * [`report`], [`chrome`], [`show`]: the trace in numbers, as a picture, as lines;
//! * [`cli`]: both command lines; [`run_log`], [`run_trace`]: what they do.
//!
//! Only [`observer`] and [`clock`] need the machine; everything else is from data to data.

pub mod capture;
pub mod chrome;
pub mod cli;
pub mod clock;
pub mod log;
pub mod observer;
pub mod report;
pub mod rotate;
pub mod run_log;
pub mod run_trace;
pub mod show;
pub mod spans;
pub mod wait;
