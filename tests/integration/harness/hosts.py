"""Hosts of their own: network namespaces."""

import socket
import subprocess
import sys

from .namespaces import joined, unshared
from .wait import DEADLINE

# Makes a socket on its host and sends it to who asked, over standard output.
SOCKET_MAKER = """
import os, socket, sys
how, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
sock = socket.socket()
if how == "listen":
    sock.bind((address, port))
    sock.listen(64)
else:
    sock.settimeout(10)
    sock.connect((address, port))
socket.send_fds(socket.socket(fileno=1), [b"*"], [sock.fileno()])
"""


class Host:
    """A network of its own, as long as its process lives. inside: another host, whose administrator is this one's."""

    def __init__(self, inside=None):
        before = [*joined(inside.pid, "net"), "unshare", "--net"] if inside else unshared("net")
        self.process = subprocess.Popen([*before, "sh", "-c", "ip link set lo up && echo && exec cat"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"\n", "a host did not come up"
        self.pid = self.process.pid
        self.words = joined(self.pid, "net")

    def ip(self, *words):
        subprocess.run([*self.words, "ip", *words], check=True, timeout=DEADLINE)

    def socket(self, how, address, port):
        """A socket of this host: "listen", or "connect"."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            subprocess.run([*self.words, sys.executable, "-c", SOCKET_MAKER, how, address, str(port)], check=True,
                           timeout=DEADLINE, stdout=theirs)
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=fd)

    def close(self):
        self.process.stdin.close()
        self.process.wait(DEADLINE)
        self.process.stdout.close()
