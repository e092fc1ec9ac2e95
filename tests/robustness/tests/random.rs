//! Every target with some ten thousand inputs: random bytes, and seeds with a few changes. The
//! stream is the same in each run; `ACRN_ROBUSTNESS_SEED` and `ACRN_ROBUSTNESS_COUNT` change it.

use acrn_robustness::{TARGETS, Target};
use std::fmt::Write as _;
use std::panic::catch_unwind;
use std::path::Path;

/// Inputs for each target.
const COUNT: u64 = 20_000;
/// Longest input, in bytes.
const LONGEST: u64 = 600;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 32) as u8
    }

    /// Short inputs more often than long ones.
    fn bytes(&mut self) -> Vec<u8> {
        let longest = 1 + self.next() % LONGEST;
        let length = self.below(longest as usize);
        (0..length).map(|_| self.byte()).collect()
    }

    fn changed(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..self.below(8) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), self.byte()),
                2 => bytes.extend(self.bytes()),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        let edges = [0, 1, 0x7f, 0x80, 0xff, self.byte()];
                        *byte = edges[self.below(edges.len())];
                    }
                }
            }
        }
        bytes
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn try_all(target: &Target) {
    let seeds = (target.seeds)();
    let mut random = Random(setting("ACRN_ROBUSTNESS_SEED", 0x0123_4567_89ab_cdef).max(1));
    for number in 0..setting("ACRN_ROBUSTNESS_COUNT", COUNT) {
        let input = match seeds.len() {
            count if count > 0 && number % 3 != 0 => {
                let which = random.below(count);
                random.changed(&seeds[which])
            }
            _ => random.bytes(),
        };
        if catch_unwind(|| (target.run)(&input)).is_err() {
            let hex = input.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            panic!("{}: input {number} is {hex}", target.name);
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name);
                try_all(acrn_robustness::target(name).expect("a target of that name"));
            }
        )*

        #[test]
        fn every_target_is_tried_here_and_has_a_fuzz_target() {
            let tried = [$(stringify!($name)),*];
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
            let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
            for target in TARGETS {
                let name = target.name;
                assert!(tried.contains(&name), "{name} is not tried");
                let file = format!("fuzz_targets/{name}.rs");
                assert!(fuzz.join(&file).exists(), "{file} is missing");
                assert!(manifest.contains(&format!("\"{file}\"")), "{file} is not in the manifest");
            }
            assert_eq!(tried.len(), TARGETS.len());
        }
    };
}

targets! {
    decoder paging task multiboot bzimage elf cmdline acpi hypercalls pci lapic ioapic pic uart memory serial_line
    virtual_function schedule shell config scenario board definition manager_json launch_script life_cycle
    aml board_facts
    trace_file trace_ring
}

#[test]
fn seeds_as_they_are_hold() {
    for target in TARGETS {
        (target.seeds)().iter().for_each(|seed| (target.run)(seed));
    }
}
