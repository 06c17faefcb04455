"""kaiso ls: the services of a router for people, scripts and programs."""

import fcntl
import json
import os
import pty
import socket
import struct
import subprocess
import termios
import time

import pytest

from harness.first_kaiso import FirstKaiso
from harness.router import KAISO, clean_environment, run_kaiso
from harness.services import Service, bind_tcp, closed_port

TCP = "127.0.0.1:9\n"


def ls(*words, **env):
    """What it prints, in bytes; it must succeed and say nothing else."""
    result = run_kaiso("ls", *words, **env)
    assert (result.returncode, result.stderr) == (0, b""), result
    return result.stdout


def expect_failure(result, status, *parts):
    """One line on standard error that holds these parts, and nothing on standard output."""
    assert result.returncode == status, (result.returncode, result.stderr)
    assert result.stdout == b""
    lines = result.stderr.splitlines()
    assert len(lines) == (2 if status == 2 else 1), result.stderr
    assert lines[0].startswith(b"kaiso ls: ")
    for part in parts:
        assert part.encode() in lines[0], result.stderr


def populate(router):
    router.backend("web")
    for name in ("d/one", "d/two", "d2/three", "z"):
        router.describe(name, TCP)
    router.describe("hand", "web passfd\n")


@pytest.fixture
def first(router):
    return router.keep(FirstKaiso({b"web": lambda stream: None, b"d/one": lambda stream: None,
                                   b"d/two": lambda stream: None, b"dd": lambda stream: None}))


# ---- what is listed

def test_names_in_a_pipe(router):
    """One a line, in the router's order."""
    populate(router)
    assert ls(router.address) == b"d/one\nd/two\nd2/three\nhand\nweb\nz\n"


def test_no_services(router):
    """Nothing at all; an empty array in JSON."""
    assert ls(router.address) == b""
    assert ls("-l", router.address) == b""
    assert json.loads(ls("--json", router.address)) == []


def test_long(router):
    """Path, kind and about, separated by tabs."""
    populate(router)
    assert ls("-l", router.address, "d/") == b"d/one\ttcp\t\nd/two\ttcp\t\n"
    assert b"hand\tpassfd\t\nweb\tunix\t\n" in ls("--long", router.address)


def test_json(router):
    populate(router)
    found = json.loads(ls("--json", router.address))
    assert [entry["path"] for entry in found] == ["d/one", "d/two", "d2/three", "hand", "web", "z"]
    assert found[4] == {"path": "web", "kind": "unix", "about": ""}


@pytest.mark.parametrize("words", [["d/"], ["KAISO", "d/"], ["KAISO", "d"], ["URL/d/"], ["URL/d"], ["URL", "d/"]])
def test_directory(router, words):
    """DIR/ alone, behind KAISO, or in a URL; there the slash may be left out."""
    populate(router)
    words = [word.replace("KAISO", router.address).replace("URL", f"kaiso://{router.address}") for word in words]
    assert ls(*words, KAISO=router.address) == b"d/one\nd/two\n"


@pytest.mark.parametrize("words", [[], ["/"], ["KAISO", "/"], ["KAISO", ""], ["URL/"]])
def test_everything(router, words):
    populate(router)
    words = [word.replace("KAISO", router.address).replace("URL", f"kaiso://{router.address}") for word in words]
    assert len(ls(*words, KAISO=router.address).splitlines()) == 6


def test_directory_of_the_environment(router):
    """$KAISO may be a URL with a directory; a word wins over it."""
    populate(router)
    url = f"kaiso://{router.address}/d/"
    assert ls(KAISO=url) == b"d/one\nd/two\n"
    assert ls("d2/", KAISO=url) == b"d2/three\n"


def test_odd_names(router):
    """Blanks, UTF-8, and bytes that are none: as they are in a pipe, and reversible in JSON."""
    for name in (b"a b", "\u00e9\U0001f41f".encode(), b"\xff\xc3", b'q"\\', b"\xc2\x9b2J"):
        router.describe(name, TCP)
    names = ls(router.address).split(b"\n")[:-1]
    assert sorted(names) == sorted([b"a b", "\u00e9\U0001f41f".encode(), b"\xff\xc3", b'q"\\', b"\xc2\x9b2J"])
    text = ls("--json", router.address)
    assert [os.fsencode(entry["path"]) for entry in json.loads(text)] == names
    assert b"\xc2\x9b" not in text


