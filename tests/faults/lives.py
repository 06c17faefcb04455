"""Faults while a router starts, ends, or becomes another program: a process for each."""

import os
import signal
import socket
import subprocess
import time

from harness import process
from harness.services import bind_tcp, bind_unix

from . import peers
from .campaign import Campaign
from .peers import Violation, pump, say
from .world import LIBRARY, FaultyRouter, World

EXIT_CODES = (1, 2)  # that a start may fail with


# ---- start

class Start:
    """A way to start a router. Each listens on a UNIX socket, by which it is seen whether it serves."""

    name = "start"
    options = ()
    words = ("127.0.0.1:0",)

    def router(self, control):
        return FaultyRouter(control, *self.options, awaits_ready=False)

    def prepare(self, router):
        router.path_of_listener = str(router.root / "listener")
        router.listen = (*self.words, f"unix:{router.path_of_listener}")


class PlainStart(Start):
    """TCP, a UNIX socket in the place of a dead one, and another whose path fits no address; tells a service manager."""

    def prepare(self, router):
        super().prepare(router)
        directory = router.root / ("d" * 120)
        directory.mkdir()
        bind_unix(router.path_of_listener).close()
        router.listen += (f"unix:{directory}/listener",)
        router.manager = router.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        router.manager.bind(str(router.root / "manager"))
        router.env["NOTIFY_SOCKET"] = str(router.root / "manager")


class OtherStart(Start):
    """Names, all addresses, another user, and sockets of a service manager."""

    name = "other start"
    words = ("localhost:0", ":0")
    options = ("--user", "nobody:nogroup") if os.geteuid() == 0 else ()

    def prepare(self, router):
        super().prepare(router)
        os.chmod(router.root, 0o777)
        listener = router.keep(bind_tcp())
        router.pass_fds += (listener.fileno(),)
        del router.env["LD_PRELOAD"]  # not for the shell
        router.wrapper = ("/bin/bash", "-c", f'exec 3<&{listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1'
                                           f' LD_PRELOAD={LIBRARY}; exec "$@"', "bash")


class StartCampaign(Campaign):
    """Whatever fails, a router either serves, or ends with a line that says why and the right status."""

    starts = (PlainStart(), OtherStart())

    def run(self):
        for start in self.starts:
            begun, before = time.monotonic(), self.count.injected
            router = self.begin(start)
            router.control = _Begun(self.control, self.control.record)
            router.start()
            served = self.outcome(router)
            self.end(router)
            if not served:
                raise AssertionError(f"the router does not start:\n{router.log.text()}")
            for place in self.new_places(self.control.recorded()):
                for fault in self.plan(place):
                    if not fault.is_lasting:
                        self.visit(start, fault)
            self.say(f"{start.name}: {self.count.injected - before} faults in {time.monotonic() - begun:.0f} s")
        return self.count

    def begin(self, start):
        self.control.new_process()
        router = start.router(self.control)
        start.prepare(router)
        router.echo("echo")
        os.chmod(router.path("echo"), 0o777)  # for whatever user it becomes
        return router

    def visit(self, start, fault):
        router = self.begin(start)
        try:
            router.control = _Begun(self.control, lambda: self.arm(fault))
            router.start()
            served = self.outcome(router)
            self.disarm()
            if served:
                self.serve(router)
            self.check_end(router, served)
        except (Violation, AssertionError, OSError) as error:
            self.fail(start.name, fault, error, router.log.text()[-1500:] if router.log else "")
        finally:
            self.disarm()
            self.note(fault)
            self.end(router)

    def outcome(self, router):
        """True once it serves, False when it has ended."""
        end = time.monotonic() + 4 * peers.PATIENCE
        while time.monotonic() < end:
            if router.process.poll() is not None:
                return False
            if self.answers(router):
                return True
            time.sleep(0.002)
        raise Violation("it neither serves nor ends")

    @staticmethod
    def answers(router):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(0.3)
            try:
                sock.connect(router.path_of_listener)
                sock.sendall(b".kaiso/version\n")
                return sock.recv(100).startswith(b"kaiso ")
            except OSError:
                return False

    @staticmethod
    def serve(router):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(router.path_of_listener)
            got, how = pump(sock, b"echo\nhello")
            if (got, how) != (b"hello", "end"):
                raise Violation(f"it started, and then {got!r}, {how}")
        router.signal(signal.SIGTERM)

    @staticmethod
    def check_end(router, served):
        try:
            code = router.process.wait(2 * peers.PATIENCE)
        except subprocess.TimeoutExpired:
            raise Violation("it does not end") from None
        router.log.join()
        if served and code != 0:
            raise Violation(f"it served, and then ended with {code}")
        if not served and (code not in EXIT_CODES or not router.log.text().strip()):
            raise Violation(f"it ended with {code} and said {router.log.text()!r}")
        reports = [raw for raw in router.log.raw if b"Sanitizer" in raw or b"runtime error" in raw]
        if reports:
            raise Violation(f"a sanitizer's report: {reports[:3]}")

    @staticmethod
    def end(router):
        router.kill()
        router.close_things()
        router.remove()


