//! Messages for the operator, on standard error.

use std::io::Write;
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};

struct Logger {
    name: String,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = record.level().as_str().to_ascii_lowercase();
        // A terminal in raw mode needs the carriage return; elsewhere it does no harm.
        let text = format!("acrn-dm {}: {level}: {}\r\n", self.name, record.args());
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn flush(&self) {}
}

/// Starts logging for a VM. Has an effect once.
pub fn start(name: &str, level: LevelFilter) {
    let logger = LOGGER.get_or_init(|| Logger {
        name: name.to_owned(),
    });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}
