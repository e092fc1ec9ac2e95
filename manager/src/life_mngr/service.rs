//! The Service VM's side: it knows which User VMs are connected, and ends them all, or one.
//!
//! ```text
//! idle --request--> asking --every User VM has answered, or not in time--> ending
//!       ending --no Device Model runs--> this machine ends
//!       ending --time is up--> idle
//! ```

use std::path::PathBuf;
use std::time::Duration;

use super::config::Config;
use super::message::Message;
use super::request::{Reply, Request};
use super::{Action, Client, End, Input, Pending, Port, Side, Turn};
use crate::life::Time;

/// How often a User VM is told again to switch itself off.
const REPEATS: u32 = 5;
/// How often it is told again what only it was asked for.
const REPEATS_OF_ONE: u32 = 2;
/// How long User VMs may take to end when all ends.
pub const END_LIMIT: Duration = Duration::from_secs(300);
/// How long they may take when this machine is ending anyway.
pub const GUESTS_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Line {
    path: PathBuf,
    guest: Option<String>,
    pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    End(End),
    Guests(Client),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Asking(Goal),
    Ending { goal: Goal, limit: Time, look: Time },
    Ended,
}

/// The Service VM's side.
#[derive(Debug)]
pub struct Service {
    lines: Vec<Line>,
    may_shut_down: Option<PathBuf>,
    may_reboot: Option<PathBuf>,
    phase: Phase,
}

impl Service {
    /// With the lines of a configuration, and nobody connected.
    pub fn new(config: &Config) -> Self {
        let lines = config.lines.iter().map(|path| Line {
            path: path.clone(),
            guest: None,
            pending: None,
        });
        Self {
            lines: lines.collect(),
            may_shut_down: config.may_shut_down.clone(),
            may_reboot: config.may_reboot.clone(),
            phase: Phase::Idle,
        }
    }

    fn heard(&mut self, now: Time, port: Port, message: &Message) -> Vec<Action> {
        let Some(line) = self.lines.get_mut(port) else {
            return Vec::new();
        };
        match message {
            Message::Sync(name) => self.connect(now, port, name),
            Message::RequestShutdown => self.requested(now, port, End::PowerOff),
            Message::RequestReboot => self.requested(now, port, End::Reboot),
            Message::AckPowerOff => {
                // It goes, so it is connected no more.
                line.guest = None;
                line.pending = None;
                self.all_asked(now);
                Vec::new()
            }
            Message::AckShutdown | Message::AckReboot => {
                if self.phase == Phase::Idle {
                    line.guest = None;
                    line.pending = None;
                }
                Vec::new()
            }
            // These are ours to send.
            Message::AckSync
            | Message::AckRequestShutdown
            | Message::AckRequestReboot
            | Message::Rejected
            | Message::PowerOff
            | Message::Shutdown
            | Message::Reboot => Vec::new(),
        }
    }

    fn connect(&mut self, now: Time, port: Port, name: &str) -> Vec<Action> {
        let mut actions = vec![Action::Send(port, Message::AckSync)];
        let Some(line) = self.lines.get_mut(port) else {
            return actions;
        };
        if line.guest.as_deref() != Some(name) {
            let path = line.path.display();
            actions.push(Action::Note(format!("{name} is connected at {path}")));
            line.guest = Some(name.to_owned());
        }
        if matches!(self.phase, Phase::Asking(_)) && line.pending.is_none() {
            // It has come while all are to go.
            line.pending = Some(Pending::new(Message::PowerOff, REPEATS, now));
            actions.push(Action::Send(port, Message::PowerOff));
        }
        actions
    }

    fn requested(&mut self, now: Time, port: Port, end: End) -> Vec<Action> {
        let (allowed, answer) = match end {
            End::PowerOff => (&self.may_shut_down, Message::AckRequestShutdown),
            End::Reboot => (&self.may_reboot, Message::AckRequestReboot),
        };
        let path = self.lines.get(port).map(|line| &line.path);
        if path.is_none() || path != allowed.as_ref() {
            let what = format!("the User VM on line {port} may not end the system: refused");
            return vec![Action::Send(port, Message::Rejected), Action::Note(what)];
        }
        let mut actions = vec![Action::Send(port, answer)];
        if self.phase == Phase::Idle {
            actions.extend(self.begin(now, Goal::End(end)));
        }
        actions
    }

