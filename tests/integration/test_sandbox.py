"""What a router gives up once it is ready, and what goes on working inside (base/sandbox.h)."""

import contextlib
import ctypes
import errno
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.exposer import Exposer
from harness.namespaces import CAP_LEASE, can_lease, public_kaiso, with_leases_alone
from harness.router import KAISO, run_kaiso

IS_NORMAL = os.environ.get("KAISO_BUILD", "normal") == "normal"
PROGRAMS = Path(__file__).parent / "programs"
FORBIDDEN = {errno.EPERM, errno.EACCES}
# landlock_create_ruleset(2), asked for the version; -1 for none.
LANDLOCK = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
SIGNALS = set() if LANDLOCK >= 6 else {"kill"}  # what gets out
# To read any file, to connect to any socket, and to take leases.
CAPABILITIES_KEPT = 1 << 1 | 1 << 2 | CAP_LEASE

# Sanitizers make calls of their own, so their builds are without seccomp; the rest holds there too.
pytestmark = pytest.mark.skipif(not IS_NORMAL, reason="what is tested is the normal build")


@pytest.fixture(scope="module")
def library():
    """Where a program of programs/ has become a library for all users to preload: library("escapes")."""
    directory = Path(tempfile.mkdtemp(prefix="kaiso-"))
    directory.chmod(0o755)

    def build(name):
        path = directory / f"{name}.so"
        if not path.exists():
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, PROGRAMS / f"{name}.c"], check=True)
        return str(path)

    yield build
    shutil.rmtree(directory)


