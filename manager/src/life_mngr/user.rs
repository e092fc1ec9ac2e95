//! A User VM's side: it tells the Service VM that it is there, and ends when it is told to.

use std::time::Duration;

use super::message::Message;
use super::request::{Reply, Request};
use super::{Action, End, Input, Pending, Side, Turn};
use crate::life::Time;

/// How soon the Service VM is told again that does not answer.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How soon it is told again that has answered: its program may have been started anew.
const SYNC_AGAIN: Duration = Duration::from_secs(60);
/// How often a request is sent again.
const REPEATS: u32 = 2;
/// The line; there is one.
const LINE: usize = 0;

/// A User VM's side.
#[derive(Debug)]
pub struct User {
    name: String,
    connected: bool,
    /// When the next `sync` is due; nothing while the line is not there.
    sync: Option<Time>,
    pending: Option<Pending>,
}

impl User {
    /// One of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            connected: false,
            sync: None,
            pending: None,
        }
    }

    fn heard(&mut self, now: Time, message: &Message) -> Vec<Action> {
        match message {
            Message::AckSync => {
                self.sync = Some(now + SYNC_AGAIN);
                if std::mem::replace(&mut self.connected, true) {
                    return Vec::new();
                }
                vec![Action::Note("the Service VM answers".to_owned())]
            }
            Message::PowerOff => self.end(Message::AckPowerOff, End::PowerOff),
            Message::Shutdown => self.end(Message::AckShutdown, End::PowerOff),
            Message::Reboot => self.end(Message::AckReboot, End::Reboot),
            Message::AckRequestShutdown | Message::AckRequestReboot => {
                self.pending = None;
                Vec::new()
            }
            Message::Rejected => {
                self.pending = None;
                let text = "the Service VM does not let this VM end the system: see \
                            ALLOW_TRIGGER_S5 and ALLOW_TRIGGER_SYSREBOOT in its configuration";
                vec![Action::Note(text.to_owned())]
            }
            // These are ours to send.
            Message::Sync(_)
            | Message::RequestShutdown
            | Message::RequestReboot
            | Message::AckPowerOff
            | Message::AckShutdown
            | Message::AckReboot => Vec::new(),
        }
    }

    fn end(&mut self, answer: Message, end: End) -> Vec<Action> {
        self.pending = None;
        vec![Action::Send(LINE, answer), Action::End(end)]
    }

    fn asked(&mut self, now: Time, client: u64, request: &Request) -> Vec<Action> {
        let (message, reply) = match request {
            Request::Shutdown => (Message::RequestShutdown, Reply::Shutdown),
            Request::Reboot => (Message::RequestReboot, Reply::Reboot),
            Request::ShutdownVm(_) | Request::RebootVm(_) | Request::ShutdownGuests => {
                return vec![Action::Answer(client, Reply::Unknown)];
            }
        };
        if !self.connected {
            return vec![Action::Answer(client, Reply::Disconnected)];
        }
        self.pending = Some(Pending::new(message.clone(), REPEATS, now));
        vec![Action::Answer(client, reply), Action::Send(LINE, message)]
    }

    fn time(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.sync.is_some_and(|due| now >= due) {
            actions.push(self.send_sync(now));
        }
        match self.pending.as_mut().map(|pending| pending.turn(now)) {
            Some(Turn::Again(message)) => actions.push(Action::Send(LINE, message)),
            Some(Turn::GivenUp(message)) => {
                self.pending = None;
                self.connected = false;
                let text = format!("the Service VM does not answer {}", message.text());
                actions.push(Action::Note(text));
            }
            Some(Turn::Wait) | None => {}
        }
        actions
    }

    fn send_sync(&mut self, now: Time) -> Action {
        self.sync = Some(now + SYNC_INTERVAL);
        Action::Send(LINE, Message::Sync(self.name.clone()))
    }
}

impl Side for User {
    fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        match input {
            Input::Opened(_) => vec![self.send_sync(now)],
            Input::Closed(_) => {
                (self.connected, self.sync, self.pending) = (false, None, None);
                Vec::new()
            }
            Input::Heard(_, message) => self.heard(now, &message),
            Input::Asked(client, request) => self.asked(now, client, &request),
            Input::Time { .. } => self.time(now),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let repeat = self.pending.as_ref().map(|pending| pending.due);
        [self.sync, repeat].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn connected() -> User {
        let mut user = User::new("vm1");
        let sync = Action::Send(LINE, Message::Sync("vm1".into()));
        assert_eq!(user.step(at(0), Input::Opened(LINE)), [sync]);
        user.step(at(0), Input::Heard(LINE, Message::AckSync));
        user
    }

    #[test]
    fn it_syncs_until_it_is_answered_and_each_minute_then() {
        let mut user = User::new("vm1");
        user.step(at(0), Input::Opened(LINE));
        assert_eq!(user.step(at(4), Input::Time { models: 0 }), []);
        assert_eq!(user.step(at(5), Input::Time { models: 0 }).len(), 1);
        user.step(at(6), Input::Heard(LINE, Message::AckSync));
        assert_eq!(user.deadline(), Some(at(66)));
        user.step(at(7), Input::Closed(LINE));
        assert_eq!(user.deadline(), None);
    }

    #[test]
    fn it_answers_before_it_ends() {
        for (told, answer, end) in [
            (Message::PowerOff, Message::AckPowerOff, End::PowerOff),
            (Message::Shutdown, Message::AckShutdown, End::PowerOff),
            (Message::Reboot, Message::AckReboot, End::Reboot),
        ] {
            let actions = connected().step(at(1), Input::Heard(LINE, told));
            assert_eq!(actions, [Action::Send(LINE, answer), Action::End(end)]);
        }
    }

    #[test]
    fn a_request_is_sent_three_times_at_most() {
        let mut user = connected();
        let actions = user.step(at(0), Input::Asked(1, Request::Shutdown));
        let send = Action::Send(LINE, Message::RequestShutdown);
        assert_eq!(actions, [Action::Answer(1, Reply::Shutdown), send.clone()]);
        let again = user.step(at(6), Input::Time { models: 0 });
        assert_eq!(again, std::slice::from_ref(&send));
        assert_eq!(user.step(at(12), Input::Time { models: 0 }), [send]);
        let given_up = user.step(at(18), Input::Time { models: 0 });
        assert!(matches!(given_up[..], [Action::Note(_)]), "{given_up:?}");
        let refused = user.step(at(19), Input::Asked(2, Request::Reboot));
        assert_eq!(refused, [Action::Answer(2, Reply::Disconnected)]);
    }

    #[test]
    fn an_answer_ends_the_repeats_and_a_refusal_is_told() {
        let mut user = connected();
        user.step(at(0), Input::Asked(1, Request::Reboot));
        user.step(at(1), Input::Heard(LINE, Message::AckRequestReboot));
        assert_eq!(user.deadline(), Some(at(60)));
        user.step(at(2), Input::Asked(1, Request::Shutdown));
        let told = user.step(at(3), Input::Heard(LINE, Message::Rejected));
        assert!(matches!(&told[..], [Action::Note(text)] if text.contains("ALLOW_TRIGGER_S5")));
        let wrong = user.step(at(4), Input::Asked(3, Request::ShutdownGuests));
        assert_eq!(wrong, [Action::Answer(3, Reply::Unknown)]);
    }
}
