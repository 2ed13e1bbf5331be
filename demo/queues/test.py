#!/usr/bin/python3
"""Checks that the right version handles each message exactly once while environments change.

    demo/queues/test.py --programs target/debug

It starts etcd, Redis, haproxy-updater, mayfly-web, a producer and workers of two versions, all on
loopback. No HAProxy runs: haproxy-updater only reports the settings that decisions need. It sends
1,000 messages and changes an environment 20 times. Meanwhile it kills a worker and mayfly-web,
stops a worker for a while, and takes all workers of a version away. The right version is the one
that etcd's own history names for the revision at which a worker decided. The last line is
`handled N, twice 0, lost 0, wrong 0`.
"""

import argparse
import base64
import collections
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

HERE = Path(__file__).parent
VERSIONS = ["1.0.0", "2.0.0"]
# `temp-2` inherits from `temp-1`, the environment that changes.
VALUES = ["prod", "temp-1", "temp-2"]
LIMIT = 60
# How old a decision may be: mayfly-web passes a change on within 1 s, and machines can be busy.
LAG = 20


class Processes:
    """What the test has started. All of it ends with the test."""

    def __init__(self, work):
        self.work = work
        self.all = []

    def start(self, name, *command):
        """Starts a program; its output goes to a file."""
        with open(self.work / f"{name}.log", "ab") as output:
            process = subprocess.Popen([str(part) for part in command], stdout=output,
                                       stderr=output, stdin=subprocess.DEVNULL, cwd=self.work)
        self.all.append(process)
        return process

    def end(self, process, how=signal.SIGTERM):
        """Ends one of them."""
        process.send_signal(how)
        process.wait(LIMIT)

    def end_all(self):
        """Ends all of them, the newest first."""
        for process in reversed(self.all):
            if process.poll() is None:
                process.kill()
            process.wait(LIMIT)


