//! Where things lie: one place that knows the paths of the repository and of `target/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Paths of one checkout.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The checkout that this program was built from.
    ///
    /// # Errors
    /// The directory has been moved or deleted since.
    pub fn of_this_repository() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest);
        let root = root
            .canonicalize()
            .with_context(|| format!("{} is gone; build xtask again", root.display()))?;
        Ok(Self { root })
    }

    /// A layout below a directory of the caller's choice (tests).
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// The top of the repository.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the top of the repository.
    #[must_use]
    pub fn source(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Cargo's output directory, and the parent of all others.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Things that are slow to make and seldom change: kernel source and objects, packages.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.target().join("cache")
    }

    /// Bare-metal images: hypervisor and micro-guests.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.target().join("image")
    }

    /// Statically linked programs for guests: `acrn-dm`, the benchmark's init.
    #[must_use]
    pub fn guest_programs(&self) -> PathBuf {
        self.target().join("guest")
    }

    /// RAM disks and disk images.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.target().join("rootfs")
    }

    /// Logs of builds and of runs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.target().join("logs")
    }

    /// Scratch directories of running machines.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.target().join("run")
    }
}

/// `path` relative to the current directory where that is shorter to read.
#[must_use]
pub fn display(path: &Path) -> String {
    std::env::current_dir()
        .ok()
        .and_then(|here| {
            path.strip_prefix(here)
                .ok()
                .map(|p| p.display().to_string())
        })
        .unwrap_or_else(|| path.display().to_string())
}
