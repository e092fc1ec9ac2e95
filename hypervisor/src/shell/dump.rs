//! Memory of the host and of VMs, as bytes.

use super::say;
use crate::arch::{boot, cpu};
use crate::console::Out;
use crate::exit::fetch::Tables;
use crate::memory::{BootMemory, OWNERS};
use crate::vm::Vm;
use acrn_abi::physical::PhysicalMemory;
use acrn_abi::{Gva, Hpa, PAGE_SIZE, VcpuId};
use acrn_emulate::paging::{Access, WalkContext};
use acrn_memory::Owner;
use acrn_shell::DumpFrom;
use core::fmt::Write;

/// Bytes in a line.
const ROW: usize = 16;

/// Shows `length` bytes.
pub(super) fn show(from: DumpFrom, length: u32) {
    match from {
        DumpFrom::Host(hpa) => {
            rows(hpa.0, length, "the host", |at, bytes| {
                read_host(Hpa(at), bytes)
            });
        }
        DumpFrom::Guest(id, gpa) => {
            let Some(vm) = super::guests::existing(id) else {
                return;
            };
            rows(gpa.0, length, &vm.name(), |at, bytes| {
                vm.read(acrn_abi::Gpa(at), bytes)
            });
        }
        DumpFrom::Linear(id, gva) => {
            let Some(vm) = super::guests::existing(id) else {
                return;
            };
            if let Some(context) = context(vm) {
                rows(gva.0, length, &vm.name(), |at, bytes| {
                    read_linear(vm, &context, Gva(at), bytes)
                });
            }
        }
    }
}

/// Shows rows until `read` refuses one, which is reported.
fn rows(start: u64, length: u32, whose: &str, read: impl Fn(u64, &mut [u8]) -> bool) {
    let length = u64::from(length);
    let mut done = 0;
    while done < length {
        let mut bytes = [0; ROW];
        let here = (length - done).min(ROW as u64) as usize;
        let at = start.checked_add(done);
        let Some(at) = at.filter(|at| read(*at, &mut bytes[..here])) else {
            say(format_args!(
                "{whose} has no memory at {start:#x} + {done:#x}"
            ));
            return;
        };
        row(at, &bytes[..here]);
        done += here as u64;
    }
}

fn row(at: u64, bytes: &[u8]) {
    let _ = write!(Out, "{at:016x} ");
    for byte in bytes {
        let _ = write!(Out, " {byte:02x}");
    }
    let _ = write!(Out, "{:1$}  ", "", (ROW - bytes.len()) * 3);
    for byte in bytes {
        let shown = byte.is_ascii_graphic() || *byte == b' ';
        let _ = Out.write_char(if shown { char::from(*byte) } else { '.' });
    }
    let _ = Out.write_str("\r\n");
}

/// Reads memory of the host. Not registers of devices, where reading may change something, and not
/// the page below the first stack, which is not mapped.
fn read_host(hpa: Hpa, bytes: &mut [u8]) -> bool {
    let Some(last) = hpa.checked_add(bytes.len() as u64 - 1) else {
        return false;
    };
    let is_memory = |at: Hpa| {
        let owner = OWNERS.lock().as_ref().and_then(|owners| owners.owner(at));
        let is_guard = at.0 & !(PAGE_SIZE - 1) == boot::stack_guard();
        !is_guard && !matches!(owner, None | Some(Owner::None | Owner::Device))
    };
    is_memory(hpa) && is_memory(last) && BootMemory.read(hpa, bytes)
}

/// How vCPU 0 translates its addresses at this moment, with the right to read everything.
fn context(vm: &Vm) -> Option<WalkContext> {
    let state = super::guests::snapshot(vm, VcpuId(0))?;
    Some(WalkContext {
        cr0: state.control.cr0,
        cr3: state.control.cr3,
        cr4: state.control.cr4 & !cpu::cr4::SMAP,
        efer: state.control.efer,
        cpl: 0,
        rflags: state.rflags,
        physical_bits: cpu::physical_address_bits() as u8,
    })
}

fn read_linear(vm: &Vm, context: &WalkContext, gva: Gva, bytes: &mut [u8]) -> bool {
    let mut done = 0;
    while done < bytes.len() {
        let at = Gva(gva.0.wrapping_add(done as u64));
        let Ok(found) = context.translate(&Tables(vm), at, Access::Read) else {
            return false;
        };
        let here = ((PAGE_SIZE - at.page_offset()) as usize).min(bytes.len() - done);
        if !vm.read(found.gpa, &mut bytes[done..done + here]) {
            return false;
        }
        done += here;
    }
    true
}
