"""Errors name the next step: what to start, which group to join, how to find out who is in the way."""

import grp
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.namespaces import unshared
from harness.router import KAISO, clean_environment, run_kaiso
from harness.services import closed_port
from harness.wait import DEADLINE, IS_SANITIZED

NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}
OTHER_GROUP = grp.getgrnam("daemon")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def place():
    """A directory that everybody may enter, with the program in it."""
    directory = Path(tempfile.mkdtemp(prefix="hints-"))
    os.chmod(directory, 0o755)
    shutil.copy(KAISO, directory / "kaiso")
    yield directory
    shutil.rmtree(directory)


def told(place, *words, status=1, **env):
    """The one line that a user without rights is told."""
    result = subprocess.run([place / "kaiso", *map(str, words)], cwd=place, stdin=subprocess.DEVNULL, check=False,
                            capture_output=True, timeout=DEADLINE, env=clean_environment(**env), **NOBODY)
    assert result.returncode == status, result.stderr
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


class Socket:
    """A listening UNIX socket, or with is_stale one that is left behind."""

    def __init__(self, path, mode=0o666, group=0, is_stale=False):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(path))
        os.chown(path, -1, group)
        os.chmod(path, mode)
        if not is_stale:
            self.listener.listen()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def client_words(place):
    """Each command that connects to a socket, as far as the socket's path."""
    path = place / "socket"
    return [["ls", f"unix:{path}"], ["connect", f"unix:{path}", "foo"], ["status", "--control", path],
            ["close", "--control", path, "1-1"], ["drain", "--control", path], ["upgrade", "--control", path],
            ["top", "-b", "--control", path]]


# ---- permission denied

@as_root
def test_group_to_join(place):
    with Socket(place / "socket", 0o660, OTHER_GROUP.gr_gid):
        for words in client_words(place):
            line = told(place, *words)
            assert "Permission denied" in line and str(place / "socket") in line
            assert f"the group daemon may use {place}/socket: sudo adduser nobody daemon" in line


@as_root
def test_owner_alone(place):
    with Socket(place / "socket", 0o600):
        for words in client_words(place):
            assert f"only its owner root may use {place}/socket" in told(place, *words)


@as_root
def test_group_without_the_right(place):
    """Its own group, but not writable by it: a umask of 0022."""
    with Socket(place / "socket", 0o644, NOBODY["group"]):
        for words in client_words(place):
            assert "the group nogroup may not use" in told(place, *words)
        assert "chmod g+w" in told(place, *client_words(place)[0])


@as_root
def test_directory_on_the_way(place):
    (place / "closed/inner").mkdir(parents=True)
    os.chmod(place / "closed", 0o750)
    os.chown(place / "closed", 0, OTHER_GROUP.gr_gid)
    with Socket(place / "closed/inner/socket"):
        line = told(place, "ls", "unix:closed/inner/socket")
        assert "the group daemon may enter closed: sudo adduser nobody daemon" in line


@as_root
def test_link_to_a_closed_place(place):
    """What is named is where it leads."""
    (place / "closed").mkdir(mode=0o750)
    os.chown(place / "closed", 0, OTHER_GROUP.gr_gid)
    with Socket(place / "closed/socket"):
        (place / "link").symlink_to("closed/socket")
        (place / "far").symlink_to(place / "link")
        for name in ("link", "far"):
            line = told(place, "ls", f"unix:{name}")
            assert re.search(r"the group daemon may enter \S*closed: sudo adduser nobody daemon", line), line
        (place / "circle").symlink_to("circle")
        assert "Too many levels" in told(place, "ls", "unix:circle")


@as_root
def test_group_that_has_no_name(place):
    with Socket(place / "socket", 0o660, 59990):
        assert "the group 59990 may use" in told(place, "ls", f"unix:{place}/socket")


@as_root
@pytest.mark.parametrize("words", [["check", "--services", "services"],
                                   ["serve", "--services", "services/", "--control", "none", "127.0.0.1:0"]])
def test_services_directory(place, words):
    """check reads it, serve only has to come through."""
    (place / "services/inner").mkdir(parents=True)
    os.chown(place / "services", 0, OTHER_GROUP.gr_gid)
    os.chmod(place / "services", 0o750)
    words = [word.replace("services/", "services/inner") if words[0] == "serve" else word for word in words]
    what = "enter" if words[0] == "serve" else "use"
    assert f"the group daemon may {what} services: sudo adduser nobody daemon" in told(place, *words)


@as_root
def test_directory_to_listen_in(place):
    (place / "run").mkdir()
    os.chown(place / "run", 0, OTHER_GROUP.gr_gid)
    os.chmod(place / "run", 0o775)
    (place / "services").mkdir(mode=0o755)
    for words in (["serve", "--control", "none", "unix:run/socket"],
                  ["expose", "--control", "none", "127.0.0.1:9", "foo", "unix:run/socket"],
                  ["serve", "--control", "run/control", "127.0.0.1:0"]):
        result = subprocess.run([place / "kaiso", *words], cwd=place, stdin=subprocess.DEVNULL, check=False,
                                capture_output=True, timeout=DEADLINE, env=clean_environment(), **NOBODY)
        assert result.returncode == 1
        assert b"the group daemon may use run: sudo adduser nobody daemon" in result.stderr, result.stderr


