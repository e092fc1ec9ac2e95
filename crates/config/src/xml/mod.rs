//! XML as a tree that forgets nothing.
//!
//! Comments, white space, the order of attributes and the spelling of each tag are kept, so a
//! document that was not changed is written back byte for byte, and one that was changed differs only
//! where it was changed. Every element knows its line.

mod parse;
mod path;
mod write;

pub use parse::{ParseError, parse};
pub use path::find;
pub(crate) use path::step;

/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// A document: one element and what is around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The outermost element.
    pub root: Element,
    before: String,
    after: String,
}

/// An element.
#[derive(Clone, Debug, Default)]
pub struct Element {
    /// Its name.
    pub name: String,
    /// Names and values of its attributes.
    attributes: Vec<(String, String)>,
    /// What is in it.
    pub children: Vec<Node>,
    /// Line of its start tag; 0 when it was not read from a file.
    pub line: usize,
    /// Start and end tag as they were spelled; the end tag is empty for `<name/>`.
    spelling: Option<(String, String)>,
}

/// What is in an element.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text as it is spelled, with its character references.
    Text(String),
    /// A section of text without character references; its contents.
    CData(String),
    /// A comment, processing instruction or the like, as it is spelled.
    Other(String),
}

/// Elements are equal when they mean the same, whatever their lines and tags look like.
impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.attributes == other.attributes
            && self.children == other.children
    }
}

impl Element {
    /// An element without contents.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// An element with a text.
    pub fn with_text(name: &str, text: &str) -> Self {
        let mut element = Self::new(name);
        element.set_text(text);
        element
    }

    /// Its attributes, in order.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// Gives an attribute a value.
    pub fn set_attribute(&mut self, name: &str, value: &str) {
        if self.attribute(name) == Some(value) {
            return;
        }
        match self.attributes.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.attributes.push((name.to_owned(), value.to_owned())),
        }
        self.spelling = None;
    }

    /// Takes an attribute away.
    pub fn remove_attribute(&mut self, name: &str) {
        let before = self.attributes.len();
        self.attributes.retain(|(found, _)| found != name);
        if self.attributes.len() != before {
            self.spelling = None;
        }
    }

    /// Its text, without that of elements in it and without white space around it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for node in &self.children {
            match node {
                Node::Text(raw) => match quick_xml::escape::unescape(raw) {
                    Ok(plain) => text.push_str(&plain),
                    Err(_) => text.push_str(raw),
                },
                Node::CData(plain) => text.push_str(plain),
                Node::Element(_) | Node::Other(_) => {}
            }
        }
        text.trim().to_owned()
    }

    /// Replaces its text; elements and comments in it stay.
    pub fn set_text(&mut self, text: &str) {
        if self.text() == text {
            return;
        }
        self.children
            .retain(|node| matches!(node, Node::Element(_) | Node::Other(_)));
        if !text.is_empty() {
            self.children
                .insert(0, Node::Text(quick_xml::escape::escape(text).into_owned()));
        }
        self.open_up();
    }

    /// The elements in it.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The elements in it, to be changed.
    pub fn elements_mut(&mut self) -> impl Iterator<Item = &mut Self> {
        self.children.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The elements of that name in it.
    pub fn named<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Self> + use<'a, 'n> {
        self.elements().filter(move |element| element.name == name)
    }

    /// The first element of that name in it.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.elements().find(|element| element.name == name)
    }

    /// The first element of that name in it, to be changed.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.elements_mut().find(|element| element.name == name)
    }

    /// The text of the first element of that name.
    pub fn child_text(&self, name: &str) -> Option<String> {
        self.child(name).map(Self::text)
    }

    /// Adds an element behind the others of its name, or at the end, on a line of its own.
    pub fn add(&mut self, element: Self) -> &mut Self {
        let same = |node: &Node| matches!(node, Node::Element(other) if other.name == element.name);
        let any = |node: &Node| matches!(node, Node::Element(_));
        let last = self.children.iter().rposition(same);
        let at = last
            .or_else(|| self.children.iter().rposition(any))
            .map_or(0, |at| at + 1);
        self.children.insert(at, Node::Element(element));
        self.open_up();
        match &mut self.children[at] {
            Node::Element(element) => element,
            _ => unreachable!("an element was inserted there"),
        }
    }

    /// Moves the elements that were not read from a file to where they belong: in front of those that
    /// `rank` puts behind them. Elements without a rank, and those that were read, stay.
    pub fn settle(&mut self, rank: impl Fn(&str) -> Option<usize>) {
        let rank_of = |node: &Node| match node {
            Node::Element(element) => rank(&element.name),
            _ => None,
        };
        for at in 0..self.children.len() {
            let is_new = matches!(&self.children[at], Node::Element(element) if element.line == 0);
            let Some(own) = rank_of(&self.children[at]).filter(|_| is_new) else {
                continue;
            };
            let before = self.children[..at].iter();
            let behind = before
                .clone()
                .position(|node| rank_of(node).is_some_and(|other| other > own));
            if let Some(mut to) = behind {
                // White space belongs to the element behind it.
                let is_space =
                    |node: &Node| matches!(node, Node::Text(text) if text.trim().is_empty());
                while to > 0 && is_space(&self.children[to - 1]) {
                    to -= 1;
                }
                self.children[to..=at].rotate_right(1);
            }
        }
    }

    /// Takes away element number `index` of those with that name, and the white space before it.
    pub fn remove(&mut self, name: &str, index: usize) -> Option<Self> {
        let is = |node: &Node| matches!(node, Node::Element(element) if element.name == name);
        let at = (0..self.children.len())
            .filter(|&at| is(&self.children[at]))
            .nth(index)?;
        let Node::Element(element) = self.children.remove(at) else {
            return None;
        };
        if at > 0 && matches!(&self.children[at - 1], Node::Text(text) if text.trim().is_empty()) {
            self.children.remove(at - 1);
        }
        Some(element)
    }

    /// Takes away the first element of that name for which `is` holds.
    pub fn remove_where(&mut self, name: &str, is: impl Fn(&Self) -> bool) -> Option<Self> {
        let index = self.named(name).position(is)?;
        self.remove(name, index)
    }

    /// `<name/>` needs two tags now.
    fn open_up(&mut self) {
        if self
            .spelling
            .as_ref()
            .is_some_and(|(_, end)| end.is_empty())
        {
            self.spelling = None;
        }
    }
}

impl Document {
    /// A document with that element only.
    pub fn new(root: Element) -> Self {
        Self {
            root,
            before: String::new(),
            after: "\n".to_owned(),
        }
    }

    /// The line of an element, or of the nearest one around it that exists.
    pub fn line_of(&self, path: &str) -> usize {
        path::nearest(&self.root, path).line
    }
}

#[cfg(test)]
mod tests;
