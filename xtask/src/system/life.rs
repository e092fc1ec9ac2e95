//! The life-cycle manager in Service VM and User VM: whoever ends the machine, guests end first.

use acrn_config::presets;
use anyhow::{Context as _, Result, ensure};

use super::support::{BOOT, COMMAND, POWER_OFF, machine, service_vm};
use super::{Context, Outcome};
use crate::demo::{self, Options};
use crate::machine::Boot;
use crate::scenario;
use crate::session::Session;

const NAME: &str = "POST_STD_VM1";
const REQUEST: &str = "life_mngr request --socket";
const IN_SERVICE_VM: &str = "/run/acrn/life_mngr.sock";
const IN_USER_VM: &str = "/run/life_mngr/monitor.sock";
const LOG: &str = "/var/log/life_mngr.log";
const CONNECTED: &str = "for _ in $(seq 60); do grep 'user-vm1 is connected' /var/log/life_mngr.log && \
                         break; sleep 0.5; done; grep -q connected /var/log/life_mngr.log";
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

/// The same over a serial line of the hypervisor's, from COM2 to COM2, and no word of it in `acrn-dm`.
pub(super) fn by_vuart(context: &Context) -> Result<Outcome> {
    let options = Options {
        scenario: Some("shared".to_owned()),
        ..Options::default()
    };
    let mut machine = machine(context, &options)?;
    if let Boot::Direct(set) = &mut machine.boot {
        set.config = scenario::of_text(context.layout, context.emulator, "life", &connected()?)?;
    }
    let mut session = service_vm(context, &machine, "vuart")?;
    let config =
        "VM_TYPE=service_vm\\nVM_NAME=s\\nDEV_NAME=tty:/dev/ttyS1\\nALLOW_TRIGGER_S5=/dev/ttyS1\\n";
    session.check(
        &format!(
            "printf '{config}' >/tmp/life.conf; pkill life_mngr; (life_mngr --config /tmp/life.conf \
             --socket {IN_SERVICE_VM} </dev/null >{LOG} 2>&1 &)"
        ),
        COMMAND,
    )?;
    let log = demo::launch_log(1);
    session.check(
        &format!("(LIFE=vuart launch_user_vm_id1.sh </dev/null >{log} 2>&1 &)"),
        COMMAND,
    )?;
    session.to_user_login(1, BOOT)?;
    session.log_in(1)?;
    session.to_service()?;
    session.check(CONNECTED, COMMAND)?;
    session.check(
        &format!("{REQUEST} {IN_SERVICE_VM} user_vm_shutdown:user-vm1"),
        COMMAND,
    )?;
    demo::wait_for_user_end(&mut session, 1)?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// The preset with a line between the Service VM and User VM 1.
fn connected() -> Result<String> {
    let preset = presets::preset("shared").context("the preset has gone")?;
    let text = preset.scenario;
    let (begin, end) = (text.find("<endpoint>"), text.rfind("</endpoint>"));
    let (begin, end) = begin.zip(end).context("the preset has no serial line")?;
    let end_of =
        |vm: &str| format!("<endpoint><vm_name>{vm}</vm_name><io_port>0x2F8</io_port></endpoint>");
    let ends = end_of("ACRN_Service_VM") + &end_of(NAME);
    let rest = &text[end + "</endpoint>".len()..];
    Ok(format!("{}{ends}{rest}", &text[..begin]))
}

/// A machine whose User VM 1 is connected, with somebody logged in there.
fn with_guest(context: &Context, name: &str) -> Result<Session> {
    let machine = machine(context, &Options::default())?;
    let mut session = service_vm(context, &machine, name)?;
    session.check(&format!("acrnctl start {NAME}"), COMMAND)?;
    session.to_user_login(1, BOOT)?;
    session.log_in(1)?;
    session.to_service()?;
    session.check(CONNECTED, COMMAND)?;
    Ok(session)
}
