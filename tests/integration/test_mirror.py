"""kaiso mirror: a directory that is fed by an etcd, and stays whole whatever happens to etcd and to the way there."""

import itertools
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from harness.etcd import Etcd, Mirror, Refused, Wire, contents, encoded, prefix_end
from harness.process import count_fds
from harness.router import KAISO, clean_environment, run_kaiso
from harness.services import bind_unix
from harness.units import Manager, Unit, permitted_calls
from harness.wait import DEADLINE, IS_SANITIZED, Task, wait_until

_numbers = itertools.count()


@pytest.fixture(scope="module")
def etcd():
    """One for all; each test has a prefix of its own."""
    one = Etcd()
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture
def new_etcd():
    """Those that are ended, or set up in another way, in a test."""
    made = []

    def make(*options, **how):
        made.append(Etcd(*options, **how))
        return made[-1].start()

    yield make
    for one in made:
        one.close()


@pytest.fixture
def wire(etcd):
    wire = Wire(etcd.port)
    yield wire
    wire.close()


@pytest.fixture
def prefix():
    return f"/kaiso-{next(_numbers)}/"


@pytest.fixture
def new_mirror(new_router, prefix, tmp_path):
    """new_mirror(endpoints, *options, directory=, prefix=)"""

    def make(endpoints, *options, directory=None, start=True, **how):
        return new_router(endpoints.url if hasattr(endpoints, "url") else endpoints, how.pop("prefix", prefix),
                          str(directory or tmp_path / "mirror"), *options, kind=Mirror, start=start, **how)

    return make


# ---- what it is for

def test_puts_changes_and_deletes(etcd, prefix, new_mirror):
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    etcd.put(prefix + "git/forge", "127.0.0.1:81\n")
    etcd.put(f"{prefix[:-1]}x", "of a neighbour")
    mirror = new_mirror(etcd)
    assert mirror.contents() == {"web": b"127.0.0.1:80\n", "git/forge": b"127.0.0.1:81\n"}
    etcd.put(prefix + "new/deep/er", "127.0.0.1:82\n")
    mirror.wait_content("new/deep/er", "127.0.0.1:82\n")
    etcd.put(prefix + "web", "127.0.0.1:83\n")
    mirror.wait_content("web", "127.0.0.1:83\n")
    etcd.delete(prefix + "new/deep/er")
    wait_until(lambda: not os.path.exists(mirror.path("new")), "the directories to go with their last file")
    etcd.delete_all(prefix)
    mirror.wait_contents({})
    mirror.wait_log(msg="removed", service="web")
    mirror.wait_log(msg="written", service="new/deep/er")


def test_its_services_are_served(etcd, prefix, new_mirror, router):
    """By a router that knows nothing of it, at once."""
    service = router.service_tcp(None, lambda stream: stream.send(b"hello"))
    mirror = new_mirror(etcd, directory=router.path("cluster").decode())
    assert router.list() == b"\r\n"
    etcd.put(prefix + "greeter", f"{service.address}\n")
    mirror.wait_log(msg="written")
    assert router.list() == b"cluster/greeter\r\n\r\n"
    assert router.open("cluster/greeter").receive(5) == b"hello"


def test_lease_that_ends(etcd, prefix, new_mirror):
    """The file of a service that does not say any more that it is there is removed."""
    mirror = new_mirror(etcd)
    lease = etcd.grant(1)
    etcd.put(prefix + "leased", "127.0.0.1:80\n", lease=lease)
    mirror.wait_content("leased", "127.0.0.1:80\n")
    mirror.wait_contents({})


