//! Giving up what a running VM does not need.
//!
//! Two things. A seccomp filter for all threads, installed once everything is open, refuses
//! system calls that a Device Model has no use for and that an intruder would like: starting
//! programs, mounting, loading kernel modules, looking into other processes. And capabilities
//! are dropped: by each thread at its start ([`spawn`]), because they cannot be taken from
//! outside, and by the main thread when it has set everything up.

// UNSAFETY: prctl and capset have no safe wrappers.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

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

/// System calls that fail with `EPERM` from now on.
const REFUSED: [libc::c_long; 42] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Whether threads drop their capabilities.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Has threads that are started from now on drop their capabilities.
pub fn announce() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Starts a thread, which first gives up what it does not need.
///
/// # Errors
/// The system has no thread left.
pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(move || {
        if WANTED.load(Ordering::Relaxed)
            && let Err(error) = drop_capabilities()
        {
            log::warn!("a thread keeps its capabilities: {error}");
        }
        body();
    })
}

/// Shuts the process in, for good.
///
/// # Errors
/// The kernel has no seccomp, or refuses.
pub fn enter() -> io::Result<()> {
    let capabilities = drop_capabilities();
    if !filter_calls()? {
        log::info!("system calls are not filtered: this kernel has no CONFIG_SECCOMP_FILTER");
    }
    capabilities
}

/// Installs the filter; false when this kernel has none.
fn filter_calls() -> io::Result<bool> {
    let rules = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        TargetArch::x86_64,
    )
    .map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    match seccompiler::apply_filter_all_threads(&program) {
        Ok(()) => Ok(true),
        // A kernel without the filter is the operator's choice, and nothing to warn of at each start.
        Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error))
            if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
        {
            Ok(false)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Drops capabilities of the calling thread and of all that it starts later.
fn drop_capabilities() -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_fails_and_the_rest_goes_on() {
        // A filter cannot be taken off again, so this is done in a process of its own.
        // SAFETY: the child only makes system calls and leaves with _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = match filter_calls() {
                Ok(true) => {
                    // SAFETY: chroot to a null path fails in any case; the error tells why.
                    let result = unsafe { libc::chroot(std::ptr::null()) };
                    let refused = result < 0
                        && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
                    i32::from(!refused)
                }
                Ok(false) | Err(_) => 2,
            };
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `status` is valid for the write.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        let code = libc::WEXITSTATUS(status);
        // 2: no seccomp here.
        assert!(libc::WIFEXITED(status) && code != 1, "{status:#x}");
    }
}
