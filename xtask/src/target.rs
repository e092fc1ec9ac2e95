//! A machine as a user's: a disk with UEFI firmware, on it an ordinary Debian, and SSH.
//!
//! The disk is made once by `acrn-image` of Debian's packages and copied for each machine. Making it takes root,
//! and the network.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::image;
use crate::layout::Layout;
use crate::machine::{Boot, Disk, DiskBus, Machine};
use crate::progress::{Step, output_of};
use crate::rootfs::copy_image;
use crate::session::{Session, USER_PASSWORD};
use crate::stamp::Inputs;

/// Time for Debian to boot or end, also below the hypervisor.
pub const SYSTEM: Duration = Duration::from_secs(420);

/// What the system calls itself.
pub const HOST: &str = "target";

/// A Debian system that was never booted, and the key that opens it.
pub struct Debian {
    /// The disk. The system's kernel and RAM disk are beside it, as `acrn-image create` puts them.
    pub image: PathBuf,
    key: PathBuf,
}

impl Debian {
    /// Makes the disk, unless it is there.
    ///
    /// # Errors
    /// No network, no root, or a tool of `acrn-image` is missing.
    pub fn build(layout: &Layout) -> Result<Self> {
        let directory = layout.cache().join("target");
        let debian = Self {
            image: directory.join("debian.img"),
            key: directory.join("key"),
        };
        let program = image::disk_images(layout)?;
        let inputs = Inputs::new()
            .path(&layout.source("image/src"))?
            .value("password", USER_PASSWORD);
        if inputs.match_stamp_of(&debian.image) {
            return Ok(debian);
        }
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]);
        output_of(keygen.arg(&debian.key))?;
        let step = Step::begin("Debian on a disk");
        let mut create = Command::new(program);
        create.args(["create", "--size", "3G", "--hostname", HOST]);
        create
            .arg("--ssh-key")
            .arg(debian.key.with_extension("pub"));
        let password = directory.join("password");
        fs::write(&password, USER_PASSWORD)?;
        create.arg("--password-file").arg(password);
        let log = layout.logs().join("target-disk.log");
        step.run(create.arg(&debian.image), &log, |line| {
            let doing = line.split_once("I: ")?.1;
            Some(doing.to_owned())
        })?;
        inputs.write_stamp_of(&debian.image)?;
        step.done("made");
        Ok(debian)
    }

    /// A machine with a copy of the disk, which is in `directory`, and with these further disks.
    ///
    /// # Errors
    /// The disk cannot be copied.
    pub fn target(&self, directory: &Path, more: &[PathBuf]) -> Result<Target> {
        fs::create_dir_all(directory)?;
        let mut disks = Vec::new();
        for image in [&self.image].into_iter().chain(more) {
            let to = directory.join(image.file_name().unwrap_or_default());
            copy_image(image, &to)?;
            disks.push(Disk {
                image: to,
                bus: DiskBus::Virtio,
                persistent: true,
            });
        }
        // Free a moment ago is as good as it gets with QEMU.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut machine = Machine::new(Boot::Disk);
        machine.disks = disks;
        machine.extra = vec![
            "-netdev".to_owned(),
            format!("user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22"),
            "-device".to_owned(),
            "virtio-net-pci,netdev=net0".to_owned(),
        ];
        Ok(Target {
            machine,
            port,
            key: self.key.clone(),
        })
    }
}

/// The machine, on or off.
pub struct Target {
    /// Its description.
    pub machine: Machine,
    port: u16,
    key: PathBuf,
}

impl Target {
    /// Switches it on.
    ///
    /// # Errors
    /// The emulator cannot be started.
    pub fn switch_on(&self, layout: &Layout, log: &Path) -> Result<Session> {
        Ok(Session::new(self.machine.start(layout, log)?))
    }

    /// Keeps what the disks are, for [`Self::restore_disks`]. The machine is off.
    ///
    /// # Errors
    /// A disk cannot be copied.
    pub fn keep_disks(&self) -> Result<()> {
        let mut disks = self.machine.disks.iter();
        disks.try_for_each(|disk| copy_image(&disk.image, &kept(&disk.image)))
    }

    /// Makes the disks what they were when they were kept. The machine is off.
    ///
    /// # Errors
    /// A disk cannot be copied, or was not kept.
    pub fn restore_disks(&self) -> Result<()> {
        let mut disks = self.machine.disks.iter();
        disks.try_for_each(|disk| copy_image(&kept(&disk.image), &disk.image))
    }

    /// Waits until somebody can log in.
    ///
    /// # Errors
    /// Nobody can within `limit`.
    pub fn wait_for_log_in(&self, session: &mut Session, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.ssh("true", None).is_err() {
            session.vm.console.sound()?;
            ensure!(
                !session.vm.has_ended()?,
                "the machine ended:\n{}\n{}",
                session.vm.messages(),
                session.vm.console.tail(20)
            );
            ensure!(
                Instant::now() < deadline,
                "SSH did not answer within {limit:?}; the console's last lines:\n{}",
                session.vm.console.tail(30)
            );
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// Runs a command as root; returns what it printed.
    ///
    /// # Errors
    /// It fails: then with what it said.
    pub fn run(&self, command: &str) -> Result<String> {
        self.ssh(command, None)
            .with_context(|| format!("`{command}` on the machine"))
    }

    /// Copies a file there.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn put(&self, from: &Path, to: &str) -> Result<()> {
        let file =
            fs::File::open(from).with_context(|| format!("{} is missing", from.display()))?;
        self.ssh(&format!("cat >{to}"), Some(file)).map(drop)
    }

    /// Tells it to switch itself off or on, and waits until it is off.
    ///
    /// # Errors
    /// It is not within `limit`.
    pub fn end(&self, session: &mut Session, command: &str, limit: Duration) -> Result<()> {
        // The connection may be cut before the command's status arrives.
        let _ = self.ssh(&format!("systemctl --no-block {command}"), None);
        let status = session.vm.wait_for_exit(limit);
        let status = status.with_context(|| session.vm.console.tail(20))?;
        ensure!(status.success(), "{}", session.vm.messages());
        Ok(())
    }

    fn ssh(&self, command: &str, input: Option<fs::File>) -> Result<String> {
        let mut ssh = Command::new("ssh");
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=10",
            "LogLevel=ERROR",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            // A system that is dead does not close its connections.
            "ServerAliveInterval=20",
            "ServerAliveCountMax=9",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.arg("-i")
            .arg(&self.key)
            .args(["-p", &self.port.to_string()]);
        ssh.args(["root@127.0.0.1", command]);
        let input = input.map_or_else(Stdio::null, Stdio::from);
        let output = ssh
            .stdin(input)
            .output()
            .context("cannot start ssh: is openssh-client installed?")?;
        if !output.status.success() {
            bail!(
                "{}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Where a disk is kept as it was.
fn kept(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".kept");
    name.into()
}