def test_file_that_becomes_a_directory(etcd, prefix, new_mirror):
    """A name cannot be both: what is below wins, in whatever order they come, and the file comes back."""
    mirror = new_mirror(etcd)
    etcd.put(prefix + "a", "one:1")
    mirror.wait_contents({"a": "one:1"})
    etcd.put(prefix + "a/b", "two:2")
    mirror.wait_contents({"a/b": "two:2"})
    mirror.wait_log(level="warning", key=prefix + "a/b", reason="a key above it becomes a directory")
    etcd.put(prefix + "a", "three:3")
    mirror.wait_log(level="warning", key=prefix + "a", reason="keys are below it: it is a directory")
    assert mirror.contents() == {"a/b": b"two:2"}
    etcd.delete(prefix + "a/b")
    mirror.wait_contents({"a": "three:3"})
    etcd.put_many([(prefix + "b/c/d", "5:5"), (prefix + "b", "6:6"), (prefix + "b/c", "7:7")])
    mirror.wait_contents({"a": "three:3", "b/c/d": "5:5"})
    new_mirror(etcd, directory=str(mirror.root / "other")).wait_contents({"a": "three:3", "b/c/d": "5:5"})


def test_more_than_a_page(etcd, prefix, new_mirror):
    names = [f"n{number % 7}/s{number}" for number in range(2500)]
    etcd.put_many((prefix + name, f"host:{number + 1}") for number, name in enumerate(names))
    mirror = new_mirror(etcd)
    assert mirror.contents() == {name: f"host:{number + 1}".encode() for number, name in enumerate(names)}
    etcd.delete_all(prefix)
    mirror.wait_contents({})


@pytest.mark.parametrize("way", ["", "k"])
def test_prefix_without_a_slash(new_etcd, new_mirror, way):
    """None at all is all keys there are; one that ends within a name is taken at its word."""
    etcd = new_etcd()
    etcd.put("k", "1:1")
    etcd.put("kaiso", "2:2")
    etcd.put("k/a", "3:3")
    mirror = new_mirror(etcd, prefix=way)
    if way == "":
        assert mirror.contents() == {"k/a": b"3:3", "kaiso": b"2:2"}
    else:
        assert mirror.contents() == {"aiso": b"2:2"}
        mirror.wait_log(key="k", reason="empty")
        mirror.wait_log(key="k/a", reason="behind the prefix it begins with a slash: should the prefix end with it?")


# ---- what comes from etcd is hostile

HOSTILE = ["../outside", "..", ".", "a/../../outside", "/etc/passwd", "a//b", "a/", ".hidden", "a/.hidden/b", ".kaiso-mirror",
           ".kaiso-mirror-new", ".kaiso/x", "line\nend", "nul\0l", "tab\t", "del\x7f", "x" * 256, "d/" * 64 + "x", "y/" * 2048 + "y"]


def test_hostile_keys(etcd, prefix, new_mirror, tmp_path):
    """None of them is written, anywhere, neither when they are read nor when they are watched."""
    (tmp_path / "outside").write_text("untouched")
    for name in HOSTILE:
        etcd.put(prefix + name, "evil:1")
    etcd.put(prefix + "long", "x" * 65537)
    etcd.put(prefix + "longest", "# " + "x" * 65534)
    expected = {"longest": "# " + "x" * 65534}
    mirror = new_mirror(etcd)
    mirror.wait_contents(expected)
    for name in [*HOSTILE, "long"]:
        etcd.put(prefix + name, "x" * 65537)
    etcd.put(prefix + "longest", "x" * 65537)
    mirror.wait_contents({})
    for name in HOSTILE:
        etcd.delete(prefix + name)
    etcd.put(prefix + "good", "host:1")
    mirror.wait_contents({"good": "host:1"})
    assert sorted(os.listdir(tmp_path)) == ["mirror", "outside"]
    assert (tmp_path / "outside").read_text() == "untouched"
    assert sorted(os.listdir(mirror.directory)) == [b".kaiso-mirror", b"good"]
    mirror.wait_log(level="warning", msg="not mirrored", key=prefix + "../outside")


def test_directory_options_are_mirrored(etcd, prefix, new_mirror):
    """The one hidden name that is for routers; its old content is the mirror's too."""
    etcd.put(prefix + "a/.kaiso", "proxy v2\n")
    etcd.put(prefix + ".kaiso", "proxy v7\n")
    mirror = new_mirror(etcd)
    assert mirror.contents() == {"a/.kaiso": b"proxy v2\n", ".kaiso": b"proxy v7\n"}
    line = mirror.wait_log(msg="invalid description", key=prefix + ".kaiso")
    assert line["reason"].startswith("line 1: ")
    assert not mirror.log.find(key=prefix + "a/.kaiso")


