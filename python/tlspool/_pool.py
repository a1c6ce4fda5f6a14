"""The pool as a program sees it."""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import threading
import weakref
from typing import Callable, Iterator, Optional, Sequence, Union

from . import _errors, _wire
from ._errors import Error, Lost, NoPool, PoolError
from ._link import Gone, Link
from ._location import socket_path
from ._wire import EVERY_STREAM, Facility, Flag, Lidentry, LidentryFlag, Pinentry, Record, Starttls

#: How often a request that was certainly not acted on is sent again.
_ATTEMPTS = 4

PinRequest = Pinentry
LocalidRequest = Lidentry


class LocalidAnswer(enum.Enum):
    """What a ``check_localid`` function may return, beside another name to use instead."""

    ACCEPT = "accept"
    #: Not this one; the pool may propose another.
    NOT_THIS = "not this"


CheckLocalid = Callable[[str, str], Union[LocalidAnswer, str]]
Connect = Callable[[str, str], socket.socket]


class Connection(socket.socket):
    """A socket with the plaintext of a TLS session, and what is known about the session.

    End of file means that the session is over, but not why: on this socket, one end of a UNIX pair, a
    connection that somebody on the path has cut looks like one that the peer ended. Where it matters that
    nothing is missing, use a protocol that marks its own end, or give a TCP socket as ``plaintext``, on
    which a cut is a :exc:`ConnectionResetError`. The session ends when this object and the pool's are
    gone, unless :attr:`Flag.FORK` was asked for.
    """

    #: The authenticated names; empty if there is none.
    localid: str
    remoteid: str
    #: The flags of the pool's answer: a freedom is set only if it was used.
    flags: Flag
    #: Names the session, for :meth:`Pool.prng` and others.
    ctlkey: bytes

    __slots__ = ("localid", "remoteid", "flags", "ctlkey", "_link")

    def __init__(self, plain: socket.socket, answer: Starttls, link: Link) -> None:
        self._take(plain)
        self.localid = answer.localid
        self.remoteid = answer.remoteid
        self.flags = Flag(answer.flags & _KNOWN_FLAGS)
        self.ctlkey = answer.ctlkey
        self._link = link

    def _take(self, plain: socket.socket) -> None:
        family, kind, proto = plain.family, plain.type, plain.proto
        super().__init__(family, kind, proto, fileno=plain.detach())

    def dup(self) -> Connection:
        """Another socket with the plaintext of the same session, which lasts as long as either."""
        twin = Connection.__new__(Connection)
        twin._take(socket.socket(self.family, self.type, self.proto, fileno=os.dup(self.fileno())))
        twin.settimeout(self.gettimeout())
        for name in ("localid", "remoteid", "flags", "ctlkey", "_link"):
            setattr(twin, name, getattr(self, name))
        return twin


_KNOWN_FLAGS = sum(Flag.__members__.values())

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._forget()


os.register_at_fork(after_in_child=_after_fork)


