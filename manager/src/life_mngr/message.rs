//! The messages on the serial line.
//!
//! ACRN's programs send words without any mark at their ends and take what has come in one go for
//! one message. Here a word counts as soon as it is complete, whatever noise was before it; a name,
//! which may have any length, ends at a zero byte, at the end of a line, or when the line falls
//! silent.

/// Longest message, in bytes.
pub const LONGEST: usize = 256;
/// Longest name of a VM that is kept.
const MAX_NAME: usize = 64;
const SYNC: &str = "sync:";

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A User VM is there, and this is its name.
    Sync(String),
    /// The Service VM has heard so.
    AckSync,
    /// A User VM wants everything switched off.
    RequestShutdown,
    /// It will be.
    AckRequestShutdown,
    /// A User VM wants everything started anew.
    RequestReboot,
    /// It will be.
    AckRequestReboot,
    /// It will not be.
    Rejected,
    /// A User VM is to switch itself off, as all others.
    PowerOff,
    /// It does.
    AckPowerOff,
    /// A User VM is to switch itself off.
    Shutdown,
    /// It does.
    AckShutdown,
    /// A User VM is to start anew.
    Reboot,
    /// It does.
    AckReboot,
}

/// The words, and what they mean.
const WORDS: [(&str, Message); 12] = [
    ("ack_sync", Message::AckSync),
    ("req_sys_shutdown", Message::RequestShutdown),
    ("ack_req_sys_shutdown", Message::AckRequestShutdown),
    ("req_sys_reboot", Message::RequestReboot),
    ("ack_req_sys_reboot", Message::AckRequestReboot),
    ("system shutdown request is rejected", Message::Rejected),
    ("poweroff_cmd", Message::PowerOff),
    ("ack_poweroff", Message::AckPowerOff),
    ("user_vm_shutdown", Message::Shutdown),
    ("ack_user_vm_shutdown", Message::AckShutdown),
    ("user_vm_reboot", Message::Reboot),
    ("ack_user_vm_reboot", Message::AckReboot),
];

impl Message {
    /// Its text.
    pub fn text(&self) -> String {
        if let Self::Sync(name) = self {
            return format!("{SYNC}{name}");
        }
        let mut words = WORDS.iter();
        let word = words.find(|(_, message)| message == self);
        word.map_or_else(String::new, |(text, _)| (*text).to_owned())
    }
}

/// Cuts what comes on one line into messages.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    text: Vec<u8>,
}

impl Decoder {
    /// Takes a byte; the message that it completes.
    pub fn push(&mut self, byte: u8) -> Option<Message> {
        if matches!(byte, 0 | b'\n' | b'\r') {
            return self.silence();
        }
        if self.text.len() == LONGEST {
            self.text.clear();
        }
        self.text.push(byte);
        if self.name().is_some() {
            return None;
        }
        // Some words end like others: the longest counts.
        let complete = WORDS
            .iter()
            .filter(|(word, _)| self.text.ends_with(word.as_bytes()));
        let (_, message) = complete.max_by_key(|(word, _)| word.len())?;
        self.text.clear();
        Some(message.clone())
    }

    /// Nothing more has come for a while; the message that this completes.
    pub fn silence(&mut self) -> Option<Message> {
        let name = self.name().map(str::to_owned);
        self.text.clear();
        name.filter(|name| !name.is_empty()).map(Message::Sync)
    }

    /// Whether something has come that silence would end.
    pub fn is_waiting(&self) -> bool {
        !self.text.is_empty()
    }

    /// The name behind `sync:`, as far as it has come and makes sense.
    fn name(&self) -> Option<&str> {
        let mut places = self.text.windows(SYNC.len());
        let begin = places.position(|bytes| bytes == SYNC.as_bytes())? + SYNC.len();
        let name = self.text.get(begin..)?;
        let printable = name.iter().take_while(|byte| byte.is_ascii_graphic());
        let length = printable.count().min(MAX_NAME);
        std::str::from_utf8(name.get(..length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Message> {
        let mut decoder = Decoder::default();
        let mut all: Vec<Message> = bytes
            .iter()
            .filter_map(|&byte| decoder.push(byte))
            .collect();
        all.extend(decoder.silence());
        all
    }

    #[test]
    fn every_message_comes_back_from_its_text() {
        for (_, message) in WORDS {
            assert_eq!(decode(message.text().as_bytes()), [message]);
        }
        let sync = Message::Sync("POST_STD_VM1".into());
        assert_eq!(sync.text(), "sync:POST_STD_VM1");
        assert_eq!(decode(sync.text().as_bytes()), [sync]);
    }

    #[test]
    fn messages_without_marks_between_them_are_told_apart() {
        let text = b"ack_req_sys_shutdownpoweroff_cmdack_user_vm_reboot";
        let expected = [
            Message::AckRequestShutdown,
            Message::PowerOff,
            Message::AckReboot,
        ];
        assert_eq!(decode(text), expected);
    }

    #[test]
    fn noise_and_marks_do_not_hide_a_message() {
        assert_eq!(decode(b"\xff\x80login: ack_sync\n"), [Message::AckSync]);
        assert_eq!(decode(b"sync:VM2\0ack_poweroff\r\n").len(), 2);
        assert_eq!(decode(b"noisesync:VM2 x"), [Message::Sync("VM2".into())]);
        assert_eq!(decode(b"sync:"), []);
        let long = [b"x".repeat(LONGEST * 3), b"poweroff_cmd".to_vec()].concat();
        assert_eq!(decode(&long), [Message::PowerOff]);
    }

    #[test]
    fn no_word_is_taken_for_complete_while_it_goes_on() {
        for (word, _) in WORDS {
            let starts = |(other, _): &(&str, Message)| *other != word && other.starts_with(word);
            assert!(!WORDS.iter().any(starts), "{word}");
        }
    }
}
