"""The alerts of an environment: each tells a person before a user does, and names its runbook page.

Every query uses metrics and labels that were seen at their source (tests/metrics.yaml): Vault 1.21
(`vault_*`), External Secrets 2.9 (`externalsecret_*`), pgMonitor in PGO's exporter (`ccp_*`),
redis_exporter (`redis_*`) and RoadRunner 2025.1 (`rr_*`). The cluster has `kube_*` from
kube-state-metrics, `kubelet_*` and `container_*` from the kubelet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

RUNBOOK = "docs/runbook.md"

_THREE_WEEKS = 21 * 86400

AVAILABLE = "kube_deployment_status_replicas_available"


@dataclass(frozen=True)
class Alert:
    """One alert."""

    name: str
    expression: str
    """PromQL; the alert fires while it has a result."""
    minutes: int
    """How long that must hold."""
    severity: str
    """`critical`: users notice, or data is at risk. `warning`: within days."""
    summary: str
    """One sentence; `{{ $labels.x }}` stands for a label."""
    page: str
    """The section of docs/runbook.md."""


@dataclass(frozen=True)
class Watched:
    """What the alerts of one environment are about."""

    vault: str
    """Namespace of Vault."""
    postgres: str
    """Namespace of PostgreSQL."""
    redis: str
    """Namespace of Redis."""
    shlink: str
    """Namespace of Shlink."""
    external_secrets: str
    """Namespace of External Secrets."""
    exporter: bool
    """Whether PostgreSQL's exporter runs (`postgres.monitoring`)."""
    failover: bool
    """Whether Redis runs here."""
    backup_hours: int
    repositories: Sequence[str]
    """Numbers of the backup repositories, as pgBackRest has them."""
    jobs: Sequence[str]
    """What is scraped, as Prometheus names it: namespace/PodMonitor."""
    autoscaled: bool = False
    """Whether an autoscaler decides how many pods of Shlink run."""
    pooled: bool = False
    """Whether Shlink reaches PostgreSQL through PgBouncer."""

    @property
    def namespaces(self) -> list[str]:
        """All of them."""
        return [self.vault, self.external_secrets, self.postgres, self.redis, self.shlink]


def alerts(watched: Watched) -> list[Alert]:
    """The alerts for what this environment has."""
    rules = [_metrics(watched), *_vault(watched), *_shlink(watched), *_cluster(watched)]
    if watched.exporter:
        rules += _postgres(watched)
    if watched.pooled:
        rules.append(_pooler(watched))
    if watched.failover:
        rules += _redis(watched)
    return rules


def undelivered(watched: Watched) -> str:
    """The Secrets that are not delivered."""
    ready = 'externalsecret_status_condition{condition="Ready", status="False"'
    space = f'namespace="{watched.shlink}"'
    return f"{ready}, exported_{space}}} == 1 or {ready}, {space}}} == 1"


def primary(watched: Watched) -> str:
    """The primaries of PostgreSQL; 1 would be its replicas."""
    return f'ccp_is_in_recovery_status{{namespace="{watched.postgres}"}} == 2'


def backup_ages(watched: Watched, repository: str = "") -> str:
    """The age of the newest backup of each kind, in one repository or in all.

    By a pattern of names: `or` would drop a backup whose labels equal the other's.
    """
    names = "ccp_backrest_last_(full|diff|incr)_backup_time_since_completion_seconds"
    number = f', repo="{repository}"' if repository else ""
    return f'{{__name__=~"{names}", namespace="{watched.postgres}"{number}}}'


def spaces(namespaces: Sequence[str]) -> str:
    """A matcher of namespaces."""
    return f'namespace=~"{"|".join(namespaces)}"'


def _none_available(namespace: str, name: str) -> str:
    """No pod of a Deployment is Ready.

    0 times the count of all of them stands in for a Deployment that is gone, and for none where
    kube-state-metrics itself does not answer.
    """
    own = f'{AVAILABLE}{{namespace="{namespace}", deployment="{name}"}}'
    return f"(max({own}) or 0 * count({AVAILABLE})) == 0"


def _ready(namespace: str, value: int) -> str:
    """The pods that are Ready, or those that are not; none without kube-state-metrics."""
    return f'kube_pod_status_ready{{namespace="{namespace}", condition="true"}} == {value}'


def _one(found: str, namespace: str, monitor: str) -> str:
    """Not exactly one was found.

    A Ready pod whose exporter gives no answer may be the one: a gap in the scrapes is no failure.
    """
    silent = (
        f'up{{job="{namespace}/{monitor}"}} == 0 unless on (namespace, pod) {_ready(namespace, 0)}'
    )
    return f"count({found}) > 1 or absent({found}) unless on () ({silent})"


