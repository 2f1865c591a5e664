"""External Secrets: the stores can log in to Vault, and every Secret is as new as it should be."""

import re
from collections.abc import AsyncIterator

from components.cluster.waits import synced
from operate.doctor import as_declared
from operate.doctor.findings import CLUSTER, Checks, Environment, Problem, error_unless
from operate.doctor.pod_problems import GRACE, last_seen
from operate.view import Object, age, at, condition, mapped, place, written

from .vault import restarted

CHECKS = Checks()

check = CHECKS.check

_MISSED_REFRESHES = 2
"""Refresh intervals without a refresh that mean that nobody refreshes."""

_SYNC_SECONDS = 30.0
"""Seconds in which a Secret follows a change of its ExternalSecret."""

_RETRY_SECONDS = 60.0
"""Seconds after a restart of Vault in which External Secrets has tried again: after each failure it
waits longer."""

_SHOWN = 300
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


CHECKS.append(as_declared.unchanged("secrets.unchanged", "SecretStore", "ExternalSecret"))


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
async def _stores(environment: Environment) -> AsyncIterator[Problem]:
    for manifest in environment.declared.of_kind("SecretStore"):
        store = await as_declared.actual(environment, manifest)
        if store is None:
            yield await as_declared.missing(environment, manifest)
            continue
        ready = condition(store, "Ready")
        if ready is not None and ready["status"] == "True":
            continue
        young = age(environment.view, store["metadata"]["creationTimestamp"]) < GRACE / 3
        changing = (young and ready is None) or await restarted(environment, _RETRY_SECONDS)
        reason = await _reason(environment, store, ready)
        # As Go writes it: https://pkg.go.dev/crypto/x509#CertificateInvalidError
        page = "certificate-refused" if "x509:" in reason else "secret-store-not-ready"
        text = f"SecretStore {'/'.join(place(store))} can't log in to Vault: {reason}"
        yield Problem(text, page, severity=error_unless(changing=changing))


@check(
    "secrets.synced",
    "every Secret is delivered, in the version that its pods are made for",
    after=("secrets.store", "secrets.unchanged"),
)
async def _synced(environment: Environment) -> AsyncIterator[Problem]:
    for manifest in environment.declared.of_kind("ExternalSecret"):
        external = await as_declared.actual(environment, manifest)
        if external is None:
            yield await as_declared.missing(environment, manifest)
            continue
        problem = await _undelivered(environment, external) or _not_refreshed(environment, external)
        if problem:
            yield problem


async def _undelivered(environment: Environment, external: Object) -> Problem | None:
    view, (namespace, name) = environment.view, place(external)
    secret = external["spec"].get("target", {}).get("name", name)
    ready, reason = condition(external, "Ready"), synced(external)
    if ready is not None and ready["status"] != "True":
        reason = await _reason(environment, external, ready)
    if reason is None:
        return None
    young = age(view, external["metadata"]["creationTimestamp"]) < GRACE / 3
    # A rotation has asked for another version, or Vault was away when it was asked for.
    changing = (young and ready is None) or written(view, external) < _SYNC_SECONDS
    changing = changing or await restarted(environment, _RETRY_SECONDS)
    text = f"Secret {namespace}/{secret} is not delivered (ExternalSecret {name}): {reason}"
    return Problem(text, "secret-not-synced", severity=error_unless(changing=changing))


def _not_refreshed(environment: Environment, external: Object) -> Problem | None:
    namespace, name = place(external)
    interval = _seconds(str(external["spec"].get("refreshInterval", "1h")))
    refreshed = age(environment.view, at(external, "status", "refreshTime"))
    if not interval or refreshed <= _MISSED_REFRESHES * interval:
        return None
    text = f"ExternalSecret {namespace}/{name} was last refreshed {refreshed / 3600:.0f} h ago"
    command = f"annotate externalsecret {name} --overwrite force-sync=now"
    remedy = environment.kubectl_in(namespace, command)
    text = f"{text}, so nothing follows a change in Vault"
    return Problem(text, "secret-not-refreshed", remedy)


def _seconds(duration: str) -> float:
    """A duration as Go writes it: `1h`, `1h0m0s`. Zero: never refreshed."""
    parts = re.findall(r"(\d+)([smh])", duration)
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


async def _reason(environment: Environment, item: Object, ready: Object | None) -> str:
    """Why it is not Ready. The condition says only what failed, an event of the object says why."""
    if ready is None:
        return "the controller has not looked at it yet"
    text = " ".join(str(ready.get("message", "")).split())[:_SHOWN] or "no message"
    namespace, name = place(item)
    events = await environment.view.objects("v1/events", namespace)
    own = [event for event in events if mapped(event, "involvedObject").get("name") == name]
    failures = [event for event in own if event.get("reason") in _FAILURES]
    if failures:
        failures.sort(key=last_seen)
        text = f"{text}: {_meaning(str(failures[-1].get('message', '')))}"
    return f"{ready.get('reason', '')}: {text}"


def _meaning(message: str) -> str:
    """What External Secrets tells of Vault's answer, on one line, after what it means."""
    line = " ".join(message.split())[:_SHOWN]
    for pattern, meaning in _MEANINGS.items():
        if re.search(pattern, line):
            return f"{meaning} ({line})"
    return line
