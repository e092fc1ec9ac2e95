//! The life-cycle manager `life_mngr`: one program for the Service VM and for User VMs, which
//! speak over serial lines about power.
//!
//! ```text
//! User VM                          Service VM
//!   sync:NAME            ----->
//!                        <-----    ack_sync
//!   req_sys_shutdown     ----->                      from the line that may
//!                        <-----    ack_req_sys_shutdown
//!                        <-----    poweroff_cmd      to every User VM
//!   ack_poweroff         ----->                      and the VM switches itself off
//! ```
//!
//! The messages are ACRN's, so either side may be ACRN's own program. What decides is pure:
//! [`message`] cuts a stream of bytes into messages, [`service`] and [`user`] are the two sides,
//! which take [`Input`]s and give [`Action`]s back. [`config`] reads ACRN's configuration file;
//! [`port`] and [`daemon`] are lines, sockets and clocks.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod message;
pub mod port;
pub mod request;
pub mod service;
pub mod user;

use std::time::Duration;

use crate::life::Time;
use message::Message;
use request::{Reply, Request};

/// How long an answer may take before a message is sent again.
pub const ANSWER_TIME: Duration = Duration::from_secs(6);

/// A serial line, by its place in the configuration.
pub type Port = usize;
/// A client of the control socket.
pub type Client = u64;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A line is ready.
    Opened(Port),
    /// A line has lost its other end.
    Closed(Port),
    /// A message has come.
    Heard(Port, Message),
    /// A client wants something.
    Asked(Client, Request),
    /// Time has passed.
    Time {
        /// Device Models that run.
        models: usize,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send(Port, Message),
    /// Answer a client, and be done with it.
    Answer(Client, Reply),
    /// Say something to whoever reads the log.
    Note(String),
    /// End this machine.
    End(End),
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Switched off.
    PowerOff,
    /// Started anew.
    Reboot,
}

/// One of the two sides.
pub trait Side {
    /// Takes what has happened at a time.
    fn step(&mut self, now: Time, input: Input) -> Vec<Action>;

    /// When it wants to be told the time.
    fn deadline(&self) -> Option<Time>;
}

/// A message that wants an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    message: Message,
    /// How often it may still be sent.
    left: u32,
    /// When the next one is due.
    due: Time,
}

/// What becomes of a pending message as time passes.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Wait,
    Again(Message),
    GivenUp(Message),
}

impl Pending {
    fn new(message: Message, repeats: u32, now: Time) -> Self {
        Self {
            message,
            left: repeats,
            due: now + ANSWER_TIME,
        }
    }

    fn turn(&mut self, now: Time) -> Turn {
        if now < self.due {
            return Turn::Wait;
        }
        if self.left == 0 {
            return Turn::GivenUp(self.message.clone());
        }
        self.left -= 1;
        self.due = now + ANSWER_TIME;
        Turn::Again(self.message.clone())
    }
}
