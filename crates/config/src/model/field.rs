//! Reading fields from elements and writing them back.

use super::{Item, Kind, Occurs, Place, Scalar};
use crate::finding::{Finding, Severity};
use crate::xml::Element;
use std::collections::BTreeSet;

/// A type that one element or attribute becomes.
pub trait Content: Sized {
    /// What may stand there.
    const KIND: Kind;
    /// From an element. What is wrong goes to `reads`, and a default into the value.
    fn from_element(element: &Element, item: &Item, reads: &mut Reads) -> Self;
    /// Makes an element say this, changing as little as possible.
    fn to_element(&self, element: &mut Element, item: &Item);
}

/// A type of a field: some content, perhaps none, or a list.
pub trait Field: Sized {
    /// What may stand there.
    const KIND: Kind;
    /// How often.
    const OCCURS: Occurs;
    /// From the element around it.
    fn read(parent: &Element, item: &Item, reads: &mut Reads) -> Self;
    /// Makes the element around it say this.
    fn write(&self, parent: &mut Element, item: &Item);
}

/// Where reading is, and what was wrong so far.
pub struct Reads {
    file: String,
    path: Vec<String>,
    findings: Vec<Finding>,
    /// The elements that are not known, by their paths without numbers, if each is reported once.
    unknown: Option<BTreeSet<String>>,
}

/// Elements that are kept and not looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rest(pub Vec<Element>);

impl Reads {
    /// Reading begins.
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            path: Vec::new(),
            findings: Vec::new(),
            unknown: None,
        }
    }

    /// An unknown element is reported once, however often it is there: for files that programs write.
    pub fn terse(self) -> Self {
        Self {
            unknown: Some(BTreeSet::new()),
            ..self
        }
    }

    /// What was wrong.
    pub fn findings(self) -> Vec<Finding> {
        self.findings
    }

    fn within<T>(&mut self, step: String, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let value = read(self);
        self.path.pop();
        value
    }

    fn report(
        &mut self,
        severity: Severity,
        rule: &'static str,
        line: usize,
        text: (String, String),
    ) {
        self.findings.push(Finding {
            severity,
            file: self.file.clone(),
            line,
            path: self.path.join("/"),
            rule,
            message: text.0,
            remedy: text.1,
        });
    }

    /// Reports the elements that no item names, and those that are there too often.
    pub fn unknown(&mut self, element: &Element, items: &[Item]) {
        if items.iter().any(|item| matches!(item.kind, Kind::Anything)) {
            return;
        }
        for (at, child) in element.elements().enumerate() {
            let is = |item: &&Item| item.place == Place::Element && item.name == child.name;
            let known = items.iter().find(is);
            let before = element
                .elements()
                .take(at)
                .any(|other| other.name == child.name);
            let twice = before && known.is_some_and(|item| item.occurs != Occurs::Many);
            let line = child.line;
            let name = &child.name;
            self.within(name.clone(), |reads| match known {
                None if reads.was_reported() => {}
                None => reads.report(
                    Severity::Warning,
                    "unknown-element",
                    line,
                    (
                        format!("element {name} is not known; it is kept and has no effect"),
                        "remove it, or correct its spelling".to_owned(),
                    ),
                ),
                Some(_) if twice => reads.report(
                    Severity::Error,
                    "element-twice",
                    line,
                    (
                        format!("element {name} is there more than once"),
                        "keep the one that is meant".to_owned(),
                    ),
                ),
                Some(_) => {}
            });
        }
    }

    /// Whether an element that is not known was reported before.
    fn was_reported(&mut self) -> bool {
        let plain = |step: &String| step.split('[').next().unwrap_or_default().to_owned();
        let path = self.path.iter().map(plain).collect::<Vec<_>>().join("/");
        self.unknown
            .as_mut()
            .is_some_and(|reported| !reported.insert(path))
    }

    fn bad_value(&mut self, line: usize, text: &str, expected: &str) {
        let message = if text.is_empty() {
            format!("nothing here, expected {expected}")
        } else {
            format!("“{text}”, expected {expected}")
        };
        let remedy = format!("write {expected}");
        self.report(Severity::Error, "bad-value", line, (message, remedy));
    }
}

impl<T: Scalar> Content for T {
    const KIND: Kind = T::KIND;
    fn from_element(element: &Element, item: &Item, reads: &mut Reads) -> Self {
        value_of(&element.text(), element.line, item, reads)
    }
    fn to_element(&self, element: &mut Element, item: &Item) {
        let text = element.text();
        let is_missing = item.required && element.line == 0 && text.is_empty();
        if is_missing || value_of::<T>(&text, 0, item, &mut Reads::new("")) != *self {
            element.set_text(&self.text());
        }
    }
}

/// The value of a text. An empty one means the default, if the item has one.
fn value_of<T: Scalar>(text: &str, line: usize, item: &Item, reads: &mut Reads) -> T {
    if text.is_empty() && !item.default.is_empty() {
        return default(item);
    }
    T::parse(text, item).unwrap_or_else(|expected| {
        if !text.is_empty() || item.required {
            reads.bad_value(line, text, &expected);
        }
        default(item)
    })
}

