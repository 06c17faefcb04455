#!/usr/bin/python3
"""Makes every call of the router fail, at every place, with every errno of its man page, while sessions run: `make faults`.

Parts: start (up to the first answer), drain (from SIGTERM to the exit), upgrade (SIGUSR2, by one thread and by two),
runtime (a router that serves), routed (by option lines, to several targets, mounts and hosts of DNS), operated (with a control socket, --http and a watchdog, which are asked), expose (as
runtime, of `kaiso expose`). The last line of each tells how many functions,
places and errnos there were, how many faults were made, and what failed. "Not reached again": the way to a place
depends on how bytes happen to arrive, so not every one that was seen once is passed when its fault is armed.
"""

import argparse
import pathlib
import sys
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "integration")]

from faults import campaign, lives, scenarios, world
from faults.control import Control

PARTS = {
    "start": [(lives.StartCampaign, {})],
    "drain": [(lives.DrainCampaign, {})],
    "upgrade": [(lives.UpgradeCampaign, {"threads": 1}), (lives.UpgradeCampaign, {"threads": 2})],
    "runtime": [(campaign.RuntimeCampaign, {"chosen": scenarios.RUNTIME + scenarios.SLOW})],
    "routed": [(campaign.RuntimeCampaign, {"chosen": scenarios.ROUTED, "make_world": world.RoutedWorld})],
    "operated": [(campaign.RuntimeCampaign, {"chosen": scenarios.OPERATED, "make_world": world.OperatedWorld})],
    "expose": [(campaign.RuntimeCampaign, {"chosen": scenarios.EXPOSED, "make_world": world.ExposedWorld})],
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", help="of a part runtime, operated or expose, these alone")
    parser.add_argument("--part", action="append", choices=PARTS, help="this part alone; may stand several times")
    parser.add_argument("--once", action="store_true", help="at each place the first occurrence only, and none that lasts")
    parser.add_argument("--function", help="faults of this function alone")
    parser.add_argument("--logs", action="store_true", help="the end of the router's log with each failure")
    return parser.parse_args()


def main():
    words = parse()
    chosen_plan = campaign.once_each if words.once else campaign.every_fault

    def plan(place):
        return chosen_plan(place) if words.function in (None, place.function) else ()

    failures = 0
    for part in words.part or PARTS:
        for kind, how in PARTS[part]:
            begun = time.monotonic()
            if "chosen" in how and words.scenario:
                how["chosen"] = [one for one in how["chosen"] if one.__name__ in words.scenario]
            count = kind(Control(), plan, has_logs=words.logs, say=lambda text: print(text, flush=True), **how).run()
            print(f"{part}: {count.text()} ({time.monotonic() - begun:.0f} s)", flush=True)
            failures += len(count.failures)
    return 1 if failures else 0


sys.exit(main())
