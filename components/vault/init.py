"""The Job that initialises Vault, gives this program its own login and revokes every root token.

Three steps, each repeatable: check, initialise, log in (components/scripts/vault_*.sh).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import batch, core, meta

from .. import scripts
from ..manifests.pods import CONTAINER_SECURITY, JobArgs, job, variables
from ..network.flows import VAULT_INIT
from .args import VaultArgs
from .policies import program_policy
from .server import bank_vaults

_USER = 65534
"""bank-vaults' own (its Dockerfile)."""

_LOGIN_SECONDS = 7200
"""An update may wait long for a database; the program's token must outlive it."""


_LOGIN = "shlink.io/login"
"""The annotation that says which login the Job gives: name, number, digest of its policy."""


@dataclass(frozen=True)
class InitJobArgs:
    """What the Job works on."""

    vault: VaultArgs
    """The Vault that it initialises: mode, key service, images and authority."""
    release: str
    """Beginning of the names in Kubernetes."""
    servers: Sequence[pulumi.Output[str]]
    """Addresses of all servers. The first is initialised; not the Service, which would balance the
    steps of one initialisation over several pods."""
    keys: core.v1.Secret
    """Keeps the unseal keys, or with a key service the recovery keys."""
    role_id: pulumi.Output[str]
    """Of the program's AppRole, chosen by this program; secret."""
    secret_id: pulumi.Output[str]
    """Of the same AppRole; secret."""


def init_job(
    name: str,
    args: InitJobArgs,
    *,
    needs: Sequence[pulumi.Resource],
    opts: pulumi.ResourceOptions,
) -> batch.v1.Job:
    """The Job, after everything in `needs`. It runs again when the login or the keys change."""
    vault, release = args.vault, args.release
    role, former_role = vault.roles
    ids = core.v1.Secret(
        f"{name}-login",
        metadata=meta.v1.ObjectMetaArgs(name=f"{release}-login", namespace=vault.namespace),
        string_data={
            "role-id": args.role_id,
            "secret-id": args.secret_id,
            "policy": program_policy(vault),
        },
        opts=opts,
    )
    where = {
        "VAULT_ADDR": args.servers[0],
        "VAULT_CACERT": "/run/tls/ca.crt",
        "SECRET": pulumi.Output.concat(vault.namespace, "/", args.keys.metadata.name),
    }
    impatient = {"VAULT_CLIENT_TIMEOUT": "10s", "VAULT_MAX_RETRIES": "1"}
    check = {
        **where,
        **impatient,
        "SERVERS": _joined(args.servers),
        "SELF_UNSEALED": str(vault.key_service is not None).lower(),
    }
    init = {
        **bank_vaults(vault, release, args.servers[0], "/run/tls/ca.crt"),
        "BANK_VAULTS_STORE_ROOT_TOKEN": "false",
        # One failed connection while it waits for the unseal would end bank-vaults 1.33.1.
        "VAULT_MAX_RETRIES": "20",
        "VAULT_CLIENT_TIMEOUT": "300s",
    }
    login = {
        **where,
        "LOGIN": vault.login,
        "ROLE": role,
        "FORMER_ROLE": former_role,
        "TOKEN_TTL": str(_LOGIN_SECONDS),
        "VAULT_CLIENT_TIMEOUT": "30s",
    }
    return job(
        f"{name}-init",
        JobArgs(
            name=f"{release}-init",
            namespace=vault.namespace,
            labels=VAULT_INIT.labels,
            user=_USER,
            placement=vault.placement,
            init_containers=[
                _step("check", vault.image, check, keys=True),
                _step("init", vault.bank_vaults_image, init),
            ],
            containers=[_step("login", vault.image, login, keys=True, login=True)],
            volumes=[
                _memory_volume("init"),
                _memory_volume("tmp"),
                _secret_volume("tls", f"{release}-tls", "ca.crt"),
                _secret_volume("keys", args.keys.metadata.name),
                _secret_volume("login", ids.metadata.name),
            ],
            service_account=f"{release}-init",
            annotations={
                # A Secret that was lost and made again is empty: the Job runs again and says so.
                "shlink.io/keys": args.keys.metadata.uid.apply(str),
                _LOGIN: f"{vault.login} {vault.rotation} {_digest(vault)}",
            },
            # The server may still be pulling its image; the delay between tries grows.
            backoff_limit=20,
        ),
        pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[ids, *needs])),
    )


def proven_login(job: batch.v1.Job) -> pulumi.Output[int]:
    """The number of the login that Vault knows.

    A preview that would run the Job again does not know the Job's id, and so not this number: a
    login that Vault has not been told is never tried. While the state is read again, it is the
    number of the Job that ran.
    """

    def number(known: Sequence[Any]) -> int:
        _, spec = known
        annotations = spec["template"]["metadata"]["annotations"]
        return int(annotations[_LOGIN].split()[1])

    return pulumi.Output.all(job.id, job.spec).apply(number)


def _joined(texts: Sequence[pulumi.Output[str]]) -> pulumi.Output[str]:
    return pulumi.Output.all(*texts).apply(lambda known: " ".join(str(text) for text in known))


def _step(
    name: str,
    image: str,
    environment: Mapping[str, pulumi.Input[str]],
    *,
    keys: bool = False,
    login: bool = False,
) -> core.v1.ContainerArgs:
    """A container of the Job; its script is scripts/vault_NAME.sh."""
    folders = {"init": "/run/init", "tmp": "/tmp", "tls": "/run/tls"}  # noqa: S108 - of the pod
    if keys:
        folders["keys"] = "/run/keys"
    if login:
        folders["login"] = "/run/login"
    mounts = [
        core.v1.VolumeMountArgs(name=volume, mount_path=path) for volume, path in folders.items()
    ]
    return core.v1.ContainerArgs(
        name=name,
        image=image,
        command=["sh", "-c", scripts.read(f"vault_{name}.sh")],
        env=variables({"HOME": "/tmp", **environment}),  # noqa: S108 - of the pod
        security_context=CONTAINER_SECURITY,
        resources=core.v1.ResourceRequirementsArgs(
            requests={"cpu": "10m", "memory": "64Mi"},
            limits={"memory": "384Mi"},  # Vault's command is the whole of Vault's binary
        ),
        volume_mounts=mounts,
    )


def _memory_volume(name: str) -> core.v1.VolumeArgs:
    source = core.v1.EmptyDirVolumeSourceArgs(medium="Memory", size_limit="8Mi")
    return core.v1.VolumeArgs(name=name, empty_dir=source)


def _secret_volume(name: str, secret: pulumi.Input[str], *keys: str) -> core.v1.VolumeArgs:
    items = [core.v1.KeyToPathArgs(key=key, path=key) for key in keys]
    source = core.v1.SecretVolumeSourceArgs(
        secret_name=secret, items=items or None, default_mode=0o440
    )
    return core.v1.VolumeArgs(name=name, secret=source)


def _digest(args: VaultArgs) -> str:
    """Short text that changes with the policy, so that the Job runs again."""
    return hashlib.sha256(program_policy(args).encode()).hexdigest()[:12]
