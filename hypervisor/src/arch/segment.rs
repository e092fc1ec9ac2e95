//! Global descriptor table, task state segment and interrupt stacks of each physical CPU.
//!
//! Every gate switches to a stack of its own through the IST, since the prebuilt `core` library
//! keeps data below the stack pointer (the red zone).

use core::arch::asm;

/// Selector of the 64-bit code segment.
pub const CODE: u16 = 8;
/// Selector of the data segment.
pub const DATA: u16 = 16;
/// Selector of the task state segment.
pub const TASK: u16 = 24;

/// Interrupt stack table slots; the numbers are those of the gate descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ist {
    /// Exceptions.
    Exception = 1,
    /// External interrupts.
    Interrupt = 2,
    /// Non-maskable interrupts.
    Nmi = 3,
    /// Double fault and machine check.
    DoubleFault = 4,
}

/// Size of one interrupt stack, in bytes.
const IST_SIZE: usize = 16 * 1024;

/// 64-bit task state segment (AMD APM volume 2, 12.2.5).
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: [u32; 2],
    reserved3: u16,
    io_map: u16,
}
const _: () = assert!(size_of::<TaskState>() == 104);

#[repr(C, align(16))]
struct Stack([u8; IST_SIZE]);

/// The tables of one CPU. Lives at one address for ever.
#[repr(C, align(16))]
pub struct Segments {
    gdt: [u64; 5],
    tss: TaskState,
    stacks: [Stack; 4],
}

impl Segments {
    /// Empty tables, all zero so that they take no room in the image.
    pub const fn new() -> Self {
        Self {
            gdt: [0; 5],
            tss: TaskState {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: [0; 2],
                reserved3: 0,
                io_map: 0,
            },
            stacks: [const { Stack([0; IST_SIZE]) }; 4],
        }
    }

    /// Loads the tables into this CPU.
    ///
    /// # Safety
    /// `self` stays at its address and belongs to this CPU alone from now on.
    pub unsafe fn load(&'static mut self) {
        for (slot, stack) in self.stacks.iter().enumerate() {
            self.tss.ist[slot] = (&raw const *stack) as u64 + IST_SIZE as u64;
        }
        self.tss.io_map = 104;
        self.gdt[1] = 0x00af_9b00_0000_ffff;
        self.gdt[2] = 0x00cf_9300_0000_ffff;
        let base = (&raw const self.tss) as u64;
        self.gdt[3] = 103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        self.gdt[4] = base >> 32;
        load_table("gdt", (&raw const self.gdt) as u64, size_of_val(&self.gdt));
        // SAFETY: the selectors name descriptors of the table that was just loaded; the far
        // return reloads CS and continues at the next instruction.
        unsafe {
            asm!(
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ds, {data:x}",
                "mov es, {data:x}",
                "mov ss, {data:x}",
                "ltr {task:x}",
                code = const CODE as u64,
                scratch = out(reg) _,
                data = in(reg) u32::from(DATA),
                task = in(reg) u32::from(TASK),
            );
        }
    }
}

/// Loads GDTR or IDTR.
pub(super) fn load_table(which: &str, base: u64, size: usize) {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer {
        limit: (size - 1) as u16,
        base,
    };
    // SAFETY: the callers pass complete tables that live for ever.
    unsafe {
        match which {
            "gdt" => asm!("lgdt [{}]", in(reg) &raw const pointer, options(nostack)),
            _ => asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack)),
        }
    }
}

/// Where this CPU's tables are, as linear addresses.
pub struct Tables {
    /// GDT.
    pub gdt_base: u64,
    /// IDT.
    pub idt_base: u64,
    /// Task state segment.
    pub task_base: u64,
}

impl Tables {
    /// Those that are loaded.
    pub fn of_this_cpu() -> Self {
        #[repr(C, packed)]
        #[derive(Default)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let (mut gdt, mut idt) = (Pointer::default(), Pointer::default());
        // SAFETY: each stores ten bytes into a structure of that size.
        unsafe {
            asm!("sgdt [{}]", in(reg) &raw mut gdt, options(nostack, preserves_flags));
            asm!("sidt [{}]", in(reg) &raw mut idt, options(nostack, preserves_flags));
        }
        let (gdt_base, idt_base) = (gdt.base, idt.base);
        // SAFETY: the hypervisor's own table, which `Segments::load` filled.
        let [low, high] = unsafe { ((gdt_base + u64::from(TASK)) as *const [u64; 2]).read() };
        let task_base = low >> 16 & 0xff_ffff | (low >> 56 & 0xff) << 24 | high << 32;
        Self {
            gdt_base,
            idt_base,
            task_base,
        }
    }
}
