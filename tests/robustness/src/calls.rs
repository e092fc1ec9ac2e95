//! Hypercalls: their registers, and the blocks that these point to.

use crate::Source;
use acrn_abi::hypercall::{HypercallId, MemoryRegion, VcpuRegs, Vdev, VmCreation};
use acrn_lifecycle::validate::{Call, Creation, Emulated, Limits, Region, Start};
use zerocopy::{FromBytes, IntoBytes};

/// A block of the input's bytes, zeros behind.
fn block<T: FromBytes + IntoBytes>(source: &mut Source<'_>) -> T {
    let mut block = T::new_zeroed();
    let bytes = source.bytes(size_of::<T>());
    block.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    block
}

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let id = match source.u8() % 4 {
        0 => source.u64(),
        _ => u64::from(HypercallId::PREFIX | u32::from(source.u8())),
    };
    if let Err(bad) = Call::decode(id, source.value(), source.value()) {
        assert!(bad.errno().to_register() as i64 <= 0, "{bad}");
    }
    match source.u8() % 5 {
        0 => {
            let present = usize::from(source.u8() % 65);
            if let Ok(creation) = Creation::new(&block::<VmCreation>(&mut source), present) {
                assert!(creation.cpus().all(|cpu| cpu.index() < present));
                assert!(creation.vcpus() > 0);
            }
        }
        1 => regions(&mut source),
        2 => {
            let limits = Limits {
                physical_bits: 32 + u32::from(source.u8() % 21),
                cr4: source.u64(),
            };
            let _ = Start::new(&block::<VcpuRegs>(&mut source).regs, &limits);
        }
        3 => {
            let _ = Emulated::new(&block::<Vdev>(&mut source));
        }
        // Almost a state to start with, which random bytes never are.
        _ => {
            let mut regs = VcpuRegs::default().regs;
            regs.cr0 = 0x11;
            regs.cs_ar = 0xc09b;
            regs.cs_limit = u32::MAX;
            regs.rip = source.value();
            regs.cr3 = source.value();
            regs.cr4 = source.value();
            regs.cr0 ^= source.value();
            regs.ia32_efer = source.value();
            regs.cs_ar ^= u32::from(source.u8());
            let limits = Limits {
                physical_bits: 40,
                cr4: 0x7ff,
            };
            let _ = Start::new(&regs, &limits);
        }
    }
}

/// What is accepted is whole pages, and joining neither loses nor makes any.
fn regions(source: &mut Source<'_>) {
    let mut last: Option<Region> = None;
    let mut next = 0u64;
    while !source.is_empty() {
        let mut block: MemoryRegion = block(source);
        if block.operation % 3 != 0 {
            // A neighbour of the one before, as Linux sends them.
            block.operation %= 2;
            block.attributes = 0x47;
            block.user_vm_pa = next;
            block.service_vm_pa = next.wrapping_add(0x100_0000);
            block.size = 4096;
        }
        let Ok(region) = Region::new(&block) else {
            continue;
        };
        assert!(region.size > 0 && (region.gpa.0 | region.size) % 4096 == 0);
        let end = region.gpa.0.checked_add(region.size);
        next = end.expect("an accepted range does not overflow");
        if let Some(mut run) = last {
            let before = run.size;
            if run.join(&region) {
                assert_eq!(run.size, before + region.size);
            } else {
                assert_eq!(run.size, before);
            }
        }
        last = Some(region);
    }
}