def test_options_come_first_and_go_last(etcd, prefix, new_mirror, tmp_path):
    """What is below is never there without them, in whatever order they are put and removed in one transaction."""
    trace = tmp_path / "trace"
    etcd.put_many([(prefix + "a/db", "h:1"), (prefix + "a/.kaiso", "deny ::/0\n")])
    mirror = new_mirror(etcd, wrapper=("strace", "-D", "-f", "-qq", "-e", "trace=renameat,unlinkat", "-o", str(trace)))
    etcd.put_many([(prefix + "b/db", "h:1"), (prefix + "b/.kaiso", "deny ::/0\n")])
    mirror.wait_content("b/.kaiso", "deny ::/0\n")
    mirror.wait_content("b/db", "h:1")
    for directory in ("b", "a"):
        etcd.ask("kv/txn", success=[{"request_delete_range": {"key": encoded(f"{prefix}{directory}/{name}")}}
                                    for name in (".kaiso", "db")])
    mirror.wait_contents({})
    mirror.stop()
    done = re.findall(r'(renameat|unlinkat)\(.*"(db|\.kaiso)"', trace.read_text())
    assert done == 2 * [("renameat", ".kaiso"), ("renameat", "db")] + 2 * [("unlinkat", "db"), ("unlinkat", ".kaiso")]


def test_options_that_do_not_fit_keep_all_as_it_is(etcd, prefix, new_mirror):
    """No options would be a door that is open."""
    etcd.put(prefix + "a/.kaiso", "x" * 65537)
    etcd.put(prefix + "a/db", "h:1")
    mirror = new_mirror(etcd, "--max-services", "2")
    assert mirror.contents() == {"a/.kaiso": b"too-long\n", "a/db": b"h:1"}
    etcd.put(prefix + "b/.kaiso", "deny ::/0\n")
    mirror.wait_log(msg="there is no room for the options of a directory: all stays as it is")
    etcd.delete(prefix + "a/db")
    mirror.wait_contents({"a/.kaiso": "too-long\n", "b/.kaiso": "deny ::/0\n"})


def test_descriptions_that_nobody_understands(etcd, prefix, new_mirror, wire):
    """They are written, for the router to refuse, and told of once each time that they change."""
    etcd.put(prefix + "typo", "127.0.0.1:99999\n")
    etcd.put(prefix + "fine", "127.0.0.1:80\n# a comment\nproxy v1\n")
    mirror = new_mirror(wire)
    assert mirror.content("typo") == b"127.0.0.1:99999\n"
    mirror.wait_log(msg="invalid description", key=prefix + "typo", reason="line 1: port 99999 is not between 1 and 65535")
    etcd.put(prefix + "fine", "127.0.0.1:80\nproxy v9\n")
    mirror.wait_log(msg="invalid description", key=prefix + "fine")
    wire.cut()
    etcd.put(prefix + "passing", "127.0.0.1:81\n")
    etcd.delete(prefix + "passing")
    etcd.compact(etcd.put(prefix + "later", "127.0.0.1:81\n"))
    wire.mend()
    mirror.wait_content("later", "127.0.0.1:81\n")
    mirror.wait_log(msg="read anew")
    assert len(mirror.log.find(msg="invalid description")) == 2


def test_more_services_than_allowed(etcd, prefix, new_mirror):
    etcd.put_many((f"{prefix}s{number}", "host:1") for number in range(4))
    mirror = new_mirror(etcd, "--max-services", "3")
    assert sorted(mirror.contents()) == ["s0", "s1", "s2"]
    mirror.wait_log(level="warning", key=f"{prefix}s3", reason="there are too many services, or they take too much memory")
    etcd.put(f"{prefix}s1", "host:2")
    mirror.wait_content("s1", "host:2")
    etcd.delete(f"{prefix}s0")
    etcd.put(f"{prefix}s4", "host:4")
    mirror.wait_contents({"s1": "host:2", "s2": "host:1", "s4": "host:4"})


