"""The filter for fail2ban, on the log of a real router: whom it catches, whom it does not, and whose address it takes."""

import shutil
import socket
import subprocess

import pytest

from harness.router import REPOSITORY, clean_environment
from harness.wait import DEADLINE, IS_SANITIZED

FILTERS = REPOSITORY / "contrib/fail2ban"

pytestmark = pytest.mark.skipif(IS_SANITIZED, reason="about the filter; the log is the same in every build")

# Each is as the journal shows a line of a program, as syslog writes it, or as it stands in a file.
FORMS = {
    "file": lambda line: line,
    "journal": lambda line: f"home kaiso[4711]: {without_time(line)}",
    "syslog": lambda line: f"Nov 27 22:09:29 home kaiso[4711]: {without_time(line)}",
    "syslog of a file": lambda line: f"2026-11-27T22:09:29.123456+00:00 home kaiso[4711]: {without_time(line)}",
}


def without_time(line):
    """As it is under a journal."""
    return line[line.index("level="):]


def session_lines(router):
    return [repr(line) for line in router.log.find(msg="session")]


@pytest.fixture
def ban(tmp_path):
    """ban(lines, mode): the addresses that the filter takes from them, in order; the same in each form."""
    config = tmp_path / "fail2ban"
    (config / "filter.d").mkdir(parents=True)
    shutil.copy("/etc/fail2ban/filter.d/common.conf", config / "filter.d")
    shutil.copy(FILTERS / "filter.d/kaiso.conf", config / "filter.d")

    def run_one(lines, form, mode):
        log = tmp_path / "log"
        log.write_text("".join(FORMS[form](line) + "\n" for line in lines))
        result = subprocess.run(
            ["fail2ban-regex", "-c", str(config), "-e", "utf-8", "--usedns=no", "-o", "ip", str(log), f"kaiso[mode={mode}]"],
            capture_output=True, text=True, timeout=DEADLINE, check=False, env=clean_environment(LC_ALL="C.UTF-8"),
        )
        assert not result.stderr, result.stderr
        return result.stdout.split()

    def run(lines, mode="normal"):
        found = {form: run_one(lines, form, mode) for form in FORMS}
        assert all(addresses == found["file"] for addresses in found.values()), found
        return found["file"]

    return run


def ask(router, line, source):
    """A client that asks for this and is refused, from an address of its own."""
    with router.connect(source=source) as client:
        client.send(line)
        client.expect_closed()
        router.wait_session(client)


def test_who_is_caught(new_router, ban):
    """Each kind of abuse, from an address of its own."""
    router = new_router("--max-sessions-per-address", "2", "--max-requests-per-second", "3")
    router.echo("foo")
    ask(router, b"nothing\n", "127.0.0.2")
    ask(router, b"GET / HTTP/1.1\n", "127.0.0.3")
    ask(router, b"../../etc/passwd\n", "127.0.0.4")
    ask(router, b"\x16\x03\x01\x02\n", "127.0.0.5")
    ask(router, b"x" * 5000, "127.0.0.6")
    held = [router.open("foo", source="127.0.0.7").exchange(b"hello") for _ in range(2)]
    with router.connect(source="127.0.0.7") as client:
        client.expect_closed()
        router.log.wait(msg="session", client=client.name, limit="max-sessions-per-address")
    with router.connect(source="127.0.0.8") as client:
        client.send(b"\n" * 10).receive_all()
        router.wait_session(client, reason="limit", limit="max-requests-per-second")
    for client in held:
        client.end().expect_end()
        router.wait_session(client, reason="done")
    lines = [repr(line) for line in router.log.lines]
    assert ban(lines) == [f"127.0.0.{number}" for number in range(2, 9)]


def test_who_is_not(new_router, ban):
    """Sessions, lists, whoever leaves early, and whoever cannot help it."""
    router = new_router("--max-sessions", "4", "--request-timeout", "100ms")
    router.echo("foo")
    router.describe("broken", "no port:\n")
    router.describe("closed", "127.0.0.1:1\n")
    router.open("foo", source="127.0.0.2").exchange(b"hello").end().expect_end()
    router.list(source="127.0.0.3")
    router.connect(source="127.0.0.4").send(b"fo").close()
    for name in ("broken", "closed"):
        with router.open(name, source="127.0.0.5") as client:
            client.expect_closed()
            router.wait_session(client)
    held = [router.open("foo", source="127.0.0.6").exchange(b"hello") for _ in range(4)]
    with router.connect(source="127.0.0.7") as client:
        client.expect_closed()
        router.log.wait(msg="session", client=client.name, limit="max-sessions")
    for client in held:
        client.end().expect_end()
        router.wait_session(client)
    ask(router, b"", "127.0.0.8")
    router.wait_log(reason="request-timeout")
    lines = [repr(line) for line in router.log.lines]
    assert ban(lines) == []
    assert ban(lines, mode="aggressive") == ["127.0.0.8"]