class Pool:
    """The local TLS Pool. Connects when first used, and again when the pool was restarted.

    Threads may share it. After a fork, the child uses connections of its own.
    """

    def __init__(self, path: Optional[str] = None) -> None:
        self._path = path
        self._forget()
        _pools.add(self)

    @property
    def path(self) -> str:
        """The socket the pool is looked for at, which is looked up for each connection: the user's own
        pool may start after the program."""
        return socket_path(self._path)

    def _forget(self) -> None:
        """Begins without connections. In the child of a fork, another thread may have had the lock, and
        the parent reads the answers on its connections."""
        self._lock = threading.Lock()
        self._current: Optional[Link] = None
        #: No new requests go here, but sessions may live on them until the pool closes.
        self._retired: list[Link] = []

    def starttls_client(
        self,
        sock: socket.socket,
        remoteid: str = "",
        *,
        localid: str = "",
        service: str = "",
        flags: int = 0,
        stream: int = 0,
        timeout: Optional[float] = None,
        plaintext: Union[socket.socket, Connect, None] = None,
        check_localid: Optional[CheckLocalid] = None,
    ) -> Optional[Connection]:
        """Runs TLS over SOCK, as the client, and returns the plaintext as a :class:`Connection`.

        SOCK is closed in every case. The server must prove REMOTEID (``example.com`` or
        ``john@example.com``), the domain of which is sent as server name. LOCALID is our name for
        a server that asks. FLAGS are of :class:`Flag`; TIMEOUT is in seconds, None is the pool's
        default.

        Over a connected UDP socket it is DTLS: each message that is sent to the result is one
        datagram, and each that is received is one. Over an SCTP association it is TLS on its stream
        STREAM (RFC 3436), or with :attr:`Flag.DTLS` DTLS with messages of that stream (RFC 6083). Where
        STREAM is :data:`EVERY_STREAM`, messages of DTLS are those of :class:`Message`, which say their stream.

        With PLAINTEXT, the pool sends the plaintext to that socket, or to the one that
        ``plaintext(localid, remoteid)`` returns after the handshake; the result is then None, and
        the socket is closed here. CHECK_LOCALID, as ``check_localid(localid, remoteid)``, is
        asked about each local name that is proposed.
        """
        roles = Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER
        with _closing_on_failure(sock, plaintext):
            asked = _request(
                sock, roles | flags, stream, localid, remoteid, service, timeout
            )
        return self._starttls(sock, asked, plaintext, check_localid)

    def starttls_server(
        self,
        sock: socket.socket,
        localid: str = "",
        *,
        remoteid: str = "",
        require: bool = True,
        service: str = "",
        flags: int = 0,
        stream: int = 0,
        timeout: Optional[float] = None,
        plaintext: Union[socket.socket, Connect, None] = None,
        check_localid: Optional[CheckLocalid] = None,
    ) -> Optional[Connection]:
        """Runs TLS over SOCK, as the server; see :meth:`starttls_client`.

        Without LOCALID, it is the name that the client asks for. With ``require=False``, a client
        is asked for a certificate but need not have one.
        """
        flags |= Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT
        if not require:
            flags |= Flag.REQUEST_REMOTEID
        with _closing_on_failure(sock, plaintext):
            asked = _request(sock, flags, stream, localid, remoteid, service, timeout)
        return self._starttls(sock, asked, plaintext, check_localid)

    def renegotiate(
        self,
        session: Union[Connection, bytes],
        remoteid: str = "",
        *,
        localid: str = "",
        service: str = "",
        flags: int = 0,
        timeout: Optional[float] = None,
    ) -> tuple[str, str]:
        """Has the peer's identity and ours agreed on anew in a session that stands.

        SESSION is a :class:`Connection`, which then has the new names, or a control key. What else
        is asked for is as in :meth:`starttls_client`. Returns both names that hold from now on, ours first. A
        session that cannot, such as one of TLS 1.3, says so by a :class:`PoolError` and goes on as
        it is.
        """
        ctlkey = session.ctlkey if isinstance(session, Connection) else session
        asked = Starttls(
            int(flags | Flag.RENEGOTIATE), socket.IPPROTO_TCP, localid, remoteid,
            _wire.control_key(ctlkey), service, _milliseconds(timeout),
        )
        data = self._ask_about_session(_wire.STARTTLS, asked.encode(), _wire.STARTTLS)
        answer = Starttls.decode(data)
        if isinstance(session, Connection):
            session.localid, session.remoteid = answer.localid, answer.remoteid
            session.flags = Flag(answer.flags & _KNOWN_FLAGS)
        return answer.localid, answer.remoteid

    def ping(self, identity: str = _wire.IDENTITY) -> tuple[str, Facility]:
        """The pool's identity string, and what it can do."""
        wanted = Facility.STARTTLS | Facility.STARTGSS | Facility.STARTSSH
        data = self._ask(_wire.PING, _wire.pack_ping(identity, wanted), _wire.PING)
        name, facilities = _wire.unpack_ping(data)
        return name, Facility(facilities & wanted)

    def prng(
        self, ctlkey: bytes, label: str, length: int, context: Optional[bytes] = None
    ) -> bytes:
        """LENGTH bytes of keying material of a session (RFC 5705), which its peer can derive too."""
        asked = _wire.pack_prng(ctlkey, label, context, length)
        answer = self._ask_about_session(_wire.PRNG, asked, _wire.PRNG)
        return _wire.unpack_prng(answer, length)

    def info(self, ctlkey: bytes, kind: int) -> bytes:
        """A fact about a session; KIND is of :class:`InfoKind`."""
        asked = _wire.pack_info(ctlkey, kind, None)
        return _wire.unpack_info(self._ask_about_session(_wire.INFO, asked, _wire.INFO))

    def check_info(self, ctlkey: bytes, kind: int, value: bytes) -> bool:
        """Whether VALUE is (one of) the session's facts of this kind."""
        asked = _wire.pack_info(ctlkey, kind, value)
        try:
            self._ask_about_session(_wire.INFO, asked, _wire.INFO)
        except PoolError as error:
            if error.name == "INFO_NOT_FOUND":
                return False
            raise
        return True

    def detach(self, ctlkey: bytes) -> None:
        """Lets go of a session: it can then be taken over by whoever knows its key."""
        asked = _wire.pack_control(ctlkey)
        self._ask_about_session(_wire.CONTROL_DETACH, asked, _wire.SUCCESS)

    def reattach(self, ctlkey: bytes) -> None:
        """Takes over a session that is detached."""
        asked = _wire.pack_control(ctlkey)
        self._ask_about_session(_wire.CONTROL_REATTACH, asked, _wire.SUCCESS)

    def pin_service(
        self, ask: Callable[[PinRequest], Optional[str]], timeout: float = 60.0
    ) -> None:
        """Enters PINs until the pool ends the registration.

        ASK sees which token waits (``label``, ``serial``, ``attempt``, ``prompt``...) and returns
        its PIN, or None to refuse. One program at a time may do this: another is told so by a
        :class:`PoolError`. An answer that takes longer than TIMEOUT seconds may come too late.
        The registration moves on to a pool that takes the place of this one. Returns when the
        pool goes away.
        """

        def answer(link: Link, record: Record) -> None:
            entry = Pinentry.decode(record.data)
            try:
                pin = ask(entry) or ""
            except BaseException:
                link.answer(record, _wire.PINENTRY, entry._replace(pin="").encode())
                raise
            link.answer(record, _wire.PINENTRY, entry._replace(pin=pin).encode())

        registration = Pinentry(timeout_us=min(int(timeout * 1_000_000), 0xFFFFFFFF))
        self._serve(_wire.PINENTRY, registration.encode(), answer)

    def localid_service(
        self,
        choose: Callable[[LocalidRequest], Union[LocalidRequest, str, None]],
        flags: int = LidentryFlag.SKIP_DBENTRY,
        timeout: float = 60.0,
        show: Optional[Callable[[LocalidRequest], None]] = None,
    ) -> None:
        """Chooses whom clients show, where their programs name nobody, until the pool ends that.

        CHOOSE sees whom a program of this user (for root: of any user who has nobody) wants to meet
        (``remoteid``), and what it proposes (``localid``). It returns a local name, "" for nobody, or
        None to refuse; or the request changed with ``_replace``, to have it remembered: flags of
        :class:`LidentryFlag`, and as ``remoteid`` a selector at most ``maxlevels`` steps up. FLAGS
        say when not to ask, and what to SHOW before. One program of a user at a time may do this:
        another is told so by a :class:`PoolError`. An answer that takes longer than TIMEOUT seconds
        comes too late. The registration moves on to a pool that takes the place of this one.
        Returns when the pool goes away.
        """
        refusal = _errors.code("LOCALID_REFUSED")

        def answer(link: Link, record: Record) -> None:
            entry = Lidentry.decode(record.data)
            if entry.flags & LidentryFlag.DBENTRY:
                if show is not None:
                    show(entry)
                link.answer(record, _wire.LIDENTRY_CALLBACK, entry.encode())
                return
            try:
                chosen = choose(entry)
                if isinstance(chosen, str):
                    chosen = entry._replace(localid=chosen)
                reply = None if chosen is None else chosen.encode()
            except BaseException as error:
                link.refuse(record, refusal, str(error) or type(error).__name__)
                raise
            if reply is None:
                link.refuse(record, refusal, "the program refused")
            else:
                link.answer(record, _wire.LIDENTRY_CALLBACK, reply)

        wanted = Lidentry(flags=int(flags), timeout=max(1, min(int(timeout), 0xFFFFFFFE)))
        self._serve(_wire.LIDENTRY_REGISTER, wanted.encode(), answer)

    def _serve(self, command: int, data: bytes, answer: Callable[[Link, Record], None]) -> None:
        """Registers for callbacks and has ANSWER answer them until the pool ends that."""
        link = Link(self.path)
        attempts = 0
        while True:
            attempts += 1
            try:
                reqid = link.start(command, data)
                while True:
                    record = _no_error(link.wait(reqid))
                    attempts = 0
                    try:
                        answer(link, record)
                    except Lost:
                        pass  # nobody waited for it any more; where to go is to be read yet
            except (Lost, Gone):
                return
            except PoolError as error:
                if error.name != "DRAINING" or attempts >= _ATTEMPTS:
                    raise
            finally:
                link.close()
            # A registration ends with its connection, and belongs to the pool that takes this one's place.
            try:
                link = Link(self.path)
            except NoPool:
                return

    def _starttls(
        self,
        sock: socket.socket,
        asked: Starttls,
        plaintext: Union[socket.socket, Connect, None],
        check_localid: Optional[CheckLocalid],
    ) -> Optional[Connection]:
        if check_localid:
            asked = asked._replace(flags=asked.flags | Flag.LOCALID_CHECK)
        ours: Optional[socket.socket] = None
        link: Optional[Link] = None
        pools: Optional[socket.socket] = None
        try:
            with sock:
                if plaintext is None:
                    pools, ours = _plaintext_end(None, asked)
                elif isinstance(plaintext, socket.socket):
                    pools = plaintext
                fds = [sock.fileno()] if pools is None else [sock.fileno(), pools.fileno()]
                link, reqid, record, passed = self._begin(_wire.STARTTLS, asked.encode(), fds)
            if pools is not None and passed == 2:
                pools.close()  # the pool has its own; this one would hide its hang-ups
            try:
                while record.command != _wire.STARTTLS:
                    state = Starttls.decode(_no_error(record).data)
                    try:
                        if record.command == _wire.STARTTLS_LOCALID and check_localid:
                            answer = check_localid(state.localid, state.remoteid)
                            state = _with_answer(state, answer)
                            link.answer(record, record.command, state.encode())
                        elif record.command == _wire.PLAINTEXT_CONNECT:
                            end = pools
                            if end is None:
                                end, ours = _plaintext_end(plaintext, state)
                            with end:
                                link.answer(record, record.command, state.encode(), end.fileno())
                        else:
                            raise Error("the TLS Pool's answer makes no sense")
                    except Lost:
                        raise
                    except BaseException as error:
                        # Tell the pool, which then says the same; the caller gets the cause.
                        number = getattr(error, "errno", None)
                        code = number or _errors.code("CLIENT_REFUSES_CALLBACK")
                        link.refuse(record, code, str(error) or type(error).__name__)
                        raise
                    record = link.wait(reqid)
            except BaseException:
                link.abandon(reqid)
                raise
        except BaseException:
            if ours is not None:
                ours.close()
            if pools is not None:
                pools.close()
            raise
        answer = Starttls.decode(record.data)
        return None if ours is None else Connection(ours, answer, link)

    def _ask(self, command: int, data: bytes, expected: int) -> bytes:
        """One request, one answer."""
        _, _, record, _ = self._begin(command, data)
        return _expect(record, expected)

    def _ask_about_session(self, command: int, data: bytes, expected: int) -> bytes:
        """As _ask; if the current connection does not have the session, an older one may."""
        try:
            return self._ask(command, data, expected)
        except (PoolError, Lost) as error:
            if not _is_elsewhere(error):
                raise
            first = error
        with self._lock:
            retired = self._retired[::-1]
        for link in retired:
            try:
                return _expect(link.wait(link.start(command, data)), expected)
            except (PoolError, Lost, Gone) as error:
                if isinstance(error, PoolError) and not _is_elsewhere(error):
                    raise
        raise first

    def _begin(
        self, command: int, data: bytes, fds: Sequence[int] = ()
    ) -> tuple[Link, int, Record, int]:
        """Sends a request and waits for its first record. Sends again over a new connection as
        long as the pool has certainly not acted on it. The second of FDS goes along only to a
        pool that takes it; the last of the results says how many went."""
        last: Exception = Lost()
        for _ in range(_ATTEMPTS):
            link = self._link()
            try:
                passed = fds if link.takes_plaintext else fds[:1]
                reqid = link.start(command, data, passed)
            except Gone:
                self._retire(link)
                continue
            try:
                record = link.wait(reqid)
            except BaseException:
                link.abandon(reqid)
                raise
            if record.command == _wire.ERROR:
                last = PoolError(*_wire.unpack_error(record.data))
                if last.name == "DRAINING":
                    self._retire(link)
                    continue
            return link, reqid, record, len(passed)
        raise last

    def _link(self) -> Link:
        """The connection for new requests."""
        with self._lock:
            if self._current is not None:
                if self._current.usable():
                    return self._current
                self._retired.append(self._current)
                self._current = None
            self._retired = [link for link in self._retired if not link.hung_up()]
            for _ in range(_ATTEMPTS):
                link = Link(self.path)
                try:
                    link.hello()
                except Gone:
                    continue
                self._current = link
                return link
        raise Lost()

    def _retire(self, link: Link) -> None:
        with self._lock:
            if self._current is link:
                self._retired.append(link)
                self._current = None


