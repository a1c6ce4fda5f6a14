"""Pools that come late, leave or are full; sockets in unusual hands."""

import asyncio
import os
import signal
import socket
import threading
import unittest
from unittest import mock

from tlspool import NoPool, Pool, PoolError, _errors, _wire, aio
from tlspool._wire import Record

from .fake_pool import FakePool
from .test_pool import a_socket


class Connections(unittest.TestCase):
    def test_a_pool_that_starts_later_is_found(self):
        with FakePool() as fake:
            config = os.path.join(fake.dir.name, "tlspool.conf")
            with mock.patch.dict(os.environ, {"TLSPOOL_CONFIG_FILE": config}):
                with open(config, "w") as file:
                    file.write("socket_name /nowhere/pool\n")
                pool = Pool()
                with self.assertRaises(NoPool):
                    pool.ping()
                with open(config, "w") as file:
                    file.write(f"socket_name {fake.relay().path}\n")
                self.assertEqual(pool.path, fake.path)
                pool.ping()

    def test_an_answer_on_its_way_arrives_although_sending_fails(self):
        stopped, moved = threading.Event(), threading.Event()

        def script(fake):
            old = fake.accept()
            request, fds = old.receive()
            old.sock.shutdown(socket.SHUT_RD)
            stopped.set()
            new = fake.accept()
            ping, _ = new.receive()
            new.answer(ping, _wire.PING, ping.data)
            self.assertTrue(moved.wait(60))
            old.sock.sendall(Record(0, 0, _wire.DRAINING, b"").encode())
            old.answer(request, _wire.STARTTLS, request.data)
            os.close(fds[0])

        with FakePool().run(script) as fake:
            pool = Pool(fake.path)
            outcome = []

            def first():
                try:
                    outcome.append(pool.starttls_client(a_socket(), "example.com"))
                except OSError as error:
                    outcome.append(error)

            thread = threading.Thread(target=first)
            thread.start()
            self.assertTrue(stopped.wait(60))
            pool.ping()
            moved.set()
            thread.join()
            self.assertEqual(getattr(outcome[0], "remoteid", outcome[0]), "example.com")
            outcome[0].close()

    def test_a_pool_that_is_full_says_so(self):
        def part(client):
            code = _errors.code("LIMIT_REACHED")
            data = _wire.pack_error(code, "see limits.clients")
            client.sock.sendall(Record(0, 0, _wire.ERROR, data).encode())
            client.sock.close()

        def script(fake):
            part(fake.accept())
            late = fake.accept()
            late.receive()
            part(late)
            part(fake.accept())

        with FakePool().run(script) as fake:
            for ask in (
                lambda: Pool(fake.path).starttls_client(a_socket(), "example.com"),
                lambda: Pool(fake.path).starttls_client(a_socket(), "example.com"),
                lambda: Pool(fake.path).pin_service(lambda entry: None),
            ):
                with self.assertRaisesRegex(PoolError, "see limits.clients") as caught:
                    ask()
                self.assertEqual(caught.exception.name, "LIMIT_REACHED")

    def test_a_session_on_an_older_connection_is_reattached(self):
        def script(fake):
            old = fake.accept()
            ping, _ = old.receive()
            old.answer(ping, _wire.PING, ping.data)
            old.sock.sendall(Record(0, 0, _wire.DRAINING, b"").encode())
            drained.set()
            new = fake.accept()
            question, _ = new.receive()
            new.error(question, "CTLKEY_NOT_FOUND")
            question, _ = old.receive()
            self.assertEqual(question.command, _wire.CONTROL_REATTACH)
            old.answer(question, _wire.SUCCESS)

        drained = threading.Event()
        with FakePool().run(script) as fake:
            pool = Pool(fake.path)
            pool.ping()
            self.assertTrue(drained.wait(60))
            pool.reattach(b"k" * 16)

    def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have(self):
        with FakePool() as fake:
            pool = Pool(fake.relay().path)
            with pool._lock:  # as while another thread connects
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    pool.ping()
                    os._exit(0)
            self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_keying_material_is_of_the_length_that_was_asked_for(self):
        def script(fake):
            client = fake.accept()
            question, _ = client.receive()
            shorter = question.data[:4] + b"\x08\0" + b"r" * 350
            client.answer(question, _wire.PRNG, shorter)

        with FakePool().run(script) as fake:
            with self.assertRaisesRegex(OSError, "keying material"):
                Pool(fake.path).prng(b"k" * 16, "EXPERIMENTAL", 20)


class Sockets(unittest.TestCase):
    def test_a_connection_is_duplicated(self):
        with FakePool() as fake:
            tcp, peer = socket.socketpair()
            conn = Pool(fake.relay().path).starttls_client(tcp, "example.com")
            conn.settimeout(30)
            twin = conn.dup()
            names = (twin.localid, twin.remoteid, twin.flags, twin.ctlkey)
            self.assertEqual(names, (conn.localid, conn.remoteid, conn.flags, conn.ctlkey))
            self.assertEqual(twin.gettimeout(), 30)
            self.assertFalse(twin.get_inheritable())
            conn.close()
            twin.sendall(b"1")
            self.assertEqual(peer.recv(1), b"1")
            twin.close()
            self.assertEqual(peer.recv(1), b"")
            peer.close()

    def test_plaintext_elsewhere_with_asyncio(self):
        async def talk(pool):
            for starttls in (aio.starttls_client, aio.starttls_server):
                tcp, peer = socket.socketpair()
                ours, pools = socket.socketpair()
                self.assertIsNone(await starttls(tcp, "a.example", pool=pool, plaintext=pools))
                ours.sendall(b"1")
                self.assertEqual(peer.recv(1), b"1")
                ours.close()
                peer.close()
            with self.assertRaisesRegex(ValueError, "plaintext"):
                await aio.open_connection("192.0.2.1", 1, plaintext=a_socket())

        with FakePool() as fake:
            asyncio.run(talk(Pool(fake.relay().path)))

    def test_bad_arguments_close_the_plaintext_socket(self):
        for ask in (Pool("/nowhere").starttls_client, Pool("/nowhere").starttls_server):
            for name, error in (("x" * 128, ValueError), ("x", NoPool)):
                sock, plain = a_socket(), a_socket()
                with self.assertRaises(error):
                    ask(sock, name, plaintext=plain)
                self.assertEqual((sock.fileno(), plain.fileno()), (-1, -1))


if __name__ == "__main__":
    unittest.main()
