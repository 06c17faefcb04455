"""What option lines, several targets, mounts and the PROXY protocol cost: new connections by each, in the same rounds.

The peers are HAProxy's: two servers in turns, and its own header sent and taken (send-proxy-v2, accept-proxy)."""

import contextlib
import pathlib
import subprocess

import measure
import routers
import special

CLIENTS = (1, 16)
RULES = "".join(f"allow 10.{number}.0.0/16\n" for number in range(20)) + "allow 127.0.0.0/8\n"


def bench_all(bench, placements):
    for placement in placements:
        bench.say(f"{placement}: options, targets, mounts, headers")
        core = measure.CLIENT_CORE if placement == measure.ONE_CORE else measure.CLIENT_CORE + 1
        with contextlib.ExitStack() as stack:
            contenders = list(plain_routes(bench, core, stack)) + list(hops(bench, core, stack))
            for clients in CLIENTS:
                measure.bench_connections(bench, placement, contenders, clients, "routes")


def plain_routes(bench, core, stack):
    """Ways to one echo service, by one router each."""
    service = bench.services / "service"
    for name, services in {
        "a socket": {"service": service},
        "a socket, options of its directory": {"service": service, ".kaiso": f"idle-timeout 1h\n{RULES}"},
        "a description": {"service": f"{service}\n"},
        "a description with options": {"service": f"{service}\nidle-timeout 1h\n{RULES}"},
        "max-sessions": {"service": f"{service}\nmax-sessions 1000\n"},
        "two targets in turns": {"service": f"{service}\nbackend {service}\nbalance round-robin\n"},
        "two targets, least sessions": {"service": f"{service}\nbackend {service}\nbalance least-sessions\n"},
        "two targets, the first is away": {"service": f"{service}.away\nbackend {service}\n"},
    }.items():
        router = special.kaiso(bench, core, stack, services)
        yield measure.Contender(name, router.place, "service", router)
    yield haproxy(bench, core, stack, "haproxy, two targets in turns", "balance roundrobin", target_lines(bench, 2))


def hops(bench, core, stack):
    """Through two routers, of which the first is measured."""
    inner = special.kaiso(bench, measure.CLIENT_CORE, stack, {"service": bench.services / "service"})
    wary = special.kaiso(bench, measure.CLIENT_CORE, stack, {"service": bench.services / "service"},
                         options=("--proxy-from", "127.0.0.1"))
    outer = special.kaiso(bench, core, stack, {"chain": f"{inner.place} service\n", "mount": f"{inner.place} /\n",
                                               "header": f"{wary.place} service\nproxy v2\n"})
    yield measure.Contender("a chain", outer.place, "chain", outer)
    yield measure.Contender("a mount", outer.place, "mount/service", outer)
    yield measure.Contender("a chain with a header", outer.place, "header", outer)
    taker = haproxy(bench, measure.CLIENT_CORE, stack, "haproxy behind", "", target_lines(bench, 1), bind="accept-proxy")
    yield haproxy(bench, core, stack, "haproxy, two with a header", "", [f"server one {taker.place} send-proxy-v2"])


def target_lines(bench, count):
    return [f"server target{number} unix@{bench.services}/service" for number in range(count)]


def haproxy(bench, core, stack, name, balance, servers, bind=""):
    port = routers.free_port()
    file = pathlib.Path(bench.directory) / f"haproxy-{port}.cfg"
    file.write_text("global\n    nbthread 1\n    maxconn 4000\ndefaults\n    mode tcp\n    timeout connect 10s\n"
                    "    timeout client 1h\n    timeout server 1h\nlisten service\n"
                    f"    bind 127.0.0.1:{port} backlog {routers.BACKLOG} {bind}\n    {balance}\n"
                    + "".join(f"    {line}\n" for line in servers))
    process = bench.spawn(routers.find_program("haproxy", bench.kaiso), "-db", "-f", file, core=core,
                          stdout=subprocess.DEVNULL)
    router = routers.Router("haproxy", "", f"127.0.0.1:{port}", "", process)
    stack.callback(router.stop)
    measure.wait_for(lambda: routers.answers(port), "haproxy")
    return measure.Contender(name, router.place, "", router)
