"""Starts the contenders of a benchmark: kaiso and what people take instead, each set up as well as we know how.

    router = start("nginx", directory, "unix:/run/service.sock", "build/kaiso", core=1)
    ...  # clients connect to router.place and send router.line, if there is one
    router.stop()

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
from collections.abc import Callable

# Program -> the word that makes it tell its version, the Debian packages that have it.
PROGRAMS = {"kaiso": ("--version", "kaiso"), "haproxy": ("-v", "haproxy"), "socat": ("-V", "socat"),
            "nginx": ("-v", "nginx-light libnginx-mod-stream"), "systemd-socket-proxyd": ("--version", "systemd")}
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/lib/systemd", "/usr/lib/systemd"))
NGINX_STREAM = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
CLIENTS, BACKLOG = 20000, 4096  # clients at most, where DESCRIPTORS permit

# Of the peers that copy, because it is best for them. Medians of HAProxy on an EPYC, router alone on its core, one and
# eight streams, GB/s (and CPU s/GB):     16384        65536       131072       262144       524288
#   upload to a UNIX socket, 1     1.6 (0.53)   2.4 (0.33)   2.4 (0.32)   2.6 (0.27)   2.5 (0.27)
#                            8     1.6 (0.61)   2.1 (0.47)   2.4 (0.41)   2.9 (0.34)   3.0 (0.32)
#   download from one,       1     2.3 (0.41)   3.8 (0.24)   4.2 (0.21)   4.9 (0.20)   4.2 (0.23)
#                            8     1.8 (0.54)   4.5 (0.22)   5.4 (0.18)   5.4 (0.18)   4.8 (0.22)
# nginx and socat gain as much. It changes neither ping-pongs, nor short connections, nor the memory of idle ones.
COPY_BUFFER = 262144
TICKS = os.sysconf("SC_CLK_TCK")
TIME_TO_START, TIME_TO_STOP = 10, 5


def kaiso_words(program: str, directory: pathlib.Path, port: int, target: str) -> list[str]:
    """The directory where the target's socket is called "service", or one with a description of where the target is."""
    if target.startswith("unix:"):
        services = pathlib.Path(target.removeprefix("unix:")).parent
    else:
        services = directory / "services"
        services.mkdir()
        (services / "service").write_text(f"{target}\n")
    return [program, "serve", "--threads", "1", "--services", str(services), "--log-level", "warning",
            f"127.0.0.1:{port}"]


def haproxy_words(program: str, directory: pathlib.Path, port: int, target: str, splice: bool = False,
                  buffer: int = COPY_BUFFER) -> list[str]:
    """option splice-auto never splices here, these two do. tcp-smart-accept and tcp-smart-connect change nothing."""
    pipes = 1024 if splice else 0  # of two descriptors each; one for each direction that has something in transit
    clients = min(CLIENTS, (DESCRIPTORS - 2 * pipes - 100) // 2)
    file = directory / "haproxy.cfg"
    file.write_text(f"""\
global
    nbthread 1
    maxconn {clients}
    tune.bufsize {buffer}
    tune.pipesize 262144
    {f"maxpipes {pipes}" if splice else "nosplice"}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    {"option splice-request" if splice else ""}
    {"option splice-response" if splice else ""}
listen service
    bind 127.0.0.1:{port} backlog {BACKLOG}
    server target {target.replace("unix:", "unix@")}
""")
    return [program, "-db", "-f", str(file)]


def nginx_words(program: str, directory: pathlib.Path, port: int, target: str,
                buffer: int = COPY_BUFFER) -> list[str]:
    """Where the worker runs as root, it may open the target as the others may."""
    file = directory / "nginx.conf"
    file.write_text(f"""\
{f"load_module {NGINX_STREAM};" if NGINX_STREAM.exists() else ""}
daemon off; worker_processes 1; worker_rlimit_nofile {DESCRIPTORS};
{"user root;" if os.geteuid() == 0 else ""}
pid {directory}/pid; error_log stderr warn;
events {{ worker_connections {min(2 * CLIENTS, DESCRIPTORS)}; }}
stream {{
    access_log off; tcp_nodelay on;
    proxy_buffer_size {buffer};
    proxy_timeout 1h;
    server {{ listen 127.0.0.1:{port} backlog={BACKLOG}; proxy_pass {target}; }}
}}
""")
    return [program, "-e", "stderr", "-p", str(directory), "-c", str(file)]


def proxyd_words(program: str, _directory: pathlib.Path, _port: int, target: str) -> list[str]:
    """Its listening socket is standard input, and handed on as a service manager would. That ignores SIGPIPE too
    (IgnoreSIGPIPE= of systemd.exec(5)): else the first client to leave early ends it for all. It takes six descriptors
    a client, two pipes among them."""
    take_over = 'trap "" PIPE; exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    return ["/bin/sh", "-c", take_over, "sh", program, f"--connections-max={CLIENTS}", "--exit-idle-time=infinity",
            target.removeprefix("unix:")]


