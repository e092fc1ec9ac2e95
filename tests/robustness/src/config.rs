//! The configuration: the binary form that the hypervisor reads, and the files that it is made of.

use acrn_abi::{Bdf, Hpa, PcpuId};
use acrn_config::presets::{Preset, preset};
use acrn_config::{BoardFile, File, Model, ScenarioFile, build, migrate::migrate, tree::Tree};
use acrn_config_blob::{Config, Machine, encode, header};
use std::sync::OnceLock;

/// A machine that has nothing.
struct Nothing;

impl Machine for Nothing {
    fn cpus(&self) -> usize {
        0
    }
    fn apic_id(&self, _: PcpuId) -> Option<u32> {
        None
    }
    fn pci_id(&self, _: Bdf) -> Option<(u16, u16)> {
        None
    }
    fn is_ram(&self, _: Hpa, _: u64) -> bool {
        false
    }
}

/// As they are, and once more with a header that is right, so that the values are looked at.
pub fn blob(data: &[u8]) {
    parse(data);
    if let Some(body) = data.get(header::SIZE..) {
        let mut sealed = header::MAGIC.to_vec();
        sealed.extend(header::VERSION.to_le_bytes());
        sealed.extend((header::SIZE as u16).to_le_bytes());
        sealed.extend((data.len() as u32).to_le_bytes());
        sealed.extend(crc(body).to_le_bytes());
        sealed.extend(body);
        parse(&sealed);
    }
}

/// What is accepted hangs together, and is what was written.
fn parse(data: &[u8]) {
    match Config::parse(data) {
        Ok(config) => {
            assert_eq!(config.check(), Ok(()));
            let mut written = Vec::new();
            encode(&config, &mut |piece| written.extend_from_slice(piece));
            assert_eq!(written, data);
            assert!(config.check_machine(&Nothing).is_err());
            assert!(!Tree::of_config(&config).lines().is_empty());
            for vm in config.vms.iter() {
                assert_eq!(vm.cpu_mask().count_ones() as usize, vm.vcpus.len());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// CRC-32, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let one = |crc: u32| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| one(crc))
    })
}

fn files(preset: &Preset) -> (BoardFile, ScenarioFile) {
    let board = BoardFile::parse("board.xml", preset.board).expect("a board");
    (
        board,
        ScenarioFile::parse("scenario.xml", preset.scenario).expect("a scenario"),
    )
}

fn generic() -> &'static (BoardFile, ScenarioFile) {
    static FILES: OnceLock<(BoardFile, ScenarioFile)> = OnceLock::new();
    FILES.get_or_init(|| files(preset("generic").expect("a preset")))
}

pub fn blob_seeds() -> Vec<Vec<u8>> {
    let presets = acrn_config::presets::PRESETS.iter();
    presets
        .map(|preset| {
            let (board, scenario) = files(preset);
            build(&board, &scenario).expect("a preset builds").blob
        })
        .collect()
}

/// An unchanged file is written as it was, and one that is made to say what it says means the same.
fn read<T: Model + Clone + PartialEq + std::fmt::Debug>(data: &[u8]) -> Option<File<T>> {
    let text = std::str::from_utf8(data).ok()?;
    let mut file = File::<T>::parse("file", text).ok()?;
    assert_eq!(file.document.to_string(), text);
    let before = file.model.clone();
    file.update(&before);
    assert_eq!(file.model, before);
    Some(file)
}

/// What is built is what the hypervisor reads.
fn built(board: &BoardFile, scenario: &ScenarioFile) {
    match build(board, scenario) {
        Ok(built) => assert!(Config::parse(&built.blob).is_ok()),
        Err(findings) => {
            assert!(
                findings
                    .iter()
                    .all(|finding| !finding.to_string().is_empty())
            );
            assert!(!acrn_config::validate::is_valid(&findings));
        }
    }
}

/// A scenario: read, judged, built on a board, and brought up to date.
pub fn scenario(data: &[u8]) {
    let Some(file) = read(data) else { return };
    let (board, _) = generic();
    built(board, &file);
    let mut document = file.document;
    let changes = migrate(&mut document, None);
    let file = ScenarioFile::parse("new", &document.to_string()).expect("well-formed still");
    assert!(migrate(&mut document, None).len() <= changes.len());
    built(board, &file);
}

/// A board: read, and a scenario built on it.
pub fn board(data: &[u8]) {
    let Some(file) = read::<acrn_config::Board>(data) else {
        return;
    };
    let mut end = 0;
    for ram in file.model.ram() {
        assert!(ram.start >= end && ram.end() >= ram.start);
        end = ram.end();
    }
    let (_, scenario) = generic();
    built(&file, scenario);
}

