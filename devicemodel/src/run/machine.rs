//! The virtual PC: all devices, and the way from an I/O request to the one that answers it.

use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acrn_abi::guest_map::{PORT_PIT, PORT_SYSTEM_CONTROL};
use acrn_abi::hypercall::Vdev;
use acrn_abi::ioreq::{DIRECTION_READ, IoRequest, Kind};
use acrn_abi::types::{Bdf, Gsi};

use super::Event;
use crate::acpi;
use crate::acpi::dsdt::COM_PORTS;
use crate::cli::VmSpec;
use crate::cli::values::{ComSpec, UartBackend};
use crate::hsm::sinks::{Lines, Sinks};
use crate::hsm::{Hsm, HsmError};
use crate::inter_vm;
use crate::legacy::backend::{Backend, Null};
use crate::legacy::cmos::Cmos;
use crate::legacy::hpet::{self, Hpet};
use crate::legacy::pit::{Pit, SystemControl};
use crate::legacy::power::{PM_TIMER, PM1_EVENT, Power, SMI_COMMAND, SmiCommand};
use crate::legacy::reset::{
    DEBUG_EXIT, DebugExit, KEYBOARD, Keyboard, PORT_A, PortA, RESET_CONTROL, ResetControl,
};
use crate::legacy::uart::{Transmitter, Uart};
use crate::legacy::{PortBus, PortDevice};
use crate::memory::Memory;
use crate::pci::bus::{Bus, Busy, ECAM_BASE, ECAM_SIZE, Patience, pin_gsi};
use crate::pci::legacy::Bridge;
use crate::pci::{DeviceError, PciContext, PciDevice};
use crate::virtio;

const HOST_BRIDGE: Bdf = Bdf::new(0, 0, 0);
const LPC_BRIDGE: Bdf = Bdf::new(0, 1, 0);
const RTC_GSI: Gsi = Gsi(8);

/// The devices that are known.
const KNOWN: &str =
    "hostbridge, lpc, virtio-blk, virtio-net, virtio-console, virtio-rnd, ivshmem, uart";

/// Why the machine cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A device.
    #[error("{place} {source}")]
    Device {
        /// The option, such as `-s 3,virtio-blk:`.
        place: String,
        /// What is wrong.
        source: DeviceError,
    },
    /// A function that the guest would not look for.
    #[error(
        "-s puts devices into slot {0} and none at function 0: the guest would not find them, \
         give one of them function 0"
    )]
    NoFunctionZero(u8),
    /// The hypervisor refused a device.
    #[error(transparent)]
    Hypervisor(#[from] HsmError),
    /// The system lacks something.
    #[error("the timers cannot be started: {0}; end other programs")]
    Timers(#[from] std::io::Error),
}

/// The answer to a request: the value of a read, and whether it has 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Value for the guest; `None` for writes.
    pub value: Option<u64>,
    /// It answers a memory access.
    pub wide: bool,
}

/// All devices.
pub struct Machine {
    ports: PortBus,
    hpet: Arc<Mutex<Hpet>>,
    bus: Bus,
    power: Arc<Mutex<Power>>,
    backends: Mutex<Vec<Backend>>,
}

/// What devices are built on.
pub struct Parts<'a> {
    /// Driver.
    pub hsm: Arc<dyn Hsm>,
    /// Guest RAM.
    pub memory: &'a Memory,
    /// Number of CPUs.
    pub vcpus: u16,
    /// Where devices report what the guest wants of the whole VM.
    pub events: Sender<Event>,
}

