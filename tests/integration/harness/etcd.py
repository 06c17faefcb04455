"""A real etcd, a `kaiso mirror` that is fed by it, and a wire between them that can be cut."""

import base64
import http.client
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from .router import Router, clean_environment
from .services import bind_tcp
from .wait import DEADLINE, Overdue, wait_until

if not shutil.which("etcd"):
    pytest.skip("there is no etcd here (tools/deps test)", allow_module_level=True)

# A cluster of one needs no time to elect; one of three on hosts of a busy machine needs some.
QUICK = ("--heartbeat-interval=20", "--election-timeout=200")


class Refused(Exception):
    """etcd says no."""


def encoded(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def prefix_end(prefix):
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def unused_ports(count):
    sockets = [bind_tcp() for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Etcd:
    """A member; a cluster of its own unless the options say otherwise.

    wrapper: words before the program. dial: function(address, port) giving a socket, for a test that cannot reach it
    itself. tls: "ca", "cert" and "key", files for whoever asks it, or None.
    """

    def __init__(self, *options, name="one", address="127.0.0.1", ports=None, cluster=None, wrapper=(), dial=None, tls=None):
        self.root = Path(tempfile.mkdtemp(prefix="kaiso-etcd-"))
        self.address = address
        self.port, self.peer_port = ports or unused_ports(2)
        self.name = name
        self.wrapper = wrapper
        self.dial = dial
        self.options = options
        self.tls = tls
        self.cluster = cluster or f"{name}={self.peer_url}"
        self.process = None

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://{self.address}:{self.port}"

    @property
    def peer_url(self):
        return f"http://{self.address}:{self.peer_port}"

    @property
    def log(self):
        return self.root / "log"

    def start(self, awaits_ready=True):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, "etcd", "--name", self.name, "--data-dir", self.root / "data", "--listen-client-urls", self.url,
                 "--advertise-client-urls", self.url, "--listen-peer-urls", self.peer_url,
                 "--initial-advertise-peer-urls", self.peer_url, "--initial-cluster", self.cluster,
                 *QUICK, *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(),
            )
        if awaits_ready:
            self.await_ready()
        return self

    def await_ready(self):
        wait_until(self._is_ready, lambda: f"etcd to be ready; its log:\n{self.log.read_text()[-4000:]}", interval=0.02)

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Overdue(f"etcd ended:\n{self.log.read_text()[-4000:]}")
        if self.dial:
            return b"ready to serve client requests" in self.log.read_bytes()
        try:
            return "header" in self.ask("kv/range", key=encoded("ready"))
        except (OSError, http.client.HTTPException, Refused):
            return False

    def stop(self, number=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE)

    def forget(self):
        """What it has stored; it must have been stopped."""
        shutil.rmtree(self.root / "data")

    def close(self):
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- what is asked of it

    token = None

    def connection(self):
        if self.tls:
            context = ssl.create_default_context(cafile=self.tls["ca"])
            context.load_cert_chain(self.tls["cert"], self.tls["key"])
            return http.client.HTTPSConnection(self.address, self.port, timeout=DEADLINE, context=context)
        connection = http.client.HTTPConnection(self.address, self.port, timeout=DEADLINE)
        if self.dial:
            connection.sock = self.dial(self.address, self.port)
            connection.sock.settimeout(DEADLINE)
        return connection

    def ask(self, what, **members):
        connection = self.connection()
        try:
            headers = {"Authorization": self.token} if self.token else {}
            connection.request("POST", f"/v3/{what}", json.dumps(members), headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise Refused(body.decode())
            return json.loads(body)
        finally:
            connection.close()

    def put(self, key, value, **members):
        """The revision."""
        return int(self.ask("kv/put", key=encoded(key), value=encoded(value), **members)["header"]["revision"])

    def delete(self, key, **members):
        return int(self.ask("kv/deleterange", key=encoded(key), **members)["header"]["revision"])

    def delete_all(self, prefix):
        return self.delete(prefix, range_end=encoded(prefix_end(prefix)))

    def put_many(self, pairs):
        """In transactions, which are of one revision each."""
        pairs = list(pairs)
        for start in range(0, len(pairs), 100):
            self.ask("kv/txn", success=[{"request_put": {"key": encoded(key), "value": encoded(value)}}
                                        for key, value in pairs[start:start + 100]])

    def grant(self, seconds):
        """A lease."""
        return self.ask("lease/grant", TTL=seconds)["ID"]

    def compact(self, revision):
        self.ask("kv/compaction", revision=revision, physical=True)


class Wire:
    """Between a mirror and an etcd: cut() resets what goes over it and refuses more, freeze() lets nothing through."""

    def __init__(self, port):
        self.target = port
        self.listener = bind_tcp()
        self.port = self.listener.getsockname()[1]
        self.accepted = 0
        self._is_frozen = False
        self._is_cut = False
        self._is_closed = False
        self._pairs = {}
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def _run(self):
        while not self._is_closed:
            with self._lock:
                watched = [self._woken] if self._is_frozen else [self._woken, self.listener, *self._pairs]
            for sock in select.select(watched, [], [])[0]:
                with self._lock:
                    self._turn(sock)

    def _turn(self, sock):
        if sock is self._woken:
            sock.recv(4096)
        elif sock is self.listener:
            self._accept()
        elif sock in self._pairs and not self._is_frozen:
            self._carry(sock)

    def _accept(self):
        client, _ = self.listener.accept()
        if self._is_cut:
            client.close()
            return
        self.accepted += 1
        try:
            server = socket.create_connection(("127.0.0.1", self.target), DEADLINE)
        except OSError:
            client.close()
            return
        self._pairs[client], self._pairs[server] = server, client

    def _carry(self, sock):
        try:
            chunk = sock.recv(1 << 16)
            self._pairs[sock].sendall(chunk)
        except OSError:
            chunk = b""
        if not chunk:
            self._drop(sock)

    def _drop(self, sock):
        other = self._pairs.pop(sock)
        self._pairs.pop(other)
        sock.close()
        other.close()

    def cut(self):
        with self._lock:
            self._is_cut = True
            while self._pairs:
                self._drop(next(iter(self._pairs)))
        self._wake.send(b"w")

    def mend(self):
        with self._lock:
            self._is_cut = self._is_frozen = False
        self._wake.send(b"w")

    def freeze(self):
        with self._lock:
            self._is_frozen = True
        self._wake.send(b"w")

    def close(self):
        self._is_closed = True
        self.cut()
        self._thread.join(DEADLINE)
        for sock in (self.listener, self._wake, self._woken):
            sock.close()


class Mirror(Router):
    """`kaiso mirror` to a directory. It is ready when the directory is equal for the first time."""

    def __init__(self, endpoints, prefix, directory, *options, **how):
        self.directory = os.fsencode(directory)
        super().__init__(command=["mirror", "--no-fsync", *options, endpoints, prefix, directory], **how)

    def wait_fds_back(self):
        """It has connections as it needs them."""

    def path(self, name):
        return os.path.join(self.directory, name.encode() if isinstance(name, str) else name)

    def content(self, name):
        """None when it is not there."""
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def contents(self):
        """{path: content} of all regular files but the mark."""
        return contents(self.directory)

    def wait_content(self, name, content):
        content = content.encode() if isinstance(content, str) else content
        wait_until(lambda: self.content(name) == content,
                   lambda: f"{name} to hold {content!r}, not {self.content(name)!r}; the log:\n{self.log.text()[-4000:]}")

    def wait_contents(self, expected):
        expected = {key: value.encode() for key, value in expected.items()}
        wait_until(lambda: self.contents() == expected,
                   lambda: f"{expected}, not {self.contents()}; the log:\n{self.log.text()[-4000:]}")


def contents(directory):
    found = {}
    for parent, _, names in os.walk(os.fsdecode(directory)):
        for name in names:
            path = os.path.join(parent, name)
            if name != ".kaiso-mirror" and os.path.isfile(path) and not os.path.islink(path):
                try:
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, os.fsdecode(directory))] = file.read()
                except FileNotFoundError:
                    pass
    return found
