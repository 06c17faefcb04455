"""From one program to the next with every connection (USR2): each state of a session, and each way to fail."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time

import pytest

from harness.exposer import Exposer
from harness.router import KAISO
from harness.services import bind_unix
from harness.stream import Stream, fill, noise, noise_piece, noise_sum, receive_sum, send_noise
from harness.wait import IS_SANITIZED, Task, wait_until

SESSIONS = 60 if IS_SANITIZED else 200
UPGRADES = 8 if IS_SANITIZED else 20


def upgrade(router, msg="upgraded"):
    """One upgrade, seen through to its line in the log."""
    count = len(router.log.find(msg=msg)) + 1
    router.signal(signal.SIGUSR2)
    router.log.wait(count, msg=msg)
    return router.log.find(msg=msg)[-1]


class Program:
    """A copy of kaiso at a path of its own, which can be replaced while it runs."""

    def __init__(self, directory):
        self.path = directory / "kaiso"
        shutil.copy(KAISO, self.path)
        self.wrapper = ("/bin/sh", "-c", f"shift; exec '{self.path}' \"$@\"", "sh")

    def replace(self, content, mode=0o755):
        new = self.path.with_suffix(".new")
        new.write_bytes(content)
        new.chmod(mode)
        os.rename(new, self.path)

    def edit(self, *pairs):
        """The same program with other words in it, of the same length."""
        content = self.path.read_bytes()
        for old, new in pairs:
            assert len(old) == len(new) and old in content
            content = content.replace(old, new)
        self.replace(content)


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


# ---- each state

def test_a_half_typed_line(router):
    router.echo("foo")
    client = router.connect().send(b"fo")
    upgrade(router)
    client.send(b"o\r\n").exchange(b"hello").end().expect_end()
    router.wait_session(client, reason="done", sent=5, received=5)


def test_a_line_that_nobody_ends_keeps_its_deadline(new_router):
    router = new_router("--request-timeout", "2s")
    client = router.connect().send(b"fo")
    begin = time.monotonic()
    while time.monotonic() < begin + 1.5:
        upgrade(router)
        time.sleep(0.3)
    client.expect_closed()
    assert 1.5 < time.monotonic() - begin < 10
    router.wait_session(client, reason="request-timeout")


def test_a_relay_and_its_counts(router):
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    for _ in range(3):
        upgrade(router)
        client.exchange(b"between")
    client.end().expect_end()
    router.wait_session(client, reason="done", sent=27, received=27, service="foo", kind="unix", mode="relay")


@pytest.mark.parametrize("way", ["auto", "splice", "copy"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_bulk_that_is_held(new_router, way, kind):
    """In a pipe, or in memory, both ways at once: what was not taken yet is taken later, in order."""
    router = new_router("--relay-up", way, "--relay-down", way)
    backend = router.backend("foo") if kind == "unix" else router.backend_tcp("foo")
    client = router.open("foo")
    peer = backend.accept()
    up, down = fill(client), fill(peer)
    upgrade(router)
    tasks = [Task(receive_sum, peer), Task(receive_sum, client)]
    for stream, sent in ((client, up), (peer, down)):
        stream.send(noise_piece(sent, 100_000)).end()
    assert [task.join() for task in tasks] == [noise_sum_of(up, 100_000), noise_sum_of(down, 100_000)]
    line = router.wait_session(client, reason="done")
    assert int(line.get("sent")) == noise_sum_of(up, 100_000)[0]


def noise_sum_of(before, piece):
    """Of what fill() sent and one more piece."""
    return noise_sum(before + len(noise_piece(before, piece)))


@pytest.mark.parametrize("who", ["client", "service"])
def test_a_half_closed_relay(router, who):
    backend = router.backend("foo")
    client = router.open("foo").send(b"hello")
    peer = backend.accept()
    assert peer.receive(5) == b"hello"
    first, other = (client, peer) if who == "client" else (peer, client)
    first.end()
    other.expect_end()
    upgrade(router)
    other.send(b"the rest").end()
    assert first.receive_all() == b"the rest"
    router.wait_session(client, reason="done")


def test_a_list_half_sent(router):
    """Two slow readers of one list, who have asked for a service behind it."""
    router.echo("foo")
    for number in range(20_000):
        router.link(f"many/entry-with-a-long-name-{number:06}", "../foo")
    whole = router.list()
    assert len(whole) > 500_000
    clients = [router.connect(receive_buffer=4096).send(b"\nfoo\nhello") for _ in range(2)]
    begun = [client.receive(1000) for client in clients]
    upgrade(router)
    upgrade(router)
    for client, begin in zip(clients, begun):
        assert begin + client.receive(len(whole) - 1000) == whole
        assert client.receive(5) == b"hello"


def test_a_list_that_is_being_made(router):
    router.echo("foo")
    for number in range(20_000):
        router.link(f"many/{number:06}", "../foo")
    whole = router.list()
    clients = [router.connect() for _ in range(4)]
    for client in clients:
        client.send(b"\n")
    upgrade(router)
    for client in clients:
        assert client.receive_list() == whole


def test_a_dial_under_way(router):
    """To a service whose backlog is full: begun anew, and whoever waits gets in."""
    backend = router.backend("foo", backlog=1)
    fillers = backend.fill_backlog()
    client = router.open("foo").send(b"hello")
    router.settle()
    upgrade(router)
    for _ in fillers:
        backend.accept().close()
    assert backend.accept().receive(5) == b"hello"
    for filler in fillers:
        filler.close()


def test_a_dial_keeps_its_deadline(new_router):
    router = new_router("--connect-timeout", "2s")
    backend = router.backend("foo", backlog=1)
    fillers = backend.fill_backlog()
    client = router.open("foo")
    begin = time.monotonic()
    while time.monotonic() < begin + 1.5:
        upgrade(router)
        time.sleep(0.3)
    client.expect_closed()
    assert 1.5 < time.monotonic() - begin < 10
    router.wait_session(client, reason="timeout")
    for filler in fillers:
        filler.close()


def test_a_handing_over_that_waits(router):
    """For a receiver whose backlog is full."""
    receiver = bind_unix(router.path(".receiver"), 0)
    router.describe("foo", ".receiver passfd\n")
    fillers = []
    while True:
        filler = socket.socket(socket.AF_UNIX)
        filler.setblocking(False)
        try:
            filler.connect(os.fsencode(router.path(".receiver")))
        except BlockingIOError:
            filler.close()
            break
        fillers.append(filler)
    client = router.open("foo").send(b"hello")
    router.settle()
    upgrade(router)
    receiver.settimeout(20)
    for _ in fillers:
        receiver.accept()[0].close()
    sock, _ = receiver.accept()
    data, fds, _, _ = socket.recv_fds(sock, 1, 1)
    assert data == b"*"
    with Stream(socket.socket(fileno=fds[0])) as taken:
        assert taken.receive(5) == b"hello"
        taken.send(b"yes")
        assert client.receive(3) == b"yes"
    for thing in (*fillers, sock, receiver):
        thing.close()


def test_a_lasting_receiver(router):
    """Its connection is made anew; who was handed over before stays with it."""
    receiver = router.receiver("foo", lasting=True)
    before = []
    for _ in range(3):
        client = router.open("foo")
        before.append((client, receiver.take()))
        upgrade(router)
        for client, taken in before:
            client.send(b"hello")
            assert taken.receive(5) == b"hello"


@pytest.mark.threads
def test_listeners_of_all_kinds(new_router, tmp_path):
    """None refuses anybody meanwhile, and a socket file is removed at the end."""
    path = tmp_path / "listener"
    router = new_router(listen=("127.0.0.1:0", f"unix:{path}"))
    router.echo("foo")
    is_over = threading.Event()

    def connect_again_and_again(address):
        count = 0
        while not is_over.is_set():
            with router.connect(address) as client:
                client.line("foo").exchange(b"hello")
            count += 1
        return count

    tasks = [Task(connect_again_and_again, address) for address in router.addresses]
    for _ in range(5):
        upgrade(router)
    is_over.set()
    assert all(task.join() > 0 for task in tasks)
    router.stop()
    assert not path.exists()


def test_exposed(new_exposer_with_router):
    router, exposer = new_exposer_with_router
    client = exposer.client().exchange(b"before")
    upgrade(exposer)
    client.exchange(b"behind")
    exposer.client().exchange(b"a new one").close()
    client.end().expect_end()
    exposer.wait_session(client, reason="done", sent=12, received=12)


@pytest.fixture
def new_exposer_with_router(new_router):
    router = new_router()
    router.echo("foo")
    return router, new_router(router.address, "foo", "127.0.0.1:0", kind=Exposer)


def test_counters_go_on(router):
    with router.connect() as client:
        client.line("nothing").expect_closed()
        router.wait_session(client, reason="not-found")
    upgrade(router)
    with router.connect() as client:
        client.line("nothing").expect_closed()
        router.wait_session(client, reason="not-found")
    router.stop()
    assert router.wait_log(msg="stopped").get("not-found") == "2"


# ---- sessions that are slow to take, and deadlines

VERSION_LINE = b".kaiso/version\n"


@pytest.fixture
def unix_router(new_router, tmp_path):
    def new(*options, **how):
        return new_router(*options, listen=("127.0.0.1:0", f"unix:{tmp_path / 'listener'}"), **how)

    return new


def queued(stream):
    """Bytes that wait to be read."""
    return int.from_bytes(fcntl.ioctl(stream.sock, termios.FIONREAD, bytes(4)), sys.byteorder)


def queued_at_last(router, stream):
    """Once there come no more of them."""
    seen = [0]
    while len(seen) < 6 or len(set(seen[-5:])) > 1:
        router.settle()
        seen.append(queued(stream))
    return seen[-1]


def fill_with_answers(router, request):
    """A client of a UNIX listener whose socket is so full of answers that not even the one to request has room; and
    what it is to read before that."""
    address = router.addresses[1]
    with router.connect(address) as probe:
        answer = probe.send(VERSION_LINE).receive_line()
    with router.connect(address) as probe:
        probe.send(VERSION_LINE * 1000)
        count = queued_at_last(router, probe) // len(answer)
    assert 0 < count < 1000
    client = router.connect(address).send(VERSION_LINE * count + request)
    assert queued_at_last(router, client) == count * len(answer)
    return client, answer * count


def upgrade_until(router, is_over):
    """Again and again; a deadline of two seconds comes all the same."""
    begin = time.monotonic()
    while not is_over() and time.monotonic() < begin + 10:
        upgrade(router)
        time.sleep(0.2)
    assert 1 < time.monotonic() - begin < 10


def test_a_refusal_that_is_not_taken(unix_router):
    """Of a service whose knock fails while the receiver is connected already."""
    router = unix_router()
    router.echo("foo")
    receiver = bind_unix(router.path(".receiver"), 8)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    router.describe("knocked", f".receiver passfd:{port}\n")
    client, before = fill_with_answers(router, b".kaiso/open knocked\n")
    receiver.settimeout(20)
    receiver.accept()[0].close()
    upgrade(router)
    assert client.receive(len(before)) == before
    assert client.receive_line().startswith(b"-")
    client.expect_closed()
    receiver.close()


def test_a_verdict_that_is_not_taken_keeps_its_deadline(unix_router):
    """The client is to be told before it is handed over, and takes nothing."""
    router = unix_router("--connect-timeout", "2s")
    router.receiver("foo", lasting=True)
    client, before = fill_with_answers(router, b".kaiso/open foo\n")
    upgrade_until(router, lambda: router.log.find(reason="timeout"))
    assert client.receive(len(before)) == before
    client.expect_closed()


def test_a_quiet_session_keeps_its_deadline(new_router):
    router = new_router("--idle-timeout", "2s")
    router.echo("foo")
    client = router.open("foo").exchange(b"hello")
    upgrade_until(router, lambda: router.log.find(reason="idle-timeout"))
    client.expect_closed()


SLOW_SOURCE = """
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	(void)argc;
	poll(NULL, 0, 1500);
	%s
	execv("%s", argv);
	return 1;
}
"""


def make_slow(program, before=""):
    """What the router is started from next takes its time, once to be asked and once to begin."""
    real = program.path.with_suffix(".real")
    shutil.copy(program.path, real)
    source = program.path.with_suffix(".c")
    source.write_text(SLOW_SOURCE % (before, real))
    subprocess.run(["gcc", "-o", f"{program.path}.new", source], check=True)
    os.rename(f"{program.path}.new", program.path)


@pytest.mark.parametrize("how", ["upgraded", "refused"])
def test_what_comes_while_all_stand_still_counts_before_deadlines(new_router, program, how):
    """More sessions than one look at the events tells of; all fall due meanwhile, and all have said something."""
    router = new_router("--idle-timeout", "2s", "--request-timeout", "2s", "--no-sandbox", wrapper=program.wrapper)
    router.echo("foo")
    make_slow(program, "" if how == "upgraded" else "poll(NULL, 0, 2000); return 1;")
    clients = [router.open("foo").exchange(b"1") for _ in range(200)]
    typing = [router.connect().send(b"fo") for _ in range(50)]
    router.signal(signal.SIGUSR2)
    time.sleep(0.5)
    for client in clients:
        client.send(b"hello")
    for client in typing:
        client.send(b"o\nhello")
    router.wait_log(msg="upgraded" if how == "upgraded" else "cannot upgrade; the running version goes on")
    for client in clients + typing:
        assert client.receive(5) == b"hello"


def test_log_lines_that_are_owed(program, tmp_path):
    """What the reader has not taken of the log, and how much was dropped, is told by the next program."""
    services = tmp_path / "services"
    services.mkdir()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(20)
    process = subprocess.Popen([program.path, "serve", "--services", services, "127.0.0.1:0"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs)
    theirs.close()
    try:
        log = b""
        while b"msg=ready" not in log:
            log += ours.recv(65536)
        port = int(re.search(rb"listen=127.0.0.1:(\d+)", log)[1])
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.settimeout(20)
                client.sendall(b"nothing\n")
                assert client.recv(1) == b""
        program.replace(program.path.read_bytes())
        process.send_signal(signal.SIGUSR2)
        wait_until(lambda: os.path.samefile(f"/proc/{process.pid}/exe", program.path), "the new program")
        log = b""
        while b"dropped" not in log:
            log += ours.recv(65536)
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"nothing\n")
                client.settimeout(20)
                assert client.recv(1) == b""
        lines = log.split(b"\n")
        assert all(line.startswith(b"time=") for line in lines[:-1])
        dropped = int(re.search(rb"dropped\" count=(\d+)", log)[1])
        before = [line for line in lines[:log[:log.index(b"dropped")].count(b"\n")] if b"msg=session" in line]
        assert dropped + len(before) >= 200
    finally:
        process.terminate()
        process.wait(20)
        ours.close()


@pytest.mark.parametrize("is_whole", [True, False], ids=["kaiso", "another"])
def test_a_parent_that_ignored_its_children(new_router, program, is_whole):
    """SIGCHLD is inherited as ignored: the answer's exit status is had all the same."""
    ignoring = ("/bin/sh", "-c", f"trap '' CHLD; shift; exec '{program.path}' \"$@\"", "sh")
    router = new_router(wrapper=ignoring)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    if is_whole:
        upgrade(router)
        client.exchange(b"behind")
        return
    shutil.copy("/bin/true", str(program.path) + ".new")
    os.rename(str(program.path) + ".new", program.path)
    expect_refusal(router, client, "no kaiso")


