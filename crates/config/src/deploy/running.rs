//! The machine on which a configuration is to run, as the board inspector sees it.

use acrn_abi::{Bdf, Hpa, PcpuId};
use acrn_config_blob::{Config, Machine, Mismatch};

use crate::Board;

/// What can be seen, and of what.
pub(super) struct Running<'a> {
    /// What the inspector has found.
    pub(super) found: &'a Board,
    /// What the configuration expects.
    pub(super) expected: &'a Config<'a>,
    /// Seen from the Service VM, to which the hypervisor does not show everything: what is not seen may be
    /// there.
    pub(super) partly: bool,
}

impl Running<'_> {
    /// Whether the configuration is for this machine.
    pub(super) fn check(&self) -> Result<(), Mismatch> {
        self.expected.check_machine(self)
    }
}

impl Machine for Running<'_> {
    fn cpus(&self) -> usize {
        let found = self.found.cpus().len();
        let expected = self.expected.board.cpus.len();
        if self.partly {
            found.max(expected)
        } else {
            found
        }
    }

    fn apic_id(&self, cpu: PcpuId) -> Option<u32> {
        let expected = self.expected.board.cpus.get(cpu.0.into());
        let expected = expected.map(|cpu| cpu.apic_id);
        let cpus = self.found.cpus();
        if self.partly {
            // Linux numbers only those that it has: only that none is foreign can be said.
            let ours = |id: u32| self.expected.board.cpus.iter().any(|cpu| cpu.apic_id == id);
            return match cpus.iter().find(|cpu| !ours(cpu.apic_id)) {
                Some(foreign) => Some(foreign.apic_id),
                None => expected,
            };
        }
        let found = cpus.get(usize::from(cpu.0));
        found.map(|cpu| cpu.apic_id)
    }

    fn pci_id(&self, bdf: Bdf) -> Option<(u16, u16)> {
        let found = self.found.pci_function(bdf);
        let found = found.and_then(|function| function.id());
        if found.is_some() || !self.partly {
            return found;
        }
        let mut devices = self.expected.board.pci_devices.iter();
        let expected = devices.find(|device| device.bdf == bdf);
        expected.map(|device| (device.vendor, device.device))
    }

    fn is_ram(&self, start: Hpa, size: u64) -> bool {
        let end = start.0.saturating_add(size);
        let within = |ram: &crate::board::Ram| ram.start <= start.0 && end <= ram.end();
        self.partly || self.found.ram().iter().any(within)
    }
}
