"""What an environment may set about the nodes of its pods, and the registries they pull from."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from .setting_types import (
    EXPECTED,
    AnnotationName,
    LabelText,
    Model,
    ObjectName,
    Registry,
    Secret,
    Text,
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


class PullCredentials(Model):
    """A login at a registry, for pulling images."""

    registry: Registry = Field(
        description="The registry's host, with a path where the login is for that path only; "
        "docker.io for Docker Hub."
    )
    username: Text = Field(description="User, or what the registry takes in its place.")
    password: Secret = Field(description="Password or token.")
