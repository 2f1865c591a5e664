"""Runs `__main__.py` as it is, with a stack's own configuration, and records every resource that it registers.

Built on the monitor that Pulumi's SDK has for tests. That one forgets dependencies, `deletedWith`, hooks and what is secret, so the
request itself is read here.
"""

import asyncio
import contextvars
import hashlib
import logging
import runpy
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pulumi
from google.protobuf import empty_pb2, json_format
from pulumi.runtime import config as runtime_config
from pulumi.runtime import mocks
from pulumi.runtime import settings as runtime_settings
from pulumi.runtime.stack import run_in_stack

ROOT = Path(__file__).parent.parent
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 -- the wire format's mark of a secret (pulumi/runtime/rpc.py)


@dataclass(frozen=True)
class Secret:
    """A value that the engine would encrypt."""

    value: Any

    def __repr__(self) -> str:
        return "[secret]"

    __str__ = __repr__


@dataclass(frozen=True)
class Recorded:
    """One registered resource, as the engine would have been told."""

    urn: str
    type: str
    name: str
    parent: str
    inputs: Mapping[str, Any]
    """Secrets are wrapped."""
    custom: bool
    remote: bool
    provider: str
    depends_on: frozenset[str]
    """URNs: explicit dependencies and those that values carry."""
    deleted_with: str
    protect: bool
    ignore_changes: tuple[str, ...]
    hooks: Mapping[str, tuple[str, ...]]

    @property
    def kind(self) -> str:
        """The last part of the type: `Deployment`, `Grant`."""
        return self.type.rpartition(":")[2]

    @property
    def is_kubernetes_object(self) -> bool:
        """Whether it is an object with a manifest: neither a provider nor something that Helm renders."""
        return (
            self.type.startswith("kubernetes:")
            and not self.type.startswith("kubernetes:helm.sh")
            and "apiVersion" in self.inputs
        )


@dataclass
class Recording:
    """All that one run of the program registered."""

    stack: str
    resources: dict[str, Recorded] = field(default_factory=dict[str, Recorded])
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: list[str] = field(default_factory=list[str])

    def of_kind(self, kind: str) -> list[Recorded]:
        return [one for one in self.resources.values() if one.kind == kind]

    def one(self, kind: str, name: str) -> Recorded:
        """The resource of this kind that bears this name, as resource or as Kubernetes object. Raises LookupError."""
        found = [one for one in self.of_kind(kind) if name in (one.name, object_name(one))]
        if len(found) != 1:
            raise LookupError(
                f"{len(found)} of {kind} {name}; there are: {', '.join(sorted(one.name for one in self.of_kind(kind)))}"
            )
        return found[0]

    def waits_for(self, resource: Recorded) -> set[str]:
        """URNs of all that must exist before this resource: its dependencies, its provider's and its parents', to the end."""
        seen: set[str] = set()
        rest = [resource.urn]
        while rest:
            current = self.resources.get(rest.pop())
            if current is None:
                continue
            # The children of a component that is depended on are among depends_on already: the SDK expands it.
            for urn in (*current.depends_on, current.provider.rpartition("::")[0], current.parent):
                if urn and urn not in seen:
                    seen.add(urn)
                    rest.append(urn)
        return seen

    def children(self, urn: str) -> Iterator[Recorded]:
        return (one for one in self.resources.values() if one.parent == urn)


def object_name(resource: Recorded) -> str:
    """metadata.name of a Kubernetes object; empty for anything else."""
    return (
        str(resource.inputs.get("metadata", {}).get("name", ""))
        if isinstance(resource.inputs.get("metadata"), Mapping)
        else ""
    )


def plain(value: Any) -> Any:
    """A recorded value with its secrets laid open; for tests and never for output."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return [plain(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _marked(value: Any) -> Any:
    """The wire format as plain data with its secrets wrapped; whole numbers as such."""
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        if found.get(_SIGNATURE) == _SECRET:
            return Secret(_marked(found["value"]))
        return {key: _marked(item) for key, item in found.items()}
    if isinstance(value, list):
        return [_marked(item) for item in cast("list[Any]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Provider(mocks.Mocks):
    """What the providers would answer."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        state = dict(cast("dict[str, Any]", args.inputs))  # pyright: ignore[reportUnknownMemberType] -- untyped in the SDK
        digest = hashlib.sha256(args.name.encode())
        if args.typ == "random:index/randomPassword:RandomPassword":
            state["result"] = digest.hexdigest()[: int(state["length"])]
        if args.typ == "random:index/randomBytes:RandomBytes":
            state["base64"] = b64encode(digest.digest()[: int(state["length"])]).decode()
        if args.typ.startswith("tls:"):
            state |= _tls_outputs(args.name)
        if args.typ == "vault:kv/secretV2:SecretV2":
            state["metadata"] = {"version": "1"}
        return (f"{args.name}-id" if args.custom else ""), state

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise NotImplementedError(f"{args.token}: the program calls no function of a provider")


