//! Guest segment registers (SDM volume 3C, 27.3.1.2).

use super::context::{CR0_PE, Checker, RFLAGS_VM, Verdict};
use crate::{Entry, Field, Secondary};

/// Numbers of the segment registers, as in [`Field::segment`].
const CS: usize = 1;
const SS: usize = 2;
const FS: usize = 4;
const LDTR: usize = 6;
const TR: usize = 7;

/// "Unusable", bit 16 of access rights.
const UNUSABLE: u64 = 1 << 16;

/// One segment register.
#[derive(Clone, Copy)]
struct Segment {
    number: usize,
    selector: u64,
    base: u64,
    limit: u64,
    access: u64,
    fields: [Field; 4],
}

impl Segment {
    fn read(c: &Checker<'_>, number: usize) -> Self {
        let fields = Field::segment(number);
        let [selector, base, limit, access] = fields.map(|field| c.get(field));
        Self {
            number,
            selector,
            base,
            limit,
            access,
            fields,
        }
    }

    fn usable(&self) -> bool {
        self.access & UNUSABLE == 0
    }

    fn kind(&self) -> u64 {
        self.access & 0xf
    }

    fn dpl(&self) -> u64 {
        self.access >> 5 & 3
    }

    fn rpl(&self) -> u64 {
        self.selector & 3
    }

    fn selector_field(&self) -> Field {
        self.fields[0]
    }

    fn base_field(&self) -> Field {
        self.fields[1]
    }

    fn limit_field(&self) -> Field {
        self.fields[2]
    }

    fn access_field(&self) -> Field {
        self.fields[3]
    }
}

pub(super) fn check(checker: &Checker<'_>) -> Verdict {
    let c = checker.section("27.3.1.2");
    let segments: [Segment; 8] = core::array::from_fn(|number| Segment::read(&c, number));
    let virtual_8086 = c.get(Field::GuestRflags) & RFLAGS_VM != 0;
    selectors(&c, &segments, virtual_8086)?;
    bases(&c, &segments, virtual_8086)?;
    if virtual_8086 {
        for segment in &segments[..LDTR] {
            c.ensure(
                segment.limit == 0xffff,
                segment.limit_field(),
                "the limit is not 64 KiB in virtual-8086 mode",
            )?;
            c.ensure(
                segment.access == 0xf3,
                segment.access_field(),
                "not those of a segment in virtual-8086 mode",
            )?;
        }
    } else {
        code(&c, &segments)?;
        stack(&c, &segments)?;
        for segment in &segments[..LDTR] {
            if !matches!(segment.number, CS | SS) && segment.usable() {
                data(&c, segment)?;
            }
        }
    }
    task(&c, &segments[TR])?;
    local_table(&c, &segments[LDTR])
}

fn selectors(c: &Checker<'_>, segments: &[Segment; 8], virtual_8086: bool) -> Verdict {
    let (task, table) = (&segments[TR], &segments[LDTR]);
    c.ensure(
        task.selector & 4 == 0,
        task.selector_field(),
        "TI is set, but there is no such task in the LDT",
    )?;
    c.ensure(
        !table.usable() || table.selector & 4 == 0,
        table.selector_field(),
        "TI is set, but an LDT is in the GDT",
    )?;
    let (code, stack) = (&segments[CS], &segments[SS]);
    c.agree(
        virtual_8086 || is_unrestricted(c) || code.rpl() == stack.rpl(),
        stack.selector_field(),
        code.selector_field(),
        "the privilege levels of SS and CS differ",
    )
}

fn is_unrestricted(c: &Checker<'_>) -> bool {
    c.secondary.contains(Secondary::UNRESTRICTED_GUEST)
}

