"""Under systemd: the units, sockets that it passes, what it is told, its watchdog, the group of the services."""

import ctypes
import grp
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from harness.exposer import Exposer
from harness.namespaces import can_lease, not_almighty, with_leases_alone
from harness.router import KAISO, REPOSITORY, clean_environment
from harness.services import bind_tcp
from harness.units import SOURCES, Manager, Unit, permitted_calls, unit_path
from harness.wait import DEADLINE, IS_SANITIZED, wait_until

ROUTERS = ["kaiso.service", "kaiso-expose@.service"]
SERVICES = [*ROUTERS, "kaiso-mirror@.service"]
UNITS = [*SERVICES, "kaiso.socket"]
EXPOSURE_MAX = 15  # of 100: `systemd-analyze security` shows it as 1.5

unit_alone = pytest.mark.skipif(IS_SANITIZED, reason="about the units, which are the same in every build")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be other users")


@pytest.fixture
def manager(tmp_path):
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def installed_units(tmp_path):
    """Copies of all units whose program is the one under test."""
    for name in UNITS:
        for scope in ("", "user/"):
            copy = tmp_path / "units" / scope / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = unit_path(scope + name).read_text()
            copy.write_text(re.sub(r"/\S*/kaiso (?=serve|expose|mirror)", f"{KAISO} ", text))
    return tmp_path / "units"


# ---- the units

@unit_alone
@pytest.mark.parametrize("scope", ["system", "user"])
def test_units_are_right(installed_units, scope):
    """systemd reads them without a word."""
    directory = installed_units if scope == "system" else installed_units / "user"
    for name in SERVICES:
        if "@" in name:
            shutil.copy(directory / name, directory / name.replace("@", "@web"))
    result = subprocess.run(
        ["systemd-analyze", f"--{scope}", "--man=no", "verify",
         *(directory / name.replace("@", "@web") for name in UNITS)],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
        env=clean_environment(SYSTEMD_UNIT_PATH=f"{directory}:", XDG_RUNTIME_DIR=installed_units),
    )
    ours = [line for line in result.stderr.splitlines() if "kaiso" in line]
    assert (result.returncode, ours) == (0, [])


@unit_alone
@pytest.mark.parametrize("name", SERVICES)
def test_services_are_hardened(name):
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", unit_path(name)],
        capture_output=True, text=True, timeout=DEADLINE, check=False, env=clean_environment(),
    )
    assert result.returncode == 0, result.stdout + result.stderr


@unit_alone
def test_the_router_may_take_leases():
    """And nothing else. The kernel does not count what somebody may in a user namespace."""
    unit = Unit("kaiso.service")
    assert unit.all("AmbientCapabilities") == unit.all("CapabilityBoundingSet") == ["CAP_LEASE"]
    assert unit.all("PrivateUsers") == []


@unit_alone
def test_installed_below_the_prefix(tmp_path):
    """All of it, and the units start what is installed with them; and off again."""
    subprocess.run(
        ["meson", "install", "-C", Path(KAISO).parent, "--no-rebuild", "--quiet", "--destdir", tmp_path],
        check=True, timeout=6 * DEADLINE, capture_output=True, env=clean_environment(),
    )
    program = next(tmp_path.rglob("bin/kaiso"))
    prefix = program.parent.parent
    assert all(path.is_dir() or prefix in path.parents for path in tmp_path.rglob("*"))
    for directory in ("lib/systemd/system", "lib/systemd/user"):
        for name in SERVICES:
            text = (prefix / directory / name).read_text()
            assert f"ExecStart=/{program.relative_to(tmp_path)} " in text and "@bindir@" not in text
        assert (prefix / directory / "kaiso.socket").exists()
    for path in ("lib/sysusers.d/kaiso.conf", "lib/tmpfiles.d/kaiso.conf"):
        assert (prefix / path).read_text()
    subprocess.run(["ninja", "-C", Path(KAISO).parent, "uninstall"], check=True, timeout=6 * DEADLINE,
                   capture_output=True, env=clean_environment())
    assert all(path.is_dir() for path in tmp_path.rglob("*")), "what is installed can be removed again"