def _tls_outputs(name: str) -> dict[str, str]:
    """Placeholders for what pulumi-tls computes: a preview needs texts, not keys."""

    def pem(label: str) -> str:
        body = b64encode(f"{label} of {name}".encode()).decode()
        return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"

    return {
        "certPem": pem("CERTIFICATE"),
        "certRequestPem": pem("CERTIFICATE REQUEST"),
        "privateKeyPem": pem("EC PRIVATE KEY"),
        "privateKeyPemPkcs8": pem("PRIVATE KEY"),
        "validityEndTime": "2099-12-31T00:00:00Z",
    }


class _Monitor(mocks.MockMonitor):
    def __init__(self, recording: Recording) -> None:
        super().__init__(_Provider())
        self.recording = recording

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 -- the name of the call in Pulumi's protocol
        response = cast("Any", super()).RegisterResource(request)
        if request.type == "pulumi:pulumi:Stack":
            return response
        # The SDK says which outputs are secret; the engine marks them.
        for key in request.additionalSecretOutputs:
            if key in response.object.fields:
                value = json_format.MessageToDict(response.object.fields[key])
                response.object.update({key: {_SIGNATURE: _SECRET, "value": value}})
        hooks = request.hooks
        moments = (
            "before_create",
            "after_create",
            "before_update",
            "after_update",
            "before_delete",
            "after_delete",
        )
        self.recording.resources[response.urn] = Recorded(
            urn=response.urn,
            type=request.type,
            name=request.name,
            parent="" if "pulumi:pulumi:Stack::" in request.parent else request.parent,
            inputs=_marked(json_format.MessageToDict(request.object)),
            custom=request.custom,
            remote=request.remote,
            provider=request.provider,
            depends_on=frozenset(request.dependencies),
            deleted_with=request.deletedWith,
            protect=request.protect,
            ignore_changes=tuple(request.ignoreChanges),
            hooks={
                moment: tuple(getattr(hooks, moment))
                for moment in moments
                if getattr(hooks, moment)
            },
        )
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        if "pulumi:pulumi:Stack::" in request.urn:
            self.recording.outputs = _marked(json_format.MessageToDict(request.outputs))
        return cast("Any", super()).RegisterResourceOutputs(request)


class _Callbacks:
    """The engine's side of resource hooks: their names are part of a registration, and nothing calls them here."""

    def register_resource_hook(self, hook: pulumi.ResourceHook) -> None:
        pass


def record(
    stack: str,
    configuration: Mapping[str, str],
    secret_keys: frozenset[str] = frozenset(),
    *,
    project: str = "shlink",
    program: Path = ROOT / "__main__.py",
) -> Recording:
    """Run the program with this configuration. Raises what the program raises.

    Nothing is contacted: forwards are not bound, so that a running `pulumi up` of the same stack is not disturbed.
    """
    recording = Recording(stack)
    logger = logging.Logger("program")  # noqa: LOG001 -- its own, so that a run's messages stay with its recording
    logger.addHandler(_Collect(recording.messages))
    with mock.patch("components.forward.Forward.start"):
        run(
            program,
            _Monitor(recording),
            configuration,
            secret_keys,
            project=project,
            stack=stack,
            logger=logger,
        )
    return recording


def run(
    program: Path,
    monitor: mocks.MockMonitor,
    configuration: Mapping[str, str],
    secret_keys: frozenset[str] = frozenset(),
    *,
    project: str,
    stack: str,
    logger: logging.Logger,
) -> None:
    """Run a Pulumi program against a monitor, apart from any other run of this process. Raises what the program raises."""

    def inside() -> None:
        runtime_config.set_all_config(dict(configuration), list(secret_keys))
        runtime_settings.configure(
            mocks.MockSettings(
                monitor=monitor,
                monitor_features=set(
                    cast("Any", monitor).GetDeploymentInfo(empty_pb2.Empty()).supportedFeatures
                ),
                engine=mocks.MockEngine(logger),
                callbacks=_Callbacks(),
                project=project,
                stack=stack,
                dry_run=False,
                organization="organization",
            )
        )
        asyncio.run(run_in_stack(lambda: cast("None", runpy.run_path(str(program)))))

    contextvars.copy_context().run(inside)


class _Collect(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.messages.append(record.getMessage())