def socat_words(program: str, _directory: pathlib.Path, port: int, target: str) -> list[str]:
    goal = f"UNIX-CONNECT:{target.removeprefix('unix:')}" if target.startswith("unix:") else f"TCP:{target},nodelay"
    return [program, "-t", "60", "-b", str(COPY_BUFFER),
            f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog={BACKLOG}", goal]


WORDS = {"kaiso": kaiso_words, "haproxy": haproxy_words,
         "haproxy-splice": lambda *words: haproxy_words(*words, splice=True),
         "nginx": nginx_words, "systemd-socket-proxyd": proxyd_words, "socat": socat_words,
         # As most run them: HAProxy with its default, nginx with what its users set for bulk.
         "haproxy-16k": lambda *words: haproxy_words(*words, buffer=16384),
         "nginx-64k": lambda *words: nginx_words(*words, buffer=65536)}
KINDS = tuple(WORDS)
BEST_KINDS = KINDS[:-2]


def find_program(name: str, kaiso: str | os.PathLike) -> str:
    found = shutil.which(kaiso if name == "kaiso" else name, path=SEARCH)
    if not found:
        raise FileNotFoundError(f"{name} is not here; try apt-get install {PROGRAMS[name][1]}")
    return os.path.abspath(found)


def version_of(name: str, program: str) -> str:
    run = subprocess.run([program, PROGRAMS[name][0]], capture_output=True, text=True, check=True)
    return re.search(r"\d+(\.\d+)*", run.stdout + run.stderr)[0]


def versions(kaiso: str | os.PathLike = "kaiso") -> dict[str, str]:
    """Program -> version, of the programs that are here."""
    known = {}
    for name in PROGRAMS:
        with contextlib.suppress(FileNotFoundError):
            known[name] = version_of(name, find_program(name, kaiso))
    return known


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clock_of(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)  # of all its threads, to the nanosecond; see clock_getcpuclockid(3)


def status_of(pid: int) -> tuple[str, int, float]:
    """Its state, its session, and the CPU seconds of the children that it has waited for."""
    state, *numbers = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return state, int(numbers[2]), (int(numbers[12]) + int(numbers[13])) / TICKS


def process_cpu(pid: int) -> float:
    """CPU seconds of one process, and of the children that it has waited for."""
    return clock_of(pid) + status_of(pid)[2]


class Router:
    """A contender that runs: the process that was started and, where that leads a session (setsid(2)), all of it."""

    def __init__(self, name: str, version: str, place: str, line: str, process: subprocess.Popen):
        self.name, self.version, self.place, self.line, self.process = name, version, place, line, process

    def processes(self, ended: bool) -> dict[int, float]:
        """pid -> CPU seconds of the children that it has waited for. With what ended, but nobody has waited for?"""
        found = {}
        if self.process.returncode is not None:
            return found  # the pid is anybody's now
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, session, waited = status_of(pid)
                if self.process.pid in (pid, session) and (ended or state not in "ZX"):
                    found[pid] = waited
        return found

    def pids(self) -> list[int]:
        return list(self.processes(ended=False))

    def cpu_seconds(self) -> float:
        """Used so far by all its processes: to the nanosecond by those there are, to two ticks (20 ms) by all that
        ended. A child that ends while this reads might be in neither sum or in both: then it reads again."""
        for _ in range(100):
            with contextlib.suppress(OSError):
                waited = self.processes(ended=True)
                clocks = sum(clock_of(pid) for pid in waited)
                if self.processes(ended=True) == waited:
                    return clocks + sum(waited.values())
        raise RuntimeError(f"{self.name} starts and ends processes too fast to be measured")

    def memory_bytes(self) -> int:
        """Anonymous memory: heaps, stacks and written data, swapped out or not; pages shared since a fork count once.
        Not its program and libraries, nor what the kernel keeps for it: socket buffers, pipes, page tables, stacks."""
        def memory_of(pid):
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            return 1024 * sum(map(int, re.findall(r"^(?:Pss_Anon|Pss_Shmem|SwapPss): *(\d+)", text, re.MULTILINE)))
        return self.sum_of(memory_of)

    def descriptors(self) -> int:
        return self.sum_of(lambda pid: len(os.listdir(f"/proc/{pid}/fd")))

    def sum_of(self, figure: Callable[[int], int]) -> int:
        total = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += figure(pid)
        return total

    def stop(self) -> None:
        """Tells its processes to end until there are none; those that take too long are killed."""
        end = time.monotonic() + TIME_TO_STOP
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()  # not before: until it is waited for, its pid is nobody else's, nor is its session


def answers(port: int) -> bool:
    with socket.socket() as probe:  # which finds itself when it is given that very port
        return probe.connect_ex(("127.0.0.1", port)) == 0 and probe.getsockname() != probe.getpeername()


def start(kind: str, directory: pathlib.Path, target: str, kaiso: str | os.PathLike, core: int | None = None) -> Router:
    """Starts a contender, on one processor if it is named; its files go below the directory."""
    name = kind if kind in PROGRAMS else kind.partition("-")[0]
    program = find_program(name, kaiso)
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{kind}.", dir=directory.resolve()))
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        port = listener.getsockname()[1]
        words = WORDS[kind](program, directory, port, target)

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
    router = Router(kind, version_of(name, program), f"127.0.0.1:{port}", "service" if kind == "kaiso" else "", process)
    end = time.monotonic() + TIME_TO_START
    while not answers(port):
        if not router.pids() or time.monotonic() > end:
            router.stop()
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise RuntimeError(f"{kind} did not come up at {router.place}; its log ends with:\n{tail}")
        time.sleep(0.01)
    return router
