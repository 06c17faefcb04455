"""--http: metrics for Prometheus, status as JSON, health; who may ask, and what holds over an upgrade."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from harness.exposer import Exposer
from harness.router import KAISO, run_kaiso
from harness.services import has_ipv6
from harness.wait import DEADLINE, IS_SANITIZED, Task, wait_until

UPGRADES = 3 if IS_SANITIZED else 10


def http_address(router, number=0):
    words = router.log.find(msg="ready")[0].all("http")
    return words[number]


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self):
        return self.body.decode()


def ask(router, path="/healthz", method="GET", headers=None, number=0, body=None):
    """One request in a connection of its own."""
    host, _, port = http_address(router, number).rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=DEADLINE)
    try:
        connection.request(method, path, headers=headers or {}, body=body)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def status(router, path="/status.json"):
    return json.loads(ask(router, path).body)


SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\})? ([0-9.]+)')


def metrics(router):
    """{name or name{labels}: value}; every line must be a comment or a sample."""
    samples = {}
    for line in ask(router, "/metrics").text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name = match[1] + ("{%s}" % match[2] if match[2] else "")
        assert name not in samples, f"twice: {line}"
        samples[name] = float(match[3])
    return samples


def raw(router, request):
    """What comes back for these bytes until the connection is closed."""
    host, _, port = http_address(router).rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer


@pytest.fixture
def web(new_router):
    """A router with --http on a free port."""
    return new_router("--http", "127.0.0.1:0")


# ---- what there is

def test_off_by_default(router):
    assert "http" not in dict(router.log.find(msg="ready")[0].pairs)
    assert router.fds()["socket"] == 1


KINDS = {
    "/": "text/html; charset=utf-8",
    "/healthz": "text/plain; charset=utf-8",
    "/metrics": "text/plain; version=0.0.4; charset=utf-8",
    "/status.json": "application/json",
    "/status.json?sessions": "application/json",
}


def test_what_is_there(web):
    for path, kind in KINDS.items():
        answer = ask(web, path)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        head = ask(web, path, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Type"] == kind
        assert int(head.headers["Content-Length"]) > 0


def test_what_is_not_there(web):
    for path in ("/status", "//", "/metrics/", "/../etc/passwd", "/%2e%2e/", "/status.json%00", "/%6detrics", "*",
                 "/<script>alert(1)</script>"):
        answer = ask(web, path)
        assert answer.status in (400, 404), path
        assert b"script" not in answer.body


def test_many_requests_on_one_connection(web):
    host, _, port = http_address(web).rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    for path in ["/metrics", "/healthz", "/status.json", "/"] * 5:
        connection.request("GET", path)
        assert connection.getresponse().read()
    connection.close()


# ---- numbers

def test_metrics_count_what_happens(web):
    web.echo("foo")
    client = web.open("foo").exchange(b"x" * 1000)
    before = metrics(web)
    assert before["kaiso_sessions_open"] == 1
    assert before['kaiso_service_sessions_open{service="foo"}'] == 1
    assert before['kaiso_service_sessions_total{service="foo"}'] == 1
    assert before['kaiso_session_bytes_total{direction="sent"}'] == 1000
    client.exchange(b"y" * 500).end().expect_end()
    web.wait_session(client, reason="done")
    web.open("nothing").expect_closed()
    after = metrics(web)
    assert after["kaiso_sessions_open"] == 0
    assert after['kaiso_sessions_total{reason="done"}'] == 1
    assert after['kaiso_sessions_total{reason="not-found"}'] == 1
    assert after['kaiso_service_sessions_open{service="foo"}'] == 0
    assert after['kaiso_service_sessions_total{service="foo"}'] == 1
    assert after['kaiso_service_failures_total{service="foo"}'] == 0
    assert after['kaiso_service_bytes_total{service="foo",direction="received"}'] == 1500
    assert after['kaiso_session_bytes_total{direction="received"}'] == 1500
    assert after["kaiso_requests_total"] == 2
    assert after["kaiso_session_duration_seconds_count"] == 2
    assert after['kaiso_session_duration_seconds_bucket{le="+Inf"}'] == 2
    assert after["kaiso_connect_duration_seconds_count"] == 1
    assert not [name for name in after if "nothing" in name], "whoever asks could make as many series as he likes"


def test_metrics_of_the_process(web):
    values = metrics(web)
    assert 0 < values["process_open_fds"] < values["process_max_fds"]
    assert values["process_resident_memory_bytes"] > 1e6
    assert values["process_start_time_seconds"] > 1.7e9
    assert values["kaiso_limit_sessions"] >= 4
    assert values['kaiso_build_info{version="%s"}' % run_kaiso("--version").stdout.split()[1].decode()] == 1


def test_promtool_has_no_complaint(web):
    for name in ("foo", 'a"b\\c', b"caf\xe9", "<b>"):
        web.echo(name)
        client = web.connect().send((name.encode() if isinstance(name, str) else name) + b"\n").exchange(b"hello")
        client.end().expect_end()
    text = ask(web, "/metrics").body
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_services_with_names_of_any_bytes(web):
    names = ['a"b\\c', b"caf\xe9", "</script><b>", "{x=1} 2", "h\u00e4user/\U0001f41f", "-", "a b"]
    for name in names:
        web.echo(name)
        client = web.connect().send((name.encode() if isinstance(name, str) else name) + b"\n").exchange(b"hello")
        client.end().expect_end()
    values = metrics(web)
    for label in ('a\\"b\\\\c', "caf\\\\xe9", "</script><b>", "{x=1} 2", "h\u00e4user/\U0001f41f", "-", "a b"):
        assert values['kaiso_service_sessions_total{service="%s"}' % label] == 1
    body = ask(web, "/status.json?sessions").body
    assert b"<" not in body
    told = {service["service"] for service in json.loads(body)["services"]}
    assert told == {name if isinstance(name, str) else "caf\ufffd" for name in names}


def test_status(web):
    web.echo("foo")
    client = web.open("foo").exchange(b"hello")
    told = status(web)
    assert "sessions" not in told and told["open"] == 1
    assert told["services"] == [{"service": "foo", "kind": "unix", "open": 1, "sessions": 1, "failures": 0, "sent": 5,
                                 "received": 5}]
    told = status(web, "/status.json?sessions")
    assert [(one["client"], one["service"], one["state"], one["sent"]) for one in told["sessions"]] == \
        [(client.name, "foo", "relay", 5)]


def test_health_while_draining(web):
    assert (ask(web).status, ask(web).body) == (200, b"ok\n")
    web.echo("foo")
    client = web.open("foo").exchange(b"hello")
    web.signal(signal.SIGTERM)
    web.wait_log(msg="draining")
    assert (ask(web).status, ask(web).body) == (503, b"draining\n")
    assert metrics(web)["kaiso_draining"] == 1
    client.exchange(b"still here").end().expect_end()
    web.wait_exit()


def test_an_exposer(new_router):
    router = new_router()
    router.echo("foo")
    exposer = new_router(router.address, "foo", "127.0.0.1:0", kind=Exposer,
                         options=("--threads", "1", "--http", "127.0.0.1:0"))
    exposer.client().exchange(b"hello").end().expect_end()
    assert metrics(exposer)['kaiso_service_bytes_total{service="foo",direction="sent"}'] == 5
    assert status(exposer)["kaiso"] == router.address


# ---- who may ask, and how

def test_other_methods(web):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "get"):
        for path in ("/", "/metrics", "/nowhere"):
            answer = ask(web, path, method=method, body=b"hello" if method == "POST" else None)
            assert answer.status == 405, (method, path)
            assert answer.headers["Allow"] == "GET, HEAD"


def test_names_that_lead_here_from_elsewhere(web):
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1]x",
                 "127.0.0.1 evil.example"):
        for path in ("/", "/status.json"):
            answer = ask(web, path, headers={"Host": host})
            assert answer.status == 421, host
            assert b"kaiso" not in answer.body and b"{" not in answer.body


def test_names_that_are_this_host(web):
    for host in ("127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:80", "192.0.2.1:9090"):
        assert ask(web, headers={"Host": host}).status == 200


def test_two_hosts(web):
    for hosts in (b"Host: localhost\r\nHost: evil.example", b"Host: evil.example\r\nhost: localhost"):
        answer = raw(web, b"GET /status.json HTTP/1.1\r\n" + hosts + b"\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 421 ")


def test_the_name_in_the_option(new_router):
    web = new_router("--http", "localhost:0")
    words = web.log.find(msg="ready")[0].all("http")
    assert len(words) in (1, 2)  # as many addresses as it has here
    for number in range(len(words)):
        assert ask(web, number=number).status == 200


@pytest.mark.ipv6
def test_ipv6(new_router):
    web = new_router("--http", "[::1]:0")
    assert http_address(web).startswith("[::1]:")
    assert ask(web).body == b"ok\n"


NO_REQUESTS = [
    b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
]


def test_what_is_no_request(web):
    """Whatever is answered to it, nothing is told, and the next one is served."""
    for request in NO_REQUESTS:
        try:
            assert b"resident" not in raw(web, request), request[:100]
        except OSError:
            pass  # it has closed the connection, without reading all
        assert ask(web).status == 200


def test_queries(web):
    for query in ("&" * 30, "sessions=1", "x&sessions", "%00", "=", "session", "<script>", "a=b" * 1000):
        answer = ask(web, "/status.json?" + query)
        assert answer.status == 200
        assert ("sessions_untold" in json.loads(answer.body)) == ("sessions" in query)


def test_more_arguments_than_there_is_memory_for(new_router):
    """That connection is given up; it costs nothing meanwhile."""
    web = new_router("--http", "127.0.0.1:0", "--threads", "1")
    host, _, port = http_address(web).rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as sock:
        sock.sendall(b"GET /status.json?" + b"&" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ask(web).status == 200
        web.assert_quiet()


def test_a_reader_that_takes_nothing(web):
    """The others are served meanwhile."""
    host, _, port = http_address(web).rpartition(":")
    socks = [socket.create_connection((host, int(port)), DEADLINE) for _ in range(10)]
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    assert ask(web).status == 200
    for sock in socks:
        sock.close()


def test_more_connections_than_there_may_be(web):
    """They hold a bounded number of descriptors; others wait for them, and clients of the router do not."""
    host, _, port = http_address(web).rpartition(":")
    socks = [socket.create_connection((host, int(port)), DEADLINE) for _ in range(100)]
    for sock in socks:
        sock.sendall(b"GET / HT")
    web.echo("foo")
    web.open("foo").exchange(b"hello")
    assert web.fds()["socket"] < 40
    for sock in socks:
        sock.close()
    assert ask(web).status == 200


def test_a_connection_that_waits_costs_nothing(new_router):
    web = new_router("--http", "127.0.0.1:0", "--threads", "1")
    host, _, port = http_address(web).rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    web.assert_quiet()
    connection.close()


def test_no_descriptor_is_free(new_router):
    """Whoever asks then waits, nothing spins, and is answered once there is one."""
    web = new_router("--http", "127.0.0.1:0", "--threads", "1", "--max-sessions", "1000",
                     wrapper=("prlimit", "--nofile=60:60"))
    clients = [web.connect().send(b"x") for _ in range(60)]
    web.wait_log(limit="descriptors")
    task = Task(ask, web)
    web.assert_quiet()
    assert task.is_running()
    for client in clients:
        client.close()
    assert task.join().status == 200


def test_an_end_amid_requests(new_router):
    """Whatever is asked while the router ends: it ends."""
    web = new_router("--http", "127.0.0.1:0", "--threads", "4")
    host, _, port = http_address(web).rpartition(":")
    requests = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40
    begun = []

    def flood():
        with socket.create_connection((host, int(port)), DEADLINE) as sock:
            try:
                while True:
                    sock.sendall(requests)
                    begun.append(sock.recv(1 << 20))
            except OSError:  # the end
                pass

    tasks = [Task(flood) for _ in range(8)]
    wait_until(lambda: len(begun) > 20, "answers")
    web.signal(signal.SIGTERM)
    assert web.wait_exit() == 0
    for task in tasks:
        task.join()


# ---- where it listens

def test_a_loopback_address_is_no_warning(web):
    assert not web.log.find(msg=lambda text: "--http" in text)


def test_an_address_that_others_reach(new_router):
    web = new_router("--http", "0.0.0.0:0")
    assert web.log.find(level="warning", msg=lambda text: "other hosts can reach 0.0.0.0:" in text)


@pytest.mark.parametrize("word, complaint", [("127.0.0.1", b"no port"), ("unix:/tmp/x", b"ADDR:PORT"),
                                             ("127.0.0.1:99999", b"port out of range"), ("", b"an address and a port")])
def test_what_is_no_address(word, complaint, tmp_path):
    result = run_kaiso("serve", "--services", str(tmp_path), "--http", word, "127.0.0.1:0")
    assert result.returncode != 0
    assert complaint in result.stderr


def test_an_address_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = run_kaiso("serve", "--services", str(tmp_path), "--http", "127.0.0.1:%d" % other.getsockname()[1],
                           "127.0.0.1:0")
    assert result.returncode == 1
    assert b"address already in use" in result.stderr


# ---- upgrades

def upgrade(router, count):
    router.signal(signal.SIGUSR2)
    router.log.wait(count, msg="upgraded")


@pytest.mark.threads
def test_no_scrape_is_refused_by_an_upgrade(web):
    done = threading.Event()
    scrapes = []

    def scrape():
        while not done.is_set():
            answer = ask(web, "/metrics")
            assert answer.status == 200 and answer.body.endswith(b"\n")
            scrapes.append(len(answer.body))

    tasks = [Task(scrape) for _ in range(3)]
    for count in range(1, UPGRADES + 1):
        before = len(scrapes)
        upgrade(web, count)
        wait_until(lambda: len(scrapes) > before + 3, "more scrapes")
    done.set()
    for task in tasks:
        task.join()


def test_counters_go_on_over_an_upgrade(web):
    web.echo("foo")
    client = web.open("foo").exchange(b"hello")
    web.open("foo").exchange(b"hello").end().expect_end()
    wait_until(lambda: metrics(web)['kaiso_sessions_total{reason="done"}'] == 1, "the end of a session")
    before = metrics(web)
    upgrade(web, 1)
    after = metrics(web)
    counters = {name for name in before if "_total" in name or "_count" in name or "_bucket" in name}
    assert len(counters) > 50
    assert {name: (before[name], after.get(name)) for name in counters if after.get(name, -1) < before[name]} == {}
    assert after['kaiso_service_bytes_total{service="foo",direction="sent"}'] == 10
    client.exchange(b"hello").end().expect_end()


def test_a_reader_that_takes_nothing_holds_up_no_upgrade(web):
    host, _, port = http_address(web).rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        for _ in range(1000):
            sock.settimeout(0)
            try:
                sock.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
            except BlockingIOError:
                break
        upgrade(web, 1)
        assert ask(web).status == 200


@pytest.mark.skipif(IS_SANITIZED, reason="it is about time")
def test_who_asks_for_an_upgrade_again_does_not_put_it_off(web):
    host, _, port = http_address(web).rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                sock.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)

        def upgraded():
            web.signal(signal.SIGUSR2)
            return web.log.find(msg="upgraded")

        wait_until(upgraded, "the upgrade", timeout=DEADLINE / 4, interval=0.3)


def test_a_failed_upgrade(new_router, tmp_path):
    """What listens goes on listening, and whoever came meanwhile is served."""
    program = tmp_path / "kaiso"
    shutil.copy(KAISO, program)
    web = new_router("--http", "127.0.0.1:0", wrapper=("/bin/sh", "-c", f"shift; exec '{program}' \"$@\"", "sh"))
    shutil.copy("/bin/false", f"{program}.new")
    (tmp_path / "kaiso.new").rename(program)
    for count in range(1, 4):
        web.signal(signal.SIGUSR2)
        assert ask(web).status == 200
        web.log.wait(count, msg="cannot upgrade; the running version goes on")
        assert ask(web, "/metrics").status == 200
