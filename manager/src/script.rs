//! What a launch script calls its VM, found without running it.
//!
//! ACRN's `acrnctl add` runs the script with another program in the place of `acrn-dm`, which also
//! does whatever else the script does: loads modules, takes CPUs off line, unbinds devices. The name
//! is the last word for `acrn-dm`, though, and mostly an array or plain variables lead to it. Where they
//! do not, nothing is found, and the user is asked for a name.

use std::collections::BTreeMap;

/// Longest script that is looked at, in bytes.
pub const LONGEST: usize = 256 << 10;
/// Longest value of a variable, in bytes.
const MAX_VALUE: usize = 4096;
/// How deep variables may be in each other.
const DEPTH: u32 = 8;

/// The name of the VM that a script with these words starts, if that can be told.
pub fn vm_name(script: &str, words: &[String]) -> Option<String> {
    let script = script.get(..LONGEST).unwrap_or(script);
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for (number, word) in (1..).zip(words) {
        values.insert(number.to_string(), word.clone());
    }
    let mut name = None;
    let mut lines = joined(script).into_iter();
    while let Some(line) = lines.next() {
        if let Some(rest) = array(&line) {
            // The last word of the array of the Device Model's words.
            name = last_word(&rest_of_array(rest, &mut lines)).or(name);
        } else if let Some((variable, value)) = assignment(&line) {
            let value = expand(value, &values, DEPTH).unwrap_or_default();
            values.insert(variable.to_owned(), value);
        } else if starts_dm(&line) && !line.contains("[@]") {
            name = last_word(&line).or(name);
        }
    }
    let name = expand(&name?, &values, DEPTH)?;
    crate::definition::check_name(&name).is_ok().then_some(name)
}

/// Lines without comments, those that end with a backslash joined with the next.
fn joined(script: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in script.lines() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begin) => {
                open.push_str(begin);
                open.push(' ');
            }
            None => lines.push(std::mem::take(&mut open) + line),
        }
    }
    lines.push(open);
    lines
}

/// What follows `dm_params=(`.
fn array(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once("=(")?;
    let name = name.strip_suffix('+').unwrap_or(name);
    (name == "dm_params").then_some(rest)
}

fn rest_of_array(first: &str, lines: &mut impl Iterator<Item = String>) -> String {
    let mut text = first.to_owned();
    while !text.trim_end().ends_with(')') {
        let Some(line) = lines.next() else { break };
        text.push(' ');
        text.push_str(&line);
    }
    let text = text.trim_end();
    text.strip_suffix(')').unwrap_or(text).to_owned()
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("local ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = !name.is_empty() && name.chars().all(word);
    good.then(|| (name, value.trim()))
}

/// Whether a line runs the Device Model.
fn starts_dm(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let prefix = |word: &&str| ["sudo", "exec", "taskset"].contains(word);
    words
        .find(|word| !prefix(word))
        .is_some_and(|word| word.trim_matches('"').rsplit('/').next() == Some("acrn-dm"))
}

/// The last word, without what follows a command.
fn last_word(text: &str) -> Option<String> {
    let command = text.split(['|', ';', '>', '<']).next()?;
    let words = command.trim_end_matches(['&', ' ']).split_whitespace();
    let word = words.last()?.trim_matches(['"', '\'']);
    (!word.is_empty()).then(|| word.to_owned())
}

/// A word with the values of its variables; nothing when one is not known or a command would have
/// to be run.
fn expand(word: &str, values: &BTreeMap<String, String>, depth: u32) -> Option<String> {
    let word = word.trim_matches(['"', '\'']);
    let mut text = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['$', '`']) {
        text.push_str(rest.get(..at)?);
        let behind = rest.get(at..)?.strip_prefix('$')?;
        let (value, after) = variable(behind, values, depth.checked_sub(1)?)?;
        text.push_str(&value);
        if text.len() > MAX_VALUE {
            return None;
        }
        rest = after;
    }
    text.push_str(rest);
    (text.len() <= MAX_VALUE).then_some(text)
}

/// The value of the variable that a text begins with, behind its `$`, and what follows.
fn variable<'a>(
    text: &'a str,
    values: &BTreeMap<String, String>,
    depth: u32,
) -> Option<(String, &'a str)> {
    if let Some(inner) = text.strip_prefix('{') {
        let end = closing(inner)?;
        let (inner, after) = (inner.get(..end)?, inner.get(end + 1..)?);
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let value = values.get(name).filter(|value| !value.is_empty()).cloned();
        let value = value.or_else(|| expand(default?, values, depth))?;
        return Some((value, after));
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let positional = text.starts_with(|c: char| c.is_ascii_digit());
    let end = if positional {
        1
    } else {
        text.find(|c| !word(c)).unwrap_or(text.len())
    };
    let value = values.get(text.get(..end)?)?;
    Some((value.clone(), text.get(end..)?))
}

/// Where the brace closes that was opened before a text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(script: &str, words: &[&str]) -> Option<String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        vm_name(script, &words)
    }

    #[test]
    fn the_name_in_a_generated_script_is_found() {
        let script = "#!/bin/bash\n# Launch script for VM name: POST_STD_VM1\n\
            mac=$(cat /sys/class/net/e*/address)\n\
            dm_params=(\n    `add_cpus 0 2`\n    -m 4096M\n    \
            `add_logger_settings console=4 kmsg=3 disk=5`\n    POST_STD_VM1\n)\n\
            acrn-dm \"${dm_params[@]}\"\n";
        assert_eq!(name(script, &[]).as_deref(), Some("POST_STD_VM1"));
    }

    #[test]
    fn variables_and_the_scripts_words_are_followed() {
        let script = "function launch()\n{\nvm_name=vm$1\n\
            acrn-dm -m $mem_size -s 0:0,hostbridge \\\n  -k /boot/bzImage \\\n  $vm_name &\n}\nlaunch $1\n";
        assert_eq!(name(script, &["2"]).as_deref(), Some("vm2"));
        assert_eq!(name(script, &[]), None);
        let own = include_str!("../../guest/launch/launch_user_vm_id1.sh");
        assert_eq!(name(own, &[]).as_deref(), Some("POST_STD_VM1"));
        let sudo = "sudo /usr/bin/acrn-dm -m 1G \"rt-vm\" >/tmp/log 2>&1\n";
        assert_eq!(name(sudo, &[]).as_deref(), Some("rt-vm"));
    }

    #[test]
    fn what_only_running_would_tell_is_not_guessed() {
        for script in [
            "",
            "echo acrn-dm vm1\n",
            "acrn-dm $(hostname)\n",
            "acrn-dm `uname -n`\n",
            "acrn-dm vm/../1\n",
            "a=${a:-${a:-$a}}\nacrn-dm $a\n",
            "dm_params=(\n",
        ] {
            assert_eq!(name(script, &[]), None, "{script}");
        }
    }
}
