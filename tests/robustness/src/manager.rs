//! What the manager reads: definitions, requests, answers of `acrn-dm`, launch scripts, and what
//! `life_mngr` hears on a serial line.

use std::time::Duration;

use acrn_manager::adoption::started;
use acrn_manager::definition::{Definition, check_name};
use acrn_manager::dm::{Status, judge};
use acrn_manager::life_mngr::config::Config;
use acrn_manager::life_mngr::message::Decoder;
use acrn_manager::life_mngr::request::Request;
use acrn_manager::life_mngr::service::Service;
use acrn_manager::life_mngr::user::User;
use acrn_manager::life_mngr::{Action, Input, Side};
use acrn_manager::script;
use acrn_manager::view::NewVm;

use crate::Source;

/// What is accepted is within the limits that the book states.
pub(crate) fn definition(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Definition::parse(&text) {
        Ok(definition) => accepted(&definition),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn accepted(definition: &Definition) {
    assert!(definition.vm.is_some() != definition.script.is_some());
    assert!(
        definition
            .script
            .as_ref()
            .is_none_or(|script| script.is_absolute())
    );
    assert!(definition.after.iter().all(|name| check_name(name).is_ok()));
    assert!(definition.stop_limit() >= Duration::from_secs(1));
    assert!(definition.delay(u32::MAX) <= Duration::from_secs(86_400));
    let _ = definition.console();
}

pub(crate) fn definition_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "autostart = true\nrestart = 'always'\n[vm]\nlpc = ['com1,unix:/c']\nmemsize = '64M'\n",
        "script = '/s'\narguments = ['a']\nenvironment = { A = 'b' }\nafter = ['vm1']\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).to_vec()
}

/// A request to add a VM, and the answers of its `acrn-dm`.
pub(crate) fn manager_json(data: &[u8]) {
    if let Ok(new) = serde_json::from_slice::<NewVm>(data) {
        // A name that is accepted stays in its directory.
        if check_name(&new.name).is_ok() {
            assert!(!new.name.contains('/') && !new.name.starts_with('.'));
        }
        definition(new.definition.as_bytes());
    }
    let text = String::from_utf8_lossy(data);
    let _ = started(&text);
    if let Err(error) = judge(&text) {
        assert!(!error.to_string().is_empty());
    }
    let _ = Status::parse(&text);
}

pub(crate) fn manager_json_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        r#"{"name":"vm1","definition":"[vm]\nkernel = '/k'\n"}"#,
        r#"{"ack":0,"huge_pages":true,"memory":64,"name":"x","pid":3,"state":"paused","vcpus":2,"vmid":1}"#,
        r#"{"ack":-1,"error":"not now"}"#,
        "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 10000 20",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).to_vec()
}

/// A name that is found in a script is one.
pub(crate) fn launch_script(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(name) = script::vm_name(&text, &["1".to_owned()]) {
        assert_eq!(check_name(&name), Ok(()));
    }
}

pub(crate) fn launch_script_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "vm_name=vm$1\nmem=${MEM:-${X:-1G}}\nacrn-dm -m $mem \\\n -s 0,hostbridge $vm_name &\n",
        "dm_params=(\n -m 1G\n POST_STD_VM1\n)\nacrn-dm \"${dm_params[@]}\"\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).to_vec()
}

/// Both sides of the life-cycle manager with whatever comes on the line and from clients: messages go
/// to lines that exist, and each client is answered once at most.
pub(crate) fn life_cycle(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = Config::parse(&text) {
        assert!(!error.to_string().is_empty());
    }
    let lines = "VM_TYPE=service_vm\nVM_NAME=s\nDEV_NAME=tty:/a,/b\nALLOW_TRIGGER_S5=/a\n";
    let config = Config::parse(lines).expect("the configuration is right");
    play(data, &mut Service::new(&config), 2);
    play(data, &mut User::new("vm1"), 1);
}

fn play(data: &[u8], side: &mut dyn Side, ports: usize) {
    let mut source = Source::new(data);
    let mut decoders = [Decoder::default(), Decoder::default()];
    let mut answered = Vec::new();
    let (mut now, mut clients) = (Duration::ZERO, 0);
    while !source.is_empty() {
        let what = source.u8();
        let port = usize::from(what & 1) % ports;
        let input = match what >> 5 {
            0 => Some(Input::Opened(port)),
            1 => Some(Input::Closed(port)),
            2 => {
                now = side.deadline().unwrap_or(now).max(now);
                let models = usize::from(what >> 1 & 1);
                Some(Input::Time { models })
            }
            3 => {
                let requests = ["req_sys_shutdown", "guests_shutdown", "user_vm_reboot:a"];
                let text = requests.get(usize::from(what >> 1 & 3)).copied();
                clients += 1;
                let request = Request::parse(text.unwrap_or("req_sys_reboot"));
                request.map(|request| Input::Asked(clients, request))
            }
            _ => {
                let message = decoders[port].push(source.u8());
                message.map(|message| Input::Heard(port, message))
            }
        };
        for action in input.map_or_else(Vec::new, |input| side.step(now, input)) {
            match action {
                Action::Send(port, message) => {
                    assert!(port < ports && !message.text().is_empty());
                }
                Action::Answer(client, _) => {
                    assert!(!answered.contains(&client) && client <= clients);
                    answered.push(client);
                }
                Action::Note(text) => assert!(!text.is_empty()),
                Action::End(_) => {}
            }
        }
    }
}

pub(crate) fn life_cycle_seeds() -> Vec<Vec<u8>> {
    let spelled = |text: &str| -> Vec<u8> {
        let bytes = text.bytes().flat_map(|byte| [0x80, byte]);
        bytes.collect()
    };
    let mut session = spelled("sync:a\n");
    session.push(0x60);
    session.extend(spelled("ack_poweroff"));
    session.extend([0x42, 0x40]);
    let asked = spelled("sync:a\0req_sys_shutdown");
    let config = b"VM_TYPE=user_vm\nVM_NAME=vm1\nDEV_NAME=tty:/dev/ttyS1\n".to_vec();
    vec![session, asked, config]
}
