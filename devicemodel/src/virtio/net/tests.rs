//! Network cards with a socket in place of the TAP interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;

use super::*;
use crate::virtio::testing::{DATA, Driver, HOLE, RING_FEATURES};

const ALL: u64 = u64::MAX;
const MRG: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const TSO: u64 = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO6;
const MQ: u64 = 1 << VIRTIO_NET_F_MQ;

/// Records what the card asks of its link.
struct Socket {
    ends: Vec<UnixDatagram>,
    offloads: Mutex<u32>,
    pairs: Mutex<usize>,
}

impl Link for Socket {
    fn queue(&self, pair: usize) -> Option<BorrowedFd<'_>> {
        self.ends.get(pair).map(AsFd::as_fd)
    }
    fn mtu(&self) -> u16 {
        1500
    }
    fn set_offloads(&self, flags: u32) -> io::Result<()> {
        *self.offloads.lock().unwrap() = flags;
        Ok(())
    }
    fn set_pairs(&self, pairs: usize) -> io::Result<()> {
        *self.pairs.lock().unwrap() = pairs;
        Ok(())
    }
}

struct Fixture {
    driver: Driver,
    link: Arc<Socket>,
    /// The other ends of the cables.
    peers: Vec<UnixDatagram>,
}

fn fixture(pairs: u16, features: u64) -> Fixture {
    let mut ends = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..pairs {
        let (end, peer) = UnixDatagram::pair().unwrap();
        end.set_nonblocking(true).unwrap();
        peer.set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        ends.push(end);
        peers.push(peer);
    }
    let link = Arc::new(Socket {
        ends,
        offloads: Mutex::new(0),
        pairs: Mutex::new(0),
    });
    let mac = Mac([0, 0x16, 0x3e, 1, 2, 3]);
    let device = Box::new(Net::over(link.clone(), mac, pairs, "testvm"));
    let driver = Driver::start(device, features);
    Fixture {
        driver,
        link,
        peers,
    }
}

/// A packet with its header.
fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0; HEADER];
    packet.extend((0..len).map(|n| (n % 253) as u8));
    packet
}

#[test]
fn a_packet_of_the_guest_reaches_the_host_unchanged() {
    let mut f = fixture(1, ALL);
    let sent = packet(1400);
    f.driver.put(DATA, &sent);
    let head = f.driver.rings[1].submit(&[(DATA, 12, false), (DATA + 12, 1400, false)]);
    f.driver.kick(1);
    let mut received = [0; 2000];
    let len = f.peers[0].recv(&mut received).unwrap();
    assert_eq!(&received[..len], sent);
    assert_eq!(f.driver.rings[1].wait_used(), (head.into(), 0));
}

#[test]
fn many_packets_go_out_in_order() {
    let mut f = fixture(1, ALL);
    for round in 0..5u32 {
        for nth in 0..40u32 {
            let at = DATA + u64::from(nth) * 0x100;
            f.driver.put(at, &packet(64));
            f.driver.put(at + 12, &(round * 40 + nth).to_le_bytes());
            f.driver.rings[1].submit(&[(at, 76, false)]);
        }
        f.driver.kick(1);
        for nth in 0..40u32 {
            let mut received = [0; 100];
            assert_eq!(f.peers[0].recv(&mut received).unwrap(), 76);
            assert_eq!(received[12..16], (round * 40 + nth).to_le_bytes());
            f.driver.rings[1].wait_used();
        }
    }
}

#[test]
fn a_packet_of_the_host_reaches_the_guest() {
    let mut f = fixture(1, ALL & !MRG & !TSO);
    let head = f.driver.rings[0].submit(&[(DATA, 1600, true)]);
    f.driver.kick(0);
    let sent = packet(1000);
    f.peers[0].send(&sent).unwrap();
    assert_eq!(f.driver.rings[0].wait_used(), (head.into(), 1012));
    let received = f.driver.get(DATA, 1012);
    assert_eq!(received[10..12], [1, 0]);
    assert_eq!(received[12..], sent[12..]);
}

