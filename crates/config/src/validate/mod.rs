//! Whether a scenario makes sense, in itself and on its board.
//!
//! Single values were judged when the file was read. Here are the rules about more than one: each is
//! a function of its own, listed with its name, what it demands, and what to do when it is broken.
//! All rules run always, so that everything wrong is known at once.

mod applies;
mod cache;
mod cpu;
mod devices;
mod links;
mod memory;
mod virtio;
mod vms;

use crate::board::{Cpu, PciFunction};
pub(crate) use devices::pins;
pub(crate) use links::console_port;
pub use memory::megabytes;
pub(crate) use memory::range;

use crate::finding::usable;
use crate::{Board, BoardFile, Finding, Scenario, ScenarioFile, Severity};

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub id: &'static str,
    /// How bad it is when it is broken.
    pub severity: Severity,
    /// What it demands.
    pub text: &'static str,
    /// What to do.
    pub remedy: &'static str,
    check: fn(&Context<'_>, &mut Hits),
}

/// What rules look at.
pub struct Context<'a> {
    board: &'a Board,
    scenario: &'a Scenario,
    cpus: Vec<Cpu>,
    functions: Vec<PciFunction<'a>>,
}

/// Where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The element.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Where rules are broken.
#[derive(Default)]
pub struct Hits(Vec<Hit>);

impl Hits {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Hit {
            path: path.into(),
            message: message.into(),
        });
    }
}

impl<'a> Context<'a> {
    /// For a scenario on a board.
    pub fn new(board: &'a Board, scenario: &'a Scenario) -> Self {
        Self {
            board,
            scenario,
            cpus: board.cpus(),
            functions: board.pci_functions(),
        }
    }
}

impl Rule {
    /// Where it is broken.
    pub fn judge(&self, context: &Context<'_>) -> Vec<Hit> {
        let mut hits = Hits::default();
        (self.check)(context, &mut hits);
        hits.0
    }
}

const fn error(
    id: &'static str,
    text: &'static str,
    remedy: &'static str,
    check: fn(&Context<'_>, &mut Hits),
) -> Rule {
    Rule {
        id,
        severity: Severity::Error,
        text,
        remedy,
        check,
    }
}

const fn warning(
    id: &'static str,
    text: &'static str,
    remedy: &'static str,
    check: fn(&Context<'_>, &mut Hits),
) -> Rule {
    Rule {
        severity: Severity::Warning,
        ..error(id, text, remedy, check)
    }
}

/// All rules.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    let lists = [
        vms::RULES,
        cpu::RULES,
        memory::RULES,
        links::RULES,
        devices::RULES,
        cache::RULES,
        virtio::RULES,
    ];
    lists.into_iter().flatten()
}

/// Everything that is wrong with two files, in the order of their lines.
pub fn validate(board: &BoardFile, scenario: &ScenarioFile) -> Vec<Finding> {
    let mut findings = [board.findings.clone(), scenario.findings.clone()].concat();
    findings.extend(applies::check(scenario));
    let context = Context::new(&board.model, &scenario.model);
    for rule in rules() {
        findings.extend(
            rule.judge(&context)
                .into_iter()
                .map(|hit| finding(rule, hit, scenario)),
        );
    }
    findings.sort_by(|a, b| (&a.file, a.line, a.rule).cmp(&(&b.file, b.line, b.rule)));
    findings
}

fn finding(rule: &Rule, hit: Hit, file: &ScenarioFile) -> Finding {
    Finding {
        severity: rule.severity,
        file: file.name.clone(),
        line: file.document.line_of(&hit.path),
        path: hit.path,
        rule: rule.id,
        message: hit.message,
        remedy: rule.remedy.to_owned(),
    }
}

/// Whether a configuration can be built of what was found.
pub fn is_valid(findings: &[Finding]) -> bool {
    usable(findings)
}

/// The path of VM number `index`, counted from 0.
pub(crate) fn vm_path(index: usize) -> String {
    format!("vm[{}]", index + 1)
}

#[cfg(test)]
mod tests;
