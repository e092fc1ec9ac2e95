//! The program `acrn-image`.

use std::process::ExitCode;

use acrn_image::cli::Args;
use acrn_image::run::run;
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            if args.json {
                println!("{}", serde_json::json!({ "error": error.to_string() }));
            } else {
                eprintln!("acrn-image: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
