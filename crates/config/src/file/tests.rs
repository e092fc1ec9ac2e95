use super::*;
use crate::model::{Group, Item, Kind, Occurs, Pattern, Place};
use crate::xml::Element;
use acrn_abi::Bdf;
use acrn_config_blob::{LoadOrder, Scheduler};

const SAMPLE: &str = r#"<acrn-config board="b" scenario="s">
  <!-- ours -->
  <hv>
    <FEATURES>
      <SCHEDULER>SCHED_NOOP</SCHEDULER>
      <FUTURE>1</FUTURE>
      <VUART_RX_BUF_SIZE>99</VUART_RX_BUF_SIZE>
    </FEATURES>
  </hv>
  <vm id="0">
    <load_order>SERVICE_VM</load_order>
    <name>Service</name>
  </vm>
  <vm id="1">
    <load_order>POST_LAUNCHED_VM</load_order>
    <memory><size>512</size></memory>
    <cpu_affinity>
      <pcpu><pcpu_id>1</pcpu_id></pcpu>
    </cpu_affinity>
  </vm>
</acrn-config>
"#;

fn sample() -> ScenarioFile {
    ScenarioFile::parse("s.xml", SAMPLE).unwrap()
}

#[test]
fn values_defaults_and_lists_are_read() {
    let scenario = sample().model;
    assert_eq!(scenario.name.as_deref(), Some("s"));
    assert_eq!(scenario.hv.features.scheduler, Scheduler::Noop);
    assert_eq!(scenario.hv.features.vuart_tx_buffer, 8192);
    assert!(scenario.hv.features.relocation);
    assert_eq!(scenario.vms[0].load_order, LoadOrder::Service);
    assert_eq!(scenario.vms[0].os_config.kern_mod, "Linux_bzImage");
    assert_eq!(scenario.vms[1].memory.size, 512);
    assert_eq!(scenario.vms[1].cpu_affinity.pcpus[0].id, 1);
}

