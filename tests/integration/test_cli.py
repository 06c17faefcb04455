"""The command line of `kaiso serve`: words, mistakes, where it listens, and who starts it."""

import os
import re
import socket
import subprocess
import sys

import pytest

from harness.namespaces import unshared
from harness.router import KAISO, run_kaiso
from harness.services import bind_tcp, bind_unix
from harness.wait import DEADLINE, wait_until


def expect_usage(result, names):
    """Exit code 2, nothing on standard output, and the mistake named on standard error."""
    assert result.returncode == 2, (result.returncode, result.stderr)
    assert result.stdout == b""
    assert names.encode() in result.stderr, result.stderr


def expect_failure(result, names):
    """Exit code 1 and one line that names what failed."""
    assert result.returncode == 1, (result.returncode, result.stderr)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert names.encode() in result.stderr, result.stderr


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"]])
def test_help(words):
    """On standard output, exit code 0."""
    result = run_kaiso(*words)
    assert result.returncode == 0 and result.stderr == b""
    assert b"kaiso" in result.stdout and b"serve" in result.stdout


def test_help_names_every_option():
    """What the program understands, it says."""
    text = run_kaiso("serve", "--help").stdout.decode()
    for option in ("services", "threads", "log-level", "log-format", "no-verbs", "drain-timeout", "request-timeout",
                   "connect-timeout", "idle-timeout", "max-sessions", "max-sessions-per-address",
                   "max-requests-per-second", "max-lists", "relay-up", "relay-down", "busy-poll"):
        assert f"--{option}" in text, option


def test_version(router):
    """`kaiso VERSION`, the same that the router tells."""
    result = run_kaiso("--version")
    assert result.returncode == 0 and result.stderr == b""
    assert re.fullmatch(rb"kaiso [0-9][!-~]*\n", result.stdout)
    told = router.connect().line(".kaiso/version").receive_line()
    assert told == result.stdout.replace(b"\n", b"\r\n")


def test_help_to_a_full_device():
    """Output that cannot be written is an error, not a success."""
    with open("/dev/full", "wb") as full:
        result = subprocess.run([KAISO, "--version"], stdout=full, stderr=subprocess.DEVNULL, timeout=DEADLINE,
                                check=False)
    assert result.returncode == 1


def test_no_words():
    """Nothing at all is no command."""
    expect_usage(run_kaiso(), "kaiso")


@pytest.mark.parametrize("words, named", [
    (["frobnicate"], "frobnicate"), (["serve", "--frobnicate"], "frobnicate"), (["--frobnicate"], "frobnicate"),
    (["serve", "-Z"], "Z"), (["serve", "--services"], "services"), (["serve", "--no-verbs=yes"], "no-verbs"),
])
def test_unknown_words(words, named):
    """Exit code 2, the word named."""
    expect_usage(run_kaiso(*words), named)


NUMBERS = ["x", "-1", "", "1x", " 1", "+1", "99999999999999999999", "1.5", "0x10"]
DURATIONS = ["10", "x", "-1s", "", "1.5s", "s", "10 s", "10w", "99999999999999999999s", "+1s"]


@pytest.mark.parametrize("option, value", [
    *[("max-sessions", value) for value in NUMBERS],
    *[("request-timeout", value) for value in DURATIONS],
    ("threads", "x"), ("threads", "-1"), ("threads", "100000"), ("threads", ""),
    ("max-sessions-per-address", "x"), ("max-requests-per-second", "x"), ("max-lists", "x"),
    ("drain-timeout", "x"), ("drain-timeout", "5"), ("connect-timeout", "x"), ("connect-timeout", "5"),
    ("idle-timeout", "x"), ("idle-timeout", "5"), ("log-level", "loud"), ("log-level", ""), ("log-format", "xml"),
    ("busy-poll", "1001"), ("busy-poll", "x"), ("relay-up", "sideways"), ("relay-down", "fast"), ("relay-up", ""),
])
def test_bad_values(tmp_path, option, value):
    """A value that is none names its option."""
    for words in ([f"--{option}", value], [f"--{option}={value}"]):
        expect_usage(run_kaiso("serve", "--services", str(tmp_path), *words, "127.0.0.1:0"), f"--{option}")


