//! The whole configuration, and the identity of the board that it was made for.

use crate::error::Error;
use crate::field::{Field, Sink, fields};
use crate::reader::Reader;
use crate::walk::Visitor;
use crate::{DeviceKind, List, LoadOrder, Options, Text, Vm, Vms, check, header};
use crate::{MAX_CPUS, MAX_PCI_DEVICES, MAX_RAM_RANGES};
use acrn_abi::{Bdf, Hpa, VmId};

fields! {
    /// What the hypervisor is to do.
    compound Config {
        /// The board that it was made for.
        board: Board<'a>,
        /// Options of the hypervisor itself.
        options: Options<'a>,
        /// The VMs; a VM's number is its place.
        vms: Vms<'a>,
    }

    /// What identifies a board, as far as the scenario depends on it.
    compound Board {
        /// Name of the board file.
        name: Text<'a, 63>,
        /// The scenario's name, for messages.
        scenario: Text<'a, 63>,
        /// The CPUs in the order of their numbers.
        cpus: List<'a, BoardCpu, MAX_CPUS>,
        /// All RAM, in bytes.
        memory_size: u64,
        /// RAM that is given to VMs, which the machine must have.
        ram: List<'a, Range, MAX_RAM_RANGES>,
        /// Devices that are given to VMs, which the machine must have.
        pci_devices: List<'a, BoardPci, MAX_PCI_DEVICES>,
    }

    /// A CPU of the board.
    record BoardCpu {
        /// Number of its local APIC.
        apic_id: u32,
    }

    /// A range of host memory.
    record Range {
        /// Start.
        start: Hpa,
        /// Size, in bytes.
        size: u64,
    }

    /// A device of the board.
    record BoardPci {
        /// Its place.
        bdf: Bdf,
        /// Vendor.
        vendor: u16,
        /// Device.
        device: u16,
    }
}

impl<'a> Config<'a> {
    /// The configuration in these bytes, which are those of the boot module.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(header::body(bytes)?);
        let config = Self::read(&mut reader)?;
        reader.finish()?;
        check::all(&config)?;
        Ok(config)
    }

    /// What parsing would find wrong with a configuration that was made otherwise.
    pub fn check(&self) -> Result<(), Error> {
        check::all(self)
    }

    /// The VM of that number.
    pub fn vm(&self, id: VmId) -> Option<Vm<'a>> {
        self.vms.get(id.index())
    }

    /// The VM of that name.
    pub fn vm_by_name(&self, name: &str) -> Option<Vm<'a>> {
        self.vms.iter().find(|vm| &*vm.name == name)
    }

    /// The Service VM.
    pub fn service_vm(&self) -> Option<Vm<'a>> {
        self.vms
            .iter()
            .find(|vm| vm.load_order == LoadOrder::Service)
    }

    /// The VMs that the hypervisor starts before any other.
    pub fn pre_launched(&self) -> impl Iterator<Item = Vm<'a>> {
        self.vms
            .iter()
            .filter(|vm| vm.load_order == LoadOrder::PreLaunched)
    }

    /// The VMs that share region number `region`, and where each sees it.
    pub fn members(&self, region: u16) -> impl Iterator<Item = (VmId, Bdf)> {
        self.vms.iter().flat_map(move |vm| {
            let (id, devices) = (vm.id, vm.pci_devices.iter());
            let shares = move |device: &crate::PciDevice| {
                device.kind == DeviceKind::SharedMemory && device.number == region
            };
            devices.filter(shares).map(move |device| (id, device.vbdf))
        })
    }

    /// Shows everything to a visitor.
    pub fn walk(&self, visitor: &mut dyn Visitor) {
        Field::walk(self, "config", visitor);
    }

    pub(crate) fn write_body(&self, sink: &mut Sink<'_>) {
        self.write(sink);
    }
}

/// The path of a field of VM `index`.
pub(crate) fn vm_field(index: usize, name: &'static str, entry: Option<usize>) -> crate::Path {
    crate::Path::of(&[("vms", Some(index)), (name, entry)])
}