def _request(
    sock: socket.socket,
    flags: int,
    stream: int,
    localid: str,
    remoteid: str,
    service: str,
    timeout: Optional[float],
) -> Starttls:
    ipproto = socket.IPPROTO_TCP
    if sock.type == socket.SOCK_DGRAM:
        ipproto, flags = socket.IPPROTO_UDP, flags | Flag.DTLS
    elif sock.proto == socket.IPPROTO_SCTP:
        ipproto = socket.IPPROTO_SCTP
    if not 0 <= stream <= EVERY_STREAM:
        raise ValueError(f"stream: 0 to {EVERY_STREAM}")
    names = localid, remoteid
    limit = _milliseconds(timeout)
    asked = Starttls(int(flags), ipproto, *names, os.urandom(16), service, limit, streamid=stream)
    asked.encode()
    return asked


@contextlib.contextmanager
def _closing_on_failure(
    sock: socket.socket, plaintext: Union[socket.socket, Connect, None]
) -> Iterator[None]:
    """Both sockets are consumed, also by a request that cannot be made."""
    try:
        yield
    except BaseException:
        sock.close()
        if isinstance(plaintext, socket.socket):
            plaintext.close()
        raise


def _milliseconds(timeout: Optional[float]) -> int:
    return 0 if timeout is None else max(1, min(int(timeout * 1000), 0xFFFFFFFE))


