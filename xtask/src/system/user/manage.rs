//! A User VM under the manager.

use anyhow::{Result, ensure};

use super::super::support::COMMAND;
use super::life::{BOOT_ID, goes_on, stands_still};
use super::{BOOT, Machine};

const NAME: &str = "POST_STD_VM1";
const DAEMON: &str = "cat /run/acrn/acrnd.lock";

pub(super) fn managed(machine: &mut Machine) -> Result<()> {
    machine.without_users()?;
    let before = machine.belongings()?;
    control(machine, "start")?;
    machine.session.to_user_login(1, BOOT)?;
    machine.session.log_in(1)?;
    machine.up.push(1);
    let boot = machine.user(1)?.check(BOOT_ID, COMMAND)?;
    is(machine, "started")?;
    let figures = machine
        .service()?
        .check(&format!("acrnctl --json stats {NAME}"), COMMAND)?;
    ensure!(figures.contains("\"vcpus\":2"), "the figures are {figures}");

    control(machine, "pause")?;
    stands_still(machine)?;
    is(machine, "paused")?;
    control(machine, "resume")?;
    goes_on(machine, &boot)?;

    let model = machine.service()?.check("pidof acrn-dm", COMMAND)?;
    let daemon = machine.service()?.check(DAEMON, COMMAND)?;
    machine.service()?.check(
        &format!(
            "kill -9 {daemon}; for _ in $(seq 50); do \
             [ \"$({DAEMON})\" != {daemon} ] && acrnctl list && break; sleep 0.2; done"
        ),
        COMMAND,
    )?;
    let now = machine.service()?.check(DAEMON, COMMAND)?;
    ensure!(now != daemon, "acrnd is still process {daemon}");
    is(machine, "started")?;
    goes_on(machine, &boot)?;
    let now = machine.service()?.check("pidof acrn-dm", COMMAND)?;
    ensure!(now == model, "acrn-dm was process {model} and is {now}");

    control(machine, "stop")?;
    machine.up.clear();
    is(machine, "stopped")?;
    let left = "rm -r /run/acrn/acrnd/POST_STD_VM1";
    machine.service()?.check(left, COMMAND)?;
    machine.still_has(&before)
}

fn control(machine: &mut Machine, command: &str) -> Result<()> {
    let command = format!("acrnctl {command} {NAME}");
    machine.service()?.check(&command, BOOT).map(drop)
}

fn is(machine: &mut Machine, state: &str) -> Result<()> {
    let list = machine.service()?.check("acrnctl list --json", COMMAND)?;
    let expected = format!("{{\"name\":\"{NAME}\",\"state\":\"{state}\"");
    ensure!(list.contains(&expected), "{NAME} is not {state}: {list}");
    Ok(())
}
