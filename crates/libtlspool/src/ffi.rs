//! C's strings and structs, in and out.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;

use tlspool_client::{Error, Text};
use tlspool_wire::packet::PacketError;
use tlspool_wire::{Body, Packet, RECORD_LEN, RawRecord};
use zeroize::Zeroize;

/// Where the data of a command begins.
const DATA: usize = 8;

/// A record in memory, aligned for a C program that looks into it.
#[repr(C, align(8))]
pub(crate) struct Record(pub(crate) RawRecord);

impl Drop for Record {
    /// It may have held a PIN.
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Record {
    /// The record of `body`.
    pub(crate) fn of(body: Body) -> Self {
        Self(Packet { reqid: 0, cbid: 0, body }.encode())
    }

    /// The struct that the command carries, for C to read and write. The struct is as long as
    /// C's header says, and fits the record.
    pub(crate) fn data(&mut self) -> *mut u8 {
        self.0[DATA..].as_mut_ptr()
    }

    /// What it says now.
    pub(crate) fn body(&self) -> Result<Body, Error> {
        match Packet::decode(&self.0) {
            Ok(packet) => Ok(packet.body),
            Err(PacketError::Text { field, error }) => Err(Error::Text { field, error }),
            Err(_) => Err(Error::TooLong("a length in the request")),
        }
    }
}

/// Reads the struct that `command` carries.
///
/// # Safety
/// `data` points to the C struct of that command, `len` bytes.
pub(crate) unsafe fn read(command: u32, data: *const u8, len: usize) -> Result<Body, Error> {
    let mut record = Record([0; RECORD_LEN]);
    record.0[4..8].copy_from_slice(&command.to_ne_bytes());
    // SAFETY: the caller's promise; the record has room for the largest struct.
    unsafe { std::ptr::copy_nonoverlapping(data, record.data(), len.min(RECORD_LEN - DATA)) };
    record.body()
}

/// Writes `body` into the C struct at `data`.
///
/// # Safety
/// `data` points to the C struct of that command, `len` bytes.
pub(crate) unsafe fn write(body: Body, data: *mut u8, len: usize) {
    let mut record = Record::of(body);
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(record.data(), data, len.min(RECORD_LEN - DATA)) };
}

/// Bytes of the C structs, as in `<tlspool/commands.h>`.
pub(crate) const PING_LEN: usize = 140;
pub(crate) const STARTTLS_LEN: usize = 304;
pub(crate) const PINENTRY_LEN: usize = 380;
pub(crate) const LIDENTRY_LEN: usize = 266;

/// A C string, or nothing for NULL.
///
/// # Safety
/// `s` is NULL or ends in NUL, and does not change while the result is used.
pub(crate) unsafe fn opt_str<'a>(
    field: &'static str,
    s: *const c_char,
) -> Result<Option<&'a str>, Error> {
    if s.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let s = unsafe { CStr::from_ptr(s) };
    let not_utf8 = tlspool_wire::text::TextError::NotUtf8;
    s.to_str().map(Some).map_err(|_| Error::Text { field, error: not_utf8 })
}

/// A path, or nothing for NULL.
///
/// # Safety
/// As [`opt_str`].
pub(crate) unsafe fn opt_path(s: *const c_char) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: the caller's promise, if it is not NULL.
    let bytes = (!s.is_null()).then(|| unsafe { CStr::from_ptr(s) }.to_bytes())?;
    Some(std::ffi::OsStr::from_bytes(bytes).into())
}

/// Text for a field of the protocol.
pub(crate) fn text<const N: usize>(field: &'static str, s: &str) -> Result<Text<N>, Error> {
    Text::new(s).map_err(|error| Error::Text { field, error })
}

/// A pointer that C gave to be handed back to its own callback, in the thread that called us.
#[derive(Clone, Copy)]
pub(crate) struct CallerData(pub(crate) *mut libc::c_void);

// SAFETY: the pointer is only passed back to C, in the thread it came from: every callback runs
// in the thread that made the request.
unsafe impl Send for CallerData {}

impl CallerData {
    /// The pointer. (A method, so that a closure captures the whole, not the bare pointer.)
    pub(crate) fn get(self) -> *mut libc::c_void {
        self.0
    }
}
