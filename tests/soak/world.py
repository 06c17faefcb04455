"""What the actors of the soak share: the seed, the gate at which they all can be halted, and what they have seen."""

import collections
import random
import resource
import signal
import threading
import time

from harness import process
from harness.exposer import Exposer
from harness.logfmt import Log
from harness.router import LAZY_EVENTS, LAZY_PIPES_PER_THREAD, Router
from harness.wait import wait_until

from fleet import Windows

FAILURES_SHOWN = 20
UPGRADE_SECONDS = 30
QUIET_TRIES = 4


class World:
    """seed: what all chance comes from. is_over: no new sessions, and those there are come to their end."""

    def __init__(self, seed):
        self.seed = seed
        self.began = time.monotonic()
        self.gate = threading.Event()  # closed: clients and chaos hold still
        self.gate.set()
        self.is_over = threading.Event()
        self.lock = threading.Lock()
        self.sessions = collections.Counter()  # (kind, outcome)
        self.counts = collections.Counter()  # what was done
        self.active = collections.Counter()  # kinds, now
        self.stall = (0.0, "")
        self.upgrade_times = []
        self.failures = []
        self.routers = []
        self.is_closed = False  # what breaks from now on is no wonder

    def chance(self, actor):
        return random.Random(f"{self.seed} {actor}")

    def elapsed(self):
        return time.monotonic() - self.began

    def say(self, text):
        print(f"{self.elapsed():7.1f} s  {text}", flush=True)

    def fail(self, text):
        if self.is_closed:
            return
        with self.lock:
            self.failures.append(text)
            count = len(self.failures)
        if count <= FAILURES_SHOWN:
            self.say(f"WRONG: {text}")

    def count(self, what, number=1):
        with self.lock:
            self.counts[what] += number

    def compared(self, count):
        """One stream more whose bytes were all looked at."""
        with self.lock:
            self.counts["streams"] += 1
            self.counts["bytes"] += count

    def stalled(self, seconds, what):
        with self.lock:
            if seconds > self.stall[0]:
                self.stall = (seconds, f"{what}, at {self.elapsed():.0f} s")


class SoakLog(Log):
    """Keeps the last lines only; counts them all, and knows how each client's session ended."""

    KEPT = 5000

    def __init__(self, fd):
        self.changed = threading.Condition()
        self.counts = collections.Counter()
        self.sessions = {}
        self.on_line = lambda line: None
        super().__init__(fd)

    def _add(self, raw):
        super()._add(raw)
        for kept in (self.lines, self.raw):
            del kept[:-self.KEPT]
        if self.odd and raw is self.odd[-1]:
            return
        line = self.lines[-1]
        with self.changed:
            self.counts[line.get("msg")] += 1
            if line.get("msg") == "session":
                self.counts["reason " + line.get("reason", "")] += 1
                self.sessions.pop(line.get("client"), None)
                self.sessions[line.get("client")] = (time.monotonic(), repr(line))
                if len(self.sessions) > self.KEPT:
                    del self.sessions[next(iter(self.sessions))]
            self.changed.notify_all()
        self.on_line(line)

    def about(self, client, since):
        """Its session's line, if there is one."""
        with self.changed:
            at, line = self.sessions.get(client, (0, ""))
            return line if at >= since else ""


class Watched:
    """A router that the soak keeps an eye on; to be mixed in."""

    log_kind = SoakLog

    def begin(self, world, label):
        self.world, self.label = world, label
        self.short = Windows()  # times in which it had too few descriptors
        self.is_ending = False
        self.upgrade_lock = threading.Lock()
        self.start()
        self.log.on_line = self._on_line
        world.routers.append(self)
        return self

    def _on_line(self, line):
        reason = line.get("reason", "")
        now = time.monotonic()
        if line.get("msg") == "cannot upgrade; the running version goes on":
            self.world.count("upgrades refused")
            if not self.short.overlap(now - UPGRADE_SECONDS, now):
                self.world.fail(f"{self.label} refused an upgrade without cause: {line}")
        elif line.get("level") == "error":
            self.world.fail(f"{self.label} says: {line}")
        elif reason == "no-memory":
            self.world.fail(f"{self.label} had no memory: {line}")

    def upgrade(self, times=1):
        """USR2, so many times in a row; returns once the log says that it has, or has not."""
        with self.upgrade_lock:
            before = self._answers()
            begin = time.monotonic()
            for _ in range(times):
                self.signal(signal.SIGUSR2)
            with self.log.changed:
                answered = self.log.changed.wait_for(lambda: self._answers() > before, UPGRADE_SECONDS)
            if not answered:
                self.world.fail(f"{self.label} did not answer to USR2 within {UPGRADE_SECONDS} s")
                return
            with self.world.lock:
                self.world.upgrade_times.append(time.monotonic() - begin)

    def stop_reading_log(self, seconds):
        """Its lines are dropped meanwhile; so no upgrade may be under way, whose line would be missed."""
        with self.upgrade_lock:
            self.log.pause()
            time.sleep(seconds)
            self.log.resume()

    def _answers(self):
        return self.log.counts["upgraded"] + self.log.counts["cannot upgrade; the running version goes on"]

    def shorten(self, count):
        """From now on it can have so many descriptors in all."""
        hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (count, hard))

    def lengthen(self):
        hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (hard, hard))

    def anonymous(self):
        """Bytes of memory that no file holds."""
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

    def settle(self, seconds):
        """All clients and services are gone: its descriptors by kind, and its memory. Judges the former."""
        allowed = dict(self.fds_when_ready)
        allowed["pipe"] += LAZY_PIPES_PER_THREAD * self.threads
        allowed["event"] += LAZY_EVENTS
        found = {}

        def is_back():
            found.update(self.fds())
            return all(found[kind] <= allowed[kind] for kind in allowed)

        try:
            wait_until(is_back, "", timeout=seconds, interval=0.05)
        except AssertionError:
            self.world.fail(f"{self.label} still holds {found} where {allowed} are allowed: "
                            f"{process.list_fds(self.pid)}")
        self.judge_quiet("with no session")
        return found, self.anonymous()

    def judge_quiet(self, when):
        """It has nothing to do and does nothing. Who spins always does; on a busy machine others may seem to."""
        for _ in range(QUIET_TRIES):
            try:
                return self.assert_quiet()
            except AssertionError as error:
                last = error
        self.world.fail(f"{self.label}, {when}: {last}")

    def is_alive(self):
        return self.process.poll() is None

    def finish(self):
        """TERM, and all that must hold then."""
        self.is_ending = True
        if not self.is_alive():
            return
        self.signal(signal.SIGTERM)
        code = self.wait_exit()
        if code != 0:
            self.world.fail(f"{self.label} ended with {code}")
        if self.log.odd:
            words = b"\n".join(self.log.odd[:60]).decode(errors="replace")
            self.world.fail(f"{self.label} said what is no line of a log, {len(self.log.odd)} times:\n{words}")


class SoakRouter(Watched, Router):
    pass


class SoakExposer(Watched, Exposer):
    pass
