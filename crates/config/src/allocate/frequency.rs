//! Limits of each CPU's performance, by HWP's levels.
//!
//! A CPU that does real-time work keeps one level, so that its pace does not change: the guaranteed one,
//! and the highest where the policy is performance and nobody else changes frequency with it. CPUs that
//! change their frequency together share limits. Others may do what the processor can.

use super::Notes;
use crate::board::{Board, Thread};
use crate::scenario::Vm;
use crate::{Scenario, allocate::HYPERVISOR};
use acrn_config_blob::{PerformancePolicy, VmKind};

/// HWP's levels are bytes.
const HIGHEST: i64 = 0xff;
const LOWEST: i64 = 1;

/// What a CPU may choose of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The CPU.
    pub cpu: i64,
    /// Lowest level.
    pub lowest: i64,
    /// Highest level.
    pub highest: i64,
}

/// The limits of all CPUs whose levels the board file has.
pub fn frequencies(board: &Board, scenario: &Scenario, notes: &mut Notes) -> Vec<Limits> {
    let threads = threads(board);
    let mut all: Vec<Limits> = Vec::new();
    for thread in threads.iter().filter(|thread| thread.hwp_highest.is_some()) {
        let together = domain(thread);
        let real_time = |cpu: &i64| is_real_time(scenario, *cpu);
        let limits = match together.iter().any(real_time) {
            true => fixed(scenario, thread, &together, &threads),
            false => free(thread),
        };
        let (lowest, highest) = (limits.lowest, limits.highest);
        let why = match (together.iter().any(real_time), together.len()) {
            (false, _) => "no real-time work: what the processor can".to_owned(),
            (true, 1) => "real-time work: one level".to_owned(),
            (true, _) => format!("CPUs {together:?} change together, and one does real-time work"),
        };
        let value = format!("levels {lowest} to {highest} of CPU {}", thread.cpu_id);
        notes.add(HYPERVISOR, "performance", value, why);
        all.push(limits);
    }
    all
}

fn threads(board: &Board) -> Vec<&Thread> {
    let dies = &board.processors.dies;
    let modules = dies.iter().flat_map(|die| &die.modules);
    let cores = dies.iter().flat_map(|die| &die.cores);
    let cores = cores.chain(modules.flat_map(|module| &module.cores));
    let mut all: Vec<&Thread> = cores.flat_map(|core| &core.threads).collect();
    all.sort_by_key(|thread| thread.cpu_id);
    all
}

/// The CPUs that change their frequency with a CPU, itself among them.
fn domain(thread: &Thread) -> Vec<i64> {
    let text = thread.freqdomain.as_deref().unwrap_or_default();
    let words = text.split([' ', ',', '\n', '\t']);
    let mut all: Vec<i64> = words.filter_map(|word| word.parse().ok()).collect();
    all.push(thread.cpu_id);
    all.sort_unstable();
    all.dedup();
    all
}

fn is_real_time(scenario: &Scenario, cpu: i64) -> bool {
    let has = |vm: &&Vm| {
        let mut own = vm.cpu_affinity.pcpus.iter().filter(|pcpu| pcpu.id == cpu);
        own.any(|pcpu| pcpu.real_time || vm.kind == VmKind::RealTime)
    };
    scenario.vms.iter().any(|vm| has(&vm))
}

/// One level for all that change together: what each of them can keep.
fn fixed(scenario: &Scenario, thread: &Thread, together: &[i64], threads: &[&Thread]) -> Limits {
    let nominal = scenario.hv.features.performance == PerformancePolicy::Nominal;
    let alone = together.len() == 1 && !nominal;
    let of = |thread: &Thread| match alone {
        true => thread.hwp_highest.or(thread.hwp_guaranteed),
        false => thread.hwp_guaranteed.or(thread.hwp_highest),
    };
    let levels = threads
        .iter()
        .filter(|other| together.contains(&other.cpu_id));
    let level = levels
        .filter_map(|thread| of(thread))
        .min()
        .unwrap_or(HIGHEST);
    let level = level.clamp(LOWEST, HIGHEST);
    Limits {
        cpu: thread.cpu_id,
        lowest: level,
        highest: level,
    }
}

fn free(thread: &Thread) -> Limits {
    let highest = thread.hwp_highest.unwrap_or(HIGHEST).clamp(LOWEST, HIGHEST);
    let lowest = thread.hwp_lowest.unwrap_or(LOWEST).clamp(LOWEST, highest);
    Limits {
        cpu: thread.cpu_id,
        lowest,
        highest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::preset;
    use crate::{BoardFile, ScenarioFile};
    use proptest::prelude::*;

    /// The preset `shared`, whose real-time VM has CPU 3, on a board with these levels, lowest, guaranteed
    /// and highest, and these domains.
    fn limits(levels: (i64, i64, i64), domains: [&str; 4], policy: &str) -> Vec<(i64, i64)> {
        let preset = preset("shared").unwrap();
        let mut board = BoardFile::parse("b", preset.board).unwrap().model;
        let cores = board
            .processors
            .dies
            .iter_mut()
            .flat_map(|die| &mut die.cores);
        for (thread, domain) in cores.flat_map(|core| &mut core.threads).zip(domains) {
            thread.hwp_lowest = Some(levels.0);
            thread.hwp_guaranteed = Some(levels.1);
            thread.hwp_highest = Some(levels.2);
            thread.freqdomain = Some(domain.to_owned());
        }
        let element =
            format!("<CPU_PERFORMANCE_POLICY>{policy}</CPU_PERFORMANCE_POLICY></FEATURES>");
        let text = preset.scenario.replace("</FEATURES>", &element);
        let scenario = ScenarioFile::parse("s", &text).unwrap().model;
        let mut notes = Notes::default();
        let all = frequencies(&board, &scenario, &mut notes);
        assert_eq!(notes.0.len(), all.len());
        all.iter()
            .map(|limits| (limits.lowest, limits.highest))
            .collect()
    }

    #[test]
    fn a_real_time_cpu_keeps_one_level_and_the_others_are_free() {
        let own = ["0", "1", "2", "3"];
        let performance = limits((4, 20, 40), own, "Performance");
        assert_eq!(performance, [(4, 40), (4, 40), (4, 40), (40, 40)]);
        let nominal = limits((4, 20, 40), own, "Nominal");
        assert_eq!(nominal, [(4, 40), (4, 40), (4, 40), (20, 20)]);
    }

    #[test]
    fn cpus_that_change_together_keep_what_is_guaranteed() {
        let shared = limits((4, 20, 40), ["0 1", "0 1", "2 3", "2 3"], "Performance");
        assert_eq!(shared, [(4, 40), (4, 40), (20, 20), (20, 20)]);
    }

    #[test]
    fn a_board_without_levels_gets_no_limits() {
        let preset = preset("shared").unwrap();
        let board = BoardFile::parse("b", preset.board).unwrap().model;
        let scenario = ScenarioFile::parse("s", preset.scenario).unwrap().model;
        assert!(frequencies(&board, &scenario, &mut Notes::default()).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the board file says, limits are levels and in order.
        #[test]
        fn limits_are_levels(low in any::<i64>(), guaranteed in any::<i64>(), high in any::<i64>()) {
            for (lowest, highest) in limits((low, guaranteed, high), ["0 1 2 3"; 4], "Performance") {
                prop_assert!((LOWEST..=HIGHEST).contains(&lowest) && lowest <= highest);
                prop_assert!(highest <= HIGHEST);
            }
        }
    }
}
