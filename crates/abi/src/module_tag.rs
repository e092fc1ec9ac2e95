//! What the string of a boot module means.
//!
//! The boot loader passes each module with a string `TAG [text]`. The tag is the first word; the
//! text after the tag of a kernel replaces the boot arguments of its VM.

/// Longest tag, in bytes.
pub const MAX_LEN: usize = 32;
/// Kernel of the Service VM.
pub const SERVICE_VM_KERNEL: &str = "Linux_bzImage";
/// Configuration blob of the hypervisor.
pub const CONFIG: &str = "acrn_config";
/// Prefix of `ACPI_VM<id>`, the ACPI tables of pre-launched VM `id` (decimal).
pub const ACPI_PREFIX: &str = "ACPI_VM";
/// Tags of the Service VM's initial RAM disk that are known by name. A tag that ends in one of
/// [`RAMDISK_SUFFIXES`] is one too.
pub const RAMDISKS: [&str; 4] = ["Ubuntu", "ramdisk", "Linux_ramdisk", "initrd"];
/// Endings that make a tag one of a RAM disk.
pub const RAMDISK_SUFFIXES: [&str; 2] = ["ramdisk", "initrd"];
/// Bytes of an `ACPI_VM<id>` module, exactly.
pub const ACPI_BLOB_SIZE: u64 = 0x10_0000;
