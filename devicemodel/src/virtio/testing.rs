//! A driver for tests: brings a device up through its registers, lays rings out in guest RAM
//! and breaks them where a test asks for it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use acrn_abi::types::Bdf;
use vm_memory::{Bytes, GuestAddress};

use super::device::VirtioDevice;
use super::transport::registers::{offset, status};
use super::transport::{COMMON, DEVICE, NOTIFY, NOTIFY_MULTIPLIER, REGISTER_BAR, VirtioPci};
use crate::pci::{
    EventFd, GuestRam, InterruptLine, IoEventAddress, IoEventSink, MsiSink, PciContext, PciDevice,
};

/// Size of the test guest's RAM, which has a hole in its middle.
pub const RAM_END: u64 = 0x80_0000;
/// A guest address without RAM.
pub const HOLE: u64 = 0x40_0000;
/// Where tests put their data.
pub const DATA: u64 = 0x10_0000;
/// Descriptor flags.
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// The descriptor is a table of others.
pub const INDIRECT: u16 = 4;
/// Feature bits that the driver accepts beside the device's.
pub const RING_FEATURES: u64 = 1 << 32 | 1 << 28 | 1 << 29;

/// Records what a device does to its bus.
#[derive(Default)]
pub struct Recorder {
    /// MSI messages sent.
    pub messages: Mutex<Vec<(u64, u32)>>,
    /// Level of the INTx line.
    pub line: Mutex<bool>,
    /// Doorbells in force.
    pub doorbells: Mutex<Vec<IoEventAddress>>,
}

impl MsiSink for Recorder {
    fn inject(&self, address: u64, data: u32) {
        self.messages.lock().unwrap().push((address, data));
    }
    fn bind_irqfd(&self, _: &EventFd, _: u64, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn unbind_irqfd(&self, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

impl InterruptLine for Recorder {
    fn set(&self, level: bool) {
        *self.line.lock().unwrap() = level;
    }
}

impl IoEventSink for Recorder {
    fn bind(
        &self,
        _: &EventFd,
        addr: IoEventAddress,
        len: u32,
        datamatch: Option<u64>,
    ) -> io::Result<()> {
        assert_eq!((len, datamatch), (4, None));
        self.doorbells.lock().unwrap().push(addr);
        Ok(())
    }
    fn unbind(&self, _: &EventFd, addr: IoEventAddress, _: u32, _: Option<u64>) -> io::Result<()> {
        self.doorbells
            .lock()
            .unwrap()
            .retain(|bound| *bound != addr);
        Ok(())
    }
}

/// RAM of the test guest.
pub fn guest_ram() -> Arc<GuestRam> {
    let low = (GuestAddress(0), HOLE as usize);
    let high = (
        GuestAddress(HOLE + 0x1000),
        (RAM_END - HOLE - 0x1000) as usize,
    );
    Arc::new(GuestRam::from_ranges(&[low, high]).unwrap())
}

/// The context of a device on a recorded bus.
pub fn context(mem: Arc<GuestRam>, bus: Arc<Recorder>) -> PciContext {
    PciContext {
        memory: mem,
        msi: bus.clone(),
        io_events: bus.clone(),
        intx: bus,
        bdf: Bdf::new(0, 3, 0),
        vm_name: "testvm".into(),
        vcpus: 2,
    }
}

/// One ring from the driver's side.
pub struct TestRing {
    mem: Arc<GuestRam>,
    base: u64,
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

impl TestRing {
    fn new(mem: Arc<GuestRam>, base: u64, size: u16) -> Self {
        Self {
            mem,
            base,
            size,
            next_descriptor: 0,
            available: 0,
            used: 0,
        }
    }

    fn available_at(&self) -> u64 {
        self.base + 0x4000
    }

    fn used_at(&self) -> u64 {
        self.base + 0x6000
    }

    /// Writes one descriptor of the table at `table`.
    pub fn describe_at(&self, table: u64, index: u16, address: u64, len: u32, rest: (u16, u16)) {
        let at = table + u64::from(index) * 16;
        self.mem.write_obj(address, GuestAddress(at)).unwrap();
        self.mem.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.mem.write_obj(rest.0, GuestAddress(at + 12)).unwrap();
        self.mem.write_obj(rest.1, GuestAddress(at + 14)).unwrap();
    }

    /// Writes one descriptor: flags and next index in `rest`.
    pub fn describe(&self, index: u16, address: u64, len: u32, rest: (u16, u16)) {
        self.describe_at(self.base, index, address, len, rest);
    }

    /// Makes `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = self.available_at() + 4 + u64::from(self.available % self.size) * 2;
        self.mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.set_available(self.available.wrapping_add(1));
    }

    /// Sets the available index to anything.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        self.mem
            .write_obj(index, GuestAddress(self.available_at() + 2))
            .unwrap();
    }

    /// Says after which used index the driver wants an interrupt.
    pub fn set_used_event(&self, index: u16) {
        let at = self.available_at() + 4 + u64::from(self.size) * 2;
        self.mem.write_obj(index, GuestAddress(at)).unwrap();
    }

    /// Sets the flags of the available ring.
    pub fn set_flags(&self, flags: u16) {
        self.mem
            .write_obj(flags, GuestAddress(self.available_at()))
            .unwrap();
    }

    /// Chains the buffers `(address, len, device writes)` and offers them; returns the head.
    pub fn submit(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let first = self.next_descriptor;
        for (nth, (address, len, write)) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let more = if nth + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if *write { WRITE } else { 0 };
            self.describe(index, *address, *len, (flags, self.next_descriptor));
        }
        self.offer(first);
        first
    }

    /// The next request that the device returned: head and bytes written.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        let index: u16 = self.mem.read_obj(GuestAddress(self.used_at() + 2)).unwrap();
        if index == self.used {
            return None;
        }
        let at = self.used_at() + 4 + u64::from(self.used % self.size) * 8;
        self.used = self.used.wrapping_add(1);
        let id = self.mem.read_obj(GuestAddress(at)).unwrap();
        let len = self.mem.read_obj(GuestAddress(at + 4)).unwrap();
        Some((id, len))
    }

