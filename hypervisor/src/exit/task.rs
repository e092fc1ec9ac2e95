//! Task switches of guests that do not run in long mode, where the processor does not make them.

use super::fetch::Tables;
use super::{Next, inject, page_fault};
use crate::lifecycle;
use crate::vcpu::{Local, Vcpu};
use crate::virt::Exit;
use acrn_abi::Gpa;
use acrn_emulate::task::{self, Fault, GuestMemory, NoMemory};

impl GuestMemory for Tables<'_> {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> bool {
        self.0.read(gpa, buffer)
    }
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        self.0.write(gpa, bytes)
    }
}

/// Switches the vCPU to another task, or gives the guest the fault that it meets.
#[cold]
pub fn handle(vcpu: &'static Vcpu, local: &mut Local) -> Next {
    let Some((request, mut state)) = local.virt.task_switch(&local.registers) else {
        return lifecycle::fatal(
            vcpu,
            local,
            "a task switch that none asked for",
            Exit::TaskSwitch,
        );
    };
    let vm = vcpu.vm();
    let outcome = match task::switch(&mut state, &request, &Tables(vm)) {
        Ok(outcome) => outcome,
        Err(NoMemory(_)) => {
            let reason = "task or descriptor table where the VM has no memory";
            return lifecycle::fatal(vcpu, local, reason, Exit::TaskSwitch);
        }
    };
    if outcome.switched {
        let memory = |gpa| vm.read_word(gpa);
        local.virt.set_task(&mut local.registers, &state, memory);
    }
    match outcome.next {
        task::Next::Run => Next::Continue,
        task::Next::Raise(fault) => raise(local, fault),
        task::Next::Shutdown => lifecycle::triple_fault(vcpu, local),
    }
}

fn raise(local: &mut Local, fault: Fault) -> Next {
    match fault.address {
        Some(address) => page_fault(local, address, fault.error_code.unwrap_or(0)),
        None => inject(local, fault.vector, fault.error_code),
    }
}