@unit_alone
def test_a_port_alone_is_of_both_families():
    """kaiso.socket says that ListenStream=37812 is everywhere, and for that IPv6 may not be all."""
    unit = Unit("kaiso.socket")
    assert "#\tListenStream=37812\n" in unit.path.read_text()
    assert unit.all("BindIPv6Only") == []


def named_calls():
    """Those that the sources say they make once they are in the sandbox of their own."""
    calls = set()
    for path in (REPOSITORY / "src").glob("*/*.c"):
        for names in re.findall(r"^SANDBOX_CALLS\(([^)]*)\)", path.read_text(), re.MULTILINE):
            calls |= set(re.findall(r'"(\w+)"', names))
    return calls


SPARED = {
    "kaiso.service": {"capset"},  # it is given no capability that would have to be given up
    "kaiso-expose@.service": {"setpriority"},  # what only the lister calls
    "user/kaiso-expose@.service": {"setpriority"},
}


@unit_alone
@pytest.mark.parametrize("name", [*ROUTERS, *(f"user/{name}" for name in ROUTERS)])
def test_filter_permits_what_the_sources_name(name):
    """Save setrlimit, for which the C library calls prlimit64, and what SPARED tells."""
    assert named_calls() - permitted_calls(Unit(name)) <= {"setrlimit"} | SPARED.get(name, set())


@unit_alone
def test_filter_permits_what_a_router_does(new_router, tmp_path):
    """From its start over an upgrade to its end."""
    trace = tmp_path / "trace"
    capabilities = with_leases_alone() if os.geteuid() == 0 and can_lease() else not_almighty()
    router = new_router(
        wrapper=(*capabilities, "strace", "-D", "-f", "-qq", "-o", str(trace)), env={"RUNTIME_DIRECTORY": str(tmp_path)},
    )
    assert (tmp_path / "control").is_socket()
    router.echo("foo")
    router.describe("far", "localhost:1\n")
    with router.open("far") as client:
        client.expect_closed()
    client = router.open("foo").exchange(b"before")
    router.signal(signal.SIGUSR2)
    router.wait_log(msg="upgraded")
    client.exchange(b"behind").end().expect_end()
    assert b"foo" in router.list()
    router.close_things()
    router.stop()
    wait_until(lambda: "exit_group(0)" in trace.read_text(), "the trace to end")
    made = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    assert {"execve", "epoll_wait", "landlock_restrict_self", "seccomp", "execveat"} <= made
    assert made - permitted_calls(Unit("kaiso.service")) - {"access"} == set()


# ---- its commands, as they stand in the units

def serve_words(unit, router):
    """The command of the unit, with a services directory of the test's and a thread more than one."""
    words = unit.words("ExecStart", KAISO_OPTIONS="--threads 2 --drain-timeout 3s")
    index = words.index("--services") + 1
    assert words[index] in ("/etc/kaiso/services", "%E/kaiso/services")
    words[index] = str(router.services)
    return words


@pytest.mark.parametrize("scope", ["", "user/"])
def test_sockets_are_passed(new_router, manager, scope):
    """By systemd's own tool: whoever comes before the router is there is served, and everybody over a reload."""
    service, unit = Unit(scope + "kaiso.service"), Unit(scope + "kaiso.socket")
    router = new_router(start=False, awaits_ready=False)
    assert "127.0.0.1:37812" in unit.all("ListenStream")
    addresses = [f"127.0.0.1:{free_port()}", f"{router.root}/socket"]
    words = serve_words(service, router)
    router.wrapper = ("systemd-socket-activate", *(word for one in addresses for word in ("-l", one)),
                      "-E", f"NOTIFY_SOCKET={manager.path}")
    assert words[0] == KAISO
    router.command = words[1:]
    router.echo("foo")
    router.start()
    wait_until(lambda: os.path.exists(router.root / "socket"), lambda: f"the socket file; {router.log.text()}")
    early = wait_until(lambda: connect_when_there(router, addresses[0]), "the first client to get in")
    early.line("foo").exchange(b"early")
    assert manager.expect("READY")["READY"] == "1"
    assert router.wait_log(msg="ready").all("listen") == [addresses[0], f"unix:{addresses[1]}"]
    client = router.open("foo", address=f"unix:{router.root}/socket").exchange(b"before")
    begin = time.monotonic()
    reload = service.words("ExecReload", MAINPID=str(router.pid))
    subprocess.run(reload, check=True, timeout=DEADLINE)
    reloading = manager.expect("RELOADING")
    assert reloading["RELOADING"] == "1" and begin <= int(reloading["MONOTONIC_USEC"]) / 1e6 <= time.monotonic()
    assert manager.expect("READY") == {"READY": "1"}
    for stream in (early, client):
        stream.exchange(b"behind")
        stream.end().expect_end()
    router.close_things()
    router.signal(signal.SIGTERM)
    stopping = manager.expect("STOPPING")
    assert stopping["STOPPING"] == "1" and 3e6 < int(stopping["EXTEND_TIMEOUT_USEC"]) < 60e6
    assert router.wait_exit() == 0
    router.log.odd = [raw for raw in router.log.odd if b"istening on" not in raw and b"ommunication attempt" not in raw
                      and not raw.startswith(b"Execing ")]


