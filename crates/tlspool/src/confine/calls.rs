//! The system calls that a confined process can make.
//!
//! Three kinds: those it needs; those that only an attacker wants, at which the process is killed; and
//! all others, which fail with ENOSYS, so that a C library that tries a newer call first falls back to
//! the older one.

use super::{Degree, Role};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What a threaded program with sockets and a clock needs.
const NEEDED: &[i64] = &[
    // bytes
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_sendfile,
    libc::SYS_splice,
    // sockets
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_connect,
    libc::SYS_socketpair,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // descriptors
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // files, as far as Landlock lets it
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_lseek,
    // memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    // threads, signals to itself, the end
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // the clock, chance, facts
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getrusage,
    libc::SYS_getrlimit,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// What the network process needs besides: it accepts programs, and SQLite writes files.
const NETWORK: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_unlinkat,
    libc::SYS_memfd_create,
];

/// What the look-up process needs besides: questions to the DNS leave from ports that nobody can guess.
/// (A socket that is bound but does not listen takes no connection.)
const LOOKUP: &[i64] = &[libc::SYS_bind];

/// Older forms of the same calls, which only some architectures have.
#[cfg(target_arch = "x86_64")]
const NEEDED_OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const NEEDED_OLD: &[i64] = &[];

/// What no part of a confined process ever does. An attempt is an attack.
const HOSTILE: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
];

/// `ioctl` on descriptors we have: non-blocking, bytes that wait, is it a terminal.
const IOCTLS: &[u64] =
    &[libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX, libc::TIOCOUTQ, libc::TCGETS];

/// `prctl` for names of threads and of memory.
const PRCTLS: &[i32] =
    &[libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA, libc::PR_GET_DUMPABLE];

fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    // The kernel looks at 32 bits of these arguments.
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    SeccompRule::new(vec![condition.map_err(|e| e.to_string())?]).map_err(|e| e.to_string())
}

/// TCP or UDP, whatever flags come with it.
fn internet_socket(family: i32, kind: i32) -> Result<SeccompRule, String> {
    let flags = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64;
    let compare = |argument, operator, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value as u64)
    };
    let of_family = compare(0, SeccompCmpOp::Eq, family);
    let of_kind = compare(1, SeccompCmpOp::MaskedEq(!flags & 0xffff_ffff), kind);
    let conditions = [of_family, of_kind].into_iter().collect::<Result<Vec<_>, _>>();
    SeccompRule::new(conditions.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}

fn needed(role: Role) -> Result<Rules, String> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let own = match role {
        Role::Network => NETWORK,
        Role::Lookup => LOOKUP,
    };
    let calls = NEEDED.iter().chain(NEEDED_OLD).chain(own);
    let mut rules: Rules = calls.map(|call| (*call, vec![])).collect();
    // Memory is never executable that was not so from the start.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_executable = when(2, MaskedEq(libc::PROT_EXEC as u64), 0)?;
        rules.insert(call, vec![not_executable]);
    }
    // Threads, no processes. (clone3 has its flags where a filter cannot look; it fails with ENOSYS and the
    // C library uses clone.)
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![when(0, MaskedEq(thread), thread)?]);
    // To the log, to the name services, to memcached; other connections of the network process come from
    // others.
    let mut sockets = vec![when(0, Eq, libc::AF_UNIX as u64)?];
    if role == Role::Lookup {
        for family in [libc::AF_INET, libc::AF_INET6] {
            for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
                sockets.push(internet_socket(family, kind)?);
            }
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    let each = |argument, values: &mut dyn Iterator<Item = u64>| {
        values.map(|value| when(argument, Eq, value)).collect::<Result<Vec<_>, _>>()
    };
    rules.insert(libc::SYS_ioctl, each(1, &mut IOCTLS.iter().copied())?);
    rules.insert(libc::SYS_prctl, each(0, &mut PRCTLS.iter().map(|option| *option as u64))?);
    Ok(rules)
}

fn compile(
    rules: Rules,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| format!("no filter for {} yet", std::env::consts::ARCH))?;
    SeccompFilter::new(rules, others, these, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|e| e.to_string())
}

/// The two filters; the kernel asks both and takes the sterner answer.
fn filters(role: Role) -> Result<[BpfProgram; 2], String> {
    let hostile = HOSTILE.iter().map(|call| (*call, vec![])).collect();
    Ok([
        compile(hostile, SeccompAction::Allow, SeccompAction::KillProcess)?,
        compile(needed(role)?, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?,
    ])
}

/// Confines the calling thread.
pub(super) fn restrict(role: Role) -> Result<Degree, String> {
    // The first must still permit what installs the second.
    for filter in filters(role)? {
        seccompiler::apply_filter(&filter).map_err(|e| e.to_string())?;
    }
    Ok(Degree::Full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, socket};

    #[test]
    fn the_filters_compile_and_agree() {
        for role in [Role::Network, Role::Lookup] {
            filters(role).unwrap();
            let needed = needed(role).unwrap();
            for call in HOSTILE {
                assert!(!needed.contains_key(call), "call {call} is both needed and hostile");
            }
        }
    }

    fn confined(role: Role, test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert_eq!(restrict(role).unwrap(), Degree::Full);
            test();
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_confined_thread_works_and_opens_no_connection() {
        confined(Role::Network, || {
            std::thread::spawn(|| vec![1u8; 1 << 22].len()).join().unwrap();
            let error = std::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
            assert!(std::os::unix::net::UnixDatagram::unbound().is_ok());
        });
    }

    #[test]
    fn a_look_up_thread_connects_and_accepts_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        confined(Role::Lookup, move || {
            std::net::TcpStream::connect(address).unwrap();
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            udp.send_to(b"question", udp.local_addr().unwrap()).unwrap();
            let error = std::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "no listen");
            let error = listener.accept().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "no accept");
            for (family, kind) in [
                (AddressFamily::INET, SocketType::RAW),
                (AddressFamily::NETLINK, SocketType::RAW),
                (AddressFamily::PACKET, SocketType::DGRAM),
            ] {
                assert_eq!(socket(family, kind, None).unwrap_err(), rustix::io::Errno::NOSYS);
            }
        });
    }
}
