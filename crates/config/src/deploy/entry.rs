//! What the entry of GRUB's menu has to know of a configuration, as lines of keys and values.

use acrn_config_blob::{Config, LoadOrder, Vm};

/// The text of the file `entry`: tags of the Service VM's modules and the words for its kernel. Without a
/// Service VM, the tags are empty.
pub fn entry(config: &Config<'_>) -> String {
    let service = config
        .vms
        .iter()
        .find(|vm| vm.load_order == LoadOrder::Service);
    let Some(vm) = service else {
        return "kernel=\nramdisk=\ncmdline=\n".to_owned();
    };
    let or = |tag: &str, usual: &str| if tag.is_empty() { usual } else { tag }.to_owned();
    let kernel = or(
        vm.os.kernel_tag.as_str(),
        acrn_abi::module_tag::SERVICE_VM_KERNEL,
    );
    let ramdisk = or(vm.os.ramdisk_tag.as_str(), "Linux_ramdisk");
    let words = [vm.os.bootargs.as_str().to_owned(), huge_pages(&vm)];
    let words: Vec<&str> = words.iter().flat_map(|text| text.split(' ')).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    format!(
        "kernel={kernel}\nramdisk={ramdisk}\ncmdline={}\n",
        words.join(" ")
    )
}

/// The words by which Linux reserves huge pages for post-launched VMs.
fn huge_pages(vm: &Vm<'_>) -> String {
    let sizes = [("1G", vm.huge_pages_1g), ("2M", vm.huge_pages_2m)];
    let wanted = sizes.iter().filter(|(_, count)| *count > 0);
    let words = wanted.map(|(size, count)| format!("hugepagesz={size} hugepages={count}"));
    words.collect::<Vec<_>>().join(" ")
}