def _with_answer(state: Starttls, answer: Union[LocalidAnswer, str]) -> Starttls:
    if answer is LocalidAnswer.ACCEPT:
        return state
    if answer is LocalidAnswer.NOT_THIS:
        return state._replace(localid="")
    if isinstance(answer, str):
        return state._replace(localid=answer)
    raise TypeError("check_localid returns a LocalidAnswer or another name")


def _plaintext_end(
    plaintext: Union[socket.socket, Connect, None], state: Starttls
) -> tuple[socket.socket, Optional[socket.socket]]:
    """The pool's end, and ours if it is for us to return."""
    if isinstance(plaintext, socket.socket):
        return plaintext, None
    if plaintext is not None:
        return plaintext(state.localid, state.remoteid), None
    # Unlike a datagram socket, one of SEQPACKET tells that the other end is gone.
    messages = state.flags & Flag.DTLS
    kind = socket.SOCK_SEQPACKET if messages else socket.SOCK_STREAM
    ours, pools = socket.socketpair(socket.AF_UNIX, kind)
    return pools, ours


def _no_error(record: Record) -> Record:
    if record.command == _wire.ERROR:
        raise PoolError(*_wire.unpack_error(record.data))
    return record


def _expect(record: Record, command: int) -> bytes:
    if _no_error(record).command != command:
        raise Error("the TLS Pool's answer makes no sense")
    return record.data


def _is_elsewhere(error: Exception) -> bool:
    return isinstance(error, Lost) or getattr(error, "name", None) in (
        "CTLKEY_NOT_FOUND",
        "CTLKEY_NOT_YOURS",
        "RENEGOTIATE_NOT_FOUND",
        "DRAINING",
    )
