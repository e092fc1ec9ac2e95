//! The host's end of a virtual network card.

use std::io;
use std::os::fd::BorrowedFd;

/// Checksums may be left to the receiver (`TUN_F_*` of `<linux/if_tun.h>`).
pub const OFFLOAD_CSUM: u32 = 0x01;
/// TCP over IPv4 may arrive in large segments.
pub const OFFLOAD_TSO4: u32 = 0x02;
/// TCP over IPv6 may arrive in large segments.
pub const OFFLOAD_TSO6: u32 = 0x04;
/// Large segments may have ECN bits.
pub const OFFLOAD_TSO_ECN: u32 = 0x08;

/// Something that carries packets, each read or written with one call and preceded by a
/// virtio network header of 12 bytes. Descriptors do not block.
pub trait Link: Send + Sync {
    /// Descriptor of a queue pair; `None` beyond the last.
    fn queue(&self, pair: usize) -> Option<BorrowedFd<'_>>;
    /// Largest packet without headers of the link layer, in bytes.
    fn mtu(&self) -> u16;
    /// Says which `OFFLOAD_*` the guest takes.
    ///
    /// # Errors
    /// What the host reports.
    fn set_offloads(&self, flags: u32) -> io::Result<()>;
    /// Uses the first `pairs` queues for packets to the guest.
    ///
    /// # Errors
    /// What the host reports.
    fn set_pairs(&self, pairs: usize) -> io::Result<()>;
}
