//! A PC with Secure Boot on: what the inspector says of it, and that our packages do not keep it from booting.

use std::fs;

use acrn_config::BoardFile;
use anyhow::{Context as _, Result, ensure};

use super::{Context, Outcome, support};
use crate::deb::{self, Part};
use crate::rootfs::fresh_directory;
use crate::session::Session;
use crate::target::{Debian, SYSTEM, Target};
use crate::{grub, shim};

/// Inspects it, installs, boots it without anybody at its keyboard, switches Secure Boot off and has the hypervisor.
pub(super) fn secure_boot(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(Outcome::Skipped("it is about packages (--bare)".into()));
    }
    if let Some(skipped) = support::unless_root() {
        return Ok(skipped);
    }
    let (code, _) = grub::secure_ovmf();
    if !code.exists() {
        return Ok(Outcome::Skipped(format!("{} is missing", code.display())));
    }
    let directory = fresh_directory(&context.layout.runs().join(context.name))?;
    let debian = Debian::build(context.layout)?;
    let mut target = debian.target(&directory, &[])?;
    let disk = target.machine.disks.first().context("it has no disk")?;
    shim::put_on(context.layout, &disk.image)?;
    target.machine.secure_boot = true;
    let mut session = boot(context, &target, "before")?;
    let kernel = target.run("uname -r")?;
    inspect(context, &target)?;
    install(context, &target)?;
    target.end(&mut session, "reboot", SYSTEM)?;
    let mut session = boot(context, &target, "installed")?;
    let now = target.run("uname -r")?;
    ensure!(
        now == kernel,
        "it has booted {now} instead of Debian's kernel {kernel}"
    );
    target.end(&mut session, "poweroff", SYSTEM)?;
    target.machine.secure_boot = false;
    // Debian's start below the hypervisor is long enough for QEMU's defect.
    target.machine.share_one_cpu = true;
    let mut session = boot(context, &target, "off")?;
    target.run("test -c /dev/acrn_hsm")?;
    target.end(&mut session, "poweroff", SYSTEM)?;
    let _ = fs::remove_dir_all(&directory);
    Ok(Outcome::Passed)
}

/// Switches on and waits until somebody can log in.
fn boot(context: &Context, target: &Target, name: &str) -> Result<Session> {
    let mut session = target.switch_on(context.layout, &context.log(name))?;
    target.wait_for_log_in(&mut session, SYSTEM)?;
    Ok(session)
}

fn inspect(context: &Context, target: &Target) -> Result<()> {
    let locked = target.run("cat /sys/kernel/security/lockdown")?;
    ensure!(
        locked.contains("[integrity]"),
        "the kernel is not locked down: {locked}"
    );
    const PROGRAM: &str = "/root/acrn-board-inspector";
    target.put(&crate::image::inspector(context.layout)?, PROGRAM)?;
    let text = target.run(&format!("chmod +x {PROGRAM} && {PROGRAM} target --out -"))?;
    let board = BoardFile::parse("target.xml", &text)?;
    ensure!(
        board.model.cpus().len() == 2 && !board.model.pci_functions().is_empty(),
        "the inspector has not found all CPUs, or no PCI function"
    );
    let advice = target.run(&format!("{PROGRAM} --doctor || test $? = 1"))?;
    let expected = [
        "BAD   Secure Boot: on",
        "good  virtualization",
        "will not run on this machine",
    ];
    for words in expected {
        ensure!(advice.contains(words), "no \"{words}\" in\n{advice}");
    }
    Ok(())
}

/// Installs the hypervisor, and a kernel for the Service VM that is newer than Debian's and that nobody has signed.
/// Its package has a RAM disk made, which takes an emulated processor long; this one needs none.
fn install(context: &Context, target: &Target) -> Result<()> {
    const KERNEL: &str = "99-acrn";
    target.put(
        &context.artefacts.kernel,
        &format!("/boot/vmlinuz-{KERNEL}"),
    )?;
    target.run(&format!("echo CONFIG_ACRN_HSM=y >/boot/config-{KERNEL}"))?;
    let package = deb::build(context.layout, Part::Hypervisor, &deb::version(None))?;
    target.put(&package, "/root/hypervisor.deb")?;
    // An installer makes the menu, which our disk does without.
    let said =
        target.run("touch /boot/grub/grub.cfg && dpkg --install /root/hypervisor.deb 2>&1")?;
    ensure!(
        said.contains("while the firmware's Secure Boot is on"),
        "the package does not warn:\n{said}"
    );
    Ok(())
}
