//! Cases of the devices between VMs: serial lines at ports and on PCI cards, and shared memory.

use std::path::PathBuf;

use acrn_config::presets::preset;
use anyhow::{Context as _, Result, ensure};

use super::micro::{self, LIMIT, without_hypervisor};
use super::scenario::{boot_with, contains, start};
use super::support::{self, BOOT, COMMAND, POWER_OFF, service_vm};
use super::{Context, Outcome};
use crate::demo::{self, Options, Stages};
use crate::machine::Boot;
use crate::scenario;
use crate::session::Session;

/// What two VMs of a scenario have in common: a serial line at `port`, one on a PCI card behind the place of a
/// console's, and 2 MiB of shared memory. To be put behind the other features.
fn in_common(vms: [&str; 2], port: &str) -> String {
    let line = |kind, place: String| {
        let ends = vms.map(|vm| format!("<endpoint><vm_name>{vm}</vm_name>{place}</endpoint>"));
        format!(
            "<vuart_connection><name>{kind}</name><type>{kind}</type>{}</vuart_connection>",
            ends.concat()
        )
    };
    let ports = line("legacy", format!("<io_port>{port}</io_port>"));
    let card = line("pci", "<vbdf>00:11.0</vbdf>".to_owned());
    let members = vms.map(|vm| format!("<IVSHMEM_VM><VM_NAME>{vm}</VM_NAME></IVSHMEM_VM>"));
    format!(
        "<IVSHMEM><IVSHMEM_REGION><NAME>shm</NAME><PROVIDED_BY>Hypervisor</PROVIDED_BY>\
         <IVSHMEM_SIZE>2</IVSHMEM_SIZE><IVSHMEM_VMS>{}</IVSHMEM_VMS></IVSHMEM_REGION></IVSHMEM>\
         </FEATURES><vuart_connections>{ports}{card}</vuart_connections>",
        members.concat()
    )
}

/// A scenario in which the Service VM and the VM `peer` have all that in common; another VM has
/// nothing of it.
fn scenario(context: &Context, peer: &str, port: &str) -> Result<PathBuf> {
    let vm = |id, name| {
        format!(
            "<vm id=\"{id}\"><load_order>POST_LAUNCHED_VM</load_order><name>{name}</name>\
             <vm_type>STANDARD_VM</vm_type><memory><size>64</size></memory><cpu_affinity>\
             <pcpu><pcpu_id>0</pcpu_id></pcpu><pcpu><pcpu_id>1</pcpu_id></pcpu>\
             </cpu_affinity></vm>"
        )
    };
    let text = format!(
        "<acrn-config board=\"qemu\" scenario=\"between\"><hv>\
         <FEATURES><SCHEDULER>SCHED_BVT</SCHEDULER>{}\
         <DEBUG_OPTIONS><SERIAL_CONSOLE>/dev/ttyS0</SERIAL_CONSOLE></DEBUG_OPTIONS></hv>\
         <vm id=\"0\"><load_order>SERVICE_VM</load_order><name>SERVICE</name><os_config>\
         <kern_mod>Linux_bzImage</kern_mod><ramdisk_mod>Linux_ramdisk</ramdisk_mod></os_config>\
         </vm>{}{}</acrn-config>",
        in_common(["SERVICE", peer], port),
        vm(1, peer),
        vm(2, "stranger"),
    );
    scenario::of_text(context.layout, context.emulator, peer, &text)
}

/// All of it between two micro-guests, with what neither of them may do.
pub(super) fn micro_guests(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let config = scenario(context, "peer", "0x2F8")?;
    // The board's CPUs; nothing else of it matters here, so that it may be any emulator's.
    let mut machine = micro::machine(context, "vm_peers", 4)?;
    boot_with(&mut machine, config, "loglevel=1");
    let mut session = start(context, &machine, "peers")?;
    let said = session.expect("PASS vm_peers", LIMIT)?;
    contains(&said, &["% of a copy in own memory"])?;
    Ok(Outcome::Passed)
}

/// Names for the line at ports, those of COM4, and for the card.
const LINES: [&str; 2] = ["ports", "card"];
/// Makes these names. In the User VM COM2 leads to the life-cycle manager, on the same interrupt as COM4.
///
/// `ttyS0` may be a card as well, that of the console.
const NAMES: &str = "killall life_mngr 2>/dev/null; ln -s ttyS3 /dev/ports; \
    ln -s $(ls /sys/bus/pci/devices/*/tty | grep '^ttyS[1-9]') /dev/card; \
    for line in ports card; do stty -F /dev/$line raw -echo || exit 1; done";
