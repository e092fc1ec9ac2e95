//! Consoles on files, sockets and pseudo-terminals.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::control::{CONSOLE_PORT, DEVICE_READY, PORT_ADD, PORT_NAME, PORT_OPEN, PORT_READY};
use super::*;
use crate::virtio::testing::{DATA, Driver, HOLE, wait_for};

const ALL: u64 = u64::MAX;

fn console(options: &str) -> Driver {
    Driver::start(Box::new(Console::new(options, "testvm").unwrap()), ALL)
}

fn print(driver: &mut Driver, text: &[u8]) {
    driver.put(DATA, text);
    driver.rings[1].submit(&[(DATA, text.len() as u32, false)]);
    driver.kick(1);
    driver.rings[1].wait_used();
}

fn offer_buffer(driver: &mut Driver) {
    driver.rings[0].submit(&[(DATA + 0x1000, 64, true)]);
    driver.kick(0);
}

/// What the guest reads next.
fn input(driver: &mut Driver) -> Vec<u8> {
    let (_, len) = driver.rings[0].wait_used();
    driver.get(DATA + 0x1000, len as usize)
}

#[test]
fn output_goes_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut driver = console(&format!("@file:port={}", path.display()));
    print(&mut driver, b"hello ");
    print(&mut driver, b"world\n");
    let long = vec![b'x'; 10_000];
    print(&mut driver, &long);
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found, [b"hello world\n", &long[..]].concat());
}

#[test]
fn a_client_of_the_socket_talks_to_the_guest_and_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut driver = console(&format!("@socket:port={}", path.display()));
    print(&mut driver, b"nobody reads this");
    for round in 0..3 {
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let sent = format!("input {round}");
        client.write_all(sent.as_bytes()).unwrap();
        offer_buffer(&mut driver);
        assert_eq!(input(&mut driver), sent.as_bytes());
        print(&mut driver, b"output");
        let mut received = [0; 6];
        client.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"output");
        drop(client);
        // The hang-up is seen while a buffer waits for input.
        offer_buffer(&mut driver);
        let mut last = UnixStream::connect(&path).unwrap();
        last.write_all(b"x").unwrap();
        assert_eq!(input(&mut driver), b"x");
    }
    drop(driver);
    assert!(!path.exists());
}

#[test]
fn a_socket_left_behind_is_replaced_but_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let options = format!("socket:port={}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _first = Console::new(&options, "a").unwrap();
    let error = Console::new(&options, "b").err().unwrap().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[test]
fn a_client_console_connects_to_a_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let options = format!("@socket:port={}:client", path.display());
    assert!(Console::new(&options, "a").is_err());
    let listener = UnixListener::bind(&path).unwrap();
    let mut driver = console(&options);
    let (mut peer, _) = listener.accept().unwrap();
    print(&mut driver, b"hi");
    let mut received = [0; 2];
    peer.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"hi");
}

#[test]
fn a_pseudo_terminal_carries_bytes_unchanged_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pty");
    let mut driver = console(&format!("@pty:port={}", path.display()));
    let mut terminal = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    print(&mut driver, b"a\nb\r\x03");
    let mut received = [0; 5];
    terminal.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"a\nb\r\x03");
    offer_buffer(&mut driver);
    terminal.write_all(b"\x03\r").unwrap();
    let mut found = input(&mut driver);
    while found.len() < 2 {
        offer_buffer(&mut driver);
        found.extend(input(&mut driver));
    }
    assert_eq!(found, b"\x03\r");
    drop(driver);
    assert!(std::fs::symlink_metadata(&path).is_err());
}

#[test]
fn a_terminal_that_nobody_reads_does_not_block_the_guest() {
    let mut driver = console("@pty:port");
    let text = vec![b'y'; 4096];
    for _ in 0..50 {
        print(&mut driver, &text);
    }
}

#[test]
fn input_waits_until_the_guest_has_a_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut driver = console(&format!("@socket:port={}", path.display()));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&[b'z'; 100]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let mut found = Vec::new();
    while found.len() < 100 {
        offer_buffer(&mut driver);
        found.extend(input(&mut driver));
    }
    assert_eq!(found, [b'z'; 100]);
}

#[test]
fn buffers_without_room_are_returned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut driver = console(&format!("@file:port={}", path.display()));
    driver.rings[0].submit(&[(DATA, 8, false)]);
    driver.kick(0);
    assert_eq!(driver.rings[0].wait_used().1, 0);
    driver.rings[1].submit(&[(DATA, 0, false)]);
    driver.kick(1);
    assert_eq!(driver.rings[1].wait_used().1, 0);
}

#[test]
fn broken_rings_stop_the_console_until_it_is_reset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut driver = console(&format!("@file:port={}", path.display()));
    for queue in 0..2u16 {
        driver.rings[usize::from(queue)].submit(&[(HOLE, 100, queue == 0)]);
        driver.kick(queue);
        driver.wait_broken();
        driver.bring_up(ALL);
        print(&mut driver, b"again");
    }
    let text = wait_for("output", || std::fs::read_to_string(&path).ok());
    assert_eq!(text, "againagain");
}

