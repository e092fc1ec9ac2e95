//! Seeds for cloud-init: a small file system with the label CIDATA (its data source "NoCloud").

use std::fs::{self, File};
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::Seed;
use crate::create::{host_name, parent, read};
use crate::tools::{program, run};
use crate::{ImageError, io};

const SIZE: u64 = 1 << 20;

/// Makes a seed; says what there is then.
pub(crate) fn seed(options: &Seed) -> Result<Value, ImageError> {
    host_name(&options.hostname)?;
    let user_data = match &options.user_data {
        Some(path) => read(path)?,
        None => user_data(options)?,
    };
    let meta_data = format!("instance-id: {0}\nlocal-hostname: {0}\n", options.hostname);
    let image = &options.seed;
    let file = File::create_new(image).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ImageError::Exists(image.clone()),
        _ => io(image)(error),
    })?;
    file.set_len(SIZE).map_err(io(image))?;
    let name = image.display().to_string();
    let geometry = ["-v", "CIDATA", "-T", "2048", "-h", "2", "-s", "16", "::"];
    run(
        "file system",
        program("mformat", ["-i", &name]).args(geometry),
    )?;
    let near = parent(image);
    let scratch = tempfile::tempdir_in(near).map_err(io(near))?;
    for (file, text) in [("user-data", &user_data), ("meta-data", &meta_data)] {
        copy(&name, scratch.path(), file, text)?;
    }
    Ok(json!({ "seed": image, "size": SIZE }))
}

fn copy(image: &str, scratch: &Path, file: &str, text: &str) -> Result<(), ImageError> {
    let path = scratch.join(file);
    fs::write(&path, text).map_err(io(&path))?;
    let mut mcopy = program("mcopy", ["-i", image]);
    run("files", mcopy.arg(&path).arg(format!("::{file}"))).map(drop)
}

fn user_data(options: &Seed) -> Result<String, ImageError> {
    let mut text = format!("#cloud-config\nhostname: {}\n", options.hostname);
    if let Some(path) = &options.ssh_key {
        text += "ssh_authorized_keys:\n";
        for key in read(path)?.lines().filter(|line| !line.trim().is_empty()) {
            // A string of JSON is one of YAML, whatever is in it.
            text += &format!("  - {}\n", json!(key));
        }
    }
    Ok(text)
}
