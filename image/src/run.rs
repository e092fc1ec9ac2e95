//! What the program does with its command line.

use clap::CommandFactory;
use serde_json::{Value, json};

use crate::cli::{Args, Command};
use crate::{ImageError, convert, create, resize, seed};

/// Does it; the result is what is to be printed.
///
/// # Errors
/// Why it cannot be done, or what is wrong with the image that was to be checked.
pub fn run(args: &Args) -> Result<String, ImageError> {
    let result = match &args.command {
        Command::Create(options) => create::create(options)?,
        Command::Convert { from, to } => convert::convert(from, to)?,
        Command::Resize { image, size } => resize::resize(image, *size)?,
        Command::Check { image } => {
            let wrong = resize::check(image)?;
            if !wrong.is_empty() {
                return Err(ImageError::Damaged {
                    path: image.clone(),
                    findings: wrong.join("\n"),
                });
            }
            json!({ "image": image, "in order": true })
        }
        Command::Seed(options) => seed::seed(options)?,
        Command::Completion { shell } => return Ok(completion(*shell)),
    };
    Ok(if args.json {
        format!("{result:#}\n")
    } else {
        lines(&result)
    })
}

/// The result for people.
fn lines(result: &Value) -> String {
    let fields = result.as_object().into_iter().flatten();
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    fields
        .map(|(name, value)| format!("{name}: {}\n", text(value)))
        .collect()
}

fn completion(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "acrn-image", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
