//! Exit codes of acrn-dm. Scripts may rely on them; new ones are added, none change.

/// How acrn-dm ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest powered off, or was asked to and did.
    Success = 0,
    /// The Device Model itself failed; the message says how.
    Internal = 1,
    /// An option is unknown, lacks its value or has a wrong one.
    Usage = 2,
    /// An option of ACRN that this Device Model does not support.
    Unsupported = 3,
    /// The configuration file cannot be read or says something wrong.
    ConfigFile = 4,
    /// The kernel or ELF file cannot be opened (the number is ACRN's).
    KernelMissing = 10,
    /// The initial RAM disk cannot be opened (the number is ACRN's).
    RamdiskMissing = 11,
    /// The kernel or ELF file is not one that can be started.
    KernelBad = 12,
    /// Kernel, RAM disk or command line do not fit into the guest's memory.
    DoesNotFit = 13,
    /// There is no `/dev/acrn_hsm`.
    NoHsm = 20,
    /// `/dev/acrn_hsm` may not be opened by this user.
    NoPermission = 21,
    /// The Service VM has too little memory.
    NoMemory = 22,
    /// A VM of this name runs already.
    NameInUse = 23,
    /// A virtual device or its back end cannot be set up.
    Device = 24,
    /// The hypervisor refused to create or start the VM.
    Hypervisor = 25,
    /// The guest did not react to the power button and was switched off.
    Forced = 30,
    /// First code of those that a guest chooses through the debug-exit port, as
    /// `value << 1 | 1`, when started with `--debugexit`.
    DebugExit = 33,
}

impl ExitCode {
    /// The number for the operating system.
    pub const fn number(self) -> i32 {
        self as i32
    }
}
