//! virtio-console (virtio 1.2, 5.3): one console, or several ports.
//!
//! A single port that is marked as a console is the plain device with two queues. With more
//! ports, or one that is none, the device offers `MULTIPORT`: two more queues carry control
//! messages ([`control`]), by which the driver learns of the ports. A driver without that
//! feature sees the first port as a console.
//!
//! Each port has a thread ([`port`]), and the control queues have one.

pub mod backend;
mod control;
pub mod options;
mod port;

use std::sync::{Arc, Mutex, PoisonError};

use self::backend::Backend;
use self::control::{Control, Port};
use self::options::{ConsoleOptions, NAME};
use self::port::Mover;
use super::device::{Activation, DeviceType, VirtioDevice, has_feature, read_config_bytes};
use super::queue::DeviceQueue;
use super::worker::{Stop, Worker};
use crate::pci::DeviceError;

/// Feature bit: several ports and control queues.
const MULTIPORT: u32 = 1;
/// Entries of a port's queues.
const DATA_QUEUE: u16 = 128;
/// Entries of the control queues, after the first port's two.
const CONTROL_QUEUE: u16 = 64;
/// Number of the first control queue.
const CONTROL: usize = 2;

/// The console.
pub struct Console {
    backends: Vec<Arc<Mutex<Backend>>>,
    ports: Vec<Port>,
    multiport: bool,
    queue_sizes: Vec<u16>,
    vm_name: String,
    workers: Vec<Worker>,
}

impl Console {
    /// From ACRN's options.
    ///
    /// # Errors
    /// Options that are not understood, or a backend that cannot be opened.
    pub fn new(options: &str, vm_name: &str) -> Result<Self, DeviceError> {
        let described = ConsoleOptions::parse(options)?;
        let backends = described
            .iter()
            .map(|port| Backend::open(port).map(|backend| Arc::new(Mutex::new(backend))))
            .collect::<Result<Vec<_>, _>>()?;
        let ports: Vec<Port> = described
            .into_iter()
            .map(|port| Port {
                name: port.port,
                console: port.console,
            })
            .collect();
        let multiport = ports.len() > 1 || ports.iter().any(|port| !port.console);
        let mut queue_sizes = vec![DATA_QUEUE; 2];
        if multiport {
            queue_sizes.extend([CONTROL_QUEUE; 2]);
            queue_sizes.extend(vec![DATA_QUEUE; 2 * (ports.len() - 1)]);
        }
        Ok(Self {
            backends,
            ports,
            multiport,
            queue_sizes,
            vm_name: vm_name.to_owned(),
            workers: Vec::new(),
        })
    }

    fn start_port(
        &self,
        index: usize,
        receive: DeviceQueue,
        transmit: DeviceQueue,
    ) -> Result<Option<Worker>, DeviceError> {
        let Some(backend) = self.backends.get(index).cloned() else {
            return Ok(None);
        };
        let body = move |stop: Stop| {
            // One worker at a time: the one before was joined.
            let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
            let mut mover = Mover::new(receive, transmit, &mut backend);
            if let Err(error) = mover.serve(&stop) {
                log::error!("{NAME}: no event polling: {error}");
            }
        };
        let name = format!("con{index}-{}", self.vm_name);
        Worker::spawn(NAME, &name, body).map(Some)
    }
}

/// Number of the queue in which a port receives; the next is the one in which it sends.
fn first_queue(port: usize) -> usize {
    // The control queues are between those of the first port and the others.
    if port == 0 { 0 } else { 2 * port + 2 }
}

impl VirtioDevice for Console {
    fn name(&self) -> &'static str {
        NAME
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::CONSOLE
    }

    fn features(&self) -> u64 {
        u64::from(self.multiport) << MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Columns and rows are not known; then the number of ports.
        let mut config = [0; 8];
        config[4..].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        read_config_bytes(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let multiport = has_feature(activation.features, MULTIPORT);
        let ports = if multiport { self.ports.len() } else { 1 };
        for index in 0..ports {
            let queue = first_queue(index);
            let pair = (activation.take(queue), activation.take(queue + 1));
            let (Some(receive), Some(transmit)) = pair else {
                log::warn!("{NAME}: the driver does not use port {index}");
                continue;
            };
            let worker = self.start_port(index, receive, transmit)?;
            self.workers.extend(worker);
        }
        if multiport
            && let (Some(to_guest), Some(from_guest)) =
                (activation.take(CONTROL), activation.take(CONTROL + 1))
        {
            let mut control = Control::new(self.ports.clone(), to_guest, from_guest);
            let name = format!("conc-{}", self.vm_name);
            let worker = Worker::spawn(NAME, &name, move |stop| control.serve(&stop))?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
    }
}

#[cfg(test)]
mod tests;
