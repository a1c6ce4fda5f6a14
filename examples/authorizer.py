#!/usr/bin/env python3
"""Decides for the TLS Pool which peers may have a session: a line of JSON each way, see docs/authorization.md.

    authorizer.py /run/authorizer.sock /etc/tlspool/people

Each line of the second file has a name or a domain, and services for which it is let in; none: for all.
The file is read for each question, so changes hold at once. Lines that begin with # do not count.

    john@example.org imap smtp
    example.net
"""

import json
import os
import socketserver
import sys

MAX_QUESTION = 4096  # the pool asks nothing that is longer


def decide(question: dict, people: str) -> dict:
    """The answer to a question."""
    remote, service = question["remote"], question["service"]
    if remote is None:
        return {"allow": False, "reason": "show a certificate"}
    domain = remote.rpartition("@")[2]
    with open(people, encoding="utf-8") as lines:
        for words in map(str.split, lines):
            if not words or words[0].startswith("#") or words[0].lower() not in (remote, domain):
                continue
            if len(words) == 1 or service in words[1:]:
                return {"allow": True}
            return {"allow": False, "reason": f"not for {service or 'a service without a name'}"}
    return {"allow": False, "reason": "not on the list"}


class Handler(socketserver.StreamRequestHandler):
    """One question."""

    timeout = 5  # seconds for a line to come

    def handle(self) -> None:
        line = self.rfile.readline(MAX_QUESTION + 1)
        if not line.endswith(b"\n"):
            return
        answer = decide(json.loads(line), self.server.people)
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingUnixStreamServer):
    """One thread a question."""

    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serves until it is ended."""
    path, people = sys.argv[1:]
    try:
        os.unlink(path)  # what an earlier run left
    except FileNotFoundError:
        pass
    with Server(path, Handler) as server:
        server.people = people
        os.chmod(path, 0o666)  # or give it to the group of tlspool-lookup
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