def free_port():
    with bind_tcp() as listener:
        return listener.getsockname()[1]


def connect_when_there(router, address):
    try:
        return router.connect(address)
    except ConnectionRefusedError:
        return None


@pytest.mark.parametrize("scope", ["", "user/"])
def test_the_template_exposes(new_router, manager, scope):
    router = new_router()
    router.echo("foo bar")
    words = Unit(scope + "kaiso-expose@.service").words(
        "ExecStart", KAISO_OPTIONS="", KAISO=router.address, SERVICE="foo bar", LISTEN="127.0.0.1:0",
    )
    exposer = new_router(start=False, kind=Exposer, kaiso=router.address)
    exposer.command = words[1:]
    exposer.env = {"NOTIFY_SOCKET": manager.path}
    exposer.start()
    assert manager.expect("READY")
    exposer.client().exchange(b"hello")


def test_a_refused_reload_ends_too(new_router, manager, tmp_path):
    """A manager that was told of a reload is told of its end, though the old program goes on."""
    program = tmp_path / "kaiso"
    shutil.copy(KAISO, program)
    router = new_router(
        wrapper=("/bin/sh", "-c", f"shift; exec '{program}' \"$@\"", "sh"), env={"NOTIFY_SOCKET": manager.path},
    )
    assert manager.expect("READY")
    os.unlink(program)
    router.signal(signal.SIGUSR2)
    assert manager.expect("RELOADING")
    assert manager.expect("READY")
    router.wait_log(msg="cannot upgrade; the running version goes on")


# ---- the watchdog

class Thread:
    """Stops one thread of a process, as if it hung, and lets it go on."""

    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17

    def __init__(self, number):
        self.number = number

    def _ptrace(self, request):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        libc.ptrace.restype = ctypes.c_long
        if libc.ptrace(request, self.number, None, None) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def __enter__(self):
        try:
            self._ptrace(self.SEIZE)
        except PermissionError:
            pytest.skip("no other process may be traced here")
        self._ptrace(self.INTERRUPT)
        os.waitpid(self.number, 0x40000000)  # __WALL: threads too
        return self

    def __exit__(self, *_):
        self._ptrace(self.DETACH)


def threads_of(router):
    """In the order in which they were made, as the kernel keeps them; numbers may begin anew."""
    return [int(number) for number in os.listdir(f"/proc/{router.pid}/task")]


