//! Reading: the tokens are quick-xml's, the tree is ours.

use super::{Document, Element, MAX_DEPTH, Node};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Why a text is not XML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// The tree of a text.
pub fn parse(text: &str) -> Result<Document, ParseError> {
    Tree::new(text).read()
}

/// Position in the text, and the elements that are open.
struct Tree<'a> {
    text: &'a str,
    reader: Reader<&'a [u8]>,
    open: Vec<Element>,
    done: Option<Element>,
    before: String,
    after: String,
    /// A position whose line is known, so that lines are counted once.
    counted: (usize, usize),
}

impl<'a> Tree<'a> {
    fn new(text: &'a str) -> Self {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = false;
        Self {
            text,
            reader,
            open: Vec::new(),
            done: None,
            before: String::new(),
            after: String::new(),
            counted: (0, 1),
        }
    }

    fn read(mut self) -> Result<Document, ParseError> {
        loop {
            let from = self.position();
            let event = match self.reader.read_event() {
                Ok(event) => event.into_owned(),
                Err(error) => {
                    let at = self.reader.error_position() as usize;
                    return Err(self.error(at, &error.to_string()));
                }
            };
            if matches!(event, Event::Eof) {
                return self.finish(from);
            }
            let raw = self
                .text
                .get(from..self.position())
                .unwrap_or_default()
                .to_owned();
            self.take(event, raw, from)?;
        }
    }

    fn take(&mut self, event: Event<'_>, raw: String, from: usize) -> Result<(), ParseError> {
        match event {
            Event::Start(tag) => self.start(&tag, raw, from),
            Event::Empty(tag) => {
                let mut element = self.element(&tag, from)?;
                element.spelling = Some((raw, String::new()));
                self.add(Node::Element(element), from)
            }
            Event::End(_) => self.end(raw, from),
            Event::CData(data) => self.add(Node::CData(data.into_inner().into_owned()), from),
            Event::Text(_) | Event::GeneralRef(_) => self.add_text(raw, from),
            _ => self.add(Node::Other(raw), from),
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>, raw: String, from: usize) -> Result<(), ParseError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.error(from, "elements are nested too deeply"));
        }
        if self.done.is_some() {
            return Err(self.error(from, "a second outermost element"));
        }
        let mut element = self.element(tag, from)?;
        element.spelling = Some((raw, String::new()));
        self.open.push(element);
        Ok(())
    }

    fn end(&mut self, raw: String, from: usize) -> Result<(), ParseError> {
        let Some(mut element) = self.open.pop() else {
            return Err(self.error(from, "an end without a start"));
        };
        if let Some((_, end)) = &mut element.spelling {
            *end = raw;
        }
        self.add(Node::Element(element), from)
    }

    fn element(&mut self, tag: &BytesStart<'_>, from: usize) -> Result<Element, ParseError> {
        let mut element = Element::new(tag.name().as_ref());
        element.line = self.line(from);
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| self.error(from, &error.to_string()))?;
            let name = attribute.key.as_ref().to_owned();
            let raw = attribute.value.into_owned();
            let value = quick_xml::escape::unescape(&raw)
                .map_err(|error| self.error(from, &error.to_string()))?;
            element.attributes.push((name, value.into_owned()));
        }
        Ok(element)
    }

    fn add_text(&mut self, raw: String, from: usize) -> Result<(), ParseError> {
        if let Err(error) = quick_xml::escape::unescape(&raw) {
            return Err(self.error(from, &error.to_string()));
        }
        if let Some(Node::Text(text)) = self.open.last_mut().and_then(|e| e.children.last_mut()) {
            text.push_str(&raw);
            return Ok(());
        }
        self.add(Node::Text(raw), from)
    }

    /// Adds a node to the innermost open element, or around the outermost one.
    fn add(&mut self, node: Node, from: usize) -> Result<(), ParseError> {
        if let Some(parent) = self.open.last_mut() {
            parent.children.push(node);
            return Ok(());
        }
        match node {
            Node::Element(element) if self.done.is_none() => self.done = Some(element),
            Node::Element(_) => return Err(self.error(from, "a second outermost element")),
            Node::Text(raw) if !raw.trim_start_matches('\u{feff}').trim().is_empty() => {
                return Err(self.error(from, "text outside of the outermost element"));
            }
            Node::Text(raw) | Node::Other(raw) if self.done.is_none() => self.before.push_str(&raw),
            Node::Text(raw) | Node::Other(raw) => self.after.push_str(&raw),
            Node::CData(_) => return Err(self.error(from, "text outside of the outermost element")),
        }
        Ok(())
    }

    fn finish(mut self, at: usize) -> Result<Document, ParseError> {
        if let Some(element) = self.open.pop() {
            return Err(ParseError {
                line: element.line,
                what: format!("<{}> has no end", element.name),
            });
        }
        match self.done.take() {
            Some(root) => Ok(Document {
                root,
                before: self.before,
                after: self.after,
            }),
            None => Err(self.error(at, "there is no element")),
        }
    }

    fn position(&self) -> usize {
        self.reader.buffer_position() as usize
    }

    fn line(&mut self, at: usize) -> usize {
        let (from, line) = self.counted;
        let lines = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count();
        let bytes = self.text.as_bytes();
        let line = match bytes.get(from..at) {
            Some(between) => line + lines(between),
            None => 1 + lines(bytes.get(..at).unwrap_or_default()),
        };
        self.counted = (at, line);
        line
    }

    fn error(&mut self, at: usize, what: &str) -> ParseError {
        let at = at.min(self.text.len());
        ParseError {
            line: self.line(at),
            what: what.to_owned(),
        }
    }
}
