//! A VM on a fake driver, from creation to its end.

use acrn_abi::hypercall::Vdev;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use acrn_abi::hypercall::IrqLine;

use vm_memory::{Address, Bytes, GuestAddress};

use super::*;
use crate::cli::{Request, parse};
use crate::hsm::fake::{Call, FakeHsm};
use crate::legacy::power::{PM1_CONTROL, PM1_EVENT};
use crate::loader::bzimage::tests::kernel_bytes;
use crate::memory::Layout;
use crate::pci::bus::ECAM_BASE;

const POWER_OFF: u32 = 1 << 13 | 5 << 10;
const SUSPEND: u32 = 1 << 13 | 3 << 10;

struct Guest {
    hsm: Arc<FakeHsm>,
    page: Arc<RequestPage>,
    events: Sender<Event>,
    ram: Arc<crate::pci::GuestRam>,
    thread: Option<JoinHandle<i32>>,
    _kernel: tempfile::NamedTempFile,
}

impl Guest {
    /// Starts a VM with these options.
    fn start(options: &str) -> Self {
        let mut kernel = tempfile::NamedTempFile::new().unwrap();
        kernel.write_all(&kernel_bytes()).unwrap();
        let path = kernel.path().to_str().unwrap().to_owned();
        let words = ["acrn-dm", "-m", "32M", "-k", &path];
        let words = words
            .into_iter()
            .chain(options.split_whitespace())
            .chain(["test"]);
        let Ok(Request::Run(spec)) = parse(words.map(Into::into)) else {
            panic!("{options}")
        };
        let hsm = FakeHsm::new();
        let program = Program::open(&spec.boot, &spec.bootargs, spec.memory).unwrap();
        let memory = Memory::ordinary(Layout::new(spec.memory)).unwrap();
        let mut vm =
            Vm::create(&spec, program, <_>::default(), hsm.clone(), memory).expect("creation");
        let (page, events) = (vm.page.clone(), vm.events());
        assert!(hsm.page.set(page.clone()).is_ok());
        vm.start().expect("start");
        let ram = vm.memory.ram().clone();
        let thread = Some(std::thread::spawn(move || vm.run()));
        Self {
            hsm,
            page,
            events,
            ram,
            thread,
            _kernel: kernel,
        }
    }

    fn port_in(&self, port: u16, size: u64) -> u32 {
        self.hsm.port_in(&self.page, port.into(), size)
    }

    fn port_out(&self, port: u16, size: u64, value: u32) {
        self.hsm.port_out(&self.page, port.into(), size, value);
    }

    fn command(&self, command: Command) -> Answer {
        let (control, answer) = Control::new(command);
        self.events.send(Event::Control(control)).unwrap();
        answer
            .recv_timeout(Duration::from_secs(10))
            .expect("an answer")
    }

    fn state(&self) -> &'static str {
        match self.command(Command::Status) {
            Answer::Status(status) => status.state,
            other => panic!("{other:?}"),
        }
    }

    /// Goes to sleep, to be woken at this address.
    fn suspend(&self, vector: u32) {
        let facs = GuestAddress(acpi::RSDP_ADDRESS + 0x40);
        self.ram.write_obj(vector, facs.unchecked_add(12)).unwrap();
        self.hsm.take_calls();
        self.port_out(PM1_CONTROL, 2, SUSPEND);
        self.hsm.wait_for(&Call::Clear);
        while self.state() != "suspended" {}
        assert_eq!(self.main_calls(), [Call::Pause, Call::Clear]);
    }

    /// What was called besides interrupt lines.
    fn main_calls(&self) -> Vec<Call> {
        let calls = self.hsm.take_calls().into_iter();
        calls
            .filter(|call| !matches!(call, Call::IrqLine(..)))
            .collect()
    }

    fn exit_code(&mut self) -> i32 {
        self.thread.take().expect("not yet ended").join().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.events.send(Event::Lost);
            let _ = thread.join();
        }
    }
}

#[test]
fn a_vm_is_created_loaded_and_started_in_this_order() {
    let guest = Guest::start("");
    let main = guest.main_calls();
    let expected = [
        Call::Create,
        Call::Memory {
            gpa: 0,
            len: 32 << 20,
        },
        Call::Vdev(Vdev::LEGACY_COUNTERS, 0x408),
        Call::Vdev(Vdev::LEGACY_TIMER, 0x40),
        Call::Client,
        Call::Registers {
            rip: 0x100_0200,
            rsi: 0x7000,
        },
        Call::Start,
    ];
    assert_eq!(main, expected);
}

#[test]
fn power_off_by_the_guest_ends_the_vm_and_destroys_it() {
    let mut guest = Guest::start("");
    guest.port_out(PM1_CONTROL, 2, POWER_OFF);
    assert_eq!(guest.exit_code(), 0);
    let calls = guest.hsm.take_calls();
    assert_eq!(calls[calls.len() - 2..], [Call::Pause, Call::Destroy]);
}

