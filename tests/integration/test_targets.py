"""Services with several targets, while these come and go, fill up and are replaced; and limits of services."""

import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from harness.router import KAISO
from harness.services import bind_tcp, bind_unix, closed_port
from harness.wait import DEADLINE, IS_SANITIZED, Task, wait_until

CLIENT_THREADS = 30  # many: those that come while a TCP service is about to end wait a second for their next SYN
CLIENTS = 112  # of each thread, and there are three cases: 10 000 in all

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>

FAILED = "cannot connect to a target of the service"


def name_tag(word):
    def handler(stream):
        stream.send(word)
    return handler


def served_by(router, path):
    client = router.open(path)
    word = client.receive_all()
    client.close()
    return word


def upgrade(router):
    count = len(router.log.find(msg="upgraded")) + 1
    router.signal(signal.SIGUSR2)
    router.log.wait(count, msg="upgraded")


def failures(router, **fields):
    """How many the log has told of by now."""
    client = router.open("nowhere")
    router.wait_session(client)
    client.close()
    return len(router.log.find(msg=FAILED, **fields))


def at_once(count, function):
    """In as many threads; their results."""
    return [task.join() for task in [Task(function) for _ in range(count)]]


# ---- a target that is restarted

class Restarted:
    """A service that is restarted as good ones are: whoever had reached it is served before it ends."""

    def __init__(self, address):
        self.address = address  # a path or a port
        self.served = 0
        self.starts = 0

    def start(self):
        self.ending = os.eventfd(0, os.EFD_NONBLOCK)
        self.starts += 1
        is_unix = isinstance(self.address, bytes)
        self.listener = bind_unix(self.address, 1024) if is_unix else bind_tcp(backlog=1024, port=self.address)
        self.listener.setblocking(False)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self

    def _serve(self):
        with select.epoll() as poller:
            poller.register(self.listener, select.EPOLLIN)
            poller.register(self.ending, select.EPOLLIN)
            while self.ending not in dict(poller.poll()):
                self._serve_waiting()

    def _serve_waiting(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            with sock:
                sock.settimeout(DEADLINE)
                if sock.recv(64):
                    sock.sendall(b"served")
            self.served += 1

    def stop(self):
        """Nobody reaches it any more, which a UNIX socket does by its name, and a TCP one by taking no SYN."""
        if isinstance(self.address, bytes):
            os.unlink(self.address)
        else:
            drop_new(self.listener)
        os.eventfd_write(self.ending, 1)
        self.thread.join()
        os.close(self.ending)
        time.sleep(0.001)  # who was about to be in the queue is
        self._serve_waiting()
        self.listener.close()


def drop_new(listener):
    """A filter (SO_ATTACH_FILTER, socket(7)) that lets through all segments but those with SYN."""
    code = [(0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xffffffff)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                        struct.pack("HL", len(code), ctypes.addressof(program)))


@pytest.mark.skipif(IS_SANITIZED, reason="as many connections take their time, and say nothing new")
@pytest.mark.parametrize("kind, balance", [("unix", "first"), ("unix", "round-robin"), ("tcp", "first")])
def test_a_restart_loses_no_client(new_router, kind, balance):
    router = new_router("--threads", "2")
    lasting, restarted = make_pair(router, kind)
    router.describe("foo", f"{described(restarted)}\nbackend {described(lasting)}\nbalance {balance}\n")
    is_over = threading.Event()

    def restart():
        while not is_over.wait(0.05 if kind == "unix" else 0.2):
            restarted.stop()
            time.sleep(0.02)
            restarted.start()

    restarts = Task(restart)
    try:
        at_once(CLIENT_THREADS, lambda: be_clients(router.port))
    finally:
        is_over.set()
        restarts.join()
        for service in (restarted, lasting):
            service.stop()
    assert restarted.starts > 3, restarted.starts
    assert restarted.served + lasting.served == CLIENTS * CLIENT_THREADS
    assert restarted.served > 0 and lasting.served > 0


def make_pair(router, kind):
    if kind == "unix":
        return [Restarted(router.path(name)).start() for name in (".lasting", ".restarted")]
    ports = [closed_port() for _ in range(2)]
    for _, holder in ports:
        holder.close()
    return [Restarted(port).start() for port, _ in ports]


def described(service):
    if isinstance(service.address, bytes):
        return os.path.basename(service.address).decode()
    return f"127.0.0.1:{service.address}"


def be_clients(port):
    for _ in range(CLIENTS):
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"foo\r\nhello")
            got = client.recv(64)
            assert got == b"served", got
            assert client.recv(64) == b""


