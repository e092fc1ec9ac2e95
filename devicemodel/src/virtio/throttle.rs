//! Limits what a guest can make us log: a driver that breaks a rule and resets in a loop must
//! not fill the Service VM's disk.

use std::sync::Mutex;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(10);
const MESSAGES: u32 = 10;

static WINDOW: Mutex<Option<(Instant, u32)>> = Mutex::new(None);

/// Whether one more message about a guest's misbehaviour may be written now.
pub fn may_log() -> bool {
    let mut window = WINDOW
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let now = Instant::now();
    let (start, count) = window
        .filter(|(start, _)| now - *start < PERIOD)
        .unwrap_or((now, 0));
    *window = Some((start, count.saturating_add(1)));
    count < MESSAGES
}
