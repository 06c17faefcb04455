"""`kaiso inject` with real client programs: the bytes are right, the exit status is the program's."""

import os
import shutil
import struct
import subprocess

import pytest

from harness.inject import MODES, PROGRAMS, compile_c, inject
from harness.router import KAISO, clean_environment
from harness.services import echo, has_ipv6
from harness.wait import DEADLINE

modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory for compiled clients."""
    return tmp_path_factory.mktemp("built")


def http(stream):
    """One request, one answer that names its path."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        chunk = stream.sock.recv(1)
        if not chunk:
            return
        request += chunk
    method, path, _ = request.split(b" ", 2)
    body = b"hello " + path + b"\n"
    stream.send(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
    if method != b"HEAD":
        stream.send(body)
    # A close with unread bytes would be a reset, which may overtake the answer.
    stream.end()
    stream.sock.recv(1)


@pytest.fixture
def web(new_router):
    """A router on IPv4 and IPv6 with an HTTP service `web`."""
    router = new_router(listen=("127.0.0.1:0", "[::1]:0") if has_ipv6() else ("127.0.0.1:0",))
    router.service("web", http, backlog=512)
    return router


def run_client(mode, router, *program, address=None, **how):
    done = inject(mode, address or router.addresses[0], "web", *program, **how)
    assert done.returncode == 0, done
    return done.stdout


@modes
@pytest.mark.parametrize("options", [[], ["--tcp-fastopen"]])
@pytest.mark.parametrize("index", [0, 1])
def test_curl(web, mode, options, index):
    address = web.addresses[index]
    got = run_client(mode, web, "curl", "-sS", *options, f"http://{address}/x", address=address)
    assert got == b"hello /x\n"


@modes
def test_many_transfers_of_one_curl(web, mode):
    got = run_client(mode, web, "curl", "-sS", "--parallel", f"http://{web.address}/[1-100]")
    assert sorted(got.split(b"\n")) == sorted([b""] + [b"hello /%d" % i for i in range(1, 101)])


@modes
def test_wget(web, mode):
    assert run_client(mode, web, "wget", "-qO-", f"http://{web.address}/x") == b"hello /x\n"


@modes
def test_node(web, mode):
    program = """
        const http = require('http'); let left = 50;
        for (let i = 0; i < 50; i++)
            http.get({host: '127.0.0.1', port: %d, path: '/' + i, agent: false}, r => {
                let got = ''; r.on('data', d => got += d);
                r.on('end', () => { if (got != 'hello /' + i + '\\n') process.exit(9);
                                    if (--left == 0) console.log('all right'); }); });
    """ % web.port
    assert run_client(mode, web, "node", "-e", program) == b"all right\n"


@modes
def test_python_urllib(web, mode):
    program = f"import urllib.request as u; print(u.urlopen('http://{web.address}/x').read().decode(), end='')"
    assert run_client(mode, web, "/usr/bin/python3", "-c", program) == b"hello /x\n"


@modes
def test_python_asyncio(web, mode):
    program = f"""
import asyncio
async def get(number):
    reader, writer = await asyncio.open_connection("127.0.0.1", {web.port})
    writer.write(b"GET /%d HTTP/1.0\\r\\n\\r\\n" % number)
    assert (await reader.read()).endswith(b"hello /%d\\n" % number)
    writer.close()
async def main():
    await asyncio.gather(*map(get, range(50)))
    print("all right")
asyncio.run(main())
"""
    assert run_client(mode, web, "/usr/bin/python3", "-c", program) == b"all right\n"


@modes
def test_bash(web, mode):
    program = f"exec 3<>/dev/tcp/127.0.0.1/{web.port}; printf 'GET /x HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3"
    assert run_client(mode, web, "bash", "-c", program) == b"hello /x\n"


@modes
@pytest.mark.parametrize("program", [["socat", "-", "TCP:127.0.0.1:{port}"], ["ncat", "127.0.0.1", "{port}"]])
def test_netcats(router, mode, program):
    router.echo("web")
    words = [word.format(port=router.port) for word in program]
    assert run_client(mode, router, *words, stdin=b"there and back\n") == b"there and back\n"


@modes
def test_ab(web, mode):
    got = run_client(mode, web, "ab", "-q", "-n", "400", "-c", "20", f"http://{web.address}/x")
    assert b"Complete requests:      400\n" in got and b"Failed requests:        0\n" in got


@modes
def test_redis_cli(router, mode):
    def redis(stream):
        # An array of bulk strings: whatever it says, the answer is PONG.
        while True:
            try:
                count = int(stream.receive_line()[1:])
            except AssertionError:
                return
            for _ in range(count):
                stream.receive(int(stream.receive_line()[1:]) + 2)
            stream.send(b"+PONG\r\n")

    router.service("web", redis)
    got = run_client(mode, router, "redis-cli", "-h", "127.0.0.1", "-p", router.port, "ping")
    assert got == b"PONG\n"


def postgres(stream):
    """A database that answers every query with one row (PostgreSQL's protocol, version 3)."""
    def message(kind, body):
        stream.send(kind + struct.pack(">i", len(body) + 4) + body)

    length, version = struct.unpack(">ii", stream.receive(8))
    if version == 80877103:  # would like to speak TLS
        stream.send(b"N")
        length, version = struct.unpack(">ii", stream.receive(8))
    stream.receive(length - 8)
    message(b"R", struct.pack(">i", 0))
    message(b"S", b"server_version\x0015.0\x00")
    message(b"S", b"client_encoding\x00UTF8\x00")
    message(b"Z", b"I")
    while True:
        kind = stream.sock.recv(1)
        if kind in (b"X", b""):  # the test's end may come before the farewell
            return
        query = stream.receive(struct.unpack(">i", stream.receive(4))[0] - 4)
        message(b"T", struct.pack(">h", 1) + b"a\x00" + struct.pack(">ihihih", 0, 0, 25, -1, -1, 0))
        message(b"D", struct.pack(">hi", 1, len(query) - 1) + query[:-1])
        message(b"C", b"SELECT 1\x00")
        message(b"Z", b"I")


@modes
def test_psql(router, mode):
    router.service("web", postgres)
    got = run_client(mode, router, "psql", "-X", "-At", "-c", "select 'x'",
                     f"host=127.0.0.1 port={router.port} user=u dbname=d", env={"PGSSLMODE": "prefer"})
    assert got == b"select 'x'\n"


@modes
def test_ssh(router, mode, tmp_path):
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    (tmp_path / "sshd").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nUsePAM no\n")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # else sshd does not start as root

    def sshd(stream):
        stream.sock.setblocking(True)
        subprocess.run(["/usr/sbin/sshd", "-i", "-f", tmp_path / "sshd"], stdin=stream.sock, stdout=stream.sock,
                       stderr=subprocess.DEVNULL, check=False, timeout=DEADLINE)

    router.service("web", sshd)
    done = inject(mode, router.address, "web", "ssh", "-F", "/dev/null", "-i", tmp_path / "user", "-p", router.port,
                  "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known",
                  "127.0.0.1", "echo over; cat; exit 7", stdin=b"and back\n")
    assert (done.stdout, done.returncode) == (b"over\nand back\n", 7), done


@pytest.mark.parametrize("program", ["go_client", "busybox", "static"])
def test_static_programs(web, built, program):
    """Only seccomp can wrap them; preload refuses."""
    url = f"http://{web.address}"
    if program == "go_client":
        path = built / "go_client"
        subprocess.run(["go", "build", "-o", path, PROGRAMS / "go_client.go"], check=True, cwd=built,
                       env={**os.environ, "GO111MODULE": "off", "GOCACHE": str(built / "go"), "GOFLAGS": ""})
        words, expected = [path, url, "500"], b"500 right\n"
    elif program == "busybox":
        words, expected = ["busybox", "wget", "-qO-", f"{url}/x"], b"hello /x\n"
    else:
        web.service("echo", echo)
        words, expected = [compile_c(built, "short_connections", "-static"), "127.0.0.1", web.port, "4", "100"], \
            b"100 right\n"
    service = "echo" if program == "static" else "web"
    done = inject("seccomp", web.address, service, *words)
    assert (done.stdout, done.returncode) == (expected, 0), done
    done = inject("preload", web.address, service, *words)
    assert (done.stdout, done.returncode) == (b"", 126), done
    assert b"cannot wrap" in done.stderr and b"--mode seccomp" in done.stderr


@modes
def test_name_and_data_of_thousands_of_short_connections(router, built, mode):
    router.service("echo/of/many names", echo, backlog=512)
    done = inject(mode, router.address, "echo/of/many names", compile_c(built, "short_connections"),
                  "127.0.0.1", router.port, "16", "4000")
    assert (done.stdout, done.returncode) == (b"4000 right\n", 0), done.stdout[-2000:]


@modes
def test_forms_of_kaiso(web, mode):
    def get(*words):
        done = inject(mode, *words, "curl", "-sS", f"http://{web.address}/x")
        assert done.stdout == b"hello /x\n", done

    port = web.port
    get(f"localhost:{port}", "web")
    get(f":{port}", "web")
    web.describe("with space=%", "./web\n")
    get(f"127.0.0.1:{port}", "with space=%")


@modes
def test_url_and_routes(new_router, mode):
    one, other = new_router(), new_router()
    one.service("first service", http)
    other.service("second", http)

    def run(*words):
        done = subprocess.run([KAISO, "inject", "--mode", mode, *words], capture_output=True, check=False,
                              timeout=DEADLINE, env=clean_environment())
        assert done.returncode == 0, done
        return done.stdout

    curl = ["curl", "-sS", f"http://{one.address}/1", f"http://{other.address}/2"]
    both = b"hello /1\nhello /2\n"
    assert run("--route", f"{other.address}=second", f"kaiso://{one.address}/first%20service", *curl) == both
    assert run("--route", f"kaiso://{other.address}/second", one.address, "first service", "--", *curl) == both
    # One inside the other: one plan.
    inner = [KAISO, "inject", "--mode", mode, one.address, "first service", "--", *curl]
    assert run(other.address, "second", "--", *inner) == both
    # Deeper inside: whatever the inner one can have.
    inner[inner.index("--mode") + 1] = "auto"
    assert run(other.address, "second", "sh", "-c", '"$0" "$@"', *inner) == both


def test_first_kaisos_form(web, tmp_path):
    link = tmp_path / "kaiso-inject"
    link.symlink_to(KAISO)
    done = subprocess.run([link, web.address, "web", "curl", "-sS", f"http://{web.address}/x"], capture_output=True,
                          check=False, timeout=DEADLINE, env=clean_environment())
    assert (done.stdout, done.returncode) == (b"hello /x\n", 0), done


@modes
def test_unrelated_connects_are_untouched(new_router, mode):
    router = new_router()
    router.echo("web")
    elsewhere = router.backend_tcp()
    program = f"printf one | socat - TCP:127.0.0.1:{router.port}; printf two | socat -u - TCP:{elsewhere.address}"
    assert run_client(mode, router, "sh", "-c", program) == b"one"
    stream = elsewhere.accept()
    assert stream.receive_all() == b"two"


@modes
def test_unix_sockets_and_udp_to_the_same_port_are_untouched(router, mode, tmp_path):
    router.echo("web")
    program = f"""
import socket, threading
listener = socket.socket(socket.AF_UNIX); listener.bind("s"); listener.listen()
client = socket.socket(socket.AF_UNIX); client.connect("s")
server, _ = listener.accept(); client.send(b"x"); assert server.recv(9) == b"x"
server = socket.socket(type=socket.SOCK_DGRAM); server.bind(("127.0.0.1", {router.port}))
client = socket.socket(type=socket.SOCK_DGRAM); client.connect(("127.0.0.1", {router.port}))
client.send(b"y"); assert server.recv(9) == b"y"
print("untouched")
"""
    assert run_client(mode, router, "/usr/bin/python3", "-c", program, cwd=tmp_path) == b"untouched\n"


@modes
def test_a_kaiso_that_is_not_there(mode):
    done = inject(mode, "127.0.0.1:1", "web", "curl", "-sS", "http://127.0.0.1:1/")
    assert done.returncode == 7 and b"refused" in done.stderr.lower() or b"connect" in done.stderr.lower()


def test_a_line_longer_than_a_segment(new_router, built):
    """Over a real network only so much fits into a SYN: here the socket's own segment size is small."""
    router = new_router()
    name = "/".join(["n" * 200] * 18)
    router.service(name, echo)
    program = f"""
import socket, sys
for blocking in (True, False):
    s = socket.socket(); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536); s.setblocking(blocking)
    try: s.connect(("127.0.0.1", {router.port}))
    except BlockingIOError: pass
    s.setblocking(True); s.sendall(b"payload"); s.shutdown(socket.SHUT_WR)
    got = b""
    while chunk := s.recv(99): got += chunk
    assert got == b"payload", got
print("all right")
"""
    for mode in MODES:
        done = inject(mode, router.address, name, "/usr/bin/python3", "-c", program)
        assert done.stdout == b"all right\n", done
