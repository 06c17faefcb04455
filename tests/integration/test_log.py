"""The log: one line a session when it ends, and nothing in it that a client could forge."""

import json
import os
import re
import subprocess

import pytest

from harness.router import KAISO, Router, clean_environment
from harness.stream import noise
from harness.wait import DEADLINE, wait_until


def test_line_of_a_session(router):
    """time, client, service, target, kind, bytes both ways, duration, mode, reason."""
    router.echo("d/foo")
    client = router.open("d/foo").exchange(noise(1000))
    client.end().expect_end()
    line = router.wait_session(client, reason="done", mode="relay", service="d/foo", kind="unix", level="info",
                               sent=1000, received=1000)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert re.fullmatch(r"\d+\.\d{3}", line["duration"])
    assert len(router.log.find(msg="session")) == 1


def test_target_of_a_session(router):
    """The log names where the client went."""
    backend = router.backend_tcp()
    router.describe("tcp", f"{backend.address}\n")
    router.describe("chain", f"{backend.address} far/away\n")
    for name, target in (("tcp", backend.address), ("chain", backend.address)):
        client = router.open(name).end()
        peer = backend.accept()
        peer.receive_all()
        peer.close()
        client.expect_end()
        assert target in router.wait_session(client)["target"]


@pytest.mark.ipv6
def test_ipv6_client(new_router):
    """[::1]:PORT, and an IPv4 client of a socket for both families would be plain IPv4."""
    router = new_router(listen=("[::1]:0",))
    client = router.open("nothing")
    client.expect_closed()
    assert client.name.startswith("[::1]:")
    router.wait_session(client, reason="not-found")


def test_names_cannot_forge_lines(router):
    """Quotes, blanks, equal signs, backslashes, line feeds of names, and bytes that are no UTF-8 are escaped."""
    for name in (b'x reason=done', b'x" reason="done', b"x\\", b"\xff\xfe", b'a"b', b"tab\tname",
                 "\u00fcber".encode(), b"\x1b[31mred"):
        client = router.connect().line(name)
        client.expect_closed()
        line = router.wait_session(client, reason="not-found")
        assert line["service"].encode("utf-8", "surrogateescape") == name, line
        assert len(line.all("reason")) == 1
    assert not any(byte in raw for raw in router.log.raw for byte in (0, 7, 9, 13, 27))


def test_long_names_are_cut_short(router):
    """A name of 4000 bytes makes one line like others."""
    client = router.open("n" * 4000)
    client.expect_closed()
    router.wait_log(msg="session")
    assert max(len(raw) for raw in router.log.raw) <= 2048


def test_level(new_router):
    """--log-level warning leaves the lines of sessions out, not those about broken descriptions."""
    router = new_router("--log-level", "warning", awaits_ready=False, start=False)
    router.listen = [f"unix:{router.root}/listener"]
    router.start()
    _await_listener(router)
    router.echo("foo")
    router.describe("bad", "a:b:c\n")
    address = router.listen[0]
    router.open("foo", address=address).exchange(b"hello").end().expect_end()
    router.open("bad", address=address).expect_closed()
    router.wait_log(msg="invalid description", level="warning")
    assert not router.log.find(level="info")


def test_json(new_router):
    """--log-format json: every line an object with the same keys."""
    router = new_router("--log-format", "json")
    router.echo("foo")
    client = router.open("foo").exchange(b"hello")
    client.end().expect_end()
    odd = router.open(b'"\\\xff ')
    odd.expect_closed()
    router.wait_session(client, reason="done", service="foo", sent="5")
    router.wait_session(odd, reason="not-found")
    for raw in router.log.raw:
        line = json.loads(raw.decode())
        assert {"time", "level", "msg"} <= set(line)


def test_under_a_journal(new_router):
    """Where standard error is the journal's stream ($JOURNAL_STREAM names it), lines begin with a priority."""
    router = new_router(start=False)
    reading_end, writing_end = os.pipe()
    status = os.fstat(writing_end)
    environment = clean_environment(JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}")
    process = subprocess.Popen(
        [KAISO, "serve", "--services", router.services_argument, "127.0.0.1:0"], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=writing_end, env=environment)
    os.close(writing_end)
    try:
        with open(reading_end, "rb") as journal:
            assert any(re.match(rb"<6>.*msg=ready ", line) for line in journal)  # perhaps behind a warning
            process.terminate()
            assert process.wait(DEADLINE) == 0
            assert all(re.match(rb"<[3-7]>[a-z]", line) for line in journal)
    finally:
        process.kill()
        process.wait()


def _await_listener(router: Router):
    def is_up():
        try:
            router.connect(address=router.listen[0]).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    wait_until(is_up, "the listener")
