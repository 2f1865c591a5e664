"""What NetworkPolicies allow, by the rules of the Kubernetes API: https://kubernetes.io/docs/concepts/services-networking/network-policies/

Policies are plain data, as `kubectl get -o json` prints them. A connection is allowed when the policies of its source let it out and
those of its target let it in; a pod that no policy of a direction selects is open in that direction.
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
    """Whether `source` may open a connection to `port` of `target`. `namespaces` are the labels of each namespace by its name."""
    return all(
        _direction(
            policies, namespaces, direction, end=end, peer=peer, port=port, protocol=protocol
        )
        for direction, end, peer in (("Egress", source, target), ("Ingress", target, source))
    )


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector matches; an empty one matches everything. Raises ValueError: an unknown operator."""
    wanted: Labels = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _expression(one, labels) for one in selector.get("matchExpressions", ())
    )


def _expression(one: Mapping[str, Any], labels: Labels) -> bool:
    key, values = one["key"], one.get("values", ())
    match one["operator"]:
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
    rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _ports(rule.get("ports", ()), port, protocol)
        # A rule without peers is open to all of them; an empty list means the same.
        and (
            not rule.get(peers)
            or any(_peer(one, namespaces, namespace, peer) for one in rule[peers])
        )
        for spec in governing
        for rule in spec.get(rules, ())
    )


def _types(spec: Mapping[str, Any]) -> Sequence[str]:
    """What the API server fills in when nothing is said: Ingress always, Egress where there are such rules."""
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def _ports(ports: Sequence[Mapping[str, Any]], port: int, protocol: str) -> bool:
    if not ports:
        return True
    for one in ports:
        if one.get("protocol", "TCP") != protocol:
            continue
        first = one.get("port")
        if isinstance(first, str):
            raise TypeError(
                f"named port {first!r}: the container ports that it would need are not known here"
            )
        if first is None or first <= port <= one.get("endPort", first):
            return True
    return False


def _peer(one: Mapping[str, Any], namespaces: Mapping[str, Labels], home: str, peer: End) -> bool:
    if "ipBlock" in one:
        # A pod has an address too, but which depends on the network plugin; blocks that cover pods are not relied on here.
        return isinstance(peer, str) and _block(one["ipBlock"], peer)
    if isinstance(peer, str):
        return False
    namespace, labels = peer
    if "namespaceSelector" in one:
        if namespace not in namespaces or not selects(
            one["namespaceSelector"], namespaces[namespace]
        ):
            return False
    elif namespace != home:
        return False
    return selects(one.get("podSelector", {}), labels)


def _block(block: Mapping[str, Any], address: str) -> bool:
    found = ipaddress.ip_address(address)
    inside = ipaddress.ip_network(block["cidr"])
    return found in inside and not any(
        found in ipaddress.ip_network(one) for one in block.get("except", ())
    )
