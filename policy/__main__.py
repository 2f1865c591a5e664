"""The rules of rules.py for Pulumi's engine, which `make live-preview` and `make up` ask.

It runs in an environment of its own (pyproject.toml and uv.lock beside it): pulumi-policy 1.21.0
wants an older protobuf than this project locks.
"""

# pulumi_policy is not in the environment that the checks run in.
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi_policy.policy
from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.deserialize import SPECIAL_SECRET_SIG, SPECIAL_SIG_KEY
from pulumi_policy.proxy import _is_unknown
from pulumi_policy.secret import Secret

# The engine runs this file alone, and the rules read image references as the program does.
sys.path.insert(0, str(Path(__file__).parent.parent))

from policy.rules import RULES, Resource, Rule, leaks, marked

_SHORTEST = 12
"""Characters of a generated value that cannot stand somewhere by chance."""


@dataclass(frozen=True)
class Sent:
    """A resource's properties as the engine sent them: `Secret` around what it encrypts."""

    properties: Mapping[str, Any]


def sent(properties: Mapping[str, Any], _: object = None) -> Sent:
    return Sent({key: _decoded(item) for key, item in properties.items()})


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        if value.get(SPECIAL_SIG_KEY) == SPECIAL_SECRET_SIG:
            return Secret(_decoded(value["value"]))
        return {key: _decoded(item) for key, item in value.items()}
    return None if _is_unknown(value) else value


# The SDK drops the marks of secrets before a validation sees the values (1.21.0, Analyze).
pulumi_policy.policy.deserialize_properties = sent


def known(value: Any) -> Any:
    """Plain data without marks; None for what a preview does not know yet."""
    if isinstance(value, Secret):
        return known(value.value)
    if isinstance(value, dict):
        return {key: known(item) for key, item in value.items()}
    if isinstance(value, list):
        return [known(item) for item in value]
    return value


def resource(item: Any) -> Resource:
    """A resource of the engine as the rules see it."""
    properties = item.props.properties
    provider = item.provider.name if item.provider else ""
    return Resource(
        type=item.resource_type,
        name=item.name,
        inputs=known(properties),
        provider=provider,
        marked=tuple(marked(properties, Secret)),
    )


def policy(rule: Rule) -> ResourceValidationPolicy:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        for fault in rule.faults(resource(args)):
            report(fault)

    return ResourceValidationPolicy(name=rule.name, description=rule.description, validate=validate)


def no_leak(args: StackValidationArgs, report: ReportViolation) -> None:
    secrets: dict[str, str] = {}
    for item in args.resources:
        if item.resource_type.startswith(("random:", "tls:")):
            secrets |= _generated(item)
    for fault in leaks([resource(item) for item in args.resources], secrets):
        report(fault)


def _generated(item: Any) -> dict[str, str]:
    """The values that a resource has generated and that are marked, by a name for each."""
    values: dict[str, str] = {}
    for key, value in item.props.properties.items():
        text = known(value)
        if isinstance(value, Secret) and isinstance(text, str) and len(text) >= _SHORTEST:
            values[f"{item.name}.{key}"] = text
    return values


PolicyPack(
    name="shlink",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[
        *map(policy, RULES),
        StackValidationPolicy(
            name="no-generated-value-in-clear",
            description="Generated passwords and keys stand only where secrets belong.",
            validate=no_leak,
        ),
    ],
)