def test_more_memory_than_allowed(etcd, prefix, new_mirror):
    etcd.put(prefix + "big", "x" * 60000)
    etcd.put(prefix + "small", "host:1")
    mirror = new_mirror(etcd, "--max-memory", "10k")
    assert mirror.contents() == {"small": b"host:1"}


# ---- nobody sees half of it

def test_no_reader_ever_sees_half_a_description(etcd, prefix, new_mirror):
    """Nor a moment without one, through 500 changes of what is long."""
    versions = [f"host:{number}\n" + f"#{number}" * 4000 for number in (1, 2)]
    etcd.put(prefix + "web", versions[0])
    mirror = new_mirror(etcd)
    is_over = threading.Event()
    turns = []

    def read_on():
        """Stops at the first content that is none of the two."""
        while not is_over.is_set():
            with open(mirror.path("web"), encoding="ascii") as file:
                content = file.read()
            if not turns or turns[-1] != content:
                turns.append(content)
            if content not in versions:
                return

    reader = Task(read_on)
    for number in range(500):
        etcd.put(prefix + "web", versions[(number + 1) % 2])
    etcd.put(prefix + "last", "host:3")
    mirror.wait_content("last", "host:3")
    is_over.set()
    reader.join()
    assert set(turns) == set(versions) and len(turns) > 10


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_in_the_middle(etcd, prefix, new_mirror, number):
    """What it leaves is whole, and the next one goes on from there."""
    etcd.put_many((f"{prefix}s{number}", f"host:{number + 1}\n#{'x' * 1000}\n") for number in range(1500))
    mirror = new_mirror(etcd, start=False)
    mirror.awaits_ready = False
    mirror.start()
    wait_until(lambda: os.path.isdir(mirror.directory) and len(os.listdir(mirror.directory)) > 50, "a part of it")
    mirror.signal(number)
    assert mirror.process.wait(DEADLINE) == (0 if number == signal.SIGTERM else -number)
    mirror.is_stopped = True
    assert len(mirror.contents()) < 1500
    for name, content in mirror.contents().items():
        if name != ".kaiso-mirror-new":
            assert content == f"host:{int(name[1:]) + 1}\n#{'x' * 1000}\n".encode()
    etcd.delete(f"{prefix}s0")
    after = new_mirror(etcd)
    assert len(after.contents()) == 1499 and ".kaiso-mirror-new" not in after.contents()


# ---- etcd, and the way there

def test_etcd_restarts(new_etcd, prefix, new_mirror):
    """The directory stays as it is meanwhile; then it goes on."""
    etcd = new_etcd()
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    mirror = new_mirror(etcd)
    etcd.stop(signal.SIGKILL)
    mirror.wait_log(level="warning", msg="etcd is away")
    assert mirror.contents() == {"web": b"127.0.0.1:80\n"}
    etcd.start()
    etcd.put(prefix + "new", "127.0.0.1:81\n")
    mirror.wait_contents({"web": "127.0.0.1:80\n", "new": "127.0.0.1:81\n"})
    mirror.wait_log(msg="etcd is back")
    assert not mirror.log.find(msg="read anew")


def test_etcd_is_another_one(new_etcd, prefix, new_mirror):
    """At the same address: what it has is what counts, however young it is."""
    etcd = new_etcd()
    for number in range(5):
        etcd.put(prefix + "web", f"127.0.0.1:{number + 1}\n")
    mirror = new_mirror(etcd)
    etcd.stop()
    etcd.forget()
    etcd.start()
    etcd.put(prefix + "other", "127.0.0.1:81\n")
    mirror.wait_contents({"other": "127.0.0.1:81\n"})


def test_etcd_is_away_at_the_start(etcd, prefix, new_mirror, wire):
    """What the last mirror wrote stays; what was not equal then is put right later."""
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    first = new_mirror(etcd)
    first.stop()
    etcd.put(prefix + "new", "127.0.0.1:81\n")
    wire.cut()
    mirror = new_mirror(wire, start=False)
    mirror.awaits_ready = False
    mirror.start()
    mirror.wait_log(msg="etcd is away")
    assert mirror.contents() == {"web": b"127.0.0.1:80\n"}
    wire.mend()
    mirror.wait_contents({"web": "127.0.0.1:80\n", "new": "127.0.0.1:81\n"})


