"""The same as messages.c, in Python, but for "simple", which here is DTLS on stream 0."""

import socket
import struct
import sys

import tlspool
from tlspool import EVERY_STREAM, Flag, Message

#: Of <linux/sctp.h>.
SCTP_AUTH_CHUNK, SCTP_AUTH_SUPPORTED = 21, 129


def association():
    """A socket whose chunks of data are authenticated, which both ends of DTLS have to ask for."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    sock.setsockopt(socket.IPPROTO_SCTP, SCTP_AUTH_SUPPORTED, struct.pack("=iI", 0, 1))
    for chunk in 0, 192:
        sock.setsockopt(socket.IPPROTO_SCTP, SCTP_AUTH_CHUNK, bytes([chunk]))
    return sock


HOW = {
    "client": {"flags": Flag.DTLS, "stream": EVERY_STREAM},
    "simple": {"flags": Flag.DTLS},
    "stream": {"stream": 3},
}


def client(how, port, server):
    sock = association()
    sock.connect(("127.0.0.1", int(port)))
    conn = tlspool.starttls_client(sock, server, **HOW[how])
    if how == "client":
        conn.send(Message(b"hello\0", stream=3, ppid=47).encode())
        message = Message.decode(conn.recv(100))
        more = f" on stream {message.stream} with PPID {message.ppid}"
    else:
        conn.send(b"hello\0")
        message, more = Message(conn.recv(100)), ""
    print(f"{conn.remoteid} said {message.data[:-1].decode()}{more}")
    conn.close()


def server(name, how):
    listener = association()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print("ready", listener.getsockname()[1], flush=True)
    options = dict(HOW[how])
    options["flags"] = options.get("flags", 0) | Flag.IGNORE_REMOTEID
    conn = tlspool.starttls_server(listener.accept()[0], name, **options)
    while message := conn.recv(20000):
        conn.send(message)
    conn.close()
    print("ended")


if sys.argv[1] == "server":
    server(*sys.argv[2:])
else:
    client(*sys.argv[1:])
