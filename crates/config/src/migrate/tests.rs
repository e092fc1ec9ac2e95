use super::*;
use crate::ScenarioFile;
use crate::model::Hex;
use crate::scenario::{Backend, BuildType, ConsoleVuart, NetworkFramework, OsType};
use acrn_config_blob::{LoadOrder, VmKind, VuartKind};

const OLD: &str = r#"<acrn-config board="b" scenario="shared">
  <hv>
    <DEBUG_OPTIONS>
      <RELEASE>n</RELEASE>
      <SERIAL_CONSOLE>/dev/ttyS0</SERIAL_CONSOLE>
      <LOG_DESTINATION>7</LOG_DESTINATION>
    </DEBUG_OPTIONS>
    <FEATURES>
      <RELOC>n</RELOC>
      <ENFORCE_TURNOFF_AC>y</ENFORCE_TURNOFF_AC>
      <MCE_ON_PSC_DISABLED>n</MCE_ON_PSC_DISABLED>
      <NVMX_ENABLED>y</NVMX_ENABLED>
      <IVSHMEM>
        <IVSHMEM_ENABLED>y</IVSHMEM_ENABLED>
        <IVSHMEM_REGION>hv:/shm_region_0, 2, 0:1</IVSHMEM_REGION>
      </IVSHMEM>
    </FEATURES>
  </hv>
  <vm id="0">
    <vm_type>SAFETY_VM</vm_type>
    <name>SAFETY</name>
    <guest_flags><guest_flag>0</guest_flag></guest_flags>
    <cpu_affinity><pcpu_id>3</pcpu_id></cpu_affinity>
    <memory><start_hpa>0x100000000</start_hpa><size>0x20000000</size><start_hpa2>0x0</start_hpa2><size_hpa2>0x0</size_hpa2></memory>
    <legacy_vuart id="0"><type>VUART_LEGACY_PIO</type><base>COM1_BASE</base><irq>COM1_IRQ</irq></legacy_vuart>
    <legacy_vuart id="1"><type>VUART_LEGACY_PIO</type><base>COM2_BASE</base><irq>COM2_IRQ</irq><target_vm_id>1</target_vm_id><target_uart_id>1</target_uart_id></legacy_vuart>
    <console_vuart id="0"><base>INVALID_PCI_BASE</base></console_vuart>
    <pci_devs><pci_dev/></pci_devs>
  </vm>
  <vm id="1">
    <vm_type>SERVICE_VM</vm_type>
    <name>ACRN Service VM</name>
    <cpu_affinity><pcpu_id>0</pcpu_id></cpu_affinity>
    <clos><vcpu_clos>0</vcpu_clos></clos>
    <memory><start_hpa>0</start_hpa></memory>
    <os_config><name>OS</name><bootargs>SERVICE_VM_OS_BOOTARGS</bootargs></os_config>
    <legacy_vuart id="1"><type>VUART_LEGACY_PIO</type><base>SERVICE_VM_COM2_BASE</base><irq>3</irq><target_vm_id>0</target_vm_id><target_uart_id>1</target_uart_id></legacy_vuart>
    <board_private><rootfs>/dev/sda1</rootfs><bootargs>
        rw   quiet
    </bootargs></board_private>
  </vm>
  <vm id="2">
    <vm_type>POST_STD_VM</vm_type>
    <name>User</name>
    <guest_flags><guest_flag>GUEST_FLAG_IO_COMPLETION_POLLING</guest_flag></guest_flags>
    <cpu_affinity><pcpu_id>0</pcpu_id></cpu_affinity>
    <epc_section><base>0</base><size>0</size></epc_section>
  </vm>
</acrn-config>
"#;

const LAUNCH: &str = r#"<acrn-config>
  <user_vm id="1">
    <user_vm_type>WINDOWS</user_vm_type>
    <vm_name>Desktop</vm_name>
    <rtos_type>Hard RT</rtos_type>
    <mem_size>2048</mem_size>
    <vbootloader>ovmf</vbootloader>
    <vuart0>Disable</vuart0>
    <usb_xhci>1-2:2-4</usb_xhci>
    <cpu_affinity><pcpu_id>1</pcpu_id><pcpu_id>2</pcpu_id></cpu_affinity>
    <shm_regions><shm_region>hv:/extra,4</shm_region></shm_regions>
    <passthrough_devices><gpu>00:02.0 VGA</gpu><audio/></passthrough_devices>
    <virtio_devices>
      <network>win,vhost</network>
      <block>./win.img</block>
      <console>@sock:port=/tmp/s</console>
      <input/>
    </virtio_devices>
  </user_vm>
</acrn-config>
"#;

fn migrated(launch: bool) -> (ScenarioFile, Vec<Change>) {
    let mut document = crate::xml::parse(OLD).unwrap();
    let launch = launch.then(|| crate::xml::parse(LAUNCH).unwrap());
    let changes = migrate(&mut document, launch.as_ref());
    let file = ScenarioFile::parse("new.xml", &document.to_string()).unwrap();
    assert_eq!(file.findings, [], "{document}");
    (file, changes)
}

#[test]
fn features_have_their_new_names_and_senses() {
    let hv = migrated(false).0.model.hv;
    assert_eq!(hv.build_type, BuildType::Debug);
    assert!(!hv.features.relocation && !hv.features.split_lock && hv.features.mce_workaround);
    let region = &hv.features.ivshmem.regions[0];
    let members: Vec<_> = region
        .members
        .list
        .iter()
        .map(|member| member.vm_name.as_str())
        .collect();
    assert_eq!(
        (region.name.as_str(), region.size, members),
        ("shm_region_0", 2, vec!["SAFETY", "ACRN_Service_VM"])
    );
}

