//! The end of a log that grows.
//!
//! A VM's log is put aside when it has become long, and a new one begun: a reader goes on with that.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// As much is read at a time, and of a log that is there already.
pub const SHOWN: u64 = 64 << 10;

/// A reader of a log.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// The file that was read last, and how far.
    place: Option<(u64, u64)>,
}

impl Tail {
    /// One that begins with the end of what is there.
    pub fn new(path: PathBuf) -> Self {
        Self { path, place: None }
    }

    /// What is new, [`SHOWN`] bytes at most; nothing where there is no log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Whatever comes is read from its beginning.
                self.place = Some((0, 0));
                return Ok(Vec::new());
            }
            other => other?,
        };
        let (now, length) = (file.metadata()?.ino(), file.metadata()?.len());
        let from = match self.place {
            None => length.saturating_sub(SHOWN),
            Some((inode, at)) if inode == now && at <= length => at,
            Some(_) => 0,
        };
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        self.place = Some((now, from.saturating_add(bytes.len() as u64)));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn the_end_is_read_and_then_what_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let long = vec![b'x'; usize::try_from(SHOWN).unwrap() + 5];
        fs::write(&path, &long).unwrap();
        let mut tail = Tail::new(path.clone());
        assert_eq!(tail.read().unwrap().len() as u64, SHOWN);
        assert_eq!(tail.read().unwrap(), b"");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"more").unwrap();
        assert_eq!(tail.read().unwrap(), b"more");
        fs::rename(&path, folder.path().join("log.old")).unwrap();
        assert_eq!(tail.read().unwrap(), b"");
        fs::write(&path, b"anew").unwrap();
        assert_eq!(tail.read().unwrap(), b"anew");
        fs::write(&path, b"cut").unwrap();
        assert_eq!(tail.read().unwrap(), b"cut");
    }
}
