"""Starts the contenders of a benchmark: kaiso and what people take instead, each set up as well as we know how.

    with contextlib.closing ... no: router = start(kind, directory, target, kaiso); ...; router.stop()

Every contender listens on a free port of 127.0.0.1 and connects each client to one target, "unix:/path/to/socket" or
"127.0.0.1:PORT". Each has one thread, or one worker, or (socat) one process a client. Nothing is logged but mistakes.
"""

import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

KINDS = ("kaiso", "haproxy", "haproxy, splice", "nginx", "systemd-socket-proxyd", "socat")

# Of each kind: its program, the word that makes it tell its version, the Debian package that has it.
PROGRAMS = {
    "kaiso": ("kaiso", "--version", "kaiso"),
    "haproxy": ("haproxy", "-v", "haproxy"),
    "haproxy, splice": ("haproxy", "-v", "haproxy"),
    "nginx": ("nginx", "-v", "nginx-light libnginx-mod-stream"),
    "systemd-socket-proxyd": ("systemd-socket-proxyd", "--version", "systemd"),
    "socat": ("socat", "-V", "socat"),
}
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/lib/systemd", "/usr/lib/systemd"))
NGINX_STREAM = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
CLIENTS = 20000  # at most, where DESCRIPTORS permit
BACKLOG = 4096
TICKS = os.sysconf("SC_CLK_TCK")
TIME_TO_START = 10
TIME_TO_STOP = 5


def kaiso_words(program: str, directory: pathlib.Path, port: int, target: str) -> list[str]:
    """A service that is a link to the target's socket, or a description of where the target is."""
    services = directory / "services"
    services.mkdir()
    if target.startswith("unix:"):
        (services / "service").symlink_to(pathlib.Path(target.removeprefix("unix:")).resolve())
    else:
        (services / "service").write_text(f"{target}\n")
    return [program, "serve", "--threads", "1", "--services", str(services), "--log-level", "warning",
            f"127.0.0.1:{port}"]


def haproxy_words(program: str, directory: pathlib.Path, port: int, target: str, splice: bool) -> list[str]:
    bufsize = os.environ.get("BUFSIZE", "65536")
    pipes = 1024 if splice else 0  # two for each client that moves bulk, two descriptors each
    clients = min(CLIENTS, (DESCRIPTORS - 2 * pipes - 100) // 2)
    file = directory / "haproxy.cfg"
    file.write_text(f"""\
global
    nbthread 1
    maxconn {clients}
    tune.bufsize {bufsize}
    {f"maxpipes {pipes}" if splice else "nosplice"}
    {"tune.pipesize 262144" if splice else ""}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    {os.environ.get("SPLICE", "option splice-request") if splice else ""}
    {"option splice-response" if splice and not "SPLICE" in os.environ else ""}
    {os.environ.get("SMART", "")}
listen service
    bind 127.0.0.1:{port}
    backlog {BACKLOG}
    server target {target.replace("unix:", "unix@")}
""")
    return [program, "-db", "-q", "-f", str(file)]


def nginx_words(program: str, directory: pathlib.Path, port: int, target: str) -> list[str]:
    file = directory / "nginx.conf"
    file.write_text(f"""\
{f"load_module {NGINX_STREAM};" if NGINX_STREAM.exists() else ""}
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
pid {directory}/pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile {DESCRIPTORS};
events {{ worker_connections {min(2 * CLIENTS, DESCRIPTORS)}; }}
stream {{
    access_log off;
    tcp_nodelay on;
    proxy_buffer_size {os.environ.get("NGBUF", "64k")};
    proxy_timeout 1h;
    server {{
        listen 127.0.0.1:{port} backlog={BACKLOG};
        proxy_pass {target};
    }}
}}
""")
    return [program, "-e", "stderr", "-p", str(directory), "-c", str(file)]


def proxyd_words(program: str, target: str) -> list[str]:
    """Its listening socket is standard input, and handed on as a service manager would, which also ignores SIGPIPE for
    its services (IgnoreSIGPIPE= of systemd.exec(5)): else the first client to leave early ends it for all."""
    take_over = 'trap "" PIPE; exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    return ["/bin/sh", "-c", take_over, "sh", program, f"--connections-max={CLIENTS}", "--exit-idle-time=infinity",
            target.removeprefix("unix:")]


