"""What can go wrong, as exceptions; all are :class:`OSError`."""

from __future__ import annotations

import errno
import os

_BASE = -1167372288
_NAMES = (
    "OUT_OF_MEMORY ENTANGLED_THREADS CLIENT_DISCONNECT CLIENT_REFUSES_CALLBACK COMMAND_NEEDED "
    "SUPERFLUOUS_SOCKET CIPHER_SOCKET_NEEDED PLAIN_SOCKET_NEEDED COMMAND_UNKNOWN COMMAND_NOTIMPL "
    "COMMAND_BAD_CALLBACK_RESPONSE FACILITY_STARTTLS FACILITY_STARTGSS FACILITY_STARTSSH "
    "CTLKEY_REGISTRATION_FAILED CTLKEY_NOT_FOUND CTLKEY_NOT_YOURS CTLKEY_DETACHED CTLKEY_ATTACHED "
    "RENEGOTIATE_NOT_FOUND RENEGOTIATE_NOT_INTERRUPTABLE RENEGOTIATE_WOULD_BE_INSECURE "
    "CONNECTION_HANDLER_SETUP CONNECTION_DRIVER_SETUP STIRRED_NOT_SHAKEN PRNG_UNAVAILABLE "
    "LIDENTRY_NOT_VACANT PINENTRY_NOT_VACANT INFOKIND_UNKNOWN INFO_NOT_FOUND LOCALID_UNKNOWN "
    "LOCALID_NOT_YOURS REMOTEID_REFUSED LIMIT_REACHED TIMEOUT RECORD_MALFORMED KEY_UNAVAILABLE "
    "DRAINING NOT_AUTHORIZED LOCALID_REFUSED"
).split()
_CODES = {name: _BASE + offset for offset, name in enumerate(_NAMES)}


def code(name: str) -> int:
    """The number of the pool's error NAME."""
    return _CODES[name]


class Error(OSError):
    """Base of this package's exceptions."""


class NoPool(Error):
    """No pool listens at its socket, or this user may not use it."""


class Lost(Error):
    """The connection to the pool ended before it answered. Whether it acted is unknown."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the TLS Pool closed the connection before it answered")


class PoolError(Error):
    """The pool said no. ``strerror`` has its words, ``name`` its own error, if it is one."""

    def __init__(self, number: int, message: str) -> None:
        offset = number - _BASE
        #: Name of the pool's error, such as ``"LOCALID_UNKNOWN"``; None for an errno.
        self.name = _NAMES[offset] if 0 <= offset < len(_NAMES) else None
        if not message:
            words = self.name.replace("_", " ").lower() if self.name else os.strerror(number)
            message = words
        super().__init__(number, message)

    def __str__(self) -> str:
        return self.strerror
