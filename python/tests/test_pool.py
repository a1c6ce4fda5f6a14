import asyncio
import errno
import os
import socket
import threading
import unittest
from unittest import mock

import tlspool
from tlspool import Flag, LidentryFlag, LocalidAnswer, Lost, NoPool, Pool, PoolError, _wire, aio
from tlspool._wire import Lidentry, Pinentry, Record, Starttls

from .fake_pool import FakePool


def a_socket():
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


class Sessions(unittest.TestCase):
    def test_names_and_plaintext_come_back(self):
        with FakePool() as fake:
            pool = Pool(fake.relay().path)
            tcp, peer = socket.socketpair()
            conn = pool.starttls_client(tcp, "example.com", service="imap", timeout=5)
            self.assertEqual((conn.localid, conn.remoteid), ("me.example", "example.com"))
            self.assertEqual(tcp.fileno(), -1)
            self.assertFalse(os.get_inheritable(conn.fileno()))
            conn.sendall(b"over")
            self.assertEqual(peer.recv(4), b"over")
            peer.sendall(b"back")
            self.assertEqual(conn.recv(4), b"back")
            peer.close()
            self.assertEqual(conn.recv(4), b"")
            self.assertEqual(pool.prng(conn.ctlkey, "EXPERIMENTAL", 20), b"r" * 20)
            self.assertEqual(pool.info(conn.ctlkey, tlspool.InfoKind.TLS_EXPORTER), b"fact")
            self.assertTrue(pool.check_info(conn.ctlkey, 1, b"fact"))
            pool.detach(conn.ctlkey)
            pool.reattach(conn.ctlkey)
            self.assertEqual(pool.ping()[0], _wire.IDENTITY)
            conn.close()

    def test_datagrams_keep_their_boundaries_and_end(self):
        def script(fake):
            client = fake.accept()
            request, fds = client.receive()
            state = Starttls.decode(request.data)
            self.assertEqual((state.ipproto, bool(state.flags & Flag.DTLS)), (17, True))
            client.answer(request, _wire.PLAINTEXT_CONNECT, request.data, cbid=1)
            _, plain = client.receive()
            client.answer(request, _wire.STARTTLS, request.data)
            os.close(fds[0])
            with socket.socket(fileno=plain[0]) as pools:
                self.assertEqual([pools.recv(9), pools.recv(9)], [b"one", b"two"])
                pools.send(b"three")
                pools.send(b"four")

        with FakePool().run(script) as fake:
            near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
            with far:
                far.bind(("127.0.0.1", 0))
                near.connect(far.getsockname())
                conn = Pool(fake.path).starttls_client(near, "example.com")
                conn.send(b"one")
                conn.send(b"two")
                self.assertEqual([conn.recv(9) for _ in range(3)], [b"three", b"four", b""])
                conn.close()

    def test_streams_of_sctp(self):
        class Association(socket.socket):
            # The kernel at hand may have no SCTP.
            proto = socket.IPPROTO_SCTP

        def script(fake):
            client = fake.accept()
            for stream, flags, kind in (
                (3, 0, socket.SOCK_STREAM),
                (tlspool.EVERY_STREAM, Flag.DTLS, socket.SOCK_SEQPACKET),
            ):
                request, fds = client.receive()
                state = Starttls.decode(request.data)
                self.assertEqual((state.ipproto, state.streamid), (132, stream))
                self.assertEqual(state.flags & Flag.DTLS, flags)
                client.answer(request, _wire.PLAINTEXT_CONNECT, request.data, cbid=1)
                _, plain = client.receive()
                client.answer(request, _wire.STARTTLS, request.data)
                os.close(fds[0])
                with socket.socket(fileno=plain[0]) as pools:
                    self.assertEqual(pools.type, kind)
                    pools.sendall(pools.recv(100))

        message = tlspool.Message(b"hello", stream=7, ppid=47, unordered=True)
        with FakePool().run(script) as fake:
            pool = Pool(fake.path)
            for stream, flags in ((3, 0), (tlspool.EVERY_STREAM, Flag.DTLS)):
                sock = Association(fileno=a_socket().detach())
                conn = pool.starttls_client(sock, "example.com", stream=stream, flags=flags)
                conn.send(message.encode())
                self.assertEqual(tlspool.Message.decode(conn.recv(100)), message)
                conn.close()
            with self.assertRaisesRegex(ValueError, "stream"):
                pool.starttls_client(a_socket(), "example.com", stream=0x10000)
        self.assertEqual(message.encode()[4:], b"\0\0\0\x2fhello")
        with self.assertRaises(ValueError):
            tlspool.Message.decode(b"1234567")

    def test_a_session_is_renegotiated(self):
        def script(fake):
            client = fake.accept()
            client.establish()
            request, fds = client.receive()
            state = Starttls.decode(request.data)
            self.assertEqual((fds, state.flags), ([], Flag.RENEGOTIATE | Flag.REQUEST_REMOTEID))
            self.assertEqual((state.localid, state.timeout_ms), ("me@example.org", 2000))
            answer = state._replace(remoteid="peer.example").encode()
            client.answer(request, _wire.STARTTLS, answer)
            request, _ = client.receive()
            self.assertEqual(Starttls.decode(request.data).ctlkey, b"k" * 16)
            client.error(request, "RENEGOTIATE_NOT_INTERRUPTABLE")

        with FakePool().run(script) as fake:
            pool = Pool(fake.path)
            conn = pool.starttls_client(a_socket(), "example.com")
            names = pool.renegotiate(
                conn, localid="me@example.org", flags=Flag.REQUEST_REMOTEID, timeout=2
            )
            self.assertEqual(names, ("me@example.org", "peer.example"))
            self.assertEqual((conn.localid, conn.remoteid), names)
            with self.assertRaises(PoolError) as caught:
                pool.renegotiate(b"k" * 16)
            self.assertEqual(caught.exception.name, "RENEGOTIATE_NOT_INTERRUPTABLE")
            with self.assertRaises(ValueError):
                pool.renegotiate(b"short")
            conn.close()

    def test_the_request_says_what_was_asked(self):
        def script(fake):
            client = fake.accept()
            request, fds = client.receive()
            state = Starttls.decode(request.data)
            self.assertEqual(len(fds), 1)
            self.assertEqual(state.localid, "srv.example")
            wanted = Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT | Flag.REQUEST_REMOTEID
            self.assertEqual(state.flags, wanted | Flag.FORK)
            self.assertEqual((state.ipproto, state.timeout_ms, state.service), (6, 1500, "http"))
            client.error(request, "LOCALID_UNKNOWN", "no such local identity: srv.example")

        with FakePool().run(script) as fake:
            with self.assertRaises(PoolError) as caught:
                Pool(fake.path).starttls_server(
                    a_socket(), "srv.example", require=False, flags=Flag.FORK, timeout=1.5,
                    service="http",
                )
            self.assertEqual(caught.exception.name, "LOCALID_UNKNOWN")
            self.assertEqual(str(caught.exception), "no such local identity: srv.example")

    def test_the_plaintext_goes_along_when_the_pool_takes_it(self):
        def script(fake):
            client = fake.accept()
            client.lacks = 0
            question, _ = client.receive()
            client.answer(question, _wire.PING, question.data)
            request, fds = client.receive()
            self.assertEqual(len(fds), 2)
            client.answer(request, _wire.STARTTLS, request.data)
            with socket.socket(fileno=fds[1]) as plain:
                plain.sendall(b"hello")
            os.close(fds[0])

        with FakePool().run(script) as fake:
            pool = Pool(fake.path)
            pool.ping()
            conn = pool.starttls_client(a_socket(), "example.com")
            # To the end: nobody else holds the pool's end.
            self.assertEqual(conn.recv(9), b"hello")
            self.assertEqual(conn.recv(9), b"")
            conn.close()

    def test_the_plaintext_may_go_elsewhere(self):
        with FakePool() as fake:
            pool = Pool(fake.relay().path)
            tcp, peer = socket.socketpair()
            ours, pools = socket.socketpair()
            self.assertIsNone(pool.starttls_client(tcp, "example.com", plaintext=pools))
            ours.sendall(b"1")
            self.assertEqual(peer.recv(1), b"1")
            ours.close()
            self.assertEqual(peer.recv(1), b"")

            def refuse(localid, remoteid):
                self.assertEqual((localid, remoteid), ("me.example", "example.com"))
                raise ConnectionRefusedError(errno.ECONNREFUSED, "not today")

            with self.assertRaisesRegex(ConnectionRefusedError, "not today"):
                pool.starttls_client(a_socket(), "example.com", plaintext=refuse)

    def test_local_identities_are_checked(self):
        def script(fake):
            client = fake.accept()
            request, _ = client.receive()
            state = Starttls.decode(request.data)
            self.assertTrue(state.flags & Flag.LOCALID_CHECK)
            for name, expected in (("a", ""), ("b", "b"), ("c", "d")):
                proposal = state._replace(localid=name).encode()
                client.answer(request, _wire.STARTTLS_LOCALID, proposal, cbid=3)
                answer, _ = client.receive()
                self.assertEqual((answer.reqid, answer.cbid), (request.reqid, 3))
                self.assertEqual(Starttls.decode(answer.data).localid, expected)
            client.answer(request, _wire.STARTTLS, request.data)

        answers = {"a": LocalidAnswer.NOT_THIS, "b": LocalidAnswer.ACCEPT, "c": "d"}
        with FakePool().run(script) as fake:
            Pool(fake.path).starttls_server(
                a_socket(), check_localid=lambda localid, _: answers[localid]
            )

    def test_bad_arguments_close_the_socket(self):
        sock = a_socket()
        with self.assertRaisesRegex(ValueError, "remoteid"):
            Pool("/nowhere").starttls_client(sock, "x" * 128)
        self.assertEqual(sock.fileno(), -1)
        sock = a_socket()
        with self.assertRaisesRegex(NoPool, "/nowhere") as caught:
            Pool("/nowhere").starttls_client(sock, "x")
        self.assertEqual((sock.fileno(), caught.exception.errno), (-1, errno.ENOENT))


