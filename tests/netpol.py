"""What NetworkPolicies allow, by the rules of the Kubernetes API.

https://kubernetes.io/docs/concepts/services-networking/network-policies/

Policies are plain data, as `kubectl get -o json` prints them. A connection is allowed when the
policies of its source let it out and those of its target let it in; a pod that no policy of a
direction selects is open in that direction.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

Labels = Mapping[str, str]
End = tuple[str, Labels] | str
"""A pod as (namespace, labels), or the address of something that is no pod."""


def allowed(
    policies: Sequence[Mapping[str, Any]],
    namespaces: Mapping[str, Labels],
    source: End,
    target: End,
    port: int,
    *,
    protocol: str = "TCP",
) -> bool:
    """Whether `source` may open a connection to `port` of `target`.

    `namespaces` has the labels of each namespace by its name.
    """
    for direction, end, peer in (("Egress", source, target), ("Ingress", target, source)):
        if not _direction(
            policies, namespaces, direction, end=end, peer=peer, port=port, protocol=protocol
        ):
            return False
    return True


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector matches; an empty one matches everything.

    Raises ValueError: an unknown operator.
    """
    exact: Labels = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in exact.items()):
        return False
    return all(
        _expression(expression, labels) for expression in selector.get("matchExpressions", ())
    )


def _expression(expression: Mapping[str, Any], labels: Labels) -> bool:
    key, values = expression["key"], expression.get("values", ())
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise ValueError(f"unknown operator of a label selector: {other}")


def _direction(
    policies: Sequence[Mapping[str, Any]],
    namespaces: Mapping[str, Labels],
    direction: str,
    *,
    end: End,
    peer: End,
    port: int,
    protocol: str,
) -> bool:
    if isinstance(end, str):  # no policy governs what is outside the cluster
        return True
    namespace, labels = end
    governing = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == namespace
        and direction in _types(policy["spec"])
        and selects(policy["spec"].get("podSelector", {}), labels)
    ]
    if not governing:
        return True
    rules, peers = _FIELDS[direction]
    for spec in governing:
        for rule in spec.get(rules, ()):
            # A rule without peers is open to all of them; an empty list means the same.
            open_to_peer = not rule.get(peers) or any(
                _peer(candidate, namespaces, namespace, peer) for candidate in rule[peers]
            )
            if open_to_peer and _ports(rule.get("ports", ()), port, protocol):
                return True
    return False


_FIELDS = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}
"""Where the rules of a direction are, and where the peers of such a rule."""


def _types(spec: Mapping[str, Any]) -> Sequence[str]:
    """The default of the API server: Ingress always, Egress where there are such rules."""
    if spec.get("policyTypes"):
        return spec["policyTypes"]
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _ports(ports: Sequence[Mapping[str, Any]], port: int, protocol: str) -> bool:
    if not ports:
        return True
    for entry in ports:
        if entry.get("protocol", "TCP") != protocol:
            continue
        first = entry.get("port")
        if isinstance(first, str):
            raise TypeError(
                f"named port {first!r}: the container ports that it would need are not known here"
            )
        if first is None or first <= port <= entry.get("endPort", first):
            return True
    return False


def _peer(
    candidate: Mapping[str, Any], namespaces: Mapping[str, Labels], home: str, peer: End
) -> bool:
    if "ipBlock" in candidate:
        # A pod's address depends on the network plugin: no block is relied on to cover pods.
        return isinstance(peer, str) and _block(candidate["ipBlock"], peer)
    if isinstance(peer, str):
        return False
    namespace, labels = peer
    if "namespaceSelector" in candidate:
        if namespace not in namespaces:
            return False
        if not selects(candidate["namespaceSelector"], namespaces[namespace]):
            return False
    elif namespace != home:
        return False
    return selects(candidate.get("podSelector", {}), labels)


def _block(block: Mapping[str, Any], address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    holes = [ipaddress.ip_network(network) for network in block.get("except", ())]
    return parsed in ipaddress.ip_network(block["cidr"]) and not any(
        parsed in hole for hole in holes
    )
