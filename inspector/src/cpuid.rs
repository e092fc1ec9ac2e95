//! CPUID: the processor's, or what was recorded of one.

use std::collections::BTreeMap;

/// EAX, EBX, ECX and EDX.
pub type Registers = [u32; 4];

/// Where CPUID's answers come from.
#[derive(Clone, Debug)]
pub enum Cpuid {
    /// The processor that this runs on.
    Processor,
    /// A recording: answers by leaf and subleaf.
    Recording(BTreeMap<(u32, u32), Registers>),
}

impl Cpuid {
    /// Reads a recording: lines of six hexadecimal numbers, leaf, subleaf and the four registers. Lines
    /// of another form are passed over.
    pub fn recording(text: &str) -> Self {
        let line = |line: &str| {
            let words = line.split_whitespace();
            let numbers = words.map(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16));
            let [leaf, sub, a, b, c, d] = numbers.collect::<Result<Vec<_>, _>>().ok()?[..] else {
                return None;
            };
            Some(((leaf, sub), [a, b, c, d]))
        };
        Self::Recording(text.lines().filter_map(line).collect())
    }

    /// The answer to a leaf; zeros for what the processor does not have.
    pub fn leaf(&self, leaf: u32, sub: u32) -> Registers {
        match self {
            Self::Processor if leaf & 0x7fff_ffff > self.last(leaf) & 0x7fff_ffff => [0; 4],
            Self::Processor => processor(leaf, sub),
            Self::Recording(answers) => answers.get(&(leaf, sub)).copied().unwrap_or_default(),
        }
    }

    /// The last leaf of the range that a leaf is in.
    fn last(&self, leaf: u32) -> u32 {
        let [last, ..] = processor(leaf & 0x8000_0000, 0);
        last
    }

    /// Vendor, such as `GenuineIntel`.
    pub fn vendor(&self) -> String {
        let [_, b, c, d] = self.leaf(0, 0);
        text(&[b, d, c])
    }

    /// What the processor calls itself.
    pub fn brand(&self) -> String {
        let words: Vec<u32> = (0x8000_0002..=0x8000_0004)
            .flat_map(|leaf| self.leaf(leaf, 0))
            .collect();
        text(&words)
    }

    /// Family, model and stepping.
    pub fn signature(&self) -> (u32, u32, u32) {
        let [eax, ..] = self.leaf(1, 0);
        let (base, extended) = (eax >> 8 & 0xf, eax >> 20 & 0xff);
        let family = if base == 0xf { base + extended } else { base };
        let high = if base == 0xf || base == 6 {
            eax >> 16 & 0xf
        } else {
            0
        };
        (family, high << 4 | eax >> 4 & 0xf, eax & 0xf)
    }

    /// Whether a bit of an answer is set; the register is 0 for EAX to 3 for EDX.
    pub fn has(&self, leaf: u32, sub: u32, register: usize, bit: u32) -> bool {
        let value = self.leaf(leaf, sub).get(register).copied().unwrap_or(0);
        value.checked_shr(bit).is_some_and(|value| value & 1 == 1)
    }

    /// Bits of a physical address.
    pub fn physical_bits(&self) -> u32 {
        let [eax, ..] = self.leaf(0x8000_0008, 0);
        eax & 0xff
    }
}

fn processor(leaf: u32, sub: u32) -> Registers {
    let answer = raw_cpuid::native_cpuid::cpuid_count(leaf, sub);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    let printable = bytes.filter(|byte| (b' '..=b'~').contains(byte));
    let text: String = printable.map(char::from).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_read_and_what_it_lacks_is_zero() {
        let text = "00000000 0 10 756e6547 6c65746e 49656e69\n1 0 000906a3 0 80000000 0\nnonsense\n1 2 3\n";
        let cpuid = Cpuid::recording(text);
        assert_eq!(cpuid.vendor(), "GenuineIntel");
        assert_eq!(cpuid.signature(), (6, 0x9a, 3));
        assert!(cpuid.has(1, 0, 2, 31) && !cpuid.has(1, 0, 2, 5));
        assert!(!cpuid.has(1, 0, 9, 5) && !cpuid.has(1, 0, 2, 99));
        assert_eq!((cpuid.brand().as_str(), cpuid.physical_bits()), ("", 0));
    }

    #[test]
    fn the_processor_answers() {
        let cpuid = Cpuid::Processor;
        assert_eq!(cpuid.vendor().len(), 12);
        assert_eq!(cpuid.leaf(0x4fff_ffff, 0), [0; 4]);
        assert!(cpuid.physical_bits() >= 36);
    }
}