impl Machine {
    /// Builds all devices of `spec`.
    ///
    /// # Errors
    /// A device cannot be set up.
    pub fn new(spec: &VmSpec, parts: &Parts<'_>) -> Result<Self, MachineError> {
        let lines = Lines::new(parts.hsm.clone());
        let mut ports = PortBus::new();
        let hpet = Hpet::new(&lines)?;
        let pit = Pit::new(lines.clone())?;
        let sci = lines.line(Gsi(acpi::SCI.into()));
        let power = Power::new(sci, parts.events.clone(), spec.sleeps());
        let cmos = Cmos::new(lines.line(RTC_GSI), power.clone(), parts.memory.layout)?;
        ports.add(PORT_PIT..PORT_PIT + 4, pit.clone());
        ports.add(
            PORT_SYSTEM_CONTROL..PORT_SYSTEM_CONTROL + 1,
            shared(SystemControl(pit)),
        );
        ports.add(0x70..0x72, cmos);
        ports.add(PM1_EVENT..PM_TIMER + 4, power.clone());
        ports.add(one(SMI_COMMAND), shared(SmiCommand(power.clone())));
        ports.add(
            one(RESET_CONTROL),
            shared(ResetControl::new(parts.events.clone())),
        );
        ports.add(one(KEYBOARD), shared(Keyboard(parts.events.clone())));
        ports.add(one(PORT_A), shared(PortA(parts.events.clone())));
        if spec.debug_exit {
            ports.add(
                DEBUG_EXIT..DEBUG_EXIT + 4,
                shared(DebugExit(parts.events.clone())),
            );
        }
        let mut backends = Vec::new();
        for com in &spec.coms {
            backends.extend(add_com(&mut ports, com, &lines, &*parts.hsm)?);
        }
        delegate_timers(&*parts.hsm);
        let bus = build_bus(spec, parts, &lines)?;
        Ok(Self {
            ports,
            hpet,
            bus,
            power,
            backends: Mutex::new(backends),
        })
    }

    /// How users connect to the back ends.
    pub fn announcements(&self) -> Vec<String> {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends
            .iter()
            .filter_map(|backend| backend.announcement.clone())
            .collect()
    }

    /// Power management: buttons, and what follows a wake-up.
    pub fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a medium into a drive without one, as `SLOT[:FUNCTION],PATH` says.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn insert(&self, text: &str) -> Result<(), String> {
        let Some((place, medium)) = text.split_once(',') else {
            return Err(format!(
                "\"{text}\" is no SLOT,PATH: write for example 3,/srv/disk.img"
            ));
        };
        let mut numbers = place.splitn(2, [':', '/', '.']).map(str::parse::<u8>);
        let (slot, function) = match (numbers.next(), numbers.next()) {
            (Some(Ok(slot @ ..32)), None) => (slot, 0),
            (Some(Ok(slot @ ..32)), Some(Ok(function @ ..8))) => (slot, function),
            _ => return Err(format!("there is no slot {place}: slots are 0 to 31")),
        };
        match self.bus.insert(Bdf::new(0, slot, function), medium) {
            Some(result) => result.map_err(|error| error.to_string()),
            None => Err(format!("slot {place} is empty: name the drive's")),
        }
    }

    /// Resets all devices.
    pub fn reset(&self) {
        self.ports.reset();
        self.reset_unsupplied();
    }

    /// The guest suspends to RAM: all devices but the clock and power management are reset.
    pub fn sleep(&self) {
        self.ports.sleep();
        self.reset_unsupplied();
    }

    fn reset_unsupplied(&self) {
        self.bus.reset();
        self.hpet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reset();
    }