#[test]
fn packets_that_arrive_before_there_are_buffers_are_delivered_later() {
    let mut f = fixture(1, ALL & !MRG & !TSO);
    for nth in 0..3 {
        f.peers[0].send(&packet(100 + nth)).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    for nth in 0..3u64 {
        f.driver.rings[0].submit(&[(DATA + nth * 0x1000, 1600, true)]);
        f.driver.kick(0);
        assert_eq!(f.driver.rings[0].wait_used().1, 112 + nth as u32);
    }
}

#[test]
fn a_large_packet_spreads_over_mergeable_buffers() {
    let mut f = fixture(1, ALL);
    for nth in 0..60 {
        f.driver.rings[0].submit(&[(DATA + nth * 0x1000, 1536, true)]);
    }
    f.driver.kick(0);
    let sent = packet(10_000);
    f.peers[0].send(&sent).unwrap();
    let mut received = Vec::new();
    for nth in 0..7u32 {
        let (head, len) = f.driver.rings[0].wait_used();
        assert_eq!(head, nth);
        received.extend(f.driver.get(DATA + u64::from(nth) * 0x1000, len as usize));
    }
    assert_eq!(received.len(), sent.len());
    assert_eq!(received[10..12], [7, 0]);
    assert_eq!(received[12..], sent[12..]);
    // The next small one takes one buffer.
    f.peers[0].send(&packet(60)).unwrap();
    assert_eq!(f.driver.rings[0].wait_used(), (7, 72));
    assert_eq!(f.driver.get(DATA + 7 * 0x1000 + 10, 2), [1, 0]);
}

#[test]
fn a_flood_is_received_while_buffers_return() {
    let mut f = fixture(1, ALL & !TSO);
    let post = |f: &mut Fixture, nth: u64| {
        f.driver.rings[0].submit(&[(DATA + nth % 128 * 0x800, 1600, true)]);
        f.driver.kick(0);
    };
    for nth in 0..128 {
        post(&mut f, nth);
    }
    let peer = f.peers[0].try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..2000 {
            peer.send(&packet(600)).unwrap();
        }
    });
    for nth in 0..2000 {
        assert_eq!(f.driver.rings[0].wait_used().1, 612);
        post(&mut f, 128 + nth);
    }
    sender.join().unwrap();
}

#[test]
fn the_configuration_has_address_status_pairs_and_mtu() {
    let mut f = fixture(2, ALL);
    assert_eq!(
        f.driver.config::<12>(0),
        [0, 0x16, 0x3e, 1, 2, 3, 1, 0, 2, 0, 0xdc, 5]
    );
}

#[test]
fn offloads_follow_negotiation_and_end_with_a_reset() {
    let mut f = fixture(1, ALL);
    assert_eq!(*f.link.offloads.lock().unwrap(), 0xf);
    f.driver.set_status(0);
    assert_eq!(*f.link.offloads.lock().unwrap(), 0);
    f.driver
        .bring_up(RING_FEATURES | 1 << VIRTIO_NET_F_GUEST_CSUM);
    assert_eq!(*f.link.offloads.lock().unwrap(), OFFLOAD_CSUM);
}

/// Makes a command on the control queue `queue` and returns the answer.
fn control(f: &mut Fixture, queue: u16, class: u8, command: u8, data: &[u8]) -> u8 {
    f.driver.put(DATA, &[class, command]);
    f.driver.put(DATA + 2, data);
    f.driver.put(DATA + 0x100, &[0xee]);
    let ring = &mut f.driver.rings[usize::from(queue)];
    ring.submit(&[
        (DATA, 2, false),
        (DATA + 2, data.len() as u32, false),
        (DATA + 0x100, 1, true),
    ]);
    f.driver.kick(queue);
    assert_eq!(f.driver.rings[usize::from(queue)].wait_used().1, 1);
    f.driver.get(DATA + 0x100, 1)[0]
}

#[test]
fn the_driver_chooses_the_number_of_pairs() {
    let mut f = fixture(4, ALL);
    assert_eq!(*f.link.pairs.lock().unwrap(), 1);
    assert_eq!(control(&mut f, 8, 4, 0, &[3, 0]), 0);
    assert_eq!(*f.link.pairs.lock().unwrap(), 3);
    for data in [&[0, 0][..], &[5, 0], &[0xff, 0xff], &[1], &[]] {
        assert_eq!(control(&mut f, 8, 4, 0, data), 1, "{data:?}");
    }
    assert_eq!(control(&mut f, 8, 77, 0, &[]), 1);
    assert_eq!(*f.link.pairs.lock().unwrap(), 3);
}

#[test]
fn without_multi_queue_the_control_queue_is_the_third() {
    let mut f = fixture(2, ALL & !MQ);
    let csum = (1u64 << VIRTIO_NET_F_GUEST_CSUM).to_le_bytes();
    assert_eq!(control(&mut f, 2, 5, 0, &csum), 0);
    assert_eq!(*f.link.offloads.lock().unwrap(), OFFLOAD_CSUM);
    assert_eq!(control(&mut f, 2, 5, 0, &u64::MAX.to_le_bytes()), 1);
}

