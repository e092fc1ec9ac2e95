//! What differs between two scenarios, boards or configurations.

use crate::model::{Item, Kind, Place};
use crate::xml::Element;
use std::collections::BTreeMap;

/// A value that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// The value in the first; none if it is not there.
    pub first: Option<String>,
    /// The value in the second; none if it is not there.
    pub second: Option<String>,
}

/// The differences between two lists of paths and values, in the order of the first.
pub fn diff(first: &[(String, String)], second: &[(String, String)]) -> Vec<Difference> {
    let map = |list: &[(String, String)]| list.iter().cloned().collect::<BTreeMap<_, _>>();
    let (in_first, in_second) = (map(first), map(second));
    let of_first = first
        .iter()
        .filter(|(path, value)| in_second.get(path) != Some(value));
    let only_second = second
        .iter()
        .filter(|(path, _)| !in_first.contains_key(path));
    let difference = |path: &String| Difference {
        path: path.clone(),
        first: in_first.get(path).cloned(),
        second: in_second.get(path).cloned(),
    };
    of_first
        .chain(only_second)
        .map(|(path, _)| difference(path))
        .collect()
}

/// Paths and values of a file's elements and attributes. VMs are known by their names, so that one
/// that has moved does not differ. Absent elements with a default have that value.
pub fn leaves(root: &Element, items: &[Item]) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    collect(root, items, "", &mut leaves);
    leaves
}

fn collect(element: &Element, items: &[Item], path: &str, leaves: &mut Vec<(String, String)>) {
    for (name, value) in element.attributes() {
        leaves.push((format!("{path}@{name}"), value.to_owned()));
    }
    let text = element.text();
    if !path.is_empty() && !text.is_empty() {
        leaves.push((path.to_owned(), text));
    }
    let mut seen = BTreeMap::new();
    for child in element.elements() {
        let number: &mut usize = seen.entry(child.name.as_str()).or_default();
        *number += 1;
        let item = items.iter().find(|item| item.name == child.name);
        let below = item.map_or(&[][..], Item::children);
        collect(child, below, &step(path, child, *number), leaves);
    }
    defaults(element, items, path, leaves);
}

fn step(path: &str, child: &Element, number: usize) -> String {
    let slash = if path.is_empty() { "" } else { "/" };
    let name = &child.name;
    match (name.as_str(), child.child_text("name")) {
        ("vm", Some(vm)) => format!("{path}{slash}vm[{vm}]"),
        _ if number > 1 => format!("{path}{slash}{name}[{number}]"),
        _ => format!("{path}{slash}{name}"),
    }
}

/// Values of elements that are not there, or say nothing.
fn defaults(element: &Element, items: &[Item], path: &str, leaves: &mut Vec<(String, String)>) {
    for item in items.iter().filter(|item| item.place == Place::Element) {
        let says = element
            .child(item.name)
            .is_some_and(|child| !child.text().is_empty() || child.elements().next().is_some());
        let slash = if path.is_empty() { "" } else { "/" };
        if !says && !item.default.is_empty() {
            leaves.push((
                format!("{path}{slash}{}", item.name),
                item.default.to_owned(),
            ));
        } else if element.child(item.name).is_none() && matches!(item.kind, Kind::Group(_)) {
            let once = item.occurs == crate::model::Occurs::Once;
            let below = if once { item.children() } else { &[] };
            collect(
                &Element::new(item.name),
                below,
                &format!("{path}{slash}{}", item.name),
                leaves,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scenario;

    fn of(text: &str) -> Vec<(String, String)> {
        leaves(&crate::xml::parse(text).unwrap().root, Scenario::schema())
    }

    #[test]
    fn an_absent_element_equals_its_default_and_a_moved_vm_itself() {
        let one = of(
            "<acrn-config><hv><FEATURES><SCHEDULER>SCHED_BVT</SCHEDULER></FEATURES></hv>\
            <vm id=\"0\"><name>a</name></vm><vm id=\"1\"><name>b</name></vm></acrn-config>",
        );
        let two = of("<acrn-config><vm id=\"0\"><name>b</name></vm>\
            <vm id=\"1\"><name>a</name><memory><size>512</size></memory></vm></acrn-config>");
        let found: Vec<_> = diff(&one, &two)
            .into_iter()
            .map(|d| (d.path, d.first, d.second))
            .collect();
        let difference = |path: &str, first: &str, second: &str| {
            (
                path.to_owned(),
                Some(first.to_owned()),
                Some(second.to_owned()),
            )
        };
        assert_eq!(
            found,
            [
                difference("vm[a]@id", "0", "1"),
                difference("vm[a]/memory/size", "1024", "512"),
                difference("vm[b]@id", "1", "0"),
            ]
        );
    }
}
