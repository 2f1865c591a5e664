"""Runs `__main__.py` with a stack's own configuration, and records what it registers.

Built on the monitor that Pulumi's SDK has for tests. That monitor drops dependencies,
`deletedWith`, hooks and secretness, so this one reads the request itself.
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
from pulumi.runtime.proto import callback_pb2
from pulumi.runtime.stack import run_in_stack

from components.program.identity import Sight
from components.settings import stack_file

ROOT = Path(__file__).parent.parent
_SIGNATURE = "4dabf18193072939515e22adb298388d"
"""The wire format's key for special values (pulumi/runtime/rpc.py)."""
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 -- the mark of a secret under that key
_MOMENTS = (
    "before_create",
    "after_create",
    "before_update",
    "after_update",
    "before_delete",
    "after_delete",
    "on_error",
)
"""When a resource's hooks can run."""


@dataclass(frozen=True)
class Secret:
    """A value that the engine would encrypt."""

    value: Any

    def __repr__(self) -> str:
        return "[secret]"

    __str__ = __repr__


@dataclass(frozen=True)
class Recorded:
    """A registered resource, as the engine would have received it."""

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
    def requirements(self) -> set[str]:
        """URNs of what must exist before it: its dependencies and its provider."""
        provider_urn = self.provider.rpartition("::")[0]
        return {urn for urn in (*self.depends_on, provider_urn) if urn}

    @property
    def is_kubernetes_object(self) -> bool:
        """Whether it is an object with a manifest: no provider, no patch, nothing of Helm's."""
        return self.type.startswith("kubernetes:") and self.kind == self.inputs.get("kind")


@dataclass
class Recording:
    """Everything that a run of the program registered."""

    stack: str
    resources: dict[str, Recorded] = field(default_factory=dict[str, Recorded])
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: list[str] = field(default_factory=list[str])

    def of_kind(self, kind: str) -> list[Recorded]:
        return [resource for resource in self.resources.values() if resource.kind == kind]

    def one(self, kind: str, name: str) -> Recorded:
        """The only resource of this kind with this name, Pulumi's or the Kubernetes object's.

        Raises LookupError.
        """
        candidates = self.of_kind(kind)
        matches = [
            resource for resource in candidates if name in (resource.name, object_name(resource))
        ]
        if len(matches) != 1:
            names = ", ".join(sorted(resource.name for resource in candidates))
            raise LookupError(f"{len(matches)} of {kind} {name}; there are: {names}")
        return matches[0]

    def waits_for(self, resource: Recorded) -> set[str]:
        """URNs of all that must exist before this resource, directly or through others."""
        earlier: set[str] = set()
        unvisited = [resource.urn]
        while unvisited:
            current = self.resources.get(unvisited.pop())
            if current is None:
                continue
            # The SDK has expanded a component that is depended on to its children already.
            for urn in current.requirements | {current.parent}:
                if urn and urn not in earlier:
                    earlier.add(urn)
                    unvisited.append(urn)
        return earlier

    def children(self, urn: str) -> Iterator[Recorded]:
        return (resource for resource in self.resources.values() if resource.parent == urn)


def object_name(resource: Recorded) -> str:
    """metadata.name of a Kubernetes object; empty for anything else."""
    metadata = resource.inputs.get("metadata")
    if not isinstance(metadata, Mapping):
        return ""
    return str(cast("Mapping[str, Any]", metadata).get("name", ""))


def generated(recording: Recording) -> dict[str, str]:
    """The value that each password has in a recording, by its resource's name."""
    return {
        resource.name: _password(resource.name, resource.inputs)
        for resource in recording.of_kind("RandomPassword")
    }


