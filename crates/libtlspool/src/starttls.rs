//! `tlspool_starttls`: the protocol's STARTTLS, with the program's callback.

use std::ffi::{c_int, c_void};
use std::os::fd::{IntoRawFd, OwnedFd};

use tlspool_client::{
    Error, LocalidAnswer, Plaintext, PoolError, Refusal, Starttls, StarttlsFlags, StarttlsRequest,
    Text,
};
use tlspool_wire::{Body, CtlKey, command};

use crate::cancellation::Shelter;
use crate::failure::{errno, fail, fail_errno, set_errno};
use crate::ffi::{self, CallerData, Record, STARTTLS_LEN};
use crate::pool::{consume, duplicate, pool};

/// `namedconnect` of the program.
type NamedConnect = unsafe extern "C" fn(*mut u8, *mut c_void) -> c_int;

/// See tlspool_starttls(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_starttls(
    cryptfd: c_int,
    tlsdata: *mut u8,
    privdata: *mut c_void,
    namedconnect: Option<NamedConnect>,
) -> c_int {
    let _shelter = Shelter::enter();
    // SAFETY: handed over in every case, as the manual page says.
    let cryptfd = unsafe { consume(cryptfd) };
    if tlsdata.is_null() {
        return fail_errno(libc::EINVAL);
    }
    // SAFETY: a starttls_t, as the manual page asks.
    let mut asked = match unsafe { ffi::read(command::STARTTLS, tlsdata, STARTTLS_LEN) } {
        Ok(Body::Starttls(asked)) => asked,
        Ok(_) => return fail_errno(libc::EINVAL),
        Err(error) => return fail(&error),
    };
    if !matches!(i32::from(asked.ipproto), libc::IPPROTO_TCP | libc::IPPROTO_UDP | 132) {
        return fail_errno(libc::EINVAL);
    }
    let renegotiate = asked.flags.contains(StarttlsFlags::RENEGOTIATE);
    if !renegotiate && namedconnect.is_none() && privdata.is_null() {
        return fail_errno(libc::EINVAL);
    }
    if !renegotiate {
        asked.ctlkey = CtlKey::default(); // existing programs leave it uninitialised
    }
    let check = asked.flags.contains(StarttlsFlags::LOCALID_CHECK);
    let privdata = CallerData(privdata);
    let outcome = if renegotiate {
        // The control key names the session: there is no socket, and nothing to connect.
        pool().renegotiate(StarttlsRequest::from(asked))
    } else {
        cryptfd.and_then(|cryptfd| match namedconnect {
            // SAFETY: the program's own function, with the data that it goes with.
            Some(f) => unsafe { with_callback(asked, cryptfd, f, privdata, check) },
            // SAFETY: privdata is an int then, as the manual page asks.
            None => unsafe { with_descriptor(asked, cryptfd, privdata.get().cast(), check) },
        })
    };
    match outcome {
        Ok(answer) => {
            // SAFETY: as above.
            unsafe { ffi::write(Body::Starttls(answer), tlsdata, STARTTLS_LEN) };
            0
        }
        Err(error) => fail(&error),
    }
}

/// The callback connects, and checks local identities if that was asked.
///
/// # Safety
///
/// `namedconnect` may be called with a record of a TLS Pool and `privdata`, from any thread, until this
/// returns.
unsafe fn with_callback(
    asked: Starttls,
    cryptfd: OwnedFd,
    namedconnect: NamedConnect,
    privdata: CallerData,
    check: bool,
) -> Result<Starttls, Error> {
    // What it returned, and the name that it left; none if that cannot be one.
    let call = move |data: &Starttls| -> (c_int, Option<Text<128>>) {
        let mut record = Record::of(Body::Starttls(data.clone()));
        set_errno(0);
        // SAFETY: a starttls_t that lives through the call, and the program's own pointer.
        let fd = unsafe { namedconnect(record.data(), privdata.get()) };
        let reason = errno();
        let name = match record.body() {
            Ok(Body::Starttls(changed)) => Some(changed.localid),
            _ => None,
        };
        set_errno(reason);
        (fd, name)
    };
    let refusal = || match errno() {
        0 => Refusal::from(PoolError::ClientRefusesCallback),
        number => Refusal::from(std::io::Error::from_raw_os_error(number)),
    };
    let mut plaintext = Plaintext::connect(move |established| {
        let (fd, _) = call(established);
        // SAFETY: a callback hands its descriptor over.
        if fd >= 0 { unsafe { consume(fd) }.map_err(|_| refusal()) } else { Err(refusal()) }
    });
    if check {
        plaintext = plaintext.check_localid(move |proposal| {
            let (fd, name) = call(proposal);
            // SAFETY: a callback hands its descriptor over.
            let socket = (fd >= 0).then(|| unsafe { consume(fd) });
            match (fd, socket, name) {
                (-1, ..) | (_, Some(Err(_)), _) => LocalidAnswer::Refuse(refusal()),
                // It meant another name than the one proposed, which must not be shown then.
                (_, _, None) => {
                    let invalid = std::io::Error::from_raw_os_error(libc::EINVAL);
                    LocalidAnswer::Refuse(Refusal::from(invalid))
                }
                (_, Some(Ok(socket)), _) => LocalidAnswer::AcceptWith(socket),
                (_, None, Some(name)) => LocalidAnswer::Instead(name),
            }
        });
    }
    Ok(pool().starttls(StarttlsRequest::from(asked), cryptfd, plaintext)?.answer)
}

/// No callback: `*plainfd` is the pool's end, or -1 to get one end of a pair.
///
/// # Safety
///
/// `plainfd` points to an int that nobody else uses; a descriptor in it is open, and given away.
unsafe fn with_descriptor(
    asked: Starttls,
    cryptfd: OwnedFd,
    plainfd: *mut c_int,
    check: bool,
) -> Result<Starttls, Error> {
    // SAFETY: an int, the caller's promise.
    let given = unsafe { *plainfd };
    let request = StarttlsRequest::from(asked);
    if given >= 0 {
        // SAFETY: the program's descriptor, which it keeps and closes.
        let pools_end = unsafe { duplicate(given) }?;
        let mut plaintext = Plaintext::given(pools_end);
        if check {
            // A descriptor is an acceptance of whatever local identity is proposed.
            plaintext = plaintext.check_localid(|_| LocalidAnswer::Accept);
        }
        return Ok(pool().starttls(request, cryptfd, plaintext)?.answer);
    }
    if check {
        // There is nobody to check: better refused than waved through.
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL).into());
    }
    let session = pool().starttls(request, cryptfd, Plaintext::pair())?;
    if let Some(ours) = session.plaintext {
        // SAFETY: as above.
        unsafe { *plainfd = ours.into_raw_fd() };
    }
    Ok(session.answer)
}