def _metrics(watched: Watched) -> Alert:
    """What other alerts can't see, and so do not tell."""
    gone = [f'absent(up{{job="{job}"}})' for job in watched.jobs]
    silent = f'max by (job, pod) (up{{job=~"{"|".join(watched.jobs)}"}}) == 0'
    return Alert(
        name="MetricsMissing",
        expression=" or ".join([silent, *gone]),
        minutes=10,
        severity="warning",
        summary="Prometheus gets no metrics of {{ $labels.job }} {{ $labels.pod }}.",
        page="metrics-missing",
    )


def _vault(watched: Watched) -> list[Alert]:
    place, job = f'namespace="{watched.vault}"', f'job="{watched.vault}/vault"'
    return [
        Alert(
            name="VaultSealed",
            # A server reports its sealed start beside the truth until its telemetry forgets it
            # (`prometheus_retention_time`; seen on Vault 1.21.2), hence `max`. One that is not
            # Ready and answers no scrape is as good as sealed; so it is where it has no pod.
            expression=(
                f"max by (namespace, pod) (vault_core_unsealed{{{place}}}) == 0 "
                f"or max by (namespace, pod) (up{{{job}}}) == 0 "
                f"and on (namespace, pod) {_ready(watched.vault, 0)} "
                f"or absent(up{{{job}}})"
            ),
            minutes=2,
            severity="critical",
            summary="Vault ({{ $labels.pod }}) is sealed or does not answer.",
            page="vault-sealed",
        ),
        Alert(
            name="ExternalSecretNotSynced",
            expression=undelivered(watched),
            minutes=5,
            severity="warning",
            summary="Secret {{ $labels.name }} is not delivered.",
            page="secret-not-synced",
        ),
    ]


def _postgres(watched: Watched) -> list[Alert]:
    place = f'namespace="{watched.postgres}"'
    behind = f"ccp_replication_lag_size_bytes{{{place}}}"
    return [
        Alert(
            name="PostgresNoPrimary",
            expression=_one(primary(watched), watched.postgres, "shlink-db"),
            minutes=2,
            severity="critical",
            summary="PostgreSQL has no primary, or more than one.",
            page="postgres-no-primary",
        ),
        Alert(
            name="PostgresReplicaBehind",
            # The primary reports the replicas that it sends to, and no other: without its answer
            # nothing is known. One that only takes a base backup has no number.
            expression=(
                f"max by (pod) ({behind}) > 268435456 or "
                f"count(ccp_is_in_recovery_status{{{place}}} == 1) > "
                f"(count({behind} >= 0) or vector(0)) and on () {primary(watched)}"
            ),
            minutes=5,
            severity="warning",
            summary="A replica of PostgreSQL does not follow, or is more than 256 MiB behind.",
            page="postgres-replica-behind",
        ),
        Alert(
            name="PostgresArchivingFailing",
            # From the last success to the last failure, and 0 where nothing was ever archived. A
            # replica archives nothing, and keeps the numbers that it had as a primary.
            expression=(
                f"(ccp_archive_command_status_seconds_since_last_fail{{{place}}} > 300 or "
                f"ccp_archive_command_status_failed_count{{{place}}} > 0 and "
                f"ccp_archive_command_status_archived_count{{{place}}} == 0) "
                f"and on (pod) {primary(watched)}"
            ),
            minutes=5,
            severity="critical",
            summary="WAL of {{ $labels.pod }} can't be archived; its volume fills.",
            page="postgres-archiving-failing",
        ),
        Alert(
            name="PostgresBackupOld",
            expression=f"min by (repo) ({backup_ages(watched)}) > {watched.backup_hours * 3600}",
            minutes=15,
            severity="critical",
            summary=(
                f"The newest backup in repository {{{{ $labels.repo }}}} is older than "
                f"{watched.backup_hours} hours."
            ),
            page="postgres-backup-old",
        ),
        Alert(
            name="PostgresBackupMissing",
            # Without any backup a repository has no age. Nor has it while nothing is scraped: a gap
            # must not begin these hours anew.
            expression=" or ".join(
                f"absent({backup_ages(watched, number)})" for number in watched.repositories
            ),
            minutes=60 * watched.backup_hours,
            severity="critical",
            summary=(
                f"Repository {{{{ $labels.repo }}}} has had no backup for {watched.backup_hours} "
                "hours."
            ),
            page="postgres-backup-old",
        ),
    ]


def _pooler(watched: Watched) -> Alert:
    return Alert(
        name="PoolerNotReady",
        expression=_none_available(watched.postgres, "shlink-db-pgbouncer"),
        minutes=2,
        severity="critical",
        summary="No pod of PgBouncer is Ready: Shlink can't reach its database.",
        page="pooler-not-ready",
    )


