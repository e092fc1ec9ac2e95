//! Giving up privileges that a running VM does not need.

// UNSAFETY: prctl and capset have no safe wrappers.

use std::io;

/// The only capability kept: locking memory, which lending RAM to another VM amounts to.
const KEPT: u64 = 1 << 14;
const LAST_CAPABILITY: u32 = 63;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops capabilities of the calling thread and all that it starts later, for good.
///
/// # Errors
/// The kernel refuses.
pub fn drop_privileges() -> io::Result<()> {
    // SAFETY: these operations of prctl take numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    check(result)?;
    for capability in 0..=LAST_CAPABILITY {
        if KEPT >> capability & 1 == 0 {
            // SAFETY: as above. Fails for numbers that this kernel does not know, or without
            // the privilege to do it, when there is nothing to drop.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    let header = Header {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: both structures have the layout of version 3 and are valid for the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, &raw mut data) } as i32)?;
    for (index, data) in data.iter_mut().enumerate() {
        let kept = (KEPT >> (32 * index)) as u32;
        data.effective &= kept;
        data.permitted &= kept;
        data.inheritable = 0;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const data) } as i32)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
