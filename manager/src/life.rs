//! The life of one VM, as the manager sees it.
//!
//! Requests, ends of the process and the passing of time go in; what to do comes out as
//! [`Action`]s. The clock is an argument, so tests have their own.
//!
//! ```text
//! stopped, failed --start--> running --stop--> stopping --exit--> stopped
//!                            running --exit--> stopped, failed or waiting
//!                            waiting --time--> running
//! ```

use std::time::Duration;

use crate::definition::{Definition, Restart};

/// A point in time, since any fixed one.
pub type Time = Duration;

/// A VM that has run so long is taken to work: its next restart waits the shortest time again.
pub const STEADY: Duration = Duration::from_secs(60);
/// How long each step of force may take.
pub const FORCE: Duration = Duration::from_secs(5);

/// What the VM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Stopped,
    /// Its process runs.
    Running {
        /// Since when.
        since: Time,
    },
    /// It was asked to end.
    Stopping {
        /// When the next step of force is due.
        until: Time,
        /// How it was asked last.
        by: Means,
    },
    /// It has ended and will be started again.
    Waiting {
        /// When.
        until: Time,
    },
    /// It has ended with an error and stays so.
    Failed,
}

/// How a VM is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Its power button.
    PowerButton,
    /// Its Device Model is told to end at once.
    Destroy,
    /// Its processes are killed.
    Kill,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start its process.
    Spawn,
    /// Make it end.
    End(Means),
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status; 128 and the number for a signal.
    Code(i32),
    /// Nobody has seen it.
    Unknown,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A start of what runs.
    #[error("it runs already")]
    Runs,
    /// A start before it has stopped.
    #[error("it is stopping: wait, or stop it with force")]
    Stops,
    /// Something that only a running VM can do.
    #[error("it does not run: start it first")]
    DoesNotRun,
}

/// The life of one VM.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    failures: u32,
    restarts: u32,
    exit: Option<Exit>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            state: State::Stopped,
            failures: 0,
            restarts: 0,
            exit: None,
        }
    }
}

impl Life {
    /// What it does.
    pub fn state(&self) -> State {
        self.state
    }

