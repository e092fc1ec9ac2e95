//! The command line.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};

use crate::size::Size;

/// Makes disk images of User VMs, and changes them.
#[derive(Debug, Parser)]
#[command(
    name = "acrn-image",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 done, 1 failed or the image is damaged, 2 wrong command line."
)]
pub struct Args {
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a bootable disk with Debian.
    Create(Create),
    /// Convert between raw, qcow2, vmdk, vhdx and vdi, which the ends of the names tell apart.
    Convert {
        /// The image that there is.
        from: PathBuf,
        /// The image to make.
        to: PathBuf,
    },
    /// Make an image, its partition and its file system larger.
    Resize {
        /// The image, which no VM may be using.
        image: PathBuf,
        /// Its new size, such as 8G.
        size: Size,
    },
    /// Say whether an image is in order.
    Check {
        /// The image, which no VM may be using.
        image: PathBuf,
    },
    /// Make a seed for cloud-init, to be given to a VM as a second disk.
    Seed(Seed),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Options of `acrn-image create`.
#[derive(Debug, Group)]
pub struct Create {
    /// The image to make, raw; kernel and RAM disk for acrn-dm go beside it.
    pub image: PathBuf,
    /// Its size.
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub size: Size,
    /// Release of Debian.
    #[arg(long, value_name = "NAME", default_value = "bookworm")]
    pub suite: String,
    /// Where Debian's packages are.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://deb.debian.org/debian"
    )]
    pub mirror: String,
    /// Package with the kernel.
    #[arg(
        long,
        value_name = "PACKAGE",
        default_value = "linux-image-cloud-amd64"
    )]
    pub kernel: String,
    /// Further packages.
    #[arg(long, value_name = "PACKAGE,...", value_delimiter = ',')]
    pub include: Vec<String>,
    /// Name of the VM in its network.
    #[arg(long, value_name = "NAME", default_value = "user-vm")]
    pub hostname: String,
    /// File with the password of root; without it and a key, nobody can log in.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// File with the public SSH key of root.
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
}

/// Options of `acrn-image seed`.
#[derive(Debug, Group)]
pub struct Seed {
    /// The seed to make.
    pub seed: PathBuf,
    /// Name of the VM in its network.
    #[arg(long, value_name = "NAME", default_value = "user-vm")]
    pub hostname: String,
    /// File with the public SSH key of the first user.
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
    /// File with cloud-init's user data, instead of the two above.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hostname", "ssh_key"])]
    pub user_data: Option<PathBuf>,
}
