"""What stands behind a router in the tests: listeners, echo services, receivers of handed-over sockets."""

import fcntl
import functools
import itertools
import os
import queue
import socket
import threading

from .stream import Stream
from .wait import DEADLINE, Overdue

_names = itertools.count()


def make_directories(path):
    """mkdir -p for paths of any length. Returns an O_PATH descriptor of the last directory; the caller closes it."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for component in os.path.abspath(os.fsencode(path)).split(b"/"):
        if not component:
            continue
        try:
            os.mkdir(component, dir_fd=fd)
        except FileExistsError:
            pass
        below = os.open(component, os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def bind_unix(path, backlog=128, kind=socket.SOCK_STREAM):
    """A listening UNIX socket at a path of any length. It appears under its name alive, in one step."""
    directory, name = os.path.split(os.path.abspath(os.fsencode(path)))
    directory_fd = make_directories(directory)
    sock = socket.socket(socket.AF_UNIX, kind)
    passing_name = b".bind-%d" % next(_names)
    try:
        sock.bind(b"/proc/self/fd/%d/%s" % (directory_fd, passing_name))
        if kind != socket.SOCK_DGRAM:
            sock.listen(backlog)
        os.rename(passing_name, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory_fd)
    return sock


def connect_unix(path):
    """A connection to a UNIX socket at a path of any length."""
    fd = os.open(path, os.O_PATH)
    try:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return sock


@functools.cache
def has_ipv6():
    """Containers often have no IPv6, not even on the loopback interface."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def bind_tcp(host="127.0.0.1", backlog=128, port=0):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(backlog)
    return sock


def closed_port(host="127.0.0.1"):
    """A port that nobody listens on, held by a bound socket so that nobody takes it: (port, holder)."""
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holder.bind((host, 0))
    return holder.getsockname()[1], holder


class Backend:
    """A listener whose connections the test accepts itself."""

    def __init__(self, listener):
        self.listener = listener
        self.streams = []
        listener.settimeout(DEADLINE)

    @property
    def port(self):
        return self.listener.getsockname()[1]

    @property
    def address(self):
        host, port = self.listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def accept(self):
        try:
            sock, _ = self.listener.accept()
        except TimeoutError:
            raise Overdue(f"nobody connected to the service within {DEADLINE:g} s") from None
        stream = Stream(sock)
        self.streams.append(stream)
        return stream

    def assert_untouched(self):
        """Nobody has connected: to be asked once the router has logged the end of the session in question."""
        self.listener.settimeout(0)
        try:
            sock, _ = self.listener.accept()
        except BlockingIOError:
            return
        finally:
            self.listener.settimeout(DEADLINE)
        sock.close()
        raise AssertionError("the service was reached")

    def fill_backlog(self):
        """Connects directly until the backlog is full (make it small). Returns the sockets that fill it."""
        fillers = []
        while True:
            filler = socket.socket(self.listener.family)
            filler.setblocking(False)
            fillers.append(filler)
            try:
                filler.connect(self.listener.getsockname() if self.listener.family != socket.AF_UNIX
                               else f"/proc/self/fd/{self._path_fd}")
            except BlockingIOError as error:
                if self.listener.family == socket.AF_UNIX:
                    fillers.pop().close()
                    return fillers
                if len(fillers) > 8:  # TCP: connections beyond the backlog stay unanswered
                    return fillers
                assert error is not None

    def remember_path(self, path):
        self._path_fd = os.open(path, os.O_PATH)

    _path_fd = -1

    def close(self):
        if self._path_fd >= 0:
            os.close(self._path_fd)
            self._path_fd = -1
        for stream in self.streams:
            stream.close()
        self.listener.close()


