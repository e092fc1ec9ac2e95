//! The Device Model on KVM instead of ACRN: to work on devices without the hypervisor.
//!
//! Takes the command line of `acrn-dm`, or `--send SOCKET JSON` to talk to one that runs. KVM plays hypervisor and driver: its exits become
//! requests in the shared page, as `/dev/acrn_hsm` would make them, and everything from there on
//! is the real Device Model. Interrupt controllers are KVM's, so lines above 23 do not exist.

// UNSAFETY: the request page is shared memory given by address, as with the driver.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use acrn_abi::hsm::{IoEventFd, IrqFd, VmMemmap};
use acrn_abi::hypercall::{IrqLine, MsiEntry, Regs, VcpuRegs, Vdev, VmCreation};
use acrn_abi::ioreq::{
    DIRECTION_READ, DIRECTION_WRITE, IoRequest, Kind, MmioRequest, OFFSET_PAYLOAD,
    OFFSET_PROCESSED, PciRequest, PioRequest, SLOT_SIZE, State,
};
use acrn_dm::cli::{self, Request};
use acrn_dm::hsm::Hsm;
use acrn_dm::loader::Program;
use acrn_dm::memory::Memory;
use acrn_dm::run::{Event, Vm, signals};
use acrn_dm::{legacy, logger};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msi, kvm_regs,
    kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, register_signal_handler};

/// First interrupt number for messages bound to descriptors.
const FIRST_MSI_GSI: u32 = 64;

struct Cpu {
    fd: VcpuFd,
    sregs: kvm_sregs,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
}

#[derive(Default)]
struct Requests {
    waiting: u32,
    done: u32,
    woken: bool,
}

#[derive(Default)]
struct Run {
    running: bool,
    parked: usize,
}

struct KvmHsm {
    vm: VmFd,
    cpus: Vec<Arc<Mutex<Cpu>>>,
    page: AtomicU64,
    slots: AtomicU32,
    config_address: AtomicU32,
    requests: Mutex<Requests>,
    changed: Condvar,
    run: Mutex<Run>,
    run_changed: Condvar,
    parking: Arc<AtomicBool>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    routes: Mutex<HashMap<i32, (u32, MsiEntry)>>,
    myself: OnceLock<std::sync::Weak<KvmHsm>>,
    pic: Mutex<Vec<kvm_irqchip>>,
}

