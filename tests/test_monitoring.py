"""What Prometheus scrapes, alerts on and shows; each alert fires and stays quiet on real series."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.monitoring.queries import certificate_alerts
from components.network.flows import Pods, flows
from components.settings.environment import parse
from offline.record import ROOT, Recording, plain
from tests import configurations
from tests.conftest import Fault, manifest, pod

NAME = "monitored"


def recording() -> Recording:
    return configurations.recording(NAME)


def rules() -> list[Any]:
    """Every alert of the environment."""
    alerts: list[Any] = []
    for rule_group in manifest(recording(), "PrometheusRule", "shlink")["spec"]["groups"]:
        alerts += rule_group["rules"]
    return alerts


def monitors() -> list[Any]:
    return [plain(item.inputs) for item in recording().of_kind("PodMonitor")]


def dashboards() -> list[Any]:
    """Every dashboard, in the order of their names: the program registers them in any order."""
    documents: list[Any] = []
    for item in sorted(recording().of_kind("ConfigMap"), key=lambda item: item.name):
        data = plain(item.inputs)["data"]
        documents += [json.loads(text) for name, text in data.items() if name.endswith(".json")]
    return documents


# What exists


def test_nothing_is_made_unless_it_is_enabled() -> None:
    for kind in ("PodMonitor", "PrometheusRule"):
        assert configurations.recording("defaults").of_kind(kind) == []


def test_it_needs_the_namespace_of_prometheus(fault: Fault) -> None:
    message = fault(monitoring={"enabled": True})
    assert "monitoring.enabled: true needs network.monitoringNamespace" in message


def test_everything_that_exports_is_scraped() -> None:
    names = {item["metadata"]["name"] for item in monitors()}
    assert names == {
        "vault",
        "shlink",
        "external-secrets",
        "shlink-db",
        "shlink-redis",
        "redis-operator",
    }


def test_prometheus_selects_by_the_labels_that_are_set() -> None:
    objects = [*monitors(), manifest(recording(), "PrometheusRule", "shlink")]
    for item in objects:
        assert item["metadata"]["labels"] == {"release": "kube-prometheus-stack"}


PORTS = {
    "vault": 8200,
    "shlink": 2112,
    "external-secrets": 8080,
    "shlink-db": 9187,
    "shlink-redis": 9121,
    "redis-operator": 9710,
}


@pytest.mark.parametrize("name", PORTS)
def test_the_network_lets_prometheus_reach_each_exporter(name: str) -> None:
    """A monitor without its row in the table would only ever see timeouts."""
    _, settings = parse(configurations.configuration(NAME))
    target = next(item for item in monitors() if item["metadata"]["name"] == name)
    labels = target["spec"]["selector"]["matchLabels"]
    opened: set[int] = set()
    for flow in flows(settings):
        if not isinstance(flow.source, Pods) or flow.source.namespace != "monitoring":
            continue
        pods = flow.target
        if not isinstance(pods, Pods) or dict(pods.labels) != labels:
            continue
        if pods.namespace == target["metadata"]["namespace"]:
            opened |= set(flow.ports)
    assert PORTS[name] in opened


def test_vault_is_scraped_over_tls_by_the_name_in_its_certificate() -> None:
    target = next(item for item in monitors() if item["metadata"]["name"] == "vault")
    endpoint = target["spec"]["podMetricsEndpoints"][0]
    assert endpoint["scheme"] == "https"
    assert endpoint["params"] == {"format": ["prometheus"]}
    assert endpoint["tlsConfig"]["serverName"] == "vault.vault.svc"
    authority = endpoint["tlsConfig"]["ca"]["secret"]
    assert authority["key"] == "ca.crt"
    assert "ca.crt" in manifest(recording(), "Secret", authority["name"])["stringData"]


def test_vault_serves_metrics_without_a_token_only_when_they_are_scraped() -> None:
    def configuration(name: str) -> Any:
        chart = plain(configurations.recording(name).of_kind("Chart")[0].inputs)
        return json.loads(chart["values"]["server"]["standalone"]["config"])

    listener = configuration(NAME)["listener"]["tcp"]
    assert listener["telemetry"] == {"unauthenticated_metrics_access": True}
    assert configuration(NAME)["telemetry"]["disable_hostname"] is True
    assert "telemetry" not in configuration("defaults")["listener"]["tcp"]


def test_shlink_serves_metrics_beside_its_own_port() -> None:
    container = pod(recording(), "Deployment", "shlink")["spec"]["containers"][0]
    ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
    assert ports == {"http": 8080, "metrics": 2112}
    script = container["command"][-1]
    assert "http.middleware=static,http_metrics" in script
    assert "SHLINK_RUNTIME=none sh ./docker-entrypoint.sh" in script
    plainly = pod(configurations.recording("defaults"), "Deployment", "shlink")
    assert "command" not in plainly["spec"]["containers"][0]


# Alerts


def test_every_alert_has_its_page_and_a_sentence() -> None:
    text = (ROOT / "docs/runbook.md").read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    pages = {heading.lower().replace(" ", "-") for heading in headings}
    for rule in rules():
        page = rule["annotations"]["runbook_url"]
        assert page.startswith("docs/runbook.md#")
        assert page.partition("#")[2] in pages, rule["alert"]
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_a_certificate_alerts_three_weeks_before_its_end() -> None:
    (alert,) = certificate_alerts("Vault", "2027-01-22T00:00:00Z")["rules"]
    limit = int(alert["expr"].rpartition(" ")[2])
    assert datetime.fromtimestamp(limit, tz=UTC).date().isoformat() == "2027-01-01"


@dataclass(frozen=True)
class Case:
    """Series with which an alert must fire, and others with which it must not."""

    alert: str
    firing: Mapping[str, str]
    quiet: Mapping[str, str]
    minutes: int = 30
    also: Sequence[str] = field(default_factory=list[str])
    """Alerts that rightly fire beside it."""


TARGETS = {
    "vault/vault": ["vault-0"],
    "shlink/shlink": ["s0"],
    "external-secrets/external-secrets": ["e0"],
    "postgres/shlink-db": ["a", "b"],
    "redis/shlink-redis": ["r0", "r1"],
    "redis/redis-operator": ["o0"],
}
"""The pods of each job."""


def _up(job: str, name: str) -> str:
    return f'up{{namespace="{job.partition("/")[0]}", job="{job}", pod="{name}"}}'


def _ready(job: str, name: str) -> str:
    """Of kube-state-metrics."""
    place = f'namespace="{job.partition("/")[0]}", pod="{name}"'
    return f'kube_pod_status_ready{{{place}, condition="true"}}'


def _scrapes(series: Callable[[str, str], str], values: str, *jobs: str) -> dict[str, str]:
    """The same for each pod of some jobs; of all when none is named."""
    return {series(job, name): values for job in jobs or TARGETS for name in TARGETS[job]}


HEALTHY: Mapping[str, str] = {
    **_scrapes(_up, "1x60"),
    **_scrapes(_ready, "1x60"),
    'vault_core_unsealed{namespace="vault", pod="vault-0", cluster="c"}': "1x60",
    # Sealed at its start; Vault goes on reporting that.
    'vault_core_unsealed{namespace="vault", pod="vault-0", cluster=""}': "0x60",
    'externalsecret_status_condition{condition="Ready", status="False", '
    'namespace="external-secrets", exported_namespace="shlink", name="redis-credentials"}': "0x60",
    'ccp_is_in_recovery_status{namespace="postgres", pod="a"}': "2x60",
    'ccp_is_in_recovery_status{namespace="postgres", pod="b"}': "1x60",
    'ccp_replication_lag_size_bytes{namespace="postgres", pod="a"}': "1000x60",
    'ccp_archive_command_status_seconds_since_last_fail{namespace="postgres", pod="a"}': "0x60",
    'ccp_archive_command_status_failed_count{namespace="postgres", pod="a"}': "2x60",
    'ccp_archive_command_status_archived_count{namespace="postgres", pod="a"}': "10+1x60",
    # Was the primary once, when archiving failed.
    'ccp_archive_command_status_seconds_since_last_fail{namespace="postgres", pod="b"}': "900x60",
    'ccp_archive_command_status_failed_count{namespace="postgres", pod="b"}': "5x60",
    'ccp_archive_command_status_archived_count{namespace="postgres", pod="b"}': "0x60",
    "ccp_backrest_last_full_backup_time_since_completion_seconds"
    '{namespace="postgres", repo="1"}': "500000x60",
    "ccp_backrest_last_diff_backup_time_since_completion_seconds"
    '{namespace="postgres", repo="1"}': "3600x60",
    'redis_instance_info{namespace="redis", pod="r0", role="master"}': "1x60",
    'redis_instance_info{namespace="redis", pod="r1", role="slave"}': "1x60",
    # A full cache: as much as Redis may use.
    'redis_memory_used_bytes{namespace="redis", pod="r0"}': "157000000x60",
    'redis_memory_max_bytes{namespace="redis", pod="r0"}': "157000000x60",
    'container_memory_working_set_bytes{namespace="redis", pod="r0", container="redis", id="1"}': (
        "170000000x60"
    ),
    'kube_pod_container_resource_limits{namespace="redis", pod="r0", container="redis", '
    'resource="memory", unit="byte"}': "268435456x60",
    'kube_deployment_status_replicas_available{namespace="shlink", deployment="shlink"}': "3x60",
    "kube_deployment_status_replicas_available"
    '{namespace="postgres", deployment="shlink-db-pgbouncer"}': "2x60",
    'kube_horizontalpodautoscaler_status_condition{namespace="shlink", '
    'horizontalpodautoscaler="shlink", condition="ScalingActive", status="false"}': "0x60",
    'rr_http_request_total{namespace="shlink", pod="s0", status="302"}': "0+600x60",
    'rr_http_request_total{namespace="shlink", pod="s0", status="500"}': "0+1x60",
    'rr_http_request_duration_seconds_bucket{namespace="shlink", pod="s0", le="0.1"}': "0+500x60",
    'rr_http_request_duration_seconds_bucket{namespace="shlink", pod="s0", le="1"}': "0+590x60",
    'rr_http_request_duration_seconds_bucket{namespace="shlink", pod="s0", le="+Inf"}': "0+601x60",
    "kube_pod_container_status_restarts_total"
    '{namespace="shlink", pod="s0", container="shlink"}': "1x60",
    "kubelet_volume_stats_available_bytes"
    '{namespace="postgres", persistentvolumeclaim="d"}': "500x60",
    "kubelet_volume_stats_capacity_bytes"
    '{namespace="postgres", persistentvolumeclaim="d"}': "1000x60",
}
"""One sample per minute."""


def _like(metric: str, *parts: str) -> str:
    """The healthy series of a metric."""
    series = [name for name in HEALTHY if name.startswith(metric)]
    for part in parts:
        series = [name for name in series if part in name]
    assert len(series) == 1, series
    return series[0]


def _own(*jobs: str) -> set[str]:
    """The series that come with the scrapes of some jobs; of all when none is named."""
    spaces = {job.partition("/")[0] for job in jobs or TARGETS}
    return {
        name
        for name in HEALTHY
        if not name.startswith(("up{", "kube", "container_"))
        and any(f'{{namespace="{space}"' in name for space in spaces)
    }


def _unscraped(*jobs: str, up: str = "0x60") -> dict[str, str]:
    """Some jobs, or all, give no metrics: only `up` tells of them."""
    return {**dict.fromkeys(_own(*jobs), "_x60"), **_scrapes(_up, up, *jobs)}


def _gap(*jobs: str) -> dict[str, str]:
    """Eight minutes without the metrics of some jobs, or of all."""
    own = {name: f"_x8 {HEALTHY[name]}" for name in _own(*jobs)}
    return {**own, **_scrapes(_up, "0x7 1x60", *jobs)}


VAULT, DATABASE, REDIS = "vault/vault", "postgres/shlink-db", "redis/shlink-redis"
_NO_KUBE_STATE = {name: "_x60" for name in HEALTHY if name.startswith("kube_")}

CASES = [
    Case("VaultSealed", {_like("vault_core_unsealed", '"c"'): "0x60"}, {}),
    Case(
        "VaultSealed",
        {**_unscraped(VAULT), **_scrapes(_ready, "0x60", VAULT)},
        {**_scrapes(_up, "1 0 1x58", VAULT), **_scrapes(_ready, "1 0 1x58", VAULT)},
        also=["MetricsMissing"],
    ),
    Case("VaultSealed", _unscraped(VAULT, up="_x60"), {}, also=["MetricsMissing"]),
    # A gap in the scrapes is no failure of what can't be seen meanwhile.
    *(
        Case("MetricsMissing", {**_unscraped(*jobs), **more}, {**_gap(*jobs), **more})
        for jobs in ([], [VAULT], ["shlink/shlink"], [DATABASE], [REDIS])
        for more in ({}, _NO_KUBE_STATE)
    ),
    Case(
        "MetricsMissing",
        {
            **{name: "_x60" for name in _own(DATABASE) if 'pod="a"' in name},
            _up(DATABASE, "a"): "0x60",
        },
        {},
    ),
    Case("MetricsMissing", _scrapes(_up, "_x60", "redis/redis-operator"), {}),
    Case("MetricsMissing", _scrapes(_up, "_x60", "external-secrets/external-secrets"), {}),
    Case("ExternalSecretNotSynced", {_like("externalsecret"): "1x60"}, {}),
    Case(
        "PostgresNoPrimary",
        {_like("ccp_is_in_recovery", '"a"'): "1x60"},
        {
            _like("ccp_is_in_recovery", '"a"'): "1x60",
            _like("ccp_is_in_recovery", '"b"'): "2x60",
            _like("ccp_archive_command_status_seconds", '"b"'): "0x60",
            _like("ccp_archive_command_status_failed", '"b"'): "0x60",
        },
    ),
    Case(
        "PostgresNoPrimary",
        {'ccp_is_in_recovery_status{namespace="postgres", pod="c"}': "2x60"},
        {},
    ),
    Case(
        "PostgresNoPrimary",
        {_like("ccp_is_in_recovery", '"a"'): "_x60", _like("ccp_is_in_recovery", '"b"'): "_x60"},
        {},
    ),
    # Its pods are not Ready, or there is none.
    *(
        Case("PostgresNoPrimary", fault, {}, also=["MetricsMissing"])
        for fault in (
            {**_unscraped(DATABASE), **_scrapes(_ready, "0x60", DATABASE)},
            _unscraped(DATABASE, up="_x60"),
        )
    ),
    Case(
        "PostgresReplicaBehind",
        {_like("ccp_replication_lag_size"): "400000000x60"},
        {_like("ccp_replication_lag_size"): "400000000 400000000 0x58"},
    ),
    Case(
        "PostgresReplicaBehind",
        {_like("ccp_replication_lag_size"): "_x60"},
        {_like("ccp_replication_lag_size"): "0 _x4 0x55"},
    ),
    Case(
        "PostgresArchivingFailing",
        {_like("ccp_archive_command_status_seconds", '"a"'): "900x60"},
        {_like("ccp_archive_command_status_seconds", '"a"'): "60x60"},
    ),
    Case(
        "PostgresArchivingFailing",
        {_like("ccp_archive_command_status_archived", '"a"'): "0x60"},
        {
            _like("ccp_archive_command_status_archived", '"a"'): "0x60",
            _like("ccp_archive_command_status_failed", '"a"'): "0x60",
        },
    ),
    Case(
        "PostgresBackupOld",
        {_like("ccp_backrest_last_diff"): "400000x60"},
        {_like("ccp_backrest_last_full"): "900000x60"},
    ),
    Case(
        "PostgresBackupMissing",
        {_like("ccp_backrest_last_full"): "_x60", _like("ccp_backrest_last_diff"): "_x60"},
        {},
        minutes=48 * 60 + 30,
    ),
    Case("RedisNoMaster", {_like("redis_instance_info", "master"): "_x60"}, {}),
    Case(
        "RedisNoMaster",
        {'redis_instance_info{namespace="redis", pod="r2", role="master"}': "1x60"},
        {},
    ),
    *(
        Case("RedisNoMaster", fault, {}, also=["MetricsMissing"])
        for fault in (
            {**_unscraped(REDIS), **_scrapes(_ready, "0x60", REDIS)},
            _unscraped(REDIS, up="_x60"),
        )
    ),
    Case(
        "RedisMemory",
        {_like("container_memory"): "250000000x60"},
        {_like("container_memory"): "250000000x5 170000000x54"},
    ),
    Case(
        "ShlinkNotReady",
        {_like("kube_deployment", 'namespace="shlink"'): "0x60"},
        {_like("kube_deployment", 'namespace="shlink"'): "1x60"},
    ),
    Case(
        "ShlinkNotReady",
        {_like("kube_deployment", 'namespace="shlink"'): "_x60"},
        # kube-state-metrics itself does not answer.
        {_like("kube_deployment", f'"{space}"'): "_x60" for space in ("shlink", "postgres")},
    ),
    Case(
        "PoolerNotReady",
        {_like("kube_deployment", "pgbouncer"): "0x60"},
        {_like("kube_deployment", "pgbouncer"): "1x60"},
    ),
    Case(
        "ShlinkNotScaling",
        {_like("kube_horizontalpodautoscaler"): "1x60"},
        {_like("kube_horizontalpodautoscaler"): "1x10 0x49"},
    ),
    Case(
        "ShlinkErrors",
        {_like("rr_http_request_total", "500"): "0+100x60"},
        # Two minutes in which every request fails.
        {_like("rr_http_request_total", "500"): "0x25 600 1200 1200x60"},
        minutes=32,
    ),
    Case("ShlinkSlow", {_like("rr_http_request_duration", '"0.1"'): "0+10x60"}, {}, minutes=40),
    Case(
        "ContainerRestarts",
        {_like("kube_pod_container_status"): "0+1x60"},
        {_like("kube_pod_container_status"): "0 3x60"},
    ),
    Case("VolumeFilling", {_like("kubelet_volume_stats_available"): "100x60"}, {}),
]


def promtool() -> str:
    """Prometheus' own tool. Skips the test where it is not installed."""
    installed = ROOT / ".uv/bin/promtool"
    command = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not command and installed.exists():
        command = str(installed)
    if not command:
        pytest.skip(
            "no promtool: go install github.com/prometheus/prometheus/cmd/promtool@v0.316.0, "
            "as .ci/run does where go is installed"
        )
    return command


