"""The same for asyncio: streams over TLS.

The handshake waits in a thread; after it the plaintext is an ordinary socket of the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Optional

from . import default_pool
from ._pool import Connection, Pool

__all__ = ["open_connection", "starttls_client", "starttls_server"]


async def starttls_client(
    sock: socket.socket, remoteid: str = "", *, pool: Optional[Pool] = None, **options
) -> Optional[Connection]:
    """As :meth:`tlspool.Pool.starttls_client`; the socket that comes back does not block."""
    pool = pool or default_pool()
    conn = await asyncio.to_thread(pool.starttls_client, sock, remoteid, **options)
    return _unblocked(conn)


async def starttls_server(
    sock: socket.socket, localid: str = "", *, pool: Optional[Pool] = None, **options
) -> Optional[Connection]:
    """As :meth:`tlspool.Pool.starttls_server`; the socket that comes back does not block."""
    pool = pool or default_pool()
    conn = await asyncio.to_thread(pool.starttls_server, sock, localid, **options)
    return _unblocked(conn)


def _unblocked(conn: Optional[Connection]) -> Optional[Connection]:
    if conn is not None:  # with ``plaintext``, the pool has it
        conn.setblocking(False)
    return conn


async def open_connection(
    host: str, port: int, remoteid: Optional[str] = None, **options
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As :func:`asyncio.open_connection`, over TLS; the server must prove REMOTEID, or HOST.

    ``writer.get_extra_info("socket")`` hides what a :class:`Connection` knows; with
    :func:`starttls_client` and ``asyncio.open_connection(sock=...)`` it stays at hand.
    """
    if options.get("plaintext") is not None:
        raise ValueError("with plaintext, there is nothing to read: use starttls_client")
    tcp = await asyncio.to_thread(socket.create_connection, (host, port))
    conn = await starttls_client(tcp, host if remoteid is None else remoteid, **options)
    return await asyncio.open_connection(sock=conn)
