//! Writes RAM disks: cpio archives of the "newc" kind, which the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Owned by root and dated 1970 throughout, so that the same content gives the same
//! bytes whoever builds it; device nodes need no privileges here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory and its parents, each once.
    ///
    /// # Errors
    /// As for every entry: the name or the content does not fit the format.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..]
                .find('/')
                .map_or(path.len(), |next| end + 1 + next);
            let prefix = path[..end].to_owned();
            if self.directories.insert(prefix.clone()) {
                self.entry(&prefix, S_IFDIR | 0o755, 2, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file with the permission bits `mode`.
    ///
    /// # Errors
    /// The file is larger than 4 GiB.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parent_of(path)?;
        self.entry(path, S_IFREG | mode & 0o7777, 1, (0, 0), content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// The name does not fit the format.
    pub fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.parent_of(path)?;
        self.entry(path, S_IFLNK | 0o777, 1, (0, 0), to.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// The name does not fit the format.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.parent_of(path)?;
        self.entry(path, S_IFCHR | 0o600, 1, (major, minor), &[])
    }

    /// Adds a file of this machine under another name, with its executable bit.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let unreadable = || format!("cannot read {}", from.display());
        let content = fs::read(from).with_context(unreadable)?;
        let mode = fs::metadata(from)
            .with_context(unreadable)?
            .permissions()
            .mode();
        self.file(
            path,
            if mode & 0o111 != 0 { 0o755 } else { 0o644 },
            &content,
        )
    }

    /// Adds everything below a directory of this machine, in the order of names.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn copy_tree(&mut self, path: &str, from: &Path) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(from)
            .with_context(|| format!("cannot read {}", from.display()))?
            .collect::<std::io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let inside = format!("{path}/{}", name.to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.directory(&inside)?;
                self.copy_tree(&inside, &entry.path())?;
            } else {
                self.copy(&inside, &entry.path())?;
            }
        }
        Ok(())
    }

    /// The finished archive.
    ///
    /// # Errors
    /// None in practice; the closing entry fits the format.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.inode = u32::MAX;
        self.entry("TRAILER!!!", 0, 1, (0, 0), &[])?;
        self.pad();
        Ok(self.bytes)
    }

    fn parent_of(&mut self, path: &str) -> Result<()> {
        match path.trim_matches('/').rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> Result<()> {
        let path = path.trim_matches('/');
        ensure!(
            !path.is_empty() && !path.contains('\0'),
            "{path:?} is no file name"
        );
        let size = u32::try_from(content.len())
            .with_context(|| format!("{path} is too large for a RAM disk"))?;
        self.inode = self.inode.wrapping_add(1);
        let name_size = u32::try_from(path.len() + 1)?;
        // ino mode uid gid nlink mtime filesize dev rdev namesize check
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.file("bin/tool", 0o755, b"hello").unwrap();
        archive.link("bin/alias", "tool").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.directory("a/b/c").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn a_header_has_thirteen_hexadecimal_fields_and_data_is_aligned() {
        let mut archive = Archive::new();
        archive.file("f", 0o644, b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000081A4");
        assert_eq!(&bytes[110..112], b"f\0");
        assert_eq!(&bytes[112..120], b"12345\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn parents_are_made_once() {
        let bytes = sample();
        let count = bytes.windows(4).filter(|w| *w == b"bin\0").count();
        assert_eq!(count, 1);
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert!(Archive::new().file("/", 0o644, b"").is_err());
    }

    #[test]
    fn cpio_lists_what_was_written() {
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-it", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            return; // cpio is not needed for anything else.
        };
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let names: Vec<_> = listing.lines().collect();
        assert_eq!(
            names,
            [
                "bin",
                "bin/tool",
                "bin/alias",
                "dev",
                "dev/console",
                "a",
                "a/b",
                "a/b/c"
            ]
        );
    }
}