#[test]
fn a_reset_restarts_the_guest_in_the_same_vm() {
    let guest = Guest::start("");
    guest.port_out(0x70, 1, 0x8b);
    guest.hsm.take_calls();
    guest.port_out(0xcf9, 1, 0x06);
    guest.hsm.wait_for(&Call::Start);
    let main = guest.main_calls();
    let registers = Call::Registers {
        rip: 0x100_0200,
        rsi: 0x7000,
    };
    assert_eq!(
        main,
        [
            Call::Pause,
            Call::Clear,
            Call::Reset,
            registers,
            Call::Start
        ]
    );
    assert_eq!(
        guest.port_in(0x70, 1),
        0,
        "devices were reset, and requests are answered again"
    );
}

#[test]
fn the_serial_port_prints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mut guest = Guest::start(&format!("-l com1,file:{}", path.display()));
    for byte in b"hello" {
        guest.port_out(0x3f8, 1, (*byte).into());
    }
    assert_eq!(guest.port_in(0x3fd, 1), 0x60);
    guest.port_out(PM1_CONTROL, 2, POWER_OFF);
    guest.exit_code();
    assert_eq!(std::fs::read(path).unwrap(), b"hello");
}

#[test]
fn serial_input_interrupts_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com2");
    let guest = Guest::start(&format!("-l com2,unix:{}", path.display()));
    guest.port_out(0x2f9, 1, 1);
    UnixStream::connect(&path).unwrap().write_all(b"k").unwrap();
    guest.hsm.wait_for(&Call::IrqLine(3, IrqLine::HIGH));
    assert_eq!(guest.port_in(0x2f8, 1), u32::from(b'k'));
}

#[test]
fn pci_is_enumerated_by_ports_and_by_memory() {
    let guest = Guest::start("-s 0:0,hostbridge -s 1:0,lpc");
    let (hsm, page) = (&guest.hsm, &guest.page);
    assert_eq!(hsm.config_read(page, 0, 0, 4), 0x1275_1275);
    assert_eq!(hsm.config_read(page, 1, 2, 2), 0x7000);
    assert_eq!(hsm.config_read(page, 2, 0, 4), u32::MAX);
    assert_eq!(hsm.config_read(page, 99, 0xfff_ffff, 4), u32::MAX);
    assert_eq!(hsm.mmio(page, ECAM_BASE + 0x8000, 4, None), 0x7000_8086);
    assert_eq!(
        hsm.mmio(page, ECAM_BASE + 0x8000, 8, None) as u32,
        0x7000_8086
    );
    assert_eq!(
        hsm.mmio(page, ECAM_BASE + (0x50 << 12), 4, None),
        u64::from(u32::MAX)
    );
}

#[test]
fn a_virtio_device_is_served_by_the_helper_threads() {
    let guest = Guest::start("-s 3,virtio-rnd");
    let (hsm, page) = (&guest.hsm, &guest.page);
    assert_eq!(hsm.config_read(page, 3, 0, 4), 0x1044_1af4);
    // Switch on memory decoding through ECAM, then find a BAR that answers.
    let slot = ECAM_BASE + (3 << 15);
    hsm.mmio(page, slot + 4, 2, Some(6));
    let bars: Vec<_> = (0..6)
        .map(|bar| hsm.mmio(page, slot + 0x10 + 4 * bar, 4, None))
        .collect();
    assert!(
        bars.iter().any(|bar| bar & !0xf != 0 && bar & 1 == 0),
        "{bars:x?}"
    );
    for bar in bars
        .into_iter()
        .filter(|bar| bar & !0xf != 0 && bar & 1 == 0)
    {
        hsm.mmio(page, bar & !0xf, 4, Some(0));
        hsm.mmio(page, bar & !0xf, 4, None);
    }
}

#[test]
fn what_nobody_answers_reads_as_ones() {
    let guest = Guest::start("");
    assert_eq!(guest.port_in(0x1234, 4), u32::MAX);
    guest.port_out(0x1234, 4, 7);
    assert_eq!(guest.hsm.mmio(&guest.page, 0xfed4_0000, 8, None), u64::MAX);
    guest.hsm.mmio(&guest.page, u64::MAX, 8, Some(1));
    assert_eq!(guest.hsm.mmio(&guest.page, u64::MAX, 8, None), u64::MAX);
}

#[test]
fn hostile_sizes_and_kinds_are_answered() {
    use acrn_abi::ioreq::{DIRECTION_READ, IoRequest, PioRequest};
    let guest = Guest::start("-l com1,null");
    for kind in [0, 1, 2, 3, 4, u32::MAX] {
        for size in [0, 3, 5, 16, u64::MAX] {
            for address in [0, 0x3f8, 0xfed0_0000, ECAM_BASE, u64::MAX] {
                let mut request = IoRequest::FREE;
                let direction = DIRECTION_READ;
                let pio = PioRequest {
                    direction,
                    address,
                    size,
                    ..<_>::default()
                };
                request.set_pio(&pio);
                request.kind = kind;
                assert_eq!(guest.hsm.access(&guest.page, 0, &request) as u32, u32::MAX);
            }
        }
    }
}

