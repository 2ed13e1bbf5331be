"""A small shop: `shop.py web|catalog|prices|stock|orders|payments|worker`.

    web       GET /       the goods with price and stock
              POST /buy   orders one
    catalog   asks prices and stock
    orders    asks payments, then puts a message into the queue
    worker    reads the queue, and takes the goods out of the stock
    stock     has its numbers in Redis
"""

import json
import os
import sys
import time
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import redis_client as redis
import telemetry

GOODS = {"tea": 7, "coffee": 9}
NAME = sys.argv[1] if len(sys.argv) > 1 else ""


def url(service):
    """Where another service is."""
    return os.environ[f"{service.upper()}_URL"]


def call(service, path="/"):
    """Asks another service."""
    return json.loads(telemetry.get(url(service) + path))


def web():
    """The page."""
    lines = [f"{good['name']}: {good['price']} EUR, {good['stock']} left" for good in call("catalog")]
    return {"shop": lines}


def buy():
    """Orders one packet of tea."""
    return json.loads(telemetry.post(url("orders") + "/?good=tea"))


def catalog():
    """All goods."""
    prices, stock = call("prices"), call("stock")
    return [{"name": good, "price": prices[good], "stock": stock[good]} for good in GOODS]


def stock():
    """How much there is of each."""
    return {good: int(redis.ask("GET", f"stock:{good}") or 100) for good in GOODS}


def take(query):
    """Takes one out."""
    good = query.removeprefix("good=")
    redis.ask("SET", f"stock:{good}", 100, "NX")
    return {"left": redis.ask("DECR", f"stock:{good}")}


def order(query):
    """Lets the customer pay, and queues the order with the context of the request."""
    paid = json.loads(telemetry.post(url("payments") + "/"))
    message = {"good": query.removeprefix("good="), "context": telemetry.inject()}
    redis.ask("RPUSH", "orders", json.dumps(message))
    return {"ordered": message["good"], "paid": paid["paid"]}


ROUTES = {
    "web": {"GET /": lambda query: web(), "POST /buy": lambda query: buy()},
    "catalog": {"GET /": lambda query: catalog()},
    "prices": {"GET /": lambda query: GOODS},
    "stock": {"GET /": lambda query: stock(), "POST /take": take},
    "orders": {"POST /": order},
    "payments": {"POST /": lambda query: {"paid": True}},
}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Asks."""
        self.answer()

    def do_POST(self):
        """Changes."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.answer()

    def answer(self):
        """Runs what belongs to the path."""
        telemetry.extract(self.headers)
        asked = urlparse(self.path)
        run = ROUTES[NAME].get(f"{self.command} {asked.path}")
        if asked.path == "/health":
            code, body = 200, {"healthy": True}
        elif run is None:
            code, body = 404, {"error": f"{NAME} has no {self.command} {asked.path}"}
        else:
            try:
                code, body = 200, run(asked.query)
            except (OSError, urllib.error.URLError) as error:
                code, body = 502, {"error": f"{NAME}: {error}"}
        text = json.dumps(body).encode() + b"\n"
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128


def work():
    """Takes orders out of the queue, one after the other."""
    while True:
        try:
            answer = redis.ask("BLPOP", "orders", 5)
            if answer:
                message = json.loads(answer[1])
                telemetry.extract(message["context"])
                left = json.loads(telemetry.post(f"{url('stock')}/take?good={message['good']}"))
                redis.ask("RPUSH", "done", json.dumps({"good": message["good"], **left}))
                print(f"sent {message['good']}, {left['left']} left", flush=True)
        except OSError as error:
            print(f"{error}; trying again in 1s", flush=True)
            time.sleep(1)


def main():
    """Runs one program of the shop."""
    if NAME == "worker":
        work()
    elif NAME in ROUTES:
        Server(("", 8080), Handler).serve_forever()
    else:
        sys.exit(f"usage: shop.py {'|'.join([*ROUTES, 'worker'])}")


if __name__ == "__main__":
    main()
