"""The PROXY protocol with those who made it, and others: HAProxy and nginx as receivers, HAProxy as the sender."""

import shutil
import socket
import ssl
import struct
import subprocess
from pathlib import Path

import pytest

from harness.exposer import Exposer
from harness.services import bind_tcp, connect_unix
from harness.stream import Stream, noise
from harness.wait import DEADLINE, wait_until

PROGRAMS = {"haproxy": "/usr/sbin/haproxy", "nginx": "/usr/sbin/nginx"}
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

HAPROXY_HEAD = """
defaults
    timeout connect 5s
    timeout client 20s
    timeout server 20s
"""

HAPROXY_RECEIVER = """
frontend receiver
    mode http
    bind unix@{socket} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%ci %cp %[dst] %[dst_port]"
"""

HAPROXY_SENDER = """
frontend sender
    mode tcp
    bind fd@{fd} {tls}
    unique-id-format id-%pid
    default_backend router
backend router
    mode tcp
    server router {address} {options}
"""

NGINX = """
load_module {stream};
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
    uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
    server {{
        listen unix:{directory}/http proxy_protocol;
        location / {{
            return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
        }}
    }}
}}
stream {{
    server {{
        listen unix:{directory}/stream proxy_protocol;
        return "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
    }}
}}
"""


@pytest.fixture
def start():
    """Starts a peer: start("haproxy", words...), which ends with the test."""
    processes = []

    def run(program, *words, pass_fds=()):
        if not shutil.which(PROGRAMS[program]):
            pytest.skip(f"{program} is not installed: tools/deps test")
        processes.append(subprocess.Popen([PROGRAMS[program], *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.PIPE, pass_fds=pass_fds))
        return processes[-1]

    yield run
    for process in processes:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def await_socket(process, path):
    def answers():
        assert process.poll() is None, process.stderr.read().decode()
        try:
            connect_unix(path).close()
        except OSError:
            return False
        return True

    wait_until(answers, f"{path} to be listened on")


def get(client, service):
    client.line(service).send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return client.receive_all().rpartition(b"\r\n\r\n")[2].decode().split()


def told(client):
    """What the client's header says."""
    (source, port, *_), (destination, server_port, *_) = client.sock.getsockname(), client.sock.getpeername()
    return [source, str(port), destination, str(server_port)]


# ---- receivers

@pytest.fixture
def sockets(start, tmp_path):
    """The sockets of all receivers."""
    if not NGINX_STREAM.exists():
        pytest.skip("nginx has no streams: tools/deps test")
    conf = tmp_path / "nginx.conf"
    conf.write_text(NGINX.format(directory=tmp_path, stream=NGINX_STREAM), encoding="utf-8")
    nginx = start("nginx", "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(conf))
    conf = tmp_path / "haproxy.cfg"
    conf.write_text(HAPROXY_HEAD + HAPROXY_RECEIVER.format(socket=tmp_path / "haproxy"), encoding="utf-8")
    haproxy = start("haproxy", "-db", "-f", str(conf))
    for process, name in ((nginx, "http"), (nginx, "stream"), (haproxy, "haproxy")):
        await_socket(process, str(tmp_path / name))
    return tmp_path


def test_receivers(new_router, sockets):
    """Both versions and families; and a client without an address, whose connection they take all the same."""
    router = new_router(listen=("127.0.0.1:0", "[::1]:0", f"unix:{sockets}/kaiso"))
    for version in ("v1", "v2"):
        for name in ("http", "stream", "haproxy"):
            service = f"{name}-{version}"
            router.describe(service, f"{sockets}/{name}\nproxy {version}\n")
            for address in router.addresses[:2]:
                client = router.connect(address)
                if name == "stream":
                    answer = client.line(service).receive_all().decode().split()
                else:
                    answer = get(client, service)
                assert answer == told(client), (service, address)
            if name == "haproxy":
                assert get(router.connect(f"unix:{sockets}/kaiso"), service)
            elif name == "http":
                assert get(router.connect(f"unix:{sockets}/kaiso"), service) == []


# ---- HAProxy as the sender

@pytest.fixture
def sender(start, tmp_path):
    """A HAProxy in front of an address: its own port. tls: words for its listener."""

    def make(address, options, tls=""):
        with bind_tcp() as listener:
            conf = tmp_path / f"sender-{listener.fileno()}.cfg"
            words = HAPROXY_SENDER.format(fd=listener.fileno(), address=address, options=options, tls=tls)
            conf.write_text(HAPROXY_HEAD + words, encoding="utf-8")
            start("haproxy", "-db", "-f", str(conf), pass_fds=(listener.fileno(),))
            return listener.getsockname()[1]

    return make


def connect(port):
    sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
    return Stream(sock)


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"])
def test_sender(new_router, sender, options):
    router = new_router("--proxy-from", "127.0.0.1")
    router.echo("foo")
    backend = router.backend(".told")
    router.describe("told", ".told\nproxy v2\n")
    port = sender(router.address, options)
    client = router.keep(connect(port))
    client.line("foo").exchange(noise(200_000)).end().expect_end()
    router.wait_session(client, reason="done", sent=200_000)
    client = router.keep(connect(port)).line("told")
    service = backend.accept()
    head = service.receive(16)
    ends = service.receive(12)
    tlvs = service.receive(struct.unpack(">H", head[14:])[0] - 12)
    assert socket.inet_ntoa(ends[:4]) == "127.0.0.1"
    assert struct.unpack(">HH", ends[8:]) == (client.sock.getsockname()[1], port)
    if "unique-id" in options:
        assert tlvs.startswith(b"\x05\0") and tlvs[3:6] == b"id-" and len(tlvs) == 3 + tlvs[2]
    else:
        assert tlvs == b""


def test_sender_of_tls(new_router, sender, tmp_path):
    """HAProxy ends TLS; the service learns of it by the TLV, through an exposer and a router."""
    pem = tmp_path / "pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-keyout", f"{pem}.key", "-out", pem], check=True, capture_output=True)
    with open(pem, "ab") as file:
        file.write(Path(f"{pem}.key").read_bytes())
    router = new_router("--proxy-from", "127.0.0.1")
    backend = router.backend(".told")
    router.describe("told", ".told\nproxy v2\n")
    words = ("--threads", "1", "--proxy-from", "127.0.0.1", "--proxy", "v2")
    exposer = new_router(router.address, "told", "127.0.0.1:0", kind=Exposer, options=words)
    port = sender(exposer.address, "send-proxy-v2-ssl", f"ssl crt {pem}")
    context = ssl.create_default_context(cafile=pem)
    client = router.keep(Stream(context.wrap_socket(socket.create_connection(("127.0.0.1", port), DEADLINE),
                                                    server_hostname="localhost")))
    client.send(b"hello")
    service = backend.accept()
    head = service.receive(16)
    rest = service.receive(struct.unpack(">H", head[14:])[0])
    assert struct.unpack(">HH", rest[8:12]) == (client.sock.getsockname()[1], port)
    assert rest[12] == 0x20 and rest[15] & 1 and b"TLSv1.3" in rest[15:], rest
    assert service.receive(5) == b"hello"
    service.send(b"hi")
    assert client.receive(2) == b"hi"
