//! Encodings of VMCS fields (SDM volume 3D, appendix B).

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// A field of the VMCS. Bits 14:13 of the encoding are its width, 11:10 its kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[allow(missing_docs)]
        pub enum Field {
            $($(#[$doc])* $name = $value,)*
        }

        impl Field {
            /// Every field that is known here.
            pub const ALL: &[Field] = &[$(Field::$name),*];
        }
    };
}

fields! {
    // 16 bits, control.
    Vpid = 0x0000,
    PostedInterruptVector = 0x0002,
    // 16 bits, guest.
    GuestEsSelector = 0x0800,
    GuestCsSelector = 0x0802,
    GuestSsSelector = 0x0804,
    GuestDsSelector = 0x0806,
    GuestFsSelector = 0x0808,
    GuestGsSelector = 0x080a,
    GuestLdtrSelector = 0x080c,
    GuestTrSelector = 0x080e,
    GuestInterruptStatus = 0x0810,
    // 16 bits, host.
    HostEsSelector = 0x0c00,
    HostCsSelector = 0x0c02,
    HostSsSelector = 0x0c04,
    HostDsSelector = 0x0c06,
    HostFsSelector = 0x0c08,
    HostGsSelector = 0x0c0a,
    HostTrSelector = 0x0c0c,
    // 64 bits, control.
    IoBitmapA = 0x2000,
    IoBitmapB = 0x2002,
    MsrBitmap = 0x2004,
    ExitMsrStoreAddress = 0x2006,
    ExitMsrLoadAddress = 0x2008,
    EntryMsrLoadAddress = 0x200a,
    PmlAddress = 0x200e,
    TscOffset = 0x2010,
    VirtualApicAddress = 0x2012,
    ApicAccessAddress = 0x2014,
    PostedInterruptDescriptor = 0x2016,
    VmFunctionControls = 0x2018,
    EptPointer = 0x201a,
    EoiExitBitmap0 = 0x201c,
    EoiExitBitmap1 = 0x201e,
    EoiExitBitmap2 = 0x2020,
    EoiExitBitmap3 = 0x2022,
    EptpListAddress = 0x2024,
    VmreadBitmap = 0x2026,
    VmwriteBitmap = 0x2028,
    VeInformationAddress = 0x202a,
    TscMultiplier = 0x2032,
    // 64 bits, read-only data.
    GuestPhysicalAddress = 0x2400,
    // 64 bits, guest.
    VmcsLinkPointer = 0x2800,
    GuestDebugControl = 0x2802,
    GuestPat = 0x2804,
    GuestEfer = 0x2806,
    GuestPerfGlobal = 0x2808,
    GuestPdpte0 = 0x280a,
    GuestPdpte1 = 0x280c,
    GuestPdpte2 = 0x280e,
    GuestPdpte3 = 0x2810,
    GuestBndcfgs = 0x2812,
    // 64 bits, host.
    HostPat = 0x2c00,
    HostEfer = 0x2c02,
    HostPerfGlobal = 0x2c04,
    // 32 bits, control.
    PinControls = 0x4000,
    PrimaryControls = 0x4002,
    ExceptionBitmap = 0x4004,
    PageFaultMask = 0x4006,
    PageFaultMatch = 0x4008,
    Cr3TargetCount = 0x400a,
    ExitControls = 0x400c,
    ExitMsrStoreCount = 0x400e,
    ExitMsrLoadCount = 0x4010,
    EntryControls = 0x4012,
    EntryMsrLoadCount = 0x4014,
    EntryInterruptionInfo = 0x4016,
    EntryExceptionErrorCode = 0x4018,
    EntryInstructionLength = 0x401a,
    TprThreshold = 0x401c,
    SecondaryControls = 0x401e,
    PleGap = 0x4020,
    PleWindow = 0x4022,
    // 32 bits, read-only data.
    InstructionError = 0x4400,
    ExitReason = 0x4402,
    ExitInterruptionInfo = 0x4404,
    ExitInterruptionErrorCode = 0x4406,
    IdtVectoringInfo = 0x4408,
    IdtVectoringErrorCode = 0x440a,
    ExitInstructionLength = 0x440c,
    ExitInstructionInfo = 0x440e,
    // 32 bits, guest.
    GuestEsLimit = 0x4800,
    GuestCsLimit = 0x4802,
    GuestSsLimit = 0x4804,
    GuestDsLimit = 0x4806,
    GuestFsLimit = 0x4808,
    GuestGsLimit = 0x480a,
    GuestLdtrLimit = 0x480c,
    GuestTrLimit = 0x480e,
    GuestGdtrLimit = 0x4810,
    GuestIdtrLimit = 0x4812,
    GuestEsAccess = 0x4814,
    GuestCsAccess = 0x4816,
    GuestSsAccess = 0x4818,
    GuestDsAccess = 0x481a,
    GuestFsAccess = 0x481c,
    GuestGsAccess = 0x481e,
    GuestLdtrAccess = 0x4820,
    GuestTrAccess = 0x4822,
    GuestInterruptibility = 0x4824,
    GuestActivity = 0x4826,
    GuestSmbase = 0x4828,
    GuestSysenterCs = 0x482a,
    PreemptionTimer = 0x482e,
    // 32 bits, host.
    HostSysenterCs = 0x4c00,
    // Natural width, control.
    Cr0Mask = 0x6000,
    Cr4Mask = 0x6002,
    Cr0Shadow = 0x6004,
    Cr4Shadow = 0x6006,
    // Natural width, read-only data.
    ExitQualification = 0x6400,
    GuestLinearAddress = 0x640a,
    // Natural width, guest.
    GuestCr0 = 0x6800,
    GuestCr3 = 0x6802,
    GuestCr4 = 0x6804,
    GuestEsBase = 0x6806,
    GuestCsBase = 0x6808,
    GuestSsBase = 0x680a,
    GuestDsBase = 0x680c,
    GuestFsBase = 0x680e,
    GuestGsBase = 0x6810,
    GuestLdtrBase = 0x6812,
    GuestTrBase = 0x6814,
    GuestGdtrBase = 0x6816,
    GuestIdtrBase = 0x6818,
    GuestDr7 = 0x681a,
    GuestRsp = 0x681c,
    GuestRip = 0x681e,
    GuestRflags = 0x6820,
    GuestPendingDebug = 0x6822,
    GuestSysenterEsp = 0x6824,
    GuestSysenterEip = 0x6826,
    // Natural width, host.
    HostCr0 = 0x6c00,
    HostCr3 = 0x6c02,
    HostCr4 = 0x6c04,
    HostFsBase = 0x6c06,
    HostGsBase = 0x6c08,
    HostTrBase = 0x6c0a,
    HostGdtrBase = 0x6c0c,
    HostIdtrBase = 0x6c0e,
    HostSysenterEsp = 0x6c10,
    HostSysenterEip = 0x6c12,
    HostRsp = 0x6c14,
    HostRip = 0x6c16,
}

