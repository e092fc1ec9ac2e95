//! The register page of a processor with APIC virtualization (SDM 3C, 30.1): what a guest reads
//! there without an exit, and the vectors that the processor moves by itself.

use bitflags::bitflags;

use super::regs::reg;
use super::vectors::VectorSet;
use super::{Mode, VLapic};

bitflags! {
    /// What has changed since the page was last brought up to date.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Changed: u8 {
        /// IRR, ISR or TMR.
        const VECTORS = 1;
        /// Another register but the task priority, or the mode.
        const REGISTERS = 2;
    }
}

/// Registers besides IRR, ISR, TMR and TPR that are read in the page. Those that count or send are
/// not among them.
const SHOWN: [u16; 12] = [
    reg::ID,
    reg::VERSION,
    reg::LDR,
    reg::SVR,
    reg::LVT_TIMER,
    reg::LVT_TIMER + 1,
    reg::LVT_TIMER + 2,
    reg::LVT_TIMER + 3,
    reg::LVT_TIMER + 4,
    reg::LVT_ERROR,
    reg::ESR,
    reg::TIMER_DIVIDE,
];

/// x2APIC MSRs that a guest may read in the page: register numbers, without the task priority.
pub fn readable() -> impl Iterator<Item = u32> {
    let vectors = reg::ISR..=reg::IRR_END;
    SHOWN
        .into_iter()
        .chain(vectors)
        .chain([reg::PPR])
        .map(|number| 0x800 + u32::from(number))
}

impl VLapic {
    /// What has changed.
    #[inline]
    pub fn changed(&self) -> Changed {
        self.changed
    }

    /// What has changed; asked once.
    #[inline]
    pub fn take_changed(&mut self) -> Changed {
        core::mem::replace(&mut self.changed, Changed::empty())
    }

    /// Brings the page up to date. `set` stores a register at its offset in the page.
    pub fn show(&self, changed: Changed, mut set: impl FnMut(usize, u32)) {
        if changed.contains(Changed::VECTORS) {
            for index in 0..8 {
                set(offset(reg::IRR) + index * 16, self.irr.register(index));
                set(offset(reg::ISR) + index * 16, self.isr.register(index));
                set(offset(reg::TMR) + index * 16, self.tmr.register(index));
            }
        }
        if changed.contains(Changed::REGISTERS) {
            for number in SHOWN {
                set(offset(number), self.read_register(number, 0).unwrap_or(0));
            }
        }
    }

    /// Takes over which vectors are requested and in service, after the processor has delivered
    /// some or the guest has ended some. `get` loads a register at its offset in the page.
    pub fn adopt(&mut self, get: impl Fn(usize) -> u32) {
        let set = |first: u16| {
            let mut set = VectorSet::EMPTY;
            for index in 0..4 {
                let at = offset(first) + index * 32;
                let bits = u64::from(get(at + 16)) << 32 | u64::from(get(at));
                set.merge(index, u64::MAX, bits);
            }
            set
        };
        self.irr = set(reg::IRR);
        self.isr = set(reg::ISR);
        self.highest_irr = self.irr.highest().unwrap_or(0);
        self.highest_isr = self.isr.highest().unwrap_or(0);
        self.update_ppr();
    }

    /// Guest interrupt status (SDM 3C, 25.4.2): the highest vector in service, and the highest
    /// requested one in the lower half.
    #[inline]
    pub fn interrupt_status(&self) -> u16 {
        u16::from(self.highest_isr) << 8 | u16::from(self.highest_irr)
    }

    /// Vectors whose EOI goes on to the I/O APICs, 64 a word.
    pub fn level_triggered(&self) -> [u64; 4] {
        core::array::from_fn(|index| self.tmr.word(index))
    }

    /// Whether the registers are MSRs.
    pub fn is_x2apic(&self) -> bool {
        self.mode == Mode::X2Apic
    }
}

/// Place of a register in the page.
const fn offset(number: u16) -> usize {
    number as usize * 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use acrn_abi::Vector;
    use std::collections::BTreeMap;

    fn page(lapic: &mut VLapic) -> BTreeMap<usize, u32> {
        let mut page = BTreeMap::new();
        let changed = lapic.take_changed();
        lapic.show(changed, |at, value| {
            page.insert(at, value);
        });
        page
    }

    fn enabled() -> VLapic {
        let mut lapic = VLapic::new(3, true, 0);
        let _ = lapic.write(0xf0, 0x1ff, 0);
        lapic
    }

    #[test]
    fn the_page_shows_what_the_registers_hold() {
        let mut lapic = enabled();
        lapic.request(Vector(0x51), true);
        let page = page(&mut lapic);
        for (at, value) in page {
            assert_eq!(lapic.read(at as u16, 0), value, "{at:#x}");
        }
        assert_eq!(lapic.level_triggered()[1], 1 << 0x11);
        assert_eq!(lapic.interrupt_status(), 0x51);
    }

    #[test]
    fn what_the_processor_has_moved_is_taken_over() {
        let mut lapic = enabled();
        lapic.request(Vector(0x51), false);
        lapic.request(Vector(0x32), false);
        let mut page = page(&mut lapic);
        // Delivery of the highest, which sets its ISR bit.
        page.insert(0x200 + 0x20, 0);
        page.insert(0x100 + 0x20, 1 << 0x11);
        lapic.adopt(|at| page.get(&at).copied().unwrap_or(0));
        assert!(lapic.is_in_service(Vector(0x51)) && !lapic.is_requested(Vector(0x51)));
        assert_eq!(lapic.interrupt_status(), 0x5132);
        assert_eq!(lapic.highest_pending(), None);
        assert_eq!(lapic.take_changed(), Changed::empty());
    }

    #[test]
    fn each_change_is_told_once() {
        let mut lapic = enabled();
        assert_eq!(lapic.take_changed(), Changed::all());
        lapic.set_tpr(0x20);
        assert_eq!(lapic.take_changed(), Changed::empty());
        lapic.request(Vector(0x51), false);
        assert_eq!(lapic.take_changed(), Changed::VECTORS);
        let _ = lapic.write(0x320, 0x1_0040, 0);
        assert_eq!(lapic.take_changed(), Changed::REGISTERS);
    }
}