def free_ports(number):
    """Ports of loopback that nothing uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(what, condition):
    """Waits until a condition holds, and returns what it returned."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            if answer := condition():
                return answer
        except (OSError, redis.ConnectionError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    sys.exit(f"error: waited {LIMIT} s for {what}")


class Scene:
    """The programs, and what the test does with them."""

    def __init__(self, args, work):
        self.work = work
        self.programs = Path(args.programs).resolve()
        self.processes = Processes(work)
        ports = free_ports(7)
        self.etcd_port, self.peer_port, self.redis_port, self.web_port, self.port = ports[:5]
        self.router_ports = ports[5:]
        self.etcd = f"http://127.0.0.1:{self.etcd_port}"
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.redis = redis.Redis(port=self.redis_port, decode_responses=True)
        self.web = None
        self.workers = {version: [] for version in VERSIONS}
        self.sent = 0
        self.counting = threading.Lock()
        # When mayfly-web was away, and when an environment was changed.
        self.away = []
        self.changes = []

    def begin(self):
        """Starts everything, with no worker yet."""
        start, loopback = self.processes.start, "http://127.0.0.1"
        peer = f"{loopback}:{self.peer_port}"
        start("etcd", "etcd", "--data-dir", self.work / "etcd", "--listen-client-urls", self.etcd,
              "--advertise-client-urls", self.etcd, "--listen-peer-urls", peer,
              "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}")
        start("redis", "redis-server", "--port", self.redis_port, "--bind", "127.0.0.1",
              "--dir", self.work, "--save", "", "--appendonly", "no")
        until("etcd", lambda: self.ask(self.etcd_port, "/health"))
        until("Redis", self.redis.ping)
        # The history of all environments, from the first revision on.
        start("history", "etcdctl", "--endpoints", self.etcd, "watch", "--prefix", "--rev", "1",
              "--write-out", "json", "/mayfly/environments/")
        self.apply("prod", "1.0.0")
        self.apply("temp-1", "1.0.0", "prod")
        self.apply("temp-2", None, "temp-1")
        edge, internal = (f"127.0.0.1:{port}" for port in self.router_ports)
        start("router", self.programs / "haproxy-updater", "--etcd", self.etcd,
              "--dir", self.work / "haproxy", "--edge-bind", edge, "--internal-bind", internal)
        self.start_web()
        start("producer", sys.executable, HERE / "producer.py", "--redis", self.redis_url,
              "--port", self.port)
        until("the producer", lambda: socket.create_connection(("127.0.0.1", self.port)))

    def start_web(self):
        """Starts mayfly-web, and waits until it answers."""
        self.web = self.processes.start(
            "web", self.programs / "mayfly-web", "--etcd", self.etcd,
            "--bind", f"127.0.0.1:{self.web_port}")
        until("mayfly-web",
              lambda: self.ask(self.web_port, "/v1/decide?service=orders&value=temp-2"))

    def ask(self, port, path):
        """Whether a GET gets 200."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def apply(self, name, version, extends=None):
        """Sets the version of one environment, as a person does."""
        lines = [f"name: {name}", "switch: at-once"]
        lines += [f"extends: {extends}"] if extends else []
        lines += [f"services: [{{name: orders, version: {version}}}]"] if version else []
        command = [self.programs / "mayfly", "apply", "--etcd", self.etcd, "--file", "-"]
        subprocess.run([str(part) for part in command], input="\n".join(lines), text=True,
                       check=True, capture_output=True)
        self.changes.append(time.time())

    def start_worker(self, version):
        """Starts one more worker of a version."""
        number = len(self.processes.all)
        self.workers[version].append(self.processes.start(
            f"worker-{version}-{number}", sys.executable, HERE / "worker.py",
            "--version", version, "--redis", self.redis_url, "--patience", "3", "--grace", "10",
            "--work", "0.02",
            "--decisions", f"http://127.0.0.1:{self.web_port}"))

    def holds(self, worker):
        """How many messages of its version a worker has taken and not finished."""
        consumers = self.redis.xinfo_consumers("orders:v:1.0.0", "workers")
        return sum(one["pending"] for one in consumers if one["name"].endswith(f"-{worker.pid}"))

    def make_busy(self, worker):
        """Stops a worker with messages in hand.

        A stopped worker that waits for messages still gets some: Redis hands them to its
        connection. One that was stopped between two questions does not, and goes on for a moment.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

        def is_busy():
            worker.send_signal(signal.SIGSTOP)
            for _ in range(10):
                self.send(connection, "prod")
            end = time.monotonic() + 1
            while time.monotonic() < end:
                if self.holds(worker):
                    return True
                time.sleep(0.02)
            worker.send_signal(signal.SIGCONT)
            return False

        until("a busy worker", is_busy)

    def send(self, connection, value):
        """Sends one message, and counts it."""
        with self.counting:
            self.sent += 1
            number = self.sent
        connection.request("POST", "/", json.dumps({"number": number}), {"x-mayfly": value})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 202:
            sys.exit(f"error: the producer answered {answer.status}")
        return number

    def handled(self):
        """All results."""
        return [json.loads(result) for result in self.redis.lrange("orders:done", 0, -1)]

    def refused(self):
        """All messages that no version handles."""
        return [fields for _, fields in self.redis.xrange("orders:refused")]


def run(scene, messages, changes):
    """Sends the messages and changes the environment meanwhile."""
    for version in VERSIONS * 2:
        scene.start_worker(version)
    failed, done = [], threading.Event()
    # How many messages may be on the way; each change lets some more go.
    allowed = threading.Semaphore(0)

    def produce():
        connection = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=LIMIT)
        try:
            for number in range(messages):
                allowed.acquire()
                scene.send(connection, VALUES[number % len(VALUES)])
        except BaseException as error:  # noqa: B902 the main thread reports it
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=produce, daemon=True).start()
    share = messages // (changes + 1)
    for number in range(1, changes + 1):
        allowed.release(share)
        # The change comes in the middle of the messages.
        until("the producer", lambda: failed or scene.sent >= (number - 1) * share + share // 2)
        disturb(scene, number, changes)
        scene.apply("temp-1", VERSIONS[number % 2], "prod")
    allowed.release(messages)
    done.wait(LIMIT)
    if failed:
        sys.exit(f"error: cannot send: {failed[0]}")


def disturb(scene, number, changes):
    """Breaks something before some of the changes."""
    workers = scene.workers["1.0.0"]
    if number == changes // 4:
        # A worker is killed with messages that it has taken.
        scene.make_busy(workers[-1])
        scene.processes.end(workers.pop(), signal.SIGKILL)
        scene.start_worker("1.0.0")
    elif number == changes // 2:
        scene.processes.end(scene.web, signal.SIGKILL)
        scene.away.append(time.time())
    elif number == changes // 2 + 3:
        scene.start_web()
        # A worker comes back at most 1.5 s later.
        scene.away.append(time.time() + 1.5)
        # A worker stops for so long that another one takes its messages over; then it goes on.
        scene.make_busy(workers[0])
    elif number == changes:
        until("workers that take over", lambda: not scene.holds(workers[0]))
        workers[0].send_signal(signal.SIGCONT)


def the_end_of_a_version(scene):
    """All workers of 2.0.0 go while messages wait for them; then no environment uses 2.0.0."""
    scene.apply("temp-1", "2.0.0", "prod")
    until("the table", lambda: decided_by(scene, "temp-1") == "2.0.0")
    for worker in scene.workers.pop("2.0.0"):
        scene.processes.end(worker)
    connection = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=LIMIT)
    for _ in range(20):
        scene.send(connection, "temp-1")
    until("messages that wait for 2.0.0", lambda: scene.redis.xlen("orders:v:2.0.0") >= 20)
    scene.apply("temp-1", "1.0.0", "prod")
    until("the end of the stream", lambda: not scene.redis.exists("orders:v:2.0.0"))


