"""A ping-pong while others attack the router, against the same one in quiet, in the same rounds.

The attacker is that of the tests. It has the clients' processor whenever nobody else wants it (SCHED_IDLE), as if it were
on another host, and so has the second router of a loop: what is measured is what their connections cost those of others.
"""

import contextlib
import os
import pathlib
import socket
import sys

import measure
import special

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from harness.attacks import Attack, Target  # noqa: E402

SOURCE = "127.255.0.66"
LINE = "service"
# Name, kind of the attacker, what it asks for, with how many connections, options of the router.
ATTACKS = (
    ("slow lines", "slow-lines", "", 4000, ()),
    ("lists never read", "unread-lists", "", 500, ()),
    ("connections", "connections", "", 10_000, ("--max-sessions", "15000")),  # or all others are refused, as they should be
    ("connections over a limit", "connections", "", 10_000, ("--max-sessions-per-address", "100")),
    ("loop", "requests", "x", 100, ()),
    ("loop through two", "requests", "z", 50, ("--max-sessions-per-address", "100")),
    ("service that never reads", "unread-service", "sink", 200, ()),
    ("full backlog", "requests", "full", 2000, ("--connect-timeout", "1s")),
    ("resets", "resets", "target", 2000, ()),
)


def as_idle():
    os.sched_setaffinity(0, {measure.CLIENT_CORE})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def move_to_attacker(process):
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        os.sched_setaffinity(int(thread), {measure.CLIENT_CORE})
        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def listen(path, backlog):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


def fill(path, stack):
    """Until a connection would have to wait."""
    while True:
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.setblocking(False)
        try:
            filler.connect(str(path))
        except BlockingIOError:
            return


def drop_all(listener):
    """The sessions of a service that never reads end with it."""
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


def bench_attack(bench, placement, core, attack, number):
    name, kind, line, count, options = attack
    with contextlib.ExitStack() as stack:
        directory = bench.directory / f"attacked-{number}-{core}"
        directory.mkdir()
        sink = stack.enter_context(listen(directory / "sink", 4096))
        stack.enter_context(listen(directory / "full", 0))
        fill(directory / "full", stack)
        stack.callback(Target(str(directory / "target"), as_idle).close)
        services = {LINE: bench.services / "service"} | {name: directory / name for name in ("sink", "full", "target")}
        services |= {f"{at:04}-{'n' * 200}": bench.services / "service" for at in range(1000)}
        second = special.kaiso(bench, core, stack, {"z": "127.0.0.1:9\n"}, options=options)
        move_to_attacker(second.process)
        router = special.kaiso(bench, core, stack, services | {"z": f"{second.place} z\n"}, options=options)
        describe_loops(router, second)
        for _ in range(bench.rounds):
            before = router.descriptors()
            play(bench, placement, name, router, "quiet")
            with Attack(kind, router.place, line, count, SOURCE, as_idle) as flood:
                play(bench, placement, name, router, "attacked")
            drop_all(sink)
            measure.wait_for(lambda before=before: router.descriptors() < before + 40, "quiet after the attack")
            bench.say(f"{name}: {flood.count}")


def describe_loops(router, second):
    """x and y lead to each other within a router, z through both."""
    lines = ((router, "x", f"{router.place} y\n"), (router, "y", f"{router.place} x\n"), (second, "z", f"{router.place} z\n"))
    for where, name, line in lines:
        (where.services / name).write_text(line)


def play(bench, placement, attack, router, contender):
    figures, _ = bench.run("ping-pong", router.place, LINE, 1, 1, int(bench.seconds * 2000))
    bench.results.add(("attacks", attack, placement, contender), p50_us=figures["p50_us"], p99_us=figures["p99_us"],
                      **{"p99.9_us": figures["p999_us"]})


def bench_all(bench, placements):
    """With a processor of its own for the router, where there are two: else the attacker's share of the only one counts."""
    placement = placements[-1]
    core = measure.CLIENT_CORE if placement == measure.ONE_CORE else measure.CLIENT_CORE + 1
    for number, attack in enumerate(ATTACKS):
        bench.say(f"{placement}: attack, {attack[0]}")
        bench_attack(bench, placement, core, attack, number)
