//! Debian packages, written without Debian's tools: an `ar` archive of `debian-binary`, `control.tar.gz` and
//! `data.tar.gz`.
//!
//! The bytes depend on nothing but what was put in: files are sorted, belong to root, and have one time of
//! change. So a package can be made on any machine, by anybody, and compared.

#![forbid(unsafe_code)]

mod archive;
mod control;
mod gzip;
mod tar;

use std::collections::BTreeMap;

pub use control::{Control, MAINTAINER};
pub use gzip::gzip;

/// Why there is no package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DebError {
    /// A path that the format has no place for.
    #[error("{0}: a path in a package has 1 to 255 bytes without \"..\"; choose another")]
    Path(String),
    /// A file that is too large for the format.
    #[error("{path}: {size} bytes do not fit into a package; at most 8 GiB do")]
    Size {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
    },
    /// A field that would become two.
    #[error("the field {field} has a line break or is empty: {value:?}; write one line")]
    Field {
        /// The field.
        field: &'static str,
        /// What it was to be.
        value: String,
    },
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
    Link(String),
}

/// A package in the making.
#[derive(Clone, Debug)]
pub struct Package {
    control: Control,
    files: BTreeMap<String, Entry>,
    conffiles: Vec<String>,
    scripts: BTreeMap<&'static str, String>,
}

impl Package {
    /// A package without files.
    #[must_use]
    pub fn new(control: Control) -> Self {
        Self {
            control,
            files: BTreeMap::new(),
            conffiles: Vec::new(),
            scripts: BTreeMap::new(),
        }
    }

    /// What the package says of itself.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Adds a file; `path` is absolute.
    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.add(path, Entry::File { mode, bytes });
    }

    /// Adds a file of settings, which dpkg leaves alone where somebody has changed it.
    pub fn conffile(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.file(path, mode, bytes);
        self.conffiles.push(path.to_owned());
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    /// Adds an empty directory; those of files come by themselves.
    pub fn directory(&mut self, path: &str) {
        self.add(path, Entry::Directory);
    }

    /// Adds a manual page, which is compressed; `name` ends in its section.
    pub fn manual_page(&mut self, name: &str, text: &str) {
        let section = name.rsplit('.').next().unwrap_or_default();
        let path = format!("/usr/share/man/man{section}/{name}.gz");
        self.file(&path, 0o644, gzip(text.as_bytes()));
    }

    /// Adds what every package has to say about itself: licence and history.
    pub fn documentation(&mut self, copyright: &str, changelog: &str) {
        let directory = format!("/usr/share/doc/{}", self.control.name);
        self.file(&format!("{directory}/copyright"), 0o644, copyright);
        let changelog = gzip(changelog.as_bytes());
        // Debian's own changes of a program have a file beside the program's.
        let name = match self.control.version.contains('-') {
            true => "changelog.Debian.gz",
            false => "changelog.gz",
        };
        self.file(&format!("{directory}/{name}"), 0o644, changelog);
    }

    /// Adds what lintian should not complain of, with the reasons as comments.
    pub fn lintian(&mut self, lines: &[&str]) {
        let path = format!("/usr/share/lintian/overrides/{}", self.control.name);
        let lines = lines.iter().map(|line| format!("{line}\n"));
        self.file(&path, 0o644, lines.collect::<String>());
    }

    /// Sets a script that dpkg runs, such as `postinst`.
    pub fn script(&mut self, name: &'static str, text: &str) {
        self.scripts.insert(name, text.to_owned());
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/').to_owned();
        let parents = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
        for parent in parents.collect::<Vec<_>>() {
            self.files.entry(parent).or_insert(Entry::Directory);
        }
        self.files.insert(path, entry);
    }

    /// The file name that such a package has by custom.
    #[must_use]
    pub fn file_name(&self) -> String {
        let Control {
            name,
            version,
            architecture,
            ..
        } = &self.control;
        format!("{name}_{version}_{architecture}.deb")
    }

    /// The package; `time`, in seconds since 1970, is that of all files.
    ///
    /// # Errors
    /// A path, a file or a field that the format cannot hold.
    pub fn build(&self, time: u64) -> Result<Vec<u8>, DebError> {
        let control = gzip(&tar::write(&self.control_files()?, time)?);
        let data = gzip(&tar::write(&self.files, time)?);
        Ok(archive::write(
            &[
                ("debian-binary", b"2.0\n".as_slice()),
                ("control.tar.gz", &control),
                ("data.tar.gz", &data),
            ],
            time,
        ))
    }

    fn control_files(&self) -> Result<BTreeMap<String, Entry>, DebError> {
        let mut files = BTreeMap::new();
        let mut add = |name: &str, mode, text: String| {
            if !text.is_empty() {
                let bytes = text.into_bytes();
                files.insert(name.to_owned(), Entry::File { mode, bytes });
            }
        };
        add("control", 0o644, self.control.text(&self.files)?);
        add("md5sums", 0o644, self.sums());
        let conffiles = self.conffiles.iter().map(|path| format!("{path}\n"));
        add("conffiles", 0o644, conffiles.collect());
        for (name, text) in &self.scripts {
            add(name, 0o755, text.clone());
        }
        Ok(files)
    }

    fn sums(&self) -> String {
        use md5::{Digest, Md5};
        let line = |(path, entry): (&String, &Entry)| match entry {
            Entry::File { bytes, .. } if !self.is_conffile(path) => {
                Some(format!("{:x}  {path}\n", Md5::digest(bytes)))
            }
            _ => None,
        };
        self.files.iter().filter_map(line).collect()
    }

    fn is_conffile(&self, path: &str) -> bool {
        let mut conffiles = self.conffiles.iter();
        conffiles.any(|conffile| conffile.trim_matches('/') == path)
    }
}

#[cfg(test)]
mod tests;
