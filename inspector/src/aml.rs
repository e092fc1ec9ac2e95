//! AML, the firmware's program, as far as its declarations go (ACPI 6.5, chapter 20.2).
//!
//! Nothing is executed: blocks and their names are walked through, values that stand there as constants
//! are kept, methods and conditional parts are passed over. That is what a board file needs, it cannot hang
//! or touch hardware, and firmware that is broken costs the block that is. (The interpreters that there are
//! for Rust need an unstable compiler, execute what they read, and panic on some of it.)

/// Blocks inside of blocks, at most.
const DEEPEST: usize = 64;
/// Elements of a package that are kept.
const MOST_ELEMENTS: usize = 16;

/// A constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
    /// A list; elements that are no constants are absent.
    Package(Vec<Option<Value>>),
    /// Something else, which is passed over.
    Other,
}

/// What was found in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declarations {
    /// Paths of devices.
    pub devices: Vec<String>,
    /// Named constants, with their paths.
    pub values: Vec<(String, Value)>,
    /// Blocks that could not be read to their ends.
    pub broken: usize,
}

/// Reads a table's program, what is behind its header.
pub fn declarations(program: &[u8]) -> Declarations {
    let mut found = Declarations::default();
    found.block(Reader(program), &[], 0);
    found
}

/// Segments of a path below the root.
type Path = Vec<String>;

fn text(path: &[String]) -> String {
    format!("\\{}", path.join("."))
}

impl Declarations {
    /// Walks through a block; whatever stops it costs its rest.
    fn block(&mut self, mut block: Reader<'_>, scope: &[String], depth: usize) {
        while !block.0.is_empty() {
            if depth > DEEPEST || self.term(&mut block, scope, depth).is_none() {
                self.broken += 1;
                return;
            }
        }
    }

    fn term(&mut self, block: &mut Reader<'_>, scope: &[String], depth: usize) -> Option<()> {
        match block.byte()? {
            0x06 => {
                block.name(scope)?;
                block.name(scope)?;
            }
            0x08 => {
                let path = block.name(scope)?;
                let value = block.value(scope, depth)?;
                self.values.push((text(&path), value));
            }
            0x10 => self.scope(block.package()?, scope, depth),
            // Methods, and what is conditional.
            0x14 | 0xa0 | 0xa1 | 0xa2 => {
                block.package()?;
            }
            0x15 => {
                block.name(scope)?;
                block.skip(2)?;
            }
            // Fields of buffers.
            0x8a | 0x8b | 0x8c | 0x8d | 0x8f => {
                block.arguments(2, scope)?;
                block.name(scope)?;
            }
            // Does nothing.
            0xa3 => {}
            0x5b => self.extended(block, scope, depth)?,
            _ => return None,
        }
        Some(())
    }

    fn extended(&mut self, block: &mut Reader<'_>, scope: &[String], depth: usize) -> Option<()> {
        match block.byte()? {
            0x01 => {
                block.name(scope)?;
                block.skip(1)?;
            }
            0x02 => {
                block.name(scope)?;
            }
            0x13 => {
                block.arguments(3, scope)?;
                block.name(scope)?;
            }
            0x80 => {
                block.name(scope)?;
                block.skip(1)?;
                block.arguments(2, scope)?;
            }
            0x81 | 0x86 | 0x87 => {
                block.package()?;
            }
            0x82 => self.device(block.package()?, scope, depth),
            // Processors, power resources and thermal zones have some bytes behind the name.
            0x83 => self.named(block.package()?, scope, depth, 6),
            0x84 => self.named(block.package()?, scope, depth, 3),
            0x85 => self.named(block.package()?, scope, depth, 0),
            0x88 => {
                block.name(scope)?;
                block.arguments(3, scope)?;
            }
            _ => return None,
        }
        Some(())
    }

    fn scope(&mut self, block: Reader<'_>, scope: &[String], depth: usize) {
        self.named(block, scope, depth, 0);
    }

    fn device(&mut self, block: Reader<'_>, scope: &[String], depth: usize) {
        let mut ahead = Reader(block.0);
        self.devices
            .extend(ahead.name(scope).map(|path| text(&path)));
        self.named(block, scope, depth, 0);
    }

    /// A block that begins with its name, and `skip` bytes behind it.
    fn named(&mut self, mut block: Reader<'_>, scope: &[String], depth: usize, skip: usize) {
        match block.name(scope).filter(|_| block.skip(skip).is_some()) {
            Some(path) => self.block(block, &path, depth + 1),
            None => self.broken += 1,
        }
    }
}

