"""Records of the socket protocol, version 2: 388 bytes in host byte order, no I/O."""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from ._errors import Error

RECORD_LEN = 388
IDENTITY = "20151111api@tlspool.arpa2.net"
INFO_QUERY = 0xFFFF

SUCCESS = 0x00
ERROR = 0x01
PING = 0x10
STARTTLS = 0x24
STARTTLS_LOCALID = 0x28
PINENTRY = 0x29
PLAINTEXT_CONNECT = 0x2A
PRNG = 0x2B
INFO = 0x2C
CONTROL_DETACH = 0x100
CONTROL_REATTACH = 0x101
LIDENTRY_REGISTER = 0x200
LIDENTRY_CALLBACK = 0x201
DRAINING = 0x80000001

#: Commands by which the pool asks us something.
CALLBACKS = frozenset([STARTTLS_LOCALID, PLAINTEXT_CONNECT, PINENTRY, LIDENTRY_CALLBACK])


class Flag(enum.IntFlag):
    """Flags of STARTTLS. None: both identities are required and validated."""

    LOCALROLE_CLIENT = 0x1
    LOCALROLE_SERVER = 0x2
    REMOTEROLE_CLIENT = 0x4
    REMOTEROLE_SERVER = 0x8
    DTLS = 0x100
    WITHOUT_SNI = 0x200
    IGNORE_CACHES = 0x400
    REQUEST_REMOTEID = 0x800
    IGNORE_REMOTEID = 0x1000
    DETACH = 0x2000
    FORK = 0x4000
    DOMAIN_REPRESENTS_USER = 0x8000
    LOCALID_CHECK = 0x10000
    RENEGOTIATE = 0x20000
    LOCALID_ONTHEFLY = 0x40000


class LidentryFlag(enum.IntFlag):
    """Flags of those who choose local identities. A registration is not asked if all of the
    ``SKIP_`` flags that it sets hold of the disclosure that the pool has."""

    #: There is one (in all ``SKIP_`` flags).
    SKIP_DBENTRY = 0x80
    #: It has the remote's user, if the remote has one.
    SKIP_USER = 0x81
    #: It is for the remote's own domain, or the domain one label up, or either.
    SKIP_DOMAIN_SAME = 0x82
    SKIP_DOMAIN_ONEUP = 0x84
    SKIP_DOMAIN_SUB = 0x86
    #: It is not for any domain at all.
    SKIP_NOTROOT = 0x88
    #: Show the pool's disclosures, and the other identities that could be chosen, first.
    WANT_DBENTRY = 0x100
    WANT_CANDIDATES = 0x200
    #: What is shown: a disclosure, or with CANDIDATE another identity.
    DBENTRY = 0x1000
    CANDIDATE = 0x10000
    #: Remember the choice before or after others; with REORDER also move one that is known.
    DBINSERT = 0x2000
    DBAPPEND = 0x4000
    DBREORDER = 0x8000
    #: The identity will be there soon, or is to be made.
    NEW = 0x100000
    ONTHEFLY = 0x200000


class Facility(enum.IntFlag):
    """What a pool can do."""

    STARTTLS = 0x1
    STARTGSS = 0x2
    STARTSSH = 0x4
    DRAIN_NOTICE = 0x80000000
    PLAINTEXT_ALONG = 0x40000000


class InfoKind(enum.IntEnum):
    """Kinds of facts about a session."""

    PEERCERT_SUBJECT = 0x52800000
    PEERCERT_ISSUER = 0x52800001
    PEERCERT_SUBJECTALTNAME = 0x52800002
    MYCERT_SUBJECT = 0x52800100
    MYCERT_ISSUER = 0x52800101
    MYCERT_SUBJECTALTNAME = 0x52800102
    TLS_UNIQUE = 0x59290000
    TLS_SERVER_END_POINT = 0x59290001
    TLS_EXPORTER = 0x92660000


_HEAD = struct.Struct("=HHI")
_ERROR = struct.Struct("=i128s")
_PING = struct.Struct("=136sI")
_STARTTLS = struct.Struct("=IIBxH128s128s16s16sI")
_PINENTRY = struct.Struct("=III128s128s36s20s20s36s")
_LIDENTRY = struct.Struct("=IHI128s128s")
_CONTROL = struct.Struct("=I16s128s")
_PRNG = struct.Struct("=hhh350s")
_INFO = struct.Struct("=16sIH334s")


class Record(NamedTuple):
    """One record, its data still bytes."""

    reqid: int
    cbid: int
    command: int
    data: bytes

    def encode(self) -> bytes:
        head = _HEAD.pack(self.reqid, self.cbid, self.command)
        return (head + self.data).ljust(RECORD_LEN, b"\0")

    @classmethod
    def decode(cls, raw: bytes) -> Record:
        return cls(*_HEAD.unpack_from(raw), raw[_HEAD.size :])


def text(field: str, value: str, size: int) -> bytes:
    """VALUE as NUL-terminated text for a field of SIZE bytes."""
    raw = value.encode()
    if len(raw) >= size or b"\0" in raw:
        raise ValueError(f"{field}: at most {size - 1} bytes without NUL")
    return raw


