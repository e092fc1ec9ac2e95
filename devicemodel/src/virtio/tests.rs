//! All devices against rings full of noise.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::device::VirtioDevice;
use super::net::link::Link;
use super::net::options::Mac;
use super::testing::{DATA, Driver, RAM_END};

/// A plain generator of the xorshift kind, so that failures repeat.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Mostly a good value, at times any.
    fn mostly(&mut self, good: u64) -> u64 {
        if self.below(12) == 0 {
            self.next()
        } else {
            good
        }
    }
}

/// Fills all rings with descriptors that are nearly right and lets the device loose on them.
fn disturb(driver: &mut Driver, noise: &mut Noise) {
    driver.bring_up(noise.mostly(u64::MAX) | 1 << 32);
    for ring in &mut driver.rings {
        for index in 0..64 {
            let address = DATA + noise.below(0x8000);
            let address = noise.mostly(address);
            let len = noise.below(0x1800);
            let len = noise.mostly(len) as u32;
            let flags = noise.below(4);
            let flags = noise.mostly(flags) as u16;
            let next = noise.below(64);
            let next = noise.mostly(next) as u16;
            ring.describe(index, address, len, (flags, next));
        }
    }
    // Block headers and control commands.
    for at in (0..0x8000).step_by(16) {
        let kind = noise.below(16) as u32;
        driver.mem.write_obj(kind, GuestAddress(DATA + at)).unwrap();
        driver
            .mem
            .write_obj(noise.below(9000), GuestAddress(DATA + at + 8))
            .unwrap();
    }
    for queue in 0..driver.rings.len() {
        for _ in 0..noise.below(64) {
            let head = noise.below(64);
            let head = noise.mostly(head) as u16;
            driver.rings[queue].offer(head);
        }
        if noise.below(8) == 0 {
            let index = noise.next() as u16;
            driver.rings[queue].set_available(index);
        }
        driver.kick(queue as u16);
    }
    if noise.below(3) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

fn withstand(device: Box<dyn VirtioDevice>, seed: u64) {
    let mut driver = Driver::attach(device);
    let mut noise = Noise(seed);
    for _ in 0..150 {
        disturb(&mut driver, &mut noise);
    }
    // Nothing was written outside RAM, or the process would be gone; the end is still there.
    driver
        .mem
        .read_obj::<u8>(GuestAddress(RAM_END - 1))
        .unwrap();
}

#[test]
fn noise_does_no_harm_to_a_disk() {
    for (seed, engine) in [(1, "aio=threads"), (2, "aio=io_uring")] {
        let mut image = tempfile::NamedTempFile::new().unwrap();
        image.write_all(&vec![0; 4 << 20]).unwrap();
        let options = format!("{},writeback,discard,mq=2,{engine}", image.path().display());
        let Ok(block) = super::block::Block::new(&options, "noise") else {
            continue;
        };
        withstand(Box::new(block), seed);
        assert_eq!(image.as_file().metadata().unwrap().len(), 4 << 20);
    }
}

struct Cable(UnixDatagram);

impl Link for Cable {
    fn queue(&self, pair: usize) -> Option<BorrowedFd<'_>> {
        (pair < 2).then(|| self.0.as_fd())
    }
    fn mtu(&self) -> u16 {
        1500
    }
    fn set_offloads(&self, _: u32) -> std::io::Result<()> {
        Ok(())
    }
    fn set_pairs(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn noise_does_no_harm_to_a_network_card() {
    let (end, peer) = UnixDatagram::pair().unwrap();
    end.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let feeder = std::thread::spawn(move || {
        for _ in 0..3000 {
            let _ = peer.send(&[7; 600]);
            let _ = peer.recv(&mut [0; 0x1_0000]);
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    });
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let net = super::net::Net::over(Arc::new(Cable(end)), mac, 2, "noise");
    withstand(Box::new(net), 3);
    feeder.join().unwrap();
}

#[test]
fn noise_does_no_harm_to_console_and_entropy() {
    let dir = tempfile::tempdir().unwrap();
    let options = format!("file:port={}", dir.path().join("log").display());
    withstand(
        Box::new(super::console::Console::new(&options, "noise").unwrap()),
        4,
    );
    withstand(Box::new(super::rng::Rng::new("", "noise").unwrap()), 5);
}
