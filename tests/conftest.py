"""What the tests share: runs of the program, and how to read a pod or an order from them."""

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast
from unittest import mock

import pulumi
import pytest

import offline.record
from components.cluster import waits
from components.cluster.waits import WaitTarget
from components.external_secrets import component as external_secrets
from components.postgres import component as postgres
from components.program import reach
from components.program.reach import Servers
from components.redis import component as redis
from components.settings.environment import parse
from components.settings.reading import SettingsError
from offline.record import Recording, Secret, plain, record
from tests import configurations

# One for each way in which environments differ. Half a second each, so every other switch is
# recorded only where it matters.
REPRESENTATIVE = (
    "stack dev",
    "stack prod",
    "redis-external",
    "redis-none",
    "redis-rotated",
    "vault-transit",
    "operators-there",
    "app",
    "mirror",
)

Program = Callable[..., Recording]
Fault = Callable[..., str]
Resource = tuple[str, str]
"""Kind and name."""


def pytest_collection_finish() -> None:
    # What is imported by now stays: each collection after a run of the program would look at all of
    # it again.
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    if configurations.SHARED not in os.environ:
        folder = tempfile.TemporaryDirectory()
        os.environ[configurations.SHARED] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="session")
def dev() -> Recording:
    """The program with the stack file that a new person runs."""
    return configurations.recording("stack dev")


@pytest.fixture(scope="session")
def program() -> Program:
    """The program under settings that are no switch of `configurations`, made once for each."""
    return _program


def _program(**settings: Any) -> Recording:
    return _recorded(json.dumps(settings, sort_keys=True))


@cache
def _recorded(settings: str) -> Recording:
    return record("test", configuration(json.loads(settings)))


@dataclass(frozen=True)
class Later:
    """A later run: each secret has been written to Vault before, another number of times."""

    recording: Recording
    versions: Mapping[str, str]
    """In Vault, by path."""
    hooks: Mapping[str, Sequence[WaitTarget]]
    """What each hook waits for, by the hook's name."""


@pytest.fixture(scope="session")
def later() -> Later:
    versions = {
        "postgres/shlink": "7",
        "redis/shlink": "3",
        "shlink/api-key": "2",
        "shlink/geolite": "5",
        "shlink/environment": "4",
    }
    hooks: dict[str, Sequence[WaitTarget]] = {}
    provider: Any = vars(offline.record)["_Provider"]
    answers = provider.new_resource

    def spy(name: str, access: Any, targets: Sequence[WaitTarget]) -> Any:
        # Namespaces and names are outputs: they are read as the program runs.
        places = [
            pulumi.Output.all(target.namespace, target.name, target.not_ready) for target in targets
        ]

        def keep(values: Any) -> None:
            hooks[name] = [
                replace(target, namespace=namespace, name=item, not_ready=not_ready)
                for target, (namespace, item, not_ready) in zip(targets, values, strict=True)
            ]

        pulumi.Output.all(*places).apply(keep)
        return waits.wait_hook(name, access, targets)

    def answer(provider: Any, args: Any) -> Any:
        identifier, state = answers(provider, args)
        if args.typ.endswith(":SecretV2"):
            state["metadata"] = {"version": versions[state["name"]]}
        return identifier, state

    with (
        mock.patch.object(postgres, "wait_hook", spy),
        mock.patch.object(redis, "wait_hook", spy),
        mock.patch.object(external_secrets, "wait_hook", spy),
        mock.patch.object(provider, "new_resource", answer),
    ):
        recording = record("test", configurations.configuration("app"))
    return Later(recording, versions, hooks)


@pytest.fixture(scope="session")
def fault() -> Fault:
    """The message with which settings are refused."""

    def refused(secret_keys: frozenset[str] = frozenset(), **settings: Any) -> str:
        with pytest.raises(SettingsError) as error:
            parse(configuration(settings), secret_keys)
        return str(error.value)

    return refused


def configuration(settings: Mapping[str, Any]) -> dict[str, str]:
    """As Pulumi hands it over: objects as JSON text."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in settings.items()
    }
    return {"kubernetes:context": "lab"} | {f"shlink:{key}": text for key, text in texts.items()}


def reached(
    settings: Mapping[str, Any], project: str = "shlink", stack: str = "dev"
) -> tuple[Servers, list[str]]:
    """Where the providers find their servers, and the services that a forward is started for."""
    with mock.patch("components.program.reach.Forward") as forward:
        servers = reach.servers(*parse(configuration(settings)), project=project, stack=stack)
    assert forward.return_value.start.call_count == forward.call_count
    return servers, [call.args[1].service for call in forward.call_args_list]


def manifest(recording: Recording, kind: str, name: str) -> Any:
    """A resource's inputs, its secrets laid open."""
    return plain(recording.one(kind, name).inputs)


def pod(recording: Recording, kind: str, name: str) -> Any:
    """The pod template of a Job or Deployment."""
    return manifest(recording, kind, name)["spec"]["template"]


def variables(container: Mapping[str, Any]) -> dict[str, Any]:
    """Each variable with its value, or with the name and key of the Secret that it comes from."""
    values: dict[str, Any] = {}
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        values[variable["name"]] = variable.get("value")
        if reference:
            values[variable["name"]] = (reference["name"], reference["key"])
    return values


def server(recording: Recording) -> dict[str, Any]:
    """The variables of Shlink's server."""
    return variables(pod(recording, "Deployment", "shlink")["spec"]["containers"][0])


def migration(recording: Recording) -> dict[str, Any]:
    return variables(pod(recording, "Job", "shlink-migration")["spec"]["containers"][0])


def before(recording: Recording, kind: str, name: str) -> set[Resource]:
    """Kind and name of all that must exist before a resource, and so is deleted after it."""
    earlier = recording.waits_for(recording.one(kind, name))
    resources = [recording.resources[urn] for urn in earlier if urn in recording.resources]
    return {(resource.kind, resource.name) for resource in resources}


def strings(value: Any, *, secret: bool = False) -> Iterator[tuple[str, bool]]:
    """Every string in a recorded value, keys included, and whether the engine would encrypt it."""
    if isinstance(value, Secret):
        yield from strings(value.value, secret=True)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield key, secret
            yield from strings(item, secret=secret)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from strings(item, secret=secret)
    else:
        yield str(value), secret
