//! Life of a VM.
//!
//! ```text
//!               create                start
//!  PoweredOff ----------> Created ---------------> Running <---.
//!      ^                   |  ^ '--- power off (RT) --. |  |     | start,
//!      |             pause |  | reset                 v v  |     | resume
//!      |                   v  |          pause   ReadyToPowerOff |
//!      '---- destroy --- Paused <----------------------'   |     |
//!                          ^  '----------------------------+-----'
//!                          '-------------- pause ----------'
//! ```
//!
//! Requests come from a [`Caller`]. The Service VM, which speaks for the Device Model, may only
//! disturb a running VM whose [`Severity`] is not above its own: a real-time VM cannot be paused
//! from outside, it has to say itself that it is ready ([`VmRequest::GuestPowerOff`]).
//! [`VmRequest::Destroy`] is accepted in `Created` and `ReadyToPowerOff` too, where no vCPU runs
//! guest code that somebody could miss; the caller stops the vCPUs as a pause would do.

use core::fmt;

/// State of a VM. The numbers are ACRN's `enum vm_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VmState {
    /// The slot is free or its VM is gone.
    #[default]
    PoweredOff = 0,
    /// Set up, no vCPU has run since creation or reset.
    Created = 1,
    /// vCPUs run guest code.
    Running = 2,
    /// A real-time guest has asked to be powered off and waits for the Device Model.
    ReadyToPowerOff = 3,
    /// vCPUs are stopped; their state is kept.
    Paused = 4,
}

impl VmState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::PoweredOff,
        Self::Created,
        Self::Running,
        Self::ReadyToPowerOff,
        Self::Paused,
    ];

    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PoweredOff => "powered off",
            Self::Created => "created",
            Self::Running => "running",
            Self::ReadyToPowerOff => "ready to power off",
            Self::Paused => "paused",
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is asked of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VmRequest {
    /// Take the slot (HC_CREATE_VM, or boot).
    Create,
    /// Run (HC_START_VM). From `Created` the bootstrap processor starts, from `Paused` every vCPU
    /// goes on where it stopped.
    Start,
    /// Stop the vCPUs and keep their state (HC_PAUSE_VM).
    Pause,
    /// Go on after a pause.
    Resume,
    /// Back to the state after creation (HC_RESET_VM).
    Reset,
    /// Give everything back (HC_DESTROY_VM).
    Destroy,
    /// The guest wrote "soft off" to its power-management register, or reset itself.
    GuestPowerOff,
    /// The guest cannot go on: triple fault, or an exit that cannot be handled.
    Fatal,
}

impl VmRequest {
    /// Every request.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Start,
        Self::Pause,
        Self::Resume,
        Self::Reset,
        Self::Destroy,
        Self::GuestPowerOff,
        Self::Fatal,
    ];

    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Destroy => "destroy",
            Self::GuestPowerOff => "power off",
            Self::Fatal => "stop after a fault",
        }
    }
}

/// Weight of a VM when others want to disturb it: higher may disturb lower and equal. The
/// numbers are ACRN's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Severity(pub u8);

impl Severity {
    /// Standard VMs, pre- or post-launched.
    pub const STANDARD: Self = Self(0x10);
    /// The Service VM.
    pub const SERVICE: Self = Self(0x20);
    /// Real-time VMs.
    pub const REAL_TIME: Self = Self(0x30);
    /// Safety VMs.
    pub const SAFETY: Self = Self(0x40);
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The hypervisor itself: boot, shutdown of the machine, the debug shell.
    Hypervisor,
    /// The Service VM, for the Device Model.
    ServiceVm,
    /// The VM itself.
    Guest,
}

/// What the rules have to know of the VM besides its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The VM's severity.
    pub severity: Severity,
    /// Whether the VM is real-time: its power-off has two halves.
    pub real_time: bool,
    /// Whether the hypervisor launched the VM at boot; the Service VM has no say then.
    pub pre_launched: bool,
    /// Whether what it needs to start is in place: for post-launched VMs the I/O request page.
    pub ready_to_start: bool,
}