class _Begun:
    """In the place of a Control for FaultyRouter.start(), which turns faults off: the process begins with them."""

    def __init__(self, control, begin):
        self._control = control
        self._begin = begin

    def new_process(self):
        self._control.new_process()
        self._begin()


# ---- the end

class DrainCampaign(Campaign):
    """From the signal to the exit: sessions get their time, and the router ends, whatever fails."""

    name = "drain"

    def run(self):
        begun = time.monotonic()
        world = self.begin()
        self.control.record()
        self.drain(world, True)
        world.close()
        for place in self.new_places(self.control.recorded()):
            for fault in self.plan(place):
                if not fault.is_lasting:
                    self.visit(fault)
        self.say(f"{self.name}: {self.count.injected} faults in {time.monotonic() - begun:.0f} s")
        return self.count

    def begin(self):
        self.control.new_process()
        return World(self.control, "--drain-timeout", "30s").start()

    def visit(self, fault):
        world = self.begin()
        try:
            self.arm(fault)
            self.drain(world, False)
        except (Violation, AssertionError, OSError) as error:
            self.fail(self.name, fault, error, world.router.log.text()[-1500:])
        finally:
            self.disarm()
            self.note(fault)
            world.close()

    @staticmethod
    def drain(world, is_strict):
        router = world.router
        half, stays = world.connect(), world.connect()
        say(half, b"ech")
        got, how = pump(stays, b"tcp\n12345", end=False, enough=5)
        if got != b"12345"[:len(got)] or (is_strict and how != "enough"):
            raise Violation(f"before the end: {got!r}, {how}")
        router.signal(signal.SIGTERM)
        got, how = pump(half, end=False)
        if got or how == "late":
            raise Violation(f"a client without a request: {got!r}, {how}")
        for bystander in world.bystanders:
            bystander.exchange()
            got, how = pump(bystander.sock)
            if got or how != "end":
                raise Violation(f"the end of a session within the drain time: {got!r}, {how}")
        router.signal(signal.SIGTERM)
        got, how = pump(stays, end=False)
        if got or how == "late" or (is_strict and how != "reset"):
            raise Violation(f"a session at the second signal: {got!r}, {how}")
        try:
            code = router.process.wait(peers.PATIENCE)
        except subprocess.TimeoutExpired:
            raise Violation("it does not end") from None
        router.log.join()
        router.check_log()
        if code != 0:
            raise Violation(f"it ended with {code}")


# ---- an upgrade

# The new program had no memory to keep what a further upgrade needs. It goes on, and says so when it is asked to.
NOT_AGAIN = "the program's own path is not known"


TOLD_SECONDS = 6.0  # less than any of a session's times, so that all go on where the line that says so is lost


class Lost(Violation):
    """The one session that the fault hit: reset, or closed before it began."""


