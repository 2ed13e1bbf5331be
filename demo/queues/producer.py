#!/usr/bin/python3
"""A service that puts each order into the queue, with the header of the request that brought it.

    curl -H 'x-mayfly: temp-1' -d '{"number": 1}' http://127.0.0.1:8000/
"""

import argparse
import json
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis
from broker import Broker


def mayfly(headers):
    """The value of the request: `x-mayfly`, else the member `mayfly` of `baggage`."""
    if value := headers.get("x-mayfly"):
        return value
    for member in ",".join(headers.get_all("baggage", [])).split(","):
        name, _, value = member.partition("=")
        if name.strip() == "mayfly":
            return urllib.parse.unquote(value.partition(";")[0].strip())
    return None


class Orders(BaseHTTPRequestHandler):
    """Accepts orders."""

    protocol_version = "HTTP/1.1"
    # Longer than the 3 s for which HAProxy keeps an idle connection.
    timeout = 30
    broker = None

    def do_POST(self):
        """One order."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        value = mayfly(self.headers)
        if value is None:
            self.answer(400, "the header x-mayfly is missing")
            return
        try:
            json.loads(body)
        except ValueError as error:
            self.answer(400, f"the body is no JSON: {error}")
            return
        try:
            self.answer(202, self.broker.put({"x-mayfly": value, "body": body}))
        except redis.RedisError as error:
            self.answer(503, f"cannot put the order into the queue: {error}")

    def answer(self, status, text):
        """One line."""
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Orders are not logged."""


def main():
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--queue", default="orders")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    Orders.broker = Broker(args.redis, args.queue)
    ThreadingHTTPServer(("127.0.0.1", args.port), Orders).serve_forever()


if __name__ == "__main__":
    main()
