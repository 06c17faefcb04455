"""`kaiso passfd` around real servers: 400 clients through the router, 20 at a time, and the plain port beside."""

import functools
import os
import re
import signal
import subprocess
import tempfile

import pytest

from harness import process
from harness.passfd import MODES, Wrapped, at_once, connect_plain, descendants, free_port, is_alive
from harness.services import connect_unix
from harness.stream import Stream, noise
from harness.wait import wait_until

BODY = noise(20_011)


def write(path, content):
    with open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return str(path)


# ---- clients: each is a whole conversation on a fresh connection

def get(stream, path):
    """The body of an HTTP/1.0 answer."""
    stream.send(f"GET {path} HTTP/1.0\r\nHost: web\r\n\r\n".encode())
    head, _, body = stream.receive_all().partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0] + b" ", head
    return body


def ask_file(stream, _client):
    assert get(stream, "/body") == BODY


def ask_peer(stream, client):
    """The server tells who it takes the client for, and the file it has."""
    assert get(stream, "/peer").decode().replace("::ffff:", "").strip("[]") == client.replace("[", "").replace("]", "")


def ask_line_peer(stream, client):
    """The server says the client's address in a line, then echoes."""
    assert stream.receive_line().decode().strip() == client
    stream.exchange(b"hello " + client.encode())
    stream.end()
    stream.expect_end()


def ask_echo(stream, client):
    stream.exchange(b"hello " + client.encode())
    stream.end()
    stream.expect_end()


def ask_redis(stream, client):
    stream.send(b"PING\r\n")
    assert stream.receive_line() == b"+PONG\r\n"
    stream.send(b"CLIENT INFO\r\n")
    length = int(stream.receive_line()[1:])
    assert f"addr={client} ".encode() in stream.receive(length + 2)


def ask_ssh(stream, _client):
    assert stream.receive_line().startswith(b"SSH-2.0-OpenSSH")


# ---- servers: each gives (program words, client) for a port and a directory of its own

PYTHON = "/usr/bin/python3"

ASYNCIO = """
import asyncio, sys
async def serve(reader, writer):
    request = await reader.readline()
    while (await reader.readline()).strip(): pass
    peer = writer.get_extra_info('peername')
    writer.write(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + f'{peer[0]}:{peer[1]}'.encode())
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', int(sys.argv[1]))
    async with server: await server.serve_forever()
asyncio.run(main())
"""

PREFORK = """
import ctypes, os, socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
for _ in range(4):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: ends with its parent
        while True:
            client, peer = listener.accept()
            assert client.getpeername() == peer and os.get_inheritable(client.fileno()) == False
            client.sendall(f'{peer[0]}:{peer[1]}\\n'.encode())
            while data := client.recv(65536): client.sendall(data)
            client.close()
os.wait()
"""

EPOLL_BEFORE_BIND = """
import select, socket, sys
listener = socket.socket()
listener.setblocking(False)
epoll = select.epoll()
epoll.register(listener, select.EPOLLIN)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', int(sys.argv[1])))
listener.listen()
clients = {}
while True:
    for fd, events in epoll.poll():
        if fd == listener.fileno():
            try: client, peer = listener.accept()
            except BlockingIOError: continue
            client.sendall(f'{peer[0]}:{peer[1]}\\n'.encode())
            clients[client.fileno()] = client
            epoll.register(client, select.EPOLLIN)
        else:
            data = clients[fd].recv(65536)
            if data: clients[fd].sendall(data)
            else: epoll.unregister(fd); clients.pop(fd).close()
"""

NODE = """
const server = require('http').createServer((request, response) =>
    response.end(`${request.socket.remoteAddress}:${request.socket.remotePort}`));
server.listen(Number(process.argv[2]), process.argv[3]);
"""