# ---- a target that refuses

def test_a_target_that_refuses_gets_one_client_a_pause(new_router):
    """However many come: the first finds out, and when the pause is over one of them tries it."""
    router = new_router("--threads", "2")
    router.service(".up", name_tag(b"up"))
    router.describe("foo", ".down\nbackend .up\n")
    assert at_once(4, lambda: served_by(router, "foo")) == [b"up"] * 4
    first = failures(router, target=".down")  # who came at the same time did not know yet
    assert 1 <= first <= 4
    begin = time.monotonic()
    while time.monotonic() < begin + 0.6:
        served_by(router, "foo")
    assert failures(router, target=".down") == first
    time.sleep(max(0, begin + 1.05 - time.monotonic()))
    assert at_once(10, lambda: served_by(router, "foo")) == [b"up"] * 10
    assert failures(router, target=".down") == first + 1


def test_a_target_that_is_back_is_found(router):
    router.service(".up", name_tag(b"up"))
    router.describe("foo", ".down\nbackend .up\n")
    assert served_by(router, "foo") == b"up"
    router.service(".down", name_tag(b"back"))
    assert served_by(router, "foo") == b"up"  # not yet
    wait_until(lambda: served_by(router, "foo") == b"back", "the target that is back", interval=0.05)
    assert served_by(router, "foo") == b"back"


def test_the_target_that_was_reached_is_told(new_router, tmp_path):
    """Its kind and its words, by log and status, before and after an upgrade."""
    router = new_router("--control", str(tmp_path / "control"))
    echo = router.service_tcp(None, lambda stream: stream.send(stream.receive(1)))
    router.describe("foo", f".down passfd\nbackend {echo.address}\n")
    clients = [router.open("foo") for _ in range(2)]
    for client in clients:
        wait_until(lambda: told_of(tmp_path, client), "the session to be relayed")
        assert told_of(tmp_path, client) == {"service": "foo", "kind": "tcp", "target": echo.address}
        assert client.send(b"x").receive_all() == b"x"
        client.close()
        router.wait_session(client, service="foo", kind="tcp", target=echo.address)
        upgrade(router)


def told_of(tmp_path, client):
    for session in status(str(tmp_path / "control"), "--sessions")["sessions"]:
        if session["client"] == client.name and session["state"] == "relay":
            return {key: session[key] for key in ("service", "kind", "target")}
    return None


def test_all_have_failed_and_one_is_back(router):
    """Who is left out is tried all the same when there is nobody else."""
    router.describe("foo", ".one\nbackend .two\n")
    router.open("foo").expect_closed()
    router.service(".two", name_tag(b"back"))
    assert served_by(router, "foo") == b"back"


# ---- targets that do not answer, or have no room

def full_tcp(router):
    backend = router.backend_tcp(backlog=0)
    for filler in backend.fill_backlog():
        router.keep(filler)
    return backend


def full_unix(router, name):
    backend = router.backend(name, backlog=0)
    for filler in backend.fill_backlog():
        router.keep(filler)
    return backend


def test_the_time_is_for_all_of_them(router):
    """connect-timeout is shared by the targets: the last one still has its part."""
    silent = [full_tcp(router).address for _ in range(2)]
    router.service(".up", name_tag(b"up"))
    router.describe("foo", f"{silent[0]}\nbackend {silent[1]}\nconnect-timeout 200ms\n")
    router.describe("bar", f"{silent[1]}\nbackend {silent[0]}\nbackend .up\nconnect-timeout 300ms\n")
    begin = time.monotonic()
    client = router.open(".kaiso/open foo")
    assert client.receive_line().startswith(b"-timeout ")
    assert 0.19 < time.monotonic() - begin < 5
    assert [failures(router, target=target, service="foo") for target in silent] == [1, 1]
    assert served_by(router, "bar") == b"up"


