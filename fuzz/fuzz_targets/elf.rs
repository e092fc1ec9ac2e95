//! See `elf` in `acrn_robustness::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| acrn_fuzz::run("elf", data));
