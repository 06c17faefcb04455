"""Visits every place, with every errno, and looks after each fault whether all is as it was."""

import collections
import os
import re
import time

from harness import process
from harness.router import KAISO

from . import peers, scenarios
from .control import FOREVER, Fault
from .errnos import ERRNOS, SHORT, can_last
from .peers import Violation
from .world import World

SETTLE_SECONDS = 2.0
SETTLED_SECONDS = 2.2  # then a description that was read once is remembered
ATTEMPTS = 3  # until the place is passed again
QUIET_SECONDS = 0.015
LASTING_SECONDS = 0.08
CALLS_A_SECOND_MAX = 2500  # of a router at rest, or in a fault that lasts


# What a library does that a program cannot help: text of a failure.
NOT_OURS = (
    # c-ares walks through every second between two looks at the clock; this one makes them decades.
    re.compile(r"clock_gettime\(\) in libcares.*(waits for an end|afterwards)"),
    # glibc 2.36 crashes, or stops at an assertion, where getaddrinfo() finds no memory for its configuration.
    re.compile(r"(malloc|calloc|realloc)\(\) in libc\.so.* < add_name .*: it ended with -(6|11) "),
    # libmicrohttpd 0.9.75 ends the program (MHD_PANIC) where close() says that a descriptor of its own is none.
    re.compile(r"EBADF at .* of close\(\) in http_run .*(ended with -6|Connection refused)"),
    # libseccomp 2.5.4 crashes, or loads half a filter, which ends the program: at its start, with nobody served yet.
    re.compile(r"(calloc|realloc)\(\) in libseccomp\.so.* < sandbox_limit_calls .*: it ended with -(11|31) "),
)


class Count:
    def __init__(self):
        self.functions = set()
        self.places = set()
        self.pairs = set()  # place and errno
        self.injected = 0
        self.missed = 0  # the place was not passed again
        self.not_ours = 0  # failures that were in a library
        self.failures = collections.OrderedDict()  # text: how often

    def add_failure(self, text):
        self.failures[text] = self.failures.get(text, 0) + 1

    def text(self):
        return (f"{len(self.functions)} functions, {len(self.places)} places, {len(self.pairs)} places with an errno, "
                f"{self.injected} faults injected, {self.missed} not reached again, {self.not_ours} failures of libraries, {len(self.failures)} failures")


class Campaign:
    """plan(place): the faults for it. say: where a line about each failure goes."""

    def __init__(self, control, plan, say=print, has_logs=False):
        self.control = control
        self.plan = plan
        self.say = say
        self.has_logs = has_logs
        self.count = Count()
        self.visited = set()
        self.injected = 0  # by the last fault

    def arm(self, fault):
        self.injected = 0
        self.control.arm(fault)

    def disarm(self):
        self.injected = max(self.injected, self.control.shared.injected)
        self.control.off()

    def note(self, fault):
        self.count.functions.add(fault.place.function)
        self.count.places.add(fault.place.hash)
        self.count.pairs.add((fault.place.hash, fault.code))
        if self.injected:
            self.count.injected += 1
        else:
            self.count.missed += 1

    def fail(self, scenario, fault, error, log=""):
        text = f"{scenario}: {fault.text(KAISO)}: {error}"
        if any(pattern.search(text) for pattern in NOT_OURS):
            self.count.not_ours += 1
            self.say(f"not of this program: {text}")
            return
        self.count.add_failure(text)
        self.say(f"FAILED {text}")
        if self.has_logs:
            self.say(log)

    def check_quiet(self, pid):
        """A program that spins uses all of the time; one that has just ended a session may be at that."""
        for attempt in range(8):
            used_before, _ = process.cpu_seconds(pid)
            calls = self.control.shared.calls
            time.sleep(QUIET_SECONDS)
            used = process.cpu_seconds(pid)[0] - used_before
            if used < QUIET_SECONDS / 3 and self.control.shared.calls - calls < QUIET_SECONDS * CALLS_A_SECOND_MAX:
                return
        raise Violation(f"it used {used:.3f} s of {QUIET_SECONDS} s afterwards: it spins")

    def end_world(self):
        try:
            self.world.end()
            self.check_log()
        except (Violation, AssertionError) as error:
            self.count.add_failure(f"at the end: {error}")
            self.say(f"FAILED at the end: {error}")
        self.world.close()
        self.world = None

    def check_log(self):
        try:
            self.world.router.check_log()
        except AssertionError as error:
            raise Violation(str(error)) from None

    def new_places(self, places):
        """Those that no scenario has visited before."""
        found = [place for place in places if place.hash not in self.visited]
        self.visited.update(place.hash for place in found)
        return sorted(found, key=lambda place: (place.function, place.frames))


