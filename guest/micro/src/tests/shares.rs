//! Two User VMs that are always busy on one CPU: how much of it each gets.

use super::hypercalls::hypercall;
use super::vm::{COUNTING, UserVm};
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use acrn_abi::hypercall::HypercallId as Id;
use core::sync::atomic::{AtomicU32, Ordering};

/// Where the code is in a VM, and what it counts.
const CODE: usize = 0x1000;
const COUNTER: usize = 0x2000;
const PAGES: usize = 3;

/// Memory and request page of a VM.
#[repr(C, align(4096))]
struct Home {
    memory: [AtomicU32; PAGES * 1024],
    requests: [AtomicU32; 1024],
}

impl Home {
    const fn new() -> Self {
        Self {
            memory: [const { AtomicU32::new(0) }; PAGES * 1024],
            requests: [const { AtomicU32::new(0) }; 1024],
        }
    }

    /// A VM of that name on the second CPU that counts here.
    fn vm(&'static self, name: &[u8]) -> Result<UserVm, i64> {
        let vm = UserVm::create(name, 2)?;
        for (index, bytes) in COUNTING.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            self.memory[CODE / 4 + index].store(u32::from_le_bytes(word), Ordering::SeqCst);
        }
        let memory = (&raw const self.memory) as u64;
        let results = [
            vm.set_request_page((&raw const self.requests) as u64),
            vm.map(0, memory, (PAGES * 4096) as u64),
            vm.set_registers(CODE as u64),
            vm.start(),
        ];
        match results.into_iter().find(|result| *result != 0) {
            Some(result) => Err(result),
            None => Ok(vm),
        }
    }

    fn counted(&self) -> u32 {
        self.memory[COUNTER / 4].load(Ordering::SeqCst)
    }
}

static LIGHT: Home = Home::new();
static HEAVY: Home = Home::new();

/// Makes the VMs `light` and `heavy`, and shows whether both or which of them gets on. Until there is a
/// key, the host looks at their times: what is right depends on the configuration.
pub(super) fn shares(t: &Test) {
    hypercall(Id::SET_CALLBACK_VECTOR, 0xf3, 0);
    cpu::enable_interrupts();
    let made = [LIGHT.vm(b"light"), HEAVY.vm(b"heavy")];
    match &made {
        [Ok(_), Ok(_)] => {
            expect!(
                t,
                wait_for(ms(10_000), || HEAVY.counted() > 0),
                "the heavy VM does not run"
            );
            print!("both are made\n");
            super::vm::wait(t);
        }
        [light, heavy] => {
            let result = |made: &Result<UserVm, i64>| made.as_ref().err().copied().unwrap_or(0);
            print!("refused: {} {}\n", result(light), result(heavy));
        }
    }
    for vm in made.into_iter().flatten() {
        expect!(t, vm.destroy() == 0, "DESTROY_VM");
    }
    cpu::disable_interrupts();
}
