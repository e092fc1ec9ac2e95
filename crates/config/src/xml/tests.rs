use super::*;

const SAMPLE: &str = "<?xml version=\"1.0\"?>\n<!-- head -->\n<a  x='1'>\n  <b>one &amp; two</b>\n  <!-- note -->\n  <c/>\n  <b><![CDATA[<raw>]]></b>\n</a>\n";

#[test]
fn an_unchanged_document_is_written_byte_for_byte() {
    assert_eq!(parse(SAMPLE).unwrap().to_string(), SAMPLE);
}

#[test]
fn text_is_without_references_and_elements_have_lines() {
    let document = parse(SAMPLE).unwrap();
    let texts: Vec<_> = document.root.named("b").map(Element::text).collect();
    assert_eq!(texts, ["one & two", "<raw>"]);
    assert_eq!(document.line_of("b[2]"), 7);
    assert_eq!(document.line_of("c/missing"), 6);
    assert_eq!(document.root.attribute("x"), Some("1"));
}

#[test]
fn a_change_touches_its_place_only() {
    let mut document = parse(SAMPLE).unwrap();
    document.root.find_mut("b").unwrap().set_text("3 < 4");
    document.root.make("c/d").set_text("new");
    let expected = SAMPLE
        .replace("one &amp; two", "3 &lt; 4")
        .replace("<c/>", "<c>\n    <d>new</d>\n  </c>");
    assert_eq!(document.to_string(), expected);
    document.root.remove("c", 0);
    assert!(!document.to_string().contains("<c>"));
}

#[test]
fn what_is_no_xml_is_refused_with_its_line() {
    let line = |text: &str| parse(text).unwrap_err().line;
    assert_eq!(line("<a>\n<b>\n</a>"), 3);
    assert_eq!(line("<a>\n<b>"), 2);
    assert_eq!(line("\n\n"), 3);
    assert_eq!(line("<a/>\n<b/>"), 2);
    assert_eq!(line("<a>\n &nonsense; </a>"), 2);
}

#[test]
fn depth_is_bounded() {
    let deep = "<a>".repeat(100_000);
    assert_eq!(
        parse(&deep).unwrap_err().what,
        "elements are nested too deeply"
    );
}
