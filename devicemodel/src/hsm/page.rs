//! The page of I/O requests, shared with the Service VM's kernel and the hypervisor.
//!
//! All of it is accessed as atomic words, so no reference to memory that others write ever
//! exists. A slot may be read and answered only while it is in state *processing* and not
//! handled in the kernel; then it belongs to the Device Model.

use std::sync::atomic::{AtomicU32, Ordering};

use acrn_abi::ioreq::{
    IoRequest, OFFSET_KERNEL_HANDLED, OFFSET_PAYLOAD, OFFSET_PROCESSED, SLOT_SIZE, SLOTS, State,
};

/// Words in a slot.
const SLOT_WORDS: usize = SLOT_SIZE / 4;

/// The page.
#[repr(C, align(4096))]
pub struct RequestPage {
    words: [AtomicU32; SLOTS * SLOT_WORDS],
}

impl RequestPage {
    /// A page of free slots. It must outlive the VM that uses it.
    pub fn new() -> Box<Self> {
        let page = Box::new(Self {
            words: [const { AtomicU32::new(0) }; SLOTS * SLOT_WORDS],
        });
        for slot in 0..SLOTS {
            page.word(slot, OFFSET_PROCESSED)
                .store(State::FREE.0, Ordering::Relaxed);
        }
        page
    }

    /// Address for [`acrn_abi::hypercall::VmCreation::ioreq_buf`].
    pub fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    fn word(&self, slot: usize, offset: usize) -> &AtomicU32 {
        &self.words[(slot % SLOTS) * SLOT_WORDS + offset / 4]
    }

    /// The request in a slot, if there is one for the Device Model.
    pub fn request(&self, slot: usize) -> Option<IoRequest> {
        if self.word(slot, OFFSET_PROCESSED).load(Ordering::Acquire) != State::PROCESSING.0
            || self
                .word(slot, OFFSET_KERNEL_HANDLED)
                .load(Ordering::Relaxed)
                != 0
        {
            return None;
        }
        let mut request = IoRequest::FREE;
        request.kind = self.word(slot, 0).load(Ordering::Relaxed);
        request.processed = State::PROCESSING.0;
        for (index, word) in request.payload.iter_mut().enumerate().take(6) {
            let at = OFFSET_PAYLOAD + 8 * index;
            let low = self.word(slot, at).load(Ordering::Relaxed);
            let high = self.word(slot, at + 4).load(Ordering::Relaxed);
            *word = u64::from(low) | u64::from(high) << 32;
        }
        Some(request)
    }

    /// Stores the result of a read: 8 bytes for memory (`wide`), else 4.
    pub fn answer(&self, slot: usize, value: u64, wide: bool) {
        const VALUE: usize = OFFSET_PAYLOAD + 24;
        self.word(slot, VALUE)
            .store(value as u32, Ordering::Relaxed);
        if wide {
            self.word(slot, VALUE + 4)
                .store((value >> 32) as u32, Ordering::Relaxed);
        }
    }

    /// Plays kernel and hypervisor: puts a request into a slot.
    #[cfg(test)]
    pub fn put(&self, slot: usize, request: &IoRequest) {
        self.word(slot, 0).store(request.kind, Ordering::Relaxed);
        self.word(slot, OFFSET_KERNEL_HANDLED)
            .store(0, Ordering::Relaxed);
        for (index, word) in request.payload.iter().enumerate() {
            let at = OFFSET_PAYLOAD + 8 * index;
            self.word(slot, at).store(*word as u32, Ordering::Relaxed);
            self.word(slot, at + 4)
                .store((*word >> 32) as u32, Ordering::Relaxed);
        }
        self.word(slot, OFFSET_PROCESSED)
            .store(State::PROCESSING.0, Ordering::Release);
    }

    /// Plays the kernel: the slot is complete.
    #[cfg(test)]
    pub fn complete(&self, slot: usize) {
        self.word(slot, OFFSET_PROCESSED)
            .store(State::FREE.0, Ordering::Release);
    }

    /// Plays the hypervisor: the result of a request.
    #[cfg(test)]
    pub fn result(&self, slot: usize) -> u64 {
        let low = self.word(slot, OFFSET_PAYLOAD + 24).load(Ordering::Relaxed);
        let high = self.word(slot, OFFSET_PAYLOAD + 28).load(Ordering::Relaxed);
        u64::from(low) | u64::from(high) << 32
    }
}

#[cfg(test)]
mod tests {
    use acrn_abi::ioreq::PioRequest;

    use super::*;

    #[test]
    fn a_fresh_page_holds_no_requests() {
        let page = RequestPage::new();
        assert!((0..SLOTS).all(|slot| page.request(slot).is_none()));
        assert_eq!(page.address() % 4096, 0);
    }

    #[test]
    fn a_request_goes_in_and_its_answer_comes_out() {
        let page = RequestPage::new();
        let mut request = IoRequest::FREE;
        let pio = PioRequest {
            address: 0x3f8,
            size: 1,
            ..PioRequest::default()
        };
        request.set_pio(&pio);
        page.put(3, &request);
        assert_eq!(page.request(3).map(|request| request.pio()), Some(pio));
        page.answer(3, 0x60, false);
        page.complete(3);
        assert_eq!(page.result(3), 0x60);
        assert!(page.request(3).is_none());
    }
}
