"""The same as datagrams.c, in Python."""

import socket
import sys

import tlspool
from tlspool import Flag


def connected(port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    return sock


def exchange(conn, line):
    conn.send(line)
    print("got", conn.recv(100).decode(), end="", flush=True)


def client(port, server, later):
    conn = tlspool.starttls_client(connected(int(port)), server)
    print(f"server is {conn.remoteid}, we are ({conn.localid})", flush=True)
    exchange(conn, b"first\n")
    tlspool.renegotiate(conn, server, localid=later)
    print(f"server is {conn.remoteid}, we are ({conn.localid})", flush=True)
    exchange(conn, b"second\n")
    conn.close()
    print("ok")


def server(name):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    print("ready", sock.getsockname()[1], flush=True)
    # Who is there; the datagram stays for the pool.
    sock.connect(sock.recvfrom(2000, socket.MSG_PEEK)[1])
    conn = tlspool.starttls_server(sock, name, flags=Flag.REQUEST_REMOTEID)
    print(f"client is ({conn.remoteid})", flush=True)
    while message := conn.recv(2000):
        conn.send(message)
    conn.close()
    print("ok")


{"client": client, "server": server}[sys.argv[1]](*sys.argv[2:])