def socat_words(program: str, port: int, target: str) -> list[str]:
    goal = f"UNIX-CONNECT:{target.removeprefix('unix:')}" if target.startswith("unix:") else f"TCP:{target},nodelay"
    return [program, "-t", "60", "-b", os.environ.get("SOBUF", "65536"),
            f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog={BACKLOG}", goal]


def find_program(kind: str, kaiso: str | os.PathLike) -> str:
    name, _, packages = PROGRAMS[kind]
    found = shutil.which(kaiso if name == "kaiso" else name, path=SEARCH)
    if not found:
        raise FileNotFoundError(f"{name} is not here; try apt-get install {packages}")
    return os.path.abspath(found)


def version_of(kind: str, program: str) -> str:
    run = subprocess.run([program, PROGRAMS[kind][1]], capture_output=True, text=True, check=True)
    return re.search(r"\d+(\.\d+)*", run.stdout + run.stderr)[0]


def versions(kaiso: str | os.PathLike = "kaiso") -> dict[str, str]:
    """Program -> version, of the programs that are here."""
    known = {}
    for kind, (name, _, _) in PROGRAMS.items():
        with contextlib.suppress(FileNotFoundError):
            known[name] = version_of(kind, find_program(kind, kaiso))
    return known


class Router:
    """A contender that runs. All its processes are of one session (setsid(2)), which is how they are found."""

    def __init__(self, kind: str, version: str, port: int, process: subprocess.Popen):
        self.name, self.version, self.place = kind, version, f"127.0.0.1:{port}"
        self.line = "service" if kind == "kaiso" else ""
        self.main = process

    def processes(self, ended: bool) -> dict[int, float]:
        """pid -> CPU seconds of the children that it has waited for. With those that ended and nobody has waited for?"""
        found = {}
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, *numbers = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if int(numbers[2]) == self.main.pid and (ended or state not in "ZX"):
                    found[pid] = (int(numbers[12]) + int(numbers[13])) / TICKS
        return found

    def pids(self) -> list[int]:
        return list(self.processes(ended=False))

    def cpu_seconds(self) -> float:
        """Used so far by all its processes: to the nanosecond by those there are, to a tick (10 ms) by all that ended.

        A child that ends while this reads might be in neither sum or in both: then it reads again.
        """
        for _ in range(100):
            with contextlib.suppress(OSError):
                waited = self.processes(ended=True)
                clocks = sum(time.clock_gettime(~pid << 3 | 2) for pid in waited)  # see clock_getcpuclockid(3)
                if self.processes(ended=True) == waited:
                    return clocks + sum(waited.values())
        raise RuntimeError(f"{self.name} starts and ends processes too fast to be measured")

    def memory_bytes(self) -> int:
        """Anonymous memory: heaps, stacks and written data, in or out of swap; pages that processes share since a fork
        count once. Not its program and libraries, and nothing of what the kernel keeps for it: socket buffers, pipes,
        page tables, and the processes themselves."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += sum(int(kib) << 10 for kib in re.findall(r"^(?:Pss_Anon|Pss_Shmem|SwapPss): *(\d+)", text, re.M))
        return total

    def descriptors(self) -> int:
        total = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += len(os.listdir(f"/proc/{pid}/fd"))
        return total

    def stop(self) -> None:
        """Ends its processes, and is back when there are none; those that take too long are killed."""
        end = time.monotonic() + TIME_TO_STOP
        self.send(signal.SIGTERM)
        while self.pids():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
            time.sleep(0.01)
        self.main.wait()  # not before: as long as it is not waited for, its pid, and so its session, is nobody else's

    def send(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def answers(port: int) -> bool:
    with socket.socket() as probe:  # which must not have found itself, as a free port may be given to it
        return probe.connect_ex(("127.0.0.1", port)) == 0 and probe.getsockname() != probe.getpeername()


def start(kind: str, directory: pathlib.Path, target: str, kaiso: str | os.PathLike, core: int | None = None) -> Router:
    """Starts a contender, on one processor if it is named; its files go below the directory."""
    program = find_program(kind, kaiso)
    version = version_of(kind, program)
    directory = pathlib.Path(tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", kind) + ".", dir=directory.resolve()))
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        port = listener.getsockname()[1]
        words = {"kaiso": lambda: kaiso_words(program, directory, port, target),
                 "haproxy": lambda: haproxy_words(program, directory, port, target, splice=False),
                 "haproxy, splice": lambda: haproxy_words(program, directory, port, target, splice=True),
                 "nginx": lambda: nginx_words(program, directory, port, target),
                 "systemd-socket-proxyd": lambda: proxyd_words(program, target),
                 "socat": lambda: socat_words(program, port, target)}[kind]()

        def prepare():
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            if core is not None:
                os.sched_setaffinity(0, {core})

        takes_over = kind == "systemd-socket-proxyd"
        if not takes_over:
            listener.close()
        log = directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(words, stdin=listener if takes_over else subprocess.DEVNULL, stdout=output,
                                       stderr=output, start_new_session=True, preexec_fn=prepare)
    router = Router(kind, version, port, process)
    end = time.monotonic() + TIME_TO_START
    while not answers(port):
        if not router.pids() or time.monotonic() > end:
            router.stop()
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise RuntimeError(f"{kind} did not come up at {router.place}; its log ends with:\n{tail}")
        time.sleep(0.01)
    return router
