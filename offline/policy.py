"""The rules of policy/rules.py on what the program registers."""

from offline.record import Recorded, Recording, plain
from policy.rules import RULES, Resource


def as_resource(recorded: Recorded) -> Resource:
    """A registered resource as the rules see it."""
    # The reference of a provider is its URN and its id.
    urn = recorded.provider.rpartition("::")[0]
    return Resource(
        type=recorded.type,
        name=recorded.name,
        inputs=plain(recorded.inputs),
        provider=urn.rpartition("::")[2],
    )


def faults(recording: Recording) -> list[str]:
    """What breaks a rule. No message has a value of a secret in it."""
    messages: list[str] = []
    for recorded in recording.resources.values():
        if not recorded.custom and not recorded.remote:
            continue  # a component is no more than its children
        resource = as_resource(recorded)
        for rule in RULES:
            messages += [
                f"{resource.type} {resource.name}: {fault} ({rule.name})"
                for fault in rule.faults(resource)
            ]
    return messages
