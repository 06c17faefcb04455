#!/usr/bin/python3
"""The first process of a machine of the documentation's tests: a Debian with kaiso installed, without a boot.

    machine.py NAME CONTRIBUTED PROGRAMS    in new network, mount, PID and UTS namespaces, as root

It hides what the machine's commands could change (/etc, /run, /home and the like) behind copies in memory, has systemd's
own tools make the group and the directories, runs systemd's own journal, and a shell that reads commands from standard
input. systemd itself needs a boot. `systemctl` is a script that asks this process over a socket: it reads the units
that systemd would, drop-ins included, and starts what they say, as which user, with which sockets and variables. It
does not confine it as they say; test_systemd.py is about that.
"""

import contextlib
import ctypes
import os
import pwd
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

HIDDEN = ["/run", "/usr/local", "/home", "/root", "/srv", "/tmp", "/var/log", "/var/www", "/var/lib/nginx",
          "/var/lib/redis", "/usr/share/doc"]
HOME = "/home/you"
MS_BIND = 0x1000
VERBS = ("start", "stop", "restart", "reload", "enable", "disable", "is-active", "cat")
ASK = "/run/machine"  # where systemctl asks
UNITS = {"system": ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system"],
         "user": [f"{HOME}/.config/systemd/user", "/usr/local/lib/systemd/user"]}
FOREIGN = {  # what Debian's own units start, in the foreground
    "ssh.service": ["/usr/sbin/sshd", "-D", "-e"],
    "nginx.service": ["/usr/sbin/nginx", "-g", "daemon off;"],
    "redis-server.service": ["/usr/bin/redis-server", "/etc/redis/redis.conf", "--daemonize", "no", "--save", ""],
}
SYSTEMCTL = """#!/usr/bin/python3
import socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect("%s")
    asked.sendall("\\0".join(sys.argv[1:]).encode())
    asked.shutdown(socket.SHUT_WR)
    answer = b"".join(iter(lambda: asked.recv(4096), b"")).decode()
sys.stdout.write(answer[1:])
sys.exit(int(answer[0]))
""" % ASK


def run(*words, **how):
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **how)


def mount(source, target, kind, flags=0):
    if ctypes.CDLL(None, use_errno=True).mount(source.encode(), target.encode(), kind.encode(), flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def furnish(programs, contributed):
    """The file system."""
    mount("machine", "/mnt", "tmpfs")
    shutil.copytree("/etc", "/mnt/etc", symlinks=True)
    for path in HIDDEN:
        os.makedirs("/mnt" + path)
    shutil.copytree(programs, "/mnt/usr/local", symlinks=True, dirs_exist_ok=True)
    shutil.copytree(contributed, "/mnt/usr/share/doc/kaiso/examples")
    shutil.copytree(Path(programs, "share/you"), "/mnt" + HOME)
    for path in ["/etc", *HIDDEN]:
        if os.path.isdir(path):
            mount("/mnt" + path, path, "", MS_BIND)
    mount("proc", "/proc", "proc")
    for path in ("/run/sshd", "/run/systemd/journal", "/run/user/0", "/run/redis", "/var/log/nginx", "/var/log/redis",
                 "/var/www/html"):
        os.makedirs(path, exist_ok=True)
    users = Path("/etc/passwd")  # who reads is root here, and lives where people do
    users.write_text(re.sub(r"^(root:.*:)/root:", rf"\1{HOME}:", users.read_text(), flags=re.MULTILINE))
    os.chmod("/tmp", 0o1777)
    os.chmod("/run/redis", 0o777)
    for name in ("sites-enabled", "conf.d"):
        for path in Path("/etc/nginx", name).glob("*"):
            path.unlink()
    Path("/etc/systemd/journald.conf").write_text(
        "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\n")
    Path("/etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    keys = " ".join(Path("/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])
    Path("/etc/ssh/ssh_known_hosts").write_text(f"* {keys}\n")
    run("systemd-sysusers", "/usr/local/lib/sysusers.d/kaiso.conf", stderr=subprocess.DEVNULL)
    run("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/kaiso.conf", stderr=subprocess.DEVNULL)
    Path("/usr/local/bin/systemctl").write_text(SYSTEMCTL)
    os.chmod("/usr/local/bin/systemctl", 0o755)


