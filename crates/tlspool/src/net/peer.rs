//! Who is at the other end of a program's connection, as the kernel says (SO_PEERCRED).

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::net::sockopt::socket_peercred;

/// The process that connected, at the time it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// Its effective group, then its supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// More supplementary groups than this do not count; the kernel's own bound is 65536.
const MAX_GROUPS: usize = 1024;

impl Peer {
    /// Asks the kernel.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> std::io::Result<Self> {
        let credentials = socket_peercred(socket)?;
        let mut groups = vec![credentials.gid.as_raw()];
        groups.extend(supplementary_groups(socket));
        Ok(Self {
            pid: credentials.pid.as_raw_nonzero().get(),
            uid: credentials.uid.as_raw(),
            groups,
        })
    }

    /// The program's file, where this process may look: its own user's programs.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} of user {}", self.pid, self.uid)
    }
}

/// SO_PEERGROUPS; none if the kernel does not say.
#[allow(unsafe_code)]
fn supplementary_groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
    // SAFETY: the option writes at most `bytes` bytes of gid_t, which is u32, to `groups`, which
    // has that many, and the number written to `bytes`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    groups.truncate(if result == 0 { bytes as usize / size_of::<u32>() } else { 0 });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_kernel_knows_us() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::of(here.as_fd()).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        let ours = rustix::process::getgroups().unwrap();
        assert!(ours.iter().all(|group| peer.groups.contains(&group.as_raw())));
        assert_eq!(peer.program(), std::env::current_exe().ok());
    }
}
