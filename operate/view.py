"""What doctor reads of a cluster: each list once, each answer within a few seconds, nothing secret.

No Secret is ever asked for. Whatever prevents a look is one of the exceptions here, so a check
never mistakes "I could not look" for "it is not there".
"""

import asyncio
import contextlib
import math
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeAlias, TypeVar, cast

from components.cluster.access import REFUSED_LOGIN

T = TypeVar("T")
Object: TypeAlias = Mapping[str, Any]
"""A Kubernetes object, as the API server returns it."""

_ACCESS_REVIEW = "authorization.k8s.io/v1/selfsubjectaccessreviews"
PATIENCE = 5.0
"""Seconds that one answer may take."""


class LookError(Exception):
    """Something could not be read; the message says what, and why."""


class NoAnswerError(LookError):
    """The API server, or what is behind it, did not answer in time."""


class ForbiddenError(LookError):
    """The right to read this is missing."""


class UnauthorizedError(LookError):
    """The API server does not know this login, or no longer."""


class NotServedError(LookError):
    """The API server does not know this kind of object."""


class SkippedError(LookError):
    """A look beyond the read role that this login may not take; the message says what it needs."""


class AbsentError(LookError):
    """What a check asks about is not declared, or not there yet: another check tells of it."""


@dataclass(frozen=True)
class Reply:
    """An answer of the API server."""

    status: int
    body: Any
    """Parsed JSON; text where it was none."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The body, where it is an object; empty otherwise."""
        body = self.body
        return cast("Mapping[str, Any]", body) if isinstance(body, dict) else {}


