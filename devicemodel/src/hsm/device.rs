//! `/dev/acrn_hsm`, as upstream Linux has it (`include/uapi/linux/acrn.h`).

// UNSAFETY: ioctl and signal calls have no safe wrapper for these numbers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use acrn_abi::hsm::{self, IoEventFd, IoReqNotify, IrqFd, VmMemmap};
use acrn_abi::hypercall::{IrqLine, MsiEntry, VcpuRegs, Vdev, VmCreation};

use super::{Hsm, HsmError};

/// The signal that takes a thread out of its wait for requests.
const WAKE_SIGNAL: libc::c_int = libc::SIGUSR1;

/// The opened device: one VM. Closing it ends the VM.
pub struct Device {
    file: File,
    /// Thread that waits for requests, 0 if none.
    waiter: AtomicI32,
    vmid: std::sync::atomic::AtomicU16,
}

impl Device {
    /// Opens the device.
    ///
    /// # Errors
    /// No driver, no permission.
    pub fn open() -> Result<Self, HsmError> {
        let path = hsm::DEVICE;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => HsmError::Missing { path },
                io::ErrorKind::PermissionDenied => HsmError::Permission { path },
                _ if source.raw_os_error() == Some(libc::ENXIO)
                    || source.raw_os_error() == Some(libc::ENODEV) =>
                {
                    HsmError::Missing { path }
                }
                _ => HsmError::Open { path, source },
            })?;
        install_wake_handler().map_err(|source| HsmError::Open { path, source })?;
        Ok(Self {
            file,
            waiter: AtomicI32::new(0),
            vmid: 0.into(),
        })
    }

    /// An ioctl whose argument is a number or nothing.
    fn value(&self, request: u32, argument: u64) -> io::Result<()> {
        // SAFETY: the driver takes the argument of these requests as a number, and no memory of
        // this process is touched.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, argument) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// An ioctl that reads a block.
    fn block<T>(&self, request: u32, argument: &T) -> io::Result<()> {
        // SAFETY: `argument` is valid for reads of its whole size, which is the size that
        // `request` encodes (the constants of acrn_abi::hsm are made from the same types).
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, argument) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl Hsm for Device {
    fn create_vm(&self, creation: &mut VmCreation) -> io::Result<()> {
        // SAFETY: `creation` is valid for reads and writes of the size in the request.
        let result = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                hsm::CREATE_VM as _,
                &raw mut *creation,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        self.vmid.store(creation.vmid, Ordering::Relaxed);
        Ok(())
    }

    fn destroy_vm(&self) -> io::Result<()> {
        self.value(hsm::DESTROY_VM, 0)
    }

    fn start_vm(&self) -> io::Result<()> {
        self.value(hsm::START_VM, 0)
    }

    fn pause_vm(&self) -> io::Result<()> {
        self.value(hsm::PAUSE_VM, 0)
    }

    fn reset_vm(&self) -> io::Result<()> {
        self.value(hsm::RESET_VM, 0)
    }

    fn set_vcpu_regs(&self, regs: &VcpuRegs) -> io::Result<()> {
        self.block(hsm::SET_VCPU_REGS, regs)
    }

    fn set_memory(&self, segment: &VmMemmap) -> io::Result<()> {
        self.block(hsm::SET_MEMSEG, segment)
    }

    fn inject_msi(&self, msi: &MsiEntry) -> io::Result<()> {
        self.block(hsm::INJECT_MSI, msi)
    }

    fn set_irq_line(&self, line: IrqLine) -> io::Result<()> {
        self.value(hsm::SET_IRQLINE, line.to_register())
    }

    fn create_request_client(&self) -> io::Result<()> {
        self.value(hsm::CREATE_IOREQ_CLIENT, 0)
    }

    fn wait_request(&self) -> io::Result<()> {
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        if self.waiter.load(Ordering::Relaxed) != thread {
            self.waiter.store(thread, Ordering::SeqCst);
        }
        match self.value(hsm::ATTACH_IOREQ_CLIENT, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    fn wake(&self) {
        let thread = self.waiter.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: sends a signal whose handler does nothing; a thread id that is gone makes
            // the call fail without an effect.
            unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, WAKE_SIGNAL);
            }
        }
    }

    fn finish_request(&self, vcpu: u16) -> io::Result<()> {
        let vmid = self.vmid.load(Ordering::Relaxed);
        let notify = IoReqNotify {
            vmid,
            reserved: 0,
            vcpu: vcpu.into(),
        };
        self.block(hsm::NOTIFY_REQUEST_FINISH, &notify)
    }

    fn clear_requests(&self) -> io::Result<()> {
        self.value(hsm::CLEAR_VM_IOREQ, 0)
    }

    fn create_vdev(&self, vdev: &Vdev) -> io::Result<()> {
        self.block(hsm::CREATE_VDEV, vdev)
    }

    fn io_event_fd(&self, event: &IoEventFd) -> io::Result<()> {
        self.block(hsm::IOEVENTFD, event)
    }

    fn irq_fd(&self, irq: &IrqFd) -> io::Result<()> {
        self.block(hsm::IRQFD, irq)
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// A handler that does nothing and does not restart system calls: all that is wanted is that
/// the wait ends.
fn install_wake_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid; the handler is async-signal-safe, as it is empty.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(WAKE_SIGNAL, &action, std::ptr::null_mut())
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
