"""The queue in Redis: one stream for what arrives, and one stream for each version.

    orders --decide--> orders:v:1.0.0 --a worker of 1.0.0--> orders:done
                       orders:v:2.0.0 --a worker of 2.0.0--> orders:done
                       orders:refused   (no version handles these)

Each arrow is one script in Redis. The script takes a message out of one place and puts it into the
next one, unless another worker did so before. A message is never in two places, and never in none.
"""

import redis

# The same name in every stream: one XREADGROUP then reads several of them.
GROUP = "workers"

# XACK answers 1 exactly once for each message.
MOVE = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return false end
redis.call('XDEL', KEYS[1], ARGV[2])
if KEYS[3] then redis.call('SADD', KEYS[3], KEYS[2]) end
return redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
"""
FINISH = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('RPUSH', KEYS[2], ARGV[3])
return 1
"""
FORGET = """
if redis.call('XLEN', KEYS[1]) > 0 then return 0 end
redis.call('SREM', KEYS[2], KEYS[1])
return redis.call('DEL', KEYS[1])
"""


class Broker:
    """The streams of one queue."""

    def __init__(self, url, queue):
        self.redis = redis.Redis.from_url(url, decode_responses=True,
                                          encoding_errors="surrogateescape")
        self.arrivals = queue
        self.refused = f"{queue}:refused"
        self.done = f"{queue}:done"
        self._streams = f"{queue}:streams"
        self._move = self.redis.register_script(MOVE)
        self._finish = self.redis.register_script(FINISH)
        self._forget = self.redis.register_script(FORGET)

    def stream(self, version):
        """The stream with the messages of one version."""
        return f"{self.arrivals}:v:{version}"

    def put(self, fields):
        """Adds a new message."""
        return self.redis.xadd(self.arrivals, fields)

    def join(self, stream):
        """Makes sure that the group of the stream exists; it begins with the oldest message."""
        try:
            self.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def take(self, me, streams, count=10, block=500):
        """New messages of some streams, as (stream, id, fields); this worker has them now."""
        asked = dict.fromkeys(streams, ">")
        answer = self.redis.xreadgroup(GROUP, me, asked, count=count, block=block)
        return [(stream, *message) for stream, messages in answer for message in messages]

    def take_over(self, me, stream, idle, count=100):
        """Messages that a worker took `idle` seconds ago or earlier, and did not finish."""
        answer = self.redis.xautoclaim(stream, GROUP, me, int(idle * 1000), "0-0", count=count)
        return [(stream, *message) for message in answer[1]]

    def move(self, source, message, target, fields, *notes):
        """Moves a message that this worker took; False if another worker was faster."""
        flat = [part for field in fields.items() for part in field]
        return bool(self._move(keys=[source, target, *notes], args=[GROUP, message, *flat]))

    def hand_over(self, message, version, fields):
        """Gives a message that has arrived to the workers of one version."""
        return self.move(self.arrivals, message, self.stream(version), fields, self._streams)

    def finish(self, stream, message, result):
        """Records a result and forgets the message, both or neither."""
        return bool(self._finish(keys=[stream, self.done], args=[GROUP, message, result]))

    def streams(self):
        """The streams of all versions that may have messages."""
        return self.redis.smembers(self._streams)

    def forget(self, stream):
        """Removes the stream of a version if it is empty."""
        return bool(self._forget(keys=[stream, self._streams]))

    def age(self, message):
        """How many seconds ago a message was added, by the clock of Redis."""
        seconds, micros = self.redis.time()
        return seconds + micros / 1e6 - int(message.split("-")[0]) / 1e3