def test_the_watchdog_is_fed(new_router, manager):
    """Four times within the interval, by an idle router, and by the program after an upgrade."""
    router = new_router("--threads", "3", env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"})
    assert manager.expect("READY")
    for _ in range(2):
        manager.drain()
        begin = time.monotonic()
        for _ in range(8):
            assert manager.receive() == {"WATCHDOG": "1"}
        assert time.monotonic() - begin > 0.6, "a message each 100 ms, and no more"
        router.signal(signal.SIGUSR2)
        assert manager.expect("RELOADING")
        assert manager.expect("READY")


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_a_hung_thread_is_seen(new_router, manager, which):
    """Whichever it is: nothing is sent until it goes on, and the log says why where it can."""
    router = new_router("--threads", "3", env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"})
    manager.expect("READY")
    with Thread(threads_of(router)[which]):
        if which:
            router.wait_log(msg=lambda text: text.startswith("a thread does not come round"), thread="3")
        time.sleep(0.2)
        manager.drain()
        assert manager.is_silent(1)
    assert manager.receive() == {"WATCHDOG": "1"}


def test_a_lister_that_takes_its_time_is_no_fault(new_router, manager):
    """Its disk may be slow; everybody else is served."""
    router = new_router("--threads", "2", env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"})
    manager.expect("READY")
    router.echo("foo")
    with Thread(threads_of(router)[1]):  # made before the second worker
        client = router.connect().send(b"\n")
        manager.drain()
        for _ in range(8):
            assert manager.receive() == {"WATCHDOG": "1"}
        router.open("foo").exchange(b"hello")
    assert client.receive_list() == b"foo\r\n\r\n"


@pytest.mark.parametrize("variables", [
    {},
    {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"},
    {"WATCHDOG_USEC": "0"},
    {"WATCHDOG_USEC": "soon"},
])
def test_no_watchdog_is_asked_for(new_router, manager, variables):
    router = new_router(env={"NOTIFY_SOCKET": manager.path, **variables})
    assert manager.expect("READY")
    router.settle()
    assert manager.is_silent(0.4)


# ---- the group of the services

@pytest.fixture
def root_directory(tmp_path):
    """What `systemd-sysusers` and `systemd-tmpfiles` make of an empty system."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    for words in (["systemd-sysusers", f"--root={root}", SOURCES / "kaiso.sysusers"],
                  ["systemd-tmpfiles", f"--root={root}", "--create", SOURCES / "kaiso.tmpfiles"]):
        subprocess.run(words, check=True, timeout=DEADLINE, capture_output=True)
    return root


def group_of(root):
    for line in (root / "etc/group").read_text().splitlines():
        if line.startswith("kaiso:"):
            return int(line.split(":")[2])
    raise AssertionError("there is no group kaiso")


@unit_alone
@as_root
def test_group_and_directories_are_made(root_directory):
    group = group_of(root_directory)
    for name in ("etc/kaiso/services", "run/kaiso-services"):
        status = os.stat(root_directory / name)
        assert stat.S_IMODE(status.st_mode) == 0o2775 and (status.st_uid, status.st_gid) == (0, group)
    assert os.readlink(root_directory / "etc/kaiso/services/run") == "/run/kaiso-services"


BIND = "import os, socket, sys; os.umask(int(sys.argv[2], 8)); s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); s.accept()[0].sendall(b'here')"


@as_root
@pytest.mark.parametrize("umask", ["0002", "0007"])
def test_a_service_of_another_user_of_the_group(new_router, tmp_path, umask):
    """The router is in the group as its only right; so is who makes the service."""
    router = group_router(new_router, tmp_path)
    with other_user(BIND, router.path("foo"), umask):
        wait_until(lambda: b"foo" in router.list(), "the service to be there")
        assert router.open("foo").receive_all() == b"here"


@as_root
def test_a_service_that_the_group_may_not_write_to(new_router, tmp_path):
    """Refused, and the log says in plain words what is missing."""
    router = group_router(new_router, tmp_path)
    with other_user(BIND, router.path("foo"), "0022"):
        wait_until(lambda: b"foo" in router.list(), "the service to be there")
        client = router.open("foo")
        client.expect_closed()
        line = router.wait_log(msg="cannot connect to the service")
        assert "must be able to write to the socket" in line["error"]
        router.wait_session(client, reason="unavailable")


GROUP = 59998  # nobody's
USERS = (59996, 59997)


def group_router(new_router, tmp_path):
    router = new_router("--user", f"{USERS[0]}:{GROUP}", start=False)
    os.chown(router.services, 0, GROUP)
    os.chmod(router.services, 0o2775)
    os.chmod(router.root, 0o755)
    return router.start()


def other_user(program, *words):
    command = ["setpriv", f"--reuid={USERS[1]}", f"--regid={GROUP}", "--clear-groups", "/usr/bin/python3", "-c", program]

    class Running:
        def __enter__(self):
            self.process = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL)
            return self

        def __exit__(self, *_):
            self.process.kill()
            self.process.wait()

    return Running()
