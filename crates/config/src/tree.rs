//! A configuration or a file as a tree of names and values: for printing, for programs, for comparing.

use acrn_config_blob::{Config, Shown, Visitor};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// A name with a value, or with more below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Branch,
}

/// What is at a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Branch {
    /// A value.
    Leaf(Value),
    /// Parts with names of their own.
    Group(Vec<Tree>),
    /// Parts in order.
    List(Vec<Tree>),
}

impl Tree {
    /// The tree of a configuration.
    pub fn of_config(config: &Config<'_>) -> Self {
        let mut builder = Builder {
            open: vec![Self::group("")],
        };
        config.walk(&mut builder);
        let mut root = builder.open.swap_remove(0);
        match &mut root.kind {
            Branch::Group(parts) if parts.len() == 1 => parts.swap_remove(0),
            _ => root,
        }
    }

    fn group(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: Branch::Group(Vec::new()),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        match &self.kind {
            Branch::Leaf(value) => value.clone(),
            Branch::List(parts) => parts.iter().map(Self::json).collect(),
            Branch::Group(parts) => {
                let parts = parts.iter().map(|part| (part.name.clone(), part.json()));
                Value::Object(parts.collect::<Map<_, _>>())
            }
        }
    }

    /// For people: a line for each name, indented.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        self.print(0, None, &mut text);
        text
    }

    fn print(&self, depth: usize, number: Option<usize>, text: &mut String) {
        let indent = 2 * depth;
        let number = number.map_or(String::new(), |number| format!("[{number}]"));
        let name = &self.name;
        // Writing to a string does not fail.
        let _ = match &self.kind {
            Branch::Leaf(value) => {
                writeln!(text, "{:indent$}{name}{number}: {}", "", plain(name, value))
            }
            Branch::List(parts) if parts.is_empty() => Ok(()),
            Branch::List(parts) => {
                for (number, part) in parts.iter().enumerate() {
                    part.print(depth, Some(number), text);
                }
                Ok(())
            }
            Branch::Group(parts) => {
                let done = writeln!(text, "{:indent$}{name}{number}", "");
                parts
                    .iter()
                    .for_each(|part| part.print(depth + 1, None, text));
                done
            }
        };
    }

    /// Paths and values of all leaves.
    pub fn leaves(&self) -> Vec<(String, String)> {
        let mut leaves = Vec::new();
        self.collect("", &mut leaves);
        leaves
    }

    fn collect(&self, path: &str, leaves: &mut Vec<(String, String)>) {
        let below = |path: &str, name: &str| match path {
            "" => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        match &self.kind {
            Branch::Leaf(value) => leaves.push((path.to_owned(), plain(&self.name, value))),
            Branch::Group(parts) => {
                parts
                    .iter()
                    .for_each(|part| part.collect(&below(path, &part.name), leaves));
            }
            Branch::List(parts) => {
                for (number, part) in parts.iter().enumerate() {
                    part.collect(&format!("{path}[{number}]"), leaves);
                }
            }
        }
    }
}

/// Numbers that people read in hexadecimal.
const HEXADECIMAL: &[&str] = &[
    "address",
    "apic_id",
    "device",
    "gpu",
    "mask",
    "memory_size",
    "port",
    "ram_size",
    "severity",
    "size",
    "vendor",
];

/// A value as people read it.
fn plain(name: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (Value::String(text), _) => text.clone(),
        (Value::Null, _) => "none".to_owned(),
        (_, Some(number)) if HEXADECIMAL.contains(&name) => format!("{number:#x}"),
        (other, _) => other.to_string(),
    }
}

/// Makes a tree of what a configuration shows.
struct Builder {
    open: Vec<Tree>,
}

impl Builder {
    fn add(&mut self, tree: Tree) {
        if let Some(Tree {
            kind: Branch::Group(parts) | Branch::List(parts),
            ..
        }) = self.open.last_mut()
        {
            parts.push(tree);
        }
    }
}

impl Visitor for Builder {
    fn value(&mut self, name: &'static str, value: Shown<'_>) {
        let value = match value {
            Shown::Number(number) => json!(number),
            Shown::Signed(number) => json!(number),
            Shown::Address(address) => json!(format!("{address:#x}")),
            Shown::Bits(bits) => json!(format!("{bits:#x}")),
            Shown::Flag(flag) => json!(flag),
            Shown::Text(text) => json!(text),
            Shown::Bdf(bdf) => json!(bdf.to_string()),
            Shown::Nothing => Value::Null,
        };
        self.add(Tree {
            name: name.to_owned(),
            kind: Branch::Leaf(value),
        });
    }

    fn group(&mut self, name: &'static str) {
        self.open.push(Tree::group(name));
    }

    fn list(&mut self, name: &'static str, _: usize) {
        self.open.push(Tree {
            name: name.to_owned(),
            kind: Branch::List(Vec::new()),
        });
    }

    fn end(&mut self) {
        if let Some(tree) = self.open.pop() {
            self.add(tree);
        }
    }
}
