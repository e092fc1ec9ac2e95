//! Life of a virtual CPU.
//!
//! ```text
//!            create         launch (BSP) or SIPI
//!  Offline ----------> Init --------------------> Running
//!     ^                 ^ |                        |   |
//!     |           reset | | zombie          zombie |   | INIT
//!     |                 | v                        v   '--> Init
//!     '---- offline -- Zombie <--------------------'
//! ```
//!
//! `Init` is the wait-for-SIPI state of a real processor (Intel SDM 3A, 9.4): the first SIPI starts
//! the vCPU, one that arrives at a running vCPU is ignored, as on hardware. INIT takes a vCPU
//! back to `Init` from `Running`, and from `Init` to `Init`. A bootstrap processor that receives
//! INIT resets likewise, which is what [`VcpuRequest::Init`] means here for every vCPU.

use core::fmt;

/// State of a vCPU. The numbers are ACRN's `enum vcpu_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VcpuState {
    /// Does not exist.
    #[default]
    Offline = 0,
    /// Has its reset state and waits to be started.
    Init = 1,
    /// May run guest code.
    Running = 2,
    /// Stopped; its state is kept.
    Zombie = 3,
}

impl VcpuState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Offline, Self::Init, Self::Running, Self::Zombie];

    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Init => "init",
            Self::Running => "running",
            Self::Zombie => "zombie",
        }
    }
}

impl fmt::Display for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VcpuRequest {
    /// It comes into being.
    Create,
    /// The hypervisor starts it: the bootstrap processor when the VM starts.
    Launch,
    /// It receives an INIT.
    Init,
    /// It receives a start-up IPI.
    Sipi,
    /// It is stopped: pause of the VM, or a fault.
    Stop,
    /// It goes on after a stop, with the state that it had.
    Resume,
    /// It gets its reset state again: reset of the VM.
    Reset,
    /// It ceases to be.
    Offline,
}

impl VcpuRequest {
    /// Every request.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Launch,
        Self::Init,
        Self::Sipi,
        Self::Stop,
        Self::Resume,
        Self::Reset,
        Self::Offline,
    ];
}

/// A request that was not followed; the vCPU is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuRefused {
    /// State of the vCPU.
    pub state: VcpuState,
    /// What was asked.
    pub request: VcpuRequest,
}

impl fmt::Display for VcpuRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} refused: the vCPU is {}", self.request, self.state)
    }
}

impl core::error::Error for VcpuRefused {}

impl VcpuState {
    /// The state that follows `request`.
    ///
    /// `started` says whether the vCPU was `Running` when it was stopped; it only matters for
    /// `Resume`, which takes an application processor that waited for its SIPI back to waiting.
    ///
    /// # Errors
    /// [`VcpuRefused`] with the state and the request.
    pub const fn on(self, request: VcpuRequest, started: bool) -> Result<VcpuState, VcpuRefused> {
        use VcpuRequest as R;
        Ok(match (self, request) {
            (Self::Offline, R::Create) => Self::Init,
            (Self::Init, R::Launch | R::Sipi) => Self::Running,
            (Self::Running, R::Sipi) => Self::Running,
            (Self::Init | Self::Running, R::Init) => Self::Init,
            (Self::Init | Self::Running | Self::Zombie, R::Stop) => Self::Zombie,
            (Self::Zombie, R::Resume) if started => Self::Running,
            (Self::Zombie, R::Resume) => Self::Init,
            (Self::Init | Self::Zombie, R::Reset) => Self::Init,
            (Self::Init | Self::Zombie, R::Offline) => Self::Offline,
            _ => {
                return Err(VcpuRefused {
                    state: self,
                    request,
                });
            }
        })
    }

    /// Whether the vCPU may be put on a CPU.
    pub const fn may_run(self) -> bool {
        matches!(self, Self::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use VcpuRequest as R;
    use VcpuState as S;

    const ALLOWED: [(S, R, S); 14] = [
        (S::Offline, R::Create, S::Init),
        (S::Init, R::Launch, S::Running),
        (S::Init, R::Sipi, S::Running),
        (S::Init, R::Init, S::Init),
        (S::Init, R::Stop, S::Zombie),
        (S::Init, R::Reset, S::Init),
        (S::Init, R::Offline, S::Offline),
        (S::Running, R::Sipi, S::Running),
        (S::Running, R::Init, S::Init),
        (S::Running, R::Stop, S::Zombie),
        (S::Zombie, R::Stop, S::Zombie),
        (S::Zombie, R::Resume, S::Running),
        (S::Zombie, R::Reset, S::Init),
        (S::Zombie, R::Offline, S::Offline),
    ];

    #[test]
    fn every_state_answers_every_request_as_the_table_says() {
        for state in S::ALL {
            for request in R::ALL {
                let next = ALLOWED
                    .iter()
                    .find(|row| (row.0, row.1) == (state, request));
                let expected = next.map(|row| row.2).ok_or(VcpuRefused { state, request });
                assert_eq!(state.on(request, true), expected);
            }
        }
    }

    #[test]
    fn a_vcpu_that_waited_for_sipi_waits_again_after_resume() {
        assert_eq!(S::Zombie.on(R::Resume, false), Ok(S::Init));
        for state in [S::Offline, S::Init, S::Running] {
            assert_eq!(
                state.on(R::Resume, false),
                Err(VcpuRefused {
                    state,
                    request: R::Resume
                })
            );
        }
    }

    #[test]
    fn a_second_sipi_is_ignored_and_init_needs_a_new_one() {
        let running = S::Init.on(R::Sipi, false).unwrap();
        assert_eq!(running.on(R::Sipi, true), Ok(S::Running));
        let init = running.on(R::Init, true).unwrap();
        assert!(!init.may_run() && init.on(R::Sipi, false).unwrap().may_run());
    }

    #[test]
    fn a_refusal_names_the_state() {
        let refused = S::Offline.on(R::Launch, false).unwrap_err();
        assert_eq!(refused.to_string(), "Launch refused: the vCPU is offline");
    }

    proptest! {
        #[test]
        fn every_state_has_a_way_out(requests in prop::collection::vec(0usize..8, 0..20)) {
            let mut state = S::Offline;
            for index in requests {
                state = state.on(R::ALL[index], true).unwrap_or(state);
            }
            if state != S::Offline {
                let zombie = state.on(R::Stop, true).unwrap();
                state = zombie.on(R::Offline, true).unwrap();
            }
            let init = state.on(R::Create, false).unwrap();
            prop_assert_eq!(init.on(R::Launch, false), Ok(S::Running));
        }
    }
}