@pytest.mark.parametrize("options", [
    ["--max-sessions", "5", "--request-timeout", "1m", "--connect-timeout", "1500ms", "--idle-timeout", "1h"],
    ["--max-sessions=5", "--drain-timeout=0", "--idle-timeout=0", "--request-timeout=0s"],
    ["--threads", "1", "--log-level", "debug", "--log-format", "logfmt", "--relay-up", "auto",
     "--relay-down", "auto", "--busy-poll", "50"],
    ["--max-sessions-per-address", "1000", "--max-requests-per-second", "1000", "--max-lists", "10",
     "--log-level", "info"],
])
def test_good_values(new_router, options):
    """Both spellings of an option, and each unit."""
    router = new_router(*options)
    router.echo("foo")
    router.open("foo").exchange(b"hello")


# ---- where it listens

@pytest.mark.parametrize("word", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:-1",
                                  "127.0.0.1:80x", "::1:80", "[::1]", "[::1:80", "a:b:c", "127.0.0.1:99999", "unix:", "", "80"])
def test_no_address(tmp_path, word):
    """Port out of range, no port: the first kaiso started anyway."""
    result = run_kaiso("serve", "--services", str(tmp_path), word)
    assert result.returncode in (1, 2), (result.returncode, result.stderr)
    assert word.encode() in result.stderr and result.stderr.count(b"\n") <= 3, result.stderr


@pytest.mark.parametrize("word", ["192.0.2.1:0", "no-such-host.invalid:0", "unix:/nonexistent/directory/socket"])
def test_address_that_is_not_here(tmp_path, word):
    """An address of somebody else, a name that nobody has, a directory that is not there: exit code 1, named."""
    words = [*unshared("net"), KAISO] if word.startswith("no-such") else [KAISO]
    result = subprocess.run([*words, "serve", "--services", str(tmp_path), word], capture_output=True,
                            stdin=subprocess.DEVNULL, timeout=3 * DEADLINE, check=False)
    expect_failure(result, word)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_in_use(tmp_path, host):
    """Exit code 1, the address named."""
    with bind_tcp(host) as taken:
        port = taken.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        expect_failure(run_kaiso("serve", "--services", str(tmp_path), "127.0.0.1:0", address), address)


def test_port_zero(router):
    """A free one, told by the ready line; two routers do not meet."""
    assert 1024 <= router.port <= 65535


@pytest.mark.parametrize("word, pattern", [
    ("127.0.0.1:0", r"127\.0\.0\.1:\d+"), ("[::1]:0", r"\[::1\]:\d+"), ("127.0.0.3:0", r"127\.0\.0\.3:\d+"),
    ("localhost:0", r"127\.0\.0\.1:\d+|\[::1\]:\d+"),
])
def test_addresses(new_router, word, pattern):
    """IPv4, IPv6 in brackets, host names."""
    router = new_router(listen=(word,))
    router.echo("foo")
    for address in router.addresses:
        assert re.fullmatch(pattern, address), address
        assert not address.endswith(":0")
        router.open("foo", address=address).exchange(b"hello")


@pytest.mark.ipv6
def test_colon_port_is_every_address(new_router):
    """`:PORT`: one IPv4 and one IPv6 socket with the same port."""
    router = new_router(listen=(":0",))
    router.echo("foo")
    assert sorted(address.rpartition(":")[0] for address in router.addresses) == ["0.0.0.0", "[::]"]
    assert len({address.rpartition(":")[2] for address in router.addresses}) == 1
    for host in ("127.0.0.1", "127.0.0.9", "[::1]"):
        client = router.open("foo", address=f"{host}:{router.port}").exchange(b"hello")
        client.end().expect_end()
        router.wait_session(client, reason="done")


