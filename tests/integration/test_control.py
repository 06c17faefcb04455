"""The control socket and the commands that speak to it: status, close, drain, upgrade."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess

import pytest

from harness.exposer import Exposer
from harness.router import KAISO, clean_environment
from harness.services import Service, bind_unix, connect_unix
from harness.stream import Stream
from harness.wait import wait_until


@pytest.fixture
def control(tmp_path):
    return str(tmp_path / "control")


@pytest.fixture
def controlled(new_router, control):
    router = new_router("--control", control)
    router.echo("foo")
    return router


def kaiso(*words, **env):
    return subprocess.run([KAISO, *words], env=clean_environment(**env), stdin=subprocess.DEVNULL, timeout=60,
                          capture_output=True, text=True, errors="surrogateescape")


def status(control, *words):
    result = kaiso("status", "--json", "--control", control, *words)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


class Asker:
    """A connection to the control socket of its own."""

    def __init__(self, path):
        self.stream = Stream(connect_unix(path))

    def ask(self, line):
        self.stream.send(line.encode() + b"\n")
        return json.loads(self.stream.receive_line())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()


# ---- the socket

def test_only_its_owner_may_use_it(controlled, control):
    assert stat.S_IMODE(os.stat(control).st_mode) == 0o600
    controlled.stop()
    assert not os.path.exists(control)


@pytest.mark.parametrize("variable, name", [("RUNTIME_DIRECTORY", "control"), ("XDG_RUNTIME_DIR", "kaiso/control")])
def test_its_usual_place(new_router, tmp_path, variable, name):
    router = new_router(env={variable: str(tmp_path)})
    router.echo("foo")
    assert stat.S_ISSOCK(os.stat(tmp_path / name).st_mode)
    if variable == "XDG_RUNTIME_DIR":
        assert stat.S_IMODE(os.stat(tmp_path / "kaiso").st_mode) == 0o700
        assert kaiso("status", XDG_RUNTIME_DIR=str(tmp_path)).returncode == 0


def test_none_is_none(new_router, tmp_path):
    new_router("--control", "none", env={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_the_second_router_of_a_user_does_without(new_router, tmp_path):
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    new_router(env=env)
    second = new_router(env=env)
    wait_until(lambda: "no control socket" in second.log.text(), "the warning")
    assert "--control names another place" in second.log.text()
    assert second.list() == b"\r\n"


def test_a_place_that_is_asked_for_must_be_had(controlled, control, tmp_path):
    result = kaiso("serve", "--services", str(tmp_path), "--control", control, "127.0.0.1:0")
    assert result.returncode == 1
    assert control in result.stderr and "no control socket" in result.stderr
    result = kaiso("serve", "--services", str(tmp_path), "--control", str(tmp_path / "no/such"), "127.0.0.1:0")
    assert result.returncode == 1


def test_a_stale_socket_is_replaced(new_router, control):
    socket.socket(socket.AF_UNIX).bind(control)
    new_router("--control", control)
    assert status(control)["open"] == 0


# ---- status

def test_status_counts(controlled, control):
    client = controlled.open("foo").exchange(b"hello")
    with controlled.connect() as other:
        other.line("nothing").expect_closed()
    controlled.describe("broken", "127.0.0.1:1\n")
    with controlled.connect() as other:
        other.line("broken").expect_closed()
    wait_until(lambda: sum(status(control)["ended"].values()) == 2, "two ended sessions")
    answer = status(control)
    assert answer["pid"] == controlled.pid and answer["open"] == 1 and not answer["draining"]
    assert answer["ended"] == {"not-found": 1, "unavailable": 1}
    assert answer["requests"] == 3 and answer["request_time"]["count"] == 3
    assert (answer["sent"], answer["received"]) == (5, 5)
    assert answer["listeners"] == [{"address": controlled.address}]
    assert answer["limits"]["sessions"] > 0 and answer["descriptors"] < answer["limits"]["descriptors"]
    assert answer["services"] == [
        {"service": "broken", "kind": "tcp", "open": 0, "sessions": 0, "failures": 1, "sent": 0, "received": 0},
        {"service": "foo", "kind": "unix", "open": 1, "sessions": 1, "failures": 0, "sent": 5, "received": 5},
    ]
    assert answer["connect_time"]["count"] == 1
    assert answer["connect_time"]["buckets"][-1] == [3600.0, 1]
    client.end().expect_end()
    wait_until(lambda: status(control)["ended"].get("done") == 1, "the end")
    assert status(control)["services"][1] == {
        "service": "foo", "kind": "unix", "open": 0, "sessions": 1, "failures": 0, "sent": 5, "received": 5}


@pytest.mark.threads
def test_every_thread_is_asked(new_router, control):
    router = new_router("--control", control, "--threads", "4")
    router.echo("foo")
    clients = [router.open("foo").exchange(b"hello") for _ in range(50)]
    answer = status(control, "--sessions")
    assert answer["threads"] == 4 and answer["open"] == 50
    names = {client.name for client in clients}
    assert {session["client"] for session in answer["sessions"]} == names
    assert len({session["id"] for session in answer["sessions"]}) == 50
    assert answer["services"][0]["open"] == 50


def test_sessions_are_told_one_by_one(controlled, control):
    relay = controlled.open("foo").exchange(b"hello")
    typing = controlled.connect().send(b"fo")
    controlled.settle()
    sessions = {session["client"]: session for session in status(control, "--sessions")["sessions"]}
    assert sessions[typing.name]["state"] == "request" and "service" not in sessions[typing.name]
    expected = {"state": "relay", "service": "foo", "kind": "unix", "sent": 5, "received": 5}
    assert expected.items() <= sessions[relay.name].items()


def test_words_for_people(controlled, control):
    controlled.open("foo").exchange(b"x" * 3000)
    result = kaiso("status", "--sessions", "--control", control)
    assert result.returncode == 0 and result.stderr == ""
    for words in (f"process {controlled.pid}", f"listens on  {controlled.address}", "1 open", "2.9 KiB", "SERVICE",
                  "foo", "relay"):
        assert words in result.stdout, result.stdout


def test_hostile_names_do_not_reach_the_terminal(controlled, control):
    """No name of a service can hold control bytes of ASCII; others can, and bytes that are no UTF-8."""
    name = "\u009bred\u2028".encode() + b"\xff<b>"
    controlled.service(name, lambda stream: stream.close())
    with controlled.connect() as client:
        client.line(name).expect_closed()
    wait_until(lambda: status(control)["services"], "the service")
    assert status(control)["services"][0]["service"] == "\u009bred\u2028\ufffd<b>"
    shown = kaiso("status", "--control", control).stdout
    assert "\u009b" not in shown and "\u2028" not in shown and "\\xc2\\x9bred" in shown
    shown = kaiso("status", "--json", "--control", control).stdout
    assert "\u009b" not in shown and "\u2028" not in shown and "\\u009bred" in shown.lower()


def test_a_hostile_router_does_not_reach_the_terminal(control):
    """Whatever answers at the place that was named, in whatever field."""
    text = "\x1b[2J\u009b1m"
    row = {"service": text, "kind": text, "id": text, "client": text, "state": text, "seconds": 1e300}
    answer = json.dumps({"version": text, "listeners": [{"address": text, "service": text}, 3], "services": [row, 7],
                         "services_directory": text, "kaiso": text, "sessions": [row, {}], "ended": {text: 1},
                         "limits": [], "cpu_seconds": text}).encode() + b"\n"

    def serve(stream):
        while stream.sock.recv(64):
            stream.send(answer)

    service = Service(bind_unix(os.fsencode(control)), serve)
    try:
        for words in (["--sessions"], ["--sessions", "--json"]):
            result = kaiso("status", *words, "--control", control)
            assert (result.returncode, result.stderr) == (0, "")
            assert "\x1b" not in result.stdout and "\u009b" not in result.stdout and "1m" in result.stdout
    finally:
        service.close()


def test_exposed_listeners(new_router, control):
    router = new_router()
    router.echo("foo")
    exposer = new_router("--control", control, router.address, "foo", "127.0.0.1:0", kind=Exposer)
    exposer.client().exchange(b"hello")
    answer = status(control)
    assert answer["listeners"] == [{"address": exposer.address, "service": "foo"}]
    assert answer["kaiso"] == router.address
    assert "for foo" in kaiso("status", "--control", control).stdout


def test_no_router(tmp_path):
    result = kaiso("status", XDG_RUNTIME_DIR=str(tmp_path))
    assert result.returncode == 1
    assert str(tmp_path) in result.stderr and "--control" in result.stderr
    result = kaiso("status", "--control", str(tmp_path / "none"))
    assert result.returncode == 1 and "No such file" in result.stderr


def test_what_answers_is_no_router(tmp_path):
    path = str(tmp_path / "control")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    with subprocess.Popen([KAISO, "status", "--control", path], stderr=subprocess.PIPE, text=True) as process:
        peer, _ = listener.accept()
        peer.sendall(b"220 mail.example.org ESMTP\n")
        assert "no kaiso" in process.communicate(timeout=60)[1]
        peer.close()
    assert process.returncode == 1
    listener.close()


# ---- close

def test_close(controlled, control):
    first, second = (controlled.open("foo").exchange(b"hello") for _ in range(2))
    ids = {session["client"]: session["id"] for session in status(control, "--sessions")["sessions"]}
    result = kaiso("close", "--control", control, ids[first.name])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    first.expect_reset()
    controlled.wait_session(first, reason="closed")
    second.exchange(b"still there")
    result = kaiso("close", "--control", control, ids[first.name])
    assert result.returncode == 1 and "no such session" in result.stderr
    for word in ("", "x" * 1000, "1\nupgrade", "-1-0"):
        assert kaiso("close", "--control", control, "--", word).returncode == 1
    second.exchange(b"still there")


def test_close_in_every_state(controlled, control):
    backend = controlled.backend("slow", backlog=1)
    fillers = backend.fill_backlog()
    clients = [controlled.connect().send(b"fo"), controlled.open("slow")]
    controlled.settle()
    sessions = status(control, "--sessions")["sessions"]
    assert {session["state"] for session in sessions} >= {"request", "dial"}
    assert kaiso("close", "--control", control, *(session["id"] for session in sessions)).returncode == 0
    for client in clients:
        client.expect_closed()
    for filler in fillers:
        filler.close()


# ---- drain

def test_drain(controlled, control):
    client = controlled.open("foo").exchange(b"hello")
    assert kaiso("drain", "--control", control).returncode == 0
    controlled.wait_log(msg="draining")
    assert status(control)["draining"]
    assert kaiso("drain", "--control", control).returncode == 0
    client.exchange(b"still there").end().expect_end()
    assert controlled.wait_exit() == 0


def test_drain_and_wait(controlled, control):
    client = controlled.open("foo").exchange(b"hello")
    with subprocess.Popen([KAISO, "drain", "--wait", "--control", control]) as process:
        controlled.wait_log(msg="draining")
        assert process.poll() is None
        client.end().expect_end()
        assert process.wait(60) == 0
    assert controlled.wait_exit() == 0


# ---- upgrade

def test_upgrade(controlled, control):
    client = controlled.open("foo").exchange(b"hello")
    for _ in range(3):
        result = kaiso("upgrade", "--control", control)
        assert result.returncode == 0, result.stderr
        assert "goes on with 1 session (before" in result.stdout
        client.exchange(b"still there")
    assert stat.S_IMODE(os.stat(control).st_mode) == 0o600
    answer = status(control)
    assert answer["open"] == 1 and answer["requests"] == 1
    client.end().expect_end()
    wait_until(lambda: status(control)["ended"].get("done") == 1, "the end")
    for _ in range(2):
        assert kaiso("upgrade", "--control", control).returncode == 0
    assert status(control)["services"] == [
        {"service": "foo", "kind": "unix", "open": 0, "sessions": 1, "failures": 0, "sent": 38, "received": 38}]
    assert status(control)["duration"]["count"] == 1 and status(control)["sent"] == 38
    controlled.stop()
    assert not os.path.exists(control)


def test_upgrade_that_ends_in_another_router(control):
    """One that was started in its place has none of its connections."""
    pids = iter([1, 2])

    def serve(stream):
        answer = json.dumps({"version": "1", "pid": next(pids), "open": 0}).encode() + b"\n"
        while stream.sock.recv(64) == b"status\n":
            stream.send(answer)

    service = Service(bind_unix(os.fsencode(control)), serve)
    try:
        result = kaiso("upgrade", "--control", control)
        assert result.returncode == 1 and "another router" in result.stderr and result.stdout == ""
    finally:
        service.close()


def test_upgrade_that_cannot_be(new_router, tmp_path, control):
    program = tmp_path / "kaiso"
    shutil.copy(KAISO, program)
    router = new_router("--control", control,
                        wrapper=("/bin/sh", "-c", f"shift; exec '{program}' \"$@\"", "sh"))
    router.echo("foo")
    client = router.open("foo").exchange(b"hello")
    program.unlink()
    result = kaiso("upgrade", "--control", control)
    assert result.returncode == 1 and "No such file" in result.stderr
    client.exchange(b"still there")
    router.signal(signal.SIGTERM)
    router.wait_log(msg="draining")
    result = kaiso("upgrade", "--control", control)
    assert result.returncode == 1 and "about to stop" in result.stderr


# ---- clients that misbehave

def test_many_questions_on_one_connection(controlled, control):
    with Asker(control) as asker:
        asker.stream.send(b"status\nsessions\r\nnonsense\n\nstatus\n")
        answers = [json.loads(asker.stream.receive_line()) for _ in range(5)]
        assert ["error" in answer for answer in answers] == [False, False, True, True, False]
        assert "close ID" in answers[2]["error"]


def test_questions_and_an_end(controlled, control):
    """As `printf 'status\\n' | nc -N -U control` has it."""
    with Asker(control) as asker:
        answers = asker.stream.send(b"status\nsessions\n").end().receive_all().splitlines()
        assert [json.loads(answer)["open"] for answer in answers] == [0, 0]


def test_a_line_without_end(controlled, control):
    with Asker(control) as asker:
        asker.stream.send(b"x" * 128).expect_closed()
    assert status(control)["open"] == 0


def test_questions_whose_askers_leave(controlled, control):
    for _ in range(50):
        for line in (b"status\n", b"sessions\nstatus\n", b"close 1-1\n", b"stat"):
            with Asker(control) as asker:
                asker.stream.send(line)
    assert status(control)["open"] == 0


def test_answers_that_are_not_taken(controlled, control):
    """More than the socket holds; others are answered meanwhile, and the rest comes when it is taken."""
    clients = [controlled.open("foo").exchange(b"x") for _ in range(200)]
    with Asker(control) as asker:
        asker.stream.send(b"sessions\n" * 30)
        assert status(control)["open"] == len(clients)
        for _ in range(30):
            assert len(json.loads(asker.stream.receive_line())["sessions"]) == len(clients)


def test_more_askers_than_there_are_places(controlled, control):
    """The others wait until one leaves."""
    askers = [Asker(control) for _ in range(20)]
    for asker in askers[:16]:
        assert asker.ask("status")["open"] == 0
    askers[16].stream.send(b"status\n")
    askers[3].stream.close()
    assert json.loads(askers[16].stream.receive_line())["open"] == 0
    for asker in askers:
        asker.stream.close()
    assert status(control)["open"] == 0


def test_no_descriptor_is_free(new_router, control):
    """Whoever asks then waits, nothing spins, and is answered once there is one."""
    router = new_router("--control", control, "--threads", "1", "--max-sessions", "1000",
                        wrapper=("prlimit", "--nofile=60:60"))
    clients = [router.connect().send(b"x") for _ in range(60)]
    router.wait_log(limit="descriptors")
    with Asker(control) as asker:
        asker.stream.send(b"status\n")
        router.assert_quiet()
        for client in clients:
            client.close()
        assert json.loads(asker.stream.receive_line())["pid"] == router.pid
