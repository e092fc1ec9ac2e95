//! Where this program runs, by the hypervisor's CPUID leaves.

use std::arch::x86_64::__cpuid;
use std::fmt;

/// The four set-ups that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// No hypervisor, or one that only emulates.
    Bare,
    /// The Service VM of ACRN.
    Service,
    /// Another VM of ACRN.
    User,
    /// A guest of KVM.
    Kvm,
}

const SIGNATURE_LEAF: u32 = 0x4000_0000;

impl Place {
    /// Asks the processor.
    pub fn find() -> Self {
        let leaf = __cpuid(SIGNATURE_LEAF);
        let mut signature = [0_u8; 12];
        for (bytes, word) in signature
            .chunks_exact_mut(4)
            .zip([leaf.ebx, leaf.ecx, leaf.edx])
        {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        match &signature {
            b"ACRNACRNACRN" if __cpuid(SIGNATURE_LEAF + 1).eax & 1 != 0 => Self::Service,
            b"ACRNACRNACRN" => Self::User,
            b"KVMKVMKVM\0\0\0" => Self::Kvm,
            _ => Self::Bare,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "bare",
            Self::Service => "service",
            Self::User => "user",
            Self::Kvm => "kvm",
        })
    }
}
