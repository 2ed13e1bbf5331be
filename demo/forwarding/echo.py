#!/usr/bin/python3
"""The last service of the chain: answers with the environment headers that it got, as JSON.

    demo/forwarding/echo.py PORT
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    """Answers every request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Every line of the two headers counts, so all of them are in the answer."""
        got = {name: self.headers.get_all(name, []) for name in ["x-mayfly", "baggage"]}
        body = json.dumps(got).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Requests are not logged."""


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
