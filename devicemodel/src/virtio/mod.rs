//! virtio 1.x devices on the virtual PCI bus.
//!
//! From the bus inwards: [`transport`] is the PCI function with its registers and status
//! machine; it hands each enabled ring to the device as a [`queue::DeviceQueue`]. A device
//! implements [`device::VirtioDevice`] and serves its queues on threads of its own
//! ([`worker`]), woken by the doorbells that the Service VM's kernel signals. What a driver
//! puts into a ring is checked once, in [`chain`]; devices only see translated buffers.

pub mod block;
pub mod chain;
pub mod console;
pub mod device;
pub mod guest_io;
pub mod hash;
pub mod net;
pub mod options;
pub mod queue;
pub mod rng;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod throttle;
pub mod transport;
pub mod worker;

use self::device::VirtioDevice;
use self::transport::VirtioPci;
use crate::pci::{DeviceError, PciContext, PciDevice};

/// Names of the devices that [`create`] makes, as on ACRN's command line.
pub const NAMES: &str = "virtio-blk, virtio-net, virtio-console, virtio-rnd";

/// Makes the device called `name` with its `options`, as written after the name in `-s`.
///
/// # Errors
/// An unknown name, an option that the device does not take, or a host resource that cannot be
/// used; each with a remedy in its text.
pub fn create(
    name: &str,
    options: &str,
    context: PciContext,
) -> Result<Box<dyn PciDevice>, DeviceError> {
    let device: Box<dyn VirtioDevice> = match name {
        "virtio-blk" => Box::new(block::Block::new(options, &context.vm_name)?),
        "virtio-net" => Box::new(net::Net::new(options, &context)?),
        "virtio-console" => Box::new(console::Console::new(options, &context.vm_name)?),
        "virtio-rnd" | "virtio-rng" => Box::new(rng::Rng::new(options, &context.vm_name)?),
        _ => {
            let name = name.to_owned();
            return Err(DeviceError::UnknownName { name, known: NAMES });
        }
    };
    Ok(Box::new(VirtioPci::new(device, context)?))
}
