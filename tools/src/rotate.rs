//! A log in a few files of bounded size: `FILE` is written, `FILE.1` is the one before, and so on. The oldest one
//! is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What cannot be done to which file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct RotateError {
    path: PathBuf,
    error: io::Error,
}

/// The files.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    files: u32,
    /// Bytes of a file at most, unless a line alone has more.
    size: u64,
    file: File,
    written: u64,
}

impl Rotating {
    /// Goes on with the log at `path`, whose directory is made if need be. There are `files` files at most.
    ///
    /// # Errors
    /// The directory or the file cannot be made.
    pub fn open(path: &Path, files: u32, size: u64) -> Result<Self, RotateError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| RotateError { path, error }
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir).map_err(failed(dir))?;
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path);
        let file = file.map_err(failed(path))?;
        let written = file.metadata().map_err(failed(path))?.len();
        Ok(Self {
            path: path.to_owned(),
            files,
            size,
            file,
            written,
        })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// It cannot be written, or the next file cannot be begun.
    pub fn line(&mut self, line: &str) -> Result<(), RotateError> {
        let length = line.len() as u64 + 1;
        let result = if self.written > 0 && self.written + length > self.size {
            self.rotate()
        } else {
            Ok(())
        };
        let result = result.and_then(|()| writeln!(self.file, "{line}"));
        self.written += length;
        result.map_err(|error| RotateError {
            path: self.path.clone(),
            error,
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.files).rev() {
            match fs::rename(self.numbered(number - 1), self.numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = File::create(&self.path)?;
        self.written = 0;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of 10 bytes at most: two lines of four characters each.
    fn log(dir: &Path, files: u32) -> Rotating {
        Rotating::open(&dir.join("logs/acrn.log"), files, 10).unwrap()
    }

    fn contents(dir: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(dir.join("logs")).unwrap();
        let mut all: Vec<_> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        all.sort();
        all
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        files.iter().map(own).collect()
    }

    #[test]
    fn the_oldest_of_several_files_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 3);
        for number in 1..=8 {
            log.line(&format!("no {number}")).unwrap();
        }
        let wanted = [
            ("acrn.log", "no 7\nno 8\n"),
            ("acrn.log.1", "no 5\nno 6\n"),
            ("acrn.log.2", "no 3\nno 4\n"),
        ];
        assert_eq!(contents(dir.path()), named(&wanted));
    }

    #[test]
    fn one_file_alone_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 1);
        for number in 1..=3 {
            log.line(&format!("no {number}")).unwrap();
        }
        assert_eq!(contents(dir.path()), named(&[("acrn.log", "no 3\n")]));
    }

    #[test]
    fn a_later_run_goes_on_where_the_file_ends() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), 2).line("no 1").unwrap();
        let mut second = log(dir.path(), 2);
        second.line("no 2").unwrap();
        second.line("no 3").unwrap();
        let wanted = [("acrn.log", "no 3\n"), ("acrn.log.1", "no 1\nno 2\n")];
        assert_eq!(contents(dir.path()), named(&wanted));
    }

    #[test]
    fn a_line_that_is_longer_than_a_file_has_one_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 3);
        for line in ["no 1", "a very long line", "no 2"] {
            log.line(line).unwrap();
        }
        let wanted = [
            ("acrn.log", "no 2\n"),
            ("acrn.log.1", "a very long line\n"),
            ("acrn.log.2", "no 1\n"),
        ];
        assert_eq!(contents(dir.path()), named(&wanted));
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = Rotating::open(dir.path(), 4, 10).unwrap_err();
        let path = dir.path().display().to_string();
        assert!(error.to_string().starts_with(&path), "{error}");
    }
}
