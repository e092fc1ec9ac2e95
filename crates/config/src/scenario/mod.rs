//! Scenario files: what the hypervisor and each VM are to be.

mod hv;
mod links;
mod virtio;
mod vm;
mod words;

pub use hv::*;
pub use links::*;
pub use virtio::*;
pub use vm::*;
pub use words::*;

use crate::model::{Item, attribute, item, model};
use acrn_config_blob::LoadOrder;

model! {
    /// A scenario: the hypervisor's options and the VMs.
    pub struct Scenario {
        pub board: Option<String> = attribute("board", "Board",
            "Name of the board that the scenario is for."),
        pub name: Option<String> = attribute("scenario", "Scenario", "Name of the scenario."),
        pub hv: Hv = item("hv", "Hypervisor", "Options of the hypervisor itself."),
        pub vms: Vec<Vm> = item("vm", "Virtual machine",
            "One virtual machine. VMs are listed in the order pre-launched, Service VM, post-launched."),
    }
}

impl Scenario {
    /// Everything that is known about the elements of a scenario, as a tree.
    pub fn schema() -> &'static [Item] {
        <Self as crate::model::Group>::ITEMS
    }

    /// The VM of that name and its place in the list.
    pub fn vm(&self, name: &str) -> Option<(usize, &Vm)> {
        self.vms.iter().enumerate().find(|(_, vm)| vm.name == name)
    }

    /// VMs of that load order, with their places.
    pub fn vms_of(&self, order: LoadOrder) -> impl Iterator<Item = (usize, &Vm)> {
        self.vms
            .iter()
            .enumerate()
            .filter(move |(_, vm)| vm.load_order == order)
    }

    /// The Service VM.
    pub fn service_vm(&self) -> Option<&Vm> {
        self.vms_of(LoadOrder::Service).next().map(|(_, vm)| vm)
    }
}
