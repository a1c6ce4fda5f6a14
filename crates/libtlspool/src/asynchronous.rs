//! The asynchronous family: records in and out of a non-blocking socket that the program polls.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::ptr;

use tlspool_client::raw::{self, Received};
use tlspool_client::{Error, Facilities, Ping, Pool, PoolError, Refusal};
use tlspool_wire::{Assembler, Body, Packet, RECORD_LEN, RawRecord, command};

use crate::cancellation::Shelter;
use crate::failure::{fail, fail_errno};
use crate::ffi::{opt_path, opt_str, text};

type Callback = unsafe extern "C" fn(*mut Request, c_int);

/// `struct tlspool_async_request`.
#[repr(C)]
struct Request {
    private_data: *mut c_void,
    cbfunc: Option<Callback>,
    cmd: RawRecord,
}

/// `struct tlspool_async_pool`. The last member is a packed struct.
#[repr(C)]
struct AsyncPool {
    private_data: *mut State,
    handle: c_int,
    cmdsize: usize,
    pingdata: [u8; 140],
}

const _: () = assert!(size_of::<Request>() == 16 + 392 && size_of::<AsyncPool>() == 24 + 144);

/// What the library keeps for a pool.
struct State {
    assembler: Assembler<OwnedFd>,
    requests: HashMap<u16, *mut Request>,
    last_id: u16,
    /// The program is being told that its requests are over; no new ones.
    closing: bool,
    /// What the pool said of the connection as a whole before it closed it.
    parting: Option<Error>,
}

/// See tlspool_async(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_async_open(
    pool: *mut AsyncPool,
    sizeof_tlspool_command: usize,
    identity: *const c_char,
    required_facilities: u32,
    socket_path: *const c_char,
) -> bool {
    let _shelter = Shelter::enter();
    if pool.is_null() || sizeof_tlspool_command != RECORD_LEN {
        fail_errno(if pool.is_null() { libc::EINVAL } else { libc::EPROTO });
        return false;
    }
    // SAFETY: strings or NULL, as the manual page asks.
    let (identity, path) = unsafe { (opt_str("identity", identity), opt_path(socket_path)) };
    let at = path.map_or_else(|| crate::pool::pool().clone(), Pool::at);
    let opened = identity.and_then(|id| open(&at, id, required_facilities));
    let (socket, ping) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // SAFETY: the program's struct.
            unsafe { (*pool).handle = -1 };
            fail(&error);
            return false;
        }
    };
    let state = State {
        assembler: Assembler::default(),
        requests: HashMap::new(),
        last_id: 0,
        closing: false,
        parting: None,
    };
    let mut pingdata = [0; 140];
    if let Some(ping) = ping {
        let raw = Packet { reqid: 0, cbid: 0, body: Body::Ping(ping) }.encode();
        pingdata.copy_from_slice(&raw[8..148]);
    }
    // SAFETY: the program's struct, which this call initialises.
    unsafe {
        pool.write(AsyncPool {
            private_data: Box::into_raw(Box::new(state)),
            handle: socket.into_raw_fd(),
            cmdsize: sizeof_tlspool_command,
            pingdata,
        });
    }
    true
}

/// Connects, and greets with a PING if facilities are required.
fn open(
    pool: &Pool,
    identity: Option<&str>,
    required: u32,
) -> Result<(OwnedFd, Option<Ping>), Error> {
    let socket = pool.open_raw()?;
    let mut answer = None;
    if required != 0 {
        let facilities = required | Facilities::ALL_CURRENT.0;
        let identity = text("identity", identity.unwrap_or(tlspool_wire::PROTOCOL_IDENTITY))?;
        let ping = Body::Ping(Ping { identity, facilities });
        let sent = raw::send(socket.as_fd(), &Packet { reqid: 1, cbid: 0, body: ping }, None);
        let packet = match sent {
            Ok(()) => raw::receive_blocking(socket.as_fd())?,
            // A pool that is full has closed before this could be sent, and said so.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                raw::receive_blocking(socket.as_fd()).map_err(|_| error)?
            }
            Err(error) => return Err(error.into()),
        };
        match packet.body {
            Body::Ping(pong) if pong.facilities & required == required => answer = Some(pong),
            Body::Ping(_) => return Err(std::io::Error::from_raw_os_error(libc::ENOSYS).into()),
            Body::Error(reply) => return Err(raw::error(&reply)),
            _ => return Err(Error::Protocol("not an answer to PING")),
        }
    }
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    Ok((socket.into(), answer))
}

