//! No driver: what `--dry-run` builds devices on. Every call succeeds and does nothing.

use std::io;

use acrn_abi::hsm::{IoEventFd, IrqFd, VmMemmap};
use acrn_abi::hypercall::{IrqLine, MsiEntry, VcpuRegs, Vdev, VmCreation};

use super::Hsm;

/// Stands where the driver would be.
pub struct Absent;

impl Hsm for Absent {
    fn create_vm(&self, creation: &mut VmCreation) -> io::Result<()> {
        creation.vcpu_num = 1;
        Ok(())
    }
    fn destroy_vm(&self) -> io::Result<()> {
        Ok(())
    }
    fn start_vm(&self) -> io::Result<()> {
        Ok(())
    }
    fn pause_vm(&self) -> io::Result<()> {
        Ok(())
    }
    fn reset_vm(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_vcpu_regs(&self, _: &VcpuRegs) -> io::Result<()> {
        Ok(())
    }
    fn set_memory(&self, _: &VmMemmap) -> io::Result<()> {
        Ok(())
    }
    fn inject_msi(&self, _: &MsiEntry) -> io::Result<()> {
        Ok(())
    }
    fn set_irq_line(&self, _: IrqLine) -> io::Result<()> {
        Ok(())
    }
    fn create_request_client(&self) -> io::Result<()> {
        Ok(())
    }
    fn wait_request(&self) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }
    fn wake(&self) {}
    fn finish_request(&self, _: u16) -> io::Result<()> {
        Ok(())
    }
    fn clear_requests(&self) -> io::Result<()> {
        Ok(())
    }
    fn create_vdev(&self, _: &Vdev) -> io::Result<()> {
        Ok(())
    }
    fn io_event_fd(&self, _: &IoEventFd) -> io::Result<()> {
        Ok(())
    }
    fn irq_fd(&self, _: &IrqFd) -> io::Result<()> {
        Ok(())
    }
}
