"""Real name servers with a zone of the test's own: dnsmasq and unbound, on a free port of a loopback address."""

import itertools
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from .wait import DEADLINE, wait_until

_serials = itertools.count(1)
PROGRAMS = {"dnsmasq": "/usr/sbin/dnsmasq", "unbound": "/usr/sbin/unbound"}


def free_port(host="127.0.0.1"):
    """A port that is free over UDP and TCP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family) as tcp:
            udp.bind((host, 0))
            try:
                tcp.bind((host, udp.getsockname()[1]))
            except OSError:
                continue
            return udp.getsockname()[1]


def ask_address(server, port, name):
    """How many addresses a name server has for a name: -1 when it does not answer."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        try:
            sock.connect((server, port))
            sock.send(struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1))
            return struct.unpack(">H", sock.recv(512)[6:8])[0]
        except OSError:
            return -1


class NameServer:
    """zone: {service name: [(priority, weight, port, host), ...]}; hosts: {name: address}; all for ttl seconds.

    Every name below "test" that is in neither does not exist.
    """

    def __init__(self, program, host="127.0.0.1"):
        if not shutil.which(PROGRAMS[program]):
            pytest.skip(f"{program} is not installed: tools/deps test")
        self.program = program
        self.host = host
        self.zone, self.hosts, self.ttl = {}, {}, 1
        self.process = None
        self.directory = Path(tempfile.mkdtemp(prefix="kaiso-dns-"))
        self.port = free_port(host)

    @property
    def address(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def _dnsmasq(self, serial):
        yield from ("no-resolv", "no-hosts", "bind-interfaces", "cache-size=0", "local=/test/", "pid-file=", "keep-in-foreground",
                    "log-facility=-", f"listen-address={self.host}", f"port={self.port}", f"local-ttl={self.ttl}", "user=root",
                    f"host-record={serial},127.0.0.1")
        for name, targets in self.zone.items():
            for priority, weight, port, host in targets:
                yield f"srv-host={name}" if host == "." else f"srv-host={name},{host},{port},{priority},{weight}"
        for name, address in self.hosts.items():
            yield f"host-record={name},{address}"

    def _unbound(self, serial):
        yield from ("server:", "do-daemonize: no", 'chroot: ""', 'username: ""', f'directory: "{self.directory}"', 'pidfile: ""',
                    "use-syslog: no", 'logfile: ""', 'module-config: "iterator"', f"interface: {self.host}@{self.port}",
                    "num-threads: 1", 'local-zone: "test." static', f'local-data: "{serial}. 1 IN A 127.0.0.1"')
        for name, targets in self.zone.items():
            for priority, weight, port, host in targets:
                yield f'local-data: "{name}. {self.ttl} IN SRV {priority} {weight} {port} {host.rstrip(".")}."'
        for name, address in self.hosts.items():
            yield f'local-data: "{name}. {self.ttl} IN {"AAAA" if ":" in address else "A"} {address}"'

    def _write(self):
        serial = f"serial{next(_serials)}.test"
        lines = (self._dnsmasq if self.program == "dnsmasq" else self._unbound)(serial)
        (self.directory / "conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return serial

    def start(self):
        serial = self._write()
        option = ["-C" if self.program == "dnsmasq" else "-c", str(self.directory / "conf")]
        self.process = subprocess.Popen([PROGRAMS[self.program], *option], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=open(self.directory / "log", "ab"))
        self._await(serial)
        return self

    def reload(self):
        """What was changed counts from now on. dnsmasq reads its records only at its start."""
        if self.program == "dnsmasq":
            self.stop()
            self.start()
        else:
            serial = self._write()
            self.process.send_signal(signal.SIGHUP)
            self._await(serial)

    def _await(self, serial):
        def is_there():
            assert self.process.poll() is None, f"{self.program} ended: {(self.directory / 'log').read_text()}"
            return ask_address(self.host, self.port, serial) == 1

        wait_until(is_there, f"{self.program} to answer")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(DEADLINE)

    def close(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def new_name_server():
    """Makes name servers: new_name_server(program, zone, hosts, ttl=1, host=...)."""
    servers = []

    def make(program, zone, hosts, ttl=1, **how):
        server = NameServer(program, **how)
        servers.append(server)
        server.zone, server.hosts, server.ttl = zone, hosts, ttl
        return server.start()

    yield make
    for server in servers:
        server.close()