impl Standing {
    /// Whether `caller` may reach into the VM while it runs: interrupt it, change its memory. As for a pause,
    /// the Service VM may not where the VM outranks it. It may answer what the VM has asked.
    ///
    /// # Errors
    /// [`Reason::Caller`] for a VM that is not the caller's, [`Reason::Severity`] for one above it.
    pub fn may_reach(self, caller: Caller) -> Result<(), Reason> {
        if caller != Caller::ServiceVm {
            return Ok(());
        }
        match self {
            Self {
                pre_launched: true, ..
            } => Err(Reason::Caller),
            vm if vm.severity > Severity::SERVICE => Err(Reason::Severity),
            _ => Ok(()),
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The state does not know this request.
    State,
    /// The VM is more important than who asks.
    Severity,
    /// This caller may not ask this.
    Caller,
    /// The VM has no I/O request page yet.
    NotReady,
}

/// A request that was not followed; the VM is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// State of the VM.
    pub state: VmState,
    /// What was asked.
    pub request: VmRequest,
    /// Why not.
    pub reason: Reason,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (request, state) = (self.request.name(), self.state);
        match self.reason {
            Reason::State => write!(f, "cannot {request}: the VM is {state}"),
            Reason::Severity => {
                write!(
                    f,
                    "cannot {request}: the VM is {state} and outranks the Service VM"
                )
            }
            Reason::Caller => write!(f, "cannot {request} the {state} VM: not the caller's right"),
            Reason::NotReady => write!(f, "cannot {request}: the VM has no I/O request page"),
        }
    }
}

impl core::error::Error for Refused {}

impl VmState {
    /// The state that follows when `caller` asks `request` of a VM in this state.
    ///
    /// Pausing a paused VM succeeds and changes nothing: HC_PAUSE_VM is allowed in every state but
    /// powered off. A guest that powers itself off and is not real-time stays as it is: its Device
    /// Model, which sees the same register write, pauses and destroys it.
    ///
    /// # Errors
    /// [`Refused`] with the state, the request and the reason.
    pub fn on(self, request: VmRequest, caller: Caller, vm: Standing) -> Result<VmState, Refused> {
        let refuse = |reason| {
            Err(Refused {
                state: self,
                request,
                reason,
            })
        };
        if !may_ask(caller, request, vm) {
            return refuse(Reason::Caller);
        }
        let Some(next) = self.next(request, vm.real_time) else {
            return refuse(Reason::State);
        };
        let disturbs = self == Self::Running && request == VmRequest::Pause;
        if disturbs && caller == Caller::ServiceVm && vm.severity > Severity::SERVICE {
            return refuse(Reason::Severity);
        }
        if self == Self::Created && next == Self::Running && !vm.ready_to_start {
            return refuse(Reason::NotReady);
        }
        Ok(next)
    }

    /// The table of the module head.
    const fn next(self, request: VmRequest, real_time: bool) -> Option<VmState> {
        use VmRequest as R;
        Some(match (self, request) {
            (Self::PoweredOff, R::Create) => Self::Created,
            (Self::PoweredOff, _) => return None,

            (Self::Created | Self::Paused, R::Start) => Self::Running,
            (Self::Paused, R::Resume) => Self::Running,

            (_, R::Pause) => Self::Paused,
            (Self::Created | Self::Running, R::Fatal) => Self::Paused,
            (Self::Paused, R::Reset) => Self::Created,
            (Self::Paused | Self::Created | Self::ReadyToPowerOff, R::Destroy) => Self::PoweredOff,

            (Self::Created | Self::Running, R::GuestPowerOff) if real_time => Self::ReadyToPowerOff,
            (Self::Running, R::GuestPowerOff) => Self::Running,
            _ => return None,
        })
    }
}

