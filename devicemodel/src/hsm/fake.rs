//! A driver, hypervisor and guest CPU for tests: records calls and puts requests into the page.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use acrn_abi::hsm::{IoEventFd, IrqFd, VmMemmap};
use acrn_abi::hypercall::{IrqLine, MsiEntry, VcpuRegs, Vdev, VmCreation};
use acrn_abi::ioreq::{
    DIRECTION_READ, DIRECTION_WRITE, IoRequest, Kind, MmioRequest, PciRequest, PioRequest,
};

use super::Hsm;
use super::page::RequestPage;

/// A recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after its method")]
pub enum Call {
    Create,
    Destroy,
    Start,
    Pause,
    Reset,
    Registers {
        rip: u64,
        rsi: u64,
    },
    Memory {
        gpa: u64,
        len: u64,
    },
    Msi(u64, u64),
    IrqLine(u32, u32),
    Client,
    Clear,
    Vdev(u32, u32),
    Function {
        slot: u64,
        id: (u16, u16),
        bars: [u32; 6],
        sizes: [u32; 6],
        args: Vec<u8>,
    },
    IoEvent(u64, u32, u64),
    IrqFd(u32),
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    /// Slots that wait for an answer, and those that got one.
    waiting: u32,
    done: u32,
    woken: bool,
}

/// The fake.
#[derive(Default)]
pub struct FakeHsm {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// vCPUs that a created VM has.
    pub vcpus: AtomicU16,
    /// The page of requests, once a VM runs.
    pub page: OnceLock<Arc<RequestPage>>,
    /// Creation of VMs and devices fails.
    pub refuse: std::sync::atomic::AtomicBool,
}

impl FakeHsm {
    /// With two vCPUs.
    pub fn new() -> Arc<Self> {
        let fake = Self::default();
        fake.vcpus.store(2, Ordering::Relaxed);
        Arc::new(fake)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, call: Call) -> io::Result<()> {
        self.lock().calls.push(call);
        self.changed.notify_all();
        Ok(())
    }

    /// What was called since the last time.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    /// Waits until `call` has been made.
    pub fn wait_for(&self, call: &Call) {
        let inner = self.lock();
        let (inner, timeout) = self
            .changed
            .wait_timeout_while(inner, Duration::from_secs(10), |inner| {
                !inner.calls.contains(call)
            })
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "{call:?} was never called, only {:?}",
            inner.calls
        );
    }

    /// Plays a vCPU: puts a request, waits for the answer. Panics after ten seconds.
    pub fn access(&self, page: &RequestPage, vcpu: u16, request: &IoRequest) -> u64 {
        let bit = 1 << vcpu;
        // Under the lock, as the driver does it, so that no answer comes in between.
        let mut inner = self.lock();
        page.put(vcpu.into(), request);
        inner.waiting |= bit;
        self.changed.notify_all();
        let (mut inner, timeout) = self
            .changed
            .wait_timeout_while(inner, Duration::from_secs(10), |inner| {
                inner.done & bit == 0
            })
            .unwrap();
        assert!(!timeout.timed_out(), "a request was never answered");
        inner.done &= !bit;
        page.result(vcpu.into())
    }

    /// Reads a port.
    pub fn port_in(&self, page: &RequestPage, port: u64, size: u64) -> u32 {
        let mut request = IoRequest::FREE;
        let direction = DIRECTION_READ;
        request.set_pio(&PioRequest {
            direction,
            address: port,
            size,
            ..Default::default()
        });
        self.access(page, 0, &request) as u32
    }

    /// Writes a port.
    pub fn port_out(&self, page: &RequestPage, port: u64, size: u64, value: u32) {
        let mut request = IoRequest::FREE;
        let direction = DIRECTION_WRITE;
        let pio = PioRequest {
            direction,
            address: port,
            size,
            value,
            ..Default::default()
        };
        request.set_pio(&pio);
        self.access(page, 0, &request);
    }

    /// Accesses memory; `write` is the value of a write.
    pub fn mmio(&self, page: &RequestPage, address: u64, size: u64, write: Option<u64>) -> u64 {
        let mut request = IoRequest::FREE;
        let direction = if write.is_some() {
            DIRECTION_WRITE
        } else {
            DIRECTION_READ
        };
        let value = write.unwrap_or(0);
        request.set_mmio(&MmioRequest {
            direction,
            address,
            size,
            value,
            ..Default::default()
        });
        self.access(page, 1, &request)
    }

    /// Reads PCI configuration space the way the kernel makes it of ports 0xCF8 and 0xCFC.
    pub fn config_read(&self, page: &RequestPage, device: u32, register: u32, size: u64) -> u32 {
        let pci = PciRequest {
            direction: DIRECTION_READ,
            size,
            device,
            register,
            ..<_>::default()
        };
        let mut request = IoRequest::FREE;
        request.kind = Kind::PCI_CONFIG.0;
        request.payload[0] = u64::from(pci.direction);
        request.payload[2] = pci.size;
        request.payload[4] = u64::from(pci.device) | u64::from(pci.function) << 32;
        request.payload[5] = u64::from(pci.register);
        self.access(page, 0, &request) as u32
    }
}

