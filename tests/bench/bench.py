#!/usr/bin/python3
"""kaiso beside its peers, on the same work in the same rounds: `make bench`, `make bench-full`.

Clients (tests/bench/load), router and service are pinned to processors: all on one ("one core": what a way costs), or
the router on its own ("router alone"). What is compared runs in interleaved rounds; figures are medians, and only
their ratios carry over to another machine.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile

import attacks
import inject
import measure
import report
import routers
import routes
import special


def options_of(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kaiso", help="the program kaiso")
    parser.add_argument("load", help="the program load (tests/bench/load)")
    parser.add_argument("--full", action="store_true", help="every size and number of clients")
    parser.add_argument("--rounds", type=int, help="default: 3, full: 5")
    parser.add_argument("--seconds", type=float, help="of each measurement; default: 0.25, full: 0.5")
    parser.add_argument("--peers", help=f"some of {','.join(routers.KINDS[1:])}; default: all, but for the last two "
                                        "unless full")
    parser.add_argument("--parts", help="default: matrix,special,routes,inject; full: attacks too")
    parser.add_argument("--json", type=pathlib.Path, help="where the figures go, one by one")
    options = parser.parse_args(words)
    options.parts = options.parts or ("matrix,special,routes,inject" + (",attacks" if options.full else ""))
    options.rounds = options.rounds or (5 if options.full else 3)
    options.seconds = options.seconds or (0.5 if options.full else 0.25)
    peers = (routers.KINDS if options.full else routers.BEST_KINDS)[1:]
    options.kinds = [routers.KINDS[0], *(peers if options.peers is None else filter(None, options.peers.split(",")))]
    return options


def main(words):
    options = options_of(words)
    placements = [measure.ONE_CORE] + ([measure.ROUTER_ALONE] if os.cpu_count() > 1 else [])
    with tempfile.TemporaryDirectory(prefix="kaiso-bench.") as directory, contextlib.ExitStack() as stack:
        bench = measure.Bench(options, directory, stack)
        if "matrix" in options.parts:
            for placement in placements:
                measure.bench_matrix(bench, placement, options.kinds)
        if "special" in options.parts:
            special.bench_all(bench, placements)
        if "routes" in options.parts:
            routes.bench_all(bench, placements)
        if "inject" in options.parts:
            inject.bench_inject(bench)
        if "attacks" in options.parts:
            attacks.bench_all(bench, placements)
        document = {"machine": report.machine(), "versions": routers.versions(options.kaiso),
                    "rounds": options.rounds, "seconds": options.seconds, "cells": bench.results.as_json()}
        report.show(document)
        report.show_goals(bench.results)
        if options.json:
            options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