#[test]
fn everything_wrong_is_reported_at_once_with_its_line() {
    let found: Vec<_> = sample()
        .findings
        .iter()
        .map(|f| (f.line, f.rule, f.path.clone()))
        .collect();
    let expected = [
        (7, "bad-value", "hv/FEATURES/VUART_RX_BUF_SIZE"),
        (6, "unknown-element", "hv/FEATURES/FUTURE"),
        (14, "missing", "vm[2]/name"),
    ];
    let expected = expected.map(|(line, rule, path)| (line, rule, path.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn an_update_without_a_change_changes_nothing() {
    let mut file = sample();
    file.update(&file.model.clone());
    assert_eq!(file.document.to_string(), SAMPLE);
}

#[test]
fn an_update_changes_its_place_only() {
    let mut file = sample();
    let mut scenario = file.model.clone();
    scenario.vms[1].memory.size = 1024;
    scenario.vms[1].name = "User".to_owned();
    scenario.hv.features.hyperv = false;
    file.update(&scenario);
    assert_eq!(file.model, scenario);
    let text = file.document.to_string();
    // The new element stands where it belongs.
    let expected = "<FUTURE>1</FUTURE>\n      <HYPERV_ENABLED>n</HYPERV_ENABLED>\n      <VUART_RX_BUF_SIZE>99<";
    assert!(
        text.contains(expected) && text.contains("<!-- ours -->"),
        "{text}"
    );
}

#[test]
fn one_element_is_set_if_it_can_be_there() {
    let mut file = sample();
    assert!(file.set("vm[2]/memory/size", "768"));
    assert!(file.set("vm[2]/cpu_affinity/pcpu[2]/pcpu_id", "3"));
    assert_eq!(file.model.vms[1].memory.size, 768);
    assert_eq!(file.model.vms[1].cpu_affinity.pcpus[1].id, 3);
    let before = file.document.to_string();
    let impossible = [
        "vm[2]/nothing",
        "vm[9]/name",
        "vm[2]/memory",
        "vm[2]/memory[2]/size",
        "",
    ];
    assert!(impossible.iter().all(|path| !file.set(path, "1")));
    assert_eq!(file.document.to_string(), before);
}

#[test]
fn elements_are_added_where_they_can_be_and_taken_away() {
    let mut file = sample();
    let before = file.document.to_string();
    let added = file.add("vm[2]/virtio_devices/vsock");
    assert_eq!(added.as_deref(), Some("vm[2]/virtio_devices/vsock[1]"));
    assert_eq!(file.model.vms[1].virtio_devices.vsocks.len(), 1);
    assert!(file.remove("vm[2]/virtio_devices/vsock[1]"));
    assert!(!file.remove("vm[2]/virtio_devices/vsock[1]"));
    assert!(file.remove("vm[2]/virtio_devices"));
    for impossible in [
        "vm[2]/memory",
        "vm[2]/nothing",
        "vm[9]/virtio_devices/vsock",
        "",
    ] {
        assert_eq!(file.add(impossible), None, "{impossible}");
    }
    assert_eq!(file.document.to_string(), before);
}

#[test]
fn an_attribute_is_set_if_there_is_one() {
    let mut file = sample();
    assert!(file.set("@scenario", "mine") && file.set("vm[2]/@id", "7"));
    assert_eq!(file.model.name.as_deref(), Some("mine"));
    assert_eq!(file.model.vms[1].id, 7);
    assert!(!file.set("@nothing", "1") && !file.set("vm[2]/name/@id", "1"));
}

/// Each item and its way. The board's devices are within each other without end.
fn each(items: &'static [Item], path: &str, depth: usize, with: &mut dyn FnMut(&str, &Item)) {
    for item in items.iter().filter(|_| depth > 0) {
        let path = format!("{path}/{}", item.name);
        with(&path, item);
        each(item.children(), &path, depth - 1, with);
    }
}

#[test]
fn every_item_has_title_and_help_and_its_default_is_a_value() {
    let mut judge = |path: &str, item: &Item| {
        assert!(!item.title.is_empty(), "{path} has no title");
        assert!(item.help.ends_with('.'), "{path}: {}", item.help);
        if let Kind::Choice(choices) = item.kind {
            let there = choices.iter().any(|choice| choice.word == item.default);
            assert!(
                item.default.is_empty() || there,
                "{path}: default {}",
                item.default
            );
        }
        if let (Kind::Number, false) = (item.kind, item.default.is_empty()) {
            let value: i64 = item.default.parse().unwrap();
            let (least, greatest) = item.range.unwrap();
            assert!((least..=greatest).contains(&value), "{path}");
        }
        assert!(
            !(item.required && item.occurs == Occurs::Optional),
            "{path}"
        );
    };
    each(Scenario::ITEMS, "", 20, &mut judge);
    each(Board::ITEMS, "", 8, &mut judge);
}

/// A document with a pseudo-random choice of elements and values that are in order.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn text(&mut self, item: &Item) -> String {
        let number = self.below(1 << 20);
        match item.kind {
            Kind::Flag => ["y", "n"][self.below(2) as usize].to_owned(),
            Kind::Number => {
                let (least, greatest) = item.range.unwrap_or((0, 1000));
                (least + number as i64 % (greatest - least + 1)).to_string()
            }
            Kind::Hex => format!("{number:#x}"),
            Kind::Choice(choices) => choices[number as usize % choices.len()].word.to_owned(),
            Kind::Bdf => Bdf(number as u16).to_string(),
            Kind::Device => format!("{} Something & more", Bdf(number as u16)),
            Kind::Text if item.pattern == Pattern::Tty => format!("/dev/ttyS{}", number % 9),
            Kind::Text => format!("t{number}"),
            Kind::Group(_) | Kind::Anything => String::new(),
        }
    }

    fn fill(&mut self, element: &mut Element, items: &[Item], depth: usize) {
        for item in items {
            let count = match item.occurs {
                Occurs::Many => self.below(3),
                _ if item.required => 1,
                _ => self.below(2),
            };
            let group = matches!(item.kind, Kind::Group(_));
            for _ in 0..count.min(if group && depth == 0 { 0 } else { count }) {
                let text = self.text(item);
                match item.place {
                    Place::Attribute => element.set_attribute(item.name, &text),
                    Place::Text => element.set_text(&text),
                    Place::Element if item.name.is_empty() => {}
                    Place::Element => {
                        let child = element.add(Element::with_text(item.name, &text));
                        self.fill(child, item.children(), depth.saturating_sub(1));
                    }
                }
            }
        }
    }
}

fn round_trip<T: Model + Group + PartialEq + Clone + std::fmt::Debug>(seed: u64) {
    let mut root = Element::new("acrn-config");
    Random(seed | 1).fill(&mut root, T::ITEMS, 6);
    let text = Document::new(root).to_string();
    let mut file = File::<T>::parse("random", &text).unwrap();
    assert_eq!(file.findings, [], "{text}");
    // Onto itself: nothing changes. Onto nothing: it means the same.
    file.update(&file.model.clone());
    assert_eq!(file.document.to_string(), text);
    let mut anew = File::<T>::parse("anew", "<acrn-config/>").unwrap();
    anew.update(&file.model);
    let written = anew.document.to_string();
    let again = File::<T>::parse("again", &written).unwrap();
    assert_eq!(again.model, file.model, "{text}\n{written}");
}

impl Random {
    /// Gives a value here and there another that is in order by itself.
    fn change(&mut self, element: &mut Element, items: &[Item]) {
        for child in element.elements_mut() {
            let Some(item) = items.iter().find(|item| item.name == child.name) else {
                continue;
            };
            let leaf = item.children().is_empty();
            if leaf && self.below(40) == 0 {
                child.set_text(&self.text(item));
            }
            self.change(child, item.children());
        }
    }
}

fn changed(seed: u64, preset: &crate::presets::Preset) -> (BoardFile, ScenarioFile) {
    let mut random = Random(seed | 1);
    let mut board = xml::parse(preset.board).unwrap();
    if seed.is_multiple_of(4) {
        random.change(&mut board.root, Board::ITEMS);
    }
    let mut scenario = xml::parse(preset.scenario).unwrap();
    random.change(&mut scenario.root, Scenario::ITEMS);
    (BoardFile::of("b", board), ScenarioFile::of("s", scenario))
}

fn random<T: Model + Group>(seed: u64) -> File<T> {
    let mut root = Element::new("acrn-config");
    Random(seed | 1).fill(&mut root, T::ITEMS, 6);
    File::of("random", Document::new(root))
}

/// Whatever the values are: they are judged, and what is built is what the hypervisor reads.
fn judged(board: &BoardFile, scenario: &ScenarioFile) {
    let findings = crate::validate::validate(board, scenario);
    match crate::build(board, scenario) {
        Ok(built) => {
            let (board, scenario) = (&board.model, &scenario.model);
            assert!(crate::build::says_what_was_meant(board, scenario, &built));
        }
        // All that a rule cannot know is whether there is room.
        Err(found) if crate::validate::is_valid(&findings) => {
            assert!(
                found.iter().any(|finding| finding.rule == "allocation"),
                "{found:#?}"
            );
        }
        Err(found) => assert!(!crate::validate::is_valid(&found)),
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]
    #[test]
    fn what_is_written_reads_as_the_same(seed: u64) {
        round_trip::<Scenario>(seed);
        round_trip::<Board>(seed);
    }

    #[test]
    fn any_values_are_judged(seed: u64) {
        let generic = crate::presets::preset("generic").unwrap();
        judged(&BoardFile::parse("b", generic.board).unwrap(), &random(seed));
        judged(&random(seed), &ScenarioFile::parse("s", generic.scenario).unwrap());
        judged(&random(seed), &random(seed.wrapping_add(1)));
        for preset in crate::presets::PRESETS {
            let (board, scenario) = changed(seed, preset);
            judged(&board, &scenario);
        }
    }
}