# ---- the journal

class Journal:
    PATH = "/run/systemd/journal/socket"

    def __init__(self):
        subprocess.Popen(["/lib/systemd/systemd-journald"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        while self._socket.connect_ex(self.PATH) != 0:
            pass

    def take(self, field, name, stream):
        """Each line of a service, until it ends. This is process 1, which journald believes what unit it speaks of."""
        for line in stream:
            level, text = re.fullmatch(r"(?:<(\d)>)?(.*)\n?", line.decode(errors="replace")).groups()
            self._socket.send(f"{field}\nSYSLOG_IDENTIFIER={name}\nPRIORITY={level or 6}\nMESSAGE={text}\n".encode())


# ---- units

class Refused(Exception):
    """What systemctl is to say."""


class Unit:
    def __init__(self, name, scope):
        self.name, self.scope = name, scope
        self.key = name if scope == "system" else f"user/{name}"
        stem, _, kind = name.rpartition(".")
        self.instance = stem.partition("@")[2]
        template = re.sub(r"@[^.]*\.", "@.", name)
        files = [Path(directory, one) for directory in UNITS[scope] for one in (name, template)]
        main = next((path for path in files if path.exists()), None)
        if main is None:
            raise Refused(f"Unit {name} could not be found.")
        drop_ins = [path for file in {*files} for path in Path(f"{file}.d").glob("*.conf")]
        self.settings = {}
        self.files = [main, *sorted(drop_ins, key=lambda path: path.name)]
        for path in self.files:
            for key, value in re.findall(r"^([A-Za-z]\w*)=(.*)$", path.read_text().replace("\\\n", " "), re.MULTILINE):
                if value:
                    self.settings.setdefault(key, []).append(self.specified(value))
                else:
                    self.settings.pop(key, None)
        self.kind = kind

    def specified(self, value):
        return value.replace("%i", self.instance).replace("%E", f"{HOME}/.config" if self.scope == "user" else "/etc")

    def get(self, key, default=""):
        return self.settings.get(key, [default])[-1]

    def variables(self):
        found = {}
        for value in self.settings.get("Environment", []):
            found.update(word.split("=", 1) for word in shlex.split(value))
        for path in self.settings.get("EnvironmentFile", []):
            found.update(line.split("=", 1) for line in Path(path).read_text().splitlines() if "=" in line)
        return found

    def command(self, key, variables):
        """As systemd.service(5) has it: ${NAME} is one word, $NAME any number of them."""
        words = []
        for word in shlex.split(self.get(key).lstrip("-")):
            name = re.fullmatch(r"\$(\w+)", word)
            words += variables[name[1]].split() if name else [re.sub(r"\$\{(\w+)\}", lambda m: variables[m[1]], word)]
        return [word.replace("$$", "$") for word in words]


def listening():
    """What listens on TCP here: addresses as the kernel writes them."""
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path("/proc/net", kind).read_text().splitlines()]
    return {line[1] for line in lines if line[3] == "0A"}


class Manager:
    def __init__(self, journal):
        self.journal = journal
        self.processes, self.listeners = {}, {}
        self.lock = threading.Lock()

    def verify(self, unit):
        """By systemd itself; what it says of other units is none of ours."""
        told = subprocess.run(["systemd-analyze", f"--{unit.scope}", "--man=no", "verify", unit.name], check=False,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env={**os.environ, "SYSTEMD_UNIT_PATH": ":".join(UNITS[unit.scope]) + ":"})
        about = [line for line in told.stderr.splitlines() if unit.name in line or "kaiso" in line]
        if about:
            raise Refused("\n".join(about))

    # -- sockets

    def listen(self, unit):
        sockets = []
        for address in unit.settings["ListenStream"]:
            if address.startswith("/"):
                listener = socket.socket(socket.AF_UNIX)
                os.makedirs(os.path.dirname(address), exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address)
                listener.bind(address)
                os.chmod(address, int(unit.get("SocketMode", "0666"), 8))
            else:
                host, _, port = address.rpartition(":")
                listener = socket.socket(socket.AF_INET6 if not host or "[" in host else socket.AF_INET)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if listener.family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY,
                                        bool(host) or unit.get("BindIPv6Only") == "ipv6-only")
                listener.bind((host.strip("[]") or "::", int(port)))
            listener.listen(int(unit.get("Backlog", "128")))
            sockets.append(listener)
        self.listeners[unit.key] = sockets
        if unit.get("Accept") in ("yes", "true"):
            for listener in sockets:
                threading.Thread(target=self.accept, args=(unit, listener), daemon=True).start()
        else:
            threading.Thread(target=self.await_client, args=(unit, sockets), daemon=True).start()

    def await_client(self, unit, sockets):
        """The service is started for the first one, if it was not before."""
        select.select(sockets, [], [])
        with self.lock:
            if self.listeners.get(unit.key) is sockets:
                self.start(Unit(unit.name.replace(".socket", ".service"), unit.scope))

    def accept(self, unit, listener):
        number = 0
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                service = Unit(unit.name.replace(".socket", f"@{number}.service"), unit.scope)
                number += 1
                with client:
                    subprocess.Popen(service.command("ExecStart", service.variables()), stdin=client, stdout=client,
                                     **self.identity(service)[0])

    # -- services

    def identity(self, unit):
        """Arguments of Popen, and the user and group of its directories."""
        user, group = (-1, -1)
        if unit.scope == "system":
            if unit.get("DynamicUser") == "yes":
                user, group = 61184, shutil._get_gid(unit.get("Group", "nogroup"))
            elif unit.get("User"):
                user = pwd.getpwnam(unit.get("User")).pw_uid
                group = shutil._get_gid(unit.get("Group")) if unit.get("Group") else pwd.getpwuid(user).pw_gid
        changed = {"user": user, "group": group, "extra_groups": []} if user >= 0 else {}
        return {**changed, "umask": int(unit.get("UMask", "0022"), 8)}, user, group

    def start(self, unit):
        if unit.key in self.processes and self.processes[unit.key].poll() is None:
            return
        if unit.kind == "socket":
            if unit.key not in self.listeners:
                self.listen(unit)
            return
        variables = unit.variables()
        how, user, group = self.identity(unit)
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables}
        if unit.scope == "user":
            environment["HOME"] = HOME
        for name in unit.get("RuntimeDirectory").split():
            directory = Path("/run" if unit.scope == "system" else "/run/user/0", name)
            directory.mkdir(parents=True, exist_ok=True)
            os.chmod(directory, int(unit.get("RuntimeDirectoryMode", "0755"), 8))
            os.chown(directory, user, group)
            environment["RUNTIME_DIRECTORY"] = str(directory)
        for name in unit.get("ConfigurationDirectory").split():
            os.makedirs(f"{HOME}/.config/{name}", exist_ok=True)
        sockets = self.listeners.get(unit.key.replace(".service", ".socket"), [])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            path = f"/run/notify-{unit.scope}-{unit.name}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            notify.bind(path)
            os.chmod(path, 0o666)
            notify.settimeout(10)
            if unit.get("Type") == "notify":
                environment["NOTIFY_SOCKET"] = path
            self.spawn(unit, unit.command("ExecStart", variables), environment, how, sockets)
            while unit.get("Type") == "notify":
                try:
                    if b"READY=1" in notify.recv(4096):
                        break
                except TimeoutError:
                    raise Refused(f"Job for {unit.name} failed.") from None

    def spawn(self, unit, words, environment, how, sockets):
        """With sockets from descriptor 3 on, and its log a pipe that it is told is the journal."""
        reader, writer = os.pipe()
        status = os.fstat(writer)
        environment["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
        before = []
        if sockets:
            # The shell puts them where they belong, and knows the number of the process.
            moves = " ".join(f"{3 + number}<&{one.fileno()}" for number, one in enumerate(sockets))
            closes = " ".join(f"{one.fileno()}<&-" for one in sockets if one.fileno() >= 3 + len(sockets))
            before = ["bash", "-c", f'exec {moves} {closes}; LISTEN_FDS={len(sockets)} LISTEN_PID=$$ exec "$@"', "sh"]
        self.processes[unit.key] = subprocess.Popen(
            [*before, *words], stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=environment, cwd="/",
            pass_fds=[one.fileno() for one in sockets], **how)
        os.close(writer)
        field = "UNIT" if unit.scope == "system" else "USER_UNIT"
        threading.Thread(target=self.journal.take, daemon=True,
                         args=(f"{field}={unit.name}", os.path.basename(words[0]), os.fdopen(reader, "rb"))).start()

    def reload(self, unit):
        process = self.processes[unit.key]
        words = unit.command("ExecReload", {"MAINPID": str(process.pid)})
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)

    def stop(self, unit):
        listeners = self.listeners.pop(unit.key, [])
        process = self.processes.pop(unit.key, None)
        if process:
            process.terminate()
            process.wait(15)
        for listener in listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def foreign(self, verb, name):
        if verb in ("stop", "restart") and name in self.processes:
            process = self.processes.pop(name)
            process.terminate()
            process.wait(15)
        elif verb == "reload" and name in self.processes:
            self.processes[name].send_signal(signal.SIGHUP)
            return
        if verb != "stop" and name not in self.processes:
            before = listening()
            if Path(f"/etc/systemd/system/{name}.d").exists():
                self.start(Unit(name, "system"))
            else:
                self.processes[name] = subprocess.Popen(FOREIGN[name], stdin=subprocess.DEVNULL,
                                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            end = time.monotonic() + 10
            while not listening() - before and time.monotonic() < end:
                time.sleep(0.01)

    # -- systemctl

    def do(self, words):
        scope = "user" if "--user" in words else "system"
        options = {word for word in words if word.startswith("-")} - {"--user"}
        verb, *names = [word for word in words if not word.startswith("-")]
        if verb == "daemon-reload" and not names + list(options):
            return ""  # they are read when they are needed
        if options - {"--now"} or verb not in VERBS:
            raise Refused(f"the machine of the tests has no `systemctl {' '.join(words)}`")
        names = [name if re.search(r"\.(service|socket)$", name) else f"{name}.service" for name in names]
        if verb == "is-active":
            return "".join("active\n" if name in {*self.processes, *self.listeners} else "inactive\n" for name in names)
        if verb == "cat":
            return "\n".join(f"# {path}\n{path.read_text()}" for name in names for path in Unit(name, scope).files)
        if names[0] in FOREIGN:
            if Path(f"/etc/systemd/system/{names[0]}.d").exists():
                self.verify(Unit(names[0], scope))
            self.foreign("start" if verb == "enable" else verb, names[0])
            return ""
        units = [Unit(name, scope) for name in names]
        for unit in units:
            if verb in ("start", "restart", "enable"):
                self.verify(unit)
        # Who requires a socket is restarted with it.
        if verb == "restart" and names == ["kaiso.socket"]:
            units.append(Unit("kaiso.service", scope))
        for unit in reversed(units):
            if verb in ("stop", "restart") or (verb == "disable" and "--now" in options):
                self.stop(unit)
        for unit in units:
            if verb in ("start", "restart") or (verb == "enable" and "--now" in options):
                self.start(unit)
            elif verb == "reload":
                self.reload(unit)
        return ""

    def serve(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(ASK)
        listener.listen()
        while True:
            asker, _ = listener.accept()
            with asker, asker.makefile("r", newline="") as words:
                try:
                    with self.lock:
                        answer = "0" + self.do(words.read().split("\0"))
                except Exception as error:  # told to the asker
                    answer = f"1{error if isinstance(error, Refused) else repr(error)}\n"
                asker.sendall(answer.encode())


def main(name, contributed, programs):
    socket.sethostname(name)
    furnish(programs, contributed)
    os.environ.update(HOME=HOME, USER="root", PATH="/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL="C.UTF-8",
                      TZ="UTC", XDG_RUNTIME_DIR="/run/user/0", SYSTEMD_PAGER="", PWD=HOME)
    os.chdir(HOME)
    manager = Manager(Journal())
    threading.Thread(target=manager.serve, daemon=True).start()
    # The cables come after the namespaces: whoever made them says when.
    sys.stdin.buffer.raw.read(1)
    manager.do(["start", "ssh"])
    with manager.lock:
        for unit in ("kaiso.socket", "kaiso.service"):
            manager.start(Unit(unit, "system"))
    sys.exit(subprocess.run(["bash", "--norc"], check=False).returncode)


main(*sys.argv[1:])
