"""One connection to the pool, with any number of requests in flight.

Of the threads that wait for an answer one reads, and hands each record to the request that it
belongs to; when it has its own, another takes over.
"""

from __future__ import annotations

import array
import collections
import select
import socket
import threading
from typing import Optional, Sequence

from . import _errors, _wire
from ._wire import Record


class Gone(Exception):
    """The connection is gone and the request was not delivered: use another."""


class Link:
    def __init__(self, path: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(None)
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise _errors.NoPool(error.errno, f"no TLS Pool at {path}: {error.strerror}") from error
        self._socket = sock
        self._partial = b""
        self._changed = threading.Condition()
        self._reading = False
        self._ended = False
        self._draining = False
        #: What the pool said of the connection as a whole before it closed it.
        self._parting: Optional[tuple[int, str]] = None
        #: STARTTLS may bring the plaintext socket, so that the pool need not ask for it.
        self.takes_plaintext = False
        self._hello: Optional[int] = None
        self._last_id = 0
        #: By request id: records that came; None if nobody waits any more.
        self._requests: dict[int, Optional[collections.deque[Record]]] = {}

    def hello(self) -> None:
        """Asks for notices when the pool drains, and whether it takes the plaintext socket.

        Nobody waits for the answer: requests that are sent before it came do without.
        """
        extras = _wire.Facility.DRAIN_NOTICE | _wire.Facility.PLAINTEXT_ALONG
        facilities = _wire.Facility.STARTTLS | extras
        reqid = self.start(_wire.PING, _wire.pack_ping(_wire.IDENTITY, facilities))
        self._hello = reqid
        self.abandon(reqid)

    def start(self, command: int, data: bytes, fds: Sequence[int] = ()) -> int:
        """Sends a request; returns its id. :exc:`Gone` if that failed and another link may do."""
        with self._changed:
            if len(self._requests) >= 0xFFFF:
                raise _errors.Error("too many requests in flight")
            while True:
                self._last_id = (self._last_id + 1) & 0xFFFF
                if self._last_id not in self._requests:
                    break
            reqid = self._last_id
            self._requests[reqid] = collections.deque()
        try:
            self._send(Record(reqid, 0, command, data), fds)
        except BaseException:
            with self._changed:
                del self._requests[reqid]
            self.usable()  # reads what has arrived: why it is gone
            if self._parting is not None:
                raise _errors.PoolError(*self._parting) from None
            raise
        return reqid

    def answer(
        self, callback: Record, command: int, data: bytes, fd: Optional[int] = None
    ) -> None:
        """Answers a callback."""
        try:
            self._send(
                Record(callback.reqid, callback.cbid, command, data), () if fd is None else (fd,)
            )
        except Gone:
            raise _errors.Lost() from None

    def refuse(self, callback: Record, code: int, message: str) -> None:
        self.answer(callback, _wire.ERROR, _wire.pack_error(code, message))

    def _send(self, record: Record, fds: Sequence[int]) -> None:
        ancillary = []
        if fds:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            # One piece: so small a message is queued whole or not at all.
            self._socket.sendmsg([record.encode()], ancillary, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            # Of the other direction this says nothing: what was sent before may still be answered.
            self._draining = True
            raise Gone from None

    def wait(self, reqid: int) -> Record:
        """Blocks until the next record for this request, a callback or the last."""
        with self._changed:
            while True:
                inbox = self._requests[reqid]
                if inbox:
                    record = inbox.popleft()
                    if not _is_callback(record):
                        del self._requests[reqid]
                    return record
                if self._ended:
                    if self._parting is not None:
                        raise _errors.PoolError(*self._parting)
                    raise _errors.Lost()
                if self._reading:
                    self._changed.wait()
                    continue
                self._reading = True
                self._changed.release()
                record = None
                try:
                    record = self._read(0)
                finally:
                    self._changed.acquire()
                    self._reading = False
                    self._take_in(record)
                    self._changed.notify_all()

    def abandon(self, reqid: int) -> None:
        """Nobody waits any more; the id stays taken until the pool has answered."""
        with self._changed:
            inbox = self._requests.get(reqid)
            if inbox is None:
                return
            self._requests[reqid] = None
            unanswered = [record for record in inbox if _is_callback(record)]
            if len(unanswered) < len(inbox):
                del self._requests[reqid]
        for record in unanswered:
            self._refuse_quietly(record)

    def usable(self) -> bool:
        """Whether new requests may go here, after reading what has already arrived."""
        with self._changed:
            while not self._reading:
                record = self._read(socket.MSG_DONTWAIT)
                if record is None:
                    break
                self._take_in(record)
            return not self._ended and not self._draining

    def hung_up(self) -> bool:
        """Whether no session can live on this connection any more."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def close(self) -> None:
        """Ends the connection and the sessions that live on it; wakes whoever reads."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def __del__(self) -> None:
        sock = getattr(self, "_socket", None)
        if sock is not None:
            sock.close()

    def _read(self, flags: int) -> Optional[Record]:
        """The next record; None if interrupted, nothing is there, or (then ended) it is over."""
        while True:
            try:
                piece = self._socket.recv(_wire.RECORD_LEN - len(self._partial), flags)
            except BlockingIOError:
                return None
            except OSError:
                piece = b""
            if not piece:
                self._ended = True
                return None
            self._partial += piece
            if len(self._partial) == _wire.RECORD_LEN:
                raw, self._partial = self._partial, b""
                return Record.decode(raw)

    def _take_in(self, record: Optional[Record]) -> None:
        if record is None:
            return
        if record.command == _wire.DRAINING:
            self._draining = True
            return
        if record.reqid == self._hello and record.command == _wire.PING:
            self._hello = None
            granted = _wire.unpack_ping(record.data)[1]
            self.takes_plaintext = bool(granted & _wire.Facility.PLAINTEXT_ALONG)
        if record.reqid == 0 and record.command == _wire.ERROR and 0 not in self._requests:
            self._parting = _wire.unpack_error(record.data)
        inbox = self._requests.get(record.reqid)
        if inbox is not None:
            inbox.append(record)
        elif _is_callback(record):
            self._refuse_quietly(record)
        else:
            self._requests.pop(record.reqid, None)

    def _refuse_quietly(self, callback: Record) -> None:
        code = _errors.code("CLIENT_REFUSES_CALLBACK")
        refusal = _wire.pack_error(code, "the client refused a callback")
        try:
            self._send(Record(callback.reqid, callback.cbid, _wire.ERROR, refusal), ())
        except (Gone, OSError):
            pass  # reading will tell


def _is_callback(record: Record) -> bool:
    """A final response may carry a cbid left over from the callback before it."""
    return record.cbid != 0 and record.command in _wire.CALLBACKS