def _password(name: str, inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[: int(inputs["length"])]


def plain(value: Any) -> Any:
    """A recorded value with its secrets in clear; for tests, never for output."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(item) for item in cast("list[Any]", value)]
    return value


def _unwrapped(value: Any) -> Any:
    """The wire format as plain data: secrets become `Secret`, whole numbers become int."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        if entries.get(_SIGNATURE) == _SECRET:
            return Secret(_unwrapped(entries["value"]))
        return {key: _unwrapped(item) for key, item in entries.items()}
    if isinstance(value, list):
        return [_unwrapped(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


class _Provider(mocks.Mocks):
    """What the providers would answer."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        # The SDK leaves the type of `inputs` open.
        state = dict(cast("dict[str, Any]", args.inputs))  # pyright: ignore[reportUnknownMemberType]
        digest = hashlib.sha256(args.name.encode())
        if args.typ == "random:index/randomPassword:RandomPassword":
            state["result"] = _password(args.name, state)
        if args.typ == "random:index/randomId:RandomId":
            state["hex"] = digest.hexdigest()[: 2 * int(state["byteLength"])]
        if args.typ == "random:index/randomBytes:RandomBytes":
            state["base64"] = b64encode(digest.digest()[: int(state["length"])]).decode()
        if args.typ.startswith("tls:"):
            state |= _tls_outputs(args.name)
        if args.typ == "vault:kv/secretV2:SecretV2":
            state["metadata"] = {"version": "1"}
        identifier = f"{args.name}-id" if args.custom else ""
        return identifier, state

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


class Monitor(mocks.MockMonitor):
    """The SDK's monitor for tests, which also writes each registration into a recording."""

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
        hooks = {moment: tuple(getattr(request.hooks, moment)) for moment in _MOMENTS}
        parent = request.parent
        if "pulumi:pulumi:Stack::" in parent:
            parent = ""
        self.recording.resources[response.urn] = Recorded(
            urn=response.urn,
            type=request.type,
            name=request.name,
            parent=parent,
            inputs=_unwrapped(json_format.MessageToDict(request.object)),
            custom=request.custom,
            remote=request.remote,
            provider=request.provider,
            depends_on=frozenset(request.dependencies),
            deleted_with=request.deletedWith,
            protect=request.protect,
            ignore_changes=tuple(request.ignoreChanges),
            hooks={moment: names for moment, names in hooks.items() if names},
        )
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        if "pulumi:pulumi:Stack::" in request.urn:
            self.recording.outputs = _unwrapped(json_format.MessageToDict(request.outputs))
        return cast("Any", super()).RegisterResourceOutputs(request)


class _Engine(mocks.MockEngine):
    """The SDK's engine for tests, which any program may ask whether it is new enough."""

    def RequirePulumiVersion(self, _: Any) -> None:  # noqa: N802
        pass


class _Callbacks:
    """The engine's side of hooks and transforms: registrations name them, nothing calls them."""

    def register_resource_hook(self, hook: pulumi.ResourceHook) -> None:
        pass

    def register_error_hook(self, hook: pulumi.ErrorHook) -> None:
        pass

    def register_transform(self, transform: pulumi.ResourceTransform) -> callback_pb2.Callback:
        return callback_pb2.Callback(token=transform.__qualname__)


def _no_file(_: str, path: Path) -> str:
    return str(path)


def record(
    stack: str,
    configuration: Mapping[str, str],
    secret_keys: frozenset[str] = frozenset(),
    *,
    project: str = "shlink",
    program: Path = ROOT / "__main__.py",
    sight: Sight | None = None,
) -> Recording:
    """Run the program with this configuration. Raises what the program raises.

    `sight`: what it is to see of a cluster. Nothing is contacted and no forward is bound, so a
    running `pulumi up` of the same stack is not disturbed.
    """
    recording = Recording(stack)
    # Not getLogger(): a logger of its own keeps this run's messages out of other recordings.
    logger = logging.Logger("program")  # noqa: LOG001
    logger.addHandler(_Collect(recording.messages))
    with (
        mock.patch("components.cluster.forward.Forward.start"),
        mock.patch("components.program.identity.look_first", return_value=sight),
        mock.patch("components.credentials.tls.ca_file", _no_file),
    ):
        run(
            program,
            Monitor(recording),
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
    """Run a Pulumi program against a monitor, isolated from other runs in this process.

    Raises what the program raises.
    """

    def inside() -> None:
        # The engine names the keys with something encrypted below them, not the paths.
        keys = [key for key in configuration if stack_file.paths_below(key, secret_keys)]
        runtime_config.set_all_config(dict(configuration), keys)
        info = cast("Any", monitor).GetDeploymentInfo(empty_pb2.Empty())
        runtime_settings.configure(
            mocks.MockSettings(
                monitor=monitor,
                monitor_features=set(info.supportedFeatures),
                engine=_Engine(logger),
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