NODE_CLUSTER = """
const cluster = require('cluster');
if (process.argv[3] === 'shared') cluster.schedulingPolicy = cluster.SCHED_NONE;
if (cluster.isPrimary) { cluster.fork(); cluster.fork(); }
else require('http').createServer((request, response) =>
    response.end(`${request.socket.remoteAddress}:${request.socket.remotePort}`)).listen(Number(process.argv[2]));
"""

GO = """
package main
import ("fmt"; "net/http"; "os")
func main() {
	http.HandleFunc("/peer", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })
	panic(http.ListenAndServe("127.0.0.1:" + os.Args[1], nil))
}
"""


def http_server(port, root):
    write(f"{root}/body", BODY)
    return [PYTHON, "-m", "http.server", "--bind", "127.0.0.1", port], ask_file


def asyncio_server(port, root):
    return [PYTHON, write(f"{root}/server.py", ASYNCIO), port], ask_peer


def prefork(port, root):
    return [PYTHON, write(f"{root}/server.py", PREFORK), port], ask_line_peer


def epoll_before_bind(port, root):
    return [PYTHON, write(f"{root}/server.py", EPOLL_BEFORE_BIND), port], ask_line_peer


def node(port, root):
    return ["node", write(f"{root}/server.js", NODE), port], ask_peer


def node_cluster(port, root):
    return ["node", write(f"{root}/server.js", NODE_CLUSTER), port], ask_peer


def node_cluster_shared(port, root):
    return ["node", write(f"{root}/server.js", NODE_CLUSTER), port, "shared"], ask_peer


def redis(port, root):
    return ["redis-server", "--port", port, "--save", "", "--dir", root, "--bind", "127.0.0.1"], ask_redis


def redis_daemon(port, root):
    return [*redis(port, root)[0], "--daemonize", "yes"], ask_redis


def socat_tcp(port, _root):
    return ["socat", f"TCP-LISTEN:{port},fork,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR\\:$SOCAT_PEERPORT; cat"], ask_line_peer


def ncat(port, _root):
    return ["ncat", "-l", "-k", "127.0.0.1", port, "--sh-exec", "echo $NCAT_REMOTE_ADDR:$NCAT_REMOTE_PORT; cat"], \
        ask_line_peer


def busybox(port, root):
    write(f"{root}/body", BODY)
    return ["busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", root], ask_file


def nginx_config(root, port, listen="", workers=2, extra=""):
    write(f"{root}/body", BODY)
    os.chmod(root, 0o755)
    os.chmod(os.path.dirname(root), 0o755)
    return write(f"{root}/nginx.conf", f"""
        user root; worker_processes {workers}; pid {root}/nginx.pid; error_log {root}/error.log notice;
        events {{ worker_connections 512; {extra} }}
        http {{
            access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
            uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
            server {{ listen 127.0.0.1:{port} {listen}; root {root};
                     location /peer {{ return 200 "$remote_addr:$remote_port"; }} }}
        }}""")


def nginx(port, root, daemon="off", **how):
    return ["/usr/sbin/nginx", "-p", root, "-c", nginx_config(root, port, **how), "-g", f"daemon {daemon};"], ask_peer


def nginx_reuseport(port, root):
    return nginx(port, root, listen="reuseport")


def nginx_accept_mutex(port, root):
    return nginx(port, root, extra="accept_mutex on;")


def nginx_deferred(port, root):
    """Sets TCP options on its listener after listen()."""
    return nginx(port, root, listen="deferred fastopen=16 so_keepalive=on")


@functools.cache
def go_directory():
    """For all tests here, since Go first compiles its library; removed when they end."""
    return tempfile.TemporaryDirectory(prefix="kaiso-go-")


def go_server(port, root):
    source = write(f"{root}/server.go", GO)
    subprocess.run(["go", "build", "-o", f"{root}/server", source], check=True, capture_output=True,
                   env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOPATH": go_directory().name,
                        "GOCACHE": f"{go_directory().name}/cache", "GO111MODULE": "off"})
    return [f"{root}/server", port], ask_peer