class UpgradeCampaign(Campaign):
    """An upgrade that fails leaves all as it was; one that succeeds takes all along."""

    past_return = 0
    lost = 0
    not_again = 0

    def __init__(self, *arguments, threads=1, **keywords):
        super().__init__(*arguments, **keywords)
        self.threads = threads
        self.name = f"upgrade of {threads} thread(s)"

    def holdings(self, world):
        """(Descriptors but pipes, pipes, blocks). A new program may need fewer pipes, or go on without its log, which is one. Which
        thread a client comes to is chance, and each remembers services of its own."""
        _, blocks = world.holdings()
        kinds = process.count_fds(world.router.pid)
        pipes = kinds.pop("pipe")
        return kinds.total(), pipes, blocks if self.threads == 1 else 0

    def run(self):
        begun = time.monotonic()
        self.world = self.begin()
        self.upgrade(self.world, True, is_recorded=True)
        for place in self.new_places(self.control.recorded()):
            for fault in self.plan(place):
                if not fault.is_lasting:
                    self.visit(fault)
        self.end_world()
        self.say(f"{self.name}: {self.count.injected} faults in {time.monotonic() - begun:.0f} s;"
                 f" {self.past_return} ended the new program, past the point of no return, with a clear line;"
                 f" {self.lost} ended the one session that they hit; {self.not_again} left a new program that cannot be upgraded")
        return self.count

    @staticmethod
    def has_told(router):
        router.log.join()
        return router.process.wait() == 1 and router.log.find(msg=lambda text: text.startswith(("cannot start", "cannot take")))

    def begin(self):
        world = World(self.control, "--threads", str(self.threads)).start()
        self.upgrade(world, True)
        return world

    def visit(self, fault):
        starts = self.control.shared.starts
        try:
            self.strike(fault)
            self.note(fault)
        except (Violation, AssertionError, OSError) as error:
            router = self.world.router
            self.note(fault)
            if isinstance(error, Lost):
                self.lost += 1
            elif self.control.shared.starts > starts and NOT_AGAIN in str(error):
                self.not_again += 1
            elif self.control.shared.starts > starts and not router.is_alive() and self.has_told(router):
                self.past_return += 1  # the new program cannot start, and the old one is no more
            else:
                if not router.is_alive():
                    error = f"the router ended with {router.process.returncode} ({error})"
                self.fail(self.name, fault, error, router.log.text()[-2500:])
            self.world.close()
            self.world = self.begin()

    def strike(self, fault):
        world = self.world
        starts = self.control.shared.starts
        held = self.steady(world)
        self.attempt(fault)
        if self.control.shared.starts == starts and self.steady(world) != held:
            held = self.steady(world)
            self.attempt(fault)  # what is made once stays; what comes again is a leak
        after = self.steady(world)
        if self.control.shared.starts > starts and after[0] < held[0]:
            self.find_lost(world)
        if after[0] != held[0] or after[1] > held[1] or (self.control.shared.starts == starts and after != held):
            raise Violation(f"(descriptors, pipes, blocks) were {held}, and are {after}")
        self.check_quiet(world.router.pid)
        self.upgrade(world, True)
        world.router.check_log()

    @staticmethod
    def find_lost(world):
        """A bystander may have had its answer before it was lost."""
        for bystander in world.bystanders:
            try:
                bystander.exchange()
            except (Violation, OSError) as error:
                raise Lost(str(error)) from None

    def attempt(self, fault):
        world = self.world
        try:
            self.upgrade(world, False, fault)
        finally:
            world.forget()
        world.settle_services()
        if not world.router.is_alive():
            raise Violation("the router is dead")

    def steady(self, world):
        held, since = self.holdings(world), time.monotonic()
        while time.monotonic() - since < 0.05:
            time.sleep(0.004)
            if self.holdings(world) != held:
                held, since = self.holdings(world), time.monotonic()
        return held

    def upgrade(self, world, is_strict, fault=None, is_recorded=False):
        """With sessions in several states, each of which has to go on. Their begin is no part of what fails or is recorded."""
        router = world.router
        full, half, idle = world.connect(), world.connect(), world.connect()
        full.sendall(b"source\n")
        half.sendall(b"ec")
        idle.sendall(b"tcp\nhello")
        got, how = pump(idle, end=False, enough=5)
        if got != b"hello":
            raise Violation(f"before an upgrade: {got!r}, {how}")
        time.sleep(0.01)  # so that buffers are full, and half a line has come
        for bystander in world.bystanders:
            bystander.send()
        if is_recorded:
            self.control.record()
        if fault:
            self.arm(fault)
        self.signal(world, is_strict)
        self.disarm()
        broken = []
        for bystander in world.bystanders:
            try:
                bystander.receive()
            except Violation as error:
                broken.append(error)
        for what, sock, data, expected in (("bytes that were held", full, None, peers.SOURCE),
                                           ("half a line", half, b"ho\nhello", b"hello"),
                                           ("an idle session", idle, b"again", b"again")):
            got, how = pump(sock, data or b"", end=data is not None)
            if (got, how) != (expected, "end"):
                broken.append(Violation(f"{what}: {len(got)} of {len(expected)} bytes, then {how}"))
        try:
            world.waiter.check()
        except Violation as error:
            broken.append(error)
        before_it_began = ("half a line: 0 of 5", "a client that has not ended its line")
        if fault and len(broken) == 1 and (str(broken[0]).endswith("reset") or str(broken[0]).startswith(before_it_began)):
            raise Lost(str(broken[0]))
        if broken:
            raise broken[0]
        for sock in (full, half, idle):
            sock.close()
        world.settle_services()

    def signal(self, world, is_strict):
        """Returns when it is over: it says so, or with the log failing there is no more to wait for."""
        log = world.router.log
        before = len(log.find(msg="upgraded")), len(log.find(msg=lambda text: text.startswith("cannot upgrade")))
        world.router.signal(signal.SIGUSR2)
        end = time.monotonic() + (10 * peers.PATIENCE if is_strict else TOLD_SECONDS)
        while time.monotonic() < end and world.router.is_alive():
            if len(log.find(msg="upgraded")) > before[0]:
                return
            if len(log.find(msg=lambda text: text.startswith("cannot upgrade"))) > before[1]:
                break
            time.sleep(0.002)
        if is_strict:
            raise Violation(f"no upgrade:\n{log.text()[-2000:]}")
