//! `cargo xtask`: the commands that people type.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, bochs, build, deb, demo, layout::Layout, setup, test};

/// Build, boot and test acrn-rs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot the hypervisor, its Service VM and a User VM in QEMU.
    Demo(demo::Options),
    /// Run every test: unit tests on this host, then the system tests in QEMU.
    Test(test::Options),
    /// Count the instructions that virtualization costs, against bare metal and KVM.
    Bench(bench::Options),
    /// Build parts of the system without running anything.
    Build(build::Options),
    /// Make the Debian packages: hypervisor, tools, the Service VM's kernel, a scenario.
    Deb(deb::Options),
    /// Install the Debian packages that building and running need, and build Bochs.
    Setup(setup::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let layout = Layout::of_this_repository()?;
    match cli.command {
        Command::Demo(options) => demo::run(&layout, &options),
        Command::Test(options) => test::run(&layout, &options),
        Command::Bench(options) => bench::run(&layout, &options),
        Command::Build(options) => build::run(&layout, &options).map(|()| ExitCode::SUCCESS),
        Command::Deb(options) => deb::run(&layout, &options).map(|()| ExitCode::SUCCESS),
        Command::Setup(options) => {
            setup::run(&options)?;
            bochs::build::build(&layout)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