def decided_by(scene, value):
    """What a new message with this value is handled by."""
    connection = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=LIMIT)
    number = scene.send(connection, value)

    def answer():
        found = [one["by"] for one in scene.handled() if one["order"]["number"] == number]
        return found and found[0]

    return until("one message", answer)


def strange_messages(scene):
    """An unknown value is refused; a value whose environment appears a moment later is not."""
    connection = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=LIMIT)
    unknown = scene.send(connection, "no-such-environment")
    late = scene.send(connection, "late")
    scene.apply("late", "1.0.0")
    until("the late environment",
          lambda: any(one["order"]["number"] == late for one in scene.handled()))
    refused = until("the refused message", scene.refused)
    if [json.loads(one["body"])["number"] for one in refused] != [unknown]:
        sys.exit(f"error: other messages than {unknown} were refused: {refused}")
    if "no-such-environment" not in refused[0]["reason"]:
        sys.exit(f"error: the reason does not name the value: {refused[0]['reason']}")


def history(text):
    """From the output of the watch: (revision, environment, record or None), oldest first."""
    decoder, events = json.JSONDecoder(), []
    text = text.strip()
    while text:
        answer, end = decoder.raw_decode(text)
        text = text[end:].strip()
        for event in answer.get("Events") or []:
            pair = event["kv"]
            name = base64.b64decode(pair["key"]).decode().rsplit("/", 1)[1]
            record = json.loads(base64.b64decode(pair["value"])) if "value" in pair else None
            events.append((pair["mod_revision"], name, record))
    return events


def right_version(events, revision, name):
    """The version of `orders` that the records of a revision mean for an environment."""
    records = {each: record for at, each, record in events if at <= revision}
    while record := records.get(name):
        for service in record.get("services", []):
            if service["name"] == "orders":
                return service["version"]
        name = record.get("extends")
    return None


def judge(scene):
    """Prints the verdict, and returns whether it is good."""
    results, refused = scene.handled(), scene.refused()
    times = collections.Counter(one["order"]["number"] for one in results)
    times.update(json.loads(one["body"])["number"] for one in refused)
    twice = sum(1 for count in times.values() if count > 1)
    lost = scene.sent - len(times)
    events = history((scene.work / "history.log").read_text(encoding="utf-8"))
    wrong = [one for one in results
             if one["by"] != right_version(events, one["revision"], one["value"])]
    for one in wrong[:5]:
        print(f"wrong: {one}, right is {right_version(events, one['revision'], one['value'])}")
    old = max_age(scene, events, results)
    shares = collections.Counter(one["by"] for one in results)
    print(f"{scene.sent} messages, {len(scene.changes)} changes, by version {dict(shares)}, "
          f"refused {len(refused)}; the oldest table in use was {old:.1f} s old")
    print(f"handled {len(results)}, twice {twice}, lost {lost}, wrong {len(wrong)}")
    is_balanced = all(shares[version] > 0 for version in VERSIONS)
    return not twice and not lost and not wrong and old < LAG and is_balanced


def max_age(scene, events, results):
    """For how long a decision used a table after a change, apart from the API's absence."""
    if len(events) != len(scene.changes):
        sys.exit(f"error: {len(events)} changes in etcd, {len(scene.changes)} were made")
    # `apply` returned after the change was in etcd, and there was one revision for each.
    moments = dict(zip((revision for revision, _, _ in events), scene.changes))
    oldest = 0.0
    for one in results:
        if scene.away[0] <= one["decided"] <= scene.away[1]:
            continue
        later = [moment for revision, moment in moments.items() if revision > one["revision"]]
        if later:
            oldest = max(oldest, one["decided"] - min(later))
    return oldest


def main():
    """Runs the whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", default="target/debug",
                        help="the directory with mayfly, mayfly-web and haproxy-updater")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=20)
    args = parser.parse_args()
    for program in ["etcd", "etcdctl", "redis-server"]:
        if not shutil.which(program):
            sys.exit(f"error: {program} is not installed")
    for program in ["mayfly", "mayfly-web", "haproxy-updater"]:
        if not (Path(args.programs) / program).exists():
            sys.exit(f"error: {args.programs}/{program} does not exist; see --programs")
    with tempfile.TemporaryDirectory(prefix="mayfly-queues-") as work:
        scene = Scene(args, Path(work))
        try:
            scene.begin()
            run(scene, args.messages, args.changes)
            the_end_of_a_version(scene)
            strange_messages(scene)
            until("the last message",
                  lambda: len(scene.handled()) + len(scene.refused()) >= scene.sent)
            is_good = judge(scene)
        except BaseException:
            for log in sorted(Path(work).glob("*.log")):
                if not log.name.startswith(("etcd", "redis", "history")):
                    print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
            raise
        finally:
            scene.processes.end_all()
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