def test_changes_while_the_connection_is_cut(etcd, prefix, new_mirror, wire):
    """The watch goes on with the very next revision."""
    mirror = new_mirror(wire)
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    mirror.wait_contents({"web": "127.0.0.1:80\n"})
    wire.cut()
    mirror.wait_log(msg="etcd is away")
    etcd.put(prefix + "web", "127.0.0.1:81\n")
    wire.mend()
    mirror.wait_contents({"web": "127.0.0.1:81\n"})
    assert not mirror.log.find(msg="read anew")


def test_compaction_while_the_connection_is_cut(etcd, prefix, new_mirror, wire):
    """etcd does not know any more what happened: all is read anew, and what is gone is removed."""
    etcd.put_many((prefix + name, "127.0.0.1:80\n") for name in ("stays", "goes", "dir/goes"))
    mirror = new_mirror(wire)
    wire.cut()
    mirror.wait_log(msg="etcd is away")
    etcd.delete(prefix + "goes")
    etcd.delete(prefix + "dir/goes")
    etcd.compact(etcd.put(prefix + "new", "127.0.0.1:81\n"))
    wire.mend()
    mirror.wait_contents({"stays": "127.0.0.1:80\n", "new": "127.0.0.1:81\n"})
    line = mirror.wait_log(msg="read anew")
    assert (line["written"], line["removed"]) == ("1", "2")


def test_mirror_that_was_stopped(etcd, prefix, new_mirror):
    """What came while it slept is dealt with when it wakes, compacted or not."""
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    mirror = new_mirror(etcd)
    mirror.signal(signal.SIGSTOP)
    etcd.put(prefix + "web", "127.0.0.1:81\n")
    etcd.delete(prefix + "web")
    etcd.compact(etcd.put(prefix + "new", "127.0.0.1:82\n"))
    mirror.signal(signal.SIGCONT)
    mirror.wait_contents({"new": "127.0.0.1:82\n"})


def test_member_that_falls_silent(etcd, prefix, new_mirror, wire):
    """It is noticed within --timeout, or two, and the next member is asked."""
    mirror = new_mirror(f"{wire.url},{etcd.url}", "--timeout", "250ms")
    mirror.wait_log(msg="ready", endpoint=wire.url)
    wire.freeze()
    etcd.put(prefix + "new", "127.0.0.1:80\n")
    mirror.wait_content("new", "127.0.0.1:80\n")
    mirror.wait_log(msg="etcd is away", endpoint=wire.url)
    mirror.wait_log(msg="etcd is back", endpoint=etcd.url)


def test_silence_is_no_failure(etcd, prefix, new_mirror, wire):
    """Where nothing changes the watch is asked for again and again, with no word in the log and no descriptor lost."""
    mirror = new_mirror(wire, "--timeout", "50ms")
    fds = count_fds(mirror.pid)
    wait_until(lambda: wire.accepted > 10, "the watch to be asked for again")
    etcd.put(prefix + "new", "127.0.0.1:80\n")
    mirror.wait_content("new", "127.0.0.1:80\n")
    assert not mirror.log.find(msg="etcd is away") and not mirror.log.find(msg="read anew")
    now = count_fds(mirror.pid)
    assert now["socket"] <= fds["socket"] + 2 and now["file"] == fds["file"]