    /// Ends all devices, with what they have still to write.
    pub fn stop(&self) {
        self.bus.stop();
        self.backends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Answers a request. Total: whatever a guest asks for, reads without a device give ones.
    ///
    /// # Errors
    /// With [`Patience::Refuse`]: this may take long, ask again with [`Patience::Wait`] from a
    /// thread that may wait.
    pub fn access(&self, request: &IoRequest, patience: Patience) -> Result<Answer, Busy> {
        match Kind(request.kind) {
            Kind::PORT_IO => self.port(request, patience),
            Kind::PCI_CONFIG => self.config(request, patience),
            Kind::MMIO | Kind::WRITE_PROTECT => self.memory(request, patience),
            other => {
                log::debug!("a request of unknown kind {} was ignored", other.0);
                Ok(Answer {
                    value: Some(u64::MAX),
                    wide: false,
                })
            }
        }
    }

    fn port(&self, request: &IoRequest, patience: Patience) -> Result<Answer, Busy> {
        let pio = request.pio();
        let read = pio.direction == DIRECTION_READ;
        let ones = Answer {
            value: read.then_some(u64::MAX),
            wide: false,
        };
        let (Ok(port), Some(size)) = (u16::try_from(pio.address), size(pio.size, 4)) else {
            return Ok(ones);
        };
        if read {
            if let Some(value) = self.ports.read(port, size) {
                return Ok(Answer {
                    value: Some(value.into()),
                    wide: false,
                });
            }
            let value = self.bus.read(true, port.into(), size, patience)?;
            return Ok(value.map_or(ones, |value| Answer {
                value: Some(value),
                wide: false,
            }));
        }
        if !self.ports.write(port, size, pio.value) && self.bus.decodes(true, port.into(), size) {
            refuse(patience)?;
            self.bus.write(true, port.into(), size, pio.value.into());
        }
        Ok(Answer::default())
    }

    fn config(&self, request: &IoRequest, patience: Patience) -> Result<Answer, Busy> {
        let pci = request.pci();
        let read = pci.direction == DIRECTION_READ;
        let ones = Answer {
            value: read.then_some(u64::MAX),
            wide: false,
        };
        let (Ok(bus), Ok(device), Ok(function), Ok(reg), Some(size)) = (
            u8::try_from(pci.bus),
            u8::try_from(pci.device),
            u8::try_from(pci.function),
            u16::try_from(pci.register),
            size(pci.size, 4),
        ) else {
            return Ok(ones);
        };
        if device > 31 || function > 7 || (reg & 3) + u16::from(size) > 4 {
            return Ok(ones);
        }
        let bdf = Bdf::new(bus, device, function);
        let value = if read {
            Some(self.bus.config_read(bdf, reg, size, patience)?.into())
        } else {
            self.bus.config_write(bdf, reg, size, pci.value, patience)?;
            None
        };
        Ok(Answer { value, wide: false })
    }

    fn memory(&self, request: &IoRequest, patience: Patience) -> Result<Answer, Busy> {
        let mmio = request.mmio();
        let write = (mmio.direction != DIRECTION_READ).then_some(mmio.value);
        let ones = Answer {
            value: write.is_none().then_some(u64::MAX),
            wide: true,
        };
        let Some(size) = size(mmio.size, 8) else {
            return Ok(ones);
        };
        let address = mmio.address;
        if let Some(offset) = within(hpet::BASE..hpet::BASE + hpet::SIZE, address, size) {
            let mut hpet = self.hpet.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(match write {
                Some(value) => {
                    hpet.write(offset, size, value);
                    Answer::default()
                }
                None => Answer {
                    value: Some(hpet.read(offset, size)),
                    wide: true,
                },
            });
        }
        if let Some(offset) = within(ECAM_BASE..ECAM_BASE + ECAM_SIZE, address, size) {
            return self.ecam(offset, size, write, patience);
        }
        let Some(value) = write else {
            let value = self.bus.read(false, address, size, patience)?;
            return Ok(value.map_or(ones, |value| Answer {
                value: Some(value),
                wide: true,
            }));
        };
        if self.bus.decodes(false, address, size) {
            refuse(patience)?;
            self.bus.write(false, address, size, value);
        }
        Ok(Answer::default())
    }

    /// Configuration space in memory.
    fn ecam(
        &self,
        offset: u64,
        size: u8,
        write: Option<u64>,
        patience: Patience,
    ) -> Result<Answer, Busy> {
        let bdf = Bdf((offset >> 12) as u16);
        let reg = (offset & 0xfff) as u16;
        if reg & (u16::from(size.min(4)) - 1) != 0 {
            return Ok(Answer {
                value: write.is_none().then_some(u64::MAX),
                wide: true,
            });
        }
        let half = size.min(4);
        if let Some(value) = write {
            self.bus
                .config_write(bdf, reg, half, value as u32, patience)?;
            if size == 8 {
                self.bus
                    .config_write(bdf, reg + 4, 4, (value >> 32) as u32, patience)?;
            }
            return Ok(Answer::default());
        }
        let mut value = u64::from(self.bus.config_read(bdf, reg, half, patience)?);
        if size == 8 {
            value |= u64::from(self.bus.config_read(bdf, reg + 4, 4, patience)?) << 32;
        }
        Ok(Answer {
            value: Some(value),
            wide: true,
        })
    }
}

/// Hands work that may take long to a thread that may wait.
fn refuse(patience: Patience) -> Result<(), Busy> {
    if patience == Patience::Refuse {
        Err(Busy)
    } else {
        Ok(())
    }
}

/// An access size that hardware knows: a power of two up to `most`.
fn size(size: u64, most: u8) -> Option<u8> {
    let size = u8::try_from(size).ok()?;
    (size.is_power_of_two() && size <= most).then_some(size)
}

/// The offset of an access that lies in `range` as a whole.
fn within(range: Range<u64>, address: u64, size: u8) -> Option<u64> {
    let end = address.checked_add(size.into())?;
    (address >= range.start && end <= range.end).then(|| address - range.start)
}

fn one(port: u16) -> Range<u16> {
    port..port + 1
}

fn shared<T: PortDevice + 'static>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}

fn emulated(legacy_id: u32) -> Vdev {
    Vdev {
        vendor: 0,
        device: 0,
        legacy_id,
        slot: 0,
        io_addr: [0; 6],
        io_size: [0; 6],
        args: [0; 128],
    }
}

/// Has the hypervisor answer reads of the PM timer and of the HPET's counter, which guests make
/// often and measure, and be the 8254, whose interrupts they count. What it cannot do is done here, more
/// slowly.
fn delegate_timers(hsm: &dyn Hsm) {
    let counters = [(PM_TIMER.into(), 4), (hpet::BASE as u32, hpet::SIZE as u32)];
    let interval_timer = [(PORT_PIT.into(), 4), (PORT_SYSTEM_CONTROL.into(), 1)];
    for (legacy_id, places) in [
        (Vdev::LEGACY_COUNTERS, counters),
        (Vdev::LEGACY_TIMER, interval_timer),
    ] {
        let mut vdev = emulated(legacy_id);
        for (index, (at, size)) in places.into_iter().enumerate() {
            (vdev.io_addr[index], vdev.io_size[index]) = (at, size);
        }
        if let Err(error) = hsm.create_vdev(&vdev) {
            log::debug!("the hypervisor has no timer {legacy_id} for the VM: {error}");
        }
    }
}

fn add_com(
    ports: &mut PortBus,
    com: &ComSpec,
    lines: &Arc<Lines>,
    hsm: &dyn Hsm,
) -> Result<Option<Backend>, MachineError> {
    let Some((first, gsi)) = COM_PORTS.get(com.port).copied() else {
        return Ok(None);
    };
    if com.backend == UartBackend::Hypervisor {
        let mut vdev = emulated(Vdev::LEGACY_UART);
        vdev.io_addr[0] = first.into();
        vdev.io_size[0] = 8;
        vdev.args[0] = gsi as u8;
        let remedy = "use another back end, such as pty";
        hsm.create_vdev(&vdev)
            .map_err(HsmError::refused("provide a serial port (-l hv)", remedy))?;
        return Ok(None);
    }
    let place = |source| MachineError::Device {
        place: format!("-l com{}:", com.port + 1),
        source,
    };
    let mut backend = Backend::open(com.port, &com.backend).map_err(place)?;
    let transmitter: Box<dyn Transmitter> = match &backend {
        Some(backend) => backend.transmitter(),
        None => Box::new(Null),
    };
    let uart = shared(Uart::new(lines.line(Gsi(gsi)), transmitter));
    ports.add(first..first + 8, uart.clone());
    if let Some(backend) = &mut backend {
        backend.start(format!("com{}", com.port + 1), uart)?;
    }
    Ok(backend)
}

fn build_bus(spec: &VmSpec, parts: &Parts<'_>, lines: &Arc<Lines>) -> Result<Bus, MachineError> {
    let sinks = Sinks::new(parts.hsm.clone());
    let mut bus = Bus::new();
    for slot in &spec.slots {
        let bdf = slot.bdf;
        let context = PciContext {
            memory: parts.memory.ram().clone(),
            msi: sinks.clone(),
            io_events: sinks.clone(),
            intx: lines.line(pin_gsi(bdf.device(), 1)),
            bdf,
            vm_name: spec.name.as_str().to_owned(),
            vcpus: parts.vcpus,
        };
        let place = || format!("-s {}:{},{}:", bdf.device(), bdf.function(), slot.device);
        let layout = |source| DeviceError::Layout {
            device: "the device",
            source,
        };
        create(&slot.device, &slot.options, context, &parts.hsm)
            .and_then(|mut device| {
                if device.config().read_u8(0x3d) != 0 {
                    let line = pin_gsi(bdf.device(), 1).0 as u8;
                    device.config_mut().set_u8(0x3c, line);
                }
                bus.add(bdf, device).map_err(layout)?;
                bus.placed(bdf)
            })
            .map_err(|source| MachineError::Device {
                place: place(),
                source,
            })?;
    }
    let named = |name: &str| spec.slots.iter().any(|slot| slot.device == name);
    let mut bridges: Vec<(Bdf, Bridge)> = Vec::new();
    if !named("hostbridge") {
        bridges.push((HOST_BRIDGE, Bridge::host()));
    }
    if !named("lpc") && !spec.coms.is_empty() {
        bridges.push((LPC_BRIDGE, Bridge::lpc()));
    }
    for (bdf, bridge) in bridges {
        // Where the user has put something else, that has precedence.
        if !bus.contains(bdf) {
            let _ = bus.add(bdf, Box::new(bridge));
        }
    }
    match bus.slot_without_first_function() {
        Some(slot) => Err(MachineError::NoFunctionZero(slot)),
        None => Ok(bus),
    }
}

/// Makes the device called `name`.
fn create(
    name: &str,
    options: &str,
    context: PciContext,
    hsm: &Arc<dyn Hsm>,
) -> Result<Box<dyn PciDevice>, DeviceError> {
    let not_yet = |remedy: &str| DeviceError::Option {
        device: "acrn-dm",
        option: name.to_owned(),
        remedy: remedy.to_owned(),
    };
    match name {
        "hostbridge" | "amd_hostbridge" => Ok(Box::new(Bridge::host())),
        "lpc" => Ok(Box::new(Bridge::lpc())),
        "passthru" => Err(not_yet(
            "passing PCI devices through to a User VM is not supported yet, use a virtio device",
        )),
        "ivshmem" => inter_vm::ivshmem(options, context.bdf, hsm.clone()),
        "uart" => inter_vm::uart(options, context.bdf, hsm.clone()),
        "wdt-i6300esb" => Err(not_yet("the watchdog is not supported, leave it out")),
        "ahci" | "ahci-hd" | "ahci-cd" => Err(not_yet("use virtio-blk")),
        "xhci" | "virtio-gpu" | "virtio-input" | "vhost-vsock" | "virtio-i2c" | "virtio-gpio" => {
            Err(not_yet("this device is not supported, leave it out"))
        }
        virtio if virtio.starts_with("virtio-") => virtio::create(name, options, context),
        _ => Err(DeviceError::UnknownName {
            name: name.to_owned(),
            known: KNOWN,
        }),
    }
}
