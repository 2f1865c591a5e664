"""What an environment may set about all layers: images, operators, nodes, network, monitoring."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from .. import pins, ports
from .images import ImageReference
from .types import (
    EXPECTED,
    AnnotationName,
    AnnotationText,
    ChartRepository,
    ChartVersion,
    Cidr,
    Cpu,
    Destination,
    DiskSize,
    Image,
    LabelText,
    Memory,
    Model,
    Name,
    ObjectName,
    Registry,
    RemotePort,
    Secret,
    Text,
    Url,
    amount,
    text,
)


def _label_value(value: Any) -> Any:
    return value if value == "" else text(value)


LabelValue = Annotated[
    str,
    Field(
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$",
        json_schema_extra={
            EXPECTED: "up to 63 letters, digits, dashes, dots and underscores, in quotes if empty"
        },
    ),
    BeforeValidator(_label_value),
]
"""Of a node: `node-role.kubernetes.io/worker` has the empty one."""


class Toleration(Model):
    """A taint that these pods tolerate, as Kubernetes writes it."""

    key: AnnotationName | None = Field(
        default=None, description="The taint's key; every key when left out, with `Exists` only."
    )
    operator: Literal["Equal", "Exists"] = Field(
        default="Equal", description="Equal compares the value too; Exists takes any value."
    )
    value: LabelText | None = Field(
        default=None, description="The taint's value, with `Equal`; the empty one when left out."
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; every effect when left out."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="How long a pod stays after such a taint with `NoExecute` appears; for ever "
        "when left out.",
    )

    @model_validator(mode="after")
    def _accepted_by_kubernetes(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value: belongs to operator: Equal; remove it, or set that operator")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key: is missing; only operator: Exists tolerates every key")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds: belongs to effect: NoExecute; remove it")
        return self


class PlacementSettings(Model):
    """On which nodes every pod of the environment may run: the program's own and the operators'."""

    node_selector: dict[AnnotationName, LabelValue] = Field(
        default={}, description="Labels that a node must have, such as kubernetes.io/arch: amd64."
    )
    tolerations: list[Toleration] = Field(
        default=[], description="Taints of nodes that these pods tolerate."
    )
    priority_class_name: ObjectName | None = Field(
        default=None,
        description="PriorityClass of the pods; it must exist. PGO's own pod has none: its chart "
        "knows no such value.",
    )
    spread_zones: bool = Field(
        default=False,
        description="Prefer to spread the replicas of Shlink, Vault and Redis over zones "
        "(topology.kubernetes.io/zone), not only over nodes. PGO does so for PostgreSQL anyway. "
        "A change restarts those pods, a few at a time.",
    )
    namespace_labels: dict[AnnotationName, LabelValue] = Field(
        default={},
        description="Further labels of the namespaces, such as an owner's that a policy demands.",
    )
    namespace_annotations: dict[AnnotationName, AnnotationText] = Field(
        default={}, description="Annotations of the namespaces, such as a backup tool's."
    )
    cpu_limit: Cpu | None = Field(
        default=None,
        description="CPU limit of every container of these namespaces, by a LimitRange, where a "
        "quota demands one; not below any container's request. It counts for new pods.",
    )

    @model_validator(mode="after")
    def _no_other_security(self) -> Self:
        for name in self.namespace_labels:
            if name.startswith("pod-security.kubernetes.io/"):
                raise ValueError(
                    f"namespaceLabels: {name} is set by this program; allowed: other labels"
                )
        return self


class PullCredentials(Model):
    """A login at a registry, for pulling images."""

    registry: Registry = Field(
        description="The registry's host, with a path where the login is for that path only; "
        "docker.io for Docker Hub."
    )
    username: Text = Field(description="User, or what the registry takes in its place.")
    password: Secret = Field(description="Password or token.")


class Volume(Model):
    """A persistent volume."""

    size: DiskSize = Field(
        default="1Gi", description="Requested size, with a binary unit: 500Mi, 10Gi."
    )
    storage_class: ObjectName | None = Field(
        default=None,
        description="Storage class; the cluster's default when left out.",
    )


class Resources(Model):
    """Requests and the memory limit of one container.

    There is no CPU limit: it throttles without protecting anyone.
    """

    cpu: Cpu = Field(default="50m", description="CPU request, in processors or thousandths (m).")
    memory: Memory = Field(default="64Mi", description="Memory request.")
    memory_limit: Memory = Field(
        default="256Mi",
        description="Memory limit; not below the request. A container that needs more is killed.",
    )

    @model_validator(mode="after")
    def _limit_is_not_below(self) -> Self:
        if amount(self.memory_limit) < amount(self.memory):
            raise ValueError(
                f"memoryLimit: {self.memory_limit} is less than the request "
                f"`memory` of {self.memory}; allowed: the request or more"
            )
        return self


class Chart(Model):
    """Where a Helm chart comes from."""

    repository: ChartRepository = Field(
        description="Repository URL, the chart's own oci:// reference, or the path of a folder or "
        ".tgz that begins with ./, ../ or /.",
    )
    version: ChartVersion = Field(description="Chart version.")


class Charts(Model):
    """The sources of the charts, for mirrors and air gaps. What is left out stays pinned."""

    vault: Chart = Chart(repository=pins.VAULT_REPOSITORY, version=pins.VAULT_CHART)
    external_secrets: Chart = Chart(
        repository=pins.EXTERNAL_SECRETS_REPOSITORY, version=pins.EXTERNAL_SECRETS_CHART
    )
    pgo: Chart = Chart(repository=pins.PGO_REPOSITORY, version=pins.PGO_CHART)
    redis_operator: Chart = Chart(
        repository=pins.REDIS_OPERATOR_REPOSITORY, version=pins.REDIS_OPERATOR_CHART
    )
    redis_operator_fork: Chart = Chart(
        repository=pins.REDIS_OPERATOR_FORK_REPOSITORY, version=pins.REDIS_OPERATOR_FORK_CHART
    )

    @model_validator(mode="after")
    def _installable(self) -> Self:
        chart = self.redis_operator
        if "spotahome" in chart.repository and chart.version.lstrip("v") == "3.3.0":
            raise ValueError(
                "redisOperator.version: 3.3.0 can't be installed, it has a template inside crds/; "
                f"allowed: {pins.REDIS_OPERATOR_CHART}, or the maintained fork (docs/upgrades.md)"
            )
        return self


class Images(Model):
    """The images.

    The PGO chart brings those of PostgreSQL, pgBackRest and PGO: name them only to change them.
    """

    registry: Registry | None = Field(
        default=None,
        description="A mirror that takes the place of the registry host of every image that this "
        "program, its charts and PGO name.",
    )
    pull_credentials: list[PullCredentials] = Field(
        default=[],
        description="Logins for pulling images. The program puts them into a Secret of each of its "
        "namespaces, and every pod names it.",
    )
    shlink: Image = pins.SHLINK_IMAGE
    web_client: Image = pins.WEB_CLIENT_IMAGE
    vault: Image = pins.VAULT_IMAGE
    bank_vaults: Image = pins.BANK_VAULTS_IMAGE
    external_secrets: Image = pins.EXTERNAL_SECRETS_IMAGE
    redis: Image = pins.REDIS_IMAGE
    redis_exporter: Image = pins.REDIS_EXPORTER_IMAGE
    redis_operator: Image = pins.REDIS_OPERATOR_IMAGE
    redis_operator_fork: Image = pins.REDIS_OPERATOR_FORK_IMAGE
    pgo: Image | None = None
    postgres: Image | None = None
    pgbackrest: Image | None = None
    pgbouncer: Image | None = None
    postgres_exporter: Image | None = None

    @model_validator(mode="after")
    def _one_login_each(self) -> Self:
        registries = [login.registry for login in self.pull_credentials]
        for registry in registries:
            if registries.count(registry) > 1:
                raise ValueError(
                    f"pullCredentials: {registry} is there twice; "
                    "allowed: one login for each registry"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _mirror(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        images = cast("dict[str, Any]", value)
        registry = images.get("registry")
        if not isinstance(registry, str):
            return images
        mirrored: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            if isinstance(field.default, str):
                image = str(ImageReference.parse(field.default).at(registry))
                try:
                    ImageReference.parse(image)
                except ValueError:
                    return images  # a wrong registry is one fault of its own, not one of each image
                mirrored[field.alias or name] = image
        return mirrored | images


class Operator(Model):
    """One operator: installed by this program, or there already."""

    install: bool = Field(
        default=True,
        description="False: the cluster has it already, and it watches this environment's "
        "namespaces.",
    )
    namespace: Name | None = Field(
        default=None,
        description="Where it runs when it is not installed here, for the NetworkPolicies.",
    )
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.install and self.namespace is not None:
            raise ValueError(
                "namespace: is fixed while `install` is true; leave it out, or set install: false"
            )
        if not self.install and self.namespace is None:
            raise ValueError(
                "namespace: is missing; with install: false it says where the operator runs"
            )
        return self


class RedisOperatorSettings(Operator):
    """redis-operator: the archived project, or its maintained fork."""

    distribution: Literal["spotahome", "freshworks"] = Field(
        default="spotahome",
        description="spotahome: archived in June 2026, the last stable release. freshworks: the "
        "maintained fork with the same API group. Changing it restarts the Redis pods one by one.",
    )
    group: Name = Field(
        default="shlink",
        description="Operator group of the fork: it looks after RedisFailovers with this label "
        "only.",
    )


class Operators(Model):
    """The operators that the custom resources need."""

    external_secrets: Operator = Operator()
    pgo: Operator = Operator(resources=Resources(memory="128Mi", memory_limit="512Mi"))
    redis_operator: RedisOperatorSettings = RedisOperatorSettings()

    @model_validator(mode="after")
    def _in_a_namespace_that_lets_them_work(self) -> Self:
        """The policies let PGO and redis-operator out, each beside its own servers only."""
        own = {"vault", "postgres", "redis", "shlink"}
        if self.external_secrets.install:
            own.add("external-secrets")
        operators = {
            "externalSecrets": (self.external_secrets, ""),
            "pgo": (self.pgo, "postgres"),
            "redisOperator": (self.redis_operator, "redis"),
        }
        for name, (operator, usual) in operators.items():
            if operator.namespace in own - {usual}:
                allowed = f"a namespace that this environment does not use, or {usual}"
                raise ValueError(
                    f"{name}.namespace: {operator.namespace} is this environment's own, and its "
                    "policies would cut that operator off; allowed: "
                    f"{allowed.removesuffix(', or ')}"
                )
        return self


class Proxy(Destination):
    """A proxy by which everything leaves the cluster that has no way of its own."""

    url: Url = Field(description="Its address, as in http://proxy.example.org:3128.")
    no_proxy: list[Text] = Field(
        default=[],
        description="Hosts, domains and networks that are reached without it, beside those of the "
        "cluster.",
    )

    @property
    def port(self) -> int:
        """The port that the network policies must leave open."""
        return urlsplit(self.url).port or ports.HTTP

    def variables(self, direct: Sequence[str] = ()) -> dict[str, str]:
        """What products read. `direct`: hosts that have a way of their own."""
        inside = ["localhost", "127.0.0.1", "::1", ".svc", ".cluster.local", ".vault-internal"]
        exempt = ",".join([*inside, *direct, *self.no_proxy])
        return {"HTTP_PROXY": self.url, "HTTPS_PROXY": self.url, "NO_PROXY": exempt}


class Network(Model):
    """NetworkPolicies, and the way out of the cluster."""

    api_server: list[Cidr] = Field(
        default=["0.0.0.0/0", "::/0"],
        min_length=1,
        description="Addresses of the API server. When left out, `make up` asks the cluster, and "
        "again each time: name networks where servers come and go between two updates.",
    )
    api_server_ports: list[RemotePort] = Field(
        default=[443, 6443],
        min_length=1,
        description="Its ports: the Service's and the server's own.",
    )
    policies: Literal["kubernetes", "cilium"] = Field(
        default="kubernetes",
        description="On Cilium, `cilium`: no address matches its API server, only its own "
        "policies do.",
    )
    dns_namespace: Name = Field(default="kube-system", description="Where the cluster's DNS runs.")
    dns_addresses: list[Cidr] = Field(
        default=[], description="Node-local DNS, whose address is no pod's: 169.254.20.10/32."
    )
    dns_ports: list[RemotePort] = Field(
        default=[53], min_length=1, description="Ports of the DNS pods; 5353 on OpenShift."
    )
    monitoring_namespace: Name | None = Field(
        default=None, description="Namespace of Prometheus; its pods may reach the exporters."
    )
    monitoring_labels: dict[AnnotationName, LabelText] = Field(
        default={}, description="Labels of Prometheus' pods; every pod there when left out."
    )
    proxy: Proxy | None = Field(
        default=None,
        description="For titles, GeoLite and Vault's key service. pgBackRest knows no proxy: an "
        "object store needs a way of its own.",
    )
    cluster_cidrs: list[Cidr] = Field(
        default=[],
        description="Networks of the cluster's pods, Services and nodes. Shlink fetches titles and "
        "GeoLite from anywhere but there; private networks are closed to it anyway.",
    )

    @property
    def names_api_server(self) -> bool:
        """Whether its addresses are set, and so not asked of the cluster."""
        return "api_server" in self.model_fields_set


class Monitoring(Model):
    """Prometheus and Grafana that run in this cluster: what they scrape, alert on and show."""

    enabled: bool = Field(
        default=False,
        description="PodMonitors, PrometheusRules and dashboards; the cluster must know the "
        "Prometheus operator's kinds. Needs `network.monitoringNamespace`.",
    )
    labels: dict[AnnotationName, LabelText] = Field(
        default={},
        description="Labels by which your Prometheus selects monitors and rules, "
        "e.g. {release: kube-prometheus-stack}.",
    )
    dashboard_labels: dict[AnnotationName, LabelText] = Field(
        default={"grafana_dashboard": "1"},
        description="Labels by which your Grafana finds dashboards in ConfigMaps.",
    )
    backup_hours: int = Field(
        default=48,
        ge=1,
        le=8760,
        description="Hours without a new backup after which an alert fires.",
    )