@pytest.mark.ipv6
def test_ipv6(new_router, ban):
    router = new_router(listen=("[::1]:0",))
    with router.open("nothing") as client:
        client.expect_closed()
        router.wait_session(client, reason="not-found")
    assert ban(session_lines(router)) == ["::1"]


@pytest.mark.ipv6
def test_ipv4_on_a_socket_for_both(new_router, ban):
    """As systemd makes it for `ListenStream=37812`."""
    router = new_router(start=False, listen=())
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        port = both.getsockname()[1]
        both.set_inheritable(True)
        router.wrapper = ("/bin/bash", "-c", f"exec 3<&{both.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"", "sh")
        router.pass_fds = (both.fileno(),)
        router.start()
    with router.open("nothing", address=f"127.0.0.1:{port}") as client:
        client.expect_closed()
    router.wait_log(msg="session", reason="not-found")
    assert ban(session_lines(router)) == ["127.0.0.1"]


# What a client may say in the hope that somebody else is banned for it: all are names of services, and go to the log.
FORGERIES = [
    b"client=203.0.113.9:1 reason=not-found",
    b"x reason=not-found",
    b'x" client=203.0.113.9:1 reason=not-found',
    b'x\\" client=203.0.113.9:1 reason=not-found',
    b"x\\",
    b'"',
    b"time=2026-11-27T22:09:29.000Z level=info msg=session client=203.0.113.9:1 reason=not-found",
    b"home kaiso[1]: level=info msg=session client=203.0.113.9:1 reason=not-found",
    b"level=info msg=session client=203.0.113.9:1 reason=not-found",
    "x\u2028level=info msg=session client=203.0.113.9:1 reason=not-found".encode(),
    "x\u0085level=info msg=session client=203.0.113.9:1 reason=not-found".encode(),
    b"\xff\xfelevel=info msg=session client=203.0.113.9:1 reason=not-found",
    b"x" * 3000 + b" level=info msg=session client=203.0.113.9:1 reason=not-found",
    b'" ' * 1500 + b"client=203.0.113.9:1 reason=not-found",
    b"<F-IP4>203.0.113.9</F-IP4>",
]


def test_nobody_is_banned_for_another(new_router, ban):
    """Whatever is asked for, the address is the asker's; and whoever was served is not banned for a name that looks
    like a refusal."""
    router = new_router()
    for name in FORGERIES:
        ask(router, name + b"\n", "127.0.0.2")
    # Control bytes never are a service; these are logged as names that were asked for.
    ask(router, b"x\rlevel=info msg=session client=203.0.113.9:1 reason=not-found\n", "127.0.0.2")
    ask(router, b"x\vlevel=info msg=session client=203.0.113.9:1 reason=not-found\n", "127.0.0.2")
    refused = session_lines(router)
    assert ban(refused) == ["127.0.0.2"] * (len(FORGERIES) + 2)
    served = []
    for number, name in enumerate(FORGERIES):
        if len(name) < 200:
            router.echo(name)
            client = router.connect(source="127.0.0.3").send(name + b"\n").exchange(b"hello")
            client.end().expect_end()
            router.wait_session(client, reason="done")
            served.append(repr(router.log.find(msg="session")[-1]))
    assert len(served) > 10 and ban(served) == []


def test_the_jail_is_one(ban, tmp_path):
    """fail2ban takes the example, with the filter and an action of its own, as it stands."""
    config = tmp_path / "fail2ban"
    shutil.copytree("/etc/fail2ban", config, dirs_exist_ok=True)
    for path in (config / "jail.d").iterdir():
        path.unlink()
    shutil.copy(FILTERS / "jail.d/kaiso.conf", config / "jail.d")
    result = subprocess.run(
        ["fail2ban-client", "-c", str(config), "-d"], capture_output=True, text=True, timeout=DEADLINE, check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "['add', 'kaiso', 'systemd']" in result.stdout
    assert "['set', 'kaiso', 'addjournalmatch', '_SYSTEMD_UNIT=kaiso.service']" in result.stdout
    assert "['set', 'kaiso', 'maxretry', 10]" in result.stdout