/// Who may ask what at all, whatever the state.
fn may_ask(caller: Caller, request: VmRequest, vm: Standing) -> bool {
    let of_the_guest = matches!(request, VmRequest::GuestPowerOff | VmRequest::Fatal);
    match caller {
        Caller::Hypervisor => true,
        Caller::ServiceVm => !of_the_guest && !vm.pre_launched,
        Caller::Guest => of_the_guest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POST_STANDARD: Standing = Standing {
        severity: Severity::STANDARD,
        real_time: false,
        pre_launched: false,
        ready_to_start: true,
    };
    const POST_RT: Standing = Standing {
        severity: Severity::REAL_TIME,
        real_time: true,
        ..POST_STANDARD
    };

    /// The whole table for a caller that may ask everything and a standard VM.
    const ALLOWED: [(VmState, VmRequest, VmState); 14] = [
        (VmState::PoweredOff, VmRequest::Create, VmState::Created),
        (VmState::Created, VmRequest::Start, VmState::Running),
        (VmState::Created, VmRequest::Pause, VmState::Paused),
        (VmState::Created, VmRequest::Destroy, VmState::PoweredOff),
        (VmState::Created, VmRequest::Fatal, VmState::Paused),
        (VmState::Running, VmRequest::Pause, VmState::Paused),
        (VmState::Running, VmRequest::GuestPowerOff, VmState::Running),
        (VmState::Running, VmRequest::Fatal, VmState::Paused),
        (VmState::ReadyToPowerOff, VmRequest::Pause, VmState::Paused),
        (
            VmState::ReadyToPowerOff,
            VmRequest::Destroy,
            VmState::PoweredOff,
        ),
        (VmState::Paused, VmRequest::Start, VmState::Running),
        (VmState::Paused, VmRequest::Resume, VmState::Running),
        (VmState::Paused, VmRequest::Reset, VmState::Created),
        (VmState::Paused, VmRequest::Destroy, VmState::PoweredOff),
    ];

    fn expected(state: VmState, request: VmRequest) -> Option<VmState> {
        if (state, request) == (VmState::Paused, VmRequest::Pause) {
            return Some(VmState::Paused);
        }
        ALLOWED
            .iter()
            .find(|row| (row.0, row.1) == (state, request))
            .map(|row| row.2)
    }

    #[test]
    fn every_state_answers_every_request_as_the_table_says() {
        for state in VmState::ALL {
            for request in VmRequest::ALL {
                let answer = state.on(request, Caller::Hypervisor, POST_STANDARD);
                let refused = Refused {
                    state,
                    request,
                    reason: Reason::State,
                };
                assert_eq!(
                    answer,
                    expected(state, request).ok_or(refused),
                    "{state} {request:?}"
                );
            }
        }
    }

    #[test]
    fn the_service_vm_may_do_the_same_except_speak_for_the_guest() {
        for state in VmState::ALL {
            for request in VmRequest::ALL {
                let answer = state.on(request, Caller::ServiceVm, POST_STANDARD);
                if matches!(request, VmRequest::GuestPowerOff | VmRequest::Fatal) {
                    assert_eq!(answer.unwrap_err().reason, Reason::Caller);
                } else {
                    assert_eq!(answer, state.on(request, Caller::Hypervisor, POST_STANDARD));
                }
            }
        }
    }

    #[test]
    fn the_service_vm_has_no_say_over_pre_launched_vms() {
        let vm = Standing {
            pre_launched: true,
            ..POST_STANDARD
        };
        for state in VmState::ALL {
            for request in VmRequest::ALL {
                let reason = state.on(request, Caller::ServiceVm, vm).unwrap_err().reason;
                assert_eq!(reason, Reason::Caller);
            }
        }
    }

    #[test]
    fn a_guest_may_only_end_itself() {
        for state in VmState::ALL {
            for request in VmRequest::ALL {
                let answer = state.on(request, Caller::Guest, POST_STANDARD);
                match request {
                    VmRequest::GuestPowerOff | VmRequest::Fatal => {
                        assert_eq!(answer.ok(), expected(state, request));
                    }
                    _ => assert_eq!(answer.unwrap_err().reason, Reason::Caller),
                }
            }
        }
    }

    #[test]
    fn a_running_real_time_vm_cannot_be_paused_by_the_service_vm() {
        let pause = |state: VmState, caller| state.on(VmRequest::Pause, caller, POST_RT);
        let refused = pause(VmState::Running, Caller::ServiceVm).unwrap_err();
        assert_eq!(refused.reason, Reason::Severity);
        assert_eq!(
            pause(VmState::Running, Caller::Hypervisor),
            Ok(VmState::Paused)
        );
        for state in [VmState::Created, VmState::ReadyToPowerOff, VmState::Paused] {
            assert_eq!(pause(state, Caller::ServiceVm), Ok(VmState::Paused));
        }
    }

    #[test]
    fn the_service_vm_reaches_into_vms_that_it_may_pause_and_into_no_other() {
        let pre_launched = Standing {
            pre_launched: true,
            ..POST_STANDARD
        };
        for vm in [POST_STANDARD, POST_RT, pre_launched] {
            for caller in [Caller::Hypervisor, Caller::ServiceVm] {
                let paused = VmState::Running.on(VmRequest::Pause, caller, vm);
                let reached = vm.may_reach(caller);
                assert_eq!(reached.err(), paused.err().map(|refused| refused.reason));
            }
            assert_eq!(vm.may_reach(Caller::Guest), Ok(()));
        }
    }

    #[test]
    fn a_real_time_guest_announces_its_power_off() {
        let off = |state: VmState| {
            state
                .on(VmRequest::GuestPowerOff, Caller::Guest, POST_RT)
                .ok()
        };
        assert_eq!(off(VmState::Running), Some(VmState::ReadyToPowerOff));
        assert_eq!(off(VmState::Created), Some(VmState::ReadyToPowerOff));
        assert_eq!(off(VmState::Paused), None);
        assert_eq!(off(VmState::PoweredOff), None);
        assert_eq!(off(VmState::ReadyToPowerOff), None);
    }

    #[test]
    fn a_vm_without_an_io_request_page_does_not_start() {
        let vm = Standing {
            ready_to_start: false,
            ..POST_STANDARD
        };
        let refused = VmState::Created
            .on(VmRequest::Start, Caller::ServiceVm, vm)
            .unwrap_err();
        assert_eq!(refused.reason, Reason::NotReady);
        assert_eq!(
            refused.to_string(),
            "cannot start: the VM has no I/O request page"
        );
    }

    #[test]
    fn a_refusal_names_the_state() {
        let refused = VmState::Running
            .on(VmRequest::Reset, Caller::ServiceVm, POST_STANDARD)
            .unwrap_err();
        assert_eq!(refused.to_string(), "cannot reset: the VM is running");
    }

    fn standing() -> impl Strategy<Value = Standing> {
        (0u8..0x50, any::<bool>(), any::<bool>()).prop_map(|(severity, real_time, pre_launched)| {
            let severity = Severity(severity);
            Standing {
                severity,
                real_time,
                pre_launched,
                ready_to_start: true,
            }
        })
    }

    proptest! {
        #[test]
        fn every_state_has_a_way_to_powered_off_and_to_running(
            requests in prop::collection::vec(0usize..8, 0..20),
            vm in standing(),
        ) {
            let mut state = VmState::PoweredOff;
            for index in requests {
                state = state.on(VmRequest::ALL[index], Caller::Hypervisor, vm).unwrap_or(state);
            }
            let ask = |state: VmState, request| state.on(request, Caller::Hypervisor, vm);
            let mut off = state;
            if off == VmState::Running {
                off = ask(off, VmRequest::Pause).unwrap();
            }
            if off != VmState::PoweredOff {
                off = ask(off, VmRequest::Destroy).unwrap();
            }
            let created = ask(off, VmRequest::Create).unwrap();
            prop_assert_eq!(ask(created, VmRequest::Start), Ok(VmState::Running));
        }
    }
}