#[test]
fn every_pair_moves_packets() {
    let mut f = fixture(3, ALL & !MRG & !TSO);
    for pair in 0..3u16 {
        let (rx, tx) = (usize::from(pair) * 2, usize::from(pair) * 2 + 1);
        f.driver.put(DATA, &packet(100));
        f.driver.rings[tx].submit(&[(DATA, 112, false)]);
        f.driver.kick(tx as u16);
        let mut received = [0; 200];
        assert_eq!(f.peers[usize::from(pair)].recv(&mut received).unwrap(), 112);
        f.driver.rings[rx].submit(&[(DATA + 0x1000, 1600, true)]);
        f.driver.kick(rx as u16);
        f.peers[usize::from(pair)].send(&packet(50)).unwrap();
        assert_eq!(f.driver.rings[rx].wait_used().1, 62);
    }
}

#[test]
fn packets_that_cannot_be_are_dropped() {
    let mut f = fixture(1, ALL);
    for buffers in [
        &[(DATA, 12u32, false)][..],
        &[(DATA, 3, false)],
        &[(DATA, 100, true)],
        &[(DATA, 0, false)],
        &[(DATA, 0x2_0000, false)],
    ] {
        f.driver.rings[1].submit(buffers);
        f.driver.kick(1);
        assert_eq!(f.driver.rings[1].wait_used().1, 0);
    }
    f.driver.put(DATA, &packet(60));
    f.driver.rings[1].submit(&[(DATA, 72, false)]);
    f.driver.kick(1);
    assert_eq!(f.peers[0].recv(&mut [0; 100]).unwrap(), 72);
}

#[test]
fn receive_buffers_that_are_too_small_are_returned_unused() {
    let mut f = fixture(1, ALL & !MRG & !TSO);
    f.driver.rings[0].submit(&[(DATA, 4, true)]);
    f.driver.rings[0].submit(&[(DATA, 64, false)]);
    let good = f.driver.rings[0].submit(&[(DATA, 1600, true)]);
    f.driver.kick(0);
    assert_eq!(f.driver.rings[0].wait_used().1, 0);
    assert_eq!(f.driver.rings[0].wait_used().1, 0);
    f.peers[0].send(&packet(60)).unwrap();
    assert_eq!(f.driver.rings[0].wait_used(), (good.into(), 72));
}

#[test]
fn broken_rings_stop_the_card_until_it_is_reset() {
    for queue in 0..3u16 {
        let mut f = fixture(1, ALL);
        let ring = &mut f.driver.rings[usize::from(queue)];
        ring.submit(&[(HOLE, 2000, queue == 0)]);
        f.driver.kick(queue);
        f.driver.wait_broken();
        f.driver.bring_up(ALL & !MRG & !TSO);
        f.driver.rings[0].submit(&[(DATA, 1600, true)]);
        f.driver.kick(0);
        f.peers[0].send(&packet(60)).unwrap();
        assert_eq!(f.driver.rings[0].wait_used().1, 72);
    }
}

#[test]
fn a_reset_stops_both_directions() {
    let mut f = fixture(1, ALL & !MRG & !TSO);
    f.driver.rings[0].submit(&[(DATA, 1600, true)]);
    f.driver.kick(0);
    f.driver.set_status(0);
    f.peers[0].send(&packet(60)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(f.driver.rings[0].take_used(), None);
    f.driver.bring_up(ALL & !MRG & !TSO);
    f.driver.rings[0].submit(&[(DATA, 1600, true)]);
    f.driver.kick(0);
    assert_eq!(f.driver.rings[0].wait_used().1, 72);
}

#[test]
fn a_missing_interface_is_explained() {
    let f = fixture(1, ALL);
    let context = crate::virtio::testing::context(f.driver.mem.clone(), f.driver.bus.clone());
    let error = Net::new("tap=lo", &context).err().unwrap().to_string();
    assert!(error.contains("virtio-net"), "{error}");
}

#[test]
fn packets_pass_a_real_interface_where_the_host_allows_one() {
    let f = fixture(1, ALL);
    let name = format!("acrnv{}", std::process::id() % 100_000);
    let context = crate::virtio::testing::context(f.driver.mem.clone(), f.driver.bus.clone());
    let Ok(net) = Net::new(&format!("tap={name}"), &context) else {
        return;
    };
    assert!(
        Net::new(&format!("tap={name}"), &context)
            .is_err_and(|error| { error.to_string().contains("another VM uses this interface") })
    );
    let mut driver = Driver::start(Box::new(net), ALL);
    let mut frame = packet(60);
    frame[HEADER..].fill(0);
    frame[HEADER..HEADER + 14]
        .copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
    driver.put(DATA, &frame);
    for _ in 0..5 {
        driver.rings[1].submit(&[(DATA, frame.len() as u32, false)]);
        driver.kick(1);
        driver.rings[1].wait_used();
    }
    let counter = format!("/sys/class/net/{name}/statistics/rx_packets");
    let Ok(count) = std::fs::read_to_string(counter) else {
        return;
    };
    assert_eq!(count.trim(), "5");
}