def test_endpoint_that_is_no_etcd(etcd, new_mirror, router):
    """Whatever answers there, it says so and goes on to the next."""
    def lie(stream):
        stream.receive_line()
        stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    liar = router.service_tcp(None, lie)
    refuser = router.service_tcp(None, lambda stream: (stream.receive_line(), stream.send(
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nno\x1b\n")))
    mirror = new_mirror(f"http://{liar.address},{refuser.address},{etcd.url}/", "--timeout", "2s")
    mirror.wait_log(endpoint=f"http://{liar.address}", reason="its answer makes no sense: is this an etcd?")
    mirror.wait_log(endpoint=f"http://{refuser.address}", reason="HTTP status 404: is this an etcd?")


# ---- who we are to etcd

def test_user_and_password(new_etcd, prefix, new_mirror, tmp_path):
    """A token is had with them, and anew when it does not count any more."""
    etcd = new_etcd()
    for name, role in (("root", "root"), ("mirror", "reader")):
        etcd.ask("auth/user/add", name=name, password=f"secret of {name}")
        etcd.ask("auth/role/add", name=role)
        etcd.ask("auth/user/grant", user=name, role=role)
    etcd.ask("auth/role/grant", name="reader", perm={"permType": "READ", "key": encoded(prefix),
                                                     "range_end": encoded(prefix_end(prefix))})
    etcd.ask("auth/enable")
    etcd.token = etcd.ask("auth/authenticate", name="root", password="secret of root")["token"]
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    (tmp_path / "password").write_text("secret of mirror\nanother line\n")
    (tmp_path / "wrong").write_text("wrong\n")
    result = run_kaiso("mirror", "--once", "--user", "mirror", "--password-file", str(tmp_path / "wrong"), etcd.url, prefix,
                       str(tmp_path / "m"))
    assert result.returncode == 1 and b"authentication failed" in result.stderr
    result = run_kaiso("mirror", "--once", etcd.url, prefix, str(tmp_path / "m"))
    assert result.returncode == 1 and b"user name is empty" in result.stderr
    options = ("--user", "mirror", "--password-file", str(tmp_path / "password"))
    result = run_kaiso("mirror", "--once", *options, etcd.url, "/other/", str(tmp_path / "other"))
    assert result.returncode == 1 and b"permission denied" in result.stderr
    mirror = new_mirror(etcd, *options)
    mirror.wait_contents({"web": "127.0.0.1:80\n"})
    etcd.ask("auth/user/changepw", name="mirror", password="secret of mirror")  # takes all tokens of the user back
    etcd.stop()
    etcd.token = None
    etcd.start(awaits_ready=False)
    etcd.token = wait_until(lambda: token_of(etcd, "root"), "etcd to be back", interval=0.02)
    etcd.put(prefix + "new", "127.0.0.1:81\n")
    mirror.wait_contents({"web": "127.0.0.1:80\n", "new": "127.0.0.1:81\n"})
    assert "secret" not in mirror.log.text()


def token_of(etcd, name):
    try:
        return etcd.ask("auth/authenticate", name=name, password=f"secret of {name}")["token"]
    except (OSError, Refused):
        return None


def test_encryption(new_etcd, prefix, new_mirror, tmp_path):
    """Both sides show a certificate; one that nobody vouches for is refused."""
    for name in ("ca", "other"):
        openssl(tmp_path, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    (tmp_path / "extensions").write_text("subjectAltName = IP:127.0.0.1\n")
    openssl(tmp_path, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=both", "-keyout", "both.key",
            "-out", "both.request")
    openssl(tmp_path, "x509", "-req", "-in", "both.request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "extensions", "-out", "both.pem")
    ca, cert, key, other = (str(tmp_path / name) for name in ("ca.pem", "both.pem", "both.key", "other.pem"))
    etcd = new_etcd("--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth",
                    tls={"ca": ca, "cert": cert, "key": key})
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    for options, message in ((("--cacert", other, "--cert", cert, "--key", key), b"certificate"), (("--cacert", ca), b"certificate")):
        result = run_kaiso("mirror", "--once", *options, etcd.url, prefix, str(tmp_path / "m"))
        assert result.returncode == 1 and message in result.stderr, result.stderr
    mirror = new_mirror(etcd, "--cacert", ca, "--cert", cert, "--key", key)
    etcd.put(prefix + "new", "127.0.0.1:81\n")
    mirror.wait_contents({"web": "127.0.0.1:80\n", "new": "127.0.0.1:81\n"})


def openssl(directory, *words):
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True, timeout=DEADLINE)


# ---- whose directory it is

def refused(etcd, prefix, directory, message):
    result = run_kaiso("mirror", "--once", etcd.url, prefix, str(directory))
    assert result.returncode == 1 and message in result.stderr, result.stderr


def test_directory_of_others(etcd, prefix, new_mirror, tmp_path):
    """Nothing that a mirror has not made itself is ever at risk."""
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / "made").write_text("127.0.0.1:80\n")
    refused(etcd, prefix, tmp_path / "hand", b"it is not empty, and no mirror")
    assert contents(tmp_path / "hand") == {"made": b"127.0.0.1:80\n"}
    refused(etcd, prefix, tmp_path / "hand" / "made", b"Not a directory")
    refused(etcd, prefix, tmp_path / "none" / "none", b"No such file or directory")
    mirror = new_mirror(etcd)
    refused(etcd, prefix, os.fsdecode(mirror.directory), b"another kaiso mirror has it")
    mirror.stop()
    refused(etcd, "/other/", os.fsdecode(mirror.directory), b"it is the mirror of another prefix")


def test_what_others_put_there(etcd, prefix, new_mirror, tmp_path):
    """Sockets and hidden files are left alone; a name that is taken is told of, and taken back when it is free."""
    etcd.put_many((prefix + name, "127.0.0.1:80\n") for name in ("web", "taken"))
    directory = tmp_path / "mirror"
    directory.mkdir()
    mirror = new_mirror(etcd, "--check", "100ms", "--timeout", "100ms")
    os.unlink(mirror.path("taken"))
    listener = bind_unix(mirror.path("taken"))
    local = bind_unix(mirror.path("local/socket"))
    (directory / ".hidden").write_text("mine")
    try:
        mirror.wait_log(level="warning", path="taken", reason="its name is taken by something that is no mirror's")
        (directory / "foreign").write_text("127.0.0.1:81\n")
        os.unlink(directory / "web")
        mirror.wait_log(level="warning", msg="put right", written="1", removed="1")
        mirror.wait_contents({"web": "127.0.0.1:80\n", ".hidden": "mine"})
        os.unlink(directory / "taken")
        mirror.wait_log(msg="all is mirrored again")
        mirror.wait_contents({"web": "127.0.0.1:80\n", "taken": "127.0.0.1:80\n", ".hidden": "mine"})
        assert os.path.exists(mirror.path("local/socket"))
        assert len(mirror.log.find(path="taken")) == 1
    finally:
        listener.close()
        local.close()


def test_check_while_changes_come(etcd, prefix, new_mirror, tmp_path):
    """Where etcd is never silent there is time for it, too."""
    mirror = new_mirror(etcd, "--check", "20ms")
    (tmp_path / "mirror" / "foreign").write_text("127.0.0.1:81\n")
    wait_until(lambda: etcd.put(prefix + "web", "127.0.0.1:80\n") and mirror.content("foreign") is None, "it to be put right")


def test_directory_that_is_removed(etcd, prefix, new_mirror, tmp_path):
    """Nobody would notice that it works for nothing: it ends, and the next one begins anew."""
    mirror = new_mirror(etcd, "--check", "50ms", "--timeout", "50ms")
    subprocess.run(["rm", "-rf", tmp_path / "mirror"], check=True)
    assert mirror.wait_exit() == 1
    mirror.is_stopped = True
    assert mirror.log.find(level="error", msg="the directory was removed")


# ---- as a program

def test_once(etcd, prefix, tmp_path):
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    result = run_kaiso("mirror", "--once", etcd.url, prefix, str(tmp_path / "m"))
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "m") == {"web": b"127.0.0.1:80\n"}
    result = run_kaiso("mirror", "--once", "127.0.0.1:1,127.0.0.1:2", prefix, str(tmp_path / "m"))
    assert result.returncode == 1 and result.stderr.count(b"etcd is away") == 2
    assert contents(tmp_path / "m") == {"web": b"127.0.0.1:80\n"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["watching", "away", "asking"])
def test_signals(etcd, new_mirror, wire, number, state):
    """It ends at once, whatever it waits for."""
    if state == "away":
        wire.cut()
    elif state == "asking":
        wire.freeze()
    mirror = new_mirror(wire, start=False)
    mirror.awaits_ready = state == "watching"
    mirror.start()
    if state == "away":
        mirror.wait_log(msg="etcd is away")
    elif state == "asking":
        wait_until(lambda: count_fds(mirror.pid)["socket"] > 0, "it to ask")
    mirror.signal(number)
    start = time.monotonic()
    assert mirror.wait_exit() == 0
    assert time.monotonic() - start < DEADLINE / 4
    mirror.is_stopped = True


def test_service_manager_is_told(etcd, prefix, new_mirror, tmp_path):
    """Once the directory is equal, and not before."""
    manager = Manager(tmp_path / "notify")
    etcd.put(prefix + "web", "127.0.0.1:80\n")
    mirror = new_mirror(etcd, env={"NOTIFY_SOCKET": manager.path})
    try:
        manager.expect("READY")
        mirror.stop()
        manager.expect("STOPPING")
    finally:
        manager.close()


@pytest.mark.skipif(IS_SANITIZED, reason="sanitizers make calls of their own")
def test_unit_permits_what_it_does(etcd, prefix, new_mirror, tmp_path):
    """Its filter of system calls, from the start over changes and an outage to the end; and its words are right."""
    unit = Unit("kaiso-mirror@.service")
    words = unit.words("ExecStart", KAISO_OPTIONS="", ENDPOINTS=f"localhost:1,{etcd.url}", PREFIX=prefix)
    assert words.pop() == "/etc/kaiso/services/%i"
    trace = tmp_path / "trace"
    mirror = new_mirror(etcd, start=False, wrapper=("strace", "-D", "-f", "-qq", "-o", str(trace)))
    mirror.command = [*words[1:], str(tmp_path / "mirror")]
    mirror.start()
    etcd.put(prefix + "a/b", "127.0.0.1:80\n")
    mirror.wait_content("a/b", "127.0.0.1:80\n")
    etcd.delete(prefix + "a/b")
    mirror.wait_contents({})
    mirror.stop()
    wait_until(lambda: "exit_group(0)" in trace.read_text(), "the trace to end")
    made = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    assert {"execve", "connect", "renameat", "fdatasync"} <= made
    assert made - permitted_calls(unit) - {"access"} == set()


@pytest.mark.parametrize("words, message", [
    ([], "expected ENDPOINT, PREFIX and DIRECTORY"),
    (["http://a:1", "/p/"], "expected ENDPOINT, PREFIX and DIRECTORY"),
    (["http://a:1", "/p/", ""], "expected ENDPOINT, PREFIX and DIRECTORY"),
    (["ftp://a:1", "/p/", "d"], "ENDPOINT 'ftp://a:1': expected http://HOST:PORT"),
    (["a:1,,b:1", "/p/", "d"], "ENDPOINT '': expected http://HOST:PORT"),
    (["http://a:1/\r\nX: y", "/p/", "d"], "an ENDPOINT is of printable ASCII"),
    (["http://root:secret@a:1", "/p/", "d"], "no user or password in an ENDPOINT"),
    (["--timeout", "0", "http://a:1", "/p/", "d"], "--timeout '0': expected a number with a unit"),
    (["--cacert", "f", "https://a:1,b:1", "/p/", "d"], "are for https:// endpoints, and 'http://b:1' is none"),
    (["--user", "u", "a:1", "/p/", "d"], "--user and --password-file go together"),
    ([",".join(["a:1"] * 33), "/p/", "d"], "there may be 32 ENDPOINTs at most"),
])
def test_wrong_command_lines(words, message, tmp_path):
    result = run_kaiso("mirror", *words, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr.decode(), result.stderr
    assert b"Try `kaiso mirror --help`." in result.stderr and not os.listdir(tmp_path)


def test_without_libcurl(tmp_path):
    """It says which package has it; the other commands do not need it."""
    for name in ("libcurl.so.4", "libcurl-gnutls.so.4"):
        (tmp_path / name).write_bytes(b"no library")
    result = run_kaiso("mirror", "a:1", "/p/", str(tmp_path / "d"), LD_LIBRARY_PATH=tmp_path)
    assert result.returncode == 1 and b"on Debian the package libcurl4" in result.stderr
    assert not (tmp_path / "d").exists()
    loaded = subprocess.run(["ldd", KAISO], capture_output=True, text=True, check=True, env=clean_environment()).stdout
    assert "libcurl" not in loaded
