"""Which version of one service a header value means, kept up to date by mayfly-web.

A thread follows the stream `/v1/decisions?service=NAME`, so a question costs no request. While the
API is away the last table stays in force, and the thread connects again. The table also stays in
force while etcd does not answer mayfly-web.
"""

import json
import logging
import random
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("decisions")

# mayfly-web sends at least a comment every 15 s; a connection that is silent for longer is dead.
SILENCE = 40


class Table(NamedTuple):
    """One state of the table. It is never changed, only replaced, so that readers need no lock."""

    versions: dict[str, str]
    default: str | None
    revision: int

    def version(self, value):
        """The version that a header value means; None if it means none."""
        return self.versions.get(value) if value else self.default

    def in_use(self):
        """All versions that an environment uses."""
        return {*self.versions.values(), *filter(None, [self.default])}


class Decisions:
    """The table of one service."""

    def __init__(self, url, service, token_file=None):
        query = urllib.parse.urlencode({"service": service})
        self._url = f"{url.rstrip('/')}/v1/decisions?{query}"
        self._token_file = token_file
        self._arrived = threading.Event()
        self.table = None
        # False while the table may be old: mayfly-web is away, or etcd does not answer it.
        self.is_connected = False

    def start(self):
        """Begins to follow the stream."""
        threading.Thread(target=self._follow, daemon=True, name="decisions").start()

    def wait(self, seconds):
        """Waits for the first table, and returns whether there is one."""
        return self._arrived.wait(seconds)

    def _follow(self):
        pause = 0.0
        while True:
            threading.Event().wait(pause)
            try:
                self._read()
                reason = "the server ended the stream"
            except urllib.error.HTTPError as error:
                reason = f"{error}: {_detail(error)}"
            except (OSError, ValueError, KeyError) as error:
                reason = f"{type(error).__name__}: {error}"
            self.is_connected = False
            # Many workers do not come back in the same moment.
            pause = random.uniform(0.5, 1.5)
            log.warning("cannot follow %s: %s; retrying in %.1fs", self._url, reason, pause)

    def _read(self):
        request = urllib.request.Request(self._url, headers={"accept": "text/event-stream"})
        if self._token_file:
            token = Path(self._token_file).read_text(encoding="utf-8").strip()
            request.add_header("authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=SILENCE) as stream:
            event, data = "", []
            for line in stream:
                name, _, rest = line.decode("utf-8").rstrip("\r\n").partition(":")
                if name == "event":
                    event = rest.strip()
                elif name == "data":
                    data.append(rest.removeprefix(" "))
                elif not name and not rest and data:
                    self._take(event, json.loads("\n".join(data)))
                    event, data = "", []

    def _take(self, event, data):
        """An event: `table` is the whole table, `change` is what is new in it."""
        if event == "table":
            versions = data["versions"]
        elif event == "change" and self.table:
            gone = set(data["gone"])
            kept = {value: v for value, v in self.table.versions.items() if value not in gone}
            versions = {**kept, **data["versions"]}
        else:
            return
        self.table = Table(versions, data["default"], data["revision"])
        self.is_connected = data["etcd_unreachable_since"] is None
        self._arrived.set()


def _detail(error):
    """Why the API refused, in its own words."""
    try:
        return json.load(error)["detail"]
    except (ValueError, KeyError, TypeError, OSError):
        return "no reason given"