def test_a_program_that_says_more(new_router, program):
    """A linker's or sanitizer's words come before the answer."""
    router = new_router("--no-sandbox", wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    make_slow(program, 'if (getenv("KAISO_UPGRADE")[0] == \'a\' && write(2, "a warning\\n", 10) != 10) return 1;')
    upgrade(router)
    client.exchange(b"behind")


# ---- many at once, many times

def _keep_talking(stream, is_over):
    """Pieces of noise there and back until told to stop; how much."""
    done, size = 0, 1
    while not is_over.is_set() or done == 0:
        piece = bytes(noise_piece(done, size))
        stream.exchange(piece)
        done += len(piece)
        size = size * 3 % 50_021 + 1
    stream.end().expect_end()
    return done


@pytest.mark.threads
def test_many_sessions_through_many_upgrades(new_router):
    """A bit of everything, under traffic with checksums, from program to program."""
    router = new_router("--threads", "3")
    router.echo("foo")
    for number in range(3000):
        router.link(f"many/entry-{number:06}", "../foo")
    backend = router.backend("bulk")
    whole = router.list()
    is_over = threading.Event()
    talking = [router.open("foo") for _ in range(12)]
    quiet = [router.open("foo") for _ in range(SESSIONS // 4)]
    typing = [router.connect().send(b"fo") for _ in range(SESSIONS // 4)]
    listing = [router.connect(receive_buffer=4096).send(b"\n") for _ in range(SESSIONS // 8)]
    stalled, peers = [], []
    for _ in range(4):
        stalled.append(router.open("bulk"))
        peers.append(backend.accept())
    sent = [fill(client) for client in stalled]
    moving = router.open("bulk")
    peers.append(backend.accept())
    halves = [router.open("foo").exchange(b"1") for _ in range(SESSIONS // 4)]
    size = (8 if IS_SANITIZED else 64) << 20
    tasks = [Task(_keep_talking, stream, is_over) for stream in talking]
    bulk = [Task(send_noise, moving, size), Task(receive_sum, peers[-1])]
    for _ in range(UPGRADES):
        upgrade(router)
        with router.open("foo") as client:
            client.exchange(b"a new one")
    is_over.set()
    assert all(task.join() > 0 for task in tasks)
    assert bulk[1].join() == noise_sum(size)
    peers[-1].end()
    for client in quiet + halves:
        client.exchange(b"still there").end().expect_end()
    for client in typing:
        client.send(b"o\n").exchange(b"at last").end().expect_end()
    for client in listing:
        assert client.receive(len(whole)) == whole
    for client, peer, count in zip(stalled, peers, sent):
        client.end()
        assert receive_sum(peer) == noise_sum(count)


# ---- what cannot be

def expect_refusal(router, client, *words):
    line = upgrade(router, "cannot upgrade; the running version goes on")
    for word in words:
        assert word in line.get("reason"), line
    client.exchange(b"still there")
    with router.open("foo") as other:
        other.exchange(b"a new one")


def test_another_version(new_router, program):
    router = new_router(wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    version = router.wait_log(msg="ready").get("version").encode()
    other = b"9" + version[1:]
    program.edit((version, other))
    line = upgrade(router)
    assert line.get("previous").encode() == version
    assert line.get("version").encode() == other
    client.exchange(b"behind")
    line = upgrade(router)
    assert line.get("previous").encode() == other
    client.exchange(b"once more")


@pytest.mark.parametrize("content", [b"#!/bin/sh\necho hello\n", b"not a program", b"\x7fELF nearly", b""],
                         ids=["script", "text", "broken", "empty"])
def test_what_is_no_program(new_router, program, content):
    router = new_router(wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    program.replace(content)
    expect_refusal(router, client, str(program.path), "cannot be run")
    shutil.copy(KAISO, f"{program.path}.new")
    os.rename(f"{program.path}.new", program.path)
    upgrade(router)
    client.exchange(b"behind")


def test_no_program(new_router, program):
    router = new_router(wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    program.path.unlink()
    expect_refusal(router, client, str(program.path), "No such file")


def test_another_program(new_router, program):
    router = new_router(wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    shutil.copy("/bin/true", str(program.path) + ".new")
    os.rename(str(program.path) + ".new", program.path)
    expect_refusal(router, client, "no kaiso")
    shutil.copy("/bin/false", str(program.path) + ".new")
    os.rename(str(program.path) + ".new", program.path)
    expect_refusal(router, client, "no kaiso")


def test_a_program_that_cannot_read_the_state(new_router, program, tmp_path):
    """It says so, and the log has its words. (What can be read, and what not: the unit tests.)"""
    router = new_router(wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    source = tmp_path / "other.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("version 9 cannot read the state"); return 1; }\n')
    subprocess.run(["gcc", "-o", f"{program.path}.new", source], check=True)
    os.rename(f"{program.path}.new", program.path)
    expect_refusal(router, client, "version 9 cannot read the state")


def test_a_program_that_does_not_know_an_option(new_router, program):
    router = new_router("--busy-poll", "0", wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    program.edit((b"busy-poll", b"busy-pole"))
    expect_refusal(router, client, "--busy-poll")


def test_a_program_that_hangs(new_router, program):
    """Sessions stand still for a while, and go on."""
    router = new_router(wrapper=program.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    shutil.copy("/usr/bin/yes", str(program.path) + ".new")
    os.rename(str(program.path) + ".new", program.path)
    expect_refusal(router, client, str(program.path))


def test_not_while_draining(router):
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    router.signal(signal.SIGTERM)
    router.wait_log(msg="draining")
    router.signal(signal.SIGUSR2)
    wait_until(lambda: router.log.find(msg="no upgrade: the router is about to stop"), "the refusal")
    client.exchange(b"still there")