#[test]
fn vms_have_their_new_elements() {
    let vms = migrated(false).0.model.vms;
    let orders: Vec<_> = vms.iter().map(|vm| (vm.load_order, vm.kind)).collect();
    let kinds = [
        LoadOrder::PreLaunched,
        LoadOrder::Service,
        LoadOrder::PostLaunched,
    ];
    assert_eq!(orders, kinds.map(|order| (order, VmKind::Standard)));
    assert_eq!(vms[0].cpu_affinity.pcpus[0].id, 3);
    let region = &vms[0].memory.regions[0];
    assert_eq!(
        (region.start, region.size, vms[0].memory.regions.len()),
        (Hex(1 << 32), 512, 1)
    );
    assert_eq!(vms[0].console_vuart, ConsoleVuart::Com1);
    assert!(vms[1].nested_virtualization && vms[2].io_completion_polling);
    assert_eq!(vms[1].os_config.bootargs, "root=/dev/sda1 rw quiet");
}

#[test]
fn every_vm_has_a_name_of_its_own() {
    let vm =
        |id: u8, name: &str| format!("<vm id=\"{id}\"><vm_type>POST_STD_VM</vm_type>{name}</vm>");
    let text = format!(
        "<acrn-config><hv><FEATURES><IVSHMEM><IVSHMEM_REGION>hv:/r, 2, 1:2</IVSHMEM_REGION>\
         </IVSHMEM></FEATURES></hv>{}{}{}</acrn-config>",
        vm(0, "<name>ACRN PRE-LAUNCHED VM0</name>"),
        vm(1, "<name>ACRN PRE-LAUNCHED VM1</name>"),
        vm(2, ""),
    );
    let mut document = crate::xml::parse(&text).unwrap();
    let changes = migrate(&mut document, None);
    let model = ScenarioFile::of("new.xml", document).model;
    let names: Vec<_> = model.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["ACRN_PRE-LAUNCH", "ACRN_PRE-LAUN_1", "VM2"]);
    let members = &model.hv.features.ivshmem.regions[0].members.list;
    assert_eq!(
        (&*members[0].vm_name, &*members[1].vm_name),
        (names[1], names[2])
    );
    let notes = changes
        .iter()
        .filter(|change| change.path.ends_with("/name"));
    assert_eq!(notes.count(), 3);
}

#[test]
fn ends_of_serial_lines_find_each_other() {
    let hv = migrated(false).0.model.hv;
    let [line] = hv.vuart_connections.list.as_slice() else {
        panic!("one line")
    };
    let ends: Vec<_> = line
        .endpoints
        .iter()
        .map(|end| (end.vm_name.as_str(), end.io_port.unwrap().0))
        .collect();
    assert_eq!(
        (line.kind, ends),
        (
            VuartKind::Legacy,
            vec![("SAFETY", 0x2f8), ("ACRN_Service_VM", 0x2f8)]
        )
    );
}

#[test]
fn a_launch_file_is_merged() {
    let (file, changes) = migrated(true);
    let vm = &file.model.vms[2];
    assert_eq!(
        (vm.os_type, vm.kind, vm.memory.size),
        (OsType::Windows, VmKind::RealTime, 2048)
    );
    assert!(vm.lapic_passthrough && vm.vbootloader && !vm.vuart0);
    let cpus: Vec<_> = vm
        .cpu_affinity
        .pcpus
        .iter()
        .map(|cpu| (cpu.id, cpu.real_time))
        .collect();
    assert_eq!(cpus, [(1, true), (2, true)]);
    assert_eq!(vm.usb.devices, ["1-2", "2-4"]);
    assert_eq!(vm.pci_devs.list[0].text, "00:02.0 VGA");
    let virtio = &vm.virtio_devices;
    assert_eq!(virtio.networks[0].framework, NetworkFramework::Kernel);
    assert_eq!(
        (virtio.blocks[0].as_str(), virtio.inputs.len()),
        ("./win.img", 0)
    );
    assert_eq!(virtio.consoles[0].backend, Backend::SocketServer);
    assert_eq!(virtio.consoles[0].socket.as_deref(), Some("/tmp/s"));
    assert_eq!(
        file.model.hv.features.ivshmem.regions[1].members.list[0].vm_name,
        "User"
    );
    assert!(changes.iter().all(|change| !change.what.is_empty()));
}

#[test]
fn the_name_in_a_launch_file_is_for_a_vm_that_has_none() {
    let launch = crate::xml::parse(LAUNCH).unwrap();
    let names = |old: &str| {
        let mut document = crate::xml::parse(old).unwrap();
        migrate(&mut document, Some(&launch));
        ScenarioFile::of("new.xml", document).model.vms[2]
            .name
            .clone()
    };
    assert_eq!(names(OLD), "User");
    assert_eq!(names(&OLD.replace("<name>User</name>", "")), "Desktop");
}

#[test]
fn a_current_file_stays_as_it_is() {
    for preset in crate::presets::PRESETS {
        let mut document = crate::xml::parse(preset.scenario).unwrap();
        assert_eq!(migrate(&mut document, None), []);
        assert_eq!(document.to_string(), preset.scenario);
    }
}

#[test]
fn new_elements_stand_where_they_belong() {
    let text = migrated(false).0.document.to_string();
    let at = |what: &str| {
        text.find(what)
            .unwrap_or_else(|| panic!("{what} in {text}"))
    };
    assert!(at("<BUILD_TYPE>") < at("<FEATURES>"));
    assert!(at("<vuart_connections>") < at("<DEBUG_OPTIONS>"));
    assert!(
        text.contains("<vm id=\"0\">\n    <load_order>PRE_LAUNCHED_VM</load_order>\n"),
        "{text}"
    );
}
