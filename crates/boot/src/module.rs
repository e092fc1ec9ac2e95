//! What each boot module is, by the tag that its string begins with.

use crate::info::{BootInfo, Module};
use acrn_abi::{VmId, module_tag};

/// What a module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind<'a> {
    /// Kernel of the Service VM.
    Kernel,
    /// Initial RAM disk of the Service VM, with the tag by which it was recognised.
    Ramdisk(&'a str),
    /// ACPI tables of a pre-launched VM.
    AcpiTable(VmId),
    /// The hypervisor's configuration.
    Config,
    /// Something else. A scenario may name any tag for its VMs' kernels and RAM disks, so this is
    /// no error.
    Unknown,
}

/// A module's string in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// First word; empty if the string is.
    pub tag: &'a str,
    /// What follows, without the space around it. After a kernel's tag it replaces the boot
    /// arguments of the VM.
    pub text: Option<&'a str>,
    /// Meaning of the tag.
    pub kind: ModuleKind<'a>,
}

/// Takes a module's string apart.
pub fn classify(string: &str) -> Tag<'_> {
    let string = string.trim();
    let (tag, text) = string.split_once([' ', '\t']).unwrap_or((string, ""));
    let text = text.trim();
    Tag {
        tag,
        text: (!text.is_empty()).then_some(text),
        kind: kind(tag),
    }
}

fn kind(tag: &str) -> ModuleKind<'_> {
    if tag == module_tag::SERVICE_VM_KERNEL {
        return ModuleKind::Kernel;
    }
    if tag == module_tag::CONFIG {
        return ModuleKind::Config;
    }
    if let Some(digits) = tag.strip_prefix(module_tag::ACPI_PREFIX)
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(vm) = digits.parse()
    {
        return ModuleKind::AcpiTable(VmId(vm));
    }
    let is_ramdisk = module_tag::RAMDISKS.contains(&tag)
        || module_tag::RAMDISK_SUFFIXES
            .iter()
            .any(|suffix| tag.ends_with(suffix));
    if is_ramdisk && tag.len() <= module_tag::MAX_LEN {
        return ModuleKind::Ramdisk(tag);
    }
    ModuleKind::Unknown
}

impl Module {
    /// The string in its parts.
    pub fn tag(&self) -> Tag<'_> {
        classify(&self.string)
    }
}

impl BootInfo {
    /// The first module with exactly this tag.
    pub fn module(&self, tag: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.tag().tag == tag)
    }

    /// The first module of a kind, for instance the Service VM's kernel.
    pub fn module_of(&self, wanted: impl Fn(ModuleKind<'_>) -> bool) -> Option<&Module> {
        self.modules.iter().find(|module| wanted(module.tag().kind))
    }

    /// Kernel of the Service VM.
    pub fn kernel(&self) -> Option<&Module> {
        self.module_of(|kind| kind == ModuleKind::Kernel)
    }

    /// RAM disk of the Service VM.
    pub fn ramdisk(&self) -> Option<&Module> {
        self.module_of(|kind| matches!(kind, ModuleKind::Ramdisk(_)))
    }

    /// Configuration of the hypervisor.
    pub fn config(&self) -> Option<&Module> {
        self.module_of(|kind| kind == ModuleKind::Config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_have_the_meaning_that_acrn_gives_them() {
        assert_eq!(classify("Linux_bzImage").kind, ModuleKind::Kernel);
        assert_eq!(classify("ACPI_VM12").kind, ModuleKind::AcpiTable(VmId(12)));
        assert_eq!(classify("acrn_config").kind, ModuleKind::Config);
        for tag in [
            "Ubuntu",
            "ramdisk",
            "Linux_ramdisk",
            "initrd",
            "my-initrd",
            "RT_ramdisk",
        ] {
            assert_eq!(classify(tag).kind, ModuleKind::Ramdisk(tag));
        }
    }

    #[test]
    fn only_the_whole_first_word_is_a_tag() {
        for string in [
            "",
            " ",
            "Linux_bzImage2",
            "ACPI_VM",
            "ACPI_VM+1",
            "ACPI_VM99999",
            "x y",
        ] {
            assert_eq!(classify(string).kind, ModuleKind::Unknown, "{string:?}");
        }
    }

    #[test]
    fn text_after_the_tag_is_kept_without_the_space_around_it() {
        let tag = classify("Linux_bzImage \t root=/dev/sda1  rw ");
        assert_eq!(tag.text, Some("root=/dev/sda1  rw"));
        assert_eq!(classify("Linux_bzImage  ").text, None);
    }
}
