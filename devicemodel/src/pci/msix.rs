//! MSI-X: capability, vector table and pending bits (PCI Local Bus 3.0, 6.8.2).
//!
//! A device puts [`Msix`] into a BAR of its own or shares one; its threads get a
//! [`MsixSignaller`]. An interrupt signalled while its vector or the function is masked sets
//! the pending bit and is sent when the mask goes. A device that must be signalled by the
//! kernel (vhost) asks for a vector's event descriptor, which is bound as an irqfd exactly
//! while the vector can fire.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::config::{ConfigSpace, SetupError};
use super::{BarKind, MsiSink};

/// Capability id of MSI-X.
const CAPABILITY_ID: u8 = 0x11;
/// Offset of message control in the capability.
const MESSAGE_CONTROL: u16 = 2;
/// Message control: MSI-X is enabled.
const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
/// Bytes of a table entry.
const ENTRY_SIZE: usize = 16;
/// Vector control: the vector is masked.
const VECTOR_MASKED: u8 = 1;
/// Most vectors that a table holds.
const MAX_VECTORS: u16 = 2048;

/// One entry of the table.
struct Vector {
    /// Address, data and vector control as the guest reads them.
    entry: [u8; ENTRY_SIZE],
    pending: bool,
    fd: Option<EventFd>,
    /// The message that `fd` is bound to.
    bound: Option<(u64, u32)>,
}

impl Vector {
    fn new() -> Self {
        let mut entry = [0; ENTRY_SIZE];
        entry[12] = VECTOR_MASKED;
        Self {
            entry,
            pending: false,
            fd: None,
            bound: None,
        }
    }

    fn message(&self) -> (u64, u32) {
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, ..] = self.entry;
        (
            u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            u32::from_le_bytes([d0, d1, d2, d3]),
        )
    }

    fn masked(&self) -> bool {
        self.entry[12] & VECTOR_MASKED != 0
    }

    /// Moves what was written to an unbound descriptor into the pending bit.
    fn collect(&mut self) {
        if self.bound.is_none() && self.fd.as_ref().is_some_and(|fd| fd.read().is_ok()) {
            self.pending = true;
        }
    }
}

/// State shared by the device and its threads.
struct State {
    enabled: bool,
    function_masked: bool,
    vectors: Vec<Vector>,
}

/// The part that threads of the device hold.
#[derive(Clone)]
pub struct MsixSignaller {
    state: Arc<Mutex<State>>,
    msi: Arc<dyn MsiSink>,
}

impl MsixSignaller {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the interrupt of `vector`, or makes it pending while masked. Nothing happens for
    /// a vector that does not exist (0xffff is virtio's "none") or while MSI-X is off.
    pub fn signal(&self, vector: u16) {
        let mut state = self.lock();
        let open = state.enabled && !state.function_masked;
        if !state.enabled {
            return;
        }
        let Some(entry) = state.vectors.get_mut(usize::from(vector)) else {
            return;
        };
        if !open || entry.masked() {
            entry.pending = true;
            return;
        }
        let (address, data) = entry.message();
        drop(state);
        self.msi.inject(address, data);
    }

    /// Whether the guest has enabled MSI-X. While it has not, the device uses INTx.
    pub fn enabled(&self) -> bool {
        self.lock().enabled
    }

    /// An event descriptor that sends the interrupt of `vector` from the kernel, for back ends
    /// like vhost. Non-blocking; the same one on each call.
    ///
    /// # Errors
    /// The vector does not exist, or the system has no descriptor left.
    pub fn event_fd(&self, vector: u16) -> io::Result<EventFd> {
        let mut state = self.lock();
        let open = state.enabled && !state.function_masked;
        let entry = state
            .vectors
            .get_mut(usize::from(vector))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let fd = match &entry.fd {
            Some(fd) => fd.try_clone()?,
            None => {
                let fd = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
                let copy = fd.try_clone()?;
                entry.fd = Some(fd);
                copy
            }
        };
        self.refresh(entry, open);
        Ok(fd)
    }