class Service:
    """A listener whose every connection is handled by handler(stream) in a thread."""

    def __init__(self, listener, handler):
        self.listener = listener
        self.handler = handler
        self.accepted = 0
        self.errors = []
        self._lock = threading.Lock()
        self._streams = set()
        self._threads = []
        self._is_closed = False
        listener.settimeout(None)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def port(self):
        return self.listener.getsockname()[1]

    @property
    def address(self):
        host, port = self.listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            stream = Stream(sock)
            with self._lock:
                if self._is_closed:
                    stream.close()
                    return
                self._streams.add(stream)
                self.accepted += 1
                thread = threading.Thread(target=self._handle, args=(stream,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _handle(self, stream):
        try:
            self.handler(stream)
        except OSError:
            pass  # the other side is gone: the tests' business, not the service's
        except BaseException as error:
            self.errors.append(error)
        finally:
            with self._lock:
                self._streams.discard(stream)
            stream.close()

    def close(self):
        with self._lock:
            self._is_closed = True
            for stream in self._streams:
                try:
                    stream.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._acceptor.join(DEADLINE)
        self.listener.close()
        for thread in self._threads:
            thread.join(DEADLINE)
        if self.errors:
            raise self.errors[0]


def echo(stream):
    stream.sock.settimeout(None)
    while True:
        chunk = stream.sock.recv(1 << 18)
        if not chunk:
            return
        stream.sock.sendall(chunk)


def receive_descriptors(sock, most=64):
    """One message of a hand-over: its bytes, and the descriptors as they came (not closed, not wrapped)."""
    data, fds, flags, _ = socket.recv_fds(sock, most, most)
    assert not flags & socket.MSG_CTRUNC, "descriptors were cut off"
    return data, fds


def is_blocking(fd):
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


def _shut(socks):
    for sock in socks:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Receiver:
    """Takes clients handed over at a UNIX socket, as a server of one's own would.

    lasting: greets with '+' and takes any number of clients from a connection; else one each.
    Each client comes out of take() as a Stream. With is_reading false nothing is read before read_on().
    """

    def __init__(self, listener, lasting=False, is_reading=True):
        self.listener = listener
        self.lasting = lasting
        self.clients = queue.Queue()
        self.taken = []  # for close()
        self.per_connection = []  # clients that came over each connection
        self.errors = []
        self._may_read = threading.Event()
        if is_reading:
            self._may_read.set()
        self._connections = []
        self._threads = []
        self._lock = threading.Lock()
        listener.settimeout(None)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(sock)
                self.per_connection.append(0)
                thread = threading.Thread(target=self._receive, args=(sock, len(self.per_connection) - 1),
                                          daemon=True)
                self._threads.append(thread)
                thread.start()

    def _receive(self, sock, index):
        try:
            if self.lasting:
                try:
                    sock.send(b"+", socket.MSG_NOSIGNAL)
                except BrokenPipeError:
                    pass  # the router has sent a client and closed: it is still in the queue
            self._may_read.wait()
            while self._receive_message(sock, index):
                pass
        except OSError:
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            sock.close()

    def _receive_message(self, sock, index):
        data, fds = receive_descriptors(sock)
        if not data:
            return False
        assert data == b"*" * len(fds), f"{data!r} came with {len(fds)} descriptors"
        assert self.lasting or len(fds) == 1, f"a receiver that did not greet got {len(fds)} clients"
        for fd in fds:
            assert is_blocking(fd), "the descriptor is in non-blocking mode"
            self.per_connection[index] += 1
            stream = Stream(socket.socket(fileno=fd))
            self.taken.append(stream)
            self.clients.put(stream)
        if not self.lasting:
            rest, fds = receive_descriptors(sock)
            assert rest == b"" and not fds, f"{rest!r} came after the client"
            return False
        return True

    def read_on(self):
        self._may_read.set()

    def take(self):
        try:
            return self.clients.get(timeout=DEADLINE)
        except queue.Empty:
            raise Overdue(f"no client was handed over within {DEADLINE:g} s; {self.errors}") from None

    def close(self):
        self._may_read.set()
        _shut([self.listener])
        self._acceptor.join(DEADLINE)
        _shut(self._connections)  # when there come no more
        for thread in self._threads:
            thread.join(DEADLINE)
        self.listener.close()
        for stream in self.taken:
            stream.close()
        if self.errors:
            raise self.errors[0]