#[test]
fn stop_presses_the_power_button_and_a_second_one_is_force() {
    let mut guest = Guest::start("");
    guest.port_out(PM1_EVENT + 2, 2, 1 << 8);
    guest.events.send(Event::Stop).unwrap();
    guest.hsm.wait_for(&Call::IrqLine(9, IrqLine::HIGH));
    assert_eq!(guest.port_in(PM1_EVENT, 2), 1 << 8);
    guest.events.send(Event::Stop).unwrap();
    assert_eq!(guest.exit_code(), ExitCode::Forced.number());
}

#[test]
fn a_vm_is_paused_and_resumed_and_says_so() {
    let mut guest = Guest::start("");
    assert_eq!(guest.state(), "running");
    guest.hsm.take_calls();
    assert_eq!(guest.command(Command::Pause), Answer::Done);
    assert_eq!(guest.command(Command::Pause), Answer::Done);
    assert_eq!(guest.state(), "paused");
    assert!(matches!(guest.command(Command::Suspend), Answer::Failed(_)));
    assert_eq!(guest.command(Command::Resume), Answer::Done);
    assert_eq!(guest.hsm.take_calls(), [Call::Pause, Call::Start]);
    assert_eq!(guest.command(Command::Destroy), Answer::Done);
    assert_eq!(guest.exit_code(), 0);
}

#[test]
fn a_guest_that_suspends_is_woken_in_real_mode_with_its_devices_reset() {
    let guest = Guest::start("-l com1,null");
    guest.port_out(0x3ff, 1, 0x5a);
    guest.port_out(PM1_EVENT + 2, 2, 1 << 8);
    guest.suspend(0x9_a012);
    assert!(matches!(guest.command(Command::Pause), Answer::Failed(_)));
    assert_eq!(guest.command(Command::Suspend), Answer::Done);
    assert_eq!(guest.command(Command::Resume), Answer::Done);
    let registers = Call::Registers { rip: 2, rsi: 0 };
    assert_eq!(guest.main_calls(), [Call::Reset, registers, Call::Start]);
    assert_eq!(guest.state(), "running");
    let wake = 1 << 15;
    assert_eq!(guest.port_in(PM1_EVENT, 2), wake);
    assert_eq!(guest.port_in(PM1_EVENT + 2, 2), 1 << 8, "kept");
    assert_eq!(guest.port_in(0x3ff, 1), 0, "COM1 was reset");
}

#[test]
fn a_guest_without_a_waking_vector_begins_anew() {
    let guest = Guest::start("");
    guest.suspend(0);
    assert_eq!(guest.command(Command::Resume), Answer::Done);
    let registers = Call::Registers {
        rip: 0x100_0200,
        rsi: 0x7000,
    };
    assert_eq!(guest.main_calls(), [Call::Reset, registers, Call::Start]);
    assert_eq!(guest.port_in(PM1_EVENT, 2), 0);
}

#[test]
fn the_sleep_button_asks_and_the_power_button_wakes() {
    let guest = Guest::start("");
    guest.port_out(PM1_EVENT + 2, 2, 3 << 8);
    assert_eq!(guest.command(Command::Suspend), Answer::Done);
    assert_eq!(guest.port_in(PM1_EVENT, 2), 1 << 9);
    guest.port_out(PM1_EVENT, 2, 1 << 9);
    guest.suspend(0x9_a000);
    assert_eq!(guest.command(Command::Stop), Answer::Done);
    assert_eq!(guest.state(), "stopping");
    let button = 1 << 8;
    assert_ne!(guest.port_in(PM1_EVENT, 2) & button, 0);
    guest.port_out(PM1_EVENT, 2, button);
    // A press that the waking guest has missed comes again.
    guest.hsm.take_calls();
    guest.hsm.wait_for(&Call::IrqLine(9, IrqLine::HIGH));
    assert_ne!(guest.port_in(PM1_EVENT, 2) & button, 0);
}

#[test]
fn a_test_program_chooses_the_exit_code() {
    let mut guest = Guest::start("--debugexit");
    guest.port_out(0xf4, 4, 0x10);
    assert_eq!(guest.exit_code(), 0x21);
}

#[test]
fn a_refused_creation_leaves_nothing_behind() {
    let hsm = FakeHsm::new();
    hsm.refuse.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut kernel = tempfile::NamedTempFile::new().unwrap();
    kernel.write_all(&kernel_bytes()).unwrap();
    let words = ["acrn-dm", "-k", kernel.path().to_str().unwrap(), "test"];
    let Ok(Request::Run(spec)) = parse(words.map(Into::into)) else {
        panic!()
    };
    let program = Program::open(&spec.boot, "", 32 << 20).unwrap();
    let memory = Memory::ordinary(Layout::new(32 << 20)).unwrap();
    let result = Vm::create(&spec, program, <_>::default(), hsm.clone(), memory);
    assert_eq!(
        result.err().map(|error| error.code()),
        Some(ExitCode::Hypervisor)
    );
    assert!(hsm.take_calls().is_empty());
}
