"""Tables of the results, and how they stand against the goals of doc/performance.md."""

import datetime
import os
import pathlib
import statistics


def machine():
    model = [line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return {"kernel": " ".join(os.uname()[i] for i in (0, 2, 4)), "processors": os.cpu_count(),
            "model": model[0] if model else "", "date": datetime.date.today().isoformat()}


def show(document):
    """One table a work and size: a row a contender, a column a metric, the median with the spread behind it."""
    tables = {}
    for cell in document["cells"]:
        tables.setdefault((cell["placement"], cell["work"], cell["size"]), []).append(cell)
    facts = document["machine"]
    print(f"{facts['kernel']}, {facts['model']}, {facts['processors']} processors, medians of {document['rounds']} "
          f"rounds (smallest to largest)")
    print(", ".join(f"{name} {version}" for name, version in document["versions"].items()))
    for (placement, work, size), cells in tables.items():
        print(f"\n{', '.join(part for part in (work, size, placement) if part)}\n")
        metrics = list(cells[0]["values"])
        metrics += [metric for cell in cells for metric in cell["values"] if metric not in metrics]
        print(" " * 28 + "".join(f"{metric:>30}" for metric in metrics))
        for cell in cells:
            print(f"  {cell['contender']:26}" + "".join(f"{figure(cell['values'].get(metric)):>30}"
                                                        for metric in metrics))


def figure(values):
    if not values:
        return "-"
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


# ---- goals ---------------------------------------------------------------------------------------------------------

ONE, ALONE = "one core", "router alone"
STREAMS = ("1 streams", "8 streams", "64 streams")
RELAYS = ("haproxy", "haproxy-splice", "nginx", "systemd-socket-proxyd", "socat", "haproxy-16k", "nginx-64k")


class Goals:
    """Each goal is a ratio or a figure with a bound; one whose figures were not measured is left out."""

    def __init__(self, results):
        self.results = results
        self.rows = []

    def value(self, work, size, placement, contender, metric):
        return self.results.median(work, size, placement, contender, metric)

    def ratio(self, work, size, placement, metric, over, of="kaiso"):
        """Of one contender to another, or to the best of several."""
        ours = self.value(work, size, placement, of, metric)
        theirs = [self.value(work, size, placement, name, metric) for name in
                  (over if isinstance(over, tuple) else (over,))]
        theirs = [value for value in theirs if value]
        if ours is None or not theirs:
            return None
        return ours / (max(theirs) if metric in ("GB/s", "per second") else min(theirs))

    def at_most(self, name, value, bound):
        self.rows.append((name, value, "at most", bound, value is not None and value <= bound))

    def at_least(self, name, value, bound):
        self.rows.append((name, value, "at least", bound, value is not None and value >= bound))

    def show(self):
        rows = [row for row in self.rows if row[1] is not None]
        print(f"\nGoals: {sum(row[4] for row in rows)} of {len(rows)} met\n")
        for name, value, how, bound, is_met in rows:
            print(f"  {'met   ' if is_met else 'MISSED'}  {name:74} {value:8.3f}  ({how} {bound:g})")


def goals_bulk(goals):
    for size in STREAMS:
        for place in (ONE, ALONE):
            where = f"{size}, {place}"
            cpu = "router CPU s/GB"
            for haproxy in ("haproxy", "haproxy-16k"):
                goals.at_most(f"upload, CPU a GB of {haproxy}: {where}",
                              goals.ratio("upload", size, place, cpu, haproxy), 0.40)
                goals.at_most(f"download, CPU a GB of {haproxy}: {where}",
                              goals.ratio("download", size, place, cpu, haproxy), 0.50)
            goals.at_most(f"upload, CPU a GB of systemd-socket-proxyd's: {where}",
                          goals.ratio("upload", size, place, cpu, "systemd-socket-proxyd"), 0.95)
            for nginx in ("nginx", "nginx-64k"):
                goals.at_most(f"download, CPU a GB of {nginx}: {where}",
                              goals.ratio("download", size, place, cpu, nginx), 0.80)
            for work, bound in (("upload", 1.0), ("download", 1.0), ("both ways", 1.2)):
                goals.at_least(f"{work}, throughput of the best peer's: {where}",
                               goals.ratio(work, size, place, "GB/s", RELAYS), bound)


def goals_small(goals):
    for place in (ONE, ALONE):
        for size, clients, metric, bound in (("1 B", "1 clients", "p50 us", 1.15), ):
            work = f"ping-pong {size}"
            direct = [goals.value(work, clients, place, f"direct {kind}", metric) for kind in ("TCP", "UNIX")]
            ours = goals.value(work, clients, place, "kaiso", metric)
            goals.at_most(f"{work}, p50 of direct TCP + direct UNIX: {place}",
                          ours / sum(direct) if ours and all(direct) else None, bound)
        goals.at_most(f"ping-pong 1 B, CPU an operation of HAProxy's: 64 clients, {place}",
                      goals.ratio("ping-pong 1 B", "64 clients", place, "router CPU us", "haproxy"), 0.75)
        for clients in ("1 clients", "64 clients"):
            rate = [goals.value("ping-pong 16 KiB", clients, place, name, "per second")
                    for name in ("kaiso", "direct TCP", "direct UNIX")]
            goals.at_least(f"ping-pong 16 KiB of direct TCP: {clients}, {place}",
                           rate[0] / rate[1] if all(rate) else None, 0.6)
            goals.at_least(f"ping-pong 16 KiB of 1/(1/direct TCP + 1/direct UNIX): {clients}, {place}",
                           rate[0] * (1 / rate[1] + 1 / rate[2]) if all(rate) else None, 0.6)
        for clients in ("1 clients", "16 clients", "64 clients"):
            rate = [goals.value("connections", clients, place, name, "per second")
                    for name in ("kaiso", "direct TCP", "direct UNIX")]
            goals.at_least(f"connections of the best peer: {clients}, {place}",
                           goals.ratio("connections", clients, place, "per second", RELAYS), 1.1)
            goals.at_least(f"connections of 1/(1/direct TCP + 1/direct UNIX): {clients}, {place}",
                           rate[0] * (1 / rate[1] + 1 / rate[2]) if all(rate) else None, 0.95)


def goals_special(goals):
    for place in (ONE, ALONE):
        for clients in ("1 clients", "16 clients", "64 clients"):
            goals.at_least(f"hand-over, connections of direct TCP: {clients}, {place}",
                           goals.ratio("hand-over", clients, place, "per second", "direct TCP", "handed over"), 0.9)
            goals.at_most(f"hand-over, router's CPU us a client: {clients}, {place}",
                          goals.value("hand-over", clients, place, "handed over", "router CPU us"), 20)
        goals.at_least(f"after the hand-over, download of direct TCP: {place}",
                       goals.ratio("after the hand-over: download", "1 streams", place, "GB/s", "direct TCP",
                                   "handed over"), 1.0)
        for kind in ("kaiso expose", "kaiso"):
            for work, haproxy in (("upload", "haproxy"), ("download", "haproxy"), ("upload", "haproxy-16k"),
                                  ("download", "haproxy-16k")):
                goals.at_most(f"{kind}, TCP to TCP, {work}, CPU a GB of {haproxy}: {place}",
                              goals.ratio(f"TCP to TCP: {work}", "8 streams", place, "router CPU s/GB", haproxy,
                                          kind), 0.45)
        for what in ("100000 services", "9000 idle sessions"):
            goals.at_least(f"connections with {what}, of those without: {place}",
                           goals.ratio("growth", "16 clients", place, "per second", "1 service", what), 0.95)
        goals.at_most(f"p99 of a ping-pong during lists of 100000 services: {place}",
                      goals.ratio("lists", "1 client", place, "p99 us", "quiet", "during lists"), 1.5)
        goals.at_most("idle connection, bytes", goals.value("idle", "4000 connections", place, "kaiso", "bytes"), 200)
        goals.at_most("idle connection, descriptors",
                      goals.value("idle", "4000 connections", place, "kaiso", "descriptors"), 2)
        idle = "after the hand-over: idle"
        for metric in ("bytes", "descriptors"):
            goals.at_most(f"after the hand-over, {metric} a connection: {place}",
                          goals.value(idle, "2000 connections", place, "handed over", metric), 0)
    for attack in ("slow lines", "lists never read", "connections", "connections over a limit", "loop", "loop through two",
                   "service that never reads", "full backlog", "resets"):
        for place in (ONE, ALONE):
            goals.at_most(f"p99 of others' ping-pong, of a quiet one: {attack}, {place}",
                          goals.ratio("attacks", attack, place, "p99 us", "quiet", "attacked"), 3)
    goals.at_most("start, ms to ready", goals.value("start", "", "", "kaiso", "ms"), 5)
    goals.at_most("start, resident MB", goals.value("start", "", "", "kaiso", "resident MB"), 3)


def show_goals(results):
    goals = Goals(results)
    goals_bulk(goals)
    goals_small(goals)
    goals_special(goals)
    goals.show()