def test_a_knock_has_a_part_of_the_time(router):
    """As any attempt, not the whole of it once more."""
    knock = full_tcp(router)
    router.backend(".receiver")
    router.service(".up", name_tag(b"up"))
    router.describe("foo", f".receiver passfd:{knock.port}\nbackend .up\nconnect-timeout 1600ms\n")
    begin = time.monotonic()
    assert served_by(router, "foo") == b"up"
    assert time.monotonic() - begin < 0.7


def test_when_all_are_busy_clients_wait(router):
    """A full backlog is no failure; whoever has room first gets them. A target that failed is not asked meanwhile."""
    full = [full_unix(router, name) for name in (".one", ".two")]
    router.describe("foo", ".one\nbackend .missing\nbackend .two\n")
    client = router.open("foo").send(b"hello")
    time.sleep(0.15)
    assert failures(router) == 1
    assert failures(router, target=".missing") == 1
    while True:
        stream = full[1].accept()
        stream.sock.settimeout(0.2)
        try:
            if stream.receive(5) == b"hello":
                break
        except (AssertionError, OSError):
            pass  # one that filled it
    stream.send(b"world").end()
    assert client.receive_all() == b"world"


def test_busy_up_to_the_end(router):
    """Reason and log say that it took too long, not that it had no room just then."""
    full_unix(router, ".one")
    full_unix(router, ".two")
    router.describe("foo", ".one\nbackend .two\nconnect-timeout 50ms\n")
    client = router.open(".kaiso/open foo")
    assert client.receive_line().startswith(b"-timeout ")
    router.wait_session(client, reason="timeout")
    assert failures(router, error="Connection timed out") == 1
    assert failures(router) == 1


def test_a_client_that_leaves_while_all_are_busy(router):
    full_unix(router, ".one")
    router.describe("foo", ".one\nbackend .one\n")
    client = router.open("foo")
    router.settle()
    client.reset()
    router.wait_session(client, reason="client-reset")


# ---- handing over

def test_a_receiver_that_goes_while_it_is_given_the_client(router):
    """The client's socket was made ready for it, and is the relay's again."""
    receiver = bind_unix(router.path(".receiver"))
    knock = router.backend_tcp()
    router.echo(".echo")
    router.describe("foo", f".receiver passfd:{knock.port}\nbackend .echo\n")
    is_over = threading.Event()

    def refuse():
        receiver.settimeout(0.05)
        while not is_over.is_set():
            try:
                receiver.accept()[0].close()
            except TimeoutError:
                pass

    refusing = Task(refuse)
    try:
        for _ in range(100):
            before = failures(router)
            client = router.open("foo")
            client.sock.settimeout(2)
            try:
                client.exchange(b"hello")
            except (AssertionError, OSError):
                assert failures(router) == before, "the client was not relayed"
                client.close()  # it was sent before the end was seen
                time.sleep(0)
                continue
            time.sleep(0.01)
            client.exchange(b"again").end().expect_end()
            break
        else:
            raise AssertionError("the receiver was always quick enough")
    finally:
        is_over.set()
        refusing.join()
        receiver.close()


def test_knocks_one_after_the_other(new_router):
    """Many clients, whose first target takes one knock at a time and is given up by all of them."""
    router = new_router("--threads", "2")
    port, holder = closed_port()
    with holder:
        router.backend(".receiver", backlog=1024)
        router.echo(".echo")
        router.describe("foo", f".receiver passfd:{port}\nbackend .echo\n")

        def one():
            router.open("foo").exchange(b"hello").close()

        at_once(20, one)


# ---- balance