/// See tlspool_async(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_async_request(
    pool: *mut AsyncPool,
    request: *mut Request,
    opt_fd: c_int,
) -> bool {
    let _shelter = Shelter::enter();
    // SAFETY: structs of the program, opened before.
    match unsafe { start(pool, request, opt_fd) } {
        Ok(()) => true,
        Err(error) => {
            if opt_fd >= 0 {
                // SAFETY: a failed request closes its descriptor, as the manual page says.
                unsafe { libc::close(opt_fd) };
            }
            fail(&error);
            false
        }
    }
}

/// Sends a request, with `opt_fd` unless that is negative.
///
/// # Safety
///
/// `pool` and `request` are NULL or structs of the program that nobody else uses meanwhile; `request` stays until it is
/// answered or cancelled. `opt_fd` is open unless it is negative.
unsafe fn start(pool: *mut AsyncPool, request: *mut Request, opt_fd: c_int) -> Result<(), Error> {
    let errno = |number| Error::Io(std::io::Error::from_raw_os_error(number));
    // SAFETY: structs of the program, the caller's promise; no other reference is alive here.
    let (pool, request) = match unsafe { (pool.as_mut(), request.as_mut()) } {
        (Some(pool), Some(request)) if request.cbfunc.is_some() => (pool, request),
        _ => return Err(errno(libc::EINVAL)),
    };
    // SAFETY: made by open, freed by close, which sets it to NULL.
    let state = unsafe { pool.private_data.as_mut() }.filter(|state| !state.closing);
    let state = state.ok_or_else(|| errno(libc::ENOTCONN))?;
    // The answer to a callback keeps the id of the request it belongs to.
    let id = match request.cmd {
        [a, b, c, d, ..] if [c, d] != [0, 0] => u16::from_ne_bytes([a, b]),
        _ => state.free_id().ok_or(Error::TooManyRequests)?,
    };
    request.cmd[..2].copy_from_slice(&id.to_ne_bytes());
    // SAFETY: open, as the program says; only borrowed for the call.
    let (socket, passed) = unsafe {
        let passed = (opt_fd >= 0).then(|| BorrowedFd::borrow_raw(opt_fd));
        (BorrowedFd::borrow_raw(pool.handle), passed)
    };
    raw::send_record(socket, &request.cmd, passed)?;
    state.requests.insert(id, ptr::from_mut(request));
    Ok(())
}

impl State {
    fn free_id(&mut self) -> Option<u16> {
        (0..u16::MAX).find_map(|_| {
            self.last_id = self.last_id.wrapping_add(1);
            (!self.requests.contains_key(&self.last_id)).then_some(self.last_id)
        })
    }
}

/// See tlspool_async(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_async_cancel(pool: *mut AsyncPool, request: *mut Request) -> bool {
    let _shelter = Shelter::enter();
    // SAFETY: as in `start`.
    let removed = unsafe {
        match (pool.as_ref().and_then(|p| p.private_data.as_mut()), request.as_ref()) {
            (Some(state), Some(r)) => {
                let id = u16::from_ne_bytes([r.cmd[0], r.cmd[1]]);
                let ours = state.requests.get(&id) == Some(&request);
                // A null keeps the id taken until the pool has answered.
                ours && state.requests.insert(id, ptr::null_mut()).is_some()
            }
            _ => false,
        }
    };
    if !removed {
        fail_errno(libc::ENOENT);
    }
    removed
}

/// See tlspool_async(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_async_process(pool: *mut AsyncPool) -> bool {
    let _shelter = Shelter::enter();
    loop {
        // The callback below may send requests, or close the pool: nothing is kept over it.
        // SAFETY: as in `start`.
        let next = unsafe { receive(pool) };
        match next {
            Ok(None) => return true,
            Ok(Some((request, callback))) => {
                // SAFETY: the program's own function and struct.
                unsafe { callback(request, -1) };
                // SAFETY: the pool's struct outlives its callbacks.
                if unsafe { (*pool).private_data.is_null() } {
                    return true;
                }
            }
            Err(error) => {
                fail(&error);
                return false;
            }
        }
    }
}