    fn asked(&mut self, now: Time, client: Client, request: Request) -> Vec<Action> {
        let (goal, reply) = match request {
            Request::ShutdownVm(name) => return self.one(now, client, &name, Message::Shutdown),
            Request::RebootVm(name) => return self.one(now, client, &name, Message::Reboot),
            Request::Shutdown => (Goal::End(End::PowerOff), Some(Reply::Shutdown)),
            Request::Reboot => (Goal::End(End::Reboot), Some(Reply::Reboot)),
            // Answered when they are off.
            Request::ShutdownGuests => (Goal::Guests(client), None),
        };
        match (self.phase, goal) {
            (Phase::Idle, _) => {
                let answer = reply.map(|reply| Action::Answer(client, reply));
                let mut actions: Vec<Action> = answer.into_iter().collect();
                actions.extend(self.begin(now, goal));
                actions
            }
            // Our own end has made systemd ask, and they are off by then.
            (Phase::Ended, Goal::Guests(_)) => vec![Action::Answer(client, Reply::GuestsOff)],
            _ => vec![Action::Answer(client, Reply::Ending)],
        }
    }

    /// Tells one User VM something.
    fn one(&mut self, now: Time, client: Client, name: &str, message: Message) -> Vec<Action> {
        let found = self
            .lines
            .iter_mut()
            .enumerate()
            .find(|(_, line)| line.guest.as_deref() == Some(name));
        let Some((port, line)) = found else {
            return vec![Action::Answer(client, Reply::Disconnected)];
        };
        if self.phase != Phase::Idle {
            return vec![Action::Answer(client, Reply::Ending)];
        }
        let reply = match message {
            Message::Reboot => Reply::RebootVm,
            _ => Reply::ShutdownVm,
        };
        line.pending = Some(Pending::new(message.clone(), REPEATS_OF_ONE, now));
        vec![Action::Answer(client, reply), Action::Send(port, message)]
    }

    /// Tells all User VMs to switch themselves off.
    fn begin(&mut self, now: Time, goal: Goal) -> Vec<Action> {
        self.phase = Phase::Asking(goal);
        let mut actions = Vec::new();
        for (port, line) in self.lines.iter_mut().enumerate() {
            if line.guest.is_some() {
                line.pending = Some(Pending::new(Message::PowerOff, REPEATS, now));
                actions.push(Action::Send(port, Message::PowerOff));
            }
        }
        self.all_asked(now);
        actions
    }

    /// Goes on when nobody is left whose answer is awaited.
    fn all_asked(&mut self, now: Time) {
        let Phase::Asking(goal) = self.phase else {
            return;
        };
        if self.lines.iter().all(|line| line.pending.is_none()) {
            let limit = match goal {
                Goal::End(_) => END_LIMIT,
                Goal::Guests(_) => GUESTS_LIMIT,
            };
            self.phase = Phase::Ending {
                goal,
                limit: now + limit,
                look: now,
            };
        }
    }

    fn time(&mut self, now: Time, models: usize) -> Vec<Action> {
        let mut actions = Vec::new();
        for (port, line) in self.lines.iter_mut().enumerate() {
            let turn = line.pending.as_mut().map(|pending| pending.turn(now));
            match turn {
                Some(Turn::Again(message)) => actions.push(Action::Send(port, message)),
                Some(Turn::GivenUp(message)) => {
                    let name = line.guest.take().unwrap_or_default();
                    line.pending = None;
                    let text = format!("{name} does not answer {}: given up", message.text());
                    actions.push(Action::Note(text));
                }
                Some(Turn::Wait) | None => {}
            }
        }
        self.all_asked(now);
        actions.extend(self.ending(now, models));
        actions
    }

