//! Setting up and withdrawing a ring of the trace or of the log.

use acrn_abi::hypercall::{Errno, SbufParam, Vdev};
use acrn_abi::sbuf::{LOG_ELEMENT, TraceEntry, id};
use acrn_abi::{Gpa, PAGE_SIZE, PcpuId};
use core::fmt;
use zerocopy::FromBytes;

/// What goes through a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Trace entries.
    Trace,
    /// Log lines.
    Log,
}

impl Content {
    /// Bytes of an element.
    pub const fn element(self) -> u32 {
        match self {
            Self::Trace => size_of::<TraceEntry>() as u32,
            Self::Log => LOG_ELEMENT as u32,
        }
    }
}

/// A ring that can be meant as far as numbers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingRequest {
    /// What goes through it.
    pub content: Content,
    /// Of which CPU.
    pub cpu: PcpuId,
    /// Where it begins; `None` withdraws it.
    pub at: Option<Gpa>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRingRequest {
    /// Nobody knows this number.
    Id(u32),
    /// ACRN has such a ring, and we have not.
    NotProvided(u32),
    /// It does not begin with a page.
    Address(u64),
    /// A reserved field is not zero.
    Reserved(u16),
}

impl BadRingRequest {
    /// The result for the caller.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotProvided(_) => Errno::ENOSYS,
            _ => Errno::EINVAL,
        }
    }
}

impl fmt::Display for BadRingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "no ring has the number {id}"),
            Self::NotProvided(id) => write!(f, "rings with the number {id} are not provided"),
            Self::Address(gpa) => write!(f, "{gpa:#x} is not the address of a page"),
            Self::Reserved(value) => write!(f, "the reserved field is {value:#x}, not zero"),
        }
    }
}

impl core::error::Error for BadRingRequest {}

impl RingRequest {
    /// The request in the description of a device, which it is for an observer; `None` when a device is
    /// meant.
    ///
    /// # Errors
    /// [`BadRingRequest`].
    pub fn of_device(vdev: &Vdev) -> Result<Option<Self>, BadRingRequest> {
        if (vdev.vendor, vdev.device, vdev.legacy_id) != (0, 0, Vdev::LEGACY_RING) {
            return Ok(None);
        }
        // The arguments of all devices have room for it.
        let (param, _) = SbufParam::read_from_prefix(&vdev.args).unwrap_or_default();
        Self::new(&param).map(Some)
    }

    /// Judges a request. Whether there is such a CPU is the machine's to say.
    ///
    /// # Errors
    /// [`BadRingRequest`].
    pub fn new(param: &SbufParam) -> Result<Self, BadRingRequest> {
        if param.reserved != 0 {
            return Err(BadRingRequest::Reserved(param.reserved));
        }
        let content = match param.sbuf_id {
            id::TRACE => Content::Trace,
            id::LOG => Content::Log,
            id::SEP | id::SOCWATCH | id::ASYNCIO | id::VM_EVENT => {
                return Err(BadRingRequest::NotProvided(param.sbuf_id));
            }
            other => return Err(BadRingRequest::Id(other)),
        };
        if param.gpa % PAGE_SIZE != 0 {
            return Err(BadRingRequest::Address(param.gpa));
        }
        Ok(Self {
            content,
            cpu: PcpuId(param.cpu_id),
            at: (param.gpa != 0).then_some(Gpa(param.gpa)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros, IntoBytes};

    fn request(sbuf_id: u32, gpa: u64) -> Result<RingRequest, BadRingRequest> {
        RingRequest::new(&SbufParam {
            cpu_id: 3,
            sbuf_id,
            gpa,
            ..SbufParam::default()
        })
    }

    #[test]
    fn a_ring_is_set_up_at_a_page_and_withdrawn_at_zero() {
        let wanted = |content, at| RingRequest {
            content,
            cpu: PcpuId(3),
            at,
        };
        let trace = wanted(Content::Trace, Some(Gpa(0x1000)));
        assert_eq!(request(id::TRACE, 0x1000), Ok(trace));
        assert_eq!(request(id::LOG, 0), Ok(wanted(Content::Log, None)));
        assert_eq!(
            request(id::LOG, 0x1040),
            Err(BadRingRequest::Address(0x1040))
        );
    }

    #[test]
    fn the_description_of_a_device_may_be_a_ring() {
        let param = SbufParam {
            cpu_id: 1,
            sbuf_id: id::LOG,
            gpa: 0x2000,
            ..SbufParam::default()
        };
        let mut vdev = Vdev::new_zeroed();
        vdev.args[..16].copy_from_slice(param.as_bytes());
        assert_eq!(RingRequest::of_device(&vdev), Ok(None));
        vdev.legacy_id = Vdev::LEGACY_RING;
        let request = RingRequest::new(&param).map(Some);
        assert_eq!(RingRequest::of_device(&vdev), request);
        vdev.args[4] = 99;
        assert_eq!(RingRequest::of_device(&vdev), Err(BadRingRequest::Id(99)));
    }

    #[test]
    fn rings_that_are_not_provided_differ_from_those_that_nobody_knows() {
        for id in [id::SEP, id::SOCWATCH, id::ASYNCIO, id::VM_EVENT] {
            let refused = request(id, 0x1000).unwrap_err();
            assert_eq!(refused, BadRingRequest::NotProvided(id));
            assert_eq!(refused.errno(), Errno::ENOSYS);
        }
        for id in [4, 63, 66, u32::MAX] {
            let refused = request(id, 0x1000).unwrap_err();
            assert_eq!(refused, BadRingRequest::Id(id));
            assert_eq!(refused.errno(), Errno::EINVAL);
        }
        let block = SbufParam {
            reserved: 1,
            ..SbufParam::default()
        };
        let refused = RingRequest::new(&block);
        assert_eq!(refused, Err(BadRingRequest::Reserved(1)));
    }
}
