//! Instructions of a guest.

use crate::Source;
use acrn_emulate::{
    Emulation, Instruction, MAX_LENGTH, Mode, PlainMov, Registers, Segment, Step, StringIo, System,
    is_vmcall, length,
};

/// Registers with values of the input.
struct Machine<'a> {
    gpr: [u64; 16],
    rflags: u64,
    source: Source<'a>,
}

impl Registers for Machine<'_> {
    fn gpr(&self, n: u8) -> u64 {
        self.gpr[usize::from(n & 15)]
    }
    fn set_gpr(&mut self, n: u8, value: u64) {
        self.gpr[usize::from(n & 15)] = value;
    }
    fn rip(&self) -> u64 {
        0x1000
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }
    fn segment_base(&self, segment: Segment) -> u64 {
        0x1_0000 * segment as u64
    }
}

/// Most accesses that are answered: a repeated instruction has as many as the guest likes.
const STEPS: usize = 64;

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mode = [Mode::Bits16, Mode::Bits32, Mode::Bits64][usize::from(source.u8() % 3)];
    let count = usize::from(source.u8() % 20);
    let bytes = source.bytes(count);
    let fits = |length: u8| {
        let length = usize::from(length);
        assert!(length > 0 && length <= MAX_LENGTH && length <= bytes.len());
    };
    let mut machine = Machine {
        gpr: core::array::from_fn(|_| source.value()),
        rflags: source.u64(),
        source,
    };
    let _ = is_vmcall(bytes, mode);
    if let Ok(length) = length(bytes, mode) {
        fits(length);
    }
    let _ = System::decode(bytes, mode);
    if let Some(mov) = PlainMov::decode(bytes, mode) {
        fits(mov.length());
        assert!(matches!(mov.size(), 1 | 2 | 4 | 8));
        let _ = mov.stored(&machine);
        let value = machine.source.u64();
        mov.complete(&mut machine, value);
    }
    if let Ok(string) = StringIo::decode(bytes, mode) {
        fits(string.length);
        assert!(matches!(string.size, 1 | 2 | 4));
        let _ = string.address(&machine);
        let before = string.count(&machine);
        if before > 0 {
            let done = string.advance(&mut machine);
            assert!(done || string.count(&machine) == before - 1);
        }
    }
    if let Ok(instruction) = Instruction::decode(bytes, mode) {
        fits(instruction.length());
        emulate(instruction, &mut machine);
    }
}

fn emulate(instruction: Instruction, machine: &mut Machine<'_>) {
    let (mut emulation, mut step) = Emulation::start(instruction, machine);
    for _ in 0..STEPS {
        let size = match step {
            Step::Load { size, .. } | Step::Store { size, .. } => size,
            Step::Done { .. } => return,
        };
        assert!(matches!(size, 1 | 2 | 4 | 8), "an access of {size} bytes");
        let value = machine.source.u64();
        step = emulation.resume(machine, value);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let bytes: [&[u8]; 12] = [
        &[0x8b, 0x07],
        &[0x44, 0x8b, 0x84, 0x88, 0x10, 0, 0, 0],
        &[0xc7, 0x05, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0x48, 0x89, 0x43, 0x10],
        &[0x0f, 0xb6, 0x07],
        &[0x83, 0x0f, 0x01],
        &[0xf0, 0x0f, 0xb1, 0x0f],
        &[0xf3, 0x48, 0xa5],
        &[0xf3, 0xaa],
        &[0xf3, 0x6e],
        &[0x66, 0x0f, 0xba, 0x2f, 5],
        &[0x0f, 0x01, 0xc1],
    ];
    let seed = |mode: u8, bytes: &[u8]| [&[mode, bytes.len() as u8], bytes].concat();
    let modes = 0..3;
    modes
        .flat_map(|mode| bytes.iter().map(move |bytes| seed(mode, bytes)))
        .collect()
}