def test_directory_with_an_odd_name(router):
    router.describe(b"a b\xff:c/x", TCP)
    assert ls(router.address, b"a b\xff:c/") == b"a b\xff:c/x\n"
    assert ls(f"kaiso://{router.address}/a%20b%FF:c/") == b"a b\xff:c/x\n"


@pytest.mark.parametrize("listen", ["[::1]:0", "unix:ROOT/a b"])
def test_other_families(new_router, listen):
    router = new_router(start=False)
    router.listen = [listen.replace("ROOT", str(router.root))]
    router.start()
    populate(router)
    assert ls(router.address, "d/") == b"d/one\nd/two\n"


def test_this_host_by_its_port_and_by_name(router):
    """:PORT tries both loopback addresses; a name is looked up."""
    populate(router)
    assert ls(f":{router.port}", "d/") == ls(f"localhost:{router.port}", "d/") == b"d/one\nd/two\n"


def test_many_services(router):
    """More than fits any one buffer, whole and in order."""
    source = router.root / "source"
    names = [f"{'n' * 100}-{index:05}" for index in range(20_000)]
    source.write_text(TCP)
    for name in names:
        os.link(source, router.services / name)
    assert ls(router.address).decode().splitlines() == names
    assert [line.split("\t")[0] for line in ls("-l", router.address).decode().splitlines()] == names


def test_router_without_words_for_tools(new_router):
    router = new_router("--no-verbs")
    populate(router)
    assert ls("-l", router.address, "d/") == b"d/one\t-\t\nd/two\t-\t\n"
    assert b"web\n" in ls(router.address)


# ---- mounts

def test_what_lies_behind_a_mount(router, new_router):
    """As the router there names it."""
    far = new_router()
    far.describe("photos/web", TCP)
    far.describe("other", TCP)
    router.describe("m", f"{far.address} /\nabout the attic\n")
    router.describe("d/photos", f"{far.address} photos/\n")
    assert ls("-l", router.address) == b"d/photos/\tmount\t\nm/\tmount\tthe attic\n"
    assert ls(router.address, "m/") == b"other\nphotos/web\n"
    assert ls("-l", router.address, "m/photos/") == ls("-l", router.address, "d/photos/") == b"photos/web\ttcp\t\n"
    far.stop()
    expect_failure(run_kaiso("ls", router.address, "m/"), 1, "'m/'", "is a mount")


# ---- the first kaiso

def test_first_kaiso(first):
    """It tells names only: the kind is '-', and null in JSON."""
    assert ls(first.address) == b"d/one\nd/two\ndd\nweb\n"
    assert first.lines == [b""]
    assert ls("-l", first.address) == b"d/one\t-\t\nd/two\t-\t\ndd\t-\t\nweb\t-\t\n"
    assert first.lines == [b"", b".kaiso/list", b""]
    assert json.loads(ls("--json", first.address))[3] == {"path": "web", "kind": None, "about": ""}


def test_directory_of_the_first_kaiso(first):
    """It knows no directories, so they are picked out of the whole list."""
    assert ls(first.address, "d/") == b"d/one\nd/two\n"
    assert ls("-l", first.address, "d/") == b"d/one\t-\t\nd/two\t-\t\n"
    expect_failure(run_kaiso("ls", first.address, "x/"), 3, "no directory 'x/'", first.address)


# ---- on a terminal

