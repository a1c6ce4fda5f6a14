"""TLS for sockets, run by the local TLS Pool.

Give a connected :class:`socket.socket` to :func:`starttls_client` or :func:`starttls_server` and
get back a :class:`Connection`: a socket with the plaintext that also knows the authenticated
names. Keys and certificates never enter the program.

The functions here use one shared :class:`Pool`, found where all programs find it; make a
:class:`Pool` of your own for another socket path. Threads may share a pool.
"""

from __future__ import annotations

import socket
from typing import Callable, Optional, Union

from ._errors import Error, Lost, NoPool, PoolError
from ._location import config_variable, socket_path
from ._pool import Connection, LocalidAnswer, LocalidRequest, PinRequest, Pool
from ._wire import EVERY_STREAM, Facility, Flag, InfoKind, LidentryFlag, Message

__all__ = [
    "EVERY_STREAM",
    "Connection",
    "Error",
    "Facility",
    "Flag",
    "InfoKind",
    "LidentryFlag",
    "LocalidAnswer",
    "LocalidRequest",
    "Lost",
    "Message",
    "NoPool",
    "PinRequest",
    "Pool",
    "PoolError",
    "config_variable",
    "default_pool",
    "detach",
    "info",
    "localid_service",
    "pin_service",
    "ping",
    "prng",
    "reattach",
    "renegotiate",
    "socket_path",
    "starttls_client",
    "starttls_server",
]

_default: Optional[Pool] = None


def default_pool() -> Pool:
    """The pool that the functions of this module use."""
    global _default
    if _default is None:
        _default = Pool()
    return _default


def starttls_client(sock: socket.socket, remoteid: str = "", **options) -> Connection:
    """As :meth:`Pool.starttls_client`, with the shared pool."""
    return default_pool().starttls_client(sock, remoteid, **options)


def starttls_server(sock: socket.socket, localid: str = "", **options) -> Connection:
    """As :meth:`Pool.starttls_server`, with the shared pool."""
    return default_pool().starttls_server(sock, localid, **options)


def renegotiate(session: Union[Connection, bytes], remoteid: str = "", **options) -> tuple[str, str]:
    """As :meth:`Pool.renegotiate`, with the shared pool."""
    return default_pool().renegotiate(session, remoteid, **options)


def ping() -> tuple[str, Facility]:
    """As :meth:`Pool.ping`, with the shared pool."""
    return default_pool().ping()


def prng(ctlkey: bytes, label: str, length: int, context: Optional[bytes] = None) -> bytes:
    """As :meth:`Pool.prng`, with the shared pool."""
    return default_pool().prng(ctlkey, label, length, context)


def info(ctlkey: bytes, kind: int) -> bytes:
    """As :meth:`Pool.info`, with the shared pool."""
    return default_pool().info(ctlkey, kind)


def detach(ctlkey: bytes) -> None:
    """As :meth:`Pool.detach`, with the shared pool."""
    default_pool().detach(ctlkey)


def reattach(ctlkey: bytes) -> None:
    """As :meth:`Pool.reattach`, with the shared pool."""
    default_pool().reattach(ctlkey)


def pin_service(ask: Callable[[PinRequest], Optional[str]], timeout: float = 60.0) -> None:
    """As :meth:`Pool.pin_service`, with the shared pool."""
    default_pool().pin_service(ask, timeout)


def localid_service(
    choose: Callable[[LocalidRequest], Union[LocalidRequest, str, None]], **options
) -> None:
    """As :meth:`Pool.localid_service`, with the shared pool."""
    default_pool().localid_service(choose, **options)