def sshd(port, root):
    os.makedirs("/run/sshd", exist_ok=True)
    key = f"{root}/key"
    if not os.path.exists(key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    write(f"{root}/authorized", open(f"{key}.pub", "rb").read())
    config = write(f"{root}/sshd.conf", f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {key}
        PidFile {root}/sshd.pid
        MaxStartups 500
        AuthorizedKeysFile {root}/authorized
        StrictModes no
        PermitRootLogin yes
        UsePAM no
        """)
    return ["/usr/sbin/sshd", "-D", "-e", "-f", config], ask_ssh


SERVERS = [http_server, asyncio_server, prefork, epoll_before_bind, node, node_cluster, node_cluster_shared, redis,
           redis_daemon, socat_tcp, ncat, nginx, nginx_reuseport, nginx_accept_mutex, nginx_deferred, sshd]
RAW_SERVERS = [go_server, busybox]  # make their system calls themselves
TABLE = [(server, mode) for mode in MODES for server in SERVERS] + [(server, "seccomp") for server in RAW_SERVERS]


def through_router(router, ask, count=400, width=20, name="web"):
    def one(_number):
        with router.connect().line(name) as stream:
            ask(stream, stream.name)

    at_once(count, width, one)


def plainly(port, ask, count=40, width=10, host="127.0.0.1"):
    def one(_number):
        with connect_plain(port, host) as stream:
            ask(stream, stream.name)

    at_once(count, width, one)


def serve(router, server, mode, *options):
    port = free_port()
    root = f"{router.root}/{server.__name__}"
    os.makedirs(root, exist_ok=True)
    program, ask = server(port, root)
    wrapped = Wrapped(router, program, *options, mode=mode, cwd=root)
    return wrapped, ask, port, root


def wait_answer(wrapped, port, ask):
    """The plain port answers: the server is ready."""
    def answers():
        try:
            plainly(port, ask, 1, 1)
        except AssertionError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                return False
            raise
        return True

    wait_until(answers, lambda: f"port {port} to answer:\n{wrapped.output()}")


@pytest.mark.parametrize("server,mode", TABLE, ids=[f"{mode}-{server.__name__}" for server, mode in TABLE])
def test_server(router, server, mode):
    """Right bytes, right peer address, no descriptor left behind, no spinning helper, SOCKET gone at the end."""
    wrapped, ask, port, _ = serve(router, server, mode)
    is_daemon = server is redis_daemon
    wait_answer(wrapped, port, ask)
    if is_daemon:
        assert wrapped.wait_exit() == 0
        pid = int(re.search(r"process_id:(\d+)", redis_info(port)).group(1))
    through_router(router, ask, 40)
    watched = [pid] if is_daemon else [wrapped.helper, wrapped.server]
    before = [process.count_fds(each)["socket"] for each in watched]
    through_router(router, ask)
    plainly(port, ask)
    for each, count in zip(watched, before):
        wait_until(lambda: process.count_fds(each)["socket"] <= count + 2,
                   lambda: f"descriptors to be closed: {process.list_fds(each)}")
    if is_daemon:
        os.kill(pid, signal.SIGTERM)
    else:
        wrapped.assert_quiet()
        assert wrapped.end() in (0, -signal.SIGTERM, 143, 130, 255), wrapped.output()
    wait_until(lambda: not os.path.exists(wrapped.socket_path), "SOCKET to be removed")


@pytest.mark.parametrize("mode", MODES)
def test_nginx_daemon_with_reload(router, mode):
    """The tool returns when nginx has become a daemon; reloads change the workers and lose nobody."""
    port = free_port()
    root = f"{router.root}/nginx"
    os.makedirs(root)
    program, ask = nginx(port, root, daemon="on")
    wrapped = Wrapped(router, program, mode=mode)
    assert wrapped.wait_exit() == 0, wrapped.output()
    wait_answer(wrapped, port, ask)
    master = wait_pid(f"{root}/nginx.pid")
    try:
        for _ in range(3):
            workers = set(descendants(master)) - {master}
            os.kill(master, signal.SIGHUP)
            through_router(router, ask, 100)
            plainly(port, ask, 10)
            wait_until(lambda: not any(is_alive(pid) for pid in workers), "the old workers to leave")
        through_router(router, ask, 100)
    finally:
        os.kill(master, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(wrapped.socket_path), "SOCKET to be removed")


def wait_pid(path):
    def read():
        try:
            with open(path, encoding="ascii") as file:
                return int(file.read() or 0)
        except FileNotFoundError:
            return 0

    return wait_until(read, f"a pid in {path}")


@pytest.mark.parametrize("mode", MODES)
def test_nginx_binary_upgrade(router, mode):
    """A new master takes the listeners over from the old one, by exec with a cleared environment."""
    port = free_port()
    root = f"{router.root}/nginx"
    os.makedirs(root)
    program, ask = nginx(port, root, daemon="on")
    wrapped = Wrapped(router, program, mode=mode)
    assert wrapped.wait_exit() == 0, wrapped.output()
    old = wait_pid(f"{root}/nginx.pid")
    through_router(router, ask, 100)
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: os.path.exists(f"{root}/nginx.pid.oldbin") and os.path.exists(f"{root}/nginx.pid"), "the upgrade")
    new = wait_pid(f"{root}/nginx.pid")
    try:
        assert new != old
        through_router(router, ask, 100)
        os.kill(old, signal.SIGQUIT)
        wait_until(lambda: not is_alive(old), "the old master to leave")
        through_router(router, ask, 100)
        plainly(port, ask, 10)
    finally:
        os.kill(new, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(wrapped.socket_path), "SOCKET to be removed")


@pytest.mark.parametrize("mode", MODES)
def test_socat_unix(router, mode):
    """A program whose only listener is a UNIX one is served at SOCKET, and keeps its own path for plain clients."""
    path = f"{router.root}/own"
    wrapped = Wrapped(router, ["socat", f"UNIX-LISTEN:{path},fork", "EXEC:cat"], mode=mode)
    wait_until(lambda: os.path.exists(path), "the program's own socket")
    through_router(router, ask_echo)

    def plain(_number):
        with Stream(connect_unix(path)) as stream:
            ask_echo(stream, "plain")

    at_once(40, 10, plain)
    wrapped.assert_quiet()
    wrapped.end()
    wait_until(lambda: not os.path.exists(wrapped.socket_path), "SOCKET to be removed")


@pytest.mark.parametrize("mode", MODES)
def test_ssh_login(router, mode):
    """A whole session, with the client's address in sshd's log."""
    wrapped, _, port, root = serve(router, sshd, mode)
    wrapped.wait_port(port)
    proxy = f"sh -c '{{ echo web; cat; }} | nc 127.0.0.1 {router.port}'"
    done = subprocess.run(
        ["ssh", "-F", "none", "-o", f"ProxyCommand={proxy}", "-o", "StrictHostKeyChecking=no", "-o",
         "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-i", f"{root}/key", "root@web",
         "echo $SSH_CONNECTION; head -c 200000 | cksum"],
        input=BODY * 10, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stderr, wrapped.output())
    lines = done.stdout.decode().split("\n")
    assert lines[0].startswith("127.0.0.1 ") and lines[0].endswith(f" {router.port}"), lines
    cksum = subprocess.run(["cksum"], input=(BODY * 10)[:200000], capture_output=True, check=True).stdout.decode()
    assert lines[1] == cksum.strip()
    assert wrapped.end() in (0, 255)


def redis_info(port):
    with connect_plain(port) as stream:
        stream.send(b"INFO server\r\n")
        return stream.receive(int(stream.receive_line()[1:])).decode()
