//! The words of choices. Where the hypervisor has the same choice, its type is used.

use crate::model::words;
use acrn_config_blob::{
    CacheKind, KernelKind, LoadOrder, PerformancePolicy, Priority, Restart, Scheduler, ShellMode,
    VmKind, VuartKind,
};

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident, $default:ident { $($(#[$case_doc:meta])* $case:ident $word:literal $title:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum $name { $($(#[$case_doc])* $case,)* }
            words! { $name, $default { $($case $word $title,)* } }
        )*
    };
}

choices! {
    /// What is compiled in.
    BuildType, Debug {
        /// Log, shell and trace are there.
        Debug "debug" "Debug",
        /// They are not.
        Release "release" "Release",
    }
    /// Where a VM's console is.
    ConsoleVuart, None {
        /// There is none.
        None "None" "None",
        /// Port 0x3f8.
        Com1 "COM Port 1" "COM 1 (0x3f8)",
        /// Port 0x2f8.
        Com2 "COM Port 2" "COM 2 (0x2f8)",
        /// Port 0x3e8.
        Com3 "COM Port 3" "COM 3 (0x3e8)",
        /// Port 0x2e8.
        Com4 "COM Port 4" "COM 4 (0x2e8)",
        /// A PCI function.
        Pci "PCI" "PCI card",
    }
    /// Operating system of a User VM.
    OsType, Other {
        /// Anything but Windows.
        Other "Non-Windows OS" "Linux or another",
        /// Windows.
        Windows "Windows OS" "Windows",
    }
    /// Who emulates a region of shared memory.
    Provider, Hypervisor {
        /// The hypervisor.
        Hypervisor "Hypervisor" "Hypervisor",
        /// The Device Model.
        DeviceModel "Device Model" "Device Model",
    }
    /// Who carries a virtual network's packets.
    NetworkFramework, UserSpace {
        /// The Service VM's kernel.
        Kernel "Kernel based (Virtual Host)" "Kernel (vhost)",
        /// The Device Model.
        UserSpace "User space based (VBSU)" "Device Model",
    }
    /// What a virtio console is.
    ConsoleUse, Console {
        /// A console.
        Console "Virtio console" "Console",
        /// A port.
        Port "Virtio serial port" "Serial port",
    }
    /// What is behind a virtio console.
    Backend, Stdio {
        /// The Device Model's own terminal.
        Stdio "stdio" "Terminal of acrn-dm",
        /// A new pseudo terminal.
        Pty "pty" "Pseudo terminal",
        /// A file.
        File "file" "File",
        /// A socket that somebody listens on.
        SocketClient "sock client" "Socket, as client",
        /// A socket to listen on.
        SocketServer "sock server" "Socket, as server",
        /// A terminal device.
        Tty "tty" "Terminal device",
    }
    /// How a display is shown.
    DisplayType, Window {
        /// In a window.
        Window "Window" "Window",
        /// On a monitor of its own.
        FullScreen "Full screen" "Full screen",
    }
}

words! {
    LoadOrder, PostLaunched {
        PreLaunched "PRE_LAUNCHED_VM" "Pre-launched VM",
        Service "SERVICE_VM" "Service VM",
        PostLaunched "POST_LAUNCHED_VM" "Post-launched VM",
    }
    VmKind, Standard {
        Standard "STANDARD_VM" "Standard",
        RealTime "RTVM" "Real-time",
        Tee "TEE_VM" "Trusted execution environment",
        Ree "REE_VM" "Rich execution environment",
    }
    Scheduler, Bvt {
        Noop "SCHED_NOOP" "One vCPU a CPU",
        RoundRobin "SCHED_IORR" "Round robin",
        Bvt "SCHED_BVT" "Borrowed virtual time",
        Priority "SCHED_PRIO" "Fixed priorities",
    }
    Priority, Low {
        Low "PRIO_LOW" "Low",
        High "PRIO_HIGH" "High",
    }
    PerformancePolicy, Performance {
        Performance "Performance" "Performance",
        Nominal "Nominal" "Nominal",
    }
    ShellMode, Full {
        Off "off" "Off",
        ReadOnly "read-only" "Commands that only look",
        Full "full" "All commands",
    }
    Restart, Never {
        Never "never" "Never",
        OnCrash "on-crash" "After a crash",
        Always "always" "Always",
    }
    KernelKind, BzImage {
        BzImage "KERNEL_BZIMAGE" "Linux bzImage",
        Raw "KERNEL_RAWIMAGE" "Raw image",
        Elf "KERNEL_ELF" "ELF",
    }
    CacheKind, Unified {
        Unified "Unified" "Code and data",
        Code "Code" "Code",
        Data "Data" "Data",
    }
    VuartKind, Pci {
        Legacy "legacy" "I/O port",
        Pci "pci" "PCI",
    }
}