@contextlib.contextmanager
def other_process():
    """Something of the same user to be attacked."""
    with subprocess.Popen(["sleep", "300"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def try_escapes(new_router, library, directory, *options, fake=None, **how):
    """A router with these options, and {attempt: errno, 0 for a success}, made in it. fake: $FAKE_KERNEL."""
    (directory / "below").mkdir()
    for name in ("file", "victim", "below/victim"):
        (directory / name).write_text("content")
    shutil.copy("/bin/true", directory / "program")
    reading, writing = os.pipe()
    master, terminal = os.openpty()
    with other_process() as other:
        env = {"LD_PRELOAD": library("escapes"), "ESCAPES_FD": writing, "ESCAPES_DIRECTORY": directory,
               "ESCAPES_OTHER": other, "ESCAPES_TERMINAL": terminal}
        if fake:
            env.update(LD_PRELOAD=f"{library('escapes')}:{library('fake_kernel')}", FAKE_KERNEL=fake)
        router = new_router(*options, env=env, pass_fds=(writing, terminal), **how)
        for fd in (writing, master, terminal):
            os.close(fd)
        with router.connect() as client:
            client.line(".kaiso/version").receive_line()
        with open(reading, encoding="ascii") as lines:
            return router, {name: int(number) for name, number in (line.split() for line in lines)}


def permitted(results):
    return {name for name, number in results.items() if number not in FORBIDDEN}


def test_no_way_out(new_router, library, tmp_path):
    _, results = try_escapes(new_router, library, tmp_path)
    assert len(results) == 46
    assert permitted(results) == {"read", "lease"} | SIGNALS, "services may be linked from anywhere"
    assert sorted(os.listdir(tmp_path)) == ["below", "file", "program", "victim"]
    assert (tmp_path / "file").read_text() == "content"


def test_the_attempts_are_worth_something(new_router, library, tmp_path):
    """Without the sandbox they succeed, so it is what stops them."""
    _, results = try_escapes(new_router, library, tmp_path, "--no-sandbox")
    for name in ("read", "write", "create", "mkdir", "symlink", "execve", "execveat", "bind", "listen", "kill", "netlink",
                 "seqpacket", "setown", "dumpable", "prlimit", "setpriority", "tgkill", "memory", "truncate"):
        assert results[name] == 0, (name, results)


def test_what_a_socket_file_costs(new_router, library, tmp_path):
    """Whoever listens on one may remove files where it is, and below: it wants a directory of its own (SECURITY.md)."""
    _, results = try_escapes(new_router, library, tmp_path, listen=(f"unix:{tmp_path}/listener",))
    assert permitted(results) == {"read", "lease", "unlink", "unlink_below"} | SIGNALS
    assert (tmp_path / "program").exists()


# ---- kernels that lack a part: a warning, and the rest stays on

def warnings_of(router):
    return [line.get("msg") for line in router.log.find(level="warning")]


WITHOUT_LANDLOCK = ["the sandbox is without Landlock: this kernel or build has none"]
WITHOUT_SECCOMP = ["the sandbox is without seccomp: this kernel or build has none"]


# What no filter of system calls can tell from what a router does.
LANDLOCK_ALONE = {"read", "lease", "write_log", "unlink", "unlink_below", "execveat", "kill"}


@pytest.mark.parametrize("fake, warnings, permissions", [
    ("landlock=38", WITHOUT_LANDLOCK, LANDLOCK_ALONE),
    ("landlock=95", WITHOUT_LANDLOCK, LANDLOCK_ALONE),
    ("seccomp=38", WITHOUT_SECCOMP, None),
    ("landlock=38,seccomp=38", WITHOUT_LANDLOCK + WITHOUT_SECCOMP, None),
], ids=["no Landlock", "Landlock is off", "no seccomp", "neither"])
def test_a_part_is_missing(new_router, library, tmp_path, fake, warnings, permissions):
    router, results = try_escapes(new_router, library, tmp_path, fake=fake)
    assert warnings_of(router) == warnings
    assert status_of(router.pid)["NoNewPrivs"] == "1"
    if permissions:
        assert permitted(results) == permissions
    elif warnings == WITHOUT_SECCOMP:
        assert not {"write", "write_log", "append", "truncate", "create", "unlink", "mkdir", "symlink", "rename", "execve", "kill", "cut",
                    "nameless", "memory"} & permitted(results)


@pytest.mark.parametrize("version, missing", [
    (1, "truncation, TCP ports, ioctl of devices, signals"),
    (2, "truncation, TCP ports, ioctl of devices, signals"),
    (3, "TCP ports, ioctl of devices, signals"),
    (4, "ioctl of devices, signals"),
    (5, "signals"),
    (6, None),
    (7, None),
])
def test_an_older_landlock(new_router, library, tmp_path, version, missing):
    """seccomp stands in for all but signals."""
    if version > LANDLOCK:
        pytest.skip(f"this kernel has version {LANDLOCK} of Landlock")
    router, results = try_escapes(new_router, library, tmp_path, fake=f"version={version}")
    assert warnings_of(router) == ([] if missing is None else [
        f"the sandbox is without a part of Landlock ({missing}): this kernel has its version {version}"])
    assert permitted(results) == {"read", "lease"} | (set() if missing is None else {"kill"})


def test_upgrades_without_seccomp(new_router, library):
    """The rest is put on once: Landlock takes sixteen at most, one in another."""
    router = new_router(env={"LD_PRELOAD": library("fake_kernel"), "FAKE_KERNEL": "seccomp=38"})
    for count in range(1, 18):
        router.signal(signal.SIGUSR2)
        router.log.wait(count, msg="upgraded")
    assert warnings_of(router) == WITHOUT_SECCOMP


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


@pytest.fixture
def replaced(tmp_path):
    """Starts a router from a copy of kaiso, which replaced() then puts another of the build's programs in place of."""
    path = tmp_path / "kaiso"
    shutil.copy(KAISO, path)

    def replace(name):
        shutil.copy(Path(KAISO).parent / "tests" / name, f"{path}.new")
        os.rename(f"{path}.new", path)

    replace.wrapper = ("/bin/sh", "-c", f"shift; exec '{path}' \"$@\"", "sh")
    return replace


def test_an_upgrade_to_a_stricter_sandbox(new_router, replaced):
    """The new one goes around the old one; once."""
    router = new_router(wrapper=replaced.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    replaced("kaiso-stricter")
    for count in range(1, 4):
        router.signal(signal.SIGUSR2)
        router.log.wait(count, msg="upgraded")
        client.exchange(b"behind")
        status = status_of(router.pid)
        assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "2")
    assert not [words for words in warnings_of(router) if "older version" in words]


def test_an_upgrade_to_what_needs_more(new_router, replaced):
    router = new_router(wrapper=replaced.wrapper)
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    replaced("kaiso-needier")
    router.signal(signal.SIGUSR2)
    line = router.log.wait(msg="cannot upgrade; the running version goes on")
    assert "needs system calls that the running one has given up: restart it" in line.get("reason")
    client.exchange(b"behind")


@pytest.mark.parametrize("is_sandboxed", [True, False])
def test_an_upgrade_in_another_directory(new_router, tmp_path, is_sandboxed):
    """Versions in directories of their own, behind a link."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        shutil.copy(KAISO, tmp_path / version / "kaiso")
    (tmp_path / "current").symlink_to("v1")
    wrapper = ("/bin/sh", "-c", f"shift; exec '{tmp_path}/current/kaiso' \"$@\"", "sh")
    router = new_router(*(() if is_sandboxed else ("--no-sandbox",)), wrapper=wrapper)
    (tmp_path / "next").symlink_to("v2")
    os.rename(tmp_path / "next", tmp_path / "current")
    router.signal(signal.SIGUSR2)
    if is_sandboxed:
        line = router.log.wait(msg="cannot upgrade; the running version goes on")
        assert "restart it if this has another directory" in line.get("reason")
    else:
        router.log.wait(msg="upgraded")


CAPABILITY_SETS = ("Eff", "Prm", "Inh", "Amb", "Bnd")


def capabilities_of(router):
    status = status_of(router.pid)
    return {name: int(status[f"Cap{name}"], 16) for name in CAPABILITY_SETS}


def leases_alone(router):
    """Whether it has that capability and no other, and keeps it over execve(2)."""
    found = capabilities_of(router)
    return all(found[name] == CAP_LEASE for name in CAPABILITY_SETS if name != "Bnd")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
def test_root_keeps_little(new_router):
    """It could, once broken into, do what no filter of system calls sees."""
    router = new_router()
    kept = CAPABILITIES_KEPT & int(status_of("self")["CapEff"], 16)
    for count in range(2):
        assert capabilities_of(router) == dict.fromkeys(CAPABILITY_SETS, kept)
        router.signal(signal.SIGUSR2)
        router.log.wait(count + 1, msg="upgraded")


@pytest.mark.skipif(os.geteuid() != 0 or not can_lease(), reason="only root can lend the right to take leases")
def test_a_user_who_may_take_leases(new_router):
    """As the unit starts it; over upgrades, too."""
    router = new_router(start=False)
    router.wrapper = (*with_leases_alone("--reuid=65534", "--regid=65534", "--clear-groups"),
                      "/bin/sh", "-c", f"shift; exec '{public_kaiso(router.root)}' \"$@\"", "sh")
    os.chmod(router.services, 0o755)
    router.start()
    for count in range(3):
        assert leases_alone(router)
        router.signal(signal.SIGUSR2)
        router.log.wait(count + 1, msg="upgraded")
    assert leases_alone(router)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
def test_an_exposer_takes_no_leases(new_router):
    """It reads no descriptions."""
    router = new_router()
    for options, kept in (((), CAPABILITIES_KEPT & ~CAP_LEASE), (("--user", "nobody"), 0)):
        exposer = new_router(router.address, "foo", "127.0.0.1:0", kind=Exposer, options=options)
        found = capabilities_of(exposer)
        assert found["Prm"] & ~kept == found["Inh"] & ~kept == found["Amb"] & ~kept == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's socket")
def test_root_reaches_services_of_others(new_router):
    router = new_router()
    service = router.echo("closed/foo")
    nobody = pwd.getpwnam("nobody")
    for path, mode in ((router.path("closed/foo"), 0o600), (router.path("closed"), 0o700)):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
        os.chmod(path, mode)
    router.open("closed/foo").exchange(b"hello")
    assert service.accepted == 1


def test_a_link_local_address(new_router):
    """Its interface has a name, which is looked up when the description is read."""
    router = new_router()
    router.describe("foo", "[fe80::1%lo]:1\n")
    router.open("foo").expect_closed()
    router.wait_log(msg="cannot connect to the service", target="[fe80::1%lo]:1")


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
        assert leases_alone(router) == can_lease()

    def test_takes_a_low_port_before(self, new_router):
        router = new_router("--user", "nobody", listen=("127.0.0.1:1021",))
        assert router.address == "127.0.0.1:1021"

    def test_upgrades_as_it(self, new_router, library, tmp_path):
        """Also when the user cannot be looked up any more, which can be so inside."""
        (tmp_path / "users").touch()
        env = {"LD_PRELOAD": library("fake_kernel"), "FAKE_KERNEL": f"users={tmp_path}/users"}
        router = new_router("--user", "nobody", env=env)
        (tmp_path / "users").unlink()
        router.signal(signal.SIGUSR2)
        router.log.wait(msg="upgraded")
        assert status_of(router.pid)["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4
        assert leases_alone(router) == can_lease()

    @pytest.mark.parametrize("word, words", [
        ("no-such-user", b"no such user or group"),
        ("nobody:no-such-group", b"no such user or group"),
        ("x" * 200, b"no such user or group"),
    ])
    def test_users_that_are_none(self, tmp_path, word, words):
        result = run_kaiso("serve", "--services", str(tmp_path), "--user", word, "127.0.0.1:0")
        assert result.returncode == 1
        assert words in result.stderr
