//! How a file's elements become Rust structures, and everything that is known about each element.
//!
//! A structure is declared once, with `model!`. Each field says its type, its element, and what people
//! should know: title, help, default, unit, range, for whom it is, who should see it. Reading, writing,
//! checks of single values, `acrn-config show`, the book's tables and the forms of the Configurator are
//! all made of this one declaration; [`Item`] is what it looks like at run time.

mod field;
mod item;
mod scalar;

pub use field::{Content, Field, Reads, Rest};
pub use item::{
    Applies, Choice, Item, Kind, Occurs, OptionsFrom, Pattern, Place, View, When, attribute, item,
    own_text,
};
pub(crate) use scalar::words;
pub use scalar::{Device, Hex, Scalar};

/// A structure of elements.
pub trait Group: Sized {
    /// What is known about its fields, in order.
    const ITEMS: &'static [Item];
    /// The same, where a constant would refer to itself.
    fn items() -> &'static [Item] {
        Self::ITEMS
    }
}

/// Declares structures of elements. See the module's head.
macro_rules! model {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $ty:ty = $item:expr,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq)]
            #[expect(missing_docs, reason = "each field has a title and help in its item")]
            pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }

            impl $crate::model::Group for $name {
                const ITEMS: &'static [$crate::model::Item] = &[$($item.of::<$ty>(),)*];
            }

            impl $crate::model::Content for $name {
                const KIND: $crate::model::Kind =
                    $crate::model::Kind::Group(<$name as $crate::model::Group>::items);

                fn from_element(
                    element: &$crate::xml::Element,
                    _: &$crate::model::Item,
                    reads: &mut $crate::model::Reads,
                ) -> Self {
                    let mut items = <$name as $crate::model::Group>::ITEMS.iter();
                    let value = Self {
                        $($field: {
                            let item = items.next().expect("an item for each field");
                            <$ty as $crate::model::Field>::read(element, item, reads)
                        },)*
                    };
                    reads.unknown(element, <$name as $crate::model::Group>::ITEMS);
                    value
                }

                fn to_element(&self, element: &mut $crate::xml::Element, _: &$crate::model::Item) {
                    let mut items = <$name as $crate::model::Group>::ITEMS.iter();
                    $(
                        let item = items.next().expect("an item for each field");
                        $crate::model::Field::write(&self.$field, element, item);
                    )*
                    $crate::model::settle(element, <$name as $crate::model::Group>::ITEMS);
                }
            }

            impl Default for $name {
                fn default() -> Self {
                    $crate::model::default_of()
                }
            }
        )*
    };
}
pub(crate) use model;

/// Puts new elements in the order of their items.
pub(crate) fn settle(element: &mut crate::xml::Element, items: &[Item]) {
    element.settle(|name| items.iter().position(|item| item.name == name));
}

/// The same for all elements below.
pub(crate) fn settle_all(element: &mut crate::xml::Element, items: &[Item]) {
    settle(element, items);
    for child in element.elements_mut() {
        if let Some(item) = items.iter().find(|item| item.name == child.name) {
            settle_all(child, item.children());
        }
    }
}

/// What an empty element means.
pub(crate) fn default_of<T: Content>() -> T {
    let item = item("", "", "");
    T::from_element(&crate::xml::Element::new(""), &item, &mut Reads::new(""))
}
