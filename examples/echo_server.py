#!/usr/bin/env python3
"""Echo server over TLS: echo_server.py ADDR:PORT LOCALID

Sends every client its own bytes back, and says who the client is.
"""

import socket
import sys
import threading

import tlspool


def serve(client, localid):
    try:
        conn = tlspool.starttls_server(client, localid, require=False)
    except OSError as error:
        print(f"echo_server: {error}", file=sys.stderr)
        return
    print("client is", conn.remoteid or "(anonymous)", flush=True)
    with conn:
        while data := conn.recv(4096):
            conn.sendall(data)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: echo_server.py ADDR:PORT LOCALID")
    host, _, port = sys.argv[1].rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family)
    print(f"listening on {sys.argv[1]} as {sys.argv[2]}", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, sys.argv[2]), daemon=True).start()


if __name__ == "__main__":
    main()
