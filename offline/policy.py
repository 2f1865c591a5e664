"""The rules of policy/rules.py on what the program registers."""

from offline.record import Recorded, Recording, Secret, generated, plain
from policy.rules import RULES, Resource, leaks, marked


def as_resource(recorded: Recorded) -> Resource:
    """A registered resource as the rules see it."""
    # The reference of a provider is its URN and its id.
    urn = recorded.provider.rpartition("::")[0]
    return Resource(
        type=recorded.type,
        name=recorded.name,
        inputs=plain(recorded.inputs),
        provider=urn.rpartition("::")[2],
        marked=tuple(marked(recorded.inputs, Secret)),
    )


def faults(recording: Recording) -> list[str]:
    """What breaks a rule. No message has a value of a secret in it."""
    # A component is no more than its children.
    registered = [item for item in recording.resources.values() if item.custom or item.remote]
    resources = [as_resource(recorded) for recorded in registered]
    messages: list[str] = []
    for resource in resources:
        for rule in RULES:
            messages += [
                f"{resource.type} {resource.name}: {fault} ({rule.name})"
                for fault in rule.faults(resource)
            ]
    return messages + list(leaks(resources, generated(recording)))
