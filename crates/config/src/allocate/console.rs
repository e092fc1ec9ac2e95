//! Where the hypervisor's console is.

use crate::Board;
use crate::board::TtyPlace;
use acrn_config_blob::{Console, ConsoleKind};

/// The serial port that `name`, such as `/dev/ttyS0`, means on the board; none for `None`.
pub fn console(board: &Board, name: &str) -> Option<Console> {
    let short = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let tty = board
        .ttys()
        .into_iter()
        .find(|tty| short(&tty.path) == short(name))?;
    let (kind, address) = match tty.place {
        TtyPlace::Port(port) => (ConsoleKind::Port, port),
        TtyPlace::Memory(address) => (ConsoleKind::Memory, address),
        TtyPlace::Pci(bdf) => (ConsoleKind::Pci, bdf.0.into()),
    };
    Some(Console { kind, address })
}