def run(command: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 -- promtool
        [command, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(folder: Path, alerts: Sequence[Any]) -> Path:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "shlink", "rules": list(alerts)}]}))
    return path


def test_promtool_accepts_every_rule(tmp_path: Path) -> None:
    written(tmp_path, rules())
    assert f"SUCCESS: {len(rules())} rules found" in run(
        promtool(), tmp_path, "check", "rules", "rules.yaml"
    )


def test_promtool_accepts_every_query_of_the_dashboards(tmp_path: Path) -> None:
    """Each panel's query, as a recording rule."""
    queries: list[Any] = []
    for board in dashboards():
        for panel in board["panels"]:
            queries += [target["expr"] for target in panel["targets"]]
    assert len(queries) > 20
    recorded = [
        {"record": f"shlink:panel:{number}", "expr": query} for number, query in enumerate(queries)
    ]
    written(tmp_path, recorded)
    run(promtool(), tmp_path, "check", "rules", "rules.yaml")


def _firing(folder: Path, case: Case, series: Mapping[str, str]) -> set[str]:
    """The alerts that fire after some minutes: those of which promtool expects that they do not."""
    alerts = [rule for rule in rules() if rule["alert"] != "CertificateNearItsEnd"]
    written(folder, alerts)
    values = {**HEALTHY, **series}
    # The series last as long as the case.
    lasting = f"x{max(60, case.minutes)}"
    inputs = [
        {"series": name, "values": text.replace("x60", lasting)} for name, text in values.items()
    ]
    expected = [
        {
            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
            "eval_time": f"{case.minutes}m",
            "exp_samples": [{"labels": "{}", "value": 0}],
        }
        for name in {rule["alert"] for rule in alerts}
    ]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": expected}
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(  # noqa: S603 -- promtool
        [promtool(), "test", "rules", "test.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    firing = set(re.findall(r'alertname=\\"(\w+)', output))
    assert (done.returncode != 0) == bool(firing), output
    return firing


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}")
def test_an_alert_fires_and_nothing_else(case: Case, tmp_path: Path) -> None:
    promtool()
    assert _firing(tmp_path, case, case.firing) == {case.alert, *case.also}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.quiet], ids=lambda case: f"{case.alert}"
)
def test_it_stays_quiet_where_users_notice_nothing(case: Case, tmp_path: Path) -> None:
    promtool()
    assert _firing(tmp_path, case, case.quiet) == set[str]()