class Connections(unittest.TestCase):
    def test_threads_share_a_connection(self):
        threads = 20

        def script(fake):
            client = fake.accept()
            for _ in range(5):
                for request in reversed([client.receive()[0] for _ in range(threads)]):
                    client.answer(request, _wire.PING, request.data)

        with FakePool().run(script) as fake:
            pool = Pool(fake.path)
            wrong = []

            def ask(name):
                for _ in range(5):
                    if pool.ping(name)[0] != name:
                        wrong.append(name)

            running = [threading.Thread(target=ask, args=[f"t{n}"]) for n in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            self.assertEqual(wrong, [])

    def test_records_in_pieces(self):
        def script(fake):
            client = fake.accept()
            for at in (1, 8, 387):
                request, _ = client.receive()
                stray = Record(999, 0, _wire.SUCCESS, b"").encode()
                raw = stray + Record(request.reqid, 0, _wire.PING, request.data).encode()
                client.sock.sendall(raw[: 388 + at])
                client.sock.sendall(raw[388 + at :])

        with FakePool().run(script) as fake:
            pool = Pool(fake.path)
            for name in ("1", "2", "3"):
                self.assertEqual(pool.ping(name)[0], name)

    def test_restart_loss_and_draining(self):
        with FakePool() as fake:
            pool = Pool(fake.path)
            connected, ready = threading.Event(), threading.Event()

            def script(fake):
                first = fake.accept()
                connected.wait()
                first.sock.close()
                fake.sock.close()
                fake.listen()
                ready.set()
                client = fake.accept()
                client.establish()
                client.receive()
                client.sock.close()  # lost: not asked again
                old = fake.accept()
                old.establish()
                request, fds = old.receive()
                self.assertEqual(len(fds), 1)
                old.error(request, "DRAINING")
                new = fake.accept()
                new.establish()
                new.error(new.receive()[0], "CTLKEY_NOT_FOUND")
                old.answer(old.receive()[0], _wire.SUCCESS)
                request, _ = new.receive()
                new.sock.sendall(Record(0, 0, _wire.DRAINING, b"").encode())
                new.answer(request, _wire.PING, request.data)
                fake.accept().establish()

            fake.run(script)
            pool._link()
            connected.set()
            ready.wait()
            self.assertEqual(pool.starttls_client(a_socket(), "one").remoteid, "one")
            with self.assertRaises(Lost):
                pool.starttls_client(a_socket(), "two")
            three = pool.starttls_client(a_socket(), "three")
            pool.starttls_client(a_socket(), "four")
            pool.detach(three.ctlkey)
            pool.ping()
            self.assertEqual(pool.starttls_client(a_socket(), "five").remoteid, "five")

    def test_a_forked_child_has_a_connection_of_its_own(self):
        with FakePool() as fake:
            pool = Pool(fake.relay().path)
            pool.ping()
            child = os.fork()
            if child == 0:
                link = pool._current
                pool.ping()
                os._exit(0 if pool._current is not link else 1)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            pool.ping()


class Services(unittest.TestCase):
    def test_pins(self):
        def script(fake):
            client = fake.accept()
            register, _ = client.receive()
            self.assertEqual(Pinentry.decode(register.data).timeout_us, 60_000_000)
            for label, pin in (("disk", "1234"), ("other", "")):
                client.answer(register, _wire.PINENTRY, Pinentry(label=label).encode(), cbid=9)
                self.assertEqual(Pinentry.decode(client.receive()[0].data).pin, pin)
            # A pool that is replaced sends it to its successor, also in the middle of a question.
            client.answer(register, _wire.PINENTRY, Pinentry(label="late").encode(), cbid=10)
            client.error(register, "DRAINING")
            client.sock.close()
            gone.set()
            client = fake.accept()
            self.assertEqual(client.receive()[0].data, register.data)
            client.error(register, "PINENTRY_NOT_VACANT")

        def ask(entry):
            if entry.label == "late":
                gone.wait()
            return None if entry.label == "other" else "1234"

        gone = threading.Event()

        with FakePool().run(script) as fake:
            with self.assertRaises(PoolError) as caught:
                Pool(fake.path).pin_service(ask)
            self.assertEqual(caught.exception.name, "PINENTRY_NOT_VACANT")
        self.assertNotIn("1234", repr(Pinentry(pin="1234")))

    def test_choices(self):
        def script(fake):
            client = fake.accept()
            register, _ = client.receive()
            self.assertEqual(register.command, _wire.LIDENTRY_REGISTER)
            wanted = Lidentry.decode(register.data)
            self.assertEqual((wanted.flags, wanted.timeout), (0x180, 60))

            def ask(**fields):
                data = Lidentry(**fields).encode()
                client.answer(register, _wire.LIDENTRY_CALLBACK, data, cbid=9)
                answer, _ = client.receive()
                self.assertEqual((answer.reqid, answer.cbid), (register.reqid, 9))
                return answer

            ask(flags=LidentryFlag.DBENTRY, localid="me@here.example", remoteid=".example")
            for remote, local, at in (
                ("a.example", "me@here.example", "a.example"),
                ("b.example", "", "b.example"),
                ("c.example", "you@here.example", ".example"),
            ):
                answer = Lidentry.decode(ask(remoteid=remote, maxlevels=2).data)
                self.assertEqual((answer.localid, answer.remoteid), (local, at))
            self.assertEqual(answer.flags, LidentryFlag.DBINSERT)
            refused = ask(remoteid="d.example")
            self.assertEqual(refused.command, _wire.ERROR)
            client.error(register, "DRAINING")
            # Its successor is asked for the same.
            client = fake.accept()
            self.assertEqual(client.receive()[0].data, register.data)
            client.error(register, "LIDENTRY_NOT_VACANT")

        def choose(entry):
            return {
                "a.example": "me@here.example",
                "b.example": "",
                "c.example": entry._replace(
                    localid="you@here.example", remoteid=".example", flags=LidentryFlag.DBINSERT
                ),
            }.get(entry.remoteid)

        shown = []
        with FakePool().run(script) as fake:
            with self.assertRaises(PoolError) as caught:
                flags = LidentryFlag.SKIP_DBENTRY | LidentryFlag.WANT_DBENTRY
                Pool(fake.path).localid_service(choose, flags, show=shown.append)
            self.assertEqual(caught.exception.name, "LIDENTRY_NOT_VACANT")
        self.assertEqual([entry.localid for entry in shown], ["me@here.example"])

    def test_localid_service_ends_with_a_pool_that_nobody_replaces(self):
        def script(fake):
            client = fake.accept()
            register, _ = client.receive()
            os.unlink(fake.path)
            client.error(register, "DRAINING")

        with FakePool().run(script) as fake:
            Pool(fake.path).localid_service(lambda entry: "")


class Asyncio(unittest.TestCase):
    def test_streams(self):
        async def talk(pool):
            tcp, peer = socket.socketpair()
            conn = await aio.starttls_client(tcp, "example.com", pool=pool)
            self.assertEqual(conn.remoteid, "example.com")
            reader, writer = await asyncio.open_connection(sock=conn)
            writer.write(b"hello")
            await writer.drain()
            self.assertEqual(peer.recv(5), b"hello")
            peer.sendall(b"world")
            self.assertEqual(await reader.readexactly(5), b"world")
            writer.close()
            peer.close()

        with FakePool() as fake:
            asyncio.run(talk(Pool(fake.relay().path)))


class Location(unittest.TestCase):
    def test_order(self):
        with FakePool() as fake:
            folder = fake.dir.name
            config = os.path.join(folder, "tlspool.conf")
            own = os.path.join(folder, "tlspool", "tlspool.sock")
            around = {"TLSPOOL_CONFIG_FILE": config, "XDG_RUNTIME_DIR": folder}
            with mock.patch.dict(os.environ, around), mock.patch("os.geteuid", lambda: 1000):
                self.assertEqual(tlspool.socket_path(), "/var/run/tlspool.sock")
                os.mkdir(os.path.dirname(own))
                open(own, "w").close()
                self.assertEqual(tlspool.socket_path(), own)
                with open(config, "w") as file:
                    file.write("# socket_name /wrong\nsocket_name\t/run/a b \n")
                self.assertEqual(tlspool.socket_path(), "/run/a b")
                self.assertEqual(tlspool.socket_path("/x"), "/x")


if __name__ == "__main__":
    unittest.main()
