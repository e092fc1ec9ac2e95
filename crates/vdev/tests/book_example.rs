//! The device of the hypervisor in the book's chapter "Adding a virtual device", which includes
//! the parts between the anchors. In the tree it would be a module of this crate.

// ANCHOR: device
/// Port of the card.
const PORT: u16 = 0x80;

/// What a write asks of the card's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PostAction {
    /// Nothing.
    None,
    /// The guest reports another code than before.
    Changed(u8),
}

/// A power-on self-test card: shows the last byte that was written to port 0x80.
#[derive(Clone, Debug, Default)]
struct PostCard {
    code: u8,
}

impl PostCard {
    /// Reads the port.
    fn read(&self) -> u8 {
        self.code
    }

    /// Writes the port.
    fn write(&mut self, code: u8) -> PostAction {
        if code == self.code {
            return PostAction::None;
        }
        self.code = code;
        PostAction::Changed(code)
    }
}
// ANCHOR_END: device

#[test]
fn only_a_new_code_is_reported() {
    let mut card = PostCard::default();
    assert_eq!(PORT, 0x80);
    assert_eq!(card.write(0), PostAction::None);
    assert_eq!(card.write(0xaa), PostAction::Changed(0xaa));
    assert_eq!(card.write(0xaa), PostAction::None);
    assert_eq!(card.read(), 0xaa);
}
