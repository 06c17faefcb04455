"""Machines of their own for the documentation's tests: see programs/machine.py for what is on one.

Their network is a star: `home` has a cable to each of the others, and everybody knows the others' names.
"""

import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from . import units
from .namespaces import OWN_USERS, joined, unshared
from .router import KAISO, REPOSITORY, clean_environment
from .wait import DEADLINE, Overdue, wait_until

PROGRAM = REPOSITORY / "tests/integration/programs/machine.py"
ADDRESSES = {"home": "192.168.1.10", "laptop": "192.168.1.20", "attic": "192.168.1.30"}
MARK = "\x01done\x01"
SHELL = """sudo() { while [[ $1 == -* ]]; do shift; done; "$@"; }
"""


def install(directory):
    """What `make install` and the Debian package bring, below the prefix."""
    build = Path(KAISO).parent
    for path in ("bin", "lib/kaiso", "lib/systemd/system", "lib/systemd/user", "lib/sysusers.d", "lib/tmpfiles.d"):
        (directory / path).mkdir(parents=True)
    shutil.copy(KAISO, directory / "bin")
    shutil.copy(build / "libkaiso-preload.so", directory / "lib/kaiso")
    for name in ("expose", "inject", "passfd"):
        (directory / "bin" / f"kaiso-{name}").symlink_to("kaiso")
    for scope, place in (("", "system"), ("user/", "user")):
        for name in ("kaiso.socket", "kaiso.service", "kaiso-expose@.service", "kaiso-mirror@.service"):
            text = units.unit_path(scope + name).read_text()
            text = re.sub(r"/\S*/kaiso (?=serve|expose|mirror)", "/usr/local/bin/kaiso ", text)
            (directory / "lib/systemd" / place / name).write_text(text)
    for kind in ("sysusers", "tmpfiles"):
        shutil.copy(units.SOURCES / f"kaiso.{kind}", directory / f"lib/{kind}.d/kaiso.conf")
    ssh = directory / "share/you/.ssh"  # everybody's key opens every machine
    ssh.mkdir(mode=0o700, parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "id_ed25519"], check=True)
    (ssh / "authorized_keys").write_text((ssh / "id_ed25519.pub").read_text())
    directory.chmod(0o755)


class Machine:
    """One machine, and a shell on it."""

    def __init__(self, name, programs, hub=None):
        before = [*joined(hub.process.pid, "net"), "unshare", "--net", "--mount"] if hub else unshared("net", "mount")
        self.name = name
        self._words = [*before, "--pid", "--uts", "--fork", "--kill-child"]
        self._seen = b""
        ours, theirs = os.pipe()
        self._output = ours
        self.process = subprocess.Popen(
            [*self._words, "/usr/bin/python3", PROGRAM, name, REPOSITORY / "contrib", programs],
            stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=clean_environment(PYTHONDONTWRITEBYTECODE=1),
        )
        os.close(theirs)

    def network(self, *words):
        subprocess.run([*joined(self.process.pid, "net"), "ip", *words], check=True, timeout=DEADLINE)

    def begin(self):
        """The cables are there: the services, and the shell, may start."""
        self.network("link", "set", "lo", "up")
        self.process.stdin.write(b"\n" + SHELL.encode())
        self.process.stdin.flush()
        hosts = "".join(f"echo {address} {name} {name}.example >>/etc/hosts\n" for name, address in ADDRESSES.items())
        told = self.run(hosts)
        assert not told, told

    def run(self, command):
        """What the command says. One that stays in the background is waited for until it listens."""
        stays = re.search(r"&\s*(#.*)?$", command)
        listeners = self._listeners() if stays else set()
        self.process.stdin.write(f"{{ {command}\n}} </dev/null\necho '{MARK}'\n".encode())
        self.process.stdin.flush()
        told = self._read_to_mark(command)
        if stays:
            count = 2 if "passfd" in command else 1  # the socket for routers, and the server's own
            wait_until(lambda: len(self._listeners() - listeners) >= count,
                       lambda: f"this to listen: {command}\n{told}")
            settled = time.monotonic() + 0.2
            wait_until(lambda: time.monotonic() > settled, "what else it has to make")
        return told

    def _listeners(self):
        """The sockets that listen here; those for operators are made at another moment than those for clients."""
        of = f"/proc/{self.process.pid}/net"
        found = {("unix", line.split()[-1]) for line in Path(of, "unix").read_text().splitlines()
                 if line.split()[3] == "00010000" and not line.endswith("/control")}
        for kind in ("tcp", "tcp6"):
            found |= {(kind, line.split()[1], line.split()[9]) for line in Path(of, kind).read_text().splitlines()
                      if line.split()[3] == "0A"}
        return found

    def _read_to_mark(self, command):
        end = time.monotonic() + DEADLINE
        mark = MARK.encode() + b"\n"
        while mark not in self._seen:
            if not select.select([self._output], [], [], max(end - time.monotonic(), 0))[0]:
                raise Overdue(f"still running: {command}\n{self._seen.decode(errors='replace')}")
            data = os.read(self._output, 65536)
            if not data:
                raise Overdue(f"{self.name} went down at: {command}\n{self._seen.decode(errors='replace')}")
            self._seen += data
        told, _, self._seen = self._seen.partition(mark)
        return told.decode(errors="replace")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        os.close(self._output)


class Machines:
    """home, and the others as they are asked for by name."""

    def __init__(self, directory, names):
        if unshared("net", "mount")[1] == OWN_USERS[0] or os.geteuid() != 0:
            pytest.skip("only root can make machines with several users")
        if subprocess.run([*unshared("net"), "ip", "link", "add", "probe", "type", "veth"], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            pytest.skip("this kernel has no cables (veth)")
        self._all = {}
        programs = directory / "programs"
        install(programs)
        try:
            for name in ["home", *sorted(set(names) - {"home"})]:
                machine = self._all[name] = Machine(name, programs, self._all.get("home"))
                wait_until(lambda machine=machine: self._has_network(machine), f"the network of {name}")
                if name != "home":
                    self._connect(machine)
            for machine in self._all.values():
                machine.begin()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _has_network(machine):
        assert machine.process.poll() is None, f"{machine.name} did not come up"
        try:
            # The last of its namespaces, which is there when its first process is.
            return os.readlink(f"/proc/{machine.process.pid}/ns/pid_for_children") != os.readlink("/proc/self/ns/pid")
        except FileNotFoundError:
            return False

    def _connect(self, machine):
        home = self._all["home"]
        cable = ["type", "veth", "peer", "name", "cable", "netns", str(machine.process.pid)]
        home.network("link", "add", machine.name, *cable)
        for at, device, peer in ((home, machine.name, machine), (machine, "cable", home)):
            at.network("address", "add", ADDRESSES[at.name], "peer", ADDRESSES[peer.name], "dev", device)
            at.network("link", "set", device, "up")

    def __getitem__(self, name):
        return self._all[name]

    def close(self):
        for machine in reversed(self._all.values()):
            machine.close()
