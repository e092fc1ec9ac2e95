//! A scenario on the machine that it is for: as a Debian package ([`package`]), and put in force there
//! ([`apply`]).
//!
//! What is in force is the directory `/boot/acrn/current`: the configuration, the two files that it was built
//! of, and [`entry`], which tells the script of GRUB's menu what the entry needs. What was in force before is
//! `/boot/acrn/previous` and an entry of its own. The directories are exchanged by renaming ([`store`]), so
//! that the power may fail at any time. How post-launched VMs are started is made of the same two files
//! ([`starts`]). [`running`] is the machine, as far as it can be seen.

pub mod apply;
pub mod entry;
mod package;
mod running;
mod starts;
mod store;

pub use apply::{Applied, ApplyError, Target, Wanted};
pub use package::{PackageError, package, version_at};

#[cfg(test)]
mod tests;
