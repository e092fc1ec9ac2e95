//! Files that come with the program: boards, and a scenario for each way of sharing a machine.

mod fit;

pub use fit::fit;

/// QEMU's q35.
pub const QEMU_BOARD: &str = include_str!("../../data/qemu/board.xml");
/// Bochs's i440FX, with a processor of Intel's.
pub const BOCHS_BOARD: &str = include_str!("../../data/bochs/board.xml");
/// A made-up board that resembles a recent Intel PC.
pub const GENERIC_BOARD: &str = include_str!("../../data/generic/board.xml");

/// These boards, by names for people.
pub const SAMPLE_BOARDS: [(&str, &str); 3] = [
    ("QEMU q35", QEMU_BOARD),
    ("Bochs i440FX", BOCHS_BOARD),
    ("An example of a PC", GENERIC_BOARD),
];

/// A board and a scenario for it.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
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
        title: "Shared",
        help: "User VMs share the machine that the Service VM owns; one is a real-time VM",
        board: QEMU_BOARD,
        scenario: include_str!("../../data/qemu/shared.xml"),
    },
    Preset {
        name: "partitioned",
        title: "Partitioned",
        help: "two VMs with CPUs, memory and devices of their own; no Service VM",
        board: QEMU_BOARD,
        scenario: include_str!("../../data/qemu/partitioned.xml"),
    },
    Preset {
        name: "hybrid",
        title: "Hybrid",
        help: "a safety VM that the hypervisor starts, the Service VM, and User VMs",
        board: QEMU_BOARD,
        scenario: include_str!("../../data/qemu/hybrid.xml"),
    },
    Preset {
        name: "hybrid_rt",
        title: "Hybrid with real time",
        help: "a real-time VM that the hypervisor starts, the Service VM, and User VMs",
        board: QEMU_BOARD,
        scenario: include_str!("../../data/qemu/hybrid_rt.xml"),
    },
    Preset {
        name: "hybrid_rt_bochs",
        title: "Hybrid with real time, in Bochs",
        help: "a real-time VM with local APICs of its own, beside the Service VM, in Bochs",
        board: BOCHS_BOARD,
        scenario: include_str!("../../data/bochs/hybrid_rt.xml"),
    },
    Preset {
        name: "generic",
        title: "Everything",
        help: "an example with everything, for a made-up board",
        board: GENERIC_BOARD,
        scenario: include_str!("../../data/generic/everything.xml"),
    },
];

/// The preset of that name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