const SCENARIOS: [&str; 3] = [
    "<acrn-config><hv><DEBUG_OPTIONS><SERIAL_CONSOLE>None</SERIAL_CONSOLE></DEBUG_OPTIONS></hv>\
     <vm id=\"0\"><load_order>PRE_LAUNCHED_VM</load_order><name>a</name><memory><hpa_region>\
     <start_hpa>0x100000000</start_hpa><size_hpa>512</size_hpa></hpa_region></memory><cpu_affinity>\
     <pcpu><pcpu_id>2</pcpu_id></pcpu></cpu_affinity><pt_intx>(1, 2)</pt_intx><pci_devs>\
     <pci_dev>03:00.0 x</pci_dev></pci_devs></vm></acrn-config>",
    "<acrn-config><hv><FEATURES><IVSHMEM><IVSHMEM_REGION><NAME>r</NAME><IVSHMEM_SIZE>2</IVSHMEM_SIZE>\
     <IVSHMEM_VMS><IVSHMEM_VM><VM_NAME>s</VM_NAME><VBDF>00:08.0</VBDF></IVSHMEM_VM></IVSHMEM_VMS>\
     </IVSHMEM_REGION></IVSHMEM></FEATURES><vuart_connections><vuart_connection><type>legacy</type>\
     <endpoint><vm_name>s</vm_name></endpoint><endpoint><vm_name>p</vm_name><io_port>0x9200</io_port>\
     </endpoint></vuart_connection></vuart_connections><DEBUG_OPTIONS><SERIAL_CONSOLE>ttyS0\
     </SERIAL_CONSOLE></DEBUG_OPTIONS></hv><vm id=\"0\"><load_order>SERVICE_VM</load_order>\
     <name>s</name></vm><vm id=\"1\"><load_order>POST_LAUNCHED_VM</load_order><name>p</name>\
     <cpu_affinity><pcpu><pcpu_id>1</pcpu_id></pcpu></cpu_affinity></vm></acrn-config>",
    "<acrn-config><hv><DEBUG_OPTIONS><RELEASE>n</RELEASE></DEBUG_OPTIONS><FEATURES><RELOC>y</RELOC>\
     <IVSHMEM><IVSHMEM_REGION>hv:/r, 2, 0:1</IVSHMEM_REGION></IVSHMEM></FEATURES></hv><vm id=\"0\">\
     <vm_type>SOS_VM</vm_type><name>s</name><guest_flags><guest_flag>0</guest_flag></guest_flags>\
     <legacy_vuart id=\"1\"><base>COM2_BASE</base><target_vm_id>1</target_vm_id><target_uart_id>1\
     </target_uart_id></legacy_vuart></vm><vm id=\"1\"><vm_type>POST_RT_VM</vm_type><name>p</name>\
     <cpu_affinity><pcpu_id>1</pcpu_id></cpu_affinity><memory><start_hpa>0x0</start_hpa>\
     <size>0x20000000</size></memory><virtio_devices><network>t,vhost</network></virtio_devices>\
     </vm></acrn-config>",
];

const BOARDS: [&str; 2] = [
    "<acrn-config board=\"b\"><TTYS_INFO>seri:/dev/ttyS0 type:portio base:0x3F8 irq:4</TTYS_INFO>\
     <processors><die id=\"0x0\"><core id=\"0x0\"><thread id=\"0x0\"><cpu_id>0</cpu_id>\
     <apic_id>0x0</apic_id></thread></core></die></processors><caches><cache level=\"3\" id=\"0x0\" \
     type=\"3\"><capability id=\"CAT\"><capacity_mask_length>0xc</capacity_mask_length></capability>\
     </cache></caches><memory><range start=\"0x100000000\" end=\"0x1ffffffff\" size=\"1\"/></memory>\
     <devices><bus type=\"system\"><bus type=\"pci\" address=\"0x0\"><device address=\"0x170000\" \
     id=\"0x1\"><vendor>0x8086</vendor><identifier>0x1</identifier><class>0x10601</class>\
     <resource type=\"memory\" min=\"0x1000\" max=\"0x1fff\" len=\"0x1000\" id=\"bar0\"/></device>\
     </bus></bus></devices></acrn-config>",
    "<acrn-config><CPU_PROCESSOR_INFO>0, 1, 2, 3, 4, 5, 6, 7</CPU_PROCESSOR_INFO><IOMEM_INFO>\n\
     00100000-7fffffff : System RAM\n</IOMEM_INFO><AVAILABLE_IRQ_INFO>3, 5</AVAILABLE_IRQ_INFO>\
     </acrn-config>",
];

pub fn scenario_seeds() -> Vec<Vec<u8>> {
    SCENARIOS
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
}

pub fn board_seeds() -> Vec<Vec<u8>> {
    BOARDS.iter().map(|text| text.as_bytes().to_vec()).collect()
}
