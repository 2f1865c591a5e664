"""Where pods run, and the login that pulls their images, in the words of whoever makes the pods.

The program's own pods, each operator's custom resource and each chart name these things
differently; nothing else in this program knows how. What is not set is not in the manifests.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulumi_kubernetes import core, meta

from ..settings.environment import Settings
from ..settings.platform import PullCredentials
from .crds import Affinity, PgoPlacement, PodPlacement, Scheduling, SpreadConstraint

PULL_SECRET = "registry-credentials"  # noqa: S105 -- a name
"""The Secret in each namespace that the kubelet pulls images with."""

_NODE = "kubernetes.io/hostname"

_ZONE = "topology.kubernetes.io/zone"


@dataclass(frozen=True)
class Placement:
    """The same for all pods of an environment. Nothing set leaves everything to the cluster."""

    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels that a node must have."""
    tolerations: Sequence[Mapping[str, Any]] = ()
    """Taints of nodes that the pods tolerate, as Kubernetes writes them."""
    priority_class: str | None = None
    """PriorityClass of the pods. It must exist, or no pod is created."""
    spread_zones: bool = False
    """Prefer to spread replicas over zones too."""
    pull_secret: str | None = None
    """Secret with the registries' logins, in the namespace of each pod; None where the nodes can
    pull by themselves."""

    @classmethod
    def from_settings(cls, settings: Settings) -> "Placement":
        """What this environment's settings say."""
        group = settings.placement
        pull_secret = PULL_SECRET if settings.images.pull_credentials else None
        return cls(
            node_selector=group.node_selector,
            tolerations=[
                toleration.model_dump(by_alias=True, exclude_none=True)
                for toleration in group.tolerations
            ],
            priority_class=group.priority_class_name,
            spread_zones=group.spread_zones,
            pull_secret=pull_secret,
        )

    def on_nodes(self) -> PodPlacement:
        """Fields of a pod's specification, which most charts and CRDs take by the same names."""
        if not self.node_selector:
            return {**self._scheduling()}
        return {"nodeSelector": dict(self.node_selector), **self._scheduling()}

    def pull_secrets(self) -> list[dict[str, str]]:
        """`imagePullSecrets` of a pod's specification; empty where none is needed."""
        return [{"name": self.pull_secret}] if self.pull_secret else []

    def pgo_pods(self) -> PgoPlacement:
        """For whatever runs pods in a PostgresCluster: PGO takes no node selector, but affinity.

        The pull secret is the whole cluster's (`spec.imagePullSecrets`).
        """
        if not self.node_selector:
            return {**self._scheduling()}
        return {"affinity": self.node_affinity(), **self._scheduling()}

    def _scheduling(self) -> Scheduling:
        fields: Scheduling = {}
        if self.tolerations:
            fields["tolerations"] = [*self.tolerations]
        if self.priority_class:
            fields["priorityClassName"] = self.priority_class
        return fields

    def node_affinity(self) -> Affinity:
        """The node selector as an affinity, which means the same."""
        expressions = [
            {"key": key, "operator": "In", "values": [value]}
            for key, value in sorted(self.node_selector.items())
        ]
        terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
        return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}

    def spread(self, labels: Mapping[str, str]) -> list[SpreadConstraint]:
        """Prefer one pod per node (and zone, if set), but schedule all on one node if need be."""
        keys = [_NODE, _ZONE] if self.spread_zones else [_NODE]
        return [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
            for key in keys
        ]

    def place(
        self, pod: core.v1.PodSpecArgs, spread_labels: Mapping[str, str] | None = None
    ) -> core.v1.PodSpecArgs:
        """The same pod where it is to run; its replicas spread if their labels are given."""
        if self.node_selector:
            pod.node_selector = dict(self.node_selector)
        if self.tolerations:
            pod.tolerations = [_toleration(toleration) for toleration in self.tolerations]
        if self.priority_class:
            pod.priority_class_name = self.priority_class
        if self.pull_secret:
            pod.image_pull_secrets = [core.v1.LocalObjectReferenceArgs(name=self.pull_secret)]
        if spread_labels is not None:
            pod.topology_spread_constraints = [
                _constraint(constraint) for constraint in self.spread(spread_labels)
            ]
        return pod


def _toleration(toleration: Mapping[str, Any]) -> core.v1.TolerationArgs:
    return core.v1.TolerationArgs(
        key=toleration.get("key"),
        operator=toleration.get("operator"),
        value=toleration.get("value"),
        effect=toleration.get("effect"),
        toleration_seconds=toleration.get("tolerationSeconds"),
    )


def _constraint(constraint: SpreadConstraint) -> core.v1.TopologySpreadConstraintArgs:
    labels = constraint["labelSelector"]["matchLabels"]
    return core.v1.TopologySpreadConstraintArgs(
        max_skew=constraint["maxSkew"],
        topology_key=constraint["topologyKey"],
        when_unsatisfiable=constraint["whenUnsatisfiable"],
        label_selector=meta.v1.LabelSelectorArgs(match_labels=labels),
    )


def docker_config(logins: Sequence[PullCredentials]) -> str:
    """The content of a Secret of type kubernetes.io/dockerconfigjson. Secret."""
    entries: dict[str, dict[str, str]] = {}
    for login in logins:
        password = login.password.get_secret_value()
        token = base64.b64encode(f"{login.username}:{password}".encode()).decode()
        entries[login.registry] = {
            "username": login.username,
            "password": password,
            "auth": token,
        }
    return json.dumps({"auths": entries})