def _redis(watched: Watched) -> list[Alert]:
    place = f'namespace="{watched.redis}"'
    return [
        Alert(
            name="RedisNoMaster",
            expression=_one(
                f'redis_instance_info{{{place}, role="master"}}',
                watched.redis,
                "shlink-redis",
            ),
            minutes=2,
            severity="critical",
            summary="Redis has no master, or more than one.",
            page="redis-no-master",
        ),
        Alert(
            name="RedisMemory",
            # Its cache is full in the end (`maxmemory`), so what counts is the container's limit.
            expression=(
                "max by (pod) "
                f'(container_memory_working_set_bytes{{{place}, container="redis"}}) / '
                f'max by (pod) (kube_pod_container_resource_limits{{{place}, container="redis", '
                'resource="memory"}) > 0.85'
            ),
            minutes=10,
            severity="warning",
            summary="Redis ({{ $labels.pod }}) uses more than 85 % of its memory.",
            page="redis-memory",
        ),
    ]


def _shlink(watched: Watched) -> list[Alert]:
    place = f'namespace="{watched.shlink}"'
    rules = [
        Alert(
            name="ShlinkNotReady",
            expression=_none_available(watched.shlink, "shlink"),
            minutes=2,
            severity="critical",
            summary="No pod of Shlink is Ready: every request fails.",
            page="shlink-no-endpoints",
        ),
        Alert(
            name="ShlinkErrors",
            # Shorter than the minutes below, or the errors of a failover would fire.
            expression=(
                f'sum(rate(rr_http_request_total{{{place}, status=~"5.."}}[2m])) / '
                f"sum(rate(rr_http_request_total{{{place}}}[2m])) > 0.05"
            ),
            minutes=5,
            severity="critical",
            summary="{{ $value | humanizePercentage }} of the requests end in a server error.",
            page="shlink-errors",
        ),
        Alert(
            name="ShlinkSlow",
            expression=(
                "histogram_quantile(0.5, sum by (le) "
                f"(rate(rr_http_request_duration_seconds_bucket{{{place}}}[5m]))) > 0.5"
            ),
            minutes=10,
            severity="warning",
            summary="Half of the requests take longer than {{ $value | humanizeDuration }}.",
            page="shlink-slow",
        ),
    ]
    if watched.autoscaled:
        rules.append(
            Alert(
                name="ShlinkNotScaling",
                # The autoscaler gets no measurements, or may not change the Deployment.
                expression=(
                    f"kube_horizontalpodautoscaler_status_condition{{{place}, "
                    'horizontalpodautoscaler="shlink", condition=~"AbleToScale|ScalingActive", '
                    'status="false"} == 1'
                ),
                minutes=15,
                severity="warning",
                summary="Shlink's autoscaler stands still: {{ $labels.condition }} is false.",
                page="shlink-not-scaling",
            )
        )
    return rules


def _cluster(watched: Watched) -> list[Alert]:
    place = spaces(watched.namespaces)
    restarts = f"kube_pod_container_status_restarts_total{{{place}}}"
    return [
        Alert(
            name="ContainerRestarts",
            # Not `increase`, which extrapolates: three restarts of a young pod came to 3.3.
            expression=f"{restarts} - min_over_time({restarts}[1h]) > 3",
            minutes=0,
            severity="warning",
            summary=(
                "Container {{ $labels.container }} of {{ $labels.namespace }}/{{ $labels.pod }} "
                "restarts again and again."
            ),
            page="restarts",
        ),
        Alert(
            name="VolumeFilling",
            expression=(
                f"kubelet_volume_stats_available_bytes{{{place}}} / "
                f"kubelet_volume_stats_capacity_bytes{{{place}}} < 0.15"
            ),
            minutes=10,
            severity="critical",
            summary=(
                "Volume {{ $labels.namespace }}/{{ $labels.persistentvolumeclaim }} is more than "
                "85 % full."
            ),
            page="volume-filling",
        ),
    ]


def certificate_alert(title: str, expires: str) -> Alert:
    """For one certificate. The program knows when it ends, so no exporter is needed.

    `expires` is a moment of RFC 3339.
    """
    end = int(datetime.fromisoformat(expires).timestamp())
    return Alert(
        name="CertificateNearItsEnd",
        expression=f"vector(time()) > {end - _THREE_WEEKS}",
        minutes=60,
        severity="warning",
        summary=f"The certificate of {title} ends on {expires[:10]}; `make up` renews it.",
        page="certificate-near-its-end",
    )


def rule(alert: Alert) -> dict[str, Any]:
    """As the Prometheus operator's PrometheusRule has it."""
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": f"{alert.minutes}m",
        "labels": {"severity": alert.severity, "environment": "shlink"},
        "annotations": {"summary": alert.summary, "runbook_url": f"{RUNBOOK}#{alert.page}"},
    }


def group(name: str, members: Sequence[Alert]) -> Mapping[str, Any]:
    """A group of rules."""
    return {"name": name, "rules": [rule(alert) for alert in members]}