impl Hsm for FakeHsm {
    fn create_vm(&self, creation: &mut VmCreation) -> io::Result<()> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        creation.vmid = 1;
        creation.vcpu_num = self.vcpus.load(Ordering::Relaxed);
        self.record(Call::Create)
    }
    fn destroy_vm(&self) -> io::Result<()> {
        self.record(Call::Destroy)
    }
    fn start_vm(&self) -> io::Result<()> {
        self.record(Call::Start)
    }
    fn pause_vm(&self) -> io::Result<()> {
        self.record(Call::Pause)
    }
    fn reset_vm(&self) -> io::Result<()> {
        self.record(Call::Reset)
    }
    fn set_vcpu_regs(&self, regs: &VcpuRegs) -> io::Result<()> {
        self.record(Call::Registers {
            rip: regs.regs.rip,
            rsi: regs.regs.gprs.rsi,
        })
    }
    fn set_memory(&self, segment: &VmMemmap) -> io::Result<()> {
        self.record(Call::Memory {
            gpa: segment.user_vm_pa,
            len: segment.len,
        })
    }
    fn inject_msi(&self, msi: &MsiEntry) -> io::Result<()> {
        self.record(Call::Msi(msi.address, msi.data))
    }
    fn set_irq_line(&self, line: IrqLine) -> io::Result<()> {
        self.record(Call::IrqLine(line.gsi, line.operation))
    }
    fn create_request_client(&self) -> io::Result<()> {
        self.record(Call::Client)
    }
    fn wait_request(&self) -> io::Result<()> {
        let inner = self.lock();
        let mut inner = self
            .changed
            .wait_while(inner, |inner| inner.waiting == 0 && !inner.woken)
            .unwrap();
        inner.woken = false;
        Ok(())
    }
    fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_all();
    }
    fn finish_request(&self, vcpu: u16) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(page) = self.page.get() {
            page.complete(vcpu.into());
        }
        inner.waiting &= !(1 << vcpu);
        inner.done |= 1 << vcpu;
        self.changed.notify_all();
        Ok(())
    }
    fn clear_requests(&self) -> io::Result<()> {
        self.record(Call::Clear)
    }
    fn create_vdev(&self, vdev: &Vdev) -> io::Result<()> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        if vdev.vendor == 0 {
            return self.record(Call::Vdev(vdev.legacy_id, vdev.io_addr[0]));
        }
        self.record(Call::Function {
            slot: vdev.slot,
            id: (vdev.vendor, vdev.device),
            bars: vdev.io_addr,
            sizes: vdev.io_size,
            args: vdev.args.to_vec(),
        })
    }
    fn io_event_fd(&self, event: &IoEventFd) -> io::Result<()> {
        self.record(Call::IoEvent(event.address, event.flags, event.data))
    }
    fn irq_fd(&self, irq: &IrqFd) -> io::Result<()> {
        self.record(Call::IrqFd(irq.flags))
    }
}
