#!/usr/bin/python3
"""Checks one service of the chain: what it was called with arrives at the service that it calls.

    demo/forwarding/check.py http://127.0.0.1:8001 [PATH...]

It waits until the service answers. It then sends one request, 64 requests with different values at
a time, and one without a value, whose call must have none either.
"""

import concurrent.futures
import json
import sys
import time
import urllib.error
import urllib.request


def ask(url, value):
    """The headers that the last service got."""
    # HAProxy sets both headers on each request.
    headers = {"x-mayfly": value, "baggage": f"mayfly={value},tenant=7"} if value else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return json.load(answer)


def value_of(got):
    """The value as HAProxy reads it: all lines of `x-mayfly`, else those of `baggage`."""
    members = [member.strip() for line in got["baggage"] for member in line.split(",")]
    values = set(got["x-mayfly"]) or {m.removeprefix("mayfly=") for m in members if "mayfly=" in m}
    if len(values) > 1:
        sys.exit(f"error: the call has different values: {got}")
    return values.pop() if values else None


def wait(url):
    """Waits until the service answers."""
    for _ in range(600):
        try:
            return ask(url, "first")
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return sys.exit(f"error: {url} does not answer after 60 s")


def check(url):
    """The values of one path."""
    got = ask(url, "temp-1")
    if value_of(got) != "temp-1":
        sys.exit(f"error: {url} was called with temp-1, and called the next service with {got}")
    values = [f"temp-{number}" for number in range(64)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for value, one in zip(values, pool.map(lambda value: ask(url, value), values)):
            if value_of(one) != value:
                sys.exit(f"error: {url} was called with {value}, and passed on {one}")
    without = ask(url, None)
    if value_of(without) is not None:
        sys.exit(f"error: {url} was called without a value, and passed on {without}")
    return [name for name in ["x-mayfly", "baggage"] if got[name]]


base, *paths = sys.argv[1:]
wait(f"{base}/")
forwarded = [check(base + path) for path in paths or ["/"]]
print(" and ".join(forwarded[0]))
