//! Options of `virtio-blk`, as ACRN writes them.
//!
//! `[iothread[=…],][mq=N,]path[,ro][,writeback|writethru][,nocache][,discard[=s:n:a]]
//! [,sectorsize=L[/P]][,range=first/count][,aio=io_uring|threads][,serial=TEXT]`, or `nodisk`
//! in place of a path. Any order is fine: the path is the first word that is no option, or
//! what follows `path=`.

use std::path::PathBuf;

use crate::pci::DeviceError;
use crate::virtio::options::{DeviceOption, OptionList, number, refuse};

/// Name of the device in errors.
pub const NAME: &str = "virtio-blk";
/// Most queues.
pub const MOST_QUEUES: u16 = 16;

/// How requests reach the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where the kernel has it, else as [`Engine::Threads`].
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// One thread for each queue that makes one system call for each request.
    Threads,
}

/// Limits of discard requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardLimits {
    /// Most sectors in a segment.
    pub sectors: u32,
    /// Most segments in a request.
    pub segments: u32,
    /// Alignment in sectors.
    pub alignment: u32,
}

/// The options, read but not yet checked against the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockOptions {
    /// The image, partition or disk; `None` for `nodisk`.
    pub path: Option<PathBuf>,
    /// The guest may not write.
    pub read_only: bool,
    /// The guest sees a volatile write cache from the start.
    pub writeback: bool,
    /// Bypass the host's page cache.
    pub direct: bool,
    /// Offer discard.
    pub discard: Option<DiscardLimits>,
    /// Logical and physical block size in bytes.
    pub block_size: Option<(u32, u32)>,
    /// First sector and number of sectors of the part that the guest sees.
    pub range: Option<(u64, u64)>,
    /// How to do I/O.
    pub engine: Engine,
    /// Number of queues.
    pub queues: u16,
    /// What the guest reads as the serial number.
    pub serial: Option<String>,
}

impl BlockOptions {
    /// Reads the option string.
    ///
    /// # Errors
    /// The first option that is not understood, or a missing path.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let mut options = Self {
            queues: 1,
            ..Self::default()
        };
        let mut nodisk = false;
        for option in OptionList::new(text) {
            match option.text {
                "nodisk" => nodisk = true,
                _ => options.take(option)?,
            }
        }
        if options.path.is_none() && !nodisk {
            let remedy = "name an image file, a partition or a disk, or write nodisk".into();
            return Err(refuse(NAME, text, remedy));
        }
        Ok(options)
    }

    fn take(&mut self, option: DeviceOption<'_>) -> Result<(), DeviceError> {
        match (option.key, option.value) {
            ("ro", None) => self.read_only = true,
            ("writeback", None) => self.writeback = true,
            ("writethru" | "writethrough", None) => self.writeback = false,
            ("nocache", None) => self.direct = true,
            // Every queue has its thread, and `b` marked a boot device for an old loader.
            ("iothread", _) | ("no_bst_block" | "b", None) => {}
            ("discard", limits) => self.discard = Some(discard_limits(option, limits)?),
            ("sectorsize", Some(sizes)) => self.block_size = Some(block_sizes(option, sizes)?),
            ("range", Some(range)) => self.range = Some(sector_range(option, range)?),
            ("mq", Some(count)) => self.queues = queue_count(option, count)?,
            ("aio", Some("io_uring")) => self.engine = Engine::IoUring,
            ("aio", Some("threads")) => self.engine = Engine::Threads,
            ("aio", _) => return wrong(option, "use aio=io_uring or aio=threads"),
            ("serial", Some(serial)) if serial.len() <= 20 => self.serial = Some(serial.into()),
            ("serial", _) => return wrong(option, "a serial number has up to 20 bytes"),
            ("path", Some(path)) if self.path.is_none() => self.path = Some(path.into()),
            _ if self.path.is_none() => self.path = Some(option.text.into()),
            _ => {
                return wrong(
                    option,
                    "after the path it takes ro, writeback, writethru, nocache, discard, \
                     sectorsize=, range=, aio=, mq= and serial=",
                );
            }
        }
        Ok(())
    }
}