    /// How often it was started again since somebody has started it.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// How it has ended last.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Whether it has a process.
    pub fn has_process(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Stopping { .. })
    }

    /// Whether it runs, or is to.
    pub fn is_wanted(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Waiting { .. })
    }

    /// When [`Self::tick`] is due.
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Stopping { until, .. } | State::Waiting { until } => Some(until),
            State::Stopped | State::Running { .. } | State::Failed => None,
        }
    }

    /// Somebody wants it to run.
    ///
    /// # Errors
    /// It has a process.
    pub fn start(&mut self, now: Time) -> Result<Action, Refusal> {
        match self.state {
            State::Running { .. } => Err(Refusal::Runs),
            State::Stopping { .. } => Err(Refusal::Stops),
            State::Stopped | State::Failed | State::Waiting { .. } => {
                (self.failures, self.restarts) = (0, 0);
                self.state = State::Running { since: now };
                Ok(Action::Spawn)
            }
        }
    }

    /// A process of an earlier daemon is taken over.
    pub fn adopt(&mut self, now: Time) {
        self.state = State::Running { since: now };
    }

    /// Somebody wants it to end.
    ///
    /// # Errors
    /// It has ended.
    pub fn stop(
        &mut self,
        now: Time,
        force: bool,
        plan: &Definition,
    ) -> Result<Option<Action>, Refusal> {
        match self.state {
            State::Stopped | State::Failed => Err(Refusal::DoesNotRun),
            State::Waiting { .. } => {
                self.state = State::Stopped;
                Ok(None)
            }
            State::Running { .. } if !force => {
                Ok(Some(self.end(now + plan.stop_limit(), Means::PowerButton)))
            }
            State::Running { .. }
            | State::Stopping {
                by: Means::PowerButton,
                ..
            } if force => Ok(Some(self.end(now + FORCE, Means::Destroy))),
            State::Running { .. } | State::Stopping { .. } => Ok(None),
        }
    }

    fn end(&mut self, until: Time, by: Means) -> Action {
        self.state = State::Stopping { until, by };
        Action::End(by)
    }

    /// Its process has ended, or could not be started.
    pub fn exited(&mut self, now: Time, exit: Exit, plan: &Definition) {
        self.exit = Some(exit);
        let State::Running { since } = self.state else {
            self.state = State::Stopped;
            return;
        };
        if now.saturating_sub(since) >= STEADY {
            self.failures = 0;
        }
        let good = exit == Exit::Code(0);
        let again = match plan.restart {
            Restart::Never => false,
            Restart::OnFailure => !good,
            Restart::Always => true,
        };
        self.state = if again {
            let until = now + plan.delay(self.failures);
            self.failures = self.failures.saturating_add(1);
            State::Waiting { until }
        } else if good {
            State::Stopped
        } else {
            State::Failed
        };
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) -> Option<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.state {
            State::Waiting { .. } => {
                self.restarts = self.restarts.saturating_add(1);
                self.state = State::Running { since: now };
                Some(Action::Spawn)
            }
            State::Stopping {
                by: Means::PowerButton,
                ..
            } => Some(self.end(now + FORCE, Means::Destroy)),
            State::Stopping { .. } => Some(self.end(now + FORCE, Means::Kill)),
            State::Stopped | State::Running { .. } | State::Failed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(restart: &str) -> Definition {
        let text = format!("restart = '{restart}'\nstop_timeout = 20\n[vm]\n");
        Definition::parse(&text).unwrap()
    }

    const fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn running() -> Life {
        let mut life = Life::default();
        assert_eq!(life.start(at(0)), Ok(Action::Spawn));
        life
    }

    #[test]
    fn policies_differ_in_what_an_end_means() {
        for (policy, code, state) in [
            ("never", 0, State::Stopped),
            ("never", 1, State::Failed),
            ("on-failure", 0, State::Stopped),
            ("on-failure", 1, State::Waiting { until: at(3) }),
            ("always", 0, State::Waiting { until: at(3) }),
            ("always", 1, State::Waiting { until: at(3) }),
        ] {
            let mut life = running();
            life.exited(at(2), Exit::Code(code), &plan(policy));
            assert_eq!(life.state(), state, "{policy} {code}");
        }
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_a_steady_run_forgets_them() {
        let plan = plan("always");
        let mut life = running();
        let mut now = 0;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            life.exited(at(now), Exit::Code(1), &plan);
            assert_eq!(life.deadline(), Some(at(now + wait)));
            assert_eq!(life.tick(at(now + wait - 1)), None);
            now += wait;
            assert_eq!(life.tick(at(now)), Some(Action::Spawn));
        }
        assert_eq!(life.restarts(), 8);
        now += STEADY.as_secs();
        life.exited(at(now), Exit::Code(1), &plan);
        assert_eq!(life.deadline(), Some(at(now + 1)));
    }

    #[test]
    fn a_guest_that_ignores_its_button_meets_more_and_more_force() {
        let plan = plan("always");
        let mut life = running();
        let button = Action::End(Means::PowerButton);
        assert_eq!(life.stop(at(1), false, &plan), Ok(Some(button)));
        assert_eq!(life.stop(at(2), false, &plan), Ok(None));
        assert_eq!(life.start(at(2)), Err(Refusal::Stops));
        assert_eq!(life.tick(at(20)), None);
        assert_eq!(life.tick(at(21)), Some(Action::End(Means::Destroy)));
        assert_eq!(life.tick(at(26)), Some(Action::End(Means::Kill)));
        life.exited(at(27), Exit::Code(137), &plan);
        assert_eq!(life.state(), State::Stopped);
    }

    #[test]
    fn force_does_not_wait() {
        let plan = plan("never");
        let mut life = running();
        let destroy = Action::End(Means::Destroy);
        assert_eq!(life.clone().stop(at(1), true, &plan), Ok(Some(destroy)));
        life.stop(at(1), false, &plan).unwrap();
        assert_eq!(life.stop(at(2), true, &plan), Ok(Some(destroy)));
        assert_eq!(life.stop(at(2), true, &plan), Ok(None));
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_restart() {
        let plan = plan("always");
        let mut life = running();
        life.exited(at(1), Exit::Code(1), &plan);
        assert_eq!(life.stop(at(1), false, &plan), Ok(None));
        assert_eq!(life.tick(at(100)), None);
        assert_eq!(life.stop(at(1), false, &plan), Err(Refusal::DoesNotRun));
    }

    proptest! {
        /// Whatever happens in whatever order: what is stopped ends after bounded time, and no
        /// second process is started beside a first.
        #[test]
        fn a_vm_has_one_process_at_most_and_always_stops(
            steps in proptest::collection::vec((0_u8..6, 0_u64..90), 0..60),
        ) {
            let plan = plan("always");
            let mut life = Life::default();
            let (mut now, mut processes) = (at(0), 0);
            for (step, seconds) in steps {
                now += at(seconds);
                let action = match step {
                    0 => life.start(now).ok(),
                    1 => life.stop(now, false, &plan).ok().flatten(),
                    2 => life.stop(now, true, &plan).ok().flatten(),
                    3 | 4 if processes == 1 => {
                        processes = 0;
                        life.exited(now, Exit::Code(i32::from(step) - 3), &plan);
                        None
                    }
                    _ => life.tick(now),
                };
                if action == Some(Action::Spawn) {
                    processes += 1;
                }
                prop_assert!(processes <= 1);
                prop_assert_eq!(processes == 1, life.has_process());
            }
            let _ = life.stop(now, false, &plan);
            for _ in 0..3 {
                now = life.deadline().unwrap_or(now);
                if life.tick(now) == Some(Action::End(Means::Kill)) {
                    life.exited(now, Exit::Code(137), &plan);
                }
            }
            prop_assert!(matches!(life.state(), State::Stopped | State::Failed));
        }
    }
}
