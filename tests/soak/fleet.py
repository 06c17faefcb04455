"""The services of the soak, each a process of its own: they come, go, hang and die; and the directories they are in.

What was done to whom, and when, is kept: whoever's session ended over it is excused, nobody else.
"""

import concurrent.futures
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from harness.passfd import descendants, free_port, is_alive
from harness.router import KAISO, clean_environment
from harness.wait import wait_until

SERVICE = str(pathlib.Path(__file__).with_name("service.py"))
READY_SECONDS = 60
LISTED = 2000  # links in each of the two directories, so that lists are of some length
AT_FDCWD, RENAME_EXCHANGE = -100, 2
libc = ctypes.CDLL(None, use_errno=True)


def kill_all(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Windows:
    """Times at which something was not as it should be."""

    def __init__(self):
        self._lock = threading.Lock()
        self._windows = []

    def open(self):
        with self._lock:
            self._windows.append([time.monotonic(), None])

    def close(self):
        with self._lock:
            self._windows[-1][1] = time.monotonic()

    def overlap(self, begin, end):
        with self._lock:
            return any(first < end and (last is None or last > begin) for first, last in self._windows[-2000:])


class Reports:
    """What services say of their clients' bytes, by the client's id."""

    KEPT = 20_000

    def __init__(self):
        self._changed = threading.Condition()
        self._found = {}

    def add(self, report):
        with self._changed:
            self._found[report["id"]] = report
            if len(self._found) > self.KEPT:
                del self._found[next(iter(self._found))]
            self._changed.notify_all()

    def wait(self, name, timeout):
        """None when there was none in time."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._found, timeout)
            return self._found.get(name)


class Service:
    """One service. kind: as service.py has it, or "wrapped": a TCP server below `kaiso passfd`."""

    def __init__(self, fleet, name, kind, is_steady=False):
        self.fleet, self.name, self.kind, self.is_steady = fleet, name, kind, is_steady
        self.absent = Windows()
        self.stopped = Windows()
        self.lock = threading.Lock()  # whoever does something to it
        self.place = str(fleet.sockets / name / "socket")  # a directory for each: they start at the same time
        os.mkdir(fleet.sockets / name)
        self.port = free_port() if kind in ("tcp", "knock") else 0
        self.process = None
        self.count = 0
        self.ended = set()  # instances that were killed
        self.kills = 0
        self._ready = threading.Event()

    @property
    def is_handed_over(self):
        return self.kind in ("once", "lasting", "knock", "wrapped")

    @property
    def instance(self):
        return f"{self.name}.{self.count}"

    @property
    def members(self):
        """Names of those whose instance may answer."""
        return {self.name}

    @property
    def description(self):
        if self.kind == "tcp":
            return f"127.0.0.1:{self.port}\n"
        if self.kind == "knock":
            return f"{self.place} passfd:{self.port}\n"
        return f"{self.place} passfd\n"

    def _words(self):
        words = [sys.executable, SERVICE, self.instance]
        if self.kind == "wrapped":
            return [KAISO, "passfd", self.place, "--", *words, "tcp", "0"]
        if self.kind == "tcp":
            return [*words, "tcp", str(self.port)]
        return [*words, self.kind, self.place, *([str(self.port)] if self.kind == "knock" else [])]

    def start(self):
        self.count += 1
        self._ready.clear()
        self.process = subprocess.Popen(self._words(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=clean_environment(PYTHONDONTWRITEBYTECODE=1))
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        if not self._ready.wait(READY_SECONDS) or not self._is_reached():
            raise AssertionError(f"the service {self.instance} did not come up")
        if self.kind == "unix":
            self.fleet.place_socket(self)

    def _is_reached(self):
        """By a connection that brings nothing, where readiness is not all told by the word."""
        end = time.monotonic() + READY_SECONDS
        while self.kind == "wrapped" and time.monotonic() < end:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(self.place) == 0:
                    return True
            time.sleep(0.01)
        return self.kind != "wrapped"

    def _read(self, pipe):
        for line in pipe:
            try:
                report = json.loads(line)
            except ValueError:
                self.fleet.world.fail(f"service {self.name} said {line!r}")
                continue
            if "ready" in report:
                self._ready.set()
                continue
            if report["wrong"]:
                self.fleet.world.fail(f"service {self.name}, session {report['id'] or 'unknown'}: {report['wrong']}")
            self.fleet.world.compared(report["up"])
            self.fleet.reports.add(report)
        pipe.close()

    def kill(self):
        """At once, and its sessions with it."""
        self.absent.open()
        self.ended.add(self.instance)
        pids = descendants(self.process.pid)
        kill_all(reversed(pids))
        self.process.wait()
        # Whose parent was killed too goes when it goes; until then its sockets are in use.
        wait_until(lambda: not any(is_alive(pid) for pid in pids), f"{self.instance} to be gone", READY_SECONDS)
        self.process.stdin.close()
        self.kills += 1

    def revive(self):
        self.start()
        self.absent.close()

    def signal(self, number):
        for pid in descendants(self.process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def is_excused(self, begin, end, instance):
        """Whether a session of that time, with that instance (None: it got to none), may have failed over it."""
        if instance is not None:
            return instance in self.ended
        return self.absent.overlap(begin, end)


class Choice:
    """A service with several targets, each a service of its own; the last one is steady."""

    is_steady = True

    def __init__(self, name, targets):
        self.name, self.targets = name, targets
        self.kind = targets[0].kind
        self.is_handed_over = targets[0].is_handed_over

    @property
    def members(self):
        return {target.name for target in self.targets}

    @property
    def description(self):
        first, *others = (target.place + "\n" if target.kind == "unix" else target.description
                          for target in self.targets)
        return first + "".join(f"backend {other}" for other in others)

    @property
    def ended(self):
        return set().union(*(target.ended for target in self.targets))

    def is_excused(self, begin, end, instance):
        """None is lost for want of a target; but whoever waits at one when it is killed was connected."""
        return any(target.is_excused(begin, end, instance) for target in self.targets)


class Fleet:
    """All services, and the two directories `left` and `right` that stand in for each other."""

    def __init__(self, world, root):
        self.world, self.root = world, root
        self.sockets = root / "sockets"
        self.left, self.right = root / "left", root / "right"
        self.link = root / "services"
        for directory in (self.sockets, self.left, self.right):
            directory.mkdir()
        self.link.symlink_to("left")
        self.lock = threading.Lock()  # whoever changes the directories
        self.gap = Windows()  # times without any directory
        self.reports = Reports()
        self.services = [
            Service(self, "unix-steady", "unix", is_steady=True),
            Service(self, "tcp-steady", "tcp", is_steady=True),
            Service(self, "lasting-steady", "lasting", is_steady=True),
            Service(self, "unix", "unix"),
            Service(self, "tcp", "tcp"),
            Service(self, "once", "once"),
            Service(self, "lasting", "lasting"),
            Service(self, "knock", "knock"),
            Service(self, "wrapped", "wrapped"),
        ]
        self.by_name = {service.name: service for service in self.services}
        self.choices = [
            Choice("several", [self.by_name[name] for name in ("unix", "tcp", "tcp-steady", "unix-steady")]),
            Choice("receivers", [self.by_name[name] for name in ("knock", "once", "lasting", "lasting-steady")]),
        ]
        self.offered = self.services + self.choices
        self.mortals = [service for service in self.services if not service.is_steady]

    # ---- the directories

    def put(self, name, content):
        """A description, in both."""
        with self.lock:
            for directory in (self.left, self.right):
                path = directory / name
                path.parent.mkdir(exist_ok=True)
                passing = directory / ".passing"
                passing.write_text(content)
                os.rename(passing, path)

    def put_link(self, name, target):
        with self.lock:
            for directory in (self.left, self.right):
                path = directory / name
                path.parent.mkdir(exist_ok=True)
                passing = directory / ".passing"
                passing.symlink_to(target)
                os.rename(passing, path)

    def take_away(self, name):
        with self.lock:
            for directory in (self.left, self.right):
                (directory / name).unlink(missing_ok=True)

    def place_socket(self, service):
        with self.lock:
            for directory in (self.left, self.right):
                passing = directory / ".passing"
                passing.unlink(missing_ok=True)
                os.link(service.place, passing)
                os.rename(passing, directory / service.name)

    def lay_out(self):
        """All that does not change; before the routers start."""
        for service in self.offered:
            if service.kind != "unix" or service in self.choices:
                self.put(service.name, service.description)
            self.put_link(f"deep/{service.name}", f"../{service.name}")
        self.put("named", f"localhost:{self.by_name['tcp-steady'].port}\n")
        self.put("bad", "127.0.0.1:99999\n")
        self.put("refused", f"127.0.0.1:{free_port()}\n")
        self.put_link("nowhere", "there/is/nothing")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.sockets / "dead"))
        for directory in (self.left, self.right):
            os.link(self.sockets / "dead", directory / "dead")
            (directory / "many").mkdir()
            for number in range(LISTED):
                (directory / f"many/{directory.name}-{number:05}").symlink_to("../unix-steady")

    def describe_far(self, port):
        """The same services by way of another router."""
        for service in self.offered:
            self.put(f"far/{service.name}", f"127.0.0.1:{port} {service.name}\n")

    def may_be_listed(self, name):
        """Names that come and go; lists may have them or not."""
        return name.startswith("come/") or name in (service.name for service in self.mortals) or \
            name in (f"deep/{service.name}" for service in self.mortals)

    def expected_lists(self):
        """What a list has, without what comes and goes: one of the two."""
        always = ["bad", "dead", "named", "refused", "loop"]
        always += [form.format(service.name) for service in self.offered if service.is_steady
                   for form in ("{}", "deep/{}")]
        always += [f"far/{service.name}" for service in self.offered]
        return [sorted(always + [f"many/{side}-{number:05}" for number in range(LISTED)])
                for side in ("left", "right")]

    # ---- what happens to them

    def turn_link(self):
        """The services directory is a link, and now leads to the other."""
        with self.lock:
            target = "right" if os.readlink(self.link) == "left" else "left"
            passing = self.root / "passing"
            passing.symlink_to(target)
            os.rename(passing, self.link)

    def exchange(self):
        """Each directory gets the other's name, in one step."""
        with self.lock:
            if libc.renameat2(AT_FDCWD, os.fsencode(self.left), AT_FDCWD, os.fsencode(self.right), RENAME_EXCHANGE):
                raise OSError(ctypes.get_errno(), "renameat2")

    def leave_gap(self, seconds):
        """There is no services directory for a moment."""
        with self.lock:
            self.gap.open()
            os.rename(self.link, self.root / "away")
            time.sleep(seconds)
            os.rename(self.root / "away", self.link)
            self.gap.close()

    def set_options(self, lines):
        """What `deep` says of all below it."""
        self.put("deep/.kaiso", "".join(f"{line}\n" for line in lines))

    # ---- all of them

    def start(self):
        self._all(Service.start)

    def revive(self):
        self._all(Service.revive)

    def _all(self, function):
        """At once: each takes as long as a Python takes to start."""
        with concurrent.futures.ThreadPoolExecutor(len(self.services)) as pool:
            list(pool.map(function, self.services))

    def kill(self):
        for service in self.services:
            with service.lock:
                if service.process and service.process.poll() is None:
                    service.kill()

    def check(self):
        """Nobody has died but by our hand."""
        for service in self.services:
            if not service.lock.locked() and service.process.poll() is not None \
                    and service.instance not in service.ended:
                self.world.fail(f"the service {service.instance} ended by itself: {service.process.returncode}")
