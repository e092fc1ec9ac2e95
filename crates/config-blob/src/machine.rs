//! Whether a configuration suits the machine that runs.

use crate::{Config, LoadOrder};
use acrn_abi::{Bdf, Hpa, PcpuId, VmId};
use core::fmt;

/// What the hypervisor has found out about the machine.
pub trait Machine {
    /// How many CPUs there are.
    fn cpus(&self) -> usize;
    /// Number of a CPU's local APIC; `None` when there is no such CPU.
    fn apic_id(&self, cpu: PcpuId) -> Option<u32>;
    /// Vendor and device of a PCI function; `None` when there is none.
    fn pci_id(&self, bdf: Bdf) -> Option<(u16, u16)>;
    /// Whether all of `size` bytes at `start` are RAM that the firmware has left free.
    fn is_ram(&self, start: Hpa, size: u64) -> bool;
}

/// Why a configuration does not suit a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The board has another number of CPUs: the configuration is for another board.
    Cpus {
        /// In the configuration.
        board: usize,
        /// In the machine.
        machine: usize,
    },
    /// A CPU has another APIC: the configuration is for another board.
    ApicId {
        /// The CPU.
        cpu: PcpuId,
        /// In the configuration.
        board: u32,
        /// In the machine.
        machine: u32,
    },
    /// A device that some VM gets is not there.
    NoDevice(Bdf),
    /// At the place of a device that some VM gets there is another one.
    OtherDevice {
        /// The place.
        bdf: Bdf,
        /// Vendor and device in the configuration.
        board: (u16, u16),
        /// Vendor and device in the machine.
        machine: (u16, u16),
    },
    /// Memory that a VM gets is not RAM here.
    NoRam {
        /// The VM.
        vm: VmId,
        /// Start.
        start: Hpa,
        /// Size, in bytes.
        size: u64,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Cpus { board, machine } => write!(
                f,
                "configuration for another board: it has {board} CPUs, this machine has {machine}"
            ),
            Self::ApicId {
                cpu,
                board,
                machine,
            } => write!(
                f,
                "configuration for another board: CPU {cpu} has APIC {board:#x} there and {machine:#x} here"
            ),
            Self::NoDevice(bdf) => {
                write!(
                    f,
                    "the configuration passes device {bdf} on, which this machine lacks"
                )
            }
            Self::OtherDevice {
                bdf,
                board,
                machine,
            } => write!(
                f,
                "the configuration passes device {bdf} on as {:04x}:{:04x}, here it is {:04x}:{:04x}",
                board.0, board.1, machine.0, machine.1
            ),
            Self::NoRam { vm, start, size } => write!(
                f,
                "the configuration gives VM {vm} {size:#x} bytes at {start}, which are not free RAM here"
            ),
        }
    }
}

impl core::error::Error for Mismatch {}

impl Config<'_> {
    /// Whether the machine is the board that this configuration was made for, as far as the
    /// configuration depends on it.
    pub fn check_machine(&self, machine: &impl Machine) -> Result<(), Mismatch> {
        self.check_cpus(machine)?;
        self.check_devices(machine)?;
        self.check_memory(machine)
    }

    fn check_cpus(&self, machine: &impl Machine) -> Result<(), Mismatch> {
        let (board, found) = (self.board.cpus.len(), machine.cpus());
        if board != found {
            return Err(Mismatch::Cpus {
                board,
                machine: found,
            });
        }
        for (index, expected) in self.board.cpus.iter().enumerate() {
            let cpu = PcpuId(index as u16);
            match machine.apic_id(cpu) {
                Some(id) if id == expected.apic_id => {}
                Some(id) => {
                    return Err(Mismatch::ApicId {
                        cpu,
                        board: expected.apic_id,
                        machine: id,
                    });
                }
                None => {
                    return Err(Mismatch::Cpus {
                        board,
                        machine: index,
                    });
                }
            }
        }
        Ok(())
    }

    fn check_devices(&self, machine: &impl Machine) -> Result<(), Mismatch> {
        self.board.pci_devices.iter().try_for_each(|device| {
            let (bdf, board) = (device.bdf, (device.vendor, device.device));
            match machine.pci_id(bdf) {
                None => Err(Mismatch::NoDevice(bdf)),
                Some(machine) if machine != board => Err(Mismatch::OtherDevice {
                    bdf,
                    board,
                    machine,
                }),
                Some(_) => Ok(()),
            }
        })
    }

    fn check_memory(&self, machine: &impl Machine) -> Result<(), Mismatch> {
        let fixed = self
            .vms
            .iter()
            .filter(|vm| vm.load_order == LoadOrder::PreLaunched);
        for vm in fixed {
            for region in vm.memory.iter() {
                if !machine.is_ram(region.start, region.size) {
                    let (start, size) = (region.start, region.size);
                    return Err(Mismatch::NoRam {
                        vm: vm.id,
                        start,
                        size,
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_example;

    struct Fake {
        apics: Vec<u32>,
        device: Option<(u16, u16)>,
        ram: u64,
    }

    impl Machine for Fake {
        fn cpus(&self) -> usize {
            self.apics.len()
        }
        fn apic_id(&self, cpu: PcpuId) -> Option<u32> {
            self.apics.get(cpu.index()).copied()
        }
        fn pci_id(&self, _: Bdf) -> Option<(u16, u16)> {
            self.device
        }
        fn is_ram(&self, start: Hpa, size: u64) -> bool {
            start.get() + size <= self.ram
        }
    }

    fn board() -> Fake {
        Fake {
            apics: vec![0, 2, 4, 6],
            device: Some((0x8086, 0x10d3)),
            ram: 1 << 33,
        }
    }

    fn judged(machine: &Fake) -> Result<(), Mismatch> {
        with_example(|example| example.config().check_machine(machine))
    }

    #[test]
    fn the_board_itself_suits() {
        assert_eq!(judged(&board()), Ok(()));
    }

    #[test]
    fn another_board_is_recognised_by_its_cpus() {
        let few = Fake {
            apics: vec![0, 2],
            ..board()
        };
        assert_eq!(
            judged(&few),
            Err(Mismatch::Cpus {
                board: 4,
                machine: 2
            })
        );
        let other = Fake {
            apics: vec![0, 1, 2, 3],
            ..board()
        };
        let expected = Mismatch::ApicId {
            cpu: PcpuId(1),
            board: 2,
            machine: 1,
        };
        assert_eq!(judged(&other), Err(expected));
    }

    #[test]
    fn what_the_machine_lacks_is_named() {
        let bdf = Bdf::new(0, 4, 0);
        let without = Fake {
            device: None,
            ..board()
        };
        assert_eq!(judged(&without), Err(Mismatch::NoDevice(bdf)));
        let other = Fake {
            device: Some((1, 2)),
            ..board()
        };
        let (board_id, machine) = ((0x8086, 0x10d3), (1, 2));
        assert_eq!(
            judged(&other),
            Err(Mismatch::OtherDevice {
                bdf,
                board: board_id,
                machine
            })
        );
        let small = Fake {
            ram: 1 << 30,
            ..board()
        };
        assert!(matches!(
            judged(&small),
            Err(Mismatch::NoRam { vm: VmId(0), .. })
        ));
    }
}
