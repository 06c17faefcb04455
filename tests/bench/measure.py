"""The works, and how one of them is measured: clients, router and service pinned, CPU time read before and after."""

import contextlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import routers

ONE_CORE, ROUTER_ALONE = "one core", "router alone"
CLIENT_CORE = 0
BULK = {"upload": "up", "download": "down", "both ways": "both"}
CALIBRATION_BYTES = 100_000_000
IDLE_CONNECTIONS = {"socat": 200, "systemd-socket-proxyd": 1500}  # a process each; six descriptors each
SIZES = {"1 B": 1, "1 KiB": 1 << 10, "16 KiB": 16 << 10}


class Results:
    """(work, size, placement, contender) -> {metric: [a value a round]}."""

    def __init__(self):
        self.cells = {}

    def add(self, key, **values):
        cell = self.cells.setdefault(key, {})
        for metric, value in values.items():
            cell.setdefault(metric.replace("_per_", "/").replace("_", " "), []).append(value)

    def median(self, work, size, placement, contender, metric):
        values = self.cells.get((work, size, placement, contender), {}).get(metric)
        return statistics.median(values) if values else None

    def as_json(self):
        return [{"work": work, "size": size, "placement": placement, "contender": contender, "values": values}
                for (work, size, placement, contender), values in self.cells.items()]


class Contender:
    """A place that clients go to, and who works there for them."""

    def __init__(self, name, place, line="", router=None, server=None):
        self.name, self.place, self.line, self.router, self.server = name, place, line, router, server

    def cpu_seconds(self):
        return self.router.cpu_seconds() if self.router else 0.0


class Bench:
    """What all measurements share: the load program, its services, the directory, the results."""

    def __init__(self, options, directory, stack):
        self.kaiso, self.load = options.kaiso, options.load
        self.rounds, self.seconds, self.is_full = options.rounds, options.seconds, options.full
        self.directory, self.stack = pathlib.Path(directory), stack
        self.results = Results()
        self.tcp = f"127.0.0.1:{routers.free_port()}"
        self.services = self.directory / "services"  # with one service, for all contenders
        self.services.mkdir()
        self.unix = f"unix:{self.services}/service"
        self.server = self.spawn(self.load, "serve", self.tcp, self.unix)
        wait_for(lambda: routers.answers(int(self.tcp.rpartition(":")[2])), "the service")

    def spawn(self, *words, core=CLIENT_CORE, **keywords):
        """A process that is ended with the bench."""
        keywords = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | keywords
        process = subprocess.Popen([str(word) for word in words], preexec_fn=pin_to(core), **keywords)
        self.stack.callback(end, process)
        return process

    def run(self, *words, before=()):
        """One run of the load, on the clients' core: its figures, and the seconds of CPU that it took itself."""
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run([*before, self.load, *(str(word) for word in words)], check=True, stdout=subprocess.PIPE,
                                preexec_fn=pin_to(CLIENT_CORE)).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return json.loads(output), after.ru_utime + after.ru_stime - start.ru_utime - start.ru_stime

    def measure(self, contender, *words):
        """The same with the CPU that the router and all three parties together took."""
        server = routers.Router("service", "", "", "", contender.server or self.server)
        spent, router = server.cpu_seconds(), contender.cpu_seconds()
        figures, clients = self.run(words[0], contender.place, contender.line, *words[1:])
        router = contender.cpu_seconds() - router
        return figures, router, clients + router + server.cpu_seconds() - spent

    def say(self, text):
        print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def wait_for(condition, what):
    end_of_patience = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end_of_patience:
            sys.exit(f"bench: {what} did not come up")
        time.sleep(0.01)


def pin_to(core):
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


def end(process):
    if process.poll() is None:
        process.terminate()
    process.wait()


# ---- the works -----------------------------------------------------------------------------------------------------

def bulk_bytes(bench, contender, direction, streams):
    """As many as take about the wanted time; also the warm-up."""
    figures, _ = bench.run("bulk", contender.place, contender.line, direction, streams, CALIBRATION_BYTES)
    return int(CALIBRATION_BYTES * bench.seconds / figures["seconds"])


