//! Suspending to RAM: the guest sleeps, its memory stays, everything else begins anew.

use super::{Refusal, RunError, State, Vm};
use crate::acpi;
use crate::legacy::power::Fixed;
use crate::loader::start;

impl Vm {
    /// Presses the sleep button: the guest decides what that means.
    pub(super) fn press_sleep_button(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Suspended => {}
            State::Paused => return Err(Refusal::Paused),
            State::Running if !self.platform.sleeps => return Err(Refusal::RealTime),
            State::Running => {
                log::info!("{}: sleep button", self.name);
                self.machine.power().happens(Fixed::SleepButton);
            }
        }
        Ok(())
    }

    /// The guest has written S3 to its power management register.
    pub(super) fn suspend(&mut self) -> Result<(), RunError> {
        if self.state != State::Suspended {
            self.halt("pause the VM for its sleep")?;
            self.machine.sleep();
            self.state = State::Suspended;
            log::info!("{} has suspended to RAM", self.name);
        }
        Ok(())
    }

    /// Wakes the guest at its waking vector; without one it begins anew, as a PC does.
    pub(super) fn wake(&mut self) -> Result<(), RunError> {
        if self.state != State::Suspended {
            return Ok(());
        }
        let Some(vector) = acpi::waking_vector(self.memory.ram()) else {
            log::warn!("{} has left no address to wake it at", self.name);
            return self.reset();
        };
        log::info!("{} is woken at {vector:#x}", self.name);
        self.machine.power().wake();
        self.reset_cpus()?;
        self.begin(&start::real_mode(vector))
    }
}
