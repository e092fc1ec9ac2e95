//! What people see: HTML that is a pure function of what it shows.

mod editor;
mod field;
mod findings;
mod form;
mod layout;
mod other;
mod start;
pub mod summary;
mod widget;

pub use editor::{Page, Parts, editor, parts};
pub use layout::{Theme, problem};
pub use start::{Recent, start};
