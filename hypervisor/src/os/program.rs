//! Programs without a boot protocol of their own: ELF files, which are entered as multiboot has it, and
//! bytes for an address.

use super::{Error, Os, copy, protected_mode, take, write_text};
use crate::memory::BootMemory;
use crate::virt::gpr;
use crate::vm::Vm;
use acrn_abi::{Gpa, Hpa, PAGE_SIZE};
use acrn_boot::bzimage::Search;
use acrn_boot::elf::Program;
use acrn_boot::handover;
use acrn_memory::{Address, MemoryMap};

/// Loads an ELF program, and sets the boot processor to its entry.
pub fn load_elf<A: Address, const N: usize>(
    vm: &'static Vm,
    os: &Os<'_>,
    map: &MemoryMap<A, N>,
) -> Result<(), Error> {
    let file = os.kernel;
    let program = Program::read(&BootMemory, file.start, file.size()).map_err(Error::Elf)?;
    let mut free = map.clone();
    for segment in &program.segments {
        claim(&mut free, segment.address, segment.size)?;
        let from = Hpa(file.start.get() + segment.offset);
        copy(vm, segment.address, from, segment.filled)?;
        let rest = Gpa(segment.address.0 + segment.filled);
        clear(vm, rest, segment.size - segment.filled)?;
    }
    let ramdisk = match os.ramdisk {
        None => None,
        Some(module) => {
            let at = place(&mut free, module.size(), 1 << 32)?;
            copy(vm, at, module.start, module.size())?;
            Some((at, module.size()))
        }
    };
    let text = place(&mut free, os.cmdline.len() as u64 + 1, 0xa_0000)?;
    let at = place(&mut free, handover::CAPACITY as u64, 0xa_0000)?;
    let info = handover::build(at, text, ramdisk, super::e820(map));
    if !write_text(vm, text, os.cmdline) || !vm.write(at, &info) {
        return Err(Error::Copy);
    }
    say(vm, "ELF program", program.entry.into());
    protected_mode(vm, program.entry.into(), |registers| {
        registers.gpr[gpr::RAX] = handover::MAGIC.into();
        registers.gpr[gpr::RBX] = at.0;
    });
    Ok(())
}

/// Loads bytes, and sets the boot processor to an address.
pub fn load_raw<A: Address, const N: usize>(
    vm: &'static Vm,
    os: &Os<'_>,
    map: &MemoryMap<A, N>,
    address: Gpa,
    entry: Gpa,
) -> Result<(), Error> {
    let file = os.kernel;
    claim(&mut map.clone(), address, file.size())?;
    copy(vm, address, file.start, file.size())?;
    say(vm, "raw program", entry.0);
    protected_mode(vm, entry.0, |_| {});
    Ok(())
}

fn say(vm: &Vm, what: &str, entry: u64) {
    let (name, count) = (vm.name(), vm.vcpu_count());
    info!("{name}: {what}, entry {entry:#x}, {count} vCPUs");
}

/// Takes exactly this piece of a VM's free memory.
fn claim<A: Address, const N: usize>(
    free: &mut MemoryMap<A, N>,
    address: Gpa,
    size: u64,
) -> Result<(), Error> {
    let end = address.0.checked_add(size);
    let exactly = |end| Search {
        size,
        align: 1,
        min: address.0,
        max: end,
        highest: false,
    };
    let found = end.and_then(|end| take(free, exactly(end)));
    found.map(|_| ()).ok_or(Error::NoMemory(address, size))
}

/// Takes any pages below `max`, the highest.
fn place<A: Address, const N: usize>(
    free: &mut MemoryMap<A, N>,
    size: u64,
    max: u64,
) -> Result<Gpa, Error> {
    let search = Search {
        size: size.next_multiple_of(PAGE_SIZE),
        align: PAGE_SIZE,
        min: PAGE_SIZE,
        max,
        highest: true,
    };
    let found = take(free, search);
    found.map(Gpa).ok_or(Error::NoMemory(Gpa(max), size))
}

fn clear(vm: &Vm, start: Gpa, size: u64) -> Result<(), Error> {
    const ZEROS: [u8; 1024] = [0; 1024];
    let mut done = 0;
    while done < size {
        let here = (size - done).min(ZEROS.len() as u64);
        if !vm.write(Gpa(start.0 + done), &ZEROS[..here as usize]) {
            return Err(Error::Copy);
        }
        done += here;
    }
    Ok(())
}