/// What is left of a program.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(drop)
    }

    /// A block: its length counts the bytes that it is written in.
    fn package(&mut self) -> Option<Reader<'a>> {
        let before = self.0.len();
        let first = self.byte()?;
        let more = usize::from(first >> 6);
        let mut length = usize::from(if more == 0 { first & 0x3f } else { first & 0xf });
        for index in 0..more {
            length |= usize::from(self.byte()?) << (4 + 8 * index);
        }
        let used = before - self.0.len();
        self.take(length.checked_sub(used)?).map(Reader)
    }

    /// A name, as a path from the root.
    fn name(&mut self, scope: &[String]) -> Option<Path> {
        let mut path: Path = scope.to_vec();
        let mut first = self.byte()?;
        if first == b'\\' {
            path.clear();
            first = self.byte()?;
        }
        while first == b'^' {
            path.pop();
            first = self.byte()?;
        }
        let count = match first {
            0x00 => return Some(path),
            0x2e => 2,
            0x2f => usize::from(self.byte()?),
            _ => {
                path.push(segment(first, self.take(3)?)?);
                return Some(path);
            }
        };
        for _ in 0..count {
            let first = self.byte()?;
            path.push(segment(first, self.take(3)?)?);
        }
        Some(path)
    }

    /// A constant, or something that is passed over.
    fn value(&mut self, scope: &[String], depth: usize) -> Option<Value> {
        let first = *self.0.first()?;
        if is_name(first) {
            self.name(scope)?;
            return Some(Value::Other);
        }
        self.skip(1)?;
        Some(match first {
            0x00 => Value::Number(0),
            0x01 => Value::Number(1),
            0xff => Value::Number(u64::MAX),
            0x0a => self.number(1)?,
            0x0b => self.number(2)?,
            0x0c => self.number(4)?,
            0x0e => self.number(8)?,
            0x0d => {
                let length = self.0.iter().position(|&byte| byte == 0)?;
                let bytes = self.take(length)?;
                self.skip(1)?;
                Value::Text(String::from_utf8_lossy(bytes).into_owned())
            }
            0x11 | 0x13 => {
                self.package()?;
                Value::Other
            }
            0x12 => self.package()?.elements(scope, depth)?,
            // The interpreter's revision.
            0x5b => {
                self.skip(1)?;
                Value::Other
            }
            _ => return None,
        })
    }

    fn elements(mut self, scope: &[String], depth: usize) -> Option<Value> {
        self.skip(1)?;
        let mut elements = Vec::new();
        // What cannot be read ends the list; the block's length leads on.
        while !self.0.is_empty() && elements.len() < MOST_ELEMENTS && depth < DEEPEST {
            let Some(value) = self.value(scope, depth + 1) else {
                break;
            };
            elements.push(Some(value).filter(|value| *value != Value::Other));
        }
        Some(Value::Package(elements))
    }

    fn number(&mut self, count: usize) -> Option<Value> {
        let bytes = self.take(count)?.iter().rev();
        let number = bytes.fold(0, |number, &byte| number << 8 | u64::from(byte));
        Some(Value::Number(number))
    }

    /// Arguments that are constants, names, or variables of a method.
    fn arguments(&mut self, count: usize, scope: &[String]) -> Option<()> {
        for _ in 0..count {
            if matches!(self.0.first()?, 0x60..=0x6e) {
                self.skip(1)?;
            } else {
                self.value(scope, 0)?;
            }
        }
        Some(())
    }
}

fn is_name(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'_' | b'\\' | b'^' | 0x2e | 0x2f)
}

fn segment(first: u8, rest: &[u8]) -> Option<String> {
    let good = matches!(first, b'A'..=b'Z' | b'_')
        && rest
            .iter()
            .all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
    let bytes = std::iter::once(first).chain(rest.iter().copied());
    good.then(|| bytes.map(char::from).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `Scope (\_SB) { Device (PCI0) { Name (_HID, EisaId ("PNP0A08")) Name (_UID, 1) } }`, a method, and
    /// `Name (_S5, Package { 5, 6 })`.
    pub(crate) const PROGRAM: &[u8] = &[
        0x10, 0x1e, b'\\', b'_', b'S', b'B', b'_', 0x5b, 0x82, 0x16, b'P', b'C', b'I', b'0', 0x08,
        b'_', b'H', b'I', b'D', 0x0c, 0x41, 0xd0, 0x0a, 0x08, 0x08, b'_', b'U', b'I', b'D', 0x0a,
        0x01, 0x14, 0x08, b'M', b'E', b'T', b'H', 0x00, 0xa4, 0x00, 0x08, b'_', b'S', b'5', b'_',
        0x12, 0x06, 0x02, 0x0a, 0x05, 0x0a, 0x06,
    ];

    #[test]
    fn devices_and_constants_are_found_by_their_paths() {
        let found = declarations(PROGRAM);
        assert_eq!(found.broken, 0);
        assert_eq!(found.devices, [r"\_SB_.PCI0"]);
        let hid = (r"\_SB_.PCI0._HID".to_owned(), Value::Number(0x080a_d041));
        assert!(found.values.contains(&hid), "{found:?}");
        let numbers = [5, 6].map(|number| Some(Value::Number(number)));
        let sleep = (r"\_S5_".to_owned(), Value::Package(numbers.to_vec()));
        assert!(found.values.contains(&sleep), "{found:?}");
    }

    #[test]
    fn what_cannot_be_read_costs_its_block() {
        let mut program = PROGRAM.to_vec();
        // An operator where a declaration should be.
        program[24] = 0x72;
        let found = declarations(&program);
        assert_eq!((found.broken, found.devices.len()), (1, 1));
        assert_eq!(found.values.last().unwrap().0, r"\_S5_");
        for length in 0..PROGRAM.len() {
            declarations(&PROGRAM[..length]);
        }
    }

    #[test]
    fn blocks_inside_of_blocks_end_somewhere() {
        let mut program = Vec::new();
        for _ in 0..200 {
            let length = u16::try_from(program.len() + 8).unwrap();
            let coded = [0x40 | (length & 0xf) as u8, (length >> 4) as u8];
            let front = [&[0x10][..], &coded, b"\\ABCD"].concat();
            program = [front, program].concat();
        }
        assert!(declarations(&program).broken > 0);
    }
}