def test_least_sessions_are_even(router):
    services = [router.echo(f".s{number}") for number in range(3)]
    router.describe("foo", ".s0\nbackend .s1\nbackend .s2\nbalance least-sessions\n")
    held = [router.open("foo").exchange(b"hello") for _ in range(30)]
    assert [service.accepted for service in services] == [10] * 3
    for client in held:
        client.close()


def test_least_sessions_after_an_upgrade(router):
    """Who was there before still counts."""
    services = [router.echo(f".s{number}") for number in range(2)]
    router.describe("foo", ".s0\nbackend .s1\nbalance least-sessions\n")
    held = [router.open("foo").exchange(b"hello") for _ in range(10)]
    counts = [service.accepted for service in services]
    assert counts == [5, 5]
    router.describe("only", ".s0\nbackend .s0\n")
    held += [router.open("only").exchange(b"hello") for _ in range(6)]
    for _ in range(2):
        upgrade(router)
    held += [router.open("foo").exchange(b"hello") for _ in range(6)]
    assert services[1].accepted == 11
    for client in held:
        client.exchange(b"still here").end().expect_end()
    held = [router.open("foo").exchange(b"hello") for _ in range(4)]  # and nobody any more
    assert services[1].accepted == 13


# ---- from one process to the next

@pytest.mark.parametrize("first", ["silent", "busy"])
def test_an_upgrade_between_targets(router, first):
    """Who waits for a target goes on with the choice."""
    target = full_tcp(router).address if first == "silent" else ".full"
    full = full_unix(router, ".full")
    router.describe("foo", f"{target}\nbackend .full\nbackend .gone\nconnect-timeout 1500ms\n")
    client = router.open("foo").send(b"hello")
    router.settle()
    upgrade(router)
    router.echo(".up")
    router.describe("foo", f"{target}\nbackend .full\nbackend .up\nconnect-timeout 1500ms\n")
    upgrade(router)
    assert client.receive(5) == b"hello"
    client.exchange(b"again")
    full.close()


def test_an_upgrade_while_a_router_is_asked(router):
    """Whose verdict would have led to the next target: it is asked again."""
    far = router.backend_tcp()
    router.echo(".up")
    router.describe("foo", f"{far.address} some\nbackend .up\n")
    client = router.open(".kaiso/open foo").send(b"hello")
    assert far.accept().receive_line() == b".kaiso/open some\r\n"
    upgrade(router)
    asked = far.accept()
    assert asked.receive_line() == b".kaiso/open some\r\n"
    asked.send(b"-unavailable just now\r\n")
    assert client.receive_line() == b"+\r\n"
    assert client.receive(5) == b"hello"


def test_an_upgrade_that_brings_a_receiver(router):
    """It gets what is behind the line, though the line was still there."""
    full_unix(router, ".full")
    router.describe("foo", ".full\nbackend .full\n")
    client = router.open("foo").send(b"hello")
    router.settle()
    receiver = router.receiver("other")
    router.describe("foo", ".full\nbackend .receiver passfd\n")
    upgrade(router)
    assert receiver.take().receive(5) == b"hello"
    client.close()


def test_limits_after_an_upgrade(router):
    """Sessions count on for the limit of their service, and end when they were to."""
    router.echo(".echo")
    router.describe("foo", ".echo\nbackend .gone\nmax-sessions 2\nidle-timeout 400ms\n")
    held = [router.open("foo").exchange(b"hello") for _ in range(2)]
    upgrade(router)
    client = router.open(".kaiso/open foo")
    assert client.receive_line().startswith(b"-limit ")
    for client in held:
        client.exchange(b"still here")
    held[0].end().expect_end()
    wait_until(lambda: router.open(".kaiso/open foo").receive_line() == b"+\r\n", "room for another one")
    held[1].expect_closed()
    router.wait_session(held[1], reason="idle-timeout")


def status(control, *words):
    answer = subprocess.run([KAISO, "status", "--json", "--control", control, *words], capture_output=True, check=True,
                            timeout=DEADLINE)
    return json.loads(answer.stdout)