fn default<T: Scalar>(item: &Item) -> T {
    T::parse(item.default, item).unwrap_or_else(|_| T::nothing())
}

impl<T: Content> Field for T {
    const KIND: Kind = <T as Content>::KIND;
    const OCCURS: Occurs = Occurs::Once;

    fn read(parent: &Element, item: &Item, reads: &mut Reads) -> Self {
        if let Some(value) = Option::<T>::read(parent, item, reads) {
            return value;
        }
        if item.required && parent.line > 0 {
            reads.within(item.name.to_owned(), |reads| {
                let remedy = format!("add <{}>: {}", item.name, item.help);
                let message = format!("{} is missing", item.title);
                reads.report(Severity::Error, "missing", parent.line, (message, remedy));
            });
        }
        let mut quiet = Reads::new("");
        T::from_element(
            &Element::new(item.name),
            &Item {
                required: false,
                ..*item
            },
            &mut quiet,
        )
    }

    fn write(&self, parent: &mut Element, item: &Item) {
        match item.place {
            Place::Text => self.to_element(parent, item),
            Place::Attribute => write_attribute(self, parent, item),
            Place::Element => match parent.child_mut(item.name) {
                Some(element) => self.to_element(element, item),
                None => add_unless_default(self, parent, item),
            },
        }
    }
}

impl<T: Content> Field for Option<T> {
    const KIND: Kind = <T as Content>::KIND;
    const OCCURS: Occurs = Occurs::Optional;

    fn read(parent: &Element, item: &Item, reads: &mut Reads) -> Self {
        match item.place {
            Place::Text => Some(T::from_element(parent, item, reads)),
            Place::Attribute => parent.attribute(item.name).map(|value| {
                let mut element = Element::with_text(item.name, value);
                element.line = parent.line;
                reads.within(format!("@{}", item.name), |r| {
                    T::from_element(&element, item, r)
                })
            }),
            Place::Element => parent.child(item.name).map(|element| {
                reads.within(item.name.to_owned(), |reads| {
                    T::from_element(element, item, reads)
                })
            }),
        }
    }

    fn write(&self, parent: &mut Element, item: &Item) {
        match self {
            Some(value) if item.place != Place::Element => value.write(parent, item),
            Some(value) => match parent.child_mut(item.name) {
                Some(element) => value.to_element(element, item),
                None => value.to_element(parent.add(Element::new(item.name)), item),
            },
            None if item.place == Place::Attribute => parent.remove_attribute(item.name),
            None => drop(parent.remove(item.name, 0)),
        }
    }
}

impl<T: Content> Field for Vec<T> {
    const KIND: Kind = <T as Content>::KIND;
    const OCCURS: Occurs = Occurs::Many;

    fn read(parent: &Element, item: &Item, reads: &mut Reads) -> Self {
        let elements = parent.named(item.name).enumerate();
        let read = elements.map(|(index, element)| {
            let step = format!("{}[{}]", item.name, index + 1);
            reads.within(step, |reads| T::from_element(element, item, reads))
        });
        read.collect()
    }

    fn write(&self, parent: &mut Element, item: &Item) {
        while parent.named(item.name).count() > self.len() {
            parent.remove(item.name, self.len());
        }
        while parent.named(item.name).count() < self.len() {
            parent.add(Element::new(item.name));
        }
        let elements = parent
            .elements_mut()
            .filter(|element| element.name == item.name);
        elements
            .zip(self)
            .for_each(|(element, value)| value.to_element(element, item));
    }
}

impl Field for Rest {
    const KIND: Kind = Kind::Anything;
    const OCCURS: Occurs = Occurs::Many;

    fn read(parent: &Element, _: &Item, _: &mut Reads) -> Self {
        Self(parent.elements().cloned().collect())
    }

    /// What was not looked at was not changed; a new element gets what there is.
    fn write(&self, parent: &mut Element, _: &Item) {
        if parent.elements().next().is_none() {
            for element in &self.0 {
                parent.add(element.clone());
            }
        }
    }
}

fn write_attribute<T: Content>(value: &T, parent: &mut Element, item: &Item) {
    let mut element =
        Element::with_text(item.name, parent.attribute(item.name).unwrap_or_default());
    value.to_element(&mut element, item);
    if parent.attribute(item.name).is_some() || !element.text().is_empty() {
        parent.set_attribute(item.name, &element.text());
    }
}

/// An absent element stays absent as long as its absence means the same. What a new element must have, it
/// gets.
fn add_unless_default<T: Content>(value: &T, parent: &mut Element, item: &Item) {
    let element = element_of(value, item);
    let assumed = T::from_element(&Element::new(item.name), item, &mut Reads::new(""));
    let wanted = item.required && parent.line == 0;
    if wanted || element != element_of(&assumed, item) {
        parent.add(element);
    }
}

fn element_of<T: Content>(value: &T, item: &Item) -> Element {
    let mut element = Element::new(item.name);
    value.to_element(&mut element, item);
    element
}
