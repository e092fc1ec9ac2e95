//! Writing.

use super::{Document, Element, Node};
use quick_xml::escape::escape;
use std::fmt;

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.before)?;
        write_element(&self.root, 0, f)?;
        f.write_str(&self.after)
    }
}

fn write_element(element: &Element, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &element.spelling {
        Some((start, _)) => f.write_str(start)?,
        None => start_tag(element, f)?,
    }
    if element.children.is_empty() {
        return match &element.spelling {
            Some((_, end)) => f.write_str(end),
            None => Ok(()),
        };
    }
    let mut on_own_line = false;
    for node in &element.children {
        write_node(node, &mut on_own_line, depth + 1, f)?;
    }
    let last_is_element = matches!(element.children.last(), Some(Node::Element(_)));
    if last_is_element && element.spelling.is_none() {
        new_line(depth, f)?;
    }
    match &element.spelling {
        Some((_, end)) => f.write_str(end),
        None => write!(f, "</{}>", element.name),
    }
}

/// Writes a node. An element that was not read begins a line unless it already does.
fn write_node(
    node: &Node,
    on_own_line: &mut bool,
    depth: usize,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match node {
        Node::Element(element) => {
            if !*on_own_line && element.line == 0 {
                new_line(depth, f)?;
            }
            *on_own_line = false;
            write_element(element, depth, f)
        }
        Node::Text(raw) => {
            *on_own_line = raw.trim().is_empty() && raw.contains('\n');
            f.write_str(raw)
        }
        Node::CData(plain) => write!(f, "<![CDATA[{plain}]]>"),
        Node::Other(raw) => f.write_str(raw),
    }
}

fn start_tag(element: &Element, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "<{}", element.name)?;
    for (name, value) in element.attributes() {
        write!(f, " {name}=\"{}\"", escape(value))?;
    }
    f.write_str(if element.children.is_empty() {
        "/>"
    } else {
        ">"
    })
}

fn new_line(depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "\n{:1$}", "", 2 * depth)
}
