//! The program `acrn-configurator`; see [`acrn_configurator::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    acrn_configurator::cli::main()
}
