//! The program `acrn-config`; see [`acrn_config::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    acrn_config::cli::main()
}
