//! Serial lines between VMs: pairs of vUARTs that name each other.

use acrn_abi::VmId;
use acrn_config_blob::Config;

/// One end of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineEnd {
    /// Its VM, as the configuration counts them.
    pub vm: VmId,
    /// The number of the vUART there.
    pub vuart: u16,
}

/// Every line once, the smaller end first.
pub fn lines<'a>(config: &Config<'a>) -> impl Iterator<Item = [LineEnd; 2]> + use<'a> {
    config.vms.iter().flat_map(|vm| {
        vm.vuarts.iter().filter_map(move |vuart| {
            let target = vuart.target?;
            let near = LineEnd {
                vm: vm.id,
                vuart: vuart.number,
            };
            let far = LineEnd {
                vm: target.vm,
                vuart: target.vuart,
            };
            (near < far).then_some([near, far])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Example, blob};

    #[test]
    fn each_line_is_there_once() {
        let example = Example {
            line: true,
            ..Example::default()
        };
        let config = Config::parse(blob(&example)).unwrap();
        let end = |vm, vuart| LineEnd {
            vm: VmId(vm),
            vuart,
        };
        let found: Vec<_> = lines(&config).collect();
        assert_eq!(found, [[end(1, 1), end(2, 1)]]);
    }

    #[test]
    fn consoles_are_no_lines() {
        let config = Config::parse(blob(&Example::default())).unwrap();
        assert_eq!(lines(&config).count(), 0);
    }
}
