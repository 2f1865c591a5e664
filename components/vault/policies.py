"""Who may do what inside Vault: the program, a person who looks, a person who operates."""

import json
from collections.abc import Mapping, Sequence

from .args import VaultArgs

_CHANGE = ("create", "read", "update", "delete")


def _policy(paths: Mapping[str, Sequence[str]]) -> str:
    rules = {path: {"capabilities": list(capabilities)} for path, capabilities in paths.items()}
    return json.dumps({"path": rules}, indent=2)


def program_policy(args: VaultArgs) -> str:
    """What this program may do: its store, its kubernetes auth, the policies of consumers.

    Not its own policy or login, no other mount, no seal, no token. Whoever writes policies can give
    a consumer more than this: docs/security.md says what follows.
    """
    mount, auth, login = args.mount, args.auth_path, args.login
    role, _ = args.roles
    return _policy(
        {
            "sys/mounts": ["read"],
            f"sys/mounts/{mount}": _CHANGE,
            f"sys/mounts/{mount}/tune": ["read", "update"],
            "sys/auth": ["read"],
            f"sys/auth/{auth}": [*_CHANGE, "sudo"],
            f"sys/auth/{auth}/tune": ["read", "update", "sudo"],
            f"sys/mounts/auth/{auth}": ["read"],
            f"sys/mounts/auth/{auth}/tune": ["read", "update"],
            "sys/audit": ["read", "sudo"],
            "sys/audit/stdout": [*_CHANGE, "sudo"],
            "sys/policies/acl/*": [*_CHANGE, "list"],
            f"sys/policies/acl/{login}": ["read"],
            f"auth/{auth}/config": _CHANGE,
            f"auth/{auth}/role/*": [*_CHANGE, "list"],
            f"auth/{login}/role/{role}": ["read"],
            f"{mount}/config": ["read", "update"],
            f"{mount}/data/*": [*_CHANGE, "patch"],
            f"{mount}/metadata/*": [*_CHANGE, "list"],
            **_people_auth_paths(args),
        }
    )


def _people_auth_paths(args: VaultArgs) -> dict[str, Sequence[str]]:
    """The auth method for people: to set it up, and without people to take it away again."""
    people = args.people_path
    paths: dict[str, Sequence[str]] = {
        f"sys/auth/{people}": ["read", "delete", "sudo"],
        f"sys/auth/{people}/tune": ["read"],
        f"sys/mounts/auth/{people}": ["read"],
        f"sys/mounts/auth/{people}/tune": ["read"],
        f"auth/{people}/config": ["read"],
        f"auth/{people}/role/*": ["read", "delete"],
    }
    if args.people is not None:
        paths[f"sys/auth/{people}"] = [*_CHANGE, "sudo"]
        paths[f"auth/{people}/config"] = ["create", "read", "update"]
        for role in (args.viewer_policy, args.operator_policy):
            paths[f"auth/{people}/role/{role}"] = _CHANGE
    return paths


def viewer_policy(args: VaultArgs) -> str:
    """For a person who looks: what exists, who may read it, how the servers are; no value."""
    return _policy(_viewer_paths(args))


def operator_policy(args: VaultArgs) -> str:
    """For a person who operates: raft, leases, step-down, seal, key rotation; no value.

    A raft snapshot holds every value, encrypted with a key that only the unseal keys open. Nobody
    restores one with this policy: the snapshot of another Vault would bring its owner's rights.
    """
    return _policy(
        {
            **_viewer_paths(args),
            "sys/step-down": ["update", "sudo"],
            "sys/seal": ["update", "sudo"],
            "sys/rotate": ["update", "sudo"],
            "sys/leases/*": ["read", "list", "update", "sudo"],
            "sys/storage/raft/snapshot": ["read"],
            "sys/storage/raft/remove-peer": ["update"],
            "sys/storage/raft/autopilot/configuration": ["read", "update"],
            "sys/audit": ["read", "sudo"],
            f"{args.mount}/delete/*": ["update"],
            f"{args.mount}/undelete/*": ["update"],
        }
    )


def _viewer_paths(args: VaultArgs) -> dict[str, Sequence[str]]:
    return {
        "sys/health": ["read"],
        "sys/mounts": ["read"],
        "sys/auth": ["read"],
        "sys/policies/acl": ["read", "list"],
        "sys/policies/acl/*": ["read"],
        "sys/metrics": ["read"],
        "sys/internal/counters/*": ["read"],
        "sys/storage/raft/configuration": ["read"],
        "sys/storage/raft/autopilot/state": ["read"],
        f"auth/{args.auth_path}/config": ["read"],
        f"auth/{args.auth_path}/role": ["list"],
        f"auth/{args.auth_path}/role/*": ["read", "list"],
        f"auth/{args.people_path}/config": ["read"],
        f"auth/{args.people_path}/role": ["list"],
        f"auth/{args.people_path}/role/*": ["read"],
        f"{args.mount}/metadata/*": ["read", "list"],
    }