    /// Brings binding and pending bit of a vector in line with its masks. `open` says that
    /// MSI-X is enabled and the function not masked.
    fn refresh(&self, vector: &mut Vector, open: bool) {
        let message = vector.message();
        let wanted = (open && !vector.masked()).then_some(message);
        if vector.bound != wanted {
            self.unbind(vector);
        }
        vector.collect();
        let Some((address, data)) = wanted else {
            return;
        };
        if vector.bound.is_none()
            && let Some(fd) = &vector.fd
        {
            match self.msi.bind_irqfd(fd, address, data) {
                Ok(()) => vector.bound = Some(message),
                Err(error) => log::debug!("an interrupt descriptor cannot be bound: {error}"),
            }
        }
        if std::mem::take(&mut vector.pending) {
            self.msi.inject(address, data);
        }
    }

    fn unbind(&self, vector: &mut Vector) {
        let (Some(fd), true) = (&vector.fd, vector.bound.is_some()) else {
            return;
        };
        // What is in the descriptor has been sent already. Reading before the binding goes
        // means that an event in between is sent twice at worst, and never lost.
        let _ = fd.read();
        if let Err(error) = self.msi.unbind_irqfd(fd) {
            log::debug!("an interrupt descriptor cannot be unbound: {error}");
        }
        vector.bound = None;
    }

    fn refresh_all(&self, state: &mut State) {
        let open = state.enabled && !state.function_masked;
        for vector in &mut state.vectors {
            self.refresh(vector, open);
        }
    }
}

/// MSI-X of one function: the device's side.
pub struct Msix {
    signaller: MsixSignaller,
    capability: u16,
    table: u64,
    pba: u64,
}

