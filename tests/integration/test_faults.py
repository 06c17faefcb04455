"""System calls and memory fail at each place of a router in turn: a selection of what `make faults` tries (tests/faults).

Each place once, with one of the errnos of its man page. The sandbox is on: the faults are made in front of it.
"""

import itertools
import os
import sys
from pathlib import Path

import pytest

from harness.wait import IS_SANITIZED

sys.path.append(str(Path(__file__).resolve().parent.parent))

from faults import campaign, lives, scenarios, world
from faults.control import Control, Fault
from faults.errnos import ERRNOS
from faults.world import LIBRARY

pytestmark = [
    pytest.mark.skipif(not os.path.exists(LIBRARY), reason="the interposer is not built"),
    pytest.mark.skipif(os.environ.get("KAISO_BUILD") == "thread", reason="that runtime has functions of its own there"),
]

# Those that pass the most places in the least time; the others add a few each.
SCENARIOS = (scenarios.relay_unix, scenarios.relay_tcp, scenarios.relay_small, scenarios.relay_by_name, scenarios.listed,
             scenarios.handed_over_after_a_verdict, scenarios.client_breaks_off, scenarios.service_breaks_off)


def one_in_turn(every=1):
    """A plan: at every so many-th place one fault, the errnos of a function taken in turn."""
    turns = {}
    number = itertools.count()

    def plan(place):
        if next(number) % every == 0:
            codes = turns.setdefault(place.function, itertools.cycle(ERRNOS[place.function]))
            yield Fault(place, next(codes))

    return plan


def run(kind, minimum, every=1, **how):
    said = []
    count = kind(Control(), one_in_turn(every), say=said.append, has_logs=True, **how).run()
    assert not count.failures, "\n".join(said)
    # Sanitizers allocate by themselves, so there are fewer places in their builds.
    assert count.injected >= (minimum // 2 if IS_SANITIZED else minimum), count.text()


def test_faults_of_a_running_router():
    """No crash, no leak, no spin; the session that was hit ends, and never with a wrong byte; others are unharmed."""
    run(campaign.RuntimeCampaign, 100, chosen=SCENARIOS)


def test_faults_of_what_an_operator_sees():
    """The control socket, --http and the watchdog go on, and sessions too."""
    run(campaign.RuntimeCampaign, 20, every=8, chosen=scenarios.OPERATED, make_world=world.OperatedWorld)


def test_faults_at_the_start():
    """It serves, or ends with a line that says why and an exit status of 1 or 2."""
    run(lives.StartCampaign, 30, every=6)


def test_faults_at_the_end():
    """Sessions have their time, and then it ends."""
    run(lives.DrainCampaign, 3, every=12)


def test_faults_of_an_upgrade():
    """Refused, all goes on as before; done, all goes along."""
    run(lives.UpgradeCampaign, 3, every=20, threads=2)


def test_faults_on_the_way_to_a_choice():
    """Several targets, options of directories, mounts and front ends: nobody is let in by a failure, and no byte is wrong."""
    chosen = (scenarios.chosen, scenarios.guarded, scenarios.mounted, scenarios.came_by_a_front)
    run(campaign.RuntimeCampaign, 10, every=8, chosen=chosen, make_world=world.RoutedWorld)
