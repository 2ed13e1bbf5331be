#!/usr/bin/python3
"""A worker of one version. It handles the messages of the environments that use this version.

    worker.py --version 2.0.0 --decisions http://127.0.0.1:8620

Every worker also decides for the others: it takes a message that has arrived, looks up the version
of the message's environment, and moves the message to the stream of that version.
"""

import argparse
import json
import logging
import os
import signal
import socket
import time

import redis
from broker import Broker
from decisions import Decisions

log = logging.getLogger("worker")


class Worker:
    """One worker."""

    def __init__(self, args):
        self.broker = Broker(args.redis, args.queue)
        self.decisions = Decisions(args.decisions, args.service, args.token_file)
        self.version = args.version
        self.mine = self.broker.stream(args.version)
        self.me = f"{args.version}-{socket.gethostname()}-{os.getpid()}"
        self.patience = args.patience
        self.grace = args.grace
        self.work = args.work
        self.is_stopping = False
        self.cleaned = 0.0

    def run(self):
        """Works until it is stopped. It finishes the messages that it has taken."""
        self.decisions.start()
        while not self.is_stopping and not self.decisions.wait(0.5):
            pass
        while not self.is_stopping:
            try:
                self.turn()
            except redis.ConnectionError as error:
                log.warning("cannot reach Redis: %s; retrying in 1s", error)
                time.sleep(1)
            except redis.ResponseError as error:
                # Another worker has removed this version's empty stream. The next turn makes it
                # again.
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise

    def turn(self):
        """Takes some messages, and does what is due once a second."""
        streams = [self.broker.arrivals, self.mine]
        for stream in streams:
            self.broker.join(stream)
        messages = self.broker.take(self.me, streams)
        is_due = False
        if time.monotonic() - self.cleaned > 1:
            self.cleaned = time.monotonic()
            messages += self.broker.take_over(self.me, self.broker.arrivals, 1)
            messages += self.broker.take_over(self.me, self.mine, self.patience)
            is_due = True
        # The other workers wait for the decisions, so they come first.
        for stream, message, fields in messages:
            if stream == self.broker.arrivals:
                self.decide(message, fields)
        for stream, message, fields in messages:
            if stream == self.mine:
                self.handle(message, fields)
        if is_due and self.decisions.is_connected:
            self.return_leftovers()

    def decide(self, message, fields):
        """Moves a message to the version that its environment uses now."""
        value = fields.get("x-mayfly", "")
        table = self.decisions.table
        version = table.version(value)
        # The first id of a message stays with it, however often it is moved.
        fields = {"id": message, **fields, "revision": table.revision, "decided": time.time()}
        if version:
            self.broker.hand_over(message, version, fields)
        elif self.decisions.is_connected and self.broker.age(message) > self.grace:
            self.refuse(self.broker.arrivals, message, fields,
                        f"no environment has the x-mayfly value {value!r} and such a service")
        # Else it waits: a table may be some moments older than a new environment.

    def handle(self, message, fields):
        """The work itself. Its result is recorded exactly once, also if a worker is killed."""
        # Calls to other services carry the header of the message, if it has one:
        #     requests.get("http://billing.service/", headers={"x-mayfly": fields["x-mayfly"]})
        # What it changes outside Redis must be idempotent, with fields["id"] as the key.
        try:
            order = json.loads(fields["body"])
        except (KeyError, ValueError) as error:
            self.refuse(self.mine, message, fields, f"the body is no JSON: {error}")
            return
        time.sleep(self.work)
        result = {"id": fields["id"], "order": order, "by": self.version,
                  "value": fields.get("x-mayfly", ""), "revision": int(fields["revision"]),
                  "decided": float(fields["decided"])}
        self.broker.finish(self.mine, message, json.dumps(result))

    def refuse(self, stream, message, fields, reason):
        """Sets a message aside for a person to look at."""
        log.warning("refused message %s: %s", fields["id"], reason)
        self.broker.move(stream, message, self.broker.refused, {**fields, "reason": reason})

    def return_leftovers(self):
        """Lets workers decide again about messages for a version that no environment uses now."""
        used = {self.broker.stream(version) for version in self.decisions.table.in_use()}
        for stream in self.broker.streams() - used - {self.mine}:
            self.broker.join(stream)
            left = self.broker.take(self.me, [stream], count=100, block=None)
            left += self.broker.take_over(self.me, stream, self.patience)
            for _, message, fields in left:
                self.broker.move(stream, message, self.broker.arrivals, fields)
            self.broker.forget(stream)

    def stop(self, *_):
        """Asks it to stop."""
        self.is_stopping = True


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", default=os.environ.get("VERSION"),
                        required="VERSION" not in os.environ, help="the version of this worker")
    parser.add_argument("--service", default="orders", help="its name in environment files")
    parser.add_argument("--decisions", default="http://127.0.0.1:8620", help="where mayfly-web is")
    parser.add_argument("--token-file", help="the token of mayfly-web")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--queue", default="orders")
    parser.add_argument("--patience", type=float, default=30,
                        help="after how many seconds another worker takes a message over; "
                             "longer than the work on a message takes")
    parser.add_argument("--grace", type=float, default=10,
                        help="how many seconds a message waits for its environment to appear")
    parser.add_argument("--work", type=float, default=0,
                        help="how many seconds the work on a message takes in this example")
    return parser.parse_args()


def main():
    """Runs one worker."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    worker = Worker(arguments())
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, worker.stop)
    worker.run()


if __name__ == "__main__":
    main()