@dataclass
class View:
    """One look at a cluster. Every list is read once, however many checks ask for it."""

    api: Any
    """A kr8s client, as `ClusterAccess.client` returns it."""
    patience: float = PATIENCE
    """Seconds that one answer may take."""
    now: datetime = field(default_factory=lambda: datetime.now(tz=UTC))
    """When the look began; every age is measured from it."""
    _reads: dict[tuple[str, ...], "asyncio.Task[Any]"] = field(
        default_factory=dict["tuple[str, ...]", "asyncio.Task[Any]"], repr=False
    )

    async def objects(self, resource: str, namespace: str = "") -> list[Object]:
        """All objects of a kind, such as `apps/v1/deployments`; no namespace: the whole cluster.

        Raises LookError.
        """
        reply = await self.reply(resource, namespace)
        where = f"in namespace {namespace}" if namespace else "of the cluster"
        if reply.status == HTTPStatus.NOT_FOUND:
            raise NotServedError(f"the API server does not serve {resource}")
        if reply.status >= HTTPStatus.BAD_REQUEST:
            raise NoAnswerError(f"the API server answers {reply.status} to list {resource} {where}")
        return cast("list[Object]", reply.body.get("items") or [])

    async def named(self, resource: str, namespace: str, name: str) -> Object | None:
        """The object of this name, or None. Raises LookError."""
        for item in await self.objects(resource, namespace):
            if item["metadata"]["name"] == name:
                return item
        return None

    async def reply(
        self, resource: str, namespace: str = "", patience: float | None = None
    ) -> Reply:
        """The answer to a GET, such as `v1/pods` or `v1/pods/vault-0:8200/proxy/v1/sys/health`.

        `patience`: seconds, where that is less than the view's own.
        Raises NoAnswerError or ForbiddenError; other refusals are the caller's to read.
        """
        key = ("GET", resource, namespace)
        return await self.once(key, lambda: self._call("GET", resource, namespace, patience))

    async def once(self, key: tuple[str, ...], ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to a question that several checks ask, and that is asked once in this look."""
        if key not in self._reads:
            self._reads[key] = task = asyncio.ensure_future(ask())
            task.add_done_callback(_retrieved)
        # Shielded: a check that gives up must not take the answer away from the others.
        return await asyncio.shield(self._reads[key])

    async def may(
        self, verb: str, resource: str, subresource: str, namespace: str, group: str = ""
    ) -> bool:
        """Whether this login may do something in a namespace. Raises LookError."""
        attributes = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        reply = await self.once(
            ("may", *attributes.values()),
            lambda: self._call("POST", _ACCESS_REVIEW, "", None, json=review),
        )
        if reply.status >= HTTPStatus.BAD_REQUEST:
            # An admission webhook that is down refuses even this.
            reason = str(reply.fields.get("message", ""))[:200]
            raise NoAnswerError(f"the API server can't tell this login's rights: {reason}")
        return bool(at(reply.fields, "status", "allowed"))

    @contextlib.asynccontextmanager
    async def patiently(self, what: str) -> AsyncGenerator[None]:
        """A talk with a pod within the view's patience. Raises NoAnswerError."""
        try:
            async with asyncio.timeout(self.patience):
                yield
        except (LookError, ssl.SSLError):
            raise
        except TimeoutError:
            raise NoAnswerError(f"no answer within {self.patience:g} s from {what}") from None
        # A server, a proxy or a kubelet can fail in any way.
        except Exception as error:  # noqa: BLE001
            reason = str(error) or type(error).__name__
            raise NoAnswerError(f"no answer from {what}: {reason}") from None

    async def _call(
        self, method: str, resource: str, namespace: str, patience: float | None, **more: Any
    ) -> Reply:
        base, version, url = _place(resource)
        patience = self.patience if patience is None else patience
        where = f"in namespace {namespace}" if namespace else "in the cluster"
        try:
            async with (
                asyncio.timeout(patience),
                self.api.call_api(
                    method,
                    version=version,
                    base=base,
                    namespace=namespace or None,
                    url=url,
                    raise_for_status=False,
                    **more,
                ) as response,
            ):
                reply = Reply(response.status_code, _parsed(response))
        except TimeoutError:
            raise NoAnswerError(f"no answer within {patience:g} s to {resource}") from None
        # A server, a proxy or a credential plugin can fail in any way.
        except Exception as error:  # noqa: BLE001
            raise NoAnswerError(
                f"no answer to {resource}: {str(error)[:200] or type(error).__name__}"
            ) from None
        if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            if "/proxy/" in resource and reply.fields.get("kind") != "Status":
                # Not the API server refuses it, but a network between it and the pod, or the pod.
                raise NoAnswerError(f"{resource} is refused behind the API server ({reply.status})")
            if reply.status == HTTPStatus.UNAUTHORIZED:
                raise UnauthorizedError(REFUSED_LOGIN)
            raise ForbiddenError(f"no right to read {resource} {where} ({reply.status})")
        return reply


def _place(resource: str) -> tuple[str, str, str]:
    """Base, version and the rest of the path: `apps/v1/deployments`, `v1/pods`, `/version`."""
    if resource.startswith("/"):
        return resource, "", ""
    parts = resource.split("/")
    if parts[0] == "v1":
        return "/api", "v1", "/".join(parts[1:])
    return "/apis", "/".join(parts[:2]), "/".join(parts[2:])


def _retrieved(task: "asyncio.Task[Any]") -> None:
    """Looks at a failure that came after every check had given up; asyncio would print it."""
    if not task.cancelled():
        task.exception()


def _parsed(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return str(response.text)


def at(item: Object, *path: str) -> Any:
    """The value at a path of keys, such as `"status", "phase"`; None where a key is missing."""
    value: Any = item
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = cast("Object", value).get(key)
    return value


def mapped(item: Object, *path: str) -> Mapping[str, Any]:
    """The map at a path of keys; empty where there is none."""
    return cast("Mapping[str, Any]", at(item, *path) or {})


def listed(item: Object, *path: str) -> list[Object]:
    """The list of objects at a path of keys; empty where there is none."""
    return cast("list[Object]", at(item, *path) or [])


def labels_of(item: Object) -> Mapping[str, str]:
    """An object's labels."""
    return mapped(item, "metadata", "labels")


def place(item: Object) -> tuple[str, str]:
    """An object's namespace, empty for one of the cluster's own kinds, and its name."""
    return str(at(item, "metadata", "namespace") or ""), str(item["metadata"]["name"])


def names(items: Iterable[Object]) -> list[str]:
    """The names of some objects."""
    return [item["metadata"]["name"] for item in items]


def resource(item: Object) -> str:
    """The path of an object's list: `apps/v1/deployments`."""
    return f"{item['apiVersion']}/{plural(item['kind'])}"


def age(view: View, moment: str | None) -> float:
    """Seconds since a moment in Kubernetes' notation; 0 without one."""
    if not moment:
        return 0
    return (view.now - datetime.fromisoformat(moment)).total_seconds()


def written(view: View, item: Object) -> float:
    """Seconds since the program last wrote an object's specification; infinite if it never did.

    Each of its updates writes as another field manager of this prefix (pulumi-kubernetes, ssa).
    """
    moments = [
        age(view, entry.get("time"))
        for entry in listed(item, "metadata", "managedFields")
        if str(entry.get("manager", "")).startswith("pulumi-") and not entry.get("subresource")
    ]
    return min(moments, default=math.inf)


def condition(item: Object, kind: str) -> Object | None:
    """A condition of an object's status."""
    for entry in listed(item, "status", "conditions"):
        if entry.get("type") == kind:
            return entry
    return None


def labelled(item: Object, labels: Mapping[str, str]) -> bool:
    """Whether an object has all of these labels."""
    own = labels_of(item)
    return all(own.get(key) == value for key, value in labels.items())


def plural(kind: str) -> str:
    """The name of a kind in a path; regular English, as all kinds here are."""
    name = kind.lower()
    if name.endswith(("s", "ss")):
        return f"{name}es"
    if name.endswith("y"):
        return f"{name[:-1]}ies"
    return f"{name}s"