/// Control queues, and the two of the second port.
const TO_GUEST: u16 = 2;
const FROM_GUEST: u16 = 3;
const SECOND_RECEIVE: u16 = 4;
const SECOND_TRANSMIT: u16 = 5;

fn tell(driver: &mut Driver, port: u32, event: u16, value: u16) {
    let mut message = port.to_le_bytes().to_vec();
    message.extend(event.to_le_bytes());
    message.extend(value.to_le_bytes());
    driver.put(DATA, &message);
    driver.rings[usize::from(FROM_GUEST)].submit(&[(DATA, 8, false)]);
    driver.kick(FROM_GUEST);
    driver.rings[usize::from(FROM_GUEST)].wait_used();
}

/// The next message of the device: port, event, value and what follows.
fn told(driver: &mut Driver) -> (u32, u16, u16, Vec<u8>) {
    driver.rings[usize::from(TO_GUEST)].submit(&[(DATA + 0x2000, 64, true)]);
    driver.kick(TO_GUEST);
    let (_, len) = driver.rings[usize::from(TO_GUEST)].wait_used();
    let bytes = driver.get(DATA + 0x2000, len as usize);
    (
        u32::from_le_bytes(bytes[..4].try_into().unwrap()),
        u16::from_le_bytes(bytes[4..6].try_into().unwrap()),
        u16::from_le_bytes(bytes[6..8].try_into().unwrap()),
        bytes[8..].to_vec(),
    )
}

#[test]
fn the_driver_learns_of_each_port() {
    let mut driver = console("@pty:first,pty:second");
    assert_eq!(driver.config::<4>(4), 2u32.to_le_bytes());
    tell(&mut driver, 0, DEVICE_READY, 1);
    assert_eq!(told(&mut driver), (0, PORT_ADD, 1, vec![]));
    assert_eq!(told(&mut driver), (1, PORT_ADD, 1, vec![]));
    tell(&mut driver, 0, PORT_READY, 1);
    assert_eq!(told(&mut driver), (0, CONSOLE_PORT, 1, vec![]));
    assert_eq!(told(&mut driver), (0, PORT_NAME, 1, b"first".to_vec()));
    assert_eq!(told(&mut driver), (0, PORT_OPEN, 1, vec![]));
    tell(&mut driver, 1, PORT_READY, 1);
    assert_eq!(told(&mut driver), (1, PORT_NAME, 1, b"second".to_vec()));
    assert_eq!(told(&mut driver), (1, PORT_OPEN, 1, vec![]));
}

#[test]
fn each_port_has_its_back_end() {
    let dir = tempfile::tempdir().unwrap();
    let (log, socket) = (dir.path().join("log"), dir.path().join("socket"));
    let options = format!("@file:log={},socket:s={}", log.display(), socket.display());
    let mut driver = console(&options);
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"to the second").unwrap();
    driver.rings[usize::from(SECOND_RECEIVE)].submit(&[(DATA + 0x1000, 64, true)]);
    driver.kick(SECOND_RECEIVE);
    let (_, len) = driver.rings[usize::from(SECOND_RECEIVE)].wait_used();
    assert_eq!(driver.get(DATA + 0x1000, len as usize), b"to the second");
    driver.put(DATA, b"from the second");
    driver.rings[usize::from(SECOND_TRANSMIT)].submit(&[(DATA, 15, false)]);
    driver.kick(SECOND_TRANSMIT);
    let mut received = [0; 15];
    client.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"from the second");
    print(&mut driver, b"from the first");
    assert_eq!(std::fs::read(&log).unwrap(), b"from the first");
}

#[test]
fn a_driver_without_ports_sees_the_first_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let device = Console::new(&format!("file:f={},pty:p", log.display()), "testvm").unwrap();
    let mut driver = Driver::start(Box::new(device), !(1 << MULTIPORT));
    print(&mut driver, b"hello");
    assert_eq!(std::fs::read(&log).unwrap(), b"hello");
}

#[test]
fn messages_about_nothing_are_ignored_and_their_number_is_bounded() {
    let mut driver = console("@pty:first,pty:second");
    for (port, event, value) in [(2, PORT_READY, 1), (u32::MAX, PORT_READY, 1), (0, 99, 1)] {
        tell(&mut driver, port, event, value);
    }
    tell(&mut driver, 0, DEVICE_READY, 0);
    driver.rings[usize::from(FROM_GUEST)].submit(&[(DATA, 3, false)]);
    driver.kick(FROM_GUEST);
    driver.rings[usize::from(FROM_GUEST)].wait_used();
    // More than the device keeps, and not one taken.
    for _ in 0..200 {
        tell(&mut driver, 0, DEVICE_READY, 1);
    }
    assert_eq!(told(&mut driver), (0, PORT_ADD, 1, vec![]));
}