impl Field {
    /// Width in bits: 16, 32 or 64 (natural width on a 64-bit processor).
    pub const fn width(self) -> u32 {
        match (self as u32) >> 13 & 3 {
            0 => 16,
            2 => 32,
            _ => 64,
        }
    }

    /// The fields of a segment register by its number: ES, CS, SS, DS, FS, GS, LDTR, TR. Selector,
    /// base, limit, access rights.
    #[inline]
    pub const fn segment(number: usize) -> [Field; 4] {
        use Field::*;
        const TABLE: [[Field; 4]; 8] = [
            [GuestEsSelector, GuestEsBase, GuestEsLimit, GuestEsAccess],
            [GuestCsSelector, GuestCsBase, GuestCsLimit, GuestCsAccess],
            [GuestSsSelector, GuestSsBase, GuestSsLimit, GuestSsAccess],
            [GuestDsSelector, GuestDsBase, GuestDsLimit, GuestDsAccess],
            [GuestFsSelector, GuestFsBase, GuestFsLimit, GuestFsAccess],
            [GuestGsSelector, GuestGsBase, GuestGsLimit, GuestGsAccess],
            [
                GuestLdtrSelector,
                GuestLdtrBase,
                GuestLdtrLimit,
                GuestLdtrAccess,
            ],
            [GuestTrSelector, GuestTrBase, GuestTrLimit, GuestTrAccess],
        ];
        TABLE[number & 7]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_follow_from_the_encoding() {
        assert_eq!(Field::Vpid.width(), 16);
        assert_eq!(Field::EptPointer.width(), 64);
        assert_eq!(Field::ExitReason.width(), 32);
        assert_eq!(Field::GuestRip.width(), 64);
    }

    #[test]
    fn no_encoding_is_used_twice() {
        let mut seen: Vec<u32> = Field::ALL.iter().map(|f| *f as u32).collect();
        seen.sort_unstable();
        let count = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), count);
        assert!(seen.iter().all(|e| e & 1 == 0), "full accesses only");
    }

    #[test]
    fn the_fields_of_a_segment_belong_together() {
        for number in 0..8 {
            let [selector, base, limit, access] = Field::segment(number).map(|f| f as u32);
            let step = number as u32 * 2;
            assert_eq!(selector, 0x800 + step);
            assert_eq!(base, 0x6806 + step);
            assert_eq!(limit, 0x4800 + step);
            assert_eq!(access, 0x4814 + step);
        }
    }
}
