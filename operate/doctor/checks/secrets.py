"""External Secrets: the stores can log in to Vault, and every Secret is as new as it should be."""

import re

from components.cluster.waits import synced
from operate.doctor import last_update
from operate.doctor.drift import unchanged
from operate.doctor.findings import Checks, Environment, Problem, error_unless
from operate.doctor.pod_problems import GRACE, last_seen
from operate.view import Object, age, at, condition, mapped, written

from .cluster import CLUSTER
from .vault import restarted

CHECKS = Checks()

check = CHECKS.check

_STORES = "external-secrets.io/v1/secretstores"

_EXTERNAL = "external-secrets.io/v1/externalsecrets"

_MISSED_REFRESHES = 3
"""Refresh intervals without a refresh that mean that nobody refreshes."""

_SYNC_SECONDS = 30.0
"""Seconds in which a Secret follows a change of its ExternalSecret."""

_RETRY_SECONDS = 60.0
"""Seconds after a restart of Vault in which External Secrets has tried again: after each failure it
waits longer."""

_TOLD = 300
"""Characters of a message that are repeated."""

_FAILURES = ("InvalidProviderConfig", "UpdateFailed", "MissingProviderSecret")
"""Reasons of the events that tell a failure: apis/externalsecrets/v1 of External Secrets 2.9.0."""

_MEANINGS = {
    r"x509:": "it refuses Vault's certificate",
    r"no such host|timeout|connection refused|deadline exceeded|no route": "it can't reach Vault",
    r"Vault is sealed": "Vault is sealed",
    r"/login.*(permission denied|Code: 40)": "Vault refuses its login",
    r"permission denied": "the policy in Vault does not allow it, or its mount is gone",
    r"does not exist|not found|no handler|cannot find": "its path or version in Vault is missing",
}
"""What a failure means, by what it says; the first that fits."""

_UNITS = {"s": 1, "m": 60, "h": 3600}


CHECKS.append(unchanged("secrets.unchanged", {"SecretStore": _STORES, "ExternalSecret": _EXTERNAL}))


@check(
    "secrets.store",
    "the SecretStores can log in to Vault",
    after=(
        *CLUSTER,
        "cluster.kinds",
        "cluster.objects",
        "cluster.policies",
        "cluster.dns",
        "cluster.names",
        "operators.available",
        "secrets.unchanged",
        "vault.names",
        "vault.leader",
        "vault.certificate",
        "vault.login",
    ),
)
async def _stores(environment: Environment) -> list[Problem]:
    problems: list[Problem] = []
    for manifest in environment.declared.of_kind("SecretStore"):
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        store = await last_update.find(environment, _STORES, manifest)
        if store is None:
            problems.append(await last_update.missing(environment, manifest))
            continue
        ready = condition(store, "Ready")
        if ready is not None and ready["status"] == "True":
            continue
        young = age(environment.view, store["metadata"]["creationTimestamp"]) < GRACE / 3
        changing = (young and ready is None) or await restarted(environment, _RETRY_SECONDS)
        reason = await _reason(environment, store, ready)
        # As Go says it: https://pkg.go.dev/crypto/x509#CertificateInvalidError
        page = "certificate-refused" if "x509:" in reason else "secret-store-not-ready"
        problems.append(
            Problem(
                f"SecretStore {namespace}/{name} can't log in to Vault: {reason}",
                page,
                environment.make("refresh"),
                severity=error_unless(changing=changing),
            )
        )
    return problems


@check(
    "secrets.synced",
    "every Secret is delivered, in the version that its pods are made for",
    after=("secrets.store", "secrets.unchanged"),
)
async def _synced(environment: Environment) -> list[Problem]:
    problems: list[Problem] = []
    for manifest in environment.declared.of_kind("ExternalSecret"):
        external = await last_update.find(environment, _EXTERNAL, manifest)
        if external is None:
            problems.append(await last_update.missing(environment, manifest))
            continue
        problems += await _of_external(environment, external)
    return problems


async def _of_external(environment: Environment, external: Object) -> list[Problem]:
    namespace, name = external["metadata"]["namespace"], external["metadata"]["name"]
    secret = external["spec"].get("target", {}).get("name", name)
    ready = condition(external, "Ready")
    reason = synced(external)
    if ready is not None and ready["status"] != "True":
        reason = await _reason(environment, external, ready)
    if reason is not None:
        view = environment.view
        young = age(view, external["metadata"]["creationTimestamp"]) < GRACE / 3
        # A rotation has asked for another version, or Vault was away when it was asked for.
        changing = (young and ready is None) or written(view, external) < _SYNC_SECONDS
        changing = changing or await restarted(environment, _RETRY_SECONDS)
        return [
            Problem(
                f"Secret {namespace}/{secret} is not delivered (ExternalSecret {name}): {reason}",
                "secret-not-synced",
                environment.make("refresh"),
                severity=error_unless(changing=changing),
            )
        ]
    interval = _seconds(str(external["spec"].get("refreshInterval", "1h")))
    refreshed = age(environment.view, at(external, "status", "refreshTime"))
    if interval and refreshed > _MISSED_REFRESHES * interval:
        return [
            Problem(
                f"ExternalSecret {namespace}/{name} was last refreshed "
                f"{refreshed / 3600:.0f} h ago, so nothing follows a change in Vault",
                "secret-not-refreshed",
                environment.kubectl_in(
                    namespace, f"annotate externalsecret {name} --overwrite force-sync=now"
                ),
            )
        ]
    return []


def _seconds(duration: str) -> float:
    """A duration of one unit, as the program writes it: `1h`. Zero: never refreshed."""
    number, unit = duration[:-1], duration[-1:]
    if unit not in _UNITS or not number.isdigit():
        return 0
    return int(number) * _UNITS[unit]


async def _reason(environment: Environment, item: Object, ready: Object | None) -> str:
    """Why it is not Ready. The condition says only what failed, an event of the object says why."""
    if ready is None:
        return "the controller has not looked at it yet"
    told = " ".join(str(ready.get("message", "")).split())[:_TOLD] or "no message"
    namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
    events = await environment.view.objects("v1/events", namespace)
    own = [
        event
        for event in events
        if event.get("type") == "Warning"
        and mapped(event, "involvedObject").get("name") == name
        and event.get("reason") in _FAILURES
    ]
    own.sort(key=last_seen)
    if own:
        told = f"{told}: {_meaning(str(own[-1].get('message', '')))}"
    return f"{ready.get('reason', '')}: {told}"


def _meaning(message: str) -> str:
    """What External Secrets tells of Vault's answer, on one line, after what it means."""
    line = " ".join(message.split())[:_TOLD]
    for pattern, meaning in _MEANINGS.items():
        if re.search(pattern, line):
            return f"{meaning} ({line})"
    return line