impl Msix {
    /// Adds the capability to `config`, with the table at `table` and the pending bits at
    /// `pba` (byte offsets, multiples of 8) in BAR `bar`, which the device declares itself.
    ///
    /// # Errors
    /// Vector count not in 1..=2048, or no room for the capability.
    pub fn new(
        config: &mut ConfigSpace,
        vectors: u16,
        bar: u8,
        table: u32,
        pba: u32,
        msi: Arc<dyn MsiSink>,
    ) -> Result<Self, SetupError> {
        if !(1..=MAX_VECTORS).contains(&vectors) {
            return Err(SetupError::Vectors(vectors));
        }
        let mut body = [0u8; 10];
        body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table & !7 | u32::from(bar & 7)).to_le_bytes());
        body[6..].copy_from_slice(&(pba & !7 | u32::from(bar & 7)).to_le_bytes());
        let writable = (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes();
        let capability = config.add_capability(CAPABILITY_ID, &body, &writable)?;
        let vectors = (0..vectors).map(|_| Vector::new()).collect();
        let state = State {
            enabled: false,
            function_masked: false,
            vectors,
        };
        Ok(Self {
            signaller: MsixSignaller {
                state: Arc::new(Mutex::new(state)),
                msi,
            },
            capability,
            table: u64::from(table & !7),
            pba: u64::from(pba & !7),
        })
    }

    /// Declares a BAR of its own for table and pending bits and adds the capability.
    ///
    /// # Errors
    /// As [`Msix::new`] and [`ConfigSpace::add_bar`].
    pub fn with_own_bar(
        config: &mut ConfigSpace,
        vectors: u16,
        bar: u8,
        msi: Arc<dyn MsiSink>,
    ) -> Result<Self, SetupError> {
        let table_bytes = u32::from(vectors) * ENTRY_SIZE as u32;
        let pba = table_bytes.next_multiple_of(0x800);
        let size = (pba + u32::from(vectors).div_ceil(64) * 8)
            .next_power_of_two()
            .max(0x1000);
        config.add_bar(usize::from(bar), BarKind::Memory32, u64::from(size))?;
        Self::new(config, vectors, bar, 0, pba, msi)
    }

    /// The handle for the device's threads.
    pub fn signaller(&self) -> MsixSignaller {
        self.signaller.clone()
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.signaller.lock().vectors.len() as u16
    }

    /// To be called from [`super::PciDevice::config_written`]: takes over enable and mask.
    pub fn config_written(&self, config: &ConfigSpace, reg: u16, size: u8) {
        let control = self.capability + MESSAGE_CONTROL;
        if reg >= control + 2 || reg.saturating_add(u16::from(size)) <= control {
            return;
        }
        let value = config.read_u16(control);
        let mut state = self.signaller.lock();
        state.enabled = value & CONTROL_ENABLE != 0;
        state.function_masked = value & CONTROL_FUNCTION_MASK != 0;
        self.signaller.refresh_all(&mut state);
    }

    /// Whether `offset` in the BAR belongs to the table or the pending bits.
    pub fn covers(&self, offset: u64) -> bool {
        let count = u64::from(self.vectors());
        let table = self.table..self.table + count * ENTRY_SIZE as u64;
        let pba = self.pba..self.pba + count.div_ceil(64) * 8;
        table.contains(&offset) || pba.contains(&offset)
    }

    /// Reads table or pending bits at an offset in the BAR; zero elsewhere.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.signaller.lock();
        for (index, out) in (0u64..).zip(data.iter_mut()) {
            let at = offset.saturating_add(index);
            *out = self.read_byte(&mut state, at);
        }
    }

    fn read_byte(&self, state: &mut State, at: u64) -> u8 {
        if let Some((vector, byte)) = self.table_position(at)
            && let Some(vector) = state.vectors.get(vector)
        {
            return vector.entry[byte];
        }
        let Some(first) = at
            .checked_sub(self.pba)
            .and_then(|byte| byte.checked_mul(8))
        else {
            return 0;
        };
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        state
            .vectors
            .iter_mut()
            .skip(first)
            .take(8)
            .rev()
            .fold(0, |bits, vector| {
                vector.collect();
                bits << 1 | u8::from(vector.pending)
            })
    }

    /// Writes to the table at an offset in the BAR. Pending bits are read-only.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.signaller.lock();
        let open = state.enabled && !state.function_masked;
        let mut touched: Option<usize> = None;
        for (index, byte) in (0u64..).zip(data) {
            let at = offset.saturating_add(index);
            let Some((vector, position)) = self.table_position(at) else {
                continue;
            };
            if let Some(previous) = touched
                && previous != vector
                && let Some(previous) = state.vectors.get_mut(previous)
            {
                self.signaller.refresh(previous, open);
            }
            touched = Some(vector);
            if let Some(vector) = state.vectors.get_mut(vector) {
                // Reserved bits of vector control read as zero.
                vector.entry[position] = match position {
                    12 => byte & VECTOR_MASKED,
                    13.. => 0,
                    _ => *byte,
                };
            }
        }
        if let Some(vector) = touched.and_then(|last| state.vectors.get_mut(last)) {
            self.signaller.refresh(vector, open);
        }
    }

    /// Splits an offset in the BAR into vector and byte of its entry.
    fn table_position(&self, at: u64) -> Option<(usize, usize)> {
        let offset = usize::try_from(at.checked_sub(self.table)?).ok()?;
        Some((offset / ENTRY_SIZE, offset % ENTRY_SIZE))
    }

    /// Back to power-on: everything masked and disabled, nothing pending, descriptors unbound.
    /// Event descriptors that were handed out stay valid.
    pub fn reset(&self) {
        let mut state = self.signaller.lock();
        state.enabled = false;
        state.function_masked = false;
        for vector in &mut state.vectors {
            self.signaller.unbind(vector);
            vector.collect();
            vector.entry = Vector::new().entry;
            vector.pending = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Identity;
    use crate::pci::config::{CAPABILITIES, STATUS};

    #[derive(Default)]
    struct Recorder {
        sent: Mutex<Vec<(u64, u32)>>,
        bound: Mutex<Vec<(u64, u32)>>,
    }

    impl MsiSink for Recorder {
        fn inject(&self, address: u64, data: u32) {
            self.sent.lock().unwrap().push((address, data));
        }
        fn bind_irqfd(&self, _: &EventFd, address: u64, data: u32) -> io::Result<()> {
            self.bound.lock().unwrap().push((address, data));
            Ok(())
        }
        fn unbind_irqfd(&self, _: &EventFd) -> io::Result<()> {
            self.bound.lock().unwrap().pop();
            Ok(())
        }
    }

    struct Fixture {
        config: ConfigSpace,
        msix: Msix,
        recorder: Arc<Recorder>,
    }

    impl Fixture {
        fn new(vectors: u16) -> Self {
            let recorder = Arc::new(Recorder::default());
            let mut config = ConfigSpace::new(Identity::default());
            let msix =
                Msix::with_own_bar(&mut config, vectors, 1, recorder.clone()).expect("layout");
            Self {
                config,
                msix,
                recorder,
            }
        }
        fn control(&mut self, value: u16) {
            let reg = self.msix.capability + MESSAGE_CONTROL;
            self.config.write(reg, 2, value.into());
            self.msix.config_written(&self.config, reg, 2);
        }
        fn program(&self, vector: u64, address: u64, data: u32, control: u32) {
            self.msix.write(vector * 16, &address.to_le_bytes());
            self.msix.write(vector * 16 + 8, &data.to_le_bytes());
            self.msix.write(vector * 16 + 12, &control.to_le_bytes());
        }
        fn pending(&self) -> u64 {
            let mut bits = [0; 8];
            self.msix.read(self.msix.pba, &mut bits);
            u64::from_le_bytes(bits)
        }
        fn sent(&self) -> Vec<(u64, u32)> {
            std::mem::take(&mut self.recorder.sent.lock().unwrap())
        }
    }

    #[test]
    fn an_unmasked_vector_sends_its_message() {
        let mut fixture = Fixture::new(3);
        fixture.program(2, 0xfee0_1000, 0x41, 0);
        fixture.control(CONTROL_ENABLE);
        fixture.msix.signaller().signal(2);
        assert_eq!(fixture.sent(), [(0xfee0_1000, 0x41)]);
    }

    #[test]
    fn a_masked_vector_is_pending_until_unmasked() {
        let mut fixture = Fixture::new(70);
        fixture.control(CONTROL_ENABLE);
        fixture.program(5, 0xfee0_0000, 0x50, 1);
        fixture.msix.signaller().signal(5);
        assert_eq!((fixture.sent(), fixture.pending()), (vec![], 1 << 5));
        fixture.program(5, 0xfee0_0000, 0x51, 0);
        assert_eq!(
            (fixture.sent(), fixture.pending()),
            (vec![(0xfee0_0000, 0x51)], 0)
        );
    }

    #[test]
    fn the_function_mask_holds_all_vectors_back() {
        let mut fixture = Fixture::new(2);
        fixture.program(0, 0xfee0_0000, 0x30, 0);
        fixture.control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
        fixture.msix.signaller().signal(0);
        assert_eq!((fixture.sent(), fixture.pending()), (vec![], 1));
        fixture.control(CONTROL_ENABLE);
        assert_eq!(fixture.sent(), [(0xfee0_0000, 0x30)]);
    }

    #[test]
    fn a_descriptor_is_bound_exactly_while_its_vector_can_fire() {
        let mut fixture = Fixture::new(1);
        let fd = fixture.msix.signaller().event_fd(0).unwrap();
        fixture.control(CONTROL_ENABLE);
        assert!(fixture.recorder.bound.lock().unwrap().is_empty());
        fixture.program(0, 0xfee0_0000, 0x60, 0);
        assert_eq!(
            *fixture.recorder.bound.lock().unwrap(),
            [(0xfee0_0000, 0x60)]
        );
        fixture.program(0, 0xfee0_0000, 0x60, 1);
        assert!(fixture.recorder.bound.lock().unwrap().is_empty());
        fd.write(1).unwrap();
        assert_eq!(fixture.pending(), 1);
        fixture.program(0, 0xfee0_0000, 0x60, 0);
        assert_eq!(fixture.sent(), [(0xfee0_0000, 0x60)]);
    }

    #[test]
    fn a_vector_that_does_not_exist_is_ignored() {
        let mut fixture = Fixture::new(1);
        fixture.control(CONTROL_ENABLE);
        fixture.msix.signaller().signal(0xffff);
        fixture.msix.write(u64::MAX - 2, &[0xff; 8]);
        fixture.msix.read(u64::MAX - 2, &mut [0; 8]);
        assert!(fixture.sent().is_empty());
    }

    #[test]
    fn a_reset_masks_and_forgets() {
        let mut fixture = Fixture::new(1);
        fixture.program(0, 0xfee0_0000, 0x60, 0);
        fixture.control(CONTROL_ENABLE);
        let _fd = fixture.msix.signaller().event_fd(0).unwrap();
        fixture.msix.reset();
        assert!(!fixture.msix.signaller().enabled());
        assert!(fixture.recorder.bound.lock().unwrap().is_empty());
        let mut control = [0; 4];
        fixture.msix.read(12, &mut control);
        assert_eq!(control[0], VECTOR_MASKED);
    }

    #[test]
    fn the_capability_is_in_the_list() {
        let fixture = Fixture::new(4);
        let at = u16::from(fixture.config.read_u8(CAPABILITIES));
        assert_eq!(fixture.config.read_u8(at), CAPABILITY_ID);
        assert_eq!(fixture.config.read_u16(at + 2), 3);
        assert_eq!(fixture.config.read_u32(at + 8), 0x800 | 1);
        assert_ne!(fixture.config.read_u16(STATUS) & 0x10, 0);
    }
}
