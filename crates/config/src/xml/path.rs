//! Paths of elements: `vm[2]/memory/size` is the element `size` in `memory` in the second `vm` of the
//! outermost element. Without a number, the first is meant.

use super::Element;

/// The element at `path` below `root`; the path may begin with a slash and the outermost element.
pub fn find<'a>(root: &'a Element, path: &str) -> Option<&'a Element> {
    steps(root, path).try_fold(root, |element, (name, index)| {
        element.named(name).nth(index)
    })
}

/// As [`find`], or the nearest element around it that exists.
pub(super) fn nearest<'a>(root: &'a Element, path: &str) -> &'a Element {
    let mut element = root;
    for (name, index) in steps(root, path) {
        match element.named(name).nth(index) {
            Some(next) => element = next,
            None => break,
        }
    }
    element
}

impl Element {
    /// As [`find`], to be changed.
    pub fn find_mut(&mut self, path: &str) -> Option<&mut Self> {
        let steps: Vec<_> = steps(self, path)
            .map(|(name, at)| (name.to_owned(), at))
            .collect();
        steps.into_iter().try_fold(self, |element, (name, index)| {
            element
                .elements_mut()
                .filter(|element| element.name == name)
                .nth(index)
        })
    }

    /// The element at `path`, made if it does not exist, with all before it.
    pub(crate) fn make(&mut self, path: &str) -> &mut Self {
        let mut element = self;
        for (name, index) in path.split('/').filter(|step| !step.is_empty()).map(step) {
            while element.named(name).nth(index).is_none() {
                element.add(Self::new(name));
            }
            let mut found = element
                .elements_mut()
                .filter(|element| element.name == name);
            element = found.nth(index).expect("it was made");
        }
        element
    }
}

fn steps<'a>(root: &Element, path: &'a str) -> impl Iterator<Item = (&'a str, usize)> + use<'a> {
    let path = match path.strip_prefix('/') {
        Some(absolute) => absolute.strip_prefix(&root.name).unwrap_or(absolute),
        None => path,
    };
    path.split('/').filter(|step| !step.is_empty()).map(step)
}

/// `name[3]` is number 2, counted from 0.
pub(crate) fn step(step: &str) -> (&str, usize) {
    match step.strip_suffix(']').and_then(|step| step.split_once('[')) {
        Some((name, number)) => (name, number.parse().unwrap_or(1usize).saturating_sub(1)),
        None => (step, 0),
    }
}