    /// Waits for the device to return a request.
    pub fn wait_used(&mut self) -> (u32, u32) {
        wait_for("a used buffer", || self.take_used())
    }
}

/// Waits until `ready` gives something.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "no {what} within 10 s");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A device with its driver.
pub struct Driver {
    /// The device on its bus.
    pub pci: VirtioPci,
    /// Guest RAM.
    pub mem: Arc<GuestRam>,
    /// The bus.
    pub bus: Arc<Recorder>,
    /// The rings.
    pub rings: Vec<TestRing>,
}

impl Driver {
    /// Puts the device on a bus, without touching it.
    pub fn attach(device: Box<dyn VirtioDevice>) -> Self {
        let mem = guest_ram();
        let bus = Arc::new(Recorder::default());
        let sizes = device.queue_sizes().to_vec();
        let rings = (0u64..)
            .zip(sizes)
            .map(|(nth, size)| TestRing::new(mem.clone(), 0x1_0000 + nth * 0x1_0000, size))
            .collect();
        let pci = VirtioPci::new(device, context(mem.clone(), bus.clone())).unwrap();
        Self {
            pci,
            mem,
            bus,
            rings,
        }
    }

    /// Puts the device on a bus and brings it up with the features of `wanted` that it offers.
    pub fn start(device: Box<dyn VirtioDevice>, wanted: u64) -> Self {
        let mut driver = Self::attach(device);
        driver.bring_up(wanted);
        driver
    }

