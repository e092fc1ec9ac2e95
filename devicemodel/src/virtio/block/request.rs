//! Block requests: what a chain asks for, checked against the disk (virtio 1.2, 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::disk::{Disk, SECTOR};
use super::options::DiscardLimits;
use crate::virtio::chain::{Chain, RingError};

/// Done.
pub const OK: u8 = VIRTIO_BLK_S_OK as u8;
/// The disk failed, or the request lies outside it.
pub const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
/// No such request on this disk.
pub const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// Most sectors of a write-zeroes segment: bounds the time when zeros must really be written.
pub const MOST_ZEROES: u32 = 1 << 16;
/// Most segments of a write-zeroes request.
pub const MOST_ZERO_SEGMENTS: u32 = 1;

const HEADER: usize = 16;
const SEGMENT: usize = 16;
const FLAG_UNMAP: u32 = 1;

/// A request whose place on the disk is verified. Offsets are bytes in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Fill the writable buffers.
    Read(u64),
    /// Write the readable buffers.
    Write(u64),
    /// Make finished writes durable.
    Flush,
    /// Write the serial number into the writable buffers.
    GetId,
    /// Forget the ranges in the readable buffers.
    Discard,
    /// Zero the ranges in the readable buffers.
    WriteZeroes,
}

/// Why a chain is not a request that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Answer with this status.
    Status(u8),
    /// There is no place for an answer: the driver is broken.
    Ring(RingError),
}

impl Request {
    /// Reads the header and puts the status byte aside; the chain's buffers are the data then.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn parse(chain: &mut Chain, disk: &Disk) -> Result<Self, Refusal> {
        let mut header = [0; HEADER];
        if !chain.split_status() || chain.readable.copy_to(0, &mut header) < HEADER {
            return Err(Refusal::Ring(RingError::Incomplete(chain.head())));
        }
        chain.readable.skip(HEADER);
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let [.., s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let place = |bytes: usize| {
            let count = (bytes as u64)
                .is_multiple_of(SECTOR)
                .then_some(bytes as u64 / SECTOR);
            count
                .and_then(|count| disk.locate(sector, count))
                .ok_or(Refusal::Status(IOERR))
        };
        let changes = matches!(
            kind,
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
        );
        if changes && disk.read_only() {
            return Err(Refusal::Status(IOERR));
        }
        match kind {
            VIRTIO_BLK_T_IN => place(chain.writable.len()).map(Self::Read),
            VIRTIO_BLK_T_OUT => place(chain.readable.len()).map(Self::Write),
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Self::GetId),
            VIRTIO_BLK_T_DISCARD => Ok(Self::Discard),
            VIRTIO_BLK_T_WRITE_ZEROES => Ok(Self::WriteZeroes),
            _ => Err(Refusal::Status(UNSUPP)),
        }
    }

    /// Carries the request out with blocking calls and returns its status. `durable` makes
    /// changes reach the medium before.
    pub fn execute(
        self,
        chain: &mut Chain,
        disk: &Disk,
        durable: bool,
        discard: Option<DiscardLimits>,
    ) -> u8 {
        let result = match self {
            Self::Read(offset) => disk.read(&mut chain.writable, offset),
            Self::Write(offset) => disk.write(&mut chain.readable, offset, durable),
            Self::Flush => disk.flush(),
            Self::GetId => {
                chain.writable.copy_from(0, disk.serial());
                Ok(())
            }
            Self::Discard | Self::WriteZeroes => {
                return ranges(self, chain, disk, durable, discard);
            }
        };
        status(result)
    }
}

/// The status for the result of a system call.
pub fn status(result: std::io::Result<()>) -> u8 {
    match result {
        Ok(()) => OK,
        Err(error) => {
            log::debug!("virtio-blk: a request failed: {error}");
            IOERR
        }
    }
}

/// Discards or zeroes the ranges that the readable buffers list.
fn ranges(
    request: Request,
    chain: &Chain,
    disk: &Disk,
    durable: bool,
    discard: Option<DiscardLimits>,
) -> u8 {
    let discards = request == Request::Discard;
    let (segments, sectors) = match discard {
        _ if !discards => (MOST_ZERO_SEGMENTS, MOST_ZEROES),
        Some(limits) => (limits.segments, limits.sectors),
        None => return UNSUPP,
    };
    let len = chain.readable.len();
    if len == 0 || !len.is_multiple_of(SEGMENT) || len / SEGMENT > segments as usize {
        return IOERR;
    }
    for at in (0..len).step_by(SEGMENT) {
        let mut segment = [0; SEGMENT];
        chain.readable.copy_to(at, &mut segment);
        let (first, rest) = segment.split_at(8);
        let (count, flags) = rest.split_at(4);
        let first = first.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let count = count.try_into().map_or(u32::MAX, u32::from_le_bytes);
        let flags = flags.try_into().map_or(u32::MAX, u32::from_le_bytes);
        let allowed = if discards { 0 } else { FLAG_UNMAP };
        if flags & !allowed != 0 {
            return UNSUPP;
        }
        let offset = disk.locate(first, count.into());
        let Some(offset) = offset.filter(|_| count <= sectors) else {
            return IOERR;
        };
        let bytes = u64::from(count) * SECTOR;
        if count == 0 {
            continue;
        }
        let result = if discards {
            disk.discard(offset, bytes)
        } else {
            disk.write_zeroes(offset, bytes, flags & FLAG_UNMAP != 0)
        };
        if status(result) != OK {
            return IOERR;
        }
    }
    if durable && !discards {
        status(disk.flush())
    } else {
        OK
    }
}