/// In the User VM: each line that comes is sent back behind the name.
const ECHO: &str = "cd /dev; for tty in ports card; do \
    (exec 3<>$tty; while read -r line <&3; do echo $tty heard $line >&3; done) \
    >/dev/null 2>&1 & done; cd; sleep 1";
/// More than fits into a line.
const SENT_TO_NOBODY: &str =
    "for line in ports card; do head -c 20k /dev/zero >/dev/$line || exit 1; done";
/// Turns the shared memory on, first that of the hypervisor and then that of the Service VM if there is
/// one, and prints the addresses.
const ADDRESSES: &str = "for d in /sys/bus/pci/devices/*; do \
    if [ $(cat $d/vendor) = 0x1af4 ] && [ $(cat $d/device) = 0x1110 ]; then \
    echo 1 >$d/enable; sed -n '3s/ .*//p' $d/resource; fi; done";

/// The same between two Linux kernels with their own drivers.
pub(super) fn linux(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let options = Options {
        cpus: 4,
        ..Options::default()
    };
    let mut machine = support::machine(context, &options)?;
    if let Boot::Direct(set) = &mut machine.boot {
        // The port of the console is COM1 in both; COM2 is that of the life-cycle manager.
        set.config = scenario(context, "POST_STD_VM1", "0x2E8")?;
    }
    let mut session = service_vm(context, &machine, "linux")?;
    let script = "DM_OPTIONS='-s 6,ivshmem,hv:/shm,2 -s 7,ivshmem,dm:/ring,2 \
                  -s 8,uart,vuart_idx:2' launch_user_vm_id1.sh";
    demo::to_user_vm(&mut session, &mut Stages::quiet(), script, 1)?;
    session.log_in(1)?;
    serial(&mut session)?;
    flood(&mut session)?;
    memory(&mut session)?;
    session.to_user_shell(1)?;
    session.vm.console.send_line("poweroff")?;
    session.to_service()?;
    demo::wait_for_user_end(&mut session, 1)?;
    alone(&mut session)?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// Both lines have drivers in both VMs, and echoes come back.
fn serial(session: &mut Session) -> Result<()> {
    session.check(NAMES, COMMAND)?;
    session.check(ECHO, COMMAND)?;
    echoes(session)?;
    session.to_user_shell(1)?;
    // While it is open, a card has a message for its interrupts.
    let interrupts = session.check("grep -c 'MSI.*ttyS' /proc/interrupts", COMMAND)?;
    ensure!(interrupts == "1", "the card has no message: {interrupts}");
    session.check("kill $(jobs -p); wait; true", COMMAND)?;
    Ok(())
}

/// What the Service VM sends comes back by both lines.
fn echoes(session: &mut Session) -> Result<()> {
    session.to_service()?;
    session.check(NAMES, COMMAND)?;
    for line in LINES {
        for text in ["one", "two"] {
            let command = format!("vm-command --talk /dev/{line} {text}");
            let answer = session.check(&command, COMMAND)?;
            ensure!(
                answer == format!("{line} heard {text}"),
                "{line} answers {answer:?}"
            );
        }
    }
    Ok(())
}

/// More than all buffers hold, to a reader that begins late.
fn flood(session: &mut Session) -> Result<()> {
    const KIB: u32 = 64;
    for line in LINES {
        session.to_service()?;
        let sum = session.check(
            &format!(
                "head -c {KIB}k /dev/urandom >/tmp/sent; (cat /tmp/sent >/dev/{line}; sleep 60) & \
                 md5sum </tmp/sent"
            ),
            COMMAND,
        )?;
        session.to_user_shell(1)?;
        let got = session.check(&format!("head -c {KIB}k </dev/{line} | md5sum"), COMMAND)?;
        ensure!(
            sum.ends_with(&got),
            "{line}: {got} arrived instead of {sum}"
        );
    }
    Ok(())
}

/// The same with a VM that the hypervisor starts, whose console is a card too, and which goes on whatever the
/// Service VM does.
pub(super) fn prelaunched(context: &Context) -> Result<Outcome> {
    const GUEST: u16 = 7;
    if context.bare {
        return Ok(without_hypervisor());
    }
    let options = Options {
        scenario: Some("hybrid".to_owned()),
        ..Options::default()
    };
    let mut machine = support::machine(context, &options)?;
    if let Boot::Direct(set) = &mut machine.boot {
        let preset = preset("hybrid").context("no preset")?.scenario;
        let common = in_common(["SAFETY_VM0", "ACRN_Service_VM"], "0x2E8");
        let text = preset.replacen("</FEATURES>", &common, 1).replacen(
            "<console_vuart>COM Port 1<",
            "<console_vuart>PCI<",
            1,
        );
        set.config = scenario::of_text(context.layout, context.emulator, "hybrid-between", &text)?;
    }
    let mut session = service_vm(context, &machine, "prelaunched")?;
    session.to_guest(GUEST, "safety-vm", BOOT)?;
    let console = session.check(
        "basename $(readlink -f /sys/class/tty/ttyS0/device)",
        COMMAND,
    )?;
    ensure!(console == "0000:00:10.0", "the console is at {console}");
    session.check(NAMES, COMMAND)?;
    session.check(ECHO, COMMAND)?;
    let its = session.check(ADDRESSES, COMMAND)?;
    session.check(&format!("devmem {its} 32 0x12345678"), COMMAND)?;
    for round in 0..2 {
        if round > 0 {
            session.to_service()?;
            session.vm.console.send_line("reboot -f")?;
            session.expect("This is the Service VM", BOOT)?;
            session.wait_for_service_shell(BOOT)?;
        }
        echoes(&mut session)?;
        let own = session.check(ADDRESSES, COMMAND)?;
        let word = session.check(&format!("devmem {own} 32"), COMMAND)?;
        ensure!(word == "0x12345678", "the Service VM reads {word} at {own}");
    }
    session.vm.console.send_line("poweroff")?;
    session.to_guest(GUEST, "safety-vm", BOOT)?;
    session.check("kill $(jobs -p); wait; true", COMMAND)?;
    session.check(SENT_TO_NOBODY, COMMAND)?;
    Ok(Outcome::Passed)
}

/// What one VM writes the other reads, in both regions.
fn memory(session: &mut Session) -> Result<()> {
    let user = session.check(ADDRESSES, COMMAND)?;
    let [shared, ring] = user.split_whitespace().collect::<Vec<_>>()[..] else {
        anyhow::bail!("the User VM has shared memory at {user:?}");
    };
    session.check(&format!("devmem {shared} 32 0x12345678"), COMMAND)?;
    session.check(&format!("devmem {ring} 32 0x6c6c6568"), COMMAND)?;
    session.to_service()?;
    let own = session.check(ADDRESSES, COMMAND)?;
    let word = session.check(&format!("devmem {own} 32"), COMMAND)?;
    ensure!(word == "0x12345678", "the Service VM reads {word} at {own}");
    let text = session.check("head -c 4 /dev/shm/ring", COMMAND)?;
    ensure!(text == "hell", "the Service VM's file has {text:?}");
    session.check(
        &format!("devmem {own} 32 0x9abcdef0; printf ack | dd of=/dev/shm/ring conv=notrunc"),
        COMMAND,
    )?;
    session.to_user_shell(1)?;
    let words = session.check(&format!("devmem {shared} 32; devmem {ring} 32"), COMMAND)?;
    ensure!(
        words.lines().eq(["0x9ABCDEF0", "0x6C6B6361"]),
        "the User VM reads {words:?}"
    );
    Ok(())
}

/// Without the other VM, writers are not kept waiting, and the memory is as it was.
fn alone(session: &mut Session) -> Result<()> {
    session.check(SENT_TO_NOBODY, COMMAND)?;
    let own = session.check(ADDRESSES, COMMAND)?;
    let word = session.check(&format!("devmem {own} 32"), COMMAND)?;
    ensure!(word == "0x9ABCDEF0", "the memory has {word}");
    let refused = session
        .run(
            "acrn-dm -m 64M -k /data/bzImage -s 6,ivshmem,hv:/shm,2 stranger",
            COMMAND,
        )
        .context("another VM")?;
    contains(&refused.text, &["the scenario must name this VM"])?;
    ensure!(refused.status != 0, "another VM gets the shared memory");
    Ok(())
}