    /// Initialises the device as the specification says.
    pub fn bring_up(&mut self, wanted: u64) {
        self.set_status(0);
        self.negotiate(wanted);
        for queue in 0..self.rings.len() as u16 {
            self.enable_queue(queue);
        }
        self.add_status(status::DRIVER_OK);
    }

    /// Up to `FEATURES_OK`.
    pub fn negotiate(&mut self, wanted: u64) {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let accepted = self.features() & wanted;
        for half in 0..2u32 {
            self.write(offset::DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            self.write(
                offset::DRIVER_FEATURE,
                &((accepted >> (32 * half)) as u32).to_le_bytes(),
            );
        }
        self.add_status(status::FEATURES_OK);
        assert_ne!(self.status() & status::FEATURES_OK, 0);
    }

    /// Describes a queue and enables it.
    pub fn enable_queue(&mut self, queue: u16) {
        let ring = &mut self.rings[usize::from(queue)];
        *ring = TestRing::new(ring.mem.clone(), ring.base, ring.size);
        for at in (0..0x8000).step_by(8) {
            ring.mem
                .write_obj(0u64, GuestAddress(ring.base + at))
                .unwrap();
        }
        let places = [ring.base, ring.available_at(), ring.used_at()];
        let size = ring.size;
        self.write(offset::QUEUE_SELECT, &queue.to_le_bytes());
        self.write(offset::QUEUE_SIZE, &size.to_le_bytes());
        for (at, place) in (offset::QUEUE_DESC..).step_by(8).zip(places) {
            self.write(at, &(place as u32).to_le_bytes());
            self.write(at + 4, &((place >> 32) as u32).to_le_bytes());
        }
        self.write(offset::QUEUE_ENABLE, &1u16.to_le_bytes());
    }

    /// Writes a common register.
    pub fn write(&mut self, at: u64, data: &[u8]) {
        self.pci.bar_write(REGISTER_BAR, COMMON + at, data);
    }

    /// Reads a common register.
    pub fn read<const N: usize>(&mut self, at: u64) -> [u8; N] {
        let mut data = [0; N];
        self.pci.bar_read(REGISTER_BAR, COMMON + at, &mut data);
        data
    }

    /// Reads the device's configuration.
    pub fn config<const N: usize>(&mut self, at: u64) -> [u8; N] {
        let mut data = [0; N];
        self.pci.bar_read(REGISTER_BAR, DEVICE + at, &mut data);
        data
    }

    /// Reads the status.
    pub fn status(&mut self) -> u8 {
        self.read::<1>(offset::DEVICE_STATUS)[0]
    }

    /// Writes the status.
    pub fn set_status(&mut self, value: u8) {
        self.write(offset::DEVICE_STATUS, &[value]);
    }

    /// Sets one more bit of the status.
    pub fn add_status(&mut self, bit: u8) {
        let status = self.status() | bit;
        self.set_status(status);
    }

    /// The features offered.
    pub fn features(&mut self) -> u64 {
        (0..2u32).fold(0, |features, half| {
            self.write(offset::DEVICE_FEATURE_SELECT, &half.to_le_bytes());
            let bits = u32::from_le_bytes(self.read(offset::DEVICE_FEATURE));
            features | u64::from(bits) << (32 * half)
        })
    }

    /// Rings the doorbell of a queue.
    pub fn kick(&mut self, queue: u16) {
        let at = NOTIFY + u64::from(queue) * u64::from(NOTIFY_MULTIPLIER);
        self.pci.bar_write(REGISTER_BAR, at, &queue.to_le_bytes());
    }

    /// Waits until the device asks for a reset.
    pub fn wait_broken(&mut self) {
        wait_for("NEEDS_RESET", || {
            (self.status() & status::NEEDS_RESET != 0).then_some(())
        });
    }

    /// Writes guest RAM.
    pub fn put(&self, at: u64, data: &[u8]) {
        self.mem.write_slice(data, GuestAddress(at)).unwrap();
    }

    /// Reads guest RAM.
    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.mem.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }
}
