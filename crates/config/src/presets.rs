//! Files that come with the program: boards, and a scenario for each way of sharing a machine.

/// QEMU's q35.
pub const QEMU_BOARD: &str = include_str!("../data/qemu/board.xml");
/// A made-up board that resembles a recent Intel PC.
pub const GENERIC_BOARD: &str = include_str!("../data/generic/board.xml");

/// A board and a scenario for it.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it is good for.
    pub help: &'static str,
    /// The board file.
    pub board: &'static str,
    /// The scenario file.
    pub scenario: &'static str,
}

/// All of them.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "shared",
        help: "User VMs share the machine that the Service VM owns; one is a real-time VM",
        board: QEMU_BOARD,
        scenario: include_str!("../data/qemu/shared.xml"),
    },
    Preset {
        name: "partitioned",
        help: "two VMs with CPUs, memory and devices of their own; no Service VM",
        board: QEMU_BOARD,
        scenario: include_str!("../data/qemu/partitioned.xml"),
    },
    Preset {
        name: "hybrid",
        help: "a safety VM that the hypervisor starts, the Service VM, and User VMs",
        board: QEMU_BOARD,
        scenario: include_str!("../data/qemu/hybrid.xml"),
    },
    Preset {
        name: "hybrid_rt",
        help: "a real-time VM that the hypervisor starts, the Service VM, and User VMs",
        board: QEMU_BOARD,
        scenario: include_str!("../data/qemu/hybrid_rt.xml"),
    },
    Preset {
        name: "generic",
        help: "an example with everything, for a made-up board",
        board: GENERIC_BOARD,
        scenario: include_str!("../data/generic/everything.xml"),
    },
];

/// The preset of that name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
