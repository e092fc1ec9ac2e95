//! Launch scripts that `acrn-config launch` writes, at work in the Service VM.

use acrn_config::launch::launch;
use anyhow::{Context as _, Result, ensure};

use super::support::{BOOT, COMMAND, POWER_OFF, machine, sender, service_vm};
use super::{Context, Outcome};
use crate::demo::{self, Options};
use crate::scenario;

/// User VM 1 of the preset `shared`, by its script, from its interface to the end of it.
pub(super) fn generated_script(context: &Context) -> Result<Outcome> {
    let options = Options {
        scenario: Some("shared".to_owned()),
        ..Options::default()
    };
    let machine = machine(context, &options)?;
    let mut session = service_vm(context, &machine, "launch")?;
    let script = sender(first_script()?.into_bytes(), COMMAND)?;
    session.check(
        &format!(
            "nc 10.0.2.2 {} </dev/null >/tmp/launch.sh && chmod +x /tmp/launch.sh",
            script.port
        ),
        COMMAND,
    )?;
    script.join()?;
    let interfaces = session.check("ls /sys/class/net", COMMAND)?;
    let log = demo::launch_log(1);
    session.check(
        &format!("(/tmp/launch.sh </dev/null >{log} 2>&1 &)"),
        COMMAND,
    )?;
    session.to_user_login(1, BOOT)?;
    session.log_in(1)?;
    session.check("ping -c 2 192.168.100.1", COMMAND)?;
    session.vm.console.send_line("poweroff")?;
    session.to_service()?;
    demo::wait_for_user_end(&mut session, 1)?;
    let left = session.check("sleep 1; ls /sys/class/net", COMMAND)?;
    ensure!(
        left == interfaces,
        "there were {interfaces} and now there are {left}"
    );
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

fn first_script() -> Result<String> {
    let (board, scenario, plan) = scenario::planned("shared")?;
    let all = launch(&board, &scenario, &plan, "/opt/acrn")?;
    let first = all
        .into_iter()
        .next()
        .context("the preset has no User VM")?;
    Ok(first.script)
}
