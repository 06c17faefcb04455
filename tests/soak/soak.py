#!/usr/bin/python3
"""Chaos: `make soak`. Routers, and clients and services of every kind that come, go, hang and die.

    soak.py KAISO [--seconds N] [--seed SEED]

Three processes of kaiso: "changing", which is upgraded (USR2) again and again; "constant", which is not, and has to
have its memory back at the end; and an exposer, upgraded too. Both routers offer the same services, and the first one
each of the second's. Every byte that comes is compared with what was sent (flow.py). A session that did not come to
its end has to be excused by something that was done to its service or its router at that time (clients.py), else it
is a failure. Now and then all hold still, and no process may use its processor then. After a warm-up and at the end
everything leaves, and descriptors and memory have to be what they were.

Every choice comes from the seed; what happens at the same time does not. Under the address sanitizer, which also finds
what memory was lost: KAISO_BUILD=address tests/soak/soak.py build-address/kaiso.
"""

import argparse
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

SLOTS = 80  # sessions at a time
LASTING_SLOTS = 8
PROGRESS_SECONDS = 10
STILL_SECONDS = 40  # from one time that all hold still to the next
SETTLE_SECONDS = 20
END_SECONDS = 150  # for the last sessions to end
MEMORY_TOLERANCE = 1 << 20
FAILURES_MAX = 50
MIB = 1 << 20


