//! Kernel arguments that reserve the huge pages of post-launched VMs.

use acrn_config_blob::Vm;
use core::fmt;

/// Huge pages that the Service VM's kernel is to reserve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    gib: u32,
    mib: u64,
}

impl HugePages {
    /// What the scenario says of the Service VM, unless its kernel's `arguments` have an opinion. On CPUs without
    /// pages of 1 GiB there are more of 2 MiB.
    pub fn wanted(service: &Vm<'_>, arguments: &str, gib_pages: bool) -> Self {
        if arguments.contains("hugepages=") {
            return Self::default();
        }
        let (gib, mib) = (service.huge_pages_1g, u64::from(service.huge_pages_2m));
        match gib_pages {
            true => Self { gib, mib },
            false => Self {
                gib: 0,
                mib: mib + 512 * u64::from(gib),
            },
        }
    }
}

/// The arguments, each behind a space.
impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gib > 0 {
            write!(f, " hugepagesz=1G hugepages={}", self.gib)?;
        }
        if self.mib > 0 {
            write!(f, " hugepagesz=2M hugepages={}", self.mib)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(gib: u32, mib: u32, own: &str, gib_pages: bool) -> String {
        let vm = Vm {
            huge_pages_1g: gib,
            huge_pages_2m: mib,
            ..Vm::default()
        };
        HugePages::wanted(&vm, own, gib_pages).to_string()
    }

    #[test]
    fn pages_of_each_size_are_asked_for() {
        assert_eq!(arguments(0, 0, "ro", true), "");
        assert_eq!(arguments(0, 64, "ro", true), " hugepagesz=2M hugepages=64");
        assert_eq!(
            arguments(5, 256, "", true),
            " hugepagesz=1G hugepages=5 hugepagesz=2M hugepages=256"
        );
        assert_eq!(
            arguments(5, 256, "", false),
            " hugepagesz=2M hugepages=2816"
        );
        let most = arguments(u32::MAX, u32::MAX, "", false);
        assert_eq!(most, " hugepagesz=2M hugepages=2203318222335");
    }

    #[test]
    fn arguments_that_reserve_pages_count_alone() {
        assert_eq!(arguments(5, 256, "ro hugepages=3 quiet", true), "");
    }
}