def bench_bulk(bench, placement, contenders, work, streams, prefix=""):
    wanted = {contender: bulk_bytes(bench, contender, BULK[work], streams) for contender in contenders}
    for _ in range(bench.rounds):
        for contender in contenders:
            figures, router, machine = bench.measure(contender, "bulk", BULK[work], streams, wanted[contender])
            gigabytes = figures["bytes"] / 1e9
            bench.results.add((prefix + work, f"{streams} streams", placement, contender.name),
                              GB_per_s=gigabytes / figures["seconds"], router_CPU_s_per_GB=router / gigabytes,
                              machine_CPU_s_per_GB=machine / gigabytes)


def bench_ping_pong(bench, placement, contenders, size, clients, prefix=""):
    for _ in range(bench.rounds):
        for contender in contenders:
            figures, router, machine = bench.measure(contender, "ping-pong", clients, SIZES[size],
                                                     int(bench.seconds * 1000))
            bench.results.add((f"{prefix}ping-pong {size}", f"{clients} clients", placement, contender.name),
                              per_second=figures["count"] / figures["seconds"], p50_us=figures["p50_us"],
                              p99_us=figures["p99_us"], **{"p99.9_us": figures["p999_us"]},
                              router_CPU_us=router / figures["count"] * 1e6,
                              machine_CPU_us=machine / figures["count"] * 1e6)


def bench_connections(bench, placement, contenders, clients, work="connections"):
    for _ in range(bench.rounds):
        for contender in contenders:
            figures, router, machine = bench.measure(contender, "connections", clients, int(bench.seconds * 1000))
            bench.results.add((work, f"{clients} clients", placement, contender.name),
                              per_second=figures["count"] / figures["seconds"],
                              router_CPU_us=router / figures["count"] * 1e6,
                              machine_CPU_us=machine / figures["count"] * 1e6)


def bench_idle(bench, placement, contenders, count, prefix=""):
    """What a router grows by for each connection that had one echo and then waits."""
    for contender in contenders:
        if not contender.router:
            continue
        with contextlib.ExitStack() as stack:
            def open_many():
                process = subprocess.Popen([bench.load, "idle", contender.place, contender.line, str(count)],
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                stack.callback(process.wait)
                stack.callback(process.stdin.close)
                process.stdout.readline()
            open_many()  # what is allocated once
            memory, descriptors = contender.router.memory_bytes(), contender.router.descriptors()
            open_many()
            bench.results.add((prefix + "idle", f"{count} connections", placement, contender.name),
                              bytes=(contender.router.memory_bytes() - memory) / count,
                              descriptors=(contender.router.descriptors() - descriptors) / count)


def bench_matrix(bench, placement, kinds):
    """Every work, for every contender, in one placement."""
    core = CLIENT_CORE if placement == ONE_CORE else CLIENT_CORE + 1
    contenders = [Contender("direct TCP", bench.tcp), Contender("direct UNIX", bench.unix)]
    for kind in kinds:
        router = routers.start(kind, bench.directory, bench.unix, bench.kaiso, core)
        bench.stack.callback(router.stop)
        contenders.append(Contender(kind, router.place, router.line, router))
    for work in BULK:
        for streams in (1, 8, 64) if bench.is_full else (1, 8):
            bench.say(f"{placement}: {work}, {streams} streams")
            bench_bulk(bench, placement, contenders, work, streams)
    for size, clients in [(size, clients) for size in SIZES for clients in (1, 64)]:
        if bench.is_full or (size, clients) in (("1 B", 1), ("1 B", 64), ("16 KiB", 1)):
            bench.say(f"{placement}: ping-pong {size}, {clients} clients")
            bench_ping_pong(bench, placement, contenders, size, clients)
    for clients in (1, 16, 64) if bench.is_full else (16,):
        bench.say(f"{placement}: connections, {clients} clients")
        bench_connections(bench, placement, contenders, clients)
    if placement == ONE_CORE:
        bench.say("idle connections")
        for contender in contenders:
            bench_idle(bench, placement, [contender], IDLE_CONNECTIONS.get(contender.name, 4000))
    for contender in contenders:
        if contender.router:
            contender.router.stop()
