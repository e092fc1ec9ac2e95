//! A board or scenario file: the text and what it means, which are changed together.

use crate::finding::Finding;
use crate::model::{Content, Group, Item, Occurs, Place, Reads, item, settle_all};
use crate::xml::{self, Document, Element};
use crate::{Board, Scenario};
use std::path::Path;

/// A file and what it means.
#[derive(Clone, Debug)]
pub struct File<T> {
    /// Name of the file, for messages.
    pub name: String,
    /// Its text, as a tree.
    pub document: Document,
    /// What it means. Derived from the document; see [`update`](Self::update).
    pub model: T,
    /// What was wrong with single values.
    pub findings: Vec<Finding>,
}

/// A scenario file.
pub type ScenarioFile = File<Scenario>;
/// A board file.
pub type BoardFile = File<Board>;

/// What a file can be.
pub trait Model: Content + Group {
    /// What people call such a file.
    const CALLED: &'static str;
    /// For reading one.
    fn reads(file: &str) -> Reads {
        Reads::new(file)
    }
}

impl Model for Scenario {
    const CALLED: &'static str = "scenario file";
}

impl Model for Board {
    const CALLED: &'static str = "board file";
    fn reads(file: &str) -> Reads {
        Reads::new(file).terse()
    }
}

/// Why a file cannot even be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{file}: {source}; check the path and its permissions")]
    Io {
        /// Name of the file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not text.
    #[error("{file}: not a text in UTF-8; check which file this is, or convert it")]
    NotText {
        /// Name of the file.
        file: String,
    },
    /// It is not XML.
    #[error("{file}:{}: not well-formed XML: {}; correct it with an editor that knows XML", .source.line, .source.what)]
    Xml {
        /// Name of the file.
        file: String,
        /// Where and why.
        source: xml::ParseError,
    },
    /// It is XML of another kind.
    #[error(
        "{file}:1: the outermost element is <{found}>, a {expected} begins with <acrn-config>; check which file this is"
    )]
    Kind {
        /// Name of the file.
        file: String,
        /// Its outermost element.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl<T: Model> File<T> {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let file = path.display().to_string();
        match std::fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => Self::parse(&file, &text),
            Ok(Err(_)) => Err(LoadError::NotText { file }),
            Err(source) => Err(LoadError::Io { file, source }),
        }
    }

    /// Reads a text; `name` is for messages.
    pub fn parse(name: &str, text: &str) -> Result<Self, LoadError> {
        Ok(Self::of(name, document(name, text, T::CALLED)?))
    }

    /// What a document means.
    pub fn of(name: &str, document: Document) -> Self {
        let mut reads = T::reads(name);
        let model = T::from_element(&document.root, &root(), &mut reads);
        Self {
            name: name.to_owned(),
            document,
            model,
            findings: reads.findings(),
        }
    }

    /// Makes the document say what `model` says. What the model does not know, comments and the
    /// order of elements stay; an absent element stays absent if its default is meant.
    pub fn update(&mut self, model: &T) {
        model.to_element(&mut self.document.root, &root());
        self.refresh();
    }

    /// Gives one element a text, such as `vm[2]/memory/size` the text `512`, and makes it and what is
    /// around it if need be; or an attribute, such as `@scenario`. False, and nothing is changed, if
    /// nothing can be there: an unknown name, or a number that leaves others out.
    pub fn set(&mut self, path: &str, text: &str) -> bool {
        let possible = can_be(&self.document.root, T::ITEMS, path, Wanted::Value);
        if possible {
            let (around, last) = path.rsplit_once('/').unwrap_or(("", path));
            match last.strip_prefix('@') {
                Some(name) => self.document.root.make(around).set_attribute(name, text),
                None => self.document.root.make(path).set_text(text),
            }
            self.settle();
        }
        possible
    }

    /// Adds an element to a list, or one that was absent, such as `vm[2]/virtio_devices/network`. The
    /// result is its path with its number. Nothing, and nothing is changed, if none can be there.
    pub fn add(&mut self, path: &str) -> Option<String> {
        let (around, name) = path.rsplit_once('/').unwrap_or(("", path));
        let there = match around {
            "" => Some(&self.document.root),
            around => xml::find(&self.document.root, around),
        };
        let number = there.map_or(0, |element| element.named(name).count()) + 1;
        let path = format!("{path}[{number}]");
        let possible = can_be(&self.document.root, T::ITEMS, &path, Wanted::Element);
        possible.then(|| {
            self.document.root.make(&path);
            self.settle();
            path
        })
    }

    /// Takes an element away: its default counts, or a list is shorter. False if there is none.
    pub fn remove(&mut self, path: &str) -> bool {
        let (around, last) = path.rsplit_once('/').unwrap_or(("", path));
        let (name, index) = xml::step(last);
        let there = match around {
            "" => Some(&mut self.document.root),
            around => self.document.root.find_mut(around),
        };
        let removed = there.and_then(|element| element.remove(name, index));
        let is_removed = removed.is_some();
        if is_removed {
            self.refresh();
        }
        is_removed
    }

    fn settle(&mut self) {
        settle_all(&mut self.document.root, T::ITEMS);
        self.refresh();
    }

    /// Reads the document anew, after it was changed.
    pub fn refresh(&mut self) {
        let mut reads = T::reads(&self.name);
        self.model = T::from_element(&self.document.root, &root(), &mut reads);
        self.findings = reads.findings();
    }
}

/// What shall be at a path.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// An element without elements in it, or an attribute.
    Value,
    /// Any element.
    Element,
}

/// Whether that can be at `path` below `element`.
fn can_be(element: &Element, items: &[Item], path: &str, wanted: Wanted) -> bool {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    if let (Some(attribute), "", Wanted::Value) = (first.strip_prefix('@'), rest, wanted) {
        let is_it = |item: &Item| item.place == Place::Attribute && item.name == attribute;
        return items.iter().any(is_it);
    }
    let (name, index) = xml::step(first);
    let Some(item) = items
        .iter()
        .find(|item| item.place == Place::Element && item.name == name)
    else {
        return false;
    };
    let there = element.named(name).count();
    let fits = index < there || index == there && (index == 0 || item.occurs == Occurs::Many);
    let absent = Element::new(name);
    let below = element.named(name).nth(index).unwrap_or(&absent);
    match rest {
        "" => fits && (wanted == Wanted::Element || item.children().is_empty()),
        rest => fits && can_be(below, item.children(), rest, wanted),
    }
}

fn root() -> Item {
    item("acrn-config", "", "")
}

/// The tree of a board or scenario file.
pub(crate) fn document(
    name: &str,
    text: &str,
    expected: &'static str,
) -> Result<Document, LoadError> {
    let document = xml::parse(text).map_err(|source| LoadError::Xml {
        file: name.to_owned(),
        source,
    })?;
    match document.root.name.as_str() {
        "acrn-config" => Ok(document),
        found => Err(LoadError::Kind {
            file: name.to_owned(),
            found: found.to_owned(),
            expected,
        }),
    }
}

#[cfg(test)]
mod tests;