def on_terminal(*words, width=80, env=None):
    """What a terminal of that width is sent. Standard error goes there too."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    try:
        with subprocess.Popen([KAISO, "ls", *words], stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal,
                              env=clean_environment(**(env or {}))) as process:
            os.close(terminal)
            shown = b""
            try:
                while chunk := os.read(controller, 65536):
                    shown += chunk
            except OSError:
                pass  # EIO: nobody has the terminal open any more
            process.wait(20)
    finally:
        os.close(controller)
    return shown.decode().replace("\r\n", "\n")


@pytest.fixture
def six(router):
    for name in ("a", "bb", "ccc", "d", "ee", "a-long-one"):
        router.describe(name, TCP)
    return router


def test_columns(six):
    """From top to bottom, as ls(1) does; each as wide as its longest name."""
    assert on_terminal(six.address, width=80) == "a  a-long-one  bb  ccc  d  ee\n"
    assert on_terminal(six.address, width=29) == "a  a-long-one  bb  ccc  d  ee\n"
    assert on_terminal(six.address, width=28) == "a           bb   d\na-long-one  ccc  ee\n"
    assert on_terminal(six.address, width=15) == "a           ccc\na-long-one  d\nbb          ee\n"
    assert on_terminal(six.address, width=5) == "a\na-long-one\nbb\nccc\nd\nee\n"
    assert on_terminal(six.address, width=0) == "a  a-long-one  bb  ccc  d  ee\n"


def test_columns_variable(six):
    assert on_terminal(six.address, width=80, env={"COLUMNS": "5"}) == "a\na-long-one\nbb\nccc\nd\nee\n"


def test_long_on_a_terminal(router):
    """Columns of their own, also where a letter has several bytes."""
    router.describe("l\u00e4nger-als", TCP)
    router.backend("short")
    router.describe("hand", "short passfd\n")
    assert on_terminal("-l", router.address) == "hand        passfd\nl\u00e4nger-als  tcp\nshort       unix\n"


def test_nothing_on_a_terminal(router):
    assert on_terminal(router.address) == on_terminal("-l", router.address) == ""


def test_about_on_a_terminal(router):
    """In the last column, which is not padded."""
    text = b"a\ttcp\tthe first\r\nbcd\tpassfd\t\r\nc\ttcp\tx\x1b[2J\ty\r\n\r\n"
    service = router.keep(Service(bind_tcp(), lambda stream: stream.receive_line() and stream.send(text)))
    assert on_terminal("-l", service.address) == \
        "a    tcp     the first\nbcd  passfd\nc    tcp     x\\x1b[2J\\x09y\n"
    assert ls("-l", service.address) == b"a\ttcp\tthe first\nbcd\tpassfd\t\nc\ttcp\tx\\x1b[2J\\x09y\n"


CONTROLS = [b"\x1b]0;title\x07", b"\r\rx", b"\x7f\x08", "\u009b2J".encode(), "\u2028x".encode(), b"\x9b2J", b"\x00"]


@pytest.mark.parametrize("words", [[], ["-l"], ["--json"]])
def test_control_bytes_reach_no_terminal(router, words):
    """Whatever a router sends as a name, a kind, or a description."""
    text = b"".join(name + b"\t" + name + b"\t" + name + b"\r\n" for name in CONTROLS) + b"\r\n"
    service = router.keep(Service(bind_tcp(), lambda stream: stream.receive_line() and stream.send(text)))
    shown = on_terminal(*words, service.address, width=200)
    assert shown.count("\n") >= 1
    assert not [c for c in shown if c != "\n" and (ord(c) < 0x20 or 0x7f <= ord(c) <= 0x9f or c == "\u2028")], shown


# ---- what goes wrong

def test_no_router():
    """The line says how to start one."""
    port, holder = closed_port()
    with holder:
        expect_failure(run_kaiso("ls", f"127.0.0.1:{port}"), 1, f"no router at 127.0.0.1:{port}",
                       f"`kaiso serve 127.0.0.1:{port}`")
        expect_failure(run_kaiso("ls", KAISO=f"[::1]:{port}"), 1, f"no router at [::1]:{port}")
    expect_failure(run_kaiso("ls", "unix:/nonexistent/socket"), 1, "no router at unix:/nonexistent/socket")


def test_no_such_host():
    expect_failure(run_kaiso("ls", "no-such-host.invalid"), 1, "no-such-host.invalid")


def test_no_such_directory(router):
    populate(router)
    for words in ([], ["-l"]):
        expect_failure(run_kaiso("ls", *words, router.address, "x/"), 3, "no directory 'x/'", router.address)
    router.mkdir("empty")
    assert ls(router.address, "empty/") == ls("-l", router.address, "empty/") == b""


@pytest.mark.parametrize("words, part", [
    (["a:1", "b/", "c"], "more words"),
    (["::1"], "in brackets"),
    (["37812"], "with a colon"),
    (["host:99999"], "from 1 to 65535"),
    (["kaiso://h/d", "d/"], "named twice"),
    (["h", ".hidden/"], "begins with a dot"),
    (["a//"], "empty component"),
    (["h", "a\x1bb/"], "'a\\x1bb/' holds a control byte"),
    (["kaiso://h/a%0Ab"], "control byte"),
    (["h", "x" * 4096 + "/"], "too long"),
    (["--timeout", "10"], "expected a number with a unit"),
    (["--nonsense"], "--nonsense"),
])
def test_usage(words, part):
    """Exit code 2, the mistake, and where to read more."""
    expect_failure(run_kaiso("ls", *words), 2, part)


def test_broken_variable():
    expect_failure(run_kaiso("ls", KAISO="a:b:c"), 2, "$KAISO is 'a:b:c'")


def test_help():
    result = run_kaiso("ls", "--help")
    assert result.returncode == 0 and result.stderr == b""
    for word in (b"KAISO", b"DIR/", b"--json", b"--timeout", b"kaiso://", b"unix:", b"37812", b"Exit status"):
        assert word in result.stdout
    assert b" ls " in run_kaiso("--help").stdout


def _quiet_listener(router, handler):
    return router.keep(Service(bind_tcp(), handler))


def test_timeout(router):
    """A router that never answers, or never ends; one that is never reached."""
    silent = _quiet_listener(router, lambda stream: stream.receive_all())
    drip = _quiet_listener(router, lambda stream: stream.send(b"a\r\nb\r\n") and stream.receive_all())
    backend = router.backend_tcp(backlog=0)
    fillers = backend.fill_backlog()
    for address in (silent.address, drip.address, backend.address):
        begin = time.monotonic()
        expect_failure(run_kaiso("ls", "--timeout", "300ms", address), 1, address, "--timeout")
        assert time.monotonic() - begin > 0.2
    for filler in fillers:
        filler.close()


def test_list_that_ends_half_way(router):
    """Not taken for a whole one."""
    service = _quiet_listener(router, lambda stream: stream.receive_line() and stream.send(b"a\r\nb\r\n"))
    expect_failure(run_kaiso("ls", service.address), 1, "half-way")


def test_router_that_closes(router):
    """Without a word: over its limit, or no kaiso."""
    service = _quiet_listener(router, lambda stream: stream.receive_line())
    expect_failure(run_kaiso("ls", service.address), 1, "closes the connection without a word")
    expect_failure(run_kaiso("ls", "-l", service.address), 1, "closes the connection without a word")


def test_full_standard_output(router):
    populate(router)
    with open("/dev/full", "wb") as full:
        result = subprocess.run([KAISO, "ls", router.address], stdout=full, stderr=subprocess.PIPE, timeout=20,
                                check=False, env=clean_environment())
    assert result.returncode == 1 and b"standard output: No space left on device" in result.stderr


def test_bytes_in_small_pieces(router):
    """A list that arrives byte by byte, and one that ends lines with LF alone."""

    def drip(stream):
        stream.receive_line()
        for byte in b"a b\r\n\xff\r\nlast\n\n":
            stream.send(bytes([byte]))

    service = _quiet_listener(router, drip)
    assert ls(service.address) == b"a b\n\xff\nlast\n"


def test_standard_output_closed(router):
    """Nothing of the connection is mistaken for standard output."""
    populate(router)
    result = subprocess.run([KAISO, "ls", router.address], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=20,
                            check=False, env=clean_environment(), preexec_fn=lambda: os.close(1))
    assert result.returncode == 0 and result.stderr == b""


def test_socket_as_standard_output(router):
    """As plain as a pipe."""
    populate(router)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([KAISO, "ls", router.address], stdin=subprocess.DEVNULL, stdout=theirs, timeout=20, check=True,
                       env=clean_environment())
        theirs.shutdown(socket.SHUT_WR)
        assert ours.recv(4096) == b"d/one\nd/two\nd2/three\nhand\nweb\nz\n"
