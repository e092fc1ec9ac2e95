//! Builds what a machine needs, in the order of dependence.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;

use crate::grub::BootSet;
use crate::image::{self, Image};
use crate::layout::{Layout, display};
use crate::{bochs, kernel, rootfs, stock};

/// Parts that can be built by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Everything that `demo` uses.
    All,
    /// The hypervisor's image.
    Hypervisor,
    /// The kernel of Service VM and User VM.
    Kernel,
    /// The Device Model.
    Dm,
    /// The manager: daemon, command, life-cycle manager.
    Manager,
    /// The board inspector.
    Inspector,
    /// Readers of the hypervisor's log and trace.
    Tools,
    /// RAM disks and disk images.
    Rootfs,
    /// The micro-guests.
    Micro,
    /// The benchmark's init.
    Bench,
    /// The disk with a stock Debian kernel.
    Stock,
    /// The emulator of Intel processors.
    Bochs,
}

/// Options of `cargo xtask build`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// What to build.
    #[arg(value_enum, default_value = "all")]
    parts: Vec<Part>,
}

/// Builds the parts and prints where they are.
///
/// # Errors
/// The first build that fails.
pub fn run(layout: &Layout, options: &Options) -> Result<()> {
    for part in &options.parts {
        let paths: Vec<PathBuf> = match part {
            Part::All => {
                let built = Artefacts::build(layout)?;
                vec![
                    built.hypervisor.flat,
                    built.kernel,
                    built.initrd,
                    built.data_disk,
                ]
            }
            Part::Hypervisor => vec![image::hypervisor(layout)?.flat],
            Part::Kernel => vec![kernel::build(layout)?],
            Part::Dm => vec![image::device_model(layout)?],
            Part::Manager => image::manager(layout)?.to_vec(),
            Part::Inspector => vec![image::inspector(layout)?],
            Part::Tools => image::tools(layout)?.to_vec(),
            Part::Rootfs => {
                let initrd = rootfs::service_initrd(layout, &service_programs(layout)?)?;
                let disk = data_disk(layout, &kernel::build(layout)?)?;
                vec![initrd, rootfs::guest_initrd(layout)?, disk]
            }
            Part::Micro => vec![image::micro_guest(layout)?.flat],
            Part::Bench => vec![image::bench_init(layout)?],
            Part::Stock => vec![stock::disk(layout)?],
            Part::Bochs => vec![bochs::build::build(layout)?],
        };
        for path in paths {
            println!("{}", display(&path));
        }
    }
    Ok(())
}

/// What the Service VM has besides Debian's busybox and bash.
fn service_programs(layout: &Layout) -> Result<Vec<PathBuf>> {
    let mut programs = vec![
        image::device_model(layout)?,
        image::inspector(layout)?,
        image::vm_command(layout)?,
    ];
    programs.extend(image::manager(layout)?);
    programs.extend(image::tools(layout)?);
    Ok(programs)
}

/// The disk with User VMs, which have the life-cycle manager besides Debian's busybox.
fn data_disk(layout: &Layout, kernel: &Path) -> Result<PathBuf> {
    rootfs::data_disk(layout, kernel, &image::life_mngr(layout)?)
}

/// Everything that boots the hypervisor, its Service VM and a User VM.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// The hypervisor; its paths are empty in a [`Self::bare`] set.
    pub hypervisor: Image,
    /// The kernel.
    pub kernel: PathBuf,
    /// RAM disk of the Service VM.
    pub initrd: PathBuf,
    /// Disk with the User VMs.
    pub data_disk: PathBuf,
}

impl Artefacts {
    /// Builds all of it.
    ///
    /// # Errors
    /// The first build that fails.
    pub fn build(layout: &Layout) -> Result<Self> {
        let hypervisor = image::hypervisor(layout)?;
        let programs = service_programs(layout)?;
        let kernel = kernel::build(layout)?;
        let initrd = rootfs::service_initrd(layout, &programs)?;
        let data_disk = data_disk(layout, &kernel)?;
        Ok(Self {
            hypervisor,
            kernel,
            initrd,
            data_disk,
        })
    }

    /// Only what the Service VM's Linux needs to boot without a hypervisor.
    ///
    /// # Errors
    /// The first build that fails.
    pub fn bare(layout: &Layout) -> Result<Self> {
        let kernel = kernel::build(layout)?;
        let initrd = rootfs::service_initrd(layout, &[])?;
        let data_disk = data_disk(layout, &kernel)?;
        let hypervisor = Image {
            flat: PathBuf::new(),
            elf: PathBuf::new(),
            base: 0,
        };
        Ok(Self {
            hypervisor,
            kernel,
            initrd,
            data_disk,
        })
    }

    /// What the boot loader loads, with these command lines.
    #[must_use]
    pub fn boot_set(&self, hypervisor_args: &str, kernel_args: &str) -> BootSet {
        BootSet {
            hypervisor: self.hypervisor.flat.clone(),
            hypervisor_args: hypervisor_args.to_owned(),
            kernel: self.kernel.clone(),
            kernel_args: kernel_args.to_owned(),
            initrd: self.initrd.clone(),
            config: PathBuf::new(),
            modules: Vec::new(),
        }
    }
}
