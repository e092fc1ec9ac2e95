//! Tests of the whole: against the decoder of iced-x86, and of what instructions do.

mod oracle;
mod paging;
mod semantics;
mod system;
mod task;

use acrn_abi::Gva;

use crate::*;

/// A vCPU's registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regs {
    pub gprs: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub bases: [u64; 6],
}

impl Regs {
    pub fn new() -> Self {
        Self {
            gprs: [0; 16],
            rip: 0x1000,
            rflags: 2,
            bases: [0; 6],
        }
    }
}

impl Registers for Regs {
    fn gpr(&self, n: u8) -> u64 {
        self.gprs[usize::from(n)]
    }
    fn set_gpr(&mut self, n: u8, value: u64) {
        self.gprs[usize::from(n)] = value;
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }
    fn segment_base(&self, segment: Segment) -> u64 {
        self.bases[segment as usize]
    }
}

/// Registers and 64 KiB of memory at address 0.
pub struct Machine {
    pub regs: Regs,
    pub memory: Vec<u8>,
    pub mode: Mode,
}

impl Machine {
    pub fn new(mode: Mode) -> Self {
        Self {
            regs: Regs::new(),
            memory: vec![0; 0x10000],
            mode,
        }
    }

    pub fn read(&self, address: u64, size: u8) -> u64 {
        (0..u64::from(size))
            .map(|i| u64::from(self.memory[(address + i) as usize]) << (8 * i))
            .sum()
    }

    pub fn write(&mut self, address: u64, size: u8, value: u64) {
        for i in 0..u64::from(size) {
            self.memory[(address + i) as usize] = (value >> (8 * i)) as u8;
        }
    }

    /// Runs the instruction to its end and returns the number of runs (iterations).
    pub fn run(&mut self, bytes: &[u8]) -> usize {
        let instruction = Instruction::decode(bytes, self.mode).expect("an instruction");
        assert_eq!(usize::from(instruction.length()), bytes.len());
        for runs in 1..1000 {
            let (mut emulation, mut step) = Emulation::start(instruction, &self.regs);
            loop {
                step = match step {
                    Step::Load {
                        address: Gva(address),
                        size,
                    } => {
                        let value = self.read(address, size);
                        emulation.resume(&mut self.regs, value)
                    }
                    Step::Store {
                        address: Gva(address),
                        size,
                        value,
                    } => {
                        self.write(address, size, value);
                        emulation.resume(&mut self.regs, 0)
                    }
                    Step::Done { advance_rip: true } => return runs,
                    Step::Done { advance_rip: false } => break,
                };
            }
        }
        panic!("the instruction does not end");
    }
}
