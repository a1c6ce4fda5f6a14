"""A pool without TLS: it copies the plaintext as it is, or does what a test says."""

from __future__ import annotations

import os
import socket
import tempfile
import threading

from tlspool import _errors, _wire
from tlspool._wire import Record, Starttls


class Client:
    """A program that connected."""

    def __init__(self, sock):
        self.sock = sock
        #: Of what a greeting asks for, what it is not told.
        self.lacks = _wire.Facility.PLAINTEXT_ALONG

    def receive(self):
        """The next record with its descriptors; answers greetings by itself."""
        while True:
            raw, fds = b"", []
            while len(raw) < _wire.RECORD_LEN:
                piece, new, _, _ = socket.recv_fds(self.sock, _wire.RECORD_LEN - len(raw), 2)
                if not piece:
                    raise EOFError
                raw += piece
                fds += new
            record = Record.decode(raw)
            if record.command == _wire.PING:
                facilities = _wire.unpack_ping(record.data)[1]
                if facilities & _wire.Facility.DRAIN_NOTICE:
                    granted = _wire.pack_ping(_wire.IDENTITY, facilities & ~self.lacks)
                    self.answer(record, _wire.PING, granted)
                    continue
            return record, fds

    def answer(self, request, command, data=b"", cbid=0):
        self.sock.sendall(Record(request.reqid, cbid, command, data).encode())

    def error(self, request, name, message=""):
        data = _wire.pack_error(_errors.code(name), message)
        self.answer(request, _wire.ERROR, data)

    def establish(self):
        """Finishes a STARTTLS as it was asked for."""
        request, fds = self.receive()
        self.answer(request, _wire.PLAINTEXT_CONNECT, request.data, cbid=1)
        _, plain = self.receive()
        for fd in fds + plain:
            os.close(fd)
        self.answer(request, _wire.STARTTLS, request.data)

    def relay(self, localid, remoteid):
        handshakes = {}
        while True:
            record, fds = self.receive()
            if record.command == _wire.STARTTLS:
                state = Starttls.decode(record.data)
                state = state._replace(
                    localid=state.localid or localid, remoteid=state.remoteid or remoteid
                )
                handshakes[record.reqid] = fds[0], state
                self.answer(record, _wire.PLAINTEXT_CONNECT, state.encode(), cbid=7)
            elif record.command == _wire.PLAINTEXT_CONNECT:
                cipher, state = handshakes.pop(record.reqid)
                copy_both_ways(cipher, fds[0])
                self.answer(record, _wire.STARTTLS, state.encode())
            elif record.command == _wire.PRNG:
                head = record.data[:6]
                self.answer(record, _wire.PRNG, head + b"r" * 350)
            elif record.command == _wire.INFO:
                key, kind = record.data[:16], int.from_bytes(record.data[16:20], "little")
                self.answer(record, _wire.INFO, _wire.pack_info(key, kind, b"fact"))
            elif record.command in (_wire.CONTROL_DETACH, _wire.CONTROL_REATTACH):
                self.answer(record, _wire.SUCCESS)
            elif record.command == _wire.ERROR:
                cipher, _ = handshakes.pop(record.reqid)
                os.close(cipher)
                self.answer(record, _wire.ERROR, record.data)
            else:
                self.answer(record, record.command, record.data)


class FakePool:
    """Listens in a folder of its own; a context manager."""

    def __init__(self):
        self.dir = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.dir.name, "pool")
        self.listen()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen()

    def accept(self):
        return Client(self.sock.accept()[0])

    def run(self, script):
        """Runs SCRIPT(self) in a thread, which the test joins by leaving the with block."""
        self.failure = None

        def guarded():
            try:
                script(self)
            except BaseException as error:
                self.failure = error

        self.thread = threading.Thread(target=guarded, daemon=True)
        self.thread.start()
        return self

    def relay(self, localid="me.example", remoteid="peer.example"):
        """Serves every program in threads that nobody joins."""

        def serve(client):
            try:
                client.relay(localid, remoteid)
            except (EOFError, OSError):
                pass

        def accept():
            while True:
                try:
                    client = self.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=[client], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        thread = getattr(self, "thread", None)
        if thread and kind is None:
            thread.join()
            if self.failure:
                raise self.failure
        self.sock.close()
        self.dir.cleanup()


def copy_both_ways(a, b):
    def copy(source, sink):
        while data := os.read(source, 4096):
            os.write(sink, data)
        with socket.socket(fileno=os.dup(sink)) as end:
            end.shutdown(socket.SHUT_WR)

    def guarded(source, sink):
        try:
            copy(source, sink)
        except OSError:
            pass

    for pair in ((a, b), (b, a)):
        threading.Thread(target=guarded, args=pair, daemon=True).start()
