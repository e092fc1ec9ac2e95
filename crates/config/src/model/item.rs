//! What is known about one element.

use super::Field;

/// An element or attribute of a file.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Its name in the file.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// What it does, in a sentence or two.
    pub help: &'static str,
    /// Element, attribute, or the text of the element around it.
    pub place: Place,
    /// What may stand there.
    pub kind: Kind,
    /// How often.
    pub occurs: Occurs,
    /// What counts when it is absent; empty if there is nothing to assume.
    pub default: &'static str,
    /// Unit of the number.
    pub unit: &'static str,
    /// Least and greatest number.
    pub range: Option<(i64, i64)>,
    /// Form of the text.
    pub pattern: Pattern,
    /// Who should see it.
    pub view: View,
    /// Which VMs have it.
    pub applies: Applies,
    /// Where a form finds choices, beside those of the kind.
    pub options: OptionsFrom,
    /// Whether something must stand there.
    pub required: bool,
    /// Whether it is this project's: ACRN's own tools do not know it.
    pub ours: bool,
    /// Whether its text is often longer than a line.
    pub long: bool,
    /// When it means something; nothing to say if it always does.
    pub when: Option<When>,
}

/// An item means something only beside another one with certain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// Name of the other one, in the same group.
    pub sibling: &'static str,
    /// Its values.
    pub words: &'static [&'static str],
}

/// Where an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An element.
    Element,
    /// An attribute of the element around it.
    Attribute,
    /// The text of the element around it.
    Text,
}

/// How often an item stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurs {
    /// Once, or the default counts.
    Once,
    /// Once or not at all.
    Optional,
    /// Any number of times.
    Many,
}

/// What may stand in an item, and so which widget edits it.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `y` or `n`.
    Flag,
    /// A decimal number.
    Number,
    /// A hexadecimal number.
    Hex,
    /// A text.
    Text,
    /// One of these.
    Choice(&'static [Choice]),
    /// A place on a PCI bus, `00:1f.3`.
    Bdf,
    /// A device of the board: its place and a description.
    Device,
    /// More elements.
    Group(fn() -> &'static [Item]),
    /// Elements that are kept and not looked at.
    Anything,
}

/// One of the words that may stand in an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The word in the file.
    pub word: &'static str,
    /// What people call it.
    pub title: &'static str,
}

/// Where choices come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionsFrom {
    /// Only from the kind.
    Kind,
    /// Numbers of the board's CPUs.
    BoardCpus,
    /// Serial ports of the board.
    BoardTtys,
    /// PCI devices of the board.
    BoardPciDevices,
    /// USB devices of the board.
    BoardUsbDevices,
    /// Input devices of the board.
    BoardInputs,
    /// Names of the scenario's VMs.
    VmNames,
}

/// Form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Any.
    Any,
    /// At least one letter, digit, `_` or `-`, and at most that many.
    Name(usize),
    /// The same without `-`.
    Word(usize),
    /// At most that many characters, no white space.
    Tag(usize),
    /// At most that many characters.
    Length(usize),
    /// `None`, or something that ends in `ttyS` and a number.
    Tty,
}

/// Who should see an item, from most to fewest people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// Everybody.
    Basic,
    /// Who looks for it.
    Advanced,
    /// Hardly anybody: ACRN's own forms leave it out.
    Hidden,
}

/// Which VMs have an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applies {
    /// Pre-launched ones.
    pub pre: bool,
    /// The Service VM.
    pub service: bool,
    /// Post-launched ones.
    pub post: bool,
}

/// An element.
pub const fn item(name: &'static str, title: &'static str, help: &'static str) -> Item {
    Item {
        name,
        title,
        help,
        place: Place::Element,
        kind: Kind::Text,
        occurs: Occurs::Once,
        default: "",
        unit: "",
        range: None,
        pattern: Pattern::Any,
        view: View::Basic,
        applies: Applies {
            pre: true,
            service: true,
            post: true,
        },
        options: OptionsFrom::Kind,
        required: false,
        ours: false,
        long: false,
        when: None,
    }
}

/// An attribute.
pub const fn attribute(name: &'static str, title: &'static str, help: &'static str) -> Item {
    Item {
        place: Place::Attribute,
        ..item(name, title, help)
    }
}

/// The text of the element that the structure stands for.
pub const fn own_text(title: &'static str, help: &'static str) -> Item {
    Item {
        place: Place::Text,
        ..item("", title, help)
    }
}

impl Item {
    /// What counts when it is absent.
    pub const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }
    /// Unit of the number.
    pub const fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
    /// Least and greatest number.
    pub const fn range(self, least: i64, greatest: i64) -> Self {
        Self {
            range: Some((least, greatest)),
            ..self
        }
    }
    /// Form of the text.
    pub const fn pattern(self, pattern: Pattern) -> Self {
        Self { pattern, ..self }
    }
    /// For who looks for it.
    pub const fn advanced(self) -> Self {
        Self {
            view: View::Advanced,
            ..self
        }
    }
    /// For nobody.
    pub const fn hidden(self) -> Self {
        Self {
            view: View::Hidden,
            ..self
        }
    }
    /// Which VMs have it.
    pub const fn only(self, pre: bool, service: bool, post: bool) -> Self {
        Self {
            applies: Applies { pre, service, post },
            ..self
        }
    }
    /// Pre-launched VMs have it.
    pub const fn pre(self) -> Self {
        self.only(true, false, false)
    }
    /// Post-launched VMs have it.
    pub const fn post(self) -> Self {
        self.only(false, false, true)
    }
    /// Pre-launched and post-launched VMs have it.
    pub const fn user(self) -> Self {
        self.only(true, false, true)
    }
    /// Where choices come from.
    pub const fn from(self, options: OptionsFrom) -> Self {
        Self { options, ..self }
    }
    /// Something must stand there.
    pub const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }
    /// This project's own.
    pub const fn ours(self) -> Self {
        Self { ours: true, ..self }
    }
    /// Its text is often longer than a line.
    pub const fn long(self) -> Self {
        Self { long: true, ..self }
    }
    /// Only beside a sibling with one of these values.
    pub const fn when(self, sibling: &'static str, words: &'static [&'static str]) -> Self {
        Self {
            when: Some(When { sibling, words }),
            ..self
        }
    }
    /// With what the field's type says.
    pub(crate) const fn of<T: Field>(self) -> Self {
        Self {
            kind: T::KIND,
            occurs: T::OCCURS,
            ..self
        }
    }
    /// The items below it.
    pub fn children(&self) -> &'static [Self] {
        match self.kind {
            Kind::Group(items) => items(),
            _ => &[],
        }
    }
}
