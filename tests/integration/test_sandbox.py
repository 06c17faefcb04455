"""What a router gives up once it is ready, and what goes on working inside (base/sandbox.h)."""

import errno
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from harness.router import run_kaiso

IS_NORMAL = os.environ.get("KAISO_BUILD", "normal") == "normal"
ESCAPES = Path(__file__).parent / "programs" / "escapes.c"

# Sanitizers make calls of their own, so their builds are without seccomp; the rest holds there too.
pytestmark = pytest.mark.skipif(not IS_NORMAL, reason="what is tested is the normal build")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("escapes") / "escapes.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, ESCAPES], check=True)
    return path


def try_escapes(new_router, library, directory, *options, **how):
    """{attempt: errno, 0 for a success}, made in a router with these options."""
    (directory / "file").write_text("content")
    shutil.copy("/bin/true", directory / "program")
    reading, writing = os.pipe()
    env = {"LD_PRELOAD": library, "ESCAPES_FD": writing, "ESCAPES_DIRECTORY": directory, "ESCAPES_PARENT": os.getpid()}
    router = new_router(*options, env=env, pass_fds=(writing,), **how)
    os.close(writing)
    with router.connect() as client:
        client.line(".kaiso/version").receive_line()
    with open(reading, encoding="ascii") as lines:
        return {name: int(number) for name, number in (line.split() for line in lines)}


def test_no_way_out(new_router, library, tmp_path):
    results = try_escapes(new_router, library, tmp_path)
    assert results.pop("read") == 0, "services may be linked from anywhere"
    assert len(results) == 22
    assert {name for name, number in results.items() if number not in (errno.EPERM, errno.EACCES)} == set(), results
    assert sorted(os.listdir(tmp_path)) == ["file", "program"]
    assert (tmp_path / "file").read_text() == "content"


def test_the_attempts_are_worth_something(new_router, library, tmp_path):
    """Without the sandbox they succeed, so it is what stops them."""
    results = try_escapes(new_router, library, tmp_path, "--no-sandbox")
    for name in ("read", "write", "create", "mkdir", "symlink", "execve", "execveat", "bind", "listen", "kill"):
        assert results[name] == 0, (name, results)


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def test_every_thread_is_inside(new_router):
    router = new_router("--threads", "3")
    router.echo("foo")
    router.open("foo").exchange(b"hello")
    router.list()
    tasks = os.listdir(f"/proc/{router.pid}/task")
    assert len(tasks) == 4  # and the lister
    for task in tasks:
        status = status_of(f"{router.pid}/task/{task}")
        assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")


def test_upgrades_stay_inside(new_router):
    """Once: filters would add up from program to program."""
    router = new_router()
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    for count in range(1, 21):
        router.signal(signal.SIGUSR2)
        router.log.wait(count, msg="upgraded")
    client.exchange(b"behind")
    status = status_of(router.pid)
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")


def test_no_sandbox_is_told(new_router):
    router = new_router("--no-sandbox")
    assert router.log.find(level="warning", msg="there is no sandbox: --no-sandbox turned it off")
    assert status_of(router.pid)["Seccomp"] == "0"


def test_links_that_lead_outside(new_router, tmp_path):
    router = new_router()
    service = router.echo("foo")
    os.rename(router.path("foo"), tmp_path / "socket")
    router.link("linked", tmp_path / "socket")
    (tmp_path / "description").write_text(f"{tmp_path}/socket\n")
    router.link("described", tmp_path / "description")
    for name in ("linked", "described"):
        router.open(name).exchange(b"hello")
    assert service.accepted == 2


def test_a_replaced_directory(new_router):
    router = new_router()
    router.echo("foo")
    router.list()
    os.rename(router.services, str(router.services) + ".old")
    router.services.mkdir()
    router.echo("bar")
    router.open("bar").exchange(b"hello")
    assert router.list() == b"bar\r\n\r\n"


def test_a_socket_file_is_removed(new_router, tmp_path):
    router = new_router(listen=(f"unix:{tmp_path}/listener",))
    router.stop()
    assert not (tmp_path / "listener").exists()


# ---- another user

@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestUser:
    def open_to_all(self, router):
        router.root.chmod(0o755)

    @pytest.mark.parametrize("word", ["nobody", "nobody:nogroup", "65534", "nobody:65534"])
    def test_becomes_it(self, new_router, word):
        router = new_router("--user", word)
        self.open_to_all(router)
        os.chmod(router.services, 0o755)
        service = router.echo("foo")
        os.chmod(router.path("foo"), 0o777)
        router.open("foo").exchange(b"hello")
        assert service.accepted == 1
        status = status_of(router.pid)
        nobody = pwd.getpwnam("nobody")
        assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
        assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
        assert status["Groups"].split() in ([], [str(nobody.pw_gid)])
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0

    def test_takes_a_low_port_before(self, new_router):
        router = new_router("--user", "nobody", listen=("127.0.0.1:1021",))
        assert router.address == "127.0.0.1:1021"

    def test_upgrades_as_it(self, new_router):
        router = new_router("--user", "nobody")
        router.signal(signal.SIGUSR2)
        router.log.wait(msg="upgraded")
        assert status_of(router.pid)["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4

    @pytest.mark.parametrize("word, words", [
        ("no-such-user", b"no such user or group"),
        ("nobody:no-such-group", b"no such user or group"),
        ("x" * 200, b"no such user or group"),
    ])
    def test_users_that_are_none(self, tmp_path, word, words):
        result = run_kaiso("serve", "--services", str(tmp_path), "--user", word, "127.0.0.1:0")
        assert result.returncode == 1
        assert words in result.stderr
