//! The book's chapter on states says what the state machine does. `ACRN_WRITE_TABLES=1 cargo test -p
//! acrn-lifecycle` writes its tables anew; the picture is drawn by hand.

use std::collections::BTreeSet;
use std::fmt::Write;

use acrn_lifecycle::{Caller, Reason, Severity, Standing, VmRequest, VmState};

const CHAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/vm-states.md");
const PICTURE: &str = include_str!("../../../docs/src/vm-states.svg");
const BEGIN: &str = "<!-- tables: begin -->\n";
const END: &str = "<!-- tables: end -->";

const STANDARD: Standing = Standing {
    severity: Severity::STANDARD,
    real_time: false,
    pre_launched: false,
    ready_to_start: true,
};
const REAL_TIME: Standing = Standing {
    severity: Severity::REAL_TIME,
    real_time: true,
    ..STANDARD
};
const PRE_LAUNCHED: Standing = Standing {
    pre_launched: true,
    ..STANDARD
};
const NOT_READY: Standing = Standing {
    ready_to_start: false,
    ..STANDARD
};

/// Who asks, of which VM.
const CASES: [(&str, Caller, Standing); 8] = [
    ("The hypervisor", Caller::Hypervisor, STANDARD),
    (
        "The hypervisor, of a real-time VM",
        Caller::Hypervisor,
        REAL_TIME,
    ),
    ("The Service VM", Caller::ServiceVm, STANDARD),
    (
        "The Service VM, of a real-time VM",
        Caller::ServiceVm,
        REAL_TIME,
    ),
    (
        "The Service VM, of a pre-launched VM",
        Caller::ServiceVm,
        PRE_LAUNCHED,
    ),
    (
        "The Service VM, of a VM without an I/O request page",
        Caller::ServiceVm,
        NOT_READY,
    ),
    ("The guest itself", Caller::Guest, STANDARD),
    ("A real-time guest itself", Caller::Guest, REAL_TIME),
];

fn cell(state: VmState, request: VmRequest, caller: Caller, vm: Standing) -> &'static str {
    match state.on(request, caller, vm) {
        Ok(next) => next.name(),
        Err(refused) => match refused.reason {
            Reason::State => "–",
            Reason::Severity => "*severity*",
            Reason::Caller => "*caller*",
            Reason::NotReady => "*not ready*",
        },
    }
}

fn tables() -> String {
    let mut text = String::new();
    for (title, caller, vm) in CASES {
        let _ = write!(text, "\n### {title}\n\n| |");
        for state in VmState::ALL {
            let _ = write!(text, " {state} |");
        }
        text += "\n|---|---|---|---|---|---|\n";
        for request in VmRequest::ALL {
            let _ = write!(text, "| {} |", request.name());
            for state in VmState::ALL {
                let _ = write!(text, " {} |", cell(state, request, caller, vm));
            }
            text.push('\n');
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_books_tables_are_the_state_machine() {
    let chapter = std::fs::read_to_string(CHAPTER).unwrap();
    let (before, rest) = chapter.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let wanted = tables();
    if std::env::var_os("ACRN_WRITE_TABLES").is_some() {
        let text = format!("{before}{BEGIN}{wanted}{END}{after}");
        std::fs::write(CHAPTER, text).unwrap();
        return;
    }
    assert_eq!(
        found, wanted,
        "ACRN_WRITE_TABLES=1 cargo test -p acrn-lifecycle writes them anew"
    );
}

/// Every change of state that anybody can bring about of any VM.
fn transitions() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (_, caller, vm) in CASES {
        for state in VmState::ALL {
            for request in VmRequest::ALL {
                match state.on(request, caller, vm) {
                    Ok(next) if next != state => {
                        all.insert(format!("{state}, {}: {next}", request.name()));
                    }
                    _ => {}
                }
            }
        }
    }
    all
}

#[test]
fn the_books_picture_has_each_transition_and_no_other() {
    let titles = PICTURE.split("<title>").skip(1);
    let titles = titles.filter_map(|rest| rest.split("</title>").next());
    let drawn: BTreeSet<String> = titles
        .flat_map(|title| title.split("; "))
        .map(str::to_owned)
        .collect();
    assert_eq!(drawn, transitions());
    for state in VmState::ALL {
        assert!(PICTURE.contains(&format!(">{state}</text>")), "{state}");
    }
}

/// States that those who ask can bring a VM to.
fn reachable(from: VmState, callers: &[Caller], vm: Standing) -> BTreeSet<u8> {
    let mut seen = BTreeSet::from([from as u8]);
    let mut left = vec![from];
    while let Some(state) = left.pop() {
        for (&caller, request) in callers
            .iter()
            .flat_map(|c| VmRequest::ALL.map(|request| (c, request)))
        {
            if let Ok(next) = state.on(request, caller, vm) {
                if seen.insert(next as u8) {
                    left.push(next);
                }
            }
        }
    }
    seen
}

#[test]
fn every_state_can_be_left_to_every_other_by_those_who_may_ask() {
    use Caller::{Guest, Hypervisor, ServiceVm};
    // A running real-time VM ends only when its guest agrees.
    let cases: [(&[Caller], Standing); 5] = [
        (&[Hypervisor], STANDARD),
        (&[Hypervisor], REAL_TIME),
        (&[Hypervisor], PRE_LAUNCHED),
        (&[ServiceVm], STANDARD),
        (&[ServiceVm, Guest], REAL_TIME),
    ];
    for (callers, vm) in cases {
        let all: Vec<VmState> = VmState::ALL
            .into_iter()
            .filter(|&state| vm.real_time || state != VmState::ReadyToPowerOff)
            .collect();
        for &from in &all {
            let reached = reachable(from, callers, vm);
            for &to in &all {
                let found = reached.contains(&(to as u8));
                assert!(found, "{callers:?}: {from} to {to}, {vm:?}");
            }
        }
    }
}

#[test]
fn the_service_vm_never_stops_a_vm_above_it() {
    for severity in 0..=u8::MAX {
        let vm = Standing {
            severity: Severity(severity),
            ..STANDARD
        };
        let outranked = vm.severity > Severity::SERVICE;
        let reached = reachable(VmState::Running, &[Caller::ServiceVm], vm);
        assert_eq!(reached.len() == 1, outranked, "{severity:#x}");
    }
}
