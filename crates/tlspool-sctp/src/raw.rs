//! System calls with the structures of SCTP, as Linux has them (`linux/sctp.h`).

use std::io::IoSliceMut;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

/// What Linux has and the crate libc lacks.
pub(crate) mod option {
    use libc::c_int;
    pub(crate) const EVENT: c_int = 127;
    pub(crate) const AUTH_SUPPORTED: c_int = 129;
}

/// A structure without pointers and without padding, of which any bytes are a value.
///
/// # Safety
/// That is what implementing it says.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, Default)]
            pub(crate) struct $name { $(pub(crate) $field: $kind,)* }

            const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$kind>())*, "padding");

            // SAFETY: integers only, and the assertion shows that there is nothing between them.
            unsafe impl Plain for $name {}
        )*
    };
}

plain! {
    /// struct sctp_initmsg
    InitMessage { num_ostreams: u16, max_instreams: u16, max_attempts: u16, max_init_timeo: u16, }
    /// struct sctp_assoc_value
    AssociationValue { association: i32, value: u32, }
    /// struct sctp_event; the last field stands for what is padding there.
    Event { association: i32, kind: u16, on: u8, unused: u8, }
    /// struct sctp_authkeyid
    KeyNumber { association: i32, number: u16, unused: u16, }
    /// struct sctp_sndinfo
    SendInfo { stream: u16, flags: u16, ppid: u32, context: u32, association: i32, }
    /// struct sctp_rcvinfo
    ReceiveInfo {
        stream: u16, sequence: u16, flags: u16, unused: u16, ppid: u32, tsn: u32, cumulative: u32,
        context: u32, association: i32,
    }
}

// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}

/// Room for a structure of variable length.
#[repr(C, align(8))]
#[derive(Debug, Clone)]
pub(crate) struct Room<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Default for Room<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

fn outcome(returned: libc::c_int) -> Result<(), Errno> {
    if returned == 0 { Ok(()) } else { Err(last()) }
}

fn last() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
}

/// Sets a socket option.
pub(crate) fn set<T: Plain>(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    value: &T,
) -> Result<(), Errno> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is readable for `length` bytes during the call, all of which are initialized.
    outcome(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_SCTP,
            option,
            ptr::from_ref(value).cast(),
            length,
        )
    })
}

/// Sets a socket option whose structure ends with an array.
pub(crate) fn set_bytes(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    value: &[u8],
) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `value` is readable for `length` bytes during the call.
    outcome(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_SCTP, option, value.as_ptr().cast(), length)
    })
}

/// Asks for a socket option.
pub(crate) fn get<T: Plain + Default>(fd: BorrowedFd<'_>, option: libc::c_int) -> Result<T, Errno> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes during the call, and may hold any bytes.
    outcome(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_SCTP,
            option,
            ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

/// Asks for a socket option of variable length; returns how many bytes it has.
pub(crate) fn get_bytes<const N: usize>(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    room: &mut Room<N>,
) -> Result<usize, Errno> {
    let mut length = N as libc::socklen_t;
    // SAFETY: `room` is writable for `length` bytes during the call.
    outcome(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_SCTP,
            option,
            room.0.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok((length as usize).min(N))
}

/// Asks how much memory a socket of any kind takes: its eight or nine values (`linux/sock_diag.h`).
pub(crate) fn memory(fd: BorrowedFd<'_>) -> Result<[u32; 9], Errno> {
    let mut values = [0_u32; 9];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` is writable for `length` bytes during the call, and may hold any bytes.
    outcome(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(values)
}

/// Bytes of control messages that SCTP may add to a message; all kinds of them fit.
const CONTROL: usize = 256;

/// What `recvmsg` says beside the bytes.
pub(crate) struct Message {
    pub(crate) length: usize,
    pub(crate) flags: libc::c_int,
    pub(crate) info: Option<ReceiveInfo>,
}

/// Receives a message, or a part of one, without waiting.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    buffers: &mut [IoSliceMut<'_>],
) -> Result<Message, Errno> {
    let mut control = Room::<CONTROL>::default();
    // SAFETY: all zero is a value of this structure of integers and pointers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = buffers.as_mut_ptr().cast();
    header.msg_iovlen = buffers.len() as _;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `IoSliceMut` has the layout of `iovec` and names writable memory; `control` is writable for
    // `CONTROL` bytes; both outlive the call.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let length = usize::try_from(received).map_err(|_| last())?;
    let mut info = None;
    // SAFETY: `header` is as the kernel left it, with its control messages in `control`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: the macros return null or a whole header within `control`, which is aligned for it.
        let message = unsafe { &*next };
        let whole = message.cmsg_len as usize >= data_at() + size_of::<ReceiveInfo>();
        if message.cmsg_level == libc::IPPROTO_SCTP
            && message.cmsg_type == libc::SCTP_RCVINFO
            && whole
        {
            // SAFETY: `cmsg_len` says that as many bytes follow the header; they may be unaligned.
            info = Some(unsafe { libc::CMSG_DATA(next).cast::<ReceiveInfo>().read_unaligned() });
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(Message { length, flags: header.msg_flags, info })
}

/// Where in a control message its data begins.
fn data_at() -> usize {
    // SAFETY: arithmetic only.
    unsafe { libc::CMSG_LEN(0) as usize }
}

/// Sends a message without waiting: all of it, or nothing.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8], info: &SendInfo) -> Result<usize, Errno> {
    let mut control = Room::<64>::default();
    let size = size_of::<SendInfo>() as libc::c_uint;
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a value of this structure of integers and pointers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
    // SAFETY: `control` is aligned and has room for one header and its data: CMSG_SPACE of 16 bytes is 32.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = libc::IPPROTO_SCTP;
        (*message).cmsg_type = libc::SCTP_SNDINFO;
        (*message).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(message).cast::<SendInfo>().write_unaligned(*info);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `bytes` and `control`, which outlive the call, and writes neither.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
    usize::try_from(sent).map_err(|_| last())
}