@as_root
def test_services_in_the_log(new_router):
    """Of a router that runs as somebody else: for its user, and from inside the sandbox."""
    router = new_router("--user", "nobody", start=False)
    os.chmod(router.root, 0o755)
    router.start()
    with Socket(router.path("foo"), 0o660, OTHER_GROUP.gr_gid):
        router.open("foo").expect_closed()
        line = router.wait_log(msg="cannot connect to the service")
        assert "must be able to write to the socket" in line["error"]
        assert "the group daemon may use" in line["error"] and "sudo adduser nobody daemon" in line["error"]


# ---- nobody there

def test_stale_socket(place):
    with Socket(place / "socket", is_stale=True):
        for words in client_words(place):
            line = run_kaiso(*map(str, words)).stderr.decode()
            assert "left behind and nobody listens on it" in line and str(place / "socket") in line, line


def test_no_socket_at_all(place):
    (place / "socket").write_text("")
    for words in client_words(place):
        assert "is no socket" in run_kaiso(*map(str, words)).stderr.decode()


def test_nothing_there(place):
    for words in client_words(place):
        line = run_kaiso(*map(str, words)).stderr.decode()
        assert str(place / "socket") in line and ("starts one" in line or "start a router" in line), line


def test_stale_service_in_the_log(router):
    with Socket(router.path("foo"), is_stale=True):
        os.utime(router.path("foo"))
        router.open("foo").expect_closed()
        line = router.wait_log(msg="cannot connect to the service")
        assert line["error"].startswith("Connection refused; the socket was left behind")


# ---- in use, and resources

@pytest.mark.parametrize("words", [["serve", "--control", "none"], ["expose", "--control", "none", "127.0.0.1:9", "foo"]])
def test_port_in_use(place, words):
    (place / "services").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_kaiso(*words, f"127.0.0.1:{port}", cwd=place)
        assert result.returncode == 1 and f"ss -ltnp sport = :{port}".encode() in result.stderr
        if shutil.which("ss"):
            shown = subprocess.run(["ss", "-ltnp", "sport", "=", f":{port}"], capture_output=True, text=True, check=True)
            assert f":{port}" in shown.stdout


@pytest.mark.parametrize("words", [["ls", "127.0.0.1:1"], ["connect", "127.0.0.1:1", "foo"]])
@pytest.mark.skipif(IS_SANITIZED, reason="a sanitizer needs descriptors itself")
def test_too_many_open_files(words):
    """One descriptor is left, which its loader needs and then its loop takes."""
    result = subprocess.run(["prlimit", "--nofile=4:4", KAISO, *words], stdin=subprocess.DEVNULL, capture_output=True,
                            timeout=DEADLINE, check=False, env=clean_environment())
    assert b"Too many open files; raise the limit of open files" in result.stderr, result.stderr


# ---- names

@pytest.mark.parametrize("words", [["ls", "router.example.org"], ["connect", "router.example.org", "foo"]])
def test_no_name_server(words):
    """Where there is no network at all."""
    result = subprocess.run([*unshared("net"), KAISO, *words, "--timeout", "5s"], stdin=subprocess.DEVNULL, check=False,
                            capture_output=True, timeout=DEADLINE, env=clean_environment())
    assert result.returncode == 1 and b"no name server may answer (getent hosts NAME tells)" in result.stderr


def test_no_such_host_in_the_log(router):
    router.describe("foo", "no-such-host.invalid:80\n")
    router.open("foo").expect_closed()
    error = router.wait_log(msg="cannot connect to the service")["error"]
    assert "no such host" in error or "no name server may answer" in error

def test_near_directories(router):
    """ls does for directories what connect does for services."""
    for name in ("web/a", "git/forge", "deep/er/x"):
        router.describe(name, "127.0.0.1:9\n")
    result = run_kaiso("ls", router.address, "wbe/")
    assert result.returncode == 3 and b"did you mean 'web/'?" in result.stderr
    assert b"did you mean 'deep/er/'?" in run_kaiso("ls", router.address, "er/").stderr
    assert b"without it lists all" in run_kaiso("ls", router.address, "nothing-like-it/").stderr


def test_first_word_of_every_failure_is_the_tool(place):
    """And there is one line of it."""
    port, holder = closed_port()
    with holder:
        for words in [["ls", f"127.0.0.1:{port}"], ["connect", f"127.0.0.1:{port}", "foo"], *client_words(place)]:
            result = run_kaiso(*map(str, words))
            assert result.returncode == 1 and re.fullmatch(rf"kaiso {words[0]}: .+\n", result.stderr.decode())