def test_no_alert_fires_in_a_healthy_environment(tmp_path: Path) -> None:
    promtool()
    assert _firing(tmp_path, Case("", {}, {}, minutes=45), {}) == set[str]()


def test_an_alert_asks_for_what_is_scraped() -> None:
    """Prometheus names a job after its monitor; a misspelt one is absent forever."""
    scraped = {f"{m['metadata']['namespace']}/{m['metadata']['name']}" for m in monitors()}
    assert scraped == set(TARGETS)
    for rule in rules():
        assert set(re.findall(r'job="([^"]+)"', rule["expr"])) <= scraped
    [missing] = [rule for rule in rules() if rule["alert"] == "MetricsMissing"]
    assert set(re.findall(r'absent\(up{job="([^"]+)"}', missing["expr"])) == scraped


def test_every_alert_is_tried() -> None:
    tried = {case.alert for case in CASES} | {"CertificateNearItsEnd"}
    alerts = {rule["alert"] for rule in rules()} | {"CertificateNearItsEnd"}
    assert tried == alerts


def test_the_certificate_alert_fires_in_its_last_weeks(tmp_path: Path) -> None:
    """Promtool's clock begins at 1970."""
    entry = certificate_alerts("Vault", "1970-01-22T02:00:00Z")
    written(tmp_path, entry["rules"])
    for minutes, number in ((60, 0), (240, 1)):
        query = 'count(ALERTS{alertname="CertificateNearItsEnd", alertstate="firing"}) or vector(0)'
        document = {
            "rule_files": ["rules.yaml"],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [{"series": "up", "values": "1x300"}],
                    "promql_expr_test": [
                        {
                            "expr": query,
                            "eval_time": f"{minutes}m",
                            "exp_samples": [{"labels": "{}", "value": number}],
                        }
                    ],
                }
            ],
        }
        (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
        run(promtool(), tmp_path, "test", "rules", "test.yaml")


# Dashboards


def test_dashboards_are_found_by_grafana() -> None:
    for item in recording().of_kind("ConfigMap"):
        if item.name.startswith("monitoring-dashboard"):
            assert plain(item.inputs)["metadata"]["labels"] == {"grafana_dashboard": "1"}
    # The program registers them side by side.
    assert {board["uid"] for board in dashboards()} == {"shlink-shlink", "shlink-data"}


def test_panels_do_not_overlap() -> None:
    for board in dashboards():
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(places) == len(set(places))
        assert len(board["panels"]) >= 6
