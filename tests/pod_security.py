"""Pods that Pod Security `restricted` admits or refuses: a table for our rule and the real one."""

from typing import Any

_CONTEXT: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER: dict[str, Any] = {
    "name": "c",
    "image": "example.org/image:1.0.0",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
GOOD: dict[str, Any] = {"securityContext": _CONTEXT, "containers": [_CONTAINER]}
"""A pod that passes. Each case below changes it."""


def _pod(**context: Any) -> dict[str, Any]:
    return {"securityContext": {**_CONTEXT, **context}}


def _container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{**_CONTAINER, **fields}]}


def _own(**context: Any) -> dict[str, Any]:
    return _container(securityContext={**_CONTAINER["securityContext"], **context})


def _probe(kind: str, **action: Any) -> dict[str, Any]:
    return _container(**{f"{kind}Probe": {"httpGet": {"port": 80, **action}}})


CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"hostNetwork": True}, ["hostNetwork"]),
    ({"hostPID": True}, ["hostPID"]),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, ["volume v"]),
    ({"volumes": [{"name": "v", "emptyDir": {}}]}, []),
    ({"securityContext": {}}, ["c: runAsNonRoot", "c: seccompProfile"]),
    (
        {"initContainers": [{"name": "i", "image": "example.org/image:1.0.0"}]},
        ["i: allowPrivilegeEscalation", "i: capabilities.drop"],
    ),
    (_pod(runAsUser=0), ["runAsUser"]),
    (_own(runAsUser=0), ["c: runAsUser"]),
    (_pod(sysctls=[{"name": "kernel.msgmax", "value": "1"}]), ["sysctl kernel.msgmax"]),
    (_pod(sysctls=[{"name": "net.ipv4.tcp_syncookies", "value": "1"}]), []),
    (_pod(seLinuxOptions={"type": "spc_t"}), ["seLinuxOptions"]),
    (_pod(seLinuxOptions={"type": "container_t"}), []),
    (_own(seLinuxOptions={"user": "system_u"}), ["c: seLinuxOptions"]),
    (_own(seLinuxOptions={"level": "s0:c1,c2"}), []),
    (_pod(appArmorProfile={"type": "Unconfined"}), ["appArmorProfile"]),
    (_own(appArmorProfile={"type": "Unconfined"}), ["c: appArmorProfile"]),
    (_own(appArmorProfile={"type": "RuntimeDefault"}), []),
    (_probe("liveness", host="10.0.0.1"), ["c: host of a probe"]),
    (_probe("readiness", path="/"), []),
    (
        _container(lifecycle={"preStop": {"httpGet": {"port": 80, "host": "a.example"}}}),
        ["c: host of a probe"],
    ),
    (_container(ports=[{"containerPort": 80, "hostPort": 80}]), ["c: hostPort"]),
    (_own(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), ["c: capabilities.add"]),
    (_own(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}), []),
]
"""A change, and what the rule says of the pod with it. Nothing: it is admitted."""
