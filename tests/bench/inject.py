"""What `kaiso inject` costs a program, by each of its ways in."""

import contextlib

import special

CALLS = 2_000_000
ELSEWHERE = 4000


def bench_inject(bench):
    with contextlib.ExitStack() as stack:
        router = special.kaiso(bench, None, stack, {"service": bench.services / "service"})
        ways = {"not wrapped": ()} | {
            f"inject, {mode}": (bench.kaiso, "inject", "--mode", mode, router.place, "service", "--")
            for mode in ("preload", "seccomp")}
        for _ in range(bench.rounds):
            for name, words in ways.items():
                bench.results.add(("a system call of no interest", "getppid", "", name),
                                  ns=bench.run("calls", CALLS, before=words)[0]["seconds"] / CALLS * 1e9)
                bench.results.add(("a connection elsewhere", "connect and close", "", name),
                                  us=bench.run("elsewhere", bench.tcp, ELSEWHERE, before=words)[0]["seconds"]
                                  / ELSEWHERE * 1e6)
