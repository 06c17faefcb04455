#!/usr/bin/python3
"""What wrapping a program costs, and what handing over a client's socket brings: `make bench`.

    tests/bench/wrap.py KAISO LOAD [ROUNDS]

Every figure is the median of interleaved rounds, with the smallest and the largest; what is compared runs in the
same round, so that only the ratios depend on this machine a little. Client, router and server share its processors.
"""

import contextlib
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

CONNECTIONS = 6000
CLIENTS = (1, 16)
MEGABYTES = 3000
CALLS = 2_000_000
ELSEWHERE = 4000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what):
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"wrap.py: {what} did not come up")
        time.sleep(0.01)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, kaiso, load, directory, stack):
        self.kaiso, self.load, self.directory, self.stack = kaiso, load, pathlib.Path(directory), stack
        self.services = self.directory / "services"
        self.services.mkdir()
        self.router = self.spawn(kaiso, "serve", "--services", self.services, "--log-level", "warning", "127.0.0.1:0")
        self.router_port = None

    def spawn(self, *words):
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.stack.callback(self.end, process)
        return process

    @staticmethod
    def end(process):
        process.send_signal(signal.SIGTERM)
        process.wait()

    def seconds(self, *words):
        """Of one run of the load, wrapped or not."""
        return float(subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout)

    def start_router(self):
        self.router_port = free_port()
        self.end(self.router)
        self.router = self.spawn(self.kaiso, "serve", "--services", self.services, "--log-level", "warning",
                                 f"127.0.0.1:{self.router_port}")
        wait_for(lambda: answers(self.router_port), "the router")

    def server(self, *wrapper):
        port = free_port()
        self.spawn(*wrapper, self.load, "serve", f"127.0.0.1:{port}")
        wait_for(lambda: answers(port), "a server")
        return port


def rounds(count, contenders):
    """name -> list of results, each contender once a round, in turn."""
    results = {name: [] for name in contenders}
    for _ in range(count):
        for name, run in contenders.items():
            results[name].append(run())
    return results


def show(title, unit, results, base):
    print(f"\n{title}\n")
    reference = statistics.median(results[base])
    for name, values in results.items():
        median = statistics.median(values)
        ratio = median / reference
        print(f"  {name:34} {median:12.4g} {unit:8} {ratio:6.2f} of {base}   ({min(values):.4g} to {max(values):.4g})")


def bench_hand_over(bench, count):
    sockets = {mode: bench.services / f".{mode}" for mode in ("preload", "seccomp")}
    direct = bench.server()
    for mode, path in sockets.items():
        bench.server(bench.kaiso, "passfd", "--mode", mode, path, "--")
        (bench.services / mode).write_text(f".{mode} passfd\n")
    bench.spawn(bench.load, "receive", bench.services / ".accept")
    (bench.services / "accept").write_text(".accept passfd\n")
    wait_for((bench.services / ".accept").exists, "the receiver")
    (bench.services / "relayed").write_text(f"127.0.0.1:{direct}\n")
    bench.start_router()
    places = {"direct TCP": (direct, ""), "relayed": (bench.router_port, "relayed"),
              "handed over to kaiso_accept()": (bench.router_port, "accept")}
    for mode in sockets:
        places[f"handed over, {mode}"] = (bench.router_port, mode)

    def rate(place, clients):
        port, line = place
        each = CONNECTIONS // clients
        return each * clients / bench.seconds(bench.load, "connect", f"127.0.0.1:{port}", line, each, clients)

    def throughput(place):
        port, line = place
        return MEGABYTES / 1024 / bench.seconds(bench.load, "pull", f"127.0.0.1:{port}", line, MEGABYTES)

    for clients in CLIENTS:
        show(f"connections a second: connect, one byte there and back, close; clients at a time: {clients}", "1/s",
             rounds(count, {name: lambda place=place: rate(place, clients) for name, place in places.items()}),
             "direct TCP")
    show("download, one stream", "GiB/s",
         rounds(count, {name: lambda place=place: throughput(place) for name, place in places.items()}),
         "direct TCP")
    before = cpu_seconds(bench.router.pid)
    for _ in range(count):
        rate(places["handed over, preload"], CLIENTS[-1])
    spent = (cpu_seconds(bench.router.pid) - before) / (count * CONNECTIONS)
    print(f"\n  the router's CPU for each client handed over: {spent * 1e6:.1f} us")


def bench_inject(bench, count):
    elsewhere = bench.server()
    inject = {mode: (bench.kaiso, "inject", "--mode", mode, f"127.0.0.1:{bench.router_port}", "echo", "--")
              for mode in ("preload", "seccomp")}
    ways = {"not wrapped": ()} | {f"inject, {mode}": words for mode, words in inject.items()}
    show("a system call of no interest (getppid)", "ns",
         rounds(count, {name: lambda words=words: bench.seconds(*words, bench.load, "calls", CALLS) / CALLS * 1e9
                        for name, words in ways.items()}), "not wrapped")
    show("a connection elsewhere: connect and close", "us",
         rounds(count, {name: lambda words=words: bench.seconds(*words, bench.load, "elsewhere",
                                                               f"127.0.0.1:{elsewhere}", ELSEWHERE) / ELSEWHERE * 1e6
                        for name, words in ways.items()}), "not wrapped")


def main(words):
    if len(words) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    count = int(words[2]) if len(words) == 3 else 5
    print(f"{' '.join(os.uname()[i] for i in (0, 2, 4))}, {os.cpu_count()} processors, medians of {count} rounds")
    with tempfile.TemporaryDirectory(prefix="kaiso-bench.") as directory, contextlib.ExitStack() as stack:
        bench = Bench(words[0], words[1], directory, stack)
        bench_hand_over(bench, count)
        bench_inject(bench, count)
    return 0


sys.exit(main(sys.argv[1:]))
