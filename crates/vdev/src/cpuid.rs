//! CPUID as guests see it: an allow-list over the processor's answer, ACRN's leaves, the vCPU's own
//! numbers. A bit or leaf that is not named here reads as zero.

use acrn_abi::cpuid as abi;
use core::arch::x86_64::CpuidResult;

/// The vCPU that asks.
pub trait Guest {
    /// What the processor itself says.
    fn host(&self, leaf: u32, subleaf: u32) -> CpuidResult;
    /// Identity of its local APIC, as x2APIC mode has it.
    fn apic_id(&self) -> u32;
    /// vCPUs of its VM.
    fn cpus(&self) -> u32;
    /// CR4.
    fn cr4(&self) -> u64;
    /// It has the processor's local APIC to itself, or will have it.
    fn owns_apic(&self) -> bool;
    /// It is one of the Service VM's.
    fn is_service(&self) -> bool;
    /// Rate of its TSC.
    fn tsc_khz(&self) -> u32;
}

/// XCR0 as far as guests may set it: x87, SSE, AVX, AVX-512, PKRU.
pub const XCR0_ALLOWED: u64 = 0b10_1110_0111;

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// Leaf 1 ECX: SSE3 to SSE4.2, FMA, CX16, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
const FEATURES_ECX: u32 = 1 << 0
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 1 << 28
    | 1 << 29
    | 1 << 30;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 EDX: all but machine check, debug store, thermal control and the pending break.
const FEATURES_EDX: u32 = !(1 << 7
    | 1 << 14
    | 1 << 18
    | 1 << 21
    | 1 << 22
    | 1 << 27
    | 1 << 28
    | 1 << 29
    | 1 << 30
    | 1 << 31);
/// Leaf 7 EBX: FSGSBASE, BMI, AVX2, SMEP, ERMS, INVPCID, AVX-512, RDSEED, ADX, SMAP, CLFLUSHOPT,
/// CLWB, SHA.
const EXTENDED_EBX: u32 = 1 << 0
    | 1 << 3
    | 1 << 5
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 16
    | 1 << 17
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 21
    | 1 << 23
    | 1 << 24
    | 1 << 28
    | 1 << 29
    | 1 << 30
    | 1 << 31;
/// Leaf 7 EBX: TSC_ADJUST, which the hypervisor emulates.
const TSC_ADJUST: u32 = 1 << 1;
/// Leaf 7 ECX: AVX-512 VBMI, UMIP, PKU, vector AES and more, RDPID.
const EXTENDED_ECX: u32 = 1 << 1
    | 1 << 2
    | 1 << 3
    | 1 << 6
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 14
    | 1 << 22;
const OSPKE: u32 = 1 << 4;
/// Leaf 7 EDX: fast short REP MOV.
const EXTENDED_EDX: u32 = 1 << 4;
/// Leaf 0x80000001 ECX: LAHF, ABM, SSE4A, misaligned SSE, prefetch.
const AMD_ECX: u32 = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 0x80000001 EDX: the copies of leaf 1, SYSCALL, NX, MMX extensions, 1 GiB pages, RDTSCP,
/// long mode.
const AMD_EDX: u32 = FEATURES_EDX & 0x0183_f3ff & !(1 << 7 | 1 << 14)
    | 1 << 11
    | 1 << 20
    | 1 << 22
    | 1 << 26
    | 1 << 27
    | 1 << 29;

const MAX_BASIC: u32 = 0xd;
const MAX_EXTENDED: u32 = 0x8000_0008;

