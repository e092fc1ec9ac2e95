//! What the program does with its command line.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::Args;
use crate::doctor::examine;
use crate::host::Host;
use crate::inspect::inspect;
use crate::summary;

/// What comes of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For standard output.
    pub text: String,
    /// For standard error.
    pub remarks: String,
    /// A file to write.
    pub file: Option<(PathBuf, String)>,
    /// Whether all is well.
    pub good: bool,
}

/// Does it, without writing anything yet.
pub fn run(args: &Args) -> Outcome {
    if let Some(shell) = args.completion {
        let mut script = Vec::new();
        clap_complete::generate(
            shell,
            &mut Args::command(),
            "acrn-board-inspector",
            &mut script,
        );
        return printed(String::from_utf8_lossy(&script).into_owned(), true);
    }
    let host = Host::new(&args.root);
    if args.is_doctor() {
        let diagnosis = examine(&host);
        let json = serde_json::to_string_pretty(&diagnosis).unwrap_or_default() + "\n";
        return printed(
            if args.json { json } else { diagnosis.text() },
            diagnosis.runs,
        );
    }
    let name = args.name.clone().unwrap_or_default();
    let inspection = inspect(&host, &name, &args.images);
    let path = args
        .out
        .clone()
        .unwrap_or_else(|| format!("{name}.xml").into());
    let summary = if args.json {
        format!("{:#}\n", summary::json(&inspection))
    } else {
        summary::text(&inspection)
    };
    // The file itself goes to standard output with `-`.
    let (text, remarks) = if path.as_os_str() == "-" {
        (String::new(), summary)
    } else {
        (summary, String::new())
    };
    Outcome {
        text,
        remarks,
        file: Some((path, inspection.text)),
        good: true,
    }
}

fn printed(text: String, good: bool) -> Outcome {
    Outcome {
        text,
        good,
        ..Outcome::default()
    }
}
