"""As much of Redis's protocol as the shop needs: a command and its answer, on a connection each."""

import os
import socket
from urllib.parse import urlparse


def ask(*words):
    """Sends a command to REDIS_URL; the answer is a text, a number, a list or None."""
    server = urlparse(os.environ["REDIS_URL"])
    with socket.create_connection((server.hostname, server.port), timeout=30) as connection:
        parts = [str(word).encode() for word in words]
        bulks = (b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        connection.sendall(b"*%d\r\n" % len(parts) + b"".join(bulks))
        return _read(connection.makefile("rb"))


def _read(stream):
    line = stream.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode()
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else stream.read(size + 2)[:-2].decode()
    if kind == b"*":
        size = int(rest)
        return None if size < 0 else [_read(stream) for _ in range(size)]
    raise OSError(f"Redis: {rest or 'the connection ended'}")
