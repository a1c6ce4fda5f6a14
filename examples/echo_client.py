#!/usr/bin/env python3
"""Echo client over TLS: echo_client.py ADDR:PORT REMOTEID [LOCALID [MESSAGE]]

Sends MESSAGE, prints what comes back, and who both sides are.
"""

import socket
import sys

import tlspool


def main():
    if not 3 <= len(sys.argv) <= 5:
        sys.exit("usage: echo_client.py ADDR:PORT REMOTEID [LOCALID [MESSAGE]]")
    host, _, port = sys.argv[1].rpartition(":")
    localid = sys.argv[3] if len(sys.argv) > 3 else ""
    message = (sys.argv[4] if len(sys.argv) > 4 else "hello over TLS").encode()
    tcp = socket.create_connection((host.strip("[]"), int(port)))
    try:
        conn = tlspool.starttls_client(tcp, sys.argv[2], localid=localid)
    except OSError as error:
        sys.exit(f"echo_client: {error}")
    with conn:
        print(f"server is {conn.remoteid}, we are {conn.localid or '(anonymous)'}")
        conn.sendall(message)
        conn.shutdown(socket.SHUT_WR)
        echoed = b"".join(iter(lambda: conn.recv(4096), b""))
    print(echoed.decode(errors="replace"))
    sys.exit(0 if echoed == message else 1)


if __name__ == "__main__":
    main()
