"""What only kaiso does, or what grows: handing over, many services, many idle sessions, lists, the start, expose."""

import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile
import time

import measure
import routers

SERVICES = 100_000
IDLE_SESSIONS = 9_000
STARTS = 20


def bench_all(bench, placements):
    for placement in placements:
        with contextlib.ExitStack() as stack:
            core = measure.CLIENT_CORE if placement == measure.ONE_CORE else measure.CLIENT_CORE + 1
            bench.say(f"{placement}: handing over")
            bench_hand_over(bench, placement, core, stack)
            bench.say(f"{placement}: expose, TCP to TCP")
            bench_expose(bench, placement, core, stack)
    bench.say("growth")
    bench_growth(bench, placements[-1])
    bench.say("start")
    bench_start(bench)


def kaiso(bench, core, stack, services, threads=1, options=()):
    """A router of ours with services (name -> text of a description, or a path to link to)."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="services-", dir=bench.directory))
    for name, what in services.items():
        if isinstance(what, pathlib.Path):
            (directory / name).symlink_to(what)
        else:
            (directory / name).write_text(what)
    port = routers.free_port()
    process = bench.spawn(bench.kaiso, "serve", "--threads", threads, "--services", directory,
                          "--log-level", "warning", *options, f"127.0.0.1:{port}", core=core)
    router = routers.Router("kaiso", "", f"127.0.0.1:{port}", "", process)
    router.services = directory
    stack.callback(router.stop)
    measure.wait_for(lambda: routers.answers(port), "a router")
    return router


def hand_over_contenders(bench, core, stack, modes):
    """Direct TCP, and the same server behind a router that hands its clients over."""
    sockets = {"receiver": bench.directory / f"receiver-{core}.sock"}
    servers = {"receiver": bench.spawn(bench.load, "receive", sockets["receiver"])}
    for mode in modes:
        sockets[mode] = bench.directory / f"{mode}-{core}.sock"
        servers[mode] = bench.spawn(bench.kaiso, "passfd", "--mode", mode, sockets[mode], "--", bench.load, "serve",
                                    f"127.0.0.1:{routers.free_port()}", start_new_session=True)
    measure.wait_for(lambda: all(path.exists() for path in sockets.values()), "the receivers")
    router = kaiso(bench, core, stack, {name: f"{path} passfd\n" for name, path in sockets.items()})
    names = {"receiver": "handed over"} | {mode: f"handed over, passfd {mode}" for mode in modes}
    return [measure.Contender("direct TCP", bench.tcp)] + [
        measure.Contender(names[name], router.place, name, router, servers[name]) for name in sockets]


def bench_hand_over(bench, placement, core, stack):
    contenders = hand_over_contenders(bench, core, stack, ("preload", "seccomp"))
    time.sleep(2.1)  # a description that was changed a moment ago is read anew for each client
    for clients in (1, 16, 64):
        measure.bench_connections(bench, placement, contenders, clients, "hand-over")
    measure.bench_bulk(bench, placement, contenders[:2], "download", 1, "after the hand-over: ")
    measure.bench_ping_pong(bench, placement, contenders[:2], "1 B", 1, "after the hand-over: ")
    measure.bench_idle(bench, placement, contenders[1:2], 2000, "after the hand-over: ")


def bench_expose(bench, placement, core, stack):
    """A plain port for one service. What the router behind it hands over, so only expose is between."""
    path = bench.directory / f"exposed-{core}.sock"
    receiver = bench.spawn(bench.load, "receive", path)
    measure.wait_for(path.exists, "the receiver")
    behind = kaiso(bench, measure.CLIENT_CORE, stack, {"service": f"{path} passfd\n"})
    port = routers.free_port()
    process = bench.spawn(bench.kaiso, "expose", "--threads", 1, "--log-level", "warning", behind.place, "service",
                          f"127.0.0.1:{port}", core=core)
    expose = routers.Router("kaiso expose", "", f"127.0.0.1:{port}", "", process)
    stack.callback(expose.stop)
    measure.wait_for(lambda: routers.answers(port), "expose")
    contenders = [measure.Contender("kaiso expose", expose.place, "", expose, receiver)]
    for kind in ("kaiso", "haproxy", "haproxy-splice", "haproxy-16k"):
        router = routers.start(kind, bench.directory, bench.tcp, bench.kaiso, core)
        stack.callback(router.stop)
        contenders.append(measure.Contender(kind, router.place, router.line, router))
    for work in ("upload", "download"):
        measure.bench_bulk(bench, placement, contenders, work, 8, "TCP to TCP: ")


def bench_growth(bench, placement):
    """Each against the same router without the burden, in the same rounds."""
    core = measure.CLIENT_CORE if placement == measure.ONE_CORE else measure.CLIENT_CORE + 1
    service = bench.services / "service"
    many = {f"{number:05}": service for number in range(SERVICES - 1)} | {"service": service}
    with contextlib.ExitStack() as stack:
        few = kaiso(bench, core, stack, {"service": service})
        crowded = kaiso(bench, core, stack, many)
        busy = kaiso(bench, core, stack, {"service": service})
        contenders = [measure.Contender("1 service", few.place, "service", few),
                      measure.Contender(f"{SERVICES} services", crowded.place, "service", crowded),
                      measure.Contender(f"{IDLE_SESSIONS} idle sessions", busy.place, "service", busy)]
        idle = bench.spawn(bench.load, "idle", busy.place, "service", IDLE_SESSIONS, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
        idle.stdout.readline()
        measure.bench_connections(bench, placement, contenders, 16, "growth")
        idle.stdin.close()
        idle.wait()
    bench_list(bench, placement, many)


def bench_list(bench, placement, services):
    """A ping-pong while another client lists everything again and again. The router has its threads as it would."""
    with contextlib.ExitStack() as stack:
        router = kaiso(bench, None, stack, services, threads=os.cpu_count())
        for _ in range(bench.rounds):
            for name in ("quiet", "during lists"):
                lister = None
                if name != "quiet":
                    lister = bench.spawn(bench.load, "lists", router.place, int(bench.seconds * 4000), core=None,
                                         stdout=subprocess.DEVNULL)
                figures, _ = bench.run("ping-pong", router.place, "service", 1, 1, int(bench.seconds * 3000))
                bench.results.add(("lists", "1 client", placement, name), p50_us=figures["p50_us"],
                                  p99_us=figures["p99_us"])
                if lister:
                    lister.wait()


def start_once(bench, listener, environment):
    """Seconds until a router is ready, by its own word (sd_notify), and its resident memory then."""
    begin = time.perf_counter()
    words = [bench.kaiso, "serve", "--services", str(bench.directory), "--log-level", "error", "127.0.0.1:0"]
    pid = os.posix_spawn(bench.kaiso, words, environment)
    listener.recv(64)
    seconds = time.perf_counter() - begin
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) * 1024
    os.kill(pid, 15)
    os.waitpid(pid, 0)
    return seconds, resident


def bench_start(bench):
    path = str(bench.directory / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(10)
        environment = os.environ | {"NOTIFY_SOCKET": path}
        for _ in range(STARTS):
            seconds, resident = start_once(bench, listener, environment)
            bench.results.add(("start", "", "", "kaiso"), ms=seconds * 1000, resident_MB=resident / 1e6)
            with contextlib.suppress(socket.timeout):
                listener.settimeout(0.2)
                while b"STOPPING" not in listener.recv(64):
                    pass
            listener.settimeout(10)
