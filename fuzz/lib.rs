//! What the targets share.

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = acrn_robustness::target(name).expect("a target of that name");
    (target.run)(data);
}