class RuntimeCampaign(Campaign):
    """All faults in one router; a new one after it has died or has kept something."""

    def __init__(self, *arguments, make_world=World, chosen=scenarios.RUNTIME, **keywords):
        super().__init__(*arguments, **keywords)
        self.make_world = make_world
        self.chosen = chosen
        self.world = None
        self.rest = None  # what the router holds when nobody but the bystanders is there

    def new_world(self):
        if self.world:
            self.world.close()
        self.world = self.make_world(self.control).start()
        time.sleep(SETTLED_SECONDS)
        for _ in range(2):
            for scenario in self.chosen:
                scenario(self.world, True, None)
        self.rest = self.steady_holdings()

    def steady_holdings(self):
        """Once they do not change any more."""
        held = self.world.holdings()
        since = time.monotonic()
        while time.monotonic() - since < 0.1:
            time.sleep(0.005)
            now = self.world.holdings()
            if now != held:
                held, since = now, time.monotonic()
        return held

    def run(self):
        self.new_world()
        for scenario in self.chosen:
            begun, before = time.monotonic(), self.count.injected
            self.control.record()
            scenario(self.world, True, None)
            for place in self.new_places(self.control.recorded()):
                for fault in self.plan(place):
                    self.visit(scenario, fault)
            self.say(f"{scenario.__name__}: {self.count.injected - before} faults in {time.monotonic() - begun:.0f} s")
        self.end_world()
        return self.count

    def visit(self, scenario, fault):
        try:
            for _ in range(ATTEMPTS):
                self.strike(scenario, fault)
                if self.injected:
                    break
            self.note(fault)
        except (Violation, OSError) as error:
            self.note(fault)
            log = self.world.router.log.text()[-1500:]
            if not self.world.router.is_alive():
                error = f"the router ended with {self.world.router.process.returncode} ({error})"
            self.fail(scenario.__name__, fault, error, log)
            self.new_world()

    def strike(self, scenario, fault):
        world = self.world
        for bystander in world.bystanders:
            bystander.send()
        self.arm(fault)
        try:
            if fault.is_lasting:
                self.endure(scenario, fault)
            else:
                scenario(world, False, fault.code)
        finally:
            self.disarm()
            world.forget()
        self.check_alive()
        for bystander in world.bystanders:
            bystander.receive()
        if world.waiter:
            world.waiter.check()
        world.settle(fault.is_lasting)
        try:
            scenario(world, True, None)
        except Violation as error:
            raise Violation(f"afterwards, {error}") from None
        self.check_quiet(world.router.pid)
        self.check_holdings(scenario, fault)
        self.check_log()

    def check_alive(self):
        if not self.world.router.is_alive():
            raise Violation("the router is dead")

    def endure(self, scenario, fault):
        """The fault stays: nobody has to be served, but nothing may spin."""
        patience, peers.PATIENCE = peers.PATIENCE, 0.3
        try:
            scenario(self.world, False, fault.code)
        except Violation as error:
            if "late" not in str(error) and "wait" not in str(error) and "no answer" not in str(error):
                raise
        finally:
            peers.PATIENCE = patience
        self.check_alive()
        self.check_calls(LASTING_SECONDS, "while it lasted")

    def check_calls(self, seconds, when):
        calls = self.control.shared.calls
        time.sleep(seconds)
        calls = self.control.shared.calls - calls
        if calls > seconds * CALLS_A_SECOND_MAX:
            raise Violation(f"{calls} calls in {seconds} s {when}: it spins")

    def check_holdings(self, scenario, fault):
        """What came once may be a pool that has grown. What comes again with each fault is a leak."""
        held = self.wait_holdings()
        if held == self.rest:
            return
        grown = [held]
        for _ in range(2):
            self.control.arm(fault)
            try:
                scenario(self.world, False, fault.code)
            except Violation:
                pass
            self.control.off()
            self.world.forget()
            self.check_alive()
            self.world.settle(True)
            scenario(self.world, True, None)
            grown.append(self.steady_holdings())
        steps = list(zip([self.rest, *grown], grown))
        if all(after[0] > before[0] for before, after in steps) or all(after[1] > before[1] for before, after in steps):
            raise Violation(f"(descriptors, blocks) were {self.rest}, and then {grown}: a leak")
        self.rest = grown[-1]

    def wait_holdings(self):
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            held = self.world.holdings()
            if held == self.rest or time.monotonic() > end:
                return held
            time.sleep(0.003)


# ---- plans

def every_fault(place):
    """Each errno at the first and at the last occurrence; one that stays; a short read or write."""
    if place.function not in ERRNOS:
        raise KeyError(f"errnos.py has nothing about {place.function}()")
    occurrences = [1] if place.count == 1 else [1, place.count]
    for code in ERRNOS[place.function]:
        for occurrence in occurrences:
            yield Fault(place, code, occurrence)
        if can_last(place.function, code):
            yield Fault(place, code, 1, FOREVER)
    if place.function in SHORT:
        for occurrence in occurrences:
            yield Fault(place, None, occurrence)


def once_each(place):
    """The first occurrence with every errno."""
    for code in ERRNOS[place.function]:
        yield Fault(place, code)