fn other(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

impl KvmHsm {
    fn new(vcpus: u64) -> io::Result<Arc<Self>> {
        let kvm = Kvm::new().map_err(other)?;
        let vm = kvm.create_vm().map_err(other)?;
        vm.set_tss_address(0xfffb_d000).map_err(other)?;
        vm.create_irq_chip().map_err(other)?;
        let _ = vm.enable_cap(&kvm_enable_cap {
            cap: Cap::X2ApicApi as u32,
            ..Default::default()
        });
        let mut cpus = Vec::new();
        for id in 0..vcpus {
            let fd = vm.create_vcpu(id).map_err(other)?;
            let mut cpuid = kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(other)?;
            for entry in cpuid.as_mut_slice() {
                match entry.function {
                    1 => entry.ebx = entry.ebx & 0x00ff_ffff | (id as u32) << 24,
                    0xb | 0x1f => entry.edx = id as u32,
                    _ => {}
                }
            }
            fd.set_cpuid2(&cpuid).map_err(other)?;
            let cpu = Cpu {
                sregs: fd.get_sregs().map_err(other)?,
                lapic: fd.get_lapic().map_err(other)?,
                mp_state: fd.get_mp_state().map_err(other)?,
                fd,
            };
            cpus.push(Arc::new(Mutex::new(cpu)));
        }
        let pic = [0, 1, 2]
            .into_iter()
            .map(|chip_id| {
                let mut chip = kvm_irqchip {
                    chip_id,
                    ..Default::default()
                };
                vm.get_irqchip(&mut chip).map_err(other)?;
                Ok(chip)
            })
            .collect::<io::Result<Vec<_>>>()?;
        let this = Arc::new(Self {
            vm,
            cpus,
            page: AtomicU64::new(0),
            slots: AtomicU32::new(0),
            config_address: AtomicU32::new(0),
            requests: Mutex::default(),
            changed: Condvar::new(),
            run: Mutex::default(),
            run_changed: Condvar::new(),
            parking: Arc::default(),
            threads: Mutex::default(),
            routes: Mutex::default(),
            myself: OnceLock::new(),
            pic: Mutex::new(pic),
        });
        let _ = this.myself.set(Arc::downgrade(&this));
        Ok(this)
    }

    fn word(&self, vcpu: usize, offset: usize) -> &AtomicU32 {
        let at = self.page.load(Ordering::Relaxed) as usize + vcpu * SLOT_SIZE + offset;
        // SAFETY: the page given at creation outlives the VM, and all accesses to it are atomic.
        unsafe { AtomicU32::from_ptr(at as *mut u32) }
    }

    /// Puts a request into the page and waits for the answer.
    fn request(&self, vcpu: usize, request: &IoRequest) -> u64 {
        let bit = 1 << vcpu;
        let mut requests = self.requests.lock().unwrap();
        self.word(vcpu, 0).store(request.kind, Ordering::Relaxed);
        for (index, word) in request.payload.iter().enumerate() {
            let at = OFFSET_PAYLOAD + 8 * index;
            self.word(vcpu, at).store(*word as u32, Ordering::Relaxed);
            self.word(vcpu, at + 4)
                .store((*word >> 32) as u32, Ordering::Relaxed);
        }
        self.word(vcpu, OFFSET_PROCESSED)
            .store(State::PROCESSING.0, Ordering::Release);
        requests.waiting |= bit;
        self.changed.notify_all();
        while requests.done & bit == 0 {
            requests = self.changed.wait(requests).unwrap();
        }
        requests.done &= !bit;
        let low = self.word(vcpu, OFFSET_PAYLOAD + 24).load(Ordering::Relaxed);
        let high = self.word(vcpu, OFFSET_PAYLOAD + 28).load(Ordering::Relaxed);
        u64::from(low) | u64::from(high) << 32
    }

    /// A port access, with 0xCF8 and 0xCFC turned into configuration accesses.
    fn port(&self, vcpu: usize, port: u16, size: usize, write: Option<u32>) -> u32 {
        let direction = if write.is_some() {
            DIRECTION_WRITE
        } else {
            DIRECTION_READ
        };
        let value = write.unwrap_or(0);
        let mut request = IoRequest::FREE;
        if port == 0xcf8 {
            if let Some(value) = write {
                self.config_address.store(value, Ordering::Relaxed);
            }
            return self.config_address.load(Ordering::Relaxed);
        }
        if (0xcfc..0xd00).contains(&port) {
            let address = self.config_address.load(Ordering::Relaxed);
            if address >> 31 == 0 {
                return u32::MAX;
            }
            let pci = PciRequest {
                direction,
                size: size as u64,
                value,
                bus: address >> 16 & 0xff,
                device: address >> 11 & 0x1f,
                function: address >> 8 & 7,
                register: (address & 0xfc) + (address >> 16 & 0xf00) + u32::from(port - 0xcfc),
                ..Default::default()
            };
            request.kind = Kind::PCI_CONFIG.0;
            request.payload[0] = pci.direction.into();
            request.payload[2] = pci.size;
            request.payload[3] = u64::from(pci.value) | u64::from(pci.bus) << 32;
            request.payload[4] = u64::from(pci.device) | u64::from(pci.function) << 32;
            request.payload[5] = pci.register.into();
        } else {
            let (address, size) = (port.into(), size as u64);
            request.set_pio(&PioRequest {
                direction,
                address,
                size,
                value,
                ..Default::default()
            });
        }
        self.request(vcpu, &request) as u32
    }

    fn mmio(&self, vcpu: usize, address: u64, size: usize, write: Option<u64>) -> u64 {
        let direction = if write.is_some() {
            DIRECTION_WRITE
        } else {
            DIRECTION_READ
        };
        let (size, value) = (size as u64, write.unwrap_or(0));
        let mut request = IoRequest::FREE;
        request.set_mmio(&MmioRequest {
            direction,
            address,
            size,
            value,
            ..Default::default()
        });
        self.request(vcpu, &request)
    }

    fn serve(&self, vcpu: usize) {
        let cpu = self.cpus[vcpu].clone();
        loop {
            let mut run = self.run.lock().unwrap();
            while !run.running {
                run.parked += 1;
                self.run_changed.notify_all();
                run = self
                    .run_changed
                    .wait_while(run, |run| !run.running)
                    .unwrap();
                run.parked -= 1;
            }
            drop(run);
            let mut cpu = cpu.lock().unwrap();
            match cpu.fd.run() {
                Ok(VcpuExit::IoIn(port, data)) => {
                    let size = data.len().min(4);
                    let value = self.port(vcpu, port, size, None).to_le_bytes();
                    data[..size].copy_from_slice(&value[..size]);
                }
                Ok(VcpuExit::IoOut(port, data)) => {
                    let size = data.len().min(4);
                    let mut value = [0; 4];
                    value[..size].copy_from_slice(&data[..size]);
                    self.port(vcpu, port, size, Some(u32::from_le_bytes(value)));
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    let size = data.len();
                    let value = self.mmio(vcpu, address, size, None).to_le_bytes();
                    data.copy_from_slice(&value[..size]);
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    let mut value = [0; 8];
                    value[..data.len()].copy_from_slice(data);
                    self.mmio(vcpu, address, data.len(), Some(u64::from_le_bytes(value)));
                }
                Ok(VcpuExit::Hlt | VcpuExit::Intr) => {}
                Ok(VcpuExit::Shutdown) => {
                    eprintln!("vCPU {vcpu}: triple fault at {:x?}", cpu.fd.get_regs());
                    self.port(vcpu, 0x404, 2, Some(0x3400));
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok(exit) => eprintln!("vCPU {vcpu}: unexpected {exit:?}"),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
                Err(error) => {
                    eprintln!("vCPU {vcpu}: {error}");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn update_routes(&self, routes: &HashMap<i32, (u32, MsiEntry)>) -> io::Result<()> {
        let mut entries = Vec::new();
        for gsi in 0..24u32 {
            let mut add = |chip: u32, pin: u32| {
                let mut entry = kvm_irq_routing_entry {
                    gsi,
                    type_: 1,
                    ..Default::default()
                };
                entry.u.irqchip.irqchip = chip;
                entry.u.irqchip.pin = pin;
                entries.push(entry);
            };
            // Line 2 stands for ISA's line 0, as with the hypervisor.
            match gsi {
                0..8 if gsi != 2 => add(0, gsi),
                8..16 => add(1, gsi - 8),
                _ => {}
            }
            add(2, gsi);
        }
        for (gsi, msi) in routes.values() {
            let mut entry = kvm_irq_routing_entry {
                gsi: *gsi,
                type_: 2,
                ..Default::default()
            };
            entry.u.msi.address_lo = msi.address as u32;
            entry.u.msi.address_hi = (msi.address >> 32) as u32;
            entry.u.msi.data = msi.data as u32;
            entries.push(entry);
        }
        let routing = KvmIrqRouting::from_entries(&entries).map_err(|_| io::ErrorKind::Other)?;
        self.vm.set_gsi_routing(&routing).map_err(other)
    }
}

fn set_registers(fd: &VcpuFd, wanted: &Regs) -> io::Result<()> {
    let mut sregs = fd.get_sregs().map_err(other)?;
    let long = wanted.cs_ar & 1 << 13 != 0;
    let segment = |selector: u16, kind: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        g: 1,
        db: u8::from(kind == 3 || !long),
        l: u8::from(kind == 0xb && long),
        ..Default::default()
    };
    sregs.cs = segment(wanted.cs_sel, 0xb);
    sregs.ds = segment(wanted.ds_sel, 3);
    (sregs.es, sregs.fs, sregs.gs, sregs.ss) = (sregs.ds, sregs.ds, sregs.ds, sregs.ds);
    sregs.gdt.base = wanted.gdt.base;
    sregs.gdt.limit = wanted.gdt.limit;
    sregs.cr0 = wanted.cr0;
    sregs.cr3 = wanted.cr3;
    sregs.cr4 = wanted.cr4;
    sregs.efer = wanted.ia32_efer;
    fd.set_sregs(&sregs).map_err(other)?;
    let gprs = &wanted.gprs;
    let regs = kvm_regs {
        rax: gprs.rax,
        rbx: gprs.rbx,
        rsi: gprs.rsi,
        rip: wanted.rip,
        rflags: wanted.rflags,
        ..Default::default()
    };
    fd.set_regs(&regs).map_err(other)?;
    fd.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })
    .map_err(other)
}

impl Hsm for KvmHsm {
    fn create_vm(&self, creation: &mut VmCreation) -> io::Result<()> {
        self.page.store(creation.ioreq_buf, Ordering::Relaxed);
        creation.vcpu_num = self.cpus.len() as u16;
        let myself = self
            .myself
            .get()
            .and_then(std::sync::Weak::upgrade)
            .expect("set in new");
        self.update_routes(&HashMap::new())?;
        let mut threads = self.threads.lock().unwrap();
        for vcpu in 0..self.cpus.len() {
            let this = myself.clone();
            threads.push(std::thread::spawn(move || this.serve(vcpu)));
        }
        Ok(())
    }
    fn destroy_vm(&self) -> io::Result<()> {
        Ok(())
    }
    fn start_vm(&self) -> io::Result<()> {
        self.parking.store(false, Ordering::SeqCst);
        self.run.lock().unwrap().running = true;
        self.run_changed.notify_all();
        Ok(())
    }
    fn pause_vm(&self) -> io::Result<()> {
        self.run.lock().unwrap().running = false;
        let threads = self.threads.lock().unwrap();
        loop {
            let run = self.run.lock().unwrap();
            let waiting = self.requests.lock().unwrap().waiting.count_ones() as usize;
            if run.parked + waiting >= threads.len() {
                return Ok(());
            }
            drop(run);
            for thread in threads.iter() {
                let _ = thread.kill(libc::SIGRTMIN());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    fn reset_vm(&self) -> io::Result<()> {
        for chip in self.pic.lock().unwrap().iter() {
            self.vm.set_irqchip(chip).map_err(other)?;
        }
        for cpu in &self.cpus {
            let cpu = cpu.lock().unwrap();
            cpu.fd.set_sregs(&cpu.sregs).map_err(other)?;
            cpu.fd.set_lapic(&cpu.lapic).map_err(other)?;
            cpu.fd.set_mp_state(cpu.mp_state).map_err(other)?;
        }
        Ok(())
    }
    fn set_vcpu_regs(&self, regs: &VcpuRegs) -> io::Result<()> {
        let cpu = self
            .cpus
            .get(usize::from(regs.vcpu_id))
            .ok_or(io::ErrorKind::NotFound)?;
        set_registers(&cpu.lock().unwrap().fd, &regs.regs)
    }
    fn set_memory(&self, segment: &VmMemmap) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot: self.slots.fetch_add(1, Ordering::Relaxed),
            flags: 0,
            guest_phys_addr: segment.user_vm_pa,
            memory_size: segment.len,
            userspace_addr: segment.base,
        };
        // SAFETY: the Device Model keeps the memory mapped until the process ends.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(other)
    }
    fn inject_msi(&self, msi: &MsiEntry) -> io::Result<()> {
        let msi = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data as u32,
            ..Default::default()
        };
        self.vm.signal_msi(msi).map(|_| ()).map_err(other)
    }
    fn set_irq_line(&self, line: IrqLine) -> io::Result<()> {
        if line.gsi > 23 {
            return Ok(());
        }
        if line.operation != IrqLine::LOW {
            self.vm.set_irq_line(line.gsi, true).map_err(other)?;
        }
        if line.operation != IrqLine::HIGH {
            self.vm.set_irq_line(line.gsi, false).map_err(other)?;
        }
        Ok(())
    }
    fn create_request_client(&self) -> io::Result<()> {
        Ok(())
    }
    fn wait_request(&self) -> io::Result<()> {
        let mut requests = self.requests.lock().unwrap();
        while requests.waiting == 0 && !requests.woken {
            requests = self.changed.wait(requests).unwrap();
        }
        requests.woken = false;
        Ok(())
    }
    fn wake(&self) {
        self.requests.lock().unwrap().woken = true;
        self.changed.notify_all();
    }
    fn finish_request(&self, vcpu: u16) -> io::Result<()> {
        let mut requests = self.requests.lock().unwrap();
        self.word(vcpu.into(), OFFSET_PROCESSED)
            .store(State::FREE.0, Ordering::Release);
        requests.waiting &= !(1 << vcpu);
        requests.done |= 1 << vcpu;
        self.changed.notify_all();
        Ok(())
    }
    fn clear_requests(&self) -> io::Result<()> {
        let mut requests = self.requests.lock().unwrap();
        requests.done |= requests.waiting;
        for vcpu in 0..self.cpus.len() {
            if requests.waiting >> vcpu & 1 != 0 {
                self.word(vcpu, OFFSET_PROCESSED)
                    .store(State::FREE.0, Ordering::Release);
            }
        }
        requests.waiting = 0;
        self.changed.notify_all();
        drop(requests);
        // Those CPUs now come to their parking place.
        self.pause_vm()
    }
    fn create_vdev(&self, _: &Vdev) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn io_event_fd(&self, event: &IoEventFd) -> io::Result<()> {
        let address = if event.flags & IoEventFd::PIO != 0 {
            IoEventAddress::Pio(event.address)
        } else {
            IoEventAddress::Mmio(event.address)
        };
        let fd = borrow(event.fd as i32);
        let deassign = event.flags & IoEventFd::DEASSIGN != 0;
        let matching = event.flags & IoEventFd::DATAMATCH != 0;
        match (deassign, matching, event.len) {
            (false, false, _) => self.vm.register_ioevent(&fd, &address, NoDatamatch),
            (true, false, _) => self.vm.unregister_ioevent(&fd, &address, NoDatamatch),
            (false, true, 2) => self.vm.register_ioevent(&fd, &address, event.data as u16),
            (true, true, 2) => self.vm.unregister_ioevent(&fd, &address, event.data as u16),
            (false, true, _) => self.vm.register_ioevent(&fd, &address, event.data as u32),
            (true, true, _) => self.vm.unregister_ioevent(&fd, &address, event.data as u32),
        }
        .map_err(other)
    }
    fn irq_fd(&self, irq: &IrqFd) -> io::Result<()> {
        let fd = borrow(irq.fd);
        let mut routes = self.routes.lock().unwrap();
        if irq.flags & IrqFd::DEASSIGN != 0 {
            let Some((gsi, _)) = routes.remove(&irq.fd) else {
                return Ok(());
            };
            return self.vm.unregister_irqfd(&fd, gsi).map_err(other);
        }
        let gsi = (FIRST_MSI_GSI..)
            .find(|gsi| routes.values().all(|(used, _)| used != gsi))
            .unwrap_or(FIRST_MSI_GSI);
        routes.insert(irq.fd, (gsi, irq.msi));
        self.update_routes(&routes)?;
        self.vm.register_irqfd(&fd, gsi).map_err(other)
    }
}

/// The descriptor as the type that the KVM crate wants, without owning it.
fn borrow(fd: i32) -> std::mem::ManuallyDrop<EventFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller keeps the descriptor open during the call, and it is never closed here.
    std::mem::ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd) })
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// `--send SOCKET TEXT`: plays a monitor for scripts.
fn send(path: &str, text: &str) -> io::Result<()> {
    use std::io::{BufRead, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.write_all(text.as_bytes())?;
    let mut line = String::new();
    io::BufReader::new(stream).read_line(&mut line)?;
    print!("{line}");
    Ok(())
}

fn main() {
    if let [_, option, path, text] = &std::env::args().collect::<Vec<_>>()[..]
        && option == "--send"
    {
        return send(path, text).expect("send");
    }
    let spec = match cli::parse(std::env::args_os()) {
        Ok(Request::Run(spec)) => spec,
        Ok(Request::Print(text)) => return print!("{text}"),
        Err(error) => {
            eprintln!("on_kvm: {error}");
            std::process::exit(error.code.number());
        }
    };
    logger::start(spec.name.as_str(), spec.log_level);
    register_signal_handler(libc::SIGRTMIN(), nothing).ok();
    signals::block().expect("signals");
    let vcpus = (spec.cpu_affinity.len() as u64).max(1);
    let hsm = KvmHsm::new(vcpus).expect("KVM");
    let program = Program::open(&spec.boot, &spec.bootargs, spec.memory).expect("program");
    let memory = Memory::allocate(spec.memory).expect("memory");
    let mut vm = Vm::create(&spec, program, <_>::default(), hsm, memory).expect("VM");
    signals::listen(vm.events()).expect("signals");
    if let Some(path) = &spec.cmd_monitor {
        let socket = acrn_dm::run::control::ControlSocket::listen(path, vm.events());
        std::mem::forget(socket.expect("socket"));
    }
    for text in vm.announcements() {
        legacy::backend::announce(&text);
    }
    vm.start().expect("start");
    let _ = Event::Lost;
    let code = vm.run();
    acrn_dm::terminal::restore();
    std::process::exit(code);
}
