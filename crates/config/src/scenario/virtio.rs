//! Devices that the Device Model emulates.

use super::{Backend, ConsoleUse, DisplayType, NetworkFramework};
use crate::model::{OptionsFrom, Pattern, item, model};

/// Sizes of a window that the Device Model knows.
pub const WINDOW_RESOLUTIONS: [&str; 16] = [
    "3840x2160",
    "2560x1920",
    "2560x1440",
    "1920x1440",
    "1920x1200",
    "1920x1080",
    "1680x1050",
    "1600x1200",
    "1600x900",
    "1440x1050",
    "1366x768",
    "1360x768",
    "1280x1024",
    "1280x720",
    "1024x768",
    "800x600",
];

model! {
    /// Virtio devices of a User VM.
    pub struct VirtioDevices {
        pub gpu: Option<Gpu> = item("gpu", "Graphics",
            "A graphics card whose picture the Service VM shows.").post(),
        pub consoles: Vec<Console> = item("console", "Console", "A console or serial port.").post(),
        pub networks: Vec<Network> = item("network", "Network", "A network card.").post(),
        pub inputs: Vec<Input> = item("input", "Input",
            "A keyboard, mouse or the like of the Service VM.").post(),
        pub blocks: Vec<String> = item("block", "Disk",
            "Path of a disk image or device in the Service VM.").post(),
        pub vsocks: Vec<i64> = item("vsock", "Vsock",
            "The VM's context id for sockets between VMs.").range(3, 4_294_967_294).post(),
    }

    /// A graphics card.
    pub struct Gpu {
        pub display_type: DisplayType = item("display_type", "Display",
            "Windows, or monitors of its own.").default("Window").post(),
        pub displays: Displays = item("displays", "Displays", "Where the picture goes.").post(),
    }

    /// Displays.
    pub struct Displays {
        pub list: Vec<Display> = item("display", "Display", "A window or monitor.").post(),
    }

    /// A window or monitor.
    pub struct Display {
        pub monitor_id: Option<i64> = item("monitor_id", "Monitor",
            "Number of the monitor, for full screen.").range(0, 15).post(),
        pub window_resolutions: Option<String> = item("window_resolutions", "Window size",
            "Width and height of the window, such as 1280x720.").post(),
        pub horizontal_offset: Option<i64> = item("horizontal_offset", "Left edge",
            "Place of the window.").unit("pixels").range(0, 65535).post(),
        pub vertical_offset: Option<i64> = item("vertical_offset", "Top edge",
            "Place of the window.").unit("pixels").range(0, 65535).post(),
    }

    /// A console.
    pub struct Console {
        pub use_type: ConsoleUse = item("use_type", "Use",
            "A console, or a serial port.").default("Virtio console").post(),
        pub backend: Backend = item("backend_type", "Connected to",
            "What is on the other side.").default("stdio").post(),
        pub file: Option<String> = item("output_file_path", "File",
            "The file, for backend file.").post().when("backend_type", &["file"]),
        pub socket: Option<String> = item("sock_file_path", "Socket",
            "Path of the socket, for the socket backends.").post()
            .when("backend_type", &["sock client", "sock server"]),
        pub tty: Option<String> = item("tty_device_path", "Terminal",
            "The terminal device, for backend tty.").post().when("backend_type", &["tty"]),
    }

    /// A network card.
    pub struct Network {
        pub framework: NetworkFramework = item("virtio_framework", "Carried by",
            "Who carries the packets.").default("User space based (VBSU)").post(),
        pub interface: String = item("interface_name", "Interface",
            "Name of the TAP interface in the Service VM.").pattern(Pattern::Name(15)).post(),
    }

    /// An input device.
    pub struct Input {
        pub device: String = item("backend_device_file", "Device",
            "The input device of the Service VM.").from(OptionsFrom::BoardInputs).post(),
        pub id: Option<String> = item("id", "Id",
            "Text that the VM sees as the device's id.").post(),
    }
}
