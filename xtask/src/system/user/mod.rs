//! Cases with User VMs. They share one machine, which saves a boot for each; a case that
//! fails takes the machine with it, and the next one gets a fresh one.
//!
//! A case asks the [`Machine`] for the console that it needs (`service`, `user`) and leaves
//! whatever User VMs it likes, as long as they are as [`Machine::up`] says.

mod bad;
mod death;
mod devices;
mod life;
mod manage;
mod memory;
mod observe;

use anyhow::{Context as _, Result, bail, ensure};

use super::support::{self, BOOT, COMMAND, POWER_OFF};
use super::{BOTH, Context, Emulators, QEMU};
use crate::demo::{self, Options, Stages};
use crate::machine::Emulator;
use crate::session::Session;

/// A system test on the shared machine.
pub(super) struct Case {
    /// Name, unique among all.
    pub(super) name: &'static str,
    /// Where it runs.
    pub(super) on: Emulators,
    /// What it would catch.
    pub(super) catches: &'static str,
    /// The test.
    pub(super) run: fn(&mut Machine) -> Result<()>,
}

/// In the order in which they run, which starts User VMs as seldom as possible.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "wrong_options",
        on: QEMU,
        catches: "acrn-dm that does not say what is wrong, or leaves something behind",
        run: bad::wrong_options,
    },
    Case {
        name: "bad_files",
        on: QEMU,
        catches: "kernels and disks that are missing, cut short, random or read-only",
        run: bad::files,
    },
    Case {
        name: "user_vm_managed",
        on: QEMU,
        catches: "acrnctl that does not do what it says; VMs that kill -9 of acrnd loses",
        run: manage::managed,
    },
    Case {
        name: "acrnlog",
        on: QEMU,
        catches: "log lines that do not reach the Service VM; a reader that is killed and leaves its rings",
        run: observe::log,
    },
    Case {
        name: "acrntrace",
        on: QEMU,
        catches: "a trace of a User VM's boot with gaps, without a vCPU, or that is no picture",
        run: observe::trace,
    },
    Case {
        name: "user_vm_two_cpus",
        on: BOTH,
        catches: "start of a second vCPU, its timer, MSI-X of virtual devices",
        run: life::two_cpus,
    },
    Case {
        name: "user_vm_sandbox",
        on: QEMU,
        catches: "threads of acrn-dm that keep privileges",
        run: memory::sandbox,
    },
    Case {
        name: "user_vm_network",
        on: QEMU,
        catches: "64 MiB each way between Service VM and User VM; ping",
        run: life::network,
    },
    Case {
        name: "user_vm_pause_resume",
        on: BOTH,
        catches: "pausing from acrn-dm's socket and from the hypervisor's shell",
        run: life::pause_resume,
    },
    Case {
        name: "user_vm_suspend",
        on: BOTH,
        catches: "S3 of a guest that is not woken, or loses a process, a CPU, disk or network by it",
        run: life::suspend,
    },
    Case {
        name: "user_vm_reset",
        on: BOTH,
        catches: "reset from outside: a guest that does not start from the beginning",
        run: life::reset,
    },
    Case {
        name: "user_vm_reboot_inside",
        on: QEMU,
        catches: "a guest's own reboot, with the same Device Model",
        run: life::reboot_inside,
    },
    Case {
        name: "user_vm_disk_persists",
        on: BOTH,
        catches: "data that a power-off loses",
        run: life::disk_persists,
    },
    Case {
        name: "two_user_vms",
        on: QEMU,
        catches: "two User VMs that disturb each other; the power button by SIGTERM",
        run: life::two_vms,
    },
    Case {
        name: "user_vms_share_memory",
        on: BOTH,
        catches: "memory that two Device Models share and one VM does not see, or that is lost when both have ended",
        run: memory::shared,
    },
    Case {
        name: "kill_dm_while_writing",
        on: QEMU,
        catches: "memory lost by kill -9 of acrn-dm; a disk that does not recover",
        run: death::kill_while_writing,
    },
    Case {
        name: "user_vm_consoles",
        on: QEMU,
        catches: "serial ports and consoles on TCP, sockets, pseudo-terminals, files; SIGINT",
        run: devices::consoles,
    },
    Case {
        name: "user_vm_disks",
        on: QEMU,
        catches: "read-only disks, flushes that are lost or needless, queues, io_uring, discard",
        run: devices::disks,
    },
    Case {
        name: "user_vm_queues",
        on: QEMU,
        catches: "a network adapter with several queues, offloads; entropy",
        run: devices::queues,
    },
    Case {
        name: "user_vm_memory_zeroed",
        on: QEMU,
        catches: "data of a guest in memory that the Service VM gets back",
        run: memory::zeroed,
    },
    Case {
        name: "user_vm_cycles",
        on: QEMU,
        catches: "memory, files or interfaces lost when Linux starts and ends in a User VM again and again",
        run: memory::cycles,
    },
    Case {
        name: "user_vm_ordinary_memory",
        on: QEMU,
        catches: "a VM that needs huge pages where there are none",
        run: memory::ordinary,
    },
    Case {
        name: "user_vm_elf",
        on: QEMU,
        catches: "static programs as guests, exit codes that they choose, the end by force",
        run: memory::elf,
    },
    Case {
        name: "disk_shrinks",
        on: QEMU,
        catches: "a disk image that is cut short while the guest uses it",
        run: death::disk_shrinks,
    },
    Case {
        name: "debian_stock_guest",
        on: QEMU,
        catches: "an unmodified Debian kernel, which knows nothing of ACRN",
        run: life::debian,
    },
];

