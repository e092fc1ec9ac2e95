//! Managing User VMs: the daemon `acrnd` and the command `acrnctl`.
//!
//! What decides is pure and knows neither files nor clocks: a VM's [`definition`], the [`order`]
//! in which VMs start, the name in a launch [`script`], the [`life`] of one VM with its restarts, what to do with a process that
//! an earlier `acrnd` has left ([`adoption`]), the ring of [`events`].
//!
//! Around it, [`daemon`] keeps the VMs, [`keeper`] is the process between `acrnd` and one VM,
//! [`log`] has the files that only grow, [`tail`] reads logs, [`store`] has the files by which a new `acrnd` knows what the last one did, [`dm`] speaks to a
//! running `acrn-dm`, [`api`] is the daemon's HTTP interface, and [`cli`], [`client`], [`console`]
//! and [`control`] are `acrnctl`. [`life_mngr`] is a program of its own.

#![forbid(unsafe_code)]

pub mod adoption;
pub mod api;
pub mod cli;
pub mod client;
pub mod console;
pub mod control;
pub mod daemon;
pub mod definition;
pub mod dm;
pub mod events;
pub mod keeper;
pub mod life;
pub mod life_mngr;
pub mod log;
pub mod notify;
pub mod order;
pub mod script;
pub mod store;
pub mod tail;
pub mod view;

/// Where the daemon listens.
pub const SOCKET: &str = "/run/acrn/acrnd.sock";
/// Where the definitions are.
pub const DEFINITIONS: &str = "/etc/acrn/vms";
