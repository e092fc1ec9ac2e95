//! The life-cycle manager in Service VM and User VM: whoever ends the machine, guests end first.

use anyhow::{Result, ensure};

use super::support::{BOOT, COMMAND, POWER_OFF, machine, service_vm};
use super::{Context, Outcome};
use crate::demo::Options;
use crate::session::Session;

const NAME: &str = "POST_STD_VM1";
const REQUEST: &str = "life_mngr request --socket";
const IN_SERVICE_VM: &str = "/run/acrn/life_mngr.sock";
const IN_USER_VM: &str = "/run/life_mngr/monitor.sock";
const ENDS: &str = "reboot: Power down";

/// The User VM asks, and all ends.
pub(super) fn requested_by_guest(context: &Context) -> Result<Outcome> {
    let mut session = with_guest(context, "asked")?;
    session.to_service()?;
    let gone =
        format!("{REQUEST} {IN_SERVICE_VM} user_vm_shutdown:nobody 2>&1 | grep user_vm_disconnect");
    session.check(&gone, COMMAND)?;
    session.to_user_shell(1)?;
    let ask = format!("{REQUEST} {IN_USER_VM} req_sys_shutdown");
    session.vm.console.send_line(&ask)?;
    session.expect(ENDS, POWER_OFF)?;
    session.vm.wait_for_end(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// An ordinary `poweroff` of the Service VM.
pub(super) fn guests_first(context: &Context) -> Result<Outcome> {
    let mut session = with_guest(context, "poweroff")?;
    // Only the life-cycle manager ends it: it does not listen to its power button.
    session.to_user_shell(1)?;
    session.check("rm /etc/acpi/PWRF/00000080", COMMAND)?;
    session.to_service()?;
    session.power_off(POWER_OFF)?;
    ensure!(
        session
            .vm
            .console
            .transcript()
            .contains("ack_guests_shutdown"),
        "the User VM was not shut down by the life-cycle manager"
    );
    Ok(Outcome::Passed)
}

/// A machine whose User VM 1 is connected, with somebody logged in there.
fn with_guest(context: &Context, name: &str) -> Result<Session> {
    let machine = machine(context, &Options::default())?;
    let mut session = service_vm(context, &machine, name)?;
    session.check(&format!("acrnctl start {NAME}"), COMMAND)?;
    session.to_user_login(1, BOOT)?;
    session.log_in(1)?;
    session.to_service()?;
    let connected = "for _ in $(seq 60); do grep 'user-vm1 is connected' /var/log/life_mngr.log && break; \
                     sleep 0.5; done; grep -q connected /var/log/life_mngr.log";
    session.check(connected, COMMAND)?;
    Ok(session)
}
