//! Files that only grow: what VMs print, and the journal of events, by which a new daemon knows those before
//! its start. A file that has become long is put aside once, under its name with `.old`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::events::Event;

/// A file that has grown beyond this is put aside when it is opened next.
const MAX_SIZE: u64 = 1 << 20;

/// Opens a file to add to its end.
///
/// # Errors
/// It cannot be opened, made or put aside.
pub fn append(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|file| file.len() > MAX_SIZE) {
        fs::rename(path, aside(path))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

/// Adds an event to a journal, as a line of JSON.
///
/// # Errors
/// It cannot be written.
pub fn note(journal: &Path, event: &Event) -> io::Result<()> {
    let line = serde_json::to_string(event)? + "\n";
    append(journal)?.write_all(line.as_bytes())
}

/// The events of a journal, the oldest first. What is no event, such as a line that was cut short, is passed
/// over.
pub fn noted(journal: &Path) -> Vec<Event> {
    let files = [aside(journal), journal.to_owned()];
    let texts = files.iter().filter_map(|file| fs::read(file).ok());
    let mut events = Vec::new();
    for text in texts {
        let lines = text.split(|&byte| byte == b'\n');
        events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> Event {
        Event {
            number,
            time: 7,
            vm: "vm1".into(),
            event: "started".into(),
            detail: "x".repeat(1000),
        }
    }

    #[test]
    fn a_journal_is_read_back_but_for_what_was_cut_short() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        assert!(noted(&journal).is_empty());
        note(&journal, &event(1)).unwrap();
        let mut file = append(&journal).unwrap();
        file.write_all(b"{\"number\":2,\n\xff\n").unwrap();
        note(&journal, &event(3)).unwrap();
        assert_eq!(noted(&journal), [event(1), event(3)]);
    }

    #[test]
    fn a_long_journal_is_put_aside_and_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        for number in 0..3000 {
            note(&journal, &event(number)).unwrap();
        }
        let numbers: Vec<_> = noted(&journal).iter().map(|event| event.number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(numbers.last(), Some(&2999));
        assert!((1024..3000).contains(&numbers.len()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
