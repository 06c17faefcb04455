"""The examples of contrib/: Prometheus' own tools take the alerts and what the dashboard asks, and a router has it all."""

import itertools
import json
import re
import subprocess
import urllib.parse
import urllib.request

import pytest

from harness.router import REPOSITORY, clean_environment
from harness.services import bind_tcp
from harness.wait import DEADLINE, IS_SANITIZED, wait_until
from test_http import ask, http_address

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


def places(thing, key):
    """Every value of that key, wherever it is in the dashboard."""
    if isinstance(thing, dict):
        if key in thing:
            yield thing[key]
        thing = list(thing.values())
    for value in thing if isinstance(thing, list) else []:
        yield from places(value, key)


def test_the_dashboard_is_one_of_grafana():
    """What it needs to show the panels beside each other, of whatever data source is chosen. Its own schema, that of
    @grafana/schema 11.6.0, has no other words than these either."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 36
    assert {"time", "refresh", "panels", "templating", "annotations"} <= set(dashboard)
    assert "id" not in dashboard, "it is Grafana that numbers dashboards"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        x, y, width, height = (panel["gridPos"][key] for key in "xywh")
        mine = set(itertools.product(range(x, x + width), range(y, y + height)))
        assert mine and x >= 0 and x + width <= 24 and not mine & cells, panel["title"]
        cells |= mine
        names = [target["refId"] for target in panel["targets"]]
        assert panel["title"] and names and len(set(names)) == len(names)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    sources = [*places(panels, "datasource"), *places(dashboard["annotations"], "datasource"),
               *places(list(variables.values()), "datasource")]
    assert len(sources) > 2 * len(panels)
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    used = set(re.findall(r"\$\{?([a-z]+)", DASHBOARD.read_text()))
    assert used == set(variables), "each variable is there and has its use"


@pytest.fixture
def prometheus(tmp_path):
    """A server that asks a router ten times a second: prometheus(router) gives the function that queries it."""
    started = []

    def start(router):
        with bind_tcp() as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        (tmp_path / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"},
            "scrape_configs": [{"job_name": "kaiso", "static_configs": [{"targets": [http_address(router)]}]}],
        }))
        started.append(subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address={address}", "--log.level=error"],
            stdin=subprocess.DEVNULL, env=clean_environment()))

        def query(expression):
            words = urllib.parse.urlencode({"query": expression})
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{words}", timeout=DEADLINE) as answer:
                return json.load(answer)["data"]["result"]

        def is_up():
            try:
                return query("up == 1")
            except OSError:
                return False

        wait_until(is_up, "Prometheus to have asked the router")
        return query

    yield start
    for process in started:
        process.terminate()
        process.wait(DEADLINE)


@pytest.mark.skipif(IS_SANITIZED, reason="the metrics are the same in every build")
def test_the_dashboard_has_something_to_show(new_router, prometheus):
    """Prometheus has an answer to every panel, with the labels that its legend names."""
    router = new_router("--http", "127.0.0.1:0")
    router.echo("foo")

    def sessions():
        router.open("foo").exchange(b"hello").end().expect_end()
        router.open("missing").expect_closed()

    sessions()
    query = prometheus(router)
    client = router.open("foo").exchange(b"hello")
    dashboard = json.loads(DASHBOARD.read_text())
    wanting = [(panel["title"], target) for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in queries(dashboard["annotations"]):
        query(expression)  # which fails when it makes no sense

    def all_answered():
        nonlocal wanting
        sessions()
        left = []
        for title, target in wanting:
            result = query(next(queries(target)))
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            if not result or not all(labels <= set(one["metric"]) for one in result):
                left.append((title, target))
        wanting = left
        return not wanting

    wait_until(all_answered, lambda: f"answers for {[(title, target['expr']) for title, target in wanting]}")
    client.end().expect_end()


@pytest.mark.parametrize("path", [RULES, STORIES, DASHBOARD], ids=lambda path: path.name)
def test_the_router_has_what_is_asked_for(new_router, path):
    router = new_router("--http", "127.0.0.1:0")
    router.echo("foo")
    router.open("foo").exchange(b"hello").end().expect_end()
    told = set(METRIC.findall(ask(router, "/metrics").text))
    asked = set(METRIC.findall(path.read_text()))
    assert asked and asked <= told, asked - told