const NOTHING: CpuidResult = CpuidResult {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

/// What the guest reads.
#[inline]
pub fn answer(guest: &impl Guest, leaf: u32, subleaf: u32) -> CpuidResult {
    match leaf {
        0 => CpuidResult {
            eax: guest.host(0, 0).eax.min(MAX_BASIC),
            ..guest.host(0, 0)
        },
        1 => features(guest),
        2 | 4 => guest.host(leaf, subleaf),
        // Of thermal and power management only: the APIC timer runs in every C state.
        6 => CpuidResult {
            eax: 1 << 2,
            ..NOTHING
        },
        7 => extended_features(guest, subleaf),
        0xb => topology(guest, subleaf),
        0xd => extended_state(guest, subleaf),
        abi::LEAF_SIGNATURE..=0x4000_00ff => hypervisor(guest, leaf),
        abi::LEAF_KVM_SIGNATURE if guest.owns_apic() => {
            let [ebx, ecx, edx] = abi::KVM_SIGNATURE;
            let eax = abi::LEAF_KVM_MAX;
            CpuidResult { eax, ebx, ecx, edx }
        }
        0x8000_0000 => {
            let r = guest.host(leaf, 0);
            CpuidResult {
                eax: r.eax.min(MAX_EXTENDED),
                ..r
            }
        }
        0x8000_0001 => {
            let r = guest.host(leaf, 0);
            CpuidResult {
                ecx: r.ecx & AMD_ECX,
                edx: r.edx & AMD_EDX,
                ..r
            }
        }
        0x8000_0002..=0x8000_0006 => guest.host(leaf, 0),
        // Invariant TSC.
        0x8000_0007 => CpuidResult {
            edx: guest.host(leaf, 0).edx & 1 << 8,
            ..NOTHING
        },
        0x8000_0008 => {
            let cores = guest.cpus();
            CpuidResult {
                eax: guest.host(leaf, 0).eax & 0xffff,
                ecx: cores - 1,
                ..NOTHING
            }
        }
        _ => NOTHING,
    }
}

fn features(guest: &impl Guest) -> CpuidResult {
    let host = guest.host(1, 0);
    let count = guest.cpus();
    let mut ecx = host.ecx & FEATURES_ECX | X2APIC | TSC_DEADLINE | abi::HYPERVISOR_PRESENT;
    if guest.cr4() & CR4_OSXSAVE != 0 {
        ecx |= OSXSAVE;
    }
    let threads = if count > 1 { 1 << 28 } else { 0 };
    CpuidResult {
        eax: host.eax,
        ebx: host.ebx & 0xff00 | (guest.apic_id() & 0xff) << 24 | count << 16,
        ecx,
        edx: host.edx & FEATURES_EDX | threads,
    }
}

fn extended_features(guest: &impl Guest, subleaf: u32) -> CpuidResult {
    if subleaf != 0 {
        return NOTHING;
    }
    // Linux reads the MSR each second, which would be an exit where there is no other.
    let tsc_adjust = match guest.owns_apic() {
        true => 0,
        false => TSC_ADJUST,
    };
    let host = guest.host(7, 0);
    let mut ecx = host.ecx & EXTENDED_ECX;
    if ecx & 1 << 3 != 0 && guest.cr4() & CR4_PKE != 0 {
        ecx |= OSPKE;
    }
    CpuidResult {
        eax: 0,
        ebx: host.ebx & EXTENDED_EBX | tsc_adjust,
        ecx,
        edx: host.edx & EXTENDED_EDX,
    }
}

/// One thread a core, all cores in one package.
fn topology(guest: &impl Guest, subleaf: u32) -> CpuidResult {
    let id = guest.apic_id();
    let count = guest.cpus();
    let bits = u32::BITS - count.saturating_sub(1).leading_zeros();
    match subleaf {
        0 => CpuidResult {
            eax: 0,
            ebx: 1,
            ecx: 0x100,
            edx: id,
        },
        1 => CpuidResult {
            eax: bits,
            ebx: count,
            ecx: 0x201,
            edx: id,
        },
        _ => CpuidResult {
            ecx: subleaf & 0xff,
            edx: id,
            ..NOTHING
        },
    }
}

fn extended_state(guest: &impl Guest, subleaf: u32) -> CpuidResult {
    let host = guest.host(0xd, subleaf);
    let allowed = XCR0_ALLOWED;
    match subleaf {
        0 => CpuidResult {
            eax: host.eax & allowed as u32,
            edx: 0,
            ..host
        },
        // XSAVEOPT, XSAVEC and XGETBV with ECX = 1; no supervisor state. The size is that of what
        // XCR0 has in the compacted format.
        1 => CpuidResult {
            eax: host.eax & 7,
            ebx: if host.eax & 1 << 1 != 0 { host.ebx } else { 0 },
            ecx: 0,
            edx: 0,
        },
        2..=63 if allowed >> subleaf & 1 != 0 => host,
        _ => NOTHING,
    }
}

/// ACRN's own leaves. The rate of the TSC replaces all calibration in the guest.
fn hypervisor(guest: &impl Guest, leaf: u32) -> CpuidResult {
    match leaf {
        abi::LEAF_SIGNATURE => CpuidResult {
            eax: abi::LEAF_MAX,
            ebx: abi::SIGNATURE_REGISTER,
            ecx: abi::SIGNATURE_REGISTER,
            edx: abi::SIGNATURE_REGISTER,
        },
        abi::LEAF_FEATURES => {
            let eax = match guest.is_service() {
                true => abi::CAP_PRIVILEGED,
                false => 0,
            };
            CpuidResult { eax, ..NOTHING }
        }
        abi::LEAF_TIMING => CpuidResult {
            eax: guest.tsc_khz(),
            ..NOTHING
        },
        _ => NOTHING,
    }
}

#[cfg(test)]
mod tests;
