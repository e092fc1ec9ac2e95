//! The order in which VMs start.

use std::collections::{BTreeMap, BTreeSet};

/// Sorts VMs so that each comes behind those of its list that exist; names decide where the
/// lists leave it open. VMs that wait for each other come last, by name, and are also returned
/// in the second list.
pub fn order<'a>(after: &BTreeMap<&'a str, &[String]>) -> (Vec<&'a str>, Vec<&'a str>) {
    let mut left: BTreeSet<&str> = after.keys().copied().collect();
    let mut sorted = Vec::with_capacity(left.len());
    loop {
        let free = left.iter().copied().find(|name| {
            after[name]
                .iter()
                .all(|other| other == name || !left.contains(other.as_str()))
        });
        let Some(name) = free else { break };
        left.remove(name);
        sorted.push(name);
    }
    let circle: Vec<&str> = left.into_iter().collect();
    sorted.extend(&circle);
    (sorted, circle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(lists: &[(&'static str, &[&str])]) -> (Vec<&'static str>, Vec<&'static str>) {
        let owned: Vec<(&str, Vec<String>)> = lists
            .iter()
            .map(|(name, after)| (*name, after.iter().map(ToString::to_string).collect()))
            .collect();
        let map = owned
            .iter()
            .map(|(name, after)| (*name, after.as_slice()))
            .collect();
        order(&map)
    }

    #[test]
    fn a_vm_comes_behind_those_that_it_names() {
        let (order, circle) = sorted(&[("a", &["c", "absent"]), ("b", &[]), ("c", &["b"])]);
        assert_eq!(order, ["b", "c", "a"]);
        assert!(circle.is_empty());
    }

    #[test]
    fn a_circle_is_named_and_keeps_nobody_else_from_starting() {
        let (order, circle) = sorted(&[("a", &["b"]), ("b", &["a"]), ("c", &["c"])]);
        assert_eq!(order, ["c", "a", "b"]);
        assert_eq!(circle, ["a", "b"]);
    }
}
