"""The rules of rules.py for Pulumi's engine: `pulumi preview --policy-pack policy`.

It runs in an environment of its own (docs/security.md): pulumi-policy 1.21.0 wants an older
protobuf than this project locks.
"""

# pulumi_policy is not in the environment that the checks run in.
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

# The engine runs this file alone, and the rules read image references as the program does.
sys.path.insert(0, str(Path(__file__).parent.parent))

from policy.rules import RULES, Resource, Rule, leaks

_SHORTEST = 12
"""Characters of a generated value that cannot stand somewhere by chance."""


def known(value: Any) -> Any:
    """Plain data; None for what a preview does not know yet."""
    if isinstance(value, Mapping):
        return {key: _entry(value, key) for key in value}
    if hasattr(value, "__getitem__") and not isinstance(value, str | bytes):
        return [_entry(value, position) for position in range(len(value))]
    return value


def _entry(holder: Any, key: Any) -> Any:
    try:
        return known(holder[key])
    except UnknownValueError:
        return None


def resource(item: Any) -> Resource:
    """A resource of the engine as the rules see it."""
    provider = item.provider.name if item.provider else ""
    return Resource(item.resource_type, item.name, known(item.props), provider)


def policy(rule: Rule) -> ResourceValidationPolicy:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        for fault in rule.faults(resource(args)):
            report(fault)

    return ResourceValidationPolicy(name=rule.name, description=rule.description, validate=validate)


def no_leak(args: StackValidationArgs, report: ReportViolation) -> None:
    resources = [resource(item) for item in args.resources]
    secrets = dict(_generated(resources))
    for fault in leaks(resources, secrets):
        report(fault)


def _generated(resources: list[Resource]) -> Iterator[tuple[str, str]]:
    for item in resources:
        value = item.inputs.get("result")
        if item.type.startswith("random:") and isinstance(value, str) and len(value) >= _SHORTEST:
            yield item.name, value


PolicyPack(
    name="shlink",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[
        *map(policy, RULES),
        StackValidationPolicy(
            name="no-secret-in-clear",
            description="Generated passwords stand only where secrets belong.",
            validate=no_leak,
        ),
    ],
)
