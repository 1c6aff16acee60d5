"""deploy/grafana and deploy/prometheus: what they name exists in the metrics of a real broker, and each alert works."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import promql_parser
import pytest
import yaml

from tests.support.metrics import MeteredBroker, Metrics
from tests.support.root import ROOT
from tykpy.broker.grpc.wire import GrpcCallError

RULES: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
RULE_TESTS: Final = RULES.with_name("alerts_test.yml")
DASHBOARD: Final = json.loads((ROOT / "deploy" / "grafana" / "tykpy.json").read_text())
RUNBOOK: Final = "docs/alerts.md"
FROM_PROMETHEUS: Final = {"job", "instance"}
"""Labels that Prometheus adds to every sample."""
HOOKS: Final = """
import os
from gateway import TykGateway as tyk
from tyk.decorators import Pre

@Pre
def fine(request, session, spec):
    tyk.store_data("key", "value", 10)
    return request, session

@Pre
def crashes(request, session, spec):
    os._exit(7)
"""


class Use(NamedTuple):
    """A metric in an expression."""

    metric: str
    labels: frozenset[str]
    values: frozenset[tuple[str, str]]
    """Of labels that have a few known values."""


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metrics]:
    """Return what a broker exposes after a dispatch, and after a hook that killed workers."""
    with MeteredBroker(tmp_path_factory.mktemp("monitoring")).unready({"hooks.py": HOOKS}) as broker:
        broker.wait_ready()
        broker.call("fine", bundle="hooks.py")
        for number in range(3):
            with pytest.raises(GrpcCallError):
                broker.call("crashes", bundle="hooks.py", headers=[("Number", str(number))])
        broker.wait_for("tykpy_breaker_open", 0)
        # The next worker has started.
        broker.wait_for("tykpy_worker_resident_memory_bytes", 0)
        yield broker.scrape()


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS: Final = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED: Final = {rule["record"] for rule in rules() if "record" in rule}


def dashboard_expressions() -> list[str]:
    """Return the expressions of all panels and variables, with Grafana's variables replaced."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    queries = (variable.get("definition", "") for variable in DASHBOARD["templating"]["list"])
    variables = [found[1] for query in queries if (found := re.match(r"label_values\((.*), \w+\)$", query))]
    return [one.replace("$__rate_interval", "5m") for one in (*panels, *variables)]


EXPRESSIONS: Final = [*(rule["expr"] for rule in rules()), *dashboard_expressions()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_an_expression_names_exists(scrape: Metrics, expression: str) -> None:
    uses = list(uses_of(promql_parser.parse(expression)))
    assert uses
    for use in uses:
        if use.metric in RECORDED or use.metric == "up":
            continue
        known = list(scrape.labels_of(use.metric))
        assert known, f"{use.metric} is not exposed"
        assert use.labels <= set().union(*known) | FROM_PROMETHEUS
        for label, value in use.values:
            assert any(labels[label] == value for labels in known), f"{use.metric} has no {label}={value}"


def uses_of(expression: Any, labels: frozenset[str] = frozenset()) -> Iterator[Use]:
    """Yield the metrics of an expression, with the labels that are asked of them."""
    modifier = getattr(expression, "modifier", None)
    if isinstance(expression, promql_parser.AggregateExpr) and modifier is not None:
        labels = frozenset(modifier.labels)
    if isinstance(expression, promql_parser.VectorSelector):
        matchers = expression.matchers.matchers
        values = [
            (one.name, value)
            for one in matchers
            if one.name in ("state", "reason", "result") and re.fullmatch(r"[\w|]+", one.value)
            for value in one.value.split("|")
        ]
        assert expression.name
        yield Use(expression.name, labels | {one.name for one in matchers}, frozenset(values))
        return
    parts = (getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "vector_selector"))
    for part in (*parts, *getattr(expression, "args", ())):
        if isinstance(part, promql_parser.Expr):
            yield from uses_of(part, labels)


def test_the_dashboard_has_its_rows_and_a_data_source() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency by hook", "Queue and shedding", "Workers", "Store", "Events and log", "Bundles"]
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        for part in (panel, *panel.get("targets", ())):
            assert panel["type"] == "row" or part["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert "for" in alert
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"]
    assert alert["annotations"]["runbook_url"] == f"{RUNBOOK}#{name.lower()}"
    assert f"\n## {name}\n" in (ROOT / RUNBOOK).read_text()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_firing_and_a_quiet_case(name: str) -> None:
    cases = [
        case
        for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


def test_the_rules_pass_their_unit_tests() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for command in (["check", "rules", RULES.name], ["test", "rules", RULE_TESTS.name]):
        done = subprocess.run(
            [promtool, *command], cwd=RULES.parent, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
