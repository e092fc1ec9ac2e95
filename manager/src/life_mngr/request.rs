//! What is said on the control socket: one request, one reply.

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// All User VMs and then this machine switched off; in a User VM, the Service VM is asked.
    Shutdown,
    /// All User VMs switched off and this machine started anew, likewise.
    Reboot,
    /// One User VM switched off.
    ShutdownVm(String),
    /// One User VM started anew.
    RebootVm(String),
    /// All User VMs switched off, this machine not. ACRN has no such request.
    ShutdownGuests,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Everything will be switched off.
    Shutdown,
    /// Everything will be started anew.
    Reboot,
    /// The User VM was told to.
    ShutdownVm,
    /// The User VM was told to.
    RebootVm,
    /// All User VMs are off.
    GuestsOff,
    /// Some are not, and time is up.
    GuestsRun,
    /// No such User VM is connected; in a User VM, the Service VM does not answer.
    Disconnected,
    /// Everything is ending already.
    Ending,
    /// The request is not one of these, or not for this side.
    Unknown,
}

impl Request {
    /// Reads a request.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        Some(match text.split_once(':') {
            Some(("user_vm_shutdown", name)) => Self::ShutdownVm(name.to_owned()),
            Some(("user_vm_reboot", name)) => Self::RebootVm(name.to_owned()),
            Some(_) => return None,
            None => match text {
                "req_sys_shutdown" => Self::Shutdown,
                "req_sys_reboot" => Self::Reboot,
                "guests_shutdown" => Self::ShutdownGuests,
                _ => return None,
            },
        })
    }
}

impl Reply {
    /// Its text; that of a success begins with `ack_`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Shutdown => "ack_req_sys_shutdown",
            Self::Reboot => "ack_req_sys_reboot",
            Self::ShutdownVm => "ack_req_user_vm_shutdown",
            Self::RebootVm => "ack_req_user_vm_reboot",
            Self::GuestsOff => "ack_guests_shutdown",
            Self::GuestsRun => "guests_still_run",
            Self::Disconnected => "user_vm_disconnect",
            Self::Ending => "already_ending",
            Self::Unknown => "unknown_request",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_acrns_and_one_more() {
        assert_eq!(
            Request::parse("req_sys_shutdown\0"),
            Some(Request::Shutdown)
        );
        let one = Request::ShutdownVm("POST_STD_VM1".into());
        assert_eq!(Request::parse("user_vm_shutdown:POST_STD_VM1\n"), Some(one));
        let reboot = Request::RebootVm("a".into());
        assert_eq!(Request::parse("user_vm_reboot:a"), Some(reboot));
        assert_eq!(
            Request::parse("guests_shutdown"),
            Some(Request::ShutdownGuests)
        );
        assert_eq!(Request::parse("poweroff_cmd"), None);
        assert_eq!(Request::parse("user_vm_explode:a"), None);
    }
}