/// A booted machine and what runs in it.
pub(super) struct Machine {
    session: Session,
    /// User VMs that run with somebody logged in.
    up: Vec<u16>,
    /// See [`Context::full`].
    full: bool,
}

impl Machine {
    /// Boots to the Service VM's shell.
    ///
    /// # Errors
    /// The machine does not come so far.
    pub(super) fn boot(context: &Context) -> Result<Self> {
        let options = Options {
            debian_guest: context.emulator == Emulator::Qemu,
            ..Options::default()
        };
        let machine = support::machine(context, &options)?;
        let mut session = Session::new(machine.start(context.layout, &context.log("machine"))?);
        session.wait_for_service_shell(BOOT)?;
        Ok(Self {
            session,
            up: Vec::new(),
            full: context.full,
        })
    }

    /// Its console log.
    pub(super) fn log(&self) -> &std::path::Path {
        self.session.vm.log()
    }

    /// Ends it in an orderly way, User VMs included.
    ///
    /// # Errors
    /// It does not end.
    pub(super) fn end(mut self) -> Result<()> {
        self.service()?;
        self.session.power_off(POWER_OFF)
    }

    /// The session at the Service VM's shell.
    fn service(&mut self) -> Result<&mut Session> {
        self.session.to_service()?;
        Ok(&mut self.session)
    }

    /// The session at a User VM's shell, which is started where need be.
    fn user(&mut self, id: u16) -> Result<&mut Session> {
        if self.up.contains(&id) {
            self.session.to_user_shell(id)?;
        } else {
            self.start_user(id, &format!("launch_user_vm_id{id}.sh"))?;
        }
        Ok(&mut self.session)
    }

    /// Starts a User VM and logs in.
    fn start_user(&mut self, id: u16, script: &str) -> Result<()> {
        self.session.to_service()?;
        demo::to_user_vm(&mut self.session, &mut Stages::quiet(), script, id)?;
        self.session.log_in(id)?;
        self.up.push(id);
        Ok(())
    }

    /// Powers a User VM off from inside and returns what its launch script printed.
    fn power_off_user(&mut self, id: u16) -> Result<String> {
        self.user(id)?.vm.console.send_line("poweroff")?;
        self.user_ends(id)
    }

    /// Waits until a User VM has ended; the Service VM's shell is shown then.
    fn user_ends(&mut self, id: u16) -> Result<String> {
        self.up.retain(|&other| other != id);
        demo::wait_for_user_end(self.service()?, id)
    }

    /// Ends all User VMs.
    fn without_users(&mut self) -> Result<&mut Session> {
        for id in self.up.clone() {
            self.power_off_user(id)?;
        }
        self.service()
    }

    /// Ends all User VMs and tells what the Service VM has then.
    fn without_users_and_belongings(&mut self) -> Result<String> {
        self.without_users()?;
        self.belongings()
    }

    /// Makes sure that the Service VM has what it had `before`.
    fn still_has(&mut self, before: &str) -> Result<()> {
        let now = self.belongings()?;
        ensure!(
            now == before,
            "the Service VM had:\n{before}\nand has now:\n{now}"
        );
        Ok(())
    }

    /// Runs a command of the hypervisor's shell; its prompt is shown then.
    fn hypervisor(&mut self, command: &str) -> Result<String> {
        self.session.to_hypervisor()?;
        self.session.hypervisor_command(command)
    }

    /// What the Service VM has: everything that acrn-dm and the launch script touch.
    fn belongings(&mut self) -> Result<String> {
        let session = self.service()?;
        // The number of free pages changes by itself; what is reserved does not.
        session.check(
            "ls /sys/class/net; cat /sys/kernel/mm/hugepages/*/nr_hugepages; \
             find /run/acrn ! -type d ! -name hugepages.lock | sort; pidof acrn-dm; ls /dev | md5sum",
            COMMAND,
        )
    }

    /// The hypervisor's account of memory.
    fn memory(&mut self) -> Result<Memory> {
        let text = self.hypervisor("mem")?;
        Memory::read(&text).with_context(|| format!("`mem` printed:\n{text}"))
    }
}

/// What the hypervisor's `mem` tells of lent pages and of its own frames.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Memory {
    /// Frames in use by nested page tables.
    frames: u64,
    /// Pages shared, and what each VM keeps, lends and borrows.
    owners: Vec<String>,
}

impl Memory {
    fn read(text: &str) -> Result<Self> {
        let lines = || text.lines().map(str::trim);
        let frames = lines()
            .find_map(|line| line.strip_prefix("nested-table frames: "))
            .and_then(|rest| rest.split(' ').next())
            .and_then(|number| number.parse().ok());
        let owners: Vec<String> = lines()
            .filter(|line| line.starts_with("vm") || line.starts_with("shared"))
            .map(str::to_owned)
            .collect();
        match frames {
            Some(frames) if !owners.is_empty() => Ok(Self { frames, owners }),
            _ => bail!("no account of memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_memory_is_read() {
        let text = "pool 100 KiB at 0x1000\nnested-table frames: 7 used, 9 free\n\
                    hypervisor 5 KiB\nshared 0 KiB\nvm0 keeps 10 KiB, lends 0 KiB, borrows 0 KiB";
        let memory = Memory::read(text).unwrap();
        assert_eq!(memory.frames, 7);
        assert_eq!(memory.owners.len(), 2);
        assert!(Memory::read("unknown command").is_err());
    }
}