def options_of(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kaiso", help="the program kaiso")
    parser.add_argument("--seconds", type=float, default=600, help="in all; default: 600")
    parser.add_argument("--seed", default="", help="default: a new one, which is printed")
    parser.add_argument("--kinds", help="only these kinds of clients, separated by commas")
    parser.add_argument("--chaos", help="only these: some of upgrades,directories,services,limits; or none")
    options = parser.parse_args(words)
    options.seed = options.seed or str(random.randrange(1 << 32))
    return options


OPTIONS = options_of(sys.argv[1:])
os.environ["KAISO"] = os.path.abspath(OPTIONS.kaiso)

import clients  # noqa: E402 (they look at $KAISO)
from chaos import Chaos  # noqa: E402
from fleet import Fleet, kill_all  # noqa: E402
from harness.passfd import descendants  # noqa: E402
from harness.wait import IS_SANITIZED  # noqa: E402
from world import SoakExposer, SoakRouter, World  # noqa: E402


class Soak:
    def __init__(self, options):
        self.options = options
        self.world = World(options.seed)
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="kaiso-soak-"))
        self.fleet = Fleet(self.world, self.root)
        self.measures = {}  # router: [(descriptors, memory), ...]
        self.slots = []

    # ---- what is run

    def set_up(self):
        if self.options.kinds:
            clients.keep_kinds(self.options.kinds.split(","))
        self.fleet.lay_out()
        self.fleet.start()
        common = ("--idle-timeout", f"{clients.IDLE_TIMEOUT:g}s", "--connect-timeout", "8s", "--threads", "2")
        options = ("--request-timeout", f"{clients.REQUEST_TIMEOUT:g}s", *common)
        socket_path = self.root / "router.sock"
        constant = SoakRouter(*options, services=self.fleet.link).begin(self.world, "constant")
        self.fleet.describe_far(constant.port)
        changing = SoakRouter(*options, services=self.fleet.link, listen=("127.0.0.1:0", f"unix:{socket_path}"))
        changing.begin(self.world, "changing")
        self.fleet.put("loop", f"{changing.addresses[0]} loop\n")
        exposed = [self.fleet.by_name[name] for name in ("unix-steady", "tcp", "unix", "lasting")]
        pairs = [word for service in exposed for word in (service.name, "127.0.0.1:0")]
        exposer = SoakExposer(changing.addresses[0], *pairs, options=common).begin(self.world, "exposer")
        tcp, unix = changing.addresses
        self.changing = [changing, changing, exposer]
        self.ways = [
            clients.Way("the changing router", tcp, [changing]),
            clients.Way("its UNIX socket", unix, [changing]),
            clients.Way("the constant router", constant.address, [constant]),
            clients.Way("both routers", tcp, [changing, constant], prefix="far/"),
            *(clients.Way("the exposer", address, [exposer, changing], service=service)
              for address, service in zip(exposer.addresses, exposed)),
        ]
        self.fleet.lists = self.fleet.expected_lists()

    def tear_down(self):
        for router in self.world.routers:
            router.kill()
            router.remove()
        for service in self.fleet.services:
            if service.process:
                kill_all(reversed(descendants(service.process.pid)))
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- the course of it

    def run(self):
        warm_up = max(min(120, self.options.seconds / 5), 5)
        self.phase("warm-up", warm_up)
        self.measure("after the warm-up")
        if self.is_hopeless():
            return
        self.fleet.revive()
        self.phase("soak", self.options.seconds - warm_up)
        self.measure("at the end")
        for router in self.world.routers:
            router.finish()
        self.judge_memory()

    def phase(self, name, seconds):
        """Clients and chaos for so long; returns when all have come to their end."""
        self.world.say(f"{name}, {seconds:.0f} s")
        self.world.is_over.clear()
        lasting = ("lasting", clients.lasting, 1)
        self.slots = [clients.Slot(self, f"{name} slot {number}") for number in range(SLOTS)]
        self.slots += [clients.Slot(self, f"{name} lasting {number}", lasting) for number in range(LASTING_SLOTS)]
        chaos = Chaos(self, name, self.options.chaos)
        self.watch(time.monotonic() + seconds)
        self.world.is_over.set()
        chaos.join()
        end = time.monotonic() + END_SECONDS
        for slot in self.slots:
            slot.thread.join(max(0, end - time.monotonic()))
            if slot.thread.is_alive():
                kind, call = slot.now or ("-", None)
                who = call and (call.id, call.name, call.way and call.way.name)
                self.world.fail(f"a session does not end: {kind}, {who}")

    def watch(self, end):
        """Looks after everything, and tells of it."""
        next_progress = time.monotonic() + PROGRESS_SECONDS
        next_still = time.monotonic() + STILL_SECONDS / 2
        while time.monotonic() < end and not self.is_hopeless():
            time.sleep(0.25)
            for router in self.world.routers:
                if not router.is_alive():
                    self.world.fail(f"{router.label} is dead: {router.process.returncode}\n"
                                    f"{router.log.text()[-3000:]}")
            self.fleet.check()
            if time.monotonic() > next_still:
                self.hold_still()
                next_still = time.monotonic() + STILL_SECONDS
            if time.monotonic() > next_progress:
                self.progress()
                next_progress += PROGRESS_SECONDS

    def is_hopeless(self):
        return len(self.world.failures) >= FAILURES_MAX or not all(router.is_alive() for router in self.world.routers)

    def hold_still(self):
        """Nobody moves, whatever state he is in: then no router has anything to do."""
        self.world.gate.clear()
        try:
            time.sleep(1.5)
            for router in self.world.routers:
                router.judge_quiet("while nobody moves")
            self.world.count("times all held still")
        finally:
            self.world.gate.set()

    def measure(self, when):
        """Everything leaves, the services too; what is left?"""
        self.fleet.kill()
        for router in self.world.routers:
            if router.is_alive():
                found, memory = router.settle(SETTLE_SECONDS)
                self.measures.setdefault(router, []).append((found, memory))
                self.world.say(f"{when}, {router.label}: {describe(found)}, {memory / MIB:.2f} MiB")

    def judge_memory(self):
        for router, measures in self.measures.items():
            if len(measures) == 2 and not IS_SANITIZED and measures[1][1] > measures[0][1] + MEMORY_TOLERANCE:
                self.world.fail(f"{router.label} has grown from {measures[0][1]} to {measures[1][1]} bytes of memory")

    # ---- what is told

    def progress(self):
        world = self.world
        with world.lock:
            done = sum(count for (kind, outcome), count in world.sessions.items() if outcome)
            counts = world.counts.copy()
        now = sum(slot.now is not None for slot in self.slots)
        routers = ", ".join(f"{router.label} {sum(router.fds().values())} fds {router.anonymous() / MIB:.1f} MiB"
                            for router in world.routers if router.is_alive())
        world.say(f"{done} sessions, {now} now, {counts['sent'] / MIB:.0f} MiB up, "
                  f"{counts['received'] / MIB:.0f} down, {counts['upgrades']} upgrades, "
                  f"{counts['services killed']} kills; {routers}; "
                  f"{len(world.failures)} wrong")

    def report(self):
        world = self.world
        print(f"\nSeed {world.seed}, {world.elapsed():.0f} s\n")
        print("Sessions by kind")
        total = 0
        for (kind, outcome), count in sorted(world.sessions.items()):
            if outcome:
                total += count
                print(f"  {kind:22} {outcome:34} {count:9}")
        print(f"  {'all':57} {total:9}")
        print("Sessions by way")
        for (kind, outcome), count in sorted(world.sessions.items()):
            if not outcome:
                print(f"  {kind:57} {count:9}")
        print("What happened")
        counts = world.counts
        rows = [("bytes sent by clients", counts["sent"]), ("bytes received by clients", counts["received"]),
                ("streams compared, by either side", counts["streams"]), ("bytes compared", counts["bytes"]),
                ("lists compared", counts["lists"])]
        rows += sorted((name, count) for name, count in counts.items()
                       if name not in ("sent", "received", "streams", "bytes", "lists"))
        for router in world.routers:
            for name, count in sorted(router.log.counts.items()):
                if name.startswith(("reason ", "upgraded", "lost")):
                    rows.append((f"{router.label}: {name}", count))
        for name, count in rows:
            print(f"  {name:57} {count:9}")
        times = sorted(world.upgrade_times)
        if times:
            print(f"  {'USR2 to the line in the log, median and longest, ms':57} {times[len(times) // 2] * 1000:9.1f} "
                  f"{times[-1] * 1000:9.1f}")
        print(f"  {'longest stall of an echo, s':57} {world.stall[0]:9.3f}  ({world.stall[1]})")
        print("Descriptors and anonymous memory, after the warm-up and at the end")
        for router, measures in self.measures.items():
            for found, memory in measures:
                print(f"  {router.label:22} {describe(found):34} {memory / MIB:9.2f} MiB")
        for text in world.failures:
            print(f"WRONG: {text}")
        print(f"{len(world.failures)} wrong" if world.failures else "All was well.")


def describe(found):
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def end_on_signals():
    def end(number, _frame):
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(512 * 1024)
    end_on_signals()
    print(f"soak: seed {OPTIONS.seed}, {OPTIONS.seconds:g} s   (again: make soak SEED={OPTIONS.seed} "
          f"SOAK_SECONDS={OPTIONS.seconds:g})", flush=True)
    soak = Soak(OPTIONS)
    try:
        soak.set_up()
        soak.run()
    except KeyboardInterrupt:
        soak.world.fail("interrupted")
    except Exception:
        soak.world.fail(f"the soak itself: {traceback.format_exc()}")
    finally:
        soak.world.is_closed = True
        soak.report()
        soak.tear_down()
    sys.exit(1 if soak.world.failures else 0)


main()