fn bases(c: &Checker<'_>, segments: &[Segment; 8], virtual_8086: bool) -> Verdict {
    for segment in segments {
        let field = segment.base_field();
        if virtual_8086 && segment.number < LDTR {
            c.agree(
                segment.base == segment.selector << 4,
                field,
                segment.selector_field(),
                "not the selector times 16 in virtual-8086 mode",
            )?;
        }
        match segment.number {
            LDTR if !segment.usable() => {}
            FS.. => c.canonical(field)?,
            _ if segment.number == CS || segment.usable() => {
                c.clear(field, !0xffff_ffff, "bits above 31 are set")?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is the same for all usable segments: reserved bits, presence, granularity.
fn common(c: &Checker<'_>, segment: &Segment) -> Verdict {
    let field = segment.access_field();
    c.ensure(
        segment.access & 1 << 7 != 0,
        field,
        "the segment is not present",
    )?;
    c.clear(field, 0xf00, "reserved bits 11:8 are set")?;
    let pages = segment.access & 1 << 15 != 0;
    c.agree(
        !pages || segment.limit & 0xfff == 0xfff,
        field,
        segment.limit_field(),
        "granularity is pages, but the limit is not at the end of a page",
    )?;
    c.agree(
        pages || segment.limit >> 20 == 0,
        field,
        segment.limit_field(),
        "granularity is bytes, but the limit has more than 20 bits",
    )?;
    c.clear(field, 0xfffe_0000, "reserved bits 31:17 are set")
}

fn code(c: &Checker<'_>, segments: &[Segment; 8]) -> Verdict {
    let (code, stack) = (&segments[CS], &segments[SS]);
    let field = code.access_field();
    let kind = code.kind();
    // With an unrestricted guest, real-address mode's data segment may be code.
    let is_code = matches!(kind, 9 | 11 | 13 | 15) || kind == 3 && is_unrestricted(c);
    c.ensure(is_code, field, "the type is not accessed code")?;
    c.ensure(
        code.access & 1 << 4 != 0,
        field,
        "a system segment cannot be code",
    )?;
    let (level_holds, reason) = match kind {
        3 => (code.dpl() == 0, "code of type 3 has privilege level 0"),
        9 | 11 => (
            code.dpl() == stack.dpl(),
            "the privilege level is not that of SS",
        ),
        _ => (
            code.dpl() <= stack.dpl(),
            "the privilege level is above that of SS",
        ),
    };
    c.agree(level_holds, field, stack.access_field(), reason)?;
    let long = c.entry.contains(Entry::IA32E_GUEST) && code.access & 1 << 13 != 0;
    c.ensure(
        !long || code.access & 1 << 14 == 0,
        field,
        "both 64-bit code and a default size of 32 bits",
    )?;
    common(c, code)
}

fn stack(c: &Checker<'_>, segments: &[Segment; 8]) -> Verdict {
    let (code, stack) = (&segments[CS], &segments[SS]);
    let field = stack.access_field();
    if stack.usable() {
        c.ensure(
            matches!(stack.kind(), 3 | 7),
            field,
            "the type is not accessed writable data",
        )?;
        c.ensure(
            stack.access & 1 << 4 != 0,
            field,
            "a system segment cannot be a stack",
        )?;
    }
    c.agree(
        is_unrestricted(c) || stack.dpl() == stack.rpl(),
        field,
        stack.selector_field(),
        "the privilege level is not the selector's",
    )?;
    c.agree(
        code.kind() != 3 || stack.dpl() == 0,
        field,
        code.access_field(),
        "the privilege level is not 0, although CS is of type 3",
    )?;
    c.agree(
        c.get(Field::GuestCr0) & CR0_PE != 0 || stack.dpl() == 0,
        field,
        Field::GuestCr0,
        "the privilege level is not 0 in real-address mode",
    )?;
    match stack.usable() {
        true => common(c, stack),
        false => Ok(()),
    }
}

fn data(c: &Checker<'_>, segment: &Segment) -> Verdict {
    let field = segment.access_field();
    c.ensure(
        segment.access & 1 != 0,
        field,
        "the segment is not marked as accessed",
    )?;
    c.ensure(
        segment.access & 8 == 0 || segment.access & 2 != 0,
        field,
        "code that cannot be read",
    )?;
    c.ensure(
        segment.access & 1 << 4 != 0,
        field,
        "a system segment cannot be data",
    )?;
    c.agree(
        is_unrestricted(c) || segment.kind() > 11 || segment.dpl() >= segment.rpl(),
        field,
        segment.selector_field(),
        "the privilege level is below the selector's",
    )?;
    common(c, segment)
}

fn task(c: &Checker<'_>, task: &Segment) -> Verdict {
    let field = task.access_field();
    let long = c.entry.contains(Entry::IA32E_GUEST);
    c.ensure(
        task.kind() == 11 || task.kind() == 3 && !long,
        field,
        "the type is not a busy task",
    )?;
    c.ensure(task.access & 1 << 4 == 0, field, "not a system segment")?;
    common(c, task)?;
    c.ensure(task.usable(), field, "a task register is never unusable")
}

fn local_table(c: &Checker<'_>, table: &Segment) -> Verdict {
    if !table.usable() {
        return Ok(());
    }
    let field = table.access_field();
    c.ensure(table.kind() == 2, field, "the type is not an LDT")?;
    c.ensure(table.access & 1 << 4 == 0, field, "not a system segment")?;
    common(c, table)
}
