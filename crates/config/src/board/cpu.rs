//! Processors and caches.

use crate::model::{Hex, attribute, item, model, own_text};

model! {
    /// Processors.
    pub struct Processors {
        pub models: Vec<CpuModel> = item("model", "Model", "A kind of processor."),
        pub dies: Vec<Die> = item("die", "Die", "A chip."),
    }

    /// A kind of processor.
    pub struct CpuModel {
        pub description: Option<String> = attribute("description", "Name",
            "What the processor calls itself."),
        pub family: Hex = item("family_id", "Family", "CPUID's family."),
        pub model: Hex = item("model_id", "Model", "CPUID's model."),
        pub core_type: Option<String> = item("core_type", "Core type", "Core or Atom."),
        pub native_model: Option<Hex> = item("native_model_id", "Native model",
            "CPUID's native model."),
        pub capabilities: Vec<CpuCapability> = item("capability", "Capability",
            "Something that the processor can do."),
        pub attributes: Vec<CpuAttribute> = item("attribute", "Attribute",
            "A number that describes the processor."),
    }

    /// Something that the processor can do.
    pub struct CpuCapability {
        pub id: String = attribute("id", "Name", "Name of the capability."),
    }

    /// A number that describes the processor.
    pub struct CpuAttribute {
        pub id: String = attribute("id", "Name", "Name of the attribute."),
        pub value: String = own_text("Value", "Its value."),
    }

    /// A chip.
    pub struct Die {
        pub id: Option<Hex> = attribute("id", "Number", "Number of the die."),
        pub cores: Vec<Core> = item("core", "Core", "A core."),
        pub modules: Vec<Module> = item("module", "Module", "Cores that share something."),
    }

    /// Cores that share something.
    pub struct Module {
        pub id: Option<Hex> = attribute("id", "Number", "Number of the module."),
        pub cores: Vec<Core> = item("core", "Core", "A core."),
    }

    /// A core.
    pub struct Core {
        pub id: Option<Hex> = attribute("id", "Number", "Number of the core."),
        pub threads: Vec<Thread> = item("thread", "Thread", "A logical CPU."),
    }

    /// A logical CPU.
    pub struct Thread {
        pub id: Option<Hex> = attribute("id", "Number", "Number of the thread."),
        pub cpu_id: i64 = item("cpu_id", "CPU",
            "Linux's number of the CPU.").range(0, 4095).required(),
        pub apic_id: Hex = item("apic_id", "APIC", "Number of its local APIC.").required(),
        pub x2apic_id: Option<Hex> = item("x2apic_id", "x2APIC",
            "Number of its local APIC in x2APIC mode."),
        pub family: Option<Hex> = item("family_id", "Family", "CPUID's family."),
        pub model: Option<Hex> = item("model_id", "Model", "CPUID's model."),
        pub stepping: Option<Hex> = item("stepping_id", "Stepping", "CPUID's stepping."),
        pub core_type: Option<String> = item("core_type", "Core type", "Core or Atom."),
        pub native_model: Option<Hex> = item("native_model_id", "Native model",
            "CPUID's native model."),
        pub hwp_guaranteed: Option<i64> = item("guaranteed_performance_lvl", "Guaranteed performance",
            "HWP's guaranteed level."),
        pub hwp_highest: Option<i64> = item("highest_performance_lvl", "Highest performance",
            "HWP's highest level."),
        pub hwp_lowest: Option<i64> = item("lowest_performance_lvl", "Lowest performance",
            "HWP's lowest level."),
        pub freqdomain: Option<String> = item("freqdomain_cpus", "Frequency domain",
            "CPUs that change their frequency together."),
    }

    /// All caches.
    pub struct Caches {
        pub list: Vec<Cache> = item("cache", "Cache", "A cache."),
    }

    /// A cache.
    pub struct Cache {
        pub level: i64 = attribute("level", "Level", "Its level.").range(0, 9),
        pub id: Hex = attribute("id", "Number", "Its number among those of its level."),
        pub kind: i64 = attribute("type", "Type", "1 data, 2 instructions, 3 both."),
        pub size: Option<i64> = item("cache_size", "Size", "Size.").unit("bytes"),
        pub line_size: Option<i64> = item("line_size", "Line", "Size of a line.").unit("bytes"),
        pub ways: Option<i64> = item("ways", "Ways", "Associativity."),
        pub sets: Option<i64> = item("sets", "Sets", "Number of sets."),
        pub partitions: Option<i64> = item("partitions", "Partitions", "Physical line partitions."),
        pub self_initializing: Option<i64> = item("self_initializing", "Self-initialising",
            "CPUID's bit."),
        pub fully_associative: Option<i64> = item("fully_associative", "Fully associative",
            "CPUID's bit."),
        pub write_back_invalidate: Option<i64> = item("write_back_invalidate", "WBINVD reaches",
            "CPUID's bit."),
        pub inclusiveness: Option<i64> = item("cache_inclusiveness", "Inclusive", "CPUID's bit."),
        pub complex_indexing: Option<i64> = item("complex_cache_indexing", "Complex indexing",
            "CPUID's bit."),
        pub processors: CacheProcessors = item("processors", "CPUs",
            "Local APICs of the CPUs that share it."),
        pub capabilities: Vec<CacheCapability> = item("capability", "Capability",
            "CAT, CDP or Software SRAM."),
    }

    /// CPUs that share a cache.
    pub struct CacheProcessors {
        pub apic_ids: Vec<Hex> = item("processor", "CPU", "Number of a local APIC."),
    }

    /// Something that a cache can do.
    pub struct CacheCapability {
        pub id: String = attribute("id", "Name", "CAT, CDP or Software SRAM."),
        pub mask_length: Option<Hex> = item("capacity_mask_length", "Mask length",
            "Bits of a mask."),
        pub clos_number: Option<Hex> = item("clos_number", "Classes",
            "Number of classes of service."),
        pub start: Option<Hex> = item("start", "Start", "First address of Software SRAM."),
        pub end: Option<Hex> = item("end", "End", "Last address of Software SRAM."),
        pub size: Option<i64> = item("size", "Size", "Size of Software SRAM.").unit("bytes"),
    }
}
