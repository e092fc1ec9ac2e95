//! Bochs's source package of the Debian release after ours, fetched and verified by apt.
//!
//! apt gets a configuration of its own with one source, that release on the mirror that this
//! computer uses anyway, and directories of its own: nothing outside `target/` changes. The index
//! of packages is signed by Debian and names the digests of the archives; apt checks both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::layout::Layout;
use crate::progress::{Step, output_of};
use crate::rootfs::fresh_directory;

/// The release that has the version that we want.
const RELEASE: &str = "trixie";
/// The release whose mirror is taken.
const OUR_RELEASE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A mirror and the keys that its index is signed with.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    uri: String,
    keyring: String,
}

/// The archives of a source package.
pub(super) struct Archives {
    /// The author's source.
    pub(super) original: PathBuf,
    /// Debian's changes.
    pub(super) debian: PathBuf,
}

/// Downloads the archives into an empty directory.
pub(super) fn download(layout: &Layout, step: &Step, package: &str) -> Result<Archives> {
    let apt = Apt::new(&fresh_directory(&layout.cache().join("bochs-source"))?)?;
    let log = |what: &str| layout.logs().join(format!("bochs-{what}.log"));
    step.detail("reading the index of packages");
    step.run(apt.get().arg("update"), &log("index"), |_| None)?;
    step.detail("downloading the source (4 MB)");
    // The description (.dsc) is left out: the index has all that matters of it.
    for part in ["--tar-only", "--diff-only"] {
        let mut get = apt.get();
        get.args(["source", "--only-source", "--download-only", part, package]);
        step.run(&mut get, &log(&format!("download{part}")), |_| None)?;
    }
    Ok(Archives {
        original: apt.file(&["_", ".orig.tar."])?,
        debian: apt.file(&["_", ".debian.tar."])?,
    })
}

/// apt with directories of its own.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(directory: &Path) -> Result<Self> {
        let listing = output_of(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)",
            "Created-By: Packages",
        ]))?;
        let mirror = mirror(&listing)?;
        for name in ["sources", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(name))?;
        }
        fs::write(
            directory.join("sources").join(format!("{RELEASE}.sources")),
            source(&mirror),
        )?;
        Ok(Self {
            directory: directory.to_path_buf(),
        })
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.current_dir(&self.directory);
        for (name, value) in [
            ("Dir::Etc::SourceList", PathBuf::from("/dev/null")),
            ("Dir::Etc::SourceParts", self.directory.join("sources")),
            ("Dir::State::Lists", self.directory.join("lists")),
            ("Dir::Cache", self.directory.join("cache")),
            ("Acquire::Languages", "none".into()),
            // Root's downloads would go through a user that cannot write here.
            ("APT::Sandbox::User", "root".into()),
        ] {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        }
        command
    }

    /// The one downloaded file with these parts in its name.
    fn file(&self, parts: &[&str]) -> Result<PathBuf> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if parts.iter().all(|part| name.contains(part)) {
                return Ok(path);
            }
        }
        bail!(
            "apt-get source left no file *{} in {}",
            parts.join("*"),
            self.directory.display()
        )
    }
}

/// The mirror of our release in apt's list of sources: address, release, component and keyring,
/// separated by bars.
fn mirror(listing: &str) -> Result<Mirror> {
    let line = listing.lines().find_map(|line| {
        let fields: Vec<&str> = line.split('|').collect();
        let [uri, release, "main", keyring] = fields[..] else {
            return None;
        };
        (release == OUR_RELEASE).then(|| Mirror {
            uri: uri.to_owned(),
            keyring: if keyring.starts_with('/') {
                keyring.to_owned()
            } else {
                KEYRING.to_owned()
            },
        })
    });
    line.with_context(|| {
        format!(
            "apt has no source for the component main of Debian's release {OUR_RELEASE}; \
             add it to /etc/apt/sources.list"
        )
    })
}

/// Our source in apt's format.
fn source(mirror: &Mirror) -> String {
    format!(
        "Types: deb-src\nURIs: {}\nSuites: {RELEASE}\nComponents: main\nSigned-By: {}\n",
        mirror.uri, mirror.keyring
    )
}

/// Unpacks both archives and applies Debian's patches and then ours; returns the source's directory.
pub(super) fn unpack(
    layout: &Layout,
    step: &Step,
    archives: &Archives,
    patches: &[PathBuf],
) -> Result<PathBuf> {
    step.detail("unpacking the source");
    let parent = fresh_directory(&layout.cache().join("bochs-build"))?;
    let log = layout.logs().join("bochs-unpack.log");
    let unpack = |archive: &Path, directory: &Path| {
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(archive).arg("-C").arg(directory);
        step.run(&mut tar, &log, |_| None)
    };
    unpack(&archives.original, &parent)?;
    let mut entries = fs::read_dir(&parent)?;
    let source = entries
        .next()
        .with_context(|| format!("{} is empty", archives.original.display()))??
        .path();
    ensure!(
        source.is_dir() && entries.next().is_none(),
        "{} does not have one directory",
        archives.original.display()
    );
    unpack(&archives.debian, &source)?;
    let series = fs::read_to_string(source.join("debian/patches/series"))?;
    let debian = series_of(&series).map(|name| source.join("debian/patches").join(name));
    for patch in debian.chain(patches.iter().cloned()) {
        let mut command = Command::new("patch");
        command.args(["-p1", "--batch", "--forward", "-i"]);
        command.arg(&patch).current_dir(&source);
        step.run(&mut command, &layout.logs().join("bochs-patch.log"), |_| {
            None
        })
        .with_context(|| format!("{} does not fit", patch.display()))?;
    }
    Ok(source)
}

/// The names of the patches in a `series` file.
fn series_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.split('#').next()?.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_our_release_and_nothing_else() {
        let listing = "\
https://one.example/security|bookworm-security|main|\n\
https://two.example/debian|bookworm|contrib|/usr/share/keyrings/other.gpg\n\
https://two.example/debian|bookworm|main|/usr/share/keyrings/other.gpg\n\
https://three.example/debian|bookworm|main|\n";
        assert_eq!(
            mirror(listing).unwrap(),
            Mirror {
                uri: "https://two.example/debian".into(),
                keyring: "/usr/share/keyrings/other.gpg".into(),
            }
        );
        let named = "https://a.example|bookworm|main|0123456789ABCDEF";
        assert_eq!(mirror(named).unwrap().keyring, KEYRING);
        let error = mirror("https://a.example|trixie|main|").unwrap_err();
        assert!(error.to_string().contains("bookworm"), "{error}");
    }

    #[test]
    fn our_source_has_source_packages_only_and_a_key() {
        let text = source(&Mirror {
            uri: "https://a.example/debian".into(),
            keyring: KEYRING.into(),
        });
        assert!(text.starts_with("Types: deb-src\nURIs: https://a.example/debian\n"));
        assert!(text.contains("Signed-By: /usr/share/keyrings/"), "{text}");
    }

    #[test]
    fn comments_and_options_in_a_series_are_no_names() {
        let text = "# first\none.patch\n\ntwo.patch -p1 # why\n";
        assert_eq!(
            series_of(text).collect::<Vec<_>>(),
            ["one.patch", "two.patch"]
        );
    }
}
