//! Words of a shell.

/// A word as a shell takes it, whatever is in it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The words of a text, as a shell would cut it; nothing when a quote does not end.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut open: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (open, c) {
            (Some(quote), c) if c == quote => open = None,
            (None, '"' | '\'') => {
                open = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(characters.next()?),
            (None, c) if c.is_whitespace() => all.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    open.is_none().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_a_shell_does() {
        let text = r#"-k /boot/bzImage  -B "root=/dev/vda rw" 'it is' a\ b "" "c\"d""#;
        let expected = [
            "-k",
            "/boot/bzImage",
            "-B",
            "root=/dev/vda rw",
            "it is",
            "a b",
            "",
            "c\"d",
        ];
        assert_eq!(words(text).unwrap(), expected);
        assert_eq!(words("  ").unwrap(), Vec::<String>::new());
        assert_eq!(words("a 'b"), None);
        assert_eq!(words("a\\"), None);
    }

    #[test]
    fn quoted_words_come_back() {
        for word in [
            "",
            "a b",
            "it's",
            "$(rm -rf /)",
            "`x`",
            "a\\",
            "plain,ro",
            "\"",
            "ä",
        ] {
            assert_eq!(words(&quoted(word)).unwrap(), [word]);
        }
        assert_eq!(quoted("3,virtio-blk,/a.img"), "3,virtio-blk,/a.img");
    }
}