/// The next request that was answered, its answer in place.
///
/// # Safety
///
/// `pool` is NULL or a struct of the program that nobody else uses meanwhile, and so are the requests that it knows.
unsafe fn receive(pool: *mut AsyncPool) -> Result<Option<(*mut Request, Callback)>, Error> {
    let closed = || Error::Io(std::io::Error::from_raw_os_error(libc::ENOTCONN));
    // SAFETY: the caller's promise.
    let pool = unsafe { pool.as_mut() }.ok_or_else(closed)?;
    // SAFETY: as in `start`.
    let state = unsafe { pool.private_data.as_mut() }.filter(|state| !state.closing);
    let state = state.ok_or_else(closed)?;
    // SAFETY: open until close.
    let socket = unsafe { BorrowedFd::borrow_raw(pool.handle) };
    loop {
        let packet = match raw::receive(socket, &mut state.assembler) {
            Received::Partial => continue,
            Received::WouldBlock => return Ok(None),
            Received::Ended => return Err(state.parting.take().unwrap_or(Error::Lost)),
            Received::Record(Err(_)) => return Err(Error::Protocol("a malformed record")),
            Received::Record(Ok(packet)) => packet,
        };
        if packet.body.number() == command::DRAINING {
            continue;
        }
        match state.requests.remove(&packet.reqid) {
            Some(request) if !request.is_null() => {
                // SAFETY: the program keeps a request in place until it is answered.
                let (callback, cmd) = unsafe { ((*request).cbfunc, &raw mut (*request).cmd) };
                // SAFETY: as above.
                unsafe { cmd.write(packet.encode()) };
                if let Some(callback) = callback {
                    return Ok(Some((request, callback)));
                }
            }
            _ if raw::is_callback(&packet) => {
                // Nobody will answer this callback.
                let body = raw::refusal(Refusal::from(PoolError::ClientRefusesCallback));
                let refusal = Packet { reqid: packet.reqid, cbid: packet.cbid, body };
                let _ = raw::send(socket, &refusal, None);
                state.requests.insert(packet.reqid, ptr::null_mut());
            }
            None => {
                if let (0, Body::Error(reply)) = (packet.reqid, &packet.body) {
                    state.parting = Some(raw::error(reply));
                }
            }
            Some(_) => {}
        }
    }
}

/// See tlspool_async(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_async_close(pool: *mut AsyncPool, close_socket: bool) -> bool {
    let _shelter = Shelter::enter();
    // SAFETY: the program's struct, opened before.
    let state = unsafe {
        let Some(pool) = pool.as_mut() else {
            fail_errno(libc::EINVAL);
            return false;
        };
        let Some(state) = pool.private_data.as_mut().filter(|state| !state.closing) else {
            fail_errno(libc::ENOTCONN);
            return false;
        };
        state.closing = true;
        if close_socket {
            // Our socket; its number is cleared so that it is not used again.
            libc::close(pool.handle);
            pool.handle = -1;
        }
        pool.private_data
    };
    // A callback may cancel other requests, and free them: nothing is kept over it.
    // SAFETY: made by open, and freed below only.
    while let Some((request, callback)) = unsafe { part(state) } {
        // SAFETY: the program's own function and struct.
        unsafe { callback(request, -1) };
    }
    // SAFETY: as above; the pool's struct outlives its callbacks.
    unsafe {
        (*pool).private_data = ptr::null_mut();
        drop(Box::from_raw(state));
    }
    true
}

/// Takes out a request that the end of the connection ends, with an answer that says so.
///
/// # Safety
///
/// `state` is one that open made, and nobody else uses it or its requests meanwhile.
unsafe fn part(state: *mut State) -> Option<(*mut Request, Callback)> {
    // SAFETY: the caller's promise.
    let requests = unsafe { &mut (*state).requests };
    while let Some(id) = requests.keys().next().copied() {
        let request = requests.remove(&id).filter(|request| !request.is_null());
        let Some(request) = request else { continue };
        let gone = raw::refusal(Refusal {
            code: libc::EPIPE,
            message: "disconnected from the TLS Pool".to_owned(),
        });
        // SAFETY: the program keeps a request in place until it is answered or cancelled.
        let callback = unsafe {
            (*request).cmd = Packet { reqid: id, cbid: 0, body: gone }.encode();
            (*request).cbfunc
        };
        if let Some(callback) = callback {
            return Some((request, callback));
        }
    }
    None
}