    fn ending(&mut self, now: Time, models: usize) -> Option<Action> {
        let Phase::Ending { goal, limit, look } = &mut self.phase else {
            return None;
        };
        let (goal, late) = (*goal, now >= *limit);
        if models > 0 && !late {
            *look = now + LOOK;
            return None;
        }
        self.phase = match goal {
            Goal::End(_) if models == 0 => Phase::Ended,
            _ => Phase::Idle,
        };
        Some(match (goal, models) {
            (Goal::End(end), 0) => Action::End(end),
            (Goal::End(_), _) => Action::Note(format!(
                "{models} acrn-dm still run: the system stays up; stop them with acrnctl stop -f"
            )),
            (Goal::Guests(client), 0) => Action::Answer(client, Reply::GuestsOff),
            (Goal::Guests(client), _) => Action::Answer(client, Reply::GuestsRun),
        })
    }
}

impl Side for Service {
    fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        match input {
            Input::Opened(_) => Vec::new(),
            Input::Closed(port) => {
                // Whoever was there has ended.
                if let Some(line) = self.lines.get_mut(port) {
                    line.guest = None;
                    line.pending = None;
                }
                self.all_asked(now);
                Vec::new()
            }
            Input::Heard(port, message) => self.heard(now, port, &message),
            Input::Asked(client, request) => self.asked(now, client, request),
            Input::Time { models } => self.time(now, models),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let lines = self.lines.iter().filter_map(|line| line.pending.as_ref());
        let repeat = lines.map(|pending| pending.due).min();
        match self.phase {
            Phase::Ending { look, .. } => Some(repeat.map_or(look, |repeat| repeat.min(look))),
            _ => repeat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn service() -> Service {
        let text = "VM_TYPE=service_vm\nVM_NAME=s\nDEV_NAME=tty:/a,/b,/c\n\
            ALLOW_TRIGGER_S5=/b\nALLOW_TRIGGER_SYSREBOOT=/a\n";
        let mut service = Service::new(&Config::parse(text).unwrap());
        for (port, name) in [(0, "vm1"), (1, "vm2")] {
            let actions = hear(&mut service, 0, port, Message::Sync(name.into()));
            assert_eq!(actions[0], Action::Send(port, Message::AckSync));
        }
        service
    }

    fn hear(service: &mut Service, now: u64, port: Port, message: Message) -> Vec<Action> {
        service.step(at(now), Input::Heard(port, message))
    }

    fn ask(service: &mut Service, request: Request) -> Vec<Action> {
        service.step(at(0), Input::Asked(7, request))
    }

    fn pass(service: &mut Service, now: u64, models: usize) -> Vec<Action> {
        service.step(at(now), Input::Time { models })
    }

    #[test]
    fn a_shutdown_asks_every_guest_waits_for_the_device_models_and_ends() {
        let mut service = service();
        let expected = [
            Action::Answer(7, Reply::Shutdown),
            Action::Send(0, Message::PowerOff),
            Action::Send(1, Message::PowerOff),
        ];
        assert_eq!(ask(&mut service, Request::Shutdown), expected);
        assert_eq!(pass(&mut service, 1, 2), []);
        assert_eq!(hear(&mut service, 1, 0, Message::AckPowerOff), []);
        assert_eq!(hear(&mut service, 2, 1, Message::AckPowerOff), []);
        assert_eq!(pass(&mut service, 2, 1), []);
        assert_eq!(pass(&mut service, 3, 0), [Action::End(End::PowerOff)]);
        let again = ask(&mut service, Request::ShutdownGuests);
        assert_eq!(again, [Action::Answer(7, Reply::GuestsOff)]);
    }

    #[test]
    fn with_nobody_connected_it_ends_at_once() {
        let text = "VM_TYPE=service_vm\nVM_NAME=s\nDEV_NAME=tty:/a\n";
        let mut service = Service::new(&Config::parse(text).unwrap());
        assert_eq!(ask(&mut service, Request::Reboot).len(), 1);
        assert_eq!(service.deadline(), Some(at(0)));
        assert_eq!(pass(&mut service, 0, 0), [Action::End(End::Reboot)]);
    }

    #[test]
    fn a_guest_may_end_the_system_only_from_the_line_that_is_allowed() {
        let mut service = service();
        let refused = hear(&mut service, 0, 0, Message::RequestShutdown);
        assert_eq!(refused[0], Action::Send(0, Message::Rejected));
        assert_eq!(service.deadline(), None);
        let done = hear(&mut service, 0, 1, Message::RequestShutdown);
        assert_eq!(done[0], Action::Send(1, Message::AckRequestShutdown));
        assert!(done.contains(&Action::Send(0, Message::PowerOff)));
        // Sent again because the answer was lost: nothing begins anew.
        let again = hear(&mut service, 1, 1, Message::RequestShutdown);
        assert_eq!(again, [Action::Send(1, Message::AckRequestShutdown)]);
        let mut service = self::service();
        let done = hear(&mut service, 0, 0, Message::RequestReboot);
        assert_eq!(done[0], Action::Send(0, Message::AckRequestReboot));
    }

    #[test]
    fn a_guest_that_does_not_answer_is_told_five_times_more_and_given_up() {
        let mut service = service();
        ask(&mut service, Request::Shutdown);
        hear(&mut service, 0, 0, Message::AckPowerOff);
        let mut sent = 0;
        let mut now = 0;
        let given_up = loop {
            now = service.deadline().unwrap().as_secs().max(now + 1);
            match pass(&mut service, now, 0).as_slice() {
                [Action::Send(1, Message::PowerOff)] => sent += 1,
                [Action::Note(text), Action::End(End::PowerOff)] => break text.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((sent, now), (5, 36));
        assert!(given_up.contains("vm2"), "{given_up}");
    }

    #[test]
    fn device_models_that_do_not_end_keep_the_system_up() {
        let mut service = service();
        ask(&mut service, Request::Shutdown);
        for port in [0, 1] {
            hear(&mut service, 0, port, Message::AckPowerOff);
        }
        assert_eq!(pass(&mut service, 299, 1), []);
        assert!(matches!(pass(&mut service, 300, 1)[..], [Action::Note(_)]));
        assert_eq!(service.deadline(), None);
        let off = ask(&mut service, Request::ShutdownGuests);
        assert_eq!(off, []);
        let answer = pass(&mut service, 360, 1);
        assert_eq!(answer, [Action::Answer(7, Reply::GuestsRun)]);
    }

    #[test]
    fn one_guest_is_told_by_its_name() {
        let mut service = service();
        let told = ask(&mut service, Request::RebootVm("vm2".into()));
        let expected = [
            Action::Answer(7, Reply::RebootVm),
            Action::Send(1, Message::Reboot),
        ];
        assert_eq!(told, expected);
        assert_eq!(hear(&mut service, 1, 1, Message::AckReboot), []);
        assert_eq!(service.deadline(), None);
        let gone = ask(&mut service, Request::ShutdownVm("vm2".into()));
        assert_eq!(gone, [Action::Answer(7, Reply::Disconnected)]);
        let nobody = ask(&mut service, Request::ShutdownVm("vm".into()));
        assert_eq!(nobody, [Action::Answer(7, Reply::Disconnected)]);
    }

    #[test]
    fn a_line_that_closes_is_waited_for_no_longer() {
        let mut service = service();
        ask(&mut service, Request::ShutdownGuests);
        hear(&mut service, 0, 1, Message::AckPowerOff);
        service.step(at(0), Input::Closed(0));
        let answer = pass(&mut service, 0, 0);
        assert_eq!(answer, [Action::Answer(7, Reply::GuestsOff)]);
    }

    #[test]
    fn a_guest_that_connects_while_all_go_is_told_too() {
        let mut service = service();
        ask(&mut service, Request::Shutdown);
        let actions = hear(&mut service, 1, 2, Message::Sync("vm3".into()));
        assert!(actions.contains(&Action::Send(2, Message::PowerOff)));
    }
}
