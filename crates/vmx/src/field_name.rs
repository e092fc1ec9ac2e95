//! Names of fields for people, made of the names in the code: `GuestCsAccess` is "guest CS access
//! rights".

use crate::Field;
use core::fmt::{self, Write as _};

/// Words that are not said as they are written in the code.
const WORDS: &[(&str, &str)] = &[
    ("A", "A"),
    ("B", "B"),
    ("Bndcfgs", "IA32_BNDCFGS"),
    ("Efer", "IA32_EFER"),
    ("Eptp", "EPTP"),
    ("Io", "I/O"),
    ("Pat", "IA32_PAT"),
    ("Sysenter", "IA32_SYSENTER"),
];

/// Registers and abbreviations: capitals, with a number or without.
const CAPITALS: &[&str] = &[
    "Apic", "Cr", "Cs", "Dr", "Ds", "Eip", "Eoi", "Ept", "Es", "Esp", "Fs", "Gdtr", "Gs", "Idtr",
    "Ldtr", "Msr", "Pdpte", "Ple", "Pml", "Rflags", "Rip", "Rsp", "Ss", "Tpr", "Tr", "Tsc", "Ve",
    "Vm", "Vmcs", "Vmread", "Vmwrite", "Vpid",
];

fn is_capitals(word: &str) -> bool {
    CAPITALS.contains(&word.trim_end_matches(|c: char| c.is_ascii_digit()))
}

/// A name as the code has it, split before each capital.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let mut capitals = self.0.match_indices(|c: char| c.is_ascii_uppercase());
        let (start, _) = capitals.next()?;
        let end = capitals.next().map_or(self.0.len(), |(at, _)| at);
        let word = self.0.get(start..end)?;
        self.0 = self.0.get(end..)?;
        Some(word)
    }
}

/// Takes the name that `Debug` gives and writes it in words.
struct InWords<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for InWords<'_, '_> {
    fn write_str(&mut self, name: &str) -> fmt::Result {
        for (index, word) in Words(name).enumerate() {
            if index > 0 {
                self.0.write_str(" ")?;
            }
            let capitals = is_capitals(word);
            if let Some((_, said)) = WORDS.iter().find(|(code, _)| *code == word) {
                self.0.write_str(said)?;
                continue;
            }
            for letter in word.chars() {
                self.0.write_char(match capitals {
                    true => letter.to_ascii_uppercase(),
                    false => letter.to_ascii_lowercase(),
                })?;
            }
        }
        match name.ends_with("Access") {
            true => self.0.write_str(" rights"),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(InWords(f), "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_people_say_them() {
        for (field, name) in [
            (Field::GuestCsAccess, "guest CS access rights"),
            (Field::GuestRflags, "guest RFLAGS"),
            (Field::GuestPdpte2, "guest PDPTE2"),
            (Field::HostEfer, "host IA32_EFER"),
            (Field::HostSysenterEip, "host IA32_SYSENTER EIP"),
            (Field::ApicAccessAddress, "APIC access address"),
            (Field::IoBitmapA, "I/O bitmap A"),
            (Field::EptPointer, "EPT pointer"),
            (Field::Vpid, "VPID"),
            (Field::VmcsLinkPointer, "VMCS link pointer"),
            (Field::GuestCr0, "guest CR0"),
            (Field::PinControls, "pin controls"),
        ] {
            assert_eq!(field.to_string(), name);
        }
    }

    #[test]
    fn no_two_fields_have_the_same_name() {
        let mut names: Vec<String> = Field::ALL.iter().map(Field::to_string).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