/// The error for a medium that is to go into a drive which has one.
pub fn refuse_medium(medium: &str) -> DeviceError {
    let remedy = "this disk has its medium; only one with nodisk can get another";
    refuse(NAME, medium, remedy.to_owned())
}

fn wrong<T>(option: DeviceOption<'_>, remedy: &str) -> Result<T, DeviceError> {
    Err(refuse(NAME, option.text, remedy.to_owned()))
}

fn queue_count(option: DeviceOption<'_>, count: &str) -> Result<u16, DeviceError> {
    match count.parse() {
        Ok(count @ 1..=MOST_QUEUES) => Ok(count),
        _ => wrong(option, "the number of queues is 1 to 16"),
    }
}

fn discard_limits(
    option: DeviceOption<'_>,
    limits: Option<&str>,
) -> Result<DiscardLimits, DeviceError> {
    let mut found = DiscardLimits {
        sectors: 1 << 22,
        segments: 32,
        alignment: 1,
    };
    let fields = [
        &mut found.sectors,
        &mut found.segments,
        &mut found.alignment,
    ];
    for (field, text) in fields.into_iter().zip(limits.unwrap_or("").split(':')) {
        match text.parse() {
            _ if text.is_empty() => {}
            Ok(number) if number > 0 => *field = number,
            _ => return wrong(option, "write discard=SECTORS:SEGMENTS:ALIGNMENT"),
        }
    }
    found.segments = found.segments.min(256);
    Ok(found)
}

fn block_sizes(option: DeviceOption<'_>, sizes: &str) -> Result<(u32, u32), DeviceError> {
    let (logical, physical) = sizes.split_once('/').unwrap_or((sizes, sizes));
    let valid = |text: &str| {
        let size: u32 = text.parse().ok()?;
        (size.is_power_of_two() && (512..=65536).contains(&size)).then_some(size)
    };
    match (valid(logical), valid(physical)) {
        (Some(logical), Some(physical)) if logical <= physical => Ok((logical, physical)),
        _ => wrong(
            option,
            "write sectorsize=LOGICAL/PHYSICAL in bytes, powers of two from 512 to 65536",
        ),
    }
}

fn sector_range(option: DeviceOption<'_>, range: &str) -> Result<(u64, u64), DeviceError> {
    let parts = range
        .split_once('/')
        .and_then(|(a, b)| number(a).zip(number(b)));
    match parts {
        Some((first, count)) if count > 0 => Ok((first, count)),
        _ => wrong(option, "write range=FIRST/COUNT in sectors of 512 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_precede_and_follow_the_path() {
        let options = BlockOptions::parse(
            "iothread=2@0:1,mq=4,/images/a.img,writeback,discard=8:4:1,sectorsize=512/4096,\
             range=2048/100,aio=threads,nocache,serial=disk7",
        )
        .unwrap();
        let expected = BlockOptions {
            path: Some("/images/a.img".into()),
            read_only: false,
            writeback: true,
            direct: true,
            discard: Some(DiscardLimits {
                sectors: 8,
                segments: 4,
                alignment: 1,
            }),
            block_size: Some((512, 4096)),
            range: Some((2048, 100)),
            engine: Engine::Threads,
            queues: 4,
            serial: Some("disk7".into()),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn writes_go_through_unless_asked_otherwise() {
        assert!(!BlockOptions::parse("a.img").unwrap().writeback);
    }

    #[test]
    fn nodisk_needs_no_path() {
        assert_eq!(BlockOptions::parse("nodisk").unwrap().path, None);
    }

    #[test]
    fn each_mistake_is_named_with_a_remedy() {
        for (text, named) in [
            ("", "name an image file"),
            ("a.img,mq=0", "mq=0"),
            ("a.img,sectorsize=513", "sectorsize=513"),
            ("a.img,sectorsize=4096/512", "powers of two"),
            ("a.img,aio=posix", "aio=threads"),
            ("a.img,range=5", "range=FIRST/COUNT"),
            ("a.img,turbo", "turbo"),
        ] {
            let error = BlockOptions::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