def test_counts_of_mounts_after_an_upgrade(new_router, tmp_path):
    """They are kept like all others."""
    far = new_router()
    far.echo("foo")
    router = new_router("--control", str(tmp_path / "control"))
    router.describe("m", f"{far.address} /\n")
    client = router.open("m/foo").exchange(b"hello")
    client.end().expect_end()
    router.wait_session(client)
    upgrade(router)
    services = status(str(tmp_path / "control"))["services"]
    assert [(one["service"], one["sessions"]) for one in services] == [("m/", 1)]


# ---- limits of services

@pytest.mark.threads
def test_never_more_than_max_sessions(new_router):
    """Whatever the threads; and in the end there is room for all of them again."""
    router = new_router("--threads", "4")
    router.echo(".echo")
    router.describe("foo", ".gone\nbackend .echo\nmax-sessions 5\n")
    lock = threading.Lock()
    counts = {"open": 0, "most": 0, "admitted": 0, "refused": 0}

    def come_and_go():
        for _ in range(10 if IS_SANITIZED else 60):
            client = router.open(".kaiso/open foo")
            answer = client.receive_line()
            if answer != b"+\r\n":
                assert answer.startswith(b"-limit "), answer
                counts["refused"] += 1
                client.close()
                continue
            with lock:
                counts["open"] += 1
                counts["admitted"] += 1
                counts["most"] = max(counts["most"], counts["open"])
            client.exchange(b"hello")
            with lock:
                counts["open"] -= 1
            client.end().expect_end()
            client.close()

    at_once(8, come_and_go)
    assert counts["most"] <= 5
    assert counts["admitted"] > 0 and counts["refused"] > 0, counts

    def all_of_them():
        clients = [router.open(".kaiso/open foo") for _ in range(5)]
        answers = {client.receive_line() for client in clients}
        for client in clients:
            client.close()
        return answers == {b"+\r\n"}

    wait_until(all_of_them, "room for five", interval=0.05)


def test_who_is_refused_leaves_no_trace(router):
    """Neither for the service's limit nor for want of a target does anybody take another's place."""
    router.echo(".echo")
    router.describe("foo", ".echo\nbackend .gone\nmax-sessions 1\n")
    router.describe("bar", ".gone\nbackend .missing\nmax-sessions 1\n")
    held = router.open("foo").exchange(b"hello")
    for _ in range(5):
        assert router.open(".kaiso/open foo").receive_line().startswith(b"-limit ")
        client = router.open(".kaiso/open bar")
        assert client.receive_line().startswith(b"-unavailable ")
        router.wait_session(client)
    held.end().expect_end()
    wait_until(lambda: router.open(".kaiso/open foo").receive_line() == b"+\r\n", "room for another one")


def test_a_mount_counts_as_one(new_router):
    """max-sessions in its description is for all that lies behind it together, after an upgrade too."""
    far = new_router()
    for name in ("one", "two"):
        far.echo(name)
    router = new_router()
    router.describe("m", f"{far.address} /\nmax-sessions 1\n")
    held = router.open("m/one").exchange(b"hello")
    for _ in range(2):
        assert router.open(".kaiso/open m/two").receive_line().startswith(b"-limit ")
        upgrade(router)
    held.end().expect_end()
    wait_until(lambda: router.open(".kaiso/open m/two").receive_line() == b"+\r\n", "room for another one")


def test_options_change_while_sessions_run(router):
    """For those that come, and for nobody who is there."""
    router.echo(".one")
    router.service(".two", name_tag(b"two"))
    router.describe("foo", ".one\nbackend .two\n")
    held = [router.open("foo").exchange(b"hello") for _ in range(3)]
    router.describe("foo", ".one\nbackend .two\nmax-sessions 1\nidle-timeout 10ms\n")
    limited = router.open("foo")  # those before it have no limit to count for
    limited.expect_closed()
    router.wait_session(limited, reason="idle-timeout")
    router.describe("foo", ".two\nmax-sessions 5\n")
    assert served_by(router, "foo") == b"two"
    os.unlink(router.path("foo"))
    router.open("foo").expect_closed()
    time.sleep(0.02)
    for client in held:
        client.exchange(b"still here").end().expect_end()
