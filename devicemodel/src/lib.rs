//! acrn-dm, the Device Model: creates a User VM and gives it virtual devices.

pub mod pci;
pub mod virtio;