@pytest.mark.ipv6
def test_several_addresses(new_router):
    """As many as wished, of every kind, each told."""
    router = new_router(start=False)
    router.listen = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:0", f"unix:{router.root}/listener"]
    router.start()
    router.echo("foo")
    assert len(router.addresses) == 4 and len(set(router.addresses)) == 4
    for address in router.addresses:
        router.open("foo", address=address).exchange(b"hello")


def test_default_addresses(new_router):
    """127.0.0.1 and ::1, port 37812; in a network name space of its own, where nobody can have it."""
    router = new_router(listen=(), wrapper=(*unshared("net"), "sh", "-c", 'ip link set lo up && exec "$@"', "sh"))
    assert sorted(router.addresses) == ["127.0.0.1:37812", "[::1]:37812"]


@pytest.mark.parametrize("words, expected", [((), "127.0.0.1:37812"), ((":37812",), "0.0.0.0:37812")])
def test_host_without_ipv6(new_router, words, expected):
    """Where the host has no IPv6 the router goes without."""
    setup = ("ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"
             " && echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    router = new_router(listen=words, wrapper=(*unshared("net"), "sh", "-c", setup + ' && exec "$@"', "sh"))
    assert expected in router.addresses


def test_form_of_the_first_kaiso(new_router):
    """`kaiso ADDR:PORT` starts a router as it always did, on the directory services beneath the working directory."""
    router = new_router(start=False)
    router.command = ["127.0.0.1:0"]
    router.cwd = router.root
    router.start()
    router.echo("foo")
    assert router.list() == b"foo\r\n\r\n"
    router.open("foo").exchange(b"hello")


def test_form_of_the_first_kaiso_with_an_environment(new_router):
    """KAISO_SERVICES counts there too."""
    router = new_router(start=False)
    router.command = ["127.0.0.1:0"]
    router.env = {"KAISO_SERVICES": router.services}
    router.start()
    router.echo("foo")
    router.open("foo").exchange(b"hello")


def test_port_can_be_taken_again_at_once(new_router):
    """Connections of an ended router, still in TIME_WAIT, do not keep the next from its port."""
    router = new_router()
    router.echo("foo")
    clients = [router.open("foo").exchange(b"hello") for _ in range(5)]
    router.signal(15)
    router.signal(15)
    wait_until(lambda: router.process.poll() is not None or router.signal(15), "the end", interval=0.05)
    for client in clients:
        client.close()
    assert router.wait_exit() == 0
    again = new_router(listen=(router.address,))
    assert again.address == router.address


# ---- UNIX listeners

@pytest.mark.parametrize("name", ["listener", "two words", "l" * 150])
def test_unix_listener(new_router, name):
    """unix:PATH, of any length; the file is gone when the router is."""
    router = new_router(start=False)
    path = f"{router.root}/{name}"
    router.listen = [f"unix:{path}"]
    router.start()
    assert router.addresses == [f"unix:{path}"]
    router.echo("foo")
    client = router.open("foo").exchange(b"hello")
    client.end().expect_end()
    router.wait_log(msg="session", client="unix", reason="done")
    client.close()
    router.close_things()
    router.stop()
    assert not os.path.lexists(path)


def test_stale_socket_file_is_replaced(new_router):
    """A socket file that nobody answers at stopped the restart of the first kaiso."""
    router = new_router(start=False)
    bind_unix(router.root / "listener").close()
    router.listen = [f"unix:{router.root}/listener"]
    router.start()
    assert router.list() == b"\r\n"


def test_living_socket_is_left_alone(tmp_path):
    """Somebody answers at it: exit code 1, and it goes on to answer."""
    path = f"/tmp/kaiso-living-{os.getpid()}"
    with bind_unix(path) as living:
        try:
            expect_failure(run_kaiso("serve", "--services", str(tmp_path), f"unix:{path}"), path)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
            living.accept()[0].close()
        finally:
            os.unlink(path)


def test_file_that_is_no_socket_is_left_alone(tmp_path):
    """Whatever it is, it is not ours."""
    path = tmp_path / "file"
    path.write_text("precious")
    expect_failure(run_kaiso("serve", "--services", str(tmp_path), f"unix:{path}"), str(path))
    assert path.read_text() == "precious"


# ---- who starts it

INHERIT = """
import fcntl, os, sys
sockets = [int(number) for number in sys.argv[1].split(",")]
copies = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 32) for number in sockets]
for index, copy in enumerate(copies):
    os.dup2(copy, 3 + index)
os.environ["LISTEN_FDS"] = str(len(sockets))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def _inherit(*sockets):
    for sock in sockets:
        sock.set_inheritable(True)
    return (sys.executable, "-c", INHERIT, ",".join(str(sock.fileno()) for sock in sockets))


def test_sockets_of_a_service_manager(new_router):
    """LISTEN_FDS and LISTEN_PID: the sockets passed are the listeners, and no default addresses come to them."""
    router = new_router(start=False, listen=())
    with bind_tcp() as tcp, bind_unix(router.root / "listener") as unix:
        router.wrapper = _inherit(tcp, unix)
        router.pass_fds = (tcp.fileno(), unix.fileno())
        expected = f"127.0.0.1:{tcp.getsockname()[1]}"
        router.start()
    router.echo("foo")
    assert router.addresses[0] == expected and len(router.addresses) == 2
    router.open("foo").exchange(b"hello")
    client = router.open("foo", address=f"unix:{router.root}/listener").exchange(b"hello")
    client.close()
    router.close_things()
    router.stop()
    assert os.path.lexists(router.root / "listener"), "the socket file belongs to the service manager"


def test_sockets_of_a_service_manager_outlive_the_router(new_router):
    """They are shared with it: clients that come while the router is down wait for the next one."""
    router = new_router(start=False, listen=())
    with bind_tcp() as tcp:
        router.wrapper = _inherit(tcp)
        router.pass_fds = (tcp.fileno(),)
        router.start()
        router.stop()
        assert router.process.returncode == 0
        address = tcp.getsockname()
        with socket.create_connection(address, DEADLINE) as client:
            client.sendall(b"\r\n")
            again = new_router(start=False, listen=())
            again.wrapper = router.wrapper
            again.pass_fds = router.pass_fds
            again.start()
            assert client.recv(2) == b"\r\n"


def test_sockets_for_somebody_else(new_router):
    """LISTEN_PID of another process: not for us."""
    router = new_router(env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    router.echo("foo")
    router.open("foo").exchange(b"hello")


def test_descriptor_that_is_no_listener(tmp_path):
    """What is passed must be a listening stream socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        words = [*_inherit(datagram), KAISO, "serve", "--services", str(tmp_path)]
        result = subprocess.run(words, capture_output=True, timeout=DEADLINE, check=False,
                                pass_fds=(datagram.fileno(),), stdin=subprocess.DEVNULL)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_service_manager_is_told(new_router, kind):
    """READY=1 to NOTIFY_SOCKET once clients can come, STOPPING=1 when it ends."""
    router = new_router(start=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"{router.root}/notify" if kind == "path" else f"@kaiso-{router.root.name}"
        manager.bind(name if kind == "path" else "\0" + name[1:])
        manager.settimeout(DEADLINE)
        router.env = {"NOTIFY_SOCKET": name}
        router.start()
        assert b"READY=1" in manager.recv(4096).split(b"\n")
        router.list()
        router.close_things()
        router.stop()
        assert b"STOPPING=1" in manager.recv(4096).split(b"\n")


def test_service_manager_that_is_gone(new_router):
    """A NOTIFY_SOCKET that leads nowhere stops nobody."""
    router = new_router(env={"NOTIFY_SOCKET": "/nonexistent/notify"})
    assert router.list() == b"\r\n"


def test_descriptors_are_not_inherited(new_router):
    """What a careless parent leaves open is no client's business; the router works all the same."""
    with bind_tcp() as stray:
        stray.set_inheritable(True)
        router = new_router(pass_fds=(stray.fileno(),))
    router.echo("foo")
    router.open("foo").exchange(b"hello")
