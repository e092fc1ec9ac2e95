//! Everything together: the board file, and what could not be read.

use acrn_config::BoardFile;
use acrn_config::xml::Document;

use crate::host::{Gap, Host};
use crate::tables::{DIRECTORY, Drhd};
use crate::texts::{Facts, texts};
use crate::xml::with;
use crate::{cache, classes, cpu, ivrs, memory, namespace, pci, tables};

const XML: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n";

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// The board file.
    pub board: BoardFile,
    /// Its text.
    pub text: String,
    /// What could not be read.
    pub gaps: Vec<Gap>,
    /// IOMMUs.
    pub iommus: Iommus,
}

/// IOMMUs, of which a machine has one vendor's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iommus {
    /// Intel's.
    pub intel: Vec<Drhd>,
    /// AMD's.
    pub amd: Vec<ivrs::Unit>,
}

impl Iommus {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.intel.len() + self.amd.len()
    }
}

/// Inspects a machine, which the board file will call `name`, with disk images in these folders.
pub fn inspect(host: &Host, name: &str, images: &[String]) -> Inspection {
    let threads = cpu::threads(host);
    let map = memory::map(host);
    let ram = memory::ram(host, &map);
    let functions = pci::functions(host);
    let ttys = classes::ttys(host);
    let namespace = namespace::read(host);
    let iommus = iommus(host);
    let ports = host.text("/proc/ioports").unwrap_or_default();
    let windows = [memory::ranges(&map), memory::ranges(&ports)].concat();

    let mut root = with("acrn-config", &[("board", name)]);
    let facts = Facts {
        host,
        threads: &threads,
        ram: &ram,
        map: &map,
        functions: &functions,
        ttys: &ttys,
        namespace: &namespace,
        iommus: &iommus,
        images,
    };
    let parts = [
        cpu::processors(host, &threads),
        cache::caches(host, &threads),
        memory::memory(&ram),
        tables::io_apics_element(host),
        pci::devices(host, &functions, &windows, namespace::elements(&namespace)),
        classes::device_classes(host, &ttys),
    ];
    for element in texts(&facts).into_iter().chain(parts) {
        root.add(element);
    }
    let document = Document::new(root);
    let text = format!("{XML}{document}");
    Inspection {
        board: BoardFile::of(name, document),
        text,
        gaps: host.gaps(),
        iommus,
    }
}

fn iommus(host: &Host) -> Iommus {
    let table = |name: &str| host.bytes(&format!("{DIRECTORY}/{name}"));
    match (table("DMAR"), table("IVRS")) {
        (Err(error), Err(_)) => {
            let meaning = "without an IOMMU, no device can be passed to a VM safely: switch VT-d or the \
                           IOMMU on in the firmware's settings";
            host.gap("IOMMU", &error.to_string(), meaning);
            Iommus::default()
        }
        (dmar, ivrs) => Iommus {
            intel: tables::iommus(&dmar.unwrap_or_default()),
            amd: ivrs::units(&ivrs.unwrap_or_default()),
        },
    }
}
