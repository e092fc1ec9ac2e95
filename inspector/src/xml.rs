//! Elements of a board file.

use acrn_config::xml::Element;

/// An element with a text.
pub(crate) fn leaf(name: &str, text: impl ToString) -> Element {
    Element::with_text(name, &text.to_string())
}

/// An element with a number as ACRN writes it.
pub(crate) fn hex_leaf(name: &str, value: impl Into<u64>) -> Element {
    leaf(name, hex(value))
}

/// A number as ACRN writes it.
pub(crate) fn hex(value: impl Into<u64>) -> String {
    format!("{:#x}", value.into())
}

/// An element with attributes.
pub(crate) fn with(name: &str, attributes: &[(&str, &str)]) -> Element {
    let mut element = Element::new(name);
    for (key, value) in attributes {
        element.set_attribute(key, value);
    }
    element
}

/// An element with others in it.
pub(crate) fn group(name: &str, children: impl IntoIterator<Item = Element>) -> Element {
    let mut element = Element::new(name);
    add(&mut element, children);
    element
}

pub(crate) fn add(element: &mut Element, children: impl IntoIterator<Item = Element>) {
    for child in children {
        element.add(child);
    }
}
