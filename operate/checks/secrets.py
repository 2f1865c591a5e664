"""External Secrets: the stores can log in to Vault, and every Secret is as new as it should be."""

from components.waits import synced
from operate.drift import unchanged
from operate.findings import Check, Environment, Problem, error_unless
from operate.pods import GRACE
from operate.view import Object, age, at, condition, written

from .cluster import CLUSTER
from .vault import restarted

_STORES = "external-secrets.io/v1/secretstores"
_EXTERNAL = "external-secrets.io/v1/externalsecrets"
_MISSED_REFRESHES = 3
"""Refresh intervals without a refresh that mean that nobody refreshes."""
_SYNC_SECONDS = 30.0
"""Seconds in which a Secret follows a change of its ExternalSecret."""
_RETRY_SECONDS = 60.0
"""Seconds after a restart of Vault in which External Secrets has tried again: after each failure it
waits longer."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


async def _stores(environment: Environment) -> list[Problem]:
    problems: list[Problem] = []
    for manifest in environment.declared.of_kind("SecretStore"):
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        store = await environment.view.named(_STORES, namespace, name)
        if store is None:
            text = f"SecretStore {namespace}/{name} does not exist"
            problems.append(Problem(text, "object-missing", environment.make("refresh")))
            continue
        ready = condition(store, "Ready")
        if ready is not None and ready["status"] == "True":
            continue
        young = age(environment.view, store["metadata"]["creationTimestamp"]) < GRACE / 3
        changing = (young and ready is None) or await restarted(environment, _RETRY_SECONDS)
        reason = _reason(ready)
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


async def _synced(environment: Environment) -> list[Problem]:
    problems: list[Problem] = []
    for manifest in environment.declared.of_kind("ExternalSecret"):
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        external = await environment.view.named(_EXTERNAL, namespace, name)
        if external is None:
            text = f"ExternalSecret {namespace}/{name} does not exist"
            problems.append(Problem(text, "object-missing", environment.make("refresh")))
            continue
        problems += await _of_external(environment, external)
    return problems


async def _of_external(environment: Environment, external: Object) -> list[Problem]:
    namespace, name = external["metadata"]["namespace"], external["metadata"]["name"]
    secret = external["spec"].get("target", {}).get("name", name)
    ready = condition(external, "Ready")
    reason = synced(external)
    if ready is not None and ready["status"] != "True":
        reason = _reason(ready)
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


def _reason(ready: Object | None) -> str:
    if ready is None:
        return "the controller has not looked at it yet"
    message = str(ready.get("message", "")).splitlines()
    return f"{ready.get('reason', '')}: {message[0][:240] if message else 'no message'}"


CHECKS = (
    unchanged("secrets.unchanged", {"SecretStore": _STORES, "ExternalSecret": _EXTERNAL}),
    Check(
        name="secrets.store",
        description="the SecretStores can log in to Vault",
        depends_on=(
            *CLUSTER,
            "cluster.kinds",
            "cluster.objects",
            "cluster.policies",
            "cluster.dns",
            "operators.available",
            "secrets.unchanged",
            "vault.names",
            "vault.leader",
            "vault.certificate",
            "vault.login",
        ),
        look=_stores,
    ),
    Check(
        name="secrets.synced",
        description="every Secret is delivered, in the version that its pods are made for",
        depends_on=("secrets.store",),
        look=_synced,
    ),
)