def untext(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def pack_error(code: int, message: str) -> bytes:
    return _ERROR.pack(code, message.encode()[:127].decode("utf-8", "ignore").encode())


def unpack_error(data: bytes) -> tuple[int, str]:
    code, message = _ERROR.unpack_from(data)
    return code, untext(message)


def pack_ping(identity: str, facilities: int) -> bytes:
    return _PING.pack(text("identity", identity, 136), facilities)


def unpack_ping(data: bytes) -> tuple[str, int]:
    identity, facilities = _PING.unpack_from(data)
    return untext(identity), facilities


class Starttls(NamedTuple):
    """Data of STARTTLS and its callbacks."""

    flags: int
    ipproto: int
    localid: str
    remoteid: str
    ctlkey: bytes
    service: str
    timeout_ms: int
    local: int = 0
    streamid: int = 0

    def encode(self) -> bytes:
        return _STARTTLS.pack(
            self.flags,
            self.local,
            self.ipproto,
            self.streamid,
            text("localid", self.localid, 128),
            text("remoteid", self.remoteid, 128),
            self.ctlkey,
            text("service", self.service, 16),
            self.timeout_ms,
        )

    @classmethod
    def decode(cls, data: bytes) -> Starttls:
        flags, local, ipproto, streamid, localid, remoteid, ctlkey, service, timeout = (
            _STARTTLS.unpack_from(data)
        )
        names = untext(localid), untext(remoteid)
        return cls(flags, ipproto, *names, ctlkey, untext(service), timeout, local, streamid)


#: The stream of a program that uses many of an SCTP association. (No stream has this number.)
EVERY_STREAM = 0xFFFF

_MESSAGE = struct.Struct("=HH4s")
_UNORDERED = 0x1


class Message(NamedTuple):
    """A message of DTLS over SCTP, as a program that uses :data:`EVERY_STREAM` sends and receives it."""

    data: bytes
    stream: int = 0
    #: What it is, for the two programs (payload protocol identifier, RFC 9260 section 3.3.1).
    ppid: int = 0
    #: Whether it may overtake others of its stream.
    unordered: bool = False

    def encode(self) -> bytes:
        """With its header in front, for one call of ``send``."""
        flags = _UNORDERED if self.unordered else 0
        return _MESSAGE.pack(self.stream, flags, self.ppid.to_bytes(4, "big")) + self.data

    @classmethod
    def decode(cls, raw: bytes) -> Message:
        """What one call of ``recv`` returned; :exc:`ValueError` if that is shorter than a header."""
        if len(raw) < _MESSAGE.size:
            raise ValueError("shorter than the header of a message")
        stream, flags, ppid = _MESSAGE.unpack_from(raw)
        unordered = bool(flags & _UNORDERED)
        return cls(raw[_MESSAGE.size :], stream, int.from_bytes(ppid, "big"), unordered)


class Pinentry(NamedTuple):
    """Data of PINENTRY."""

    flags: int = 0
    attempt: int = 0
    timeout_us: int = 0
    pin: str = ""
    prompt: str = ""
    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    label: str = ""

    def __repr__(self) -> str:
        return f"Pinentry(attempt={self.attempt}, label={self.label!r})"

    def encode(self) -> bytes:
        return _PINENTRY.pack(
            self.flags,
            self.attempt,
            self.timeout_us,
            text("pin", self.pin, 128),
            text("prompt", self.prompt, 128),
            text("manufacturer", self.manufacturer, 36),
            text("model", self.model, 20),
            text("serial", self.serial, 20),
            text("label", self.label, 36),
        )

    @classmethod
    def decode(cls, data: bytes) -> Pinentry:
        numbers_and_texts = _PINENTRY.unpack_from(data)
        return cls(*numbers_and_texts[:3], *map(untext, numbers_and_texts[3:]))


class Lidentry(NamedTuple):
    """Data of the LIDENTRY commands."""

    flags: int = 0
    maxlevels: int = 0
    timeout: int = 0
    localid: str = ""
    remoteid: str = ""

    def encode(self) -> bytes:
        return _LIDENTRY.pack(
            self.flags,
            self.maxlevels,
            self.timeout,
            text("localid", self.localid, 128),
            text("remoteid", self.remoteid, 128),
        )

    @classmethod
    def decode(cls, data: bytes) -> Lidentry:
        flags, maxlevels, timeout, localid, remoteid = _LIDENTRY.unpack_from(data)
        return cls(flags, maxlevels, timeout, untext(localid), untext(remoteid))


def control_key(ctlkey: bytes) -> bytes:
    """CTLKEY, if it can be one."""
    if len(ctlkey) != 16:
        raise ValueError("a control key has 16 bytes")
    return ctlkey


def pack_control(ctlkey: bytes) -> bytes:
    return _CONTROL.pack(0, control_key(ctlkey), b"")


def pack_prng(ctlkey: bytes, label: str, context: bytes | None, length: int) -> bytes:
    name = label.encode()
    asked = control_key(ctlkey) + name + (context or b"")
    if len(asked) > 350 or not 0 <= length <= 350:
        raise ValueError("label and context have room for 334 bytes, the outcome for 350")
    return _PRNG.pack(len(name), -1 if context is None else len(context), length, asked)


def unpack_prng(data: bytes, wanted: int) -> bytes:
    _, _, length, buffer = _PRNG.unpack_from(data)
    if length != wanted:
        raise Error("the TLS Pool's answer is not the keying material that was asked for")
    return buffer[:length]


def pack_info(ctlkey: bytes, kind: int, value: bytes | None) -> bytes:
    if value is not None and len(value) > 334:
        raise ValueError("a value has at most 334 bytes")
    length = INFO_QUERY if value is None else len(value)
    return _INFO.pack(control_key(ctlkey), kind, length, value or b"")


def unpack_info(data: bytes) -> bytes:
    _, _, length, buffer = _INFO.unpack_from(data)
    return buffer[: min(length, 334)]
