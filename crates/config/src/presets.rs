//! Files that come with the program: boards, and a scenario for each way of sharing a machine.

/// QEMU's q35 as `cargo xtask` starts it.
pub const QEMU_BOARD: &str = include_str!("../data/qemu/board.xml");
/// A made-up board that resembles a recent Intel PC.
pub const GENERIC_BOARD: &str = include_str!("../data/generic/board.xml");
