"""The examples of contrib/: Prometheus' own tool takes the alerts, and a router has every metric that they name."""

import json
import re
import subprocess

import pytest

from harness.router import REPOSITORY
from test_http import ask

RULES = REPOSITORY / "contrib/prometheus/kaiso.rules.yml"
STORIES = REPOSITORY / "contrib/prometheus/kaiso.test.yml"
DASHBOARD = REPOSITORY / "contrib/grafana/kaiso.json"
METRIC = re.compile(r"\b(?:kaiso|process)_[a-z_]+")


def promtool(*words):
    result = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def queries(thing):
    """Every PromQL expression of a dashboard, with Grafana's variables filled in."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key == "expr":
                yield value.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
            else:
                yield from queries(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from queries(value)


def test_alerts_are_rules():
    assert "8 rules found" in promtool("check", "rules", RULES)


def test_alerts_fire_when_they_should():
    promtool("test", "rules", STORIES)


def test_every_alert_has_its_story():
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    stories = STORIES.read_text()
    for alert in alerts:
        assert len(re.findall(rf"alertname: {alert}\b", stories)) >= 2, f"{alert}: a story in which it fires, and one not"


def test_the_dashboard_asks_what_prometheus_understands(tmp_path):
    expressions = sorted(set(queries(json.loads(DASHBOARD.read_text()))))
    assert len(expressions) > 20
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": [
        {"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(expressions)]}]}))
    assert f"{len(expressions)} rules found" in promtool("check", "rules", rules)


@pytest.mark.parametrize("path", [RULES, STORIES, DASHBOARD], ids=lambda path: path.name)
def test_the_router_has_what_is_asked_for(new_router, path):
    router = new_router("--http", "127.0.0.1:0")
    router.echo("foo")
    router.open("foo").exchange(b"hello").end().expect_end()
    told = set(METRIC.findall(ask(router, "/metrics").text))
    asked = set(METRIC.findall(path.read_text()))
    assert asked and asked <= told, asked - told
