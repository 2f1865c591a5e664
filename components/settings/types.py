"""The types of the settings. They refuse what Kubernetes or a product would refuse later.

Each text type has a pattern, which the schema carries too, and a sentence that says what is
allowed. A rule that no pattern can hold is a function that raises ValueError with our words.
Patterns use `[0-9]`: the class of digits takes the digits of every script.
"""

import base64
import difflib
import ipaddress
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, cast, get_args, get_origin
from urllib.parse import urlsplit

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from .images import ImageReference
from .stack_file import PLACEHOLDER

EXPECTED = "patternErrorMessage"
"""The schema's keyword for what a pattern allows, in words. Editors show it, not the pattern."""

_BOUNDARY = re.compile(r"-----(BEGIN|END) ([A-Z0-9 ]+)-----")

_PEM = {"format": "pem"}
"""Marks a text of which no message shows anything: a private key may have been pasted there."""


def _blocks(value: Any, kind: str) -> int:
    """The number of PEM blocks of this kind. Raises ValueError: there is none, or something else.

    What DER a block holds is not looked at beyond its first byte.
    """
    begins = f"-----BEGIN {kind}-----"
    fault = f"is no {kind.lower()} as PEM text, which begins with {begins}"
    if not isinstance(value, str):
        # A ValueError, since pydantic collects no other.
        raise ValueError(fault)  # noqa: TRY004
    boundaries: list[tuple[str, str]] = _BOUNDARY.findall(value)
    if any("PRIVATE KEY" in name for _, name in boundaries):
        raise ValueError("holds a private key, which belongs nowhere here")
    if boundaries[:1] != [("BEGIN", kind)]:
        raise ValueError(fault)
    if boundaries != [("BEGIN", kind), ("END", kind)] * (len(boundaries) // 2):
        raise ValueError(f"is cut off or mixed up; allowed: blocks from {begins} to its END")
    for body in re.findall(rf"{begins}(.*?)-----END", value, re.DOTALL):
        try:
            content = base64.b64decode("".join(str(body).split()), validate=True)
        except ValueError:
            content = b""
        if not content.startswith(b"0"):  # a SEQUENCE, as every certificate and key is
            raise ValueError(f"has something else in it than a {kind.lower()}")
    return len(boundaries) // 2


def _certificates(value: Any) -> Any:
    if value is None:
        return None
    _blocks(value, "CERTIFICATE")
    return str(value).strip() + "\n"


def _public_key(value: Any) -> Any:
    if _blocks(value, "PUBLIC KEY") != 1:
        raise ValueError("has several keys in it; allowed: one for each entry of the list")
    return str(value).strip()


def _key_file(value: Any) -> Any:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if plain is None or plain == PLACEHOLDER:
        return value
    try:
        content = json.loads(plain)
    except (TypeError, ValueError):
        content = None
    if isinstance(content, dict):
        return value
    raise ValueError("is no key file, which is a JSON object")


def _pem(kind: str) -> dict[str, Any]:
    """For editors, which would expect a single line."""
    pattern = rf"-----BEGIN {kind}-----[A-Za-z0-9+/=\s]+-----END {kind}-----"
    expected = f"PEM text from -----BEGIN {kind}----- to its END"
    return {**_PEM, "pattern": pattern, EXPECTED: expected}


# On the optional type as a whole: several lines are fine here, which no other text may have.
Certificates = Annotated[
    Annotated[str, Field(json_schema_extra=_pem("CERTIFICATE"))] | None,
    BeforeValidator(_certificates),
]

PublicKey = Annotated[
    str, Field(json_schema_extra=_pem("PUBLIC KEY")), BeforeValidator(_public_key)
]

KeyFile = Annotated[SecretStr | None, BeforeValidator(_key_file)]


# Reading: what YAML, JSON or `pulumi config set` made of a value.
def whole_number(value: Any) -> Any:
    """An integer, also one that Pulumi hands over as text.

    Raises ValueError: it is anything else, such as `true`.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch("-?(0|[1-9][0-9]{0,17})", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("is not a whole number")


def truth(value: Any) -> Any:
    """A boolean, also one that Pulumi hands over as text.

    Raises ValueError: it is anything else, such as `yes` or 1.
    """
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError("is neither true nor false")


def text(value: Any) -> Any:
    """One line of text, or an integer: `pulumi config set --path` makes one of text like `42`.

    Raises ValueError: it is empty, has more than one line, or is not text.
    """
    if isinstance(value, bool | float):
        # A ValueError, since pydantic collects no other.
        raise ValueError("is not text: put it in quotes")  # noqa: TRY004
    if isinstance(value, int):
        return str(value)
    if value == "":
        raise ValueError("is empty: leave the key out to get its default")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("has a line break or another control character in it")
    if isinstance(value, str) and value != value.strip():
        raise ValueError("begins or ends with a space")
    return value


def secret_text(value: Any) -> Any:
    """A secret of one line. No number is taken: it may have lost its leading zeros.

    Raises ValueError: it is empty, has more than one line, or is not text.
    """
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(plain, bool | int | float):
        # A ValueError, since pydantic collects no other.
        raise ValueError("is not text: put it in quotes")  # noqa: TRY004
    if plain == "":
        raise ValueError("is empty: leave the key out instead")
    if isinstance(plain, str) and not plain.isprintable():
        raise ValueError("has a line break or another control character in it")
    return value


def _number_as_text(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:g}"
    return text(value)


class Model(BaseModel):
    """A group of settings: camelCase keys, unknown keys refused.

    A group that is set in part keeps the rest of *its own* default, not of its type's: the default
    instance of the field is the base of a partial map.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        read = dict(cast("dict[str, Any]", values))
        for name, field in cls.model_fields.items():
            key = field.alias or name
            if key in read and read[key] is None and _groups(field.annotation):
                read[key] = Refused(None, "is empty; leave it out, or write its keys ({} for none)")
            elif key in read and not _has_own_reader(field):
                read[key] = _read(read[key], field)
        return read


def _groups(annotation: Any) -> bool:
    """Whether a field holds a group of settings, of one kind or several."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return any(_groups(branch) for branch in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, Model)


def _has_own_reader(field: FieldInfo) -> bool:
    return any(isinstance(rule, BeforeValidator) for rule in field.metadata)


@dataclass(frozen=True)
class Refused:
    """Replaces a value that pydantic would silently convert, such as `true` into 1."""

    value: Any
    reason: str


def _read(value: Any, field: FieldInfo) -> Any:
    """A field's value, read as its type says."""
    kind = _kind(field.annotation)
    if value is None:
        return None
    if isinstance(field.default, Model) and isinstance(value, Mapping):
        partial = cast("Mapping[str, Any]", value)
        if kind is not type(field.default):
            return partial  # one of several kinds of group: the default may be another one
        return merged(field.default.model_dump(by_alias=True, exclude_unset=True), partial)
    readers = {int: whole_number, bool: truth, SecretStr: secret_text}
    try:
        return readers[kind](value) if kind in readers else value
    except ValueError as error:
        return Refused(value, str(error))


def merged(base: Mapping[str, Any], partial: Mapping[str, Any]) -> dict[str, Any]:
    """The base with what is set in the partial map, group by group."""
    result = dict(base)
    for key, value in partial.items():
        known = result.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = merged(  # noqa: PLW2901 -- the value that counts
                cast("Mapping[str, Any]", known), cast("Mapping[str, Any]", value)
            )
        result[key] = value
    return result


@cache
def _kind(annotation: Any) -> Any:
    """The Python type that a field holds, None aside; literals by the type of their values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        kinds = {_kind(branch) for branch in get_args(annotation) if branch is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    if origin is Literal:
        return cast("Any", type(get_args(annotation)[0]))
    return annotation


def _pattern(pattern: str, expected: str, *examples: str) -> Any:
    """A pattern, what it allows in words, and values that it takes."""
    return Field(pattern=pattern, examples=list(examples), json_schema_extra={EXPECTED: expected})


# Numbers.
Port = Annotated[int, Field(ge=1024, le=65535)]
"""A local port."""

RemotePort = Annotated[int, Field(ge=1, le=65535), BeforeValidator(whole_number)]

Rotation = Annotated[int, Field(ge=1, le=1_000_000)]

# Text.
Text = Annotated[str, Field(min_length=1, max_length=1024), BeforeValidator(text)]

Secret = Annotated[SecretStr, BeforeValidator(secret_text)]

_BELOW_ONE = r"0\.([1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9])"

Cpu = Annotated[
    str,
    _pattern(
        rf"^([1-9][0-9]{{0,5}}m|[1-9][0-9]{{0,2}}(\.[0-9]{{1,3}})?|{_BELOW_ONE})$",
        "processors, such as 500m, 0.5 or 2",
        "500m",
    ),
    BeforeValidator(_number_as_text),
]

Memory = Annotated[
    str,
    _pattern(
        r"^(([1-9][0-9]{4,8})(k|Ki)"
        r"|([89]|[1-9][0-9]{1,6})(M|Mi)"
        r"|([1-9][0-9]{0,3}(\.[0-9]{1,3})?|0\.[1-9][0-9]{0,2})(G|Gi)"
        r"|[1-9][0-9]?(T|Ti))$",
        "memory with its unit, such as 256Mi or 2Gi",
        "256Mi",
    ),
]

DiskSize = Annotated[
    str,
    _pattern(
        r"^([1-9][0-9]{2,7}Mi|[1-9][0-9]{0,4}Gi|[1-9][0-9]?Ti)$",
        "100Mi or more with a binary unit, such as 500Mi, 10Gi or 1Ti",
        "10Gi",
    ),
]

_UNITS = {
    "": "1",
    "n": "1e-9",
    "u": "1e-6",
    "m": "1e-3",
    "k": "1e3",
    "M": "1e6",
    "G": "1e9",
    "T": "1e12",
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def amount(quantity: str) -> Decimal:
    """How much a quantity of Kubernetes is: bytes, or processors. Raises ValueError: it is none.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", quantity)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{quantity}: no quantity")
    return Decimal(match[1]) * Decimal(_UNITS[match[2]])


def _parameter(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return _number_as_text(value)


ParameterName = Annotated[
    str,
    _pattern(
        r"^[a-z][a-z0-9_.]{0,62}$",
        "small letters, digits, dots and underscores, such as work_mem",
        "work_mem",
    ),
]

ParameterText = Annotated[str, Field(min_length=1, max_length=1024), BeforeValidator(_parameter)]
"""Of PostgreSQL: numbers and booleans may stand without quotes."""

_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

Name = Annotated[
    str,
    _pattern(
        rf"^{_LABEL}$",
        "1 to 63 small letters, digits and dashes",
        "platform",
    ),
    BeforeValidator(text),
]
"""Of a namespace and whatever else must be a DNS label."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


Names = Annotated[
    list[Name],
    Field(json_schema_extra=lambda schema: schema.update(_one_or_more(schema))),
    BeforeValidator(_as_list),
]
"""One name, or a list of names."""


def _one_or_more(schema: dict[str, Any]) -> dict[str, Any]:
    names = {"type": schema.pop("type"), "items": schema.pop("items")}
    return {"anyOf": [names["items"], names]}


ObjectName = Annotated[
    str,
    Field(max_length=253),
    _pattern(
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        "a name of small letters, digits, dashes and dots",
        "shlink-tls",
    ),
    BeforeValidator(text),
]
"""Of a class, Secret or Gateway: a DNS subdomain."""

Listeners = Annotated[
    list[ObjectName],
    Field(json_schema_extra=lambda schema: schema.update(_one_or_more(schema))),
    BeforeValidator(_as_list),
]
"""One listener of a Gateway, or a list of them."""

AnnotationName = Annotated[
    str,
    _pattern(
        r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
        "a name, with a domain before it where it has one, such as example.org/name",
        "example.org/name",
    ),
    BeforeValidator(text),
]

LabelText = Annotated[
    str,
    _pattern(
        r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
        "1 to 63 letters, digits, dashes, dots and underscores",
        "kube-prometheus-stack",
    ),
    BeforeValidator(text),
]

AnnotationText = Annotated[str, Field(min_length=1, max_length=65536), BeforeValidator(text)]

_DNS_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

_DNS_NAME = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"

_IPV6 = r"\[[0-9a-fA-F:.]{2,45}\]"

_PORT = r"(:[1-9][0-9]{0,4})?"


def _host(value: str) -> str:
    address, _, port = value.rpartition(":") if re.search(":[0-9]+$", value) else (value, "", "")
    if port and int(port) > 65535:  # noqa: PLR2004 -- the highest port
        raise ValueError(f"has the port {port}; allowed: 1 to 65535")
    if address.startswith("["):
        _address(address.strip("[]"))
    elif re.fullmatch("[0-9.]+", address):
        _address(address)
    elif len(address) > 253:  # noqa: PLR2004 -- RFC 1035
        raise ValueError("is longer than the 253 characters of a host name")
    return value


def _address(value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f"has {value!r} in it, which is no IP address") from None


def _host_text(value: Any) -> Any:
    """Text, in which a host name has no letters beyond ASCII."""
    written = text(value)
    if isinstance(written, str) and not written.isascii():
        try:
            ascii_form = written.encode("idna").decode()
        except UnicodeError:
            return written
        raise ValueError(f"has letters that DNS does not have; write {ascii_form}")
    return written


def elsewhere(host: str) -> str:
    """A host beyond the pod that asks for it. Raises ValueError: it is the pod itself."""
    name = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        itself = name == "localhost" or name.endswith(".localhost")
    else:
        itself = address.is_loopback or address.is_unspecified
    if itself:
        raise ValueError(f"leads a pod to itself ({host}); allowed: the server's own host")
    return host


def outside(host: str, cidrs: Sequence[str]) -> bool:
    """Whether a host is an address that none of these networks holds."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return not any(address in ipaddress.ip_network(cidr) for cidr in cidrs)


Host = Annotated[
    str,
    _pattern(
        rf"^({_DNS_NAME}|{_IPV6}){_PORT}$",
        "host or host:port without a scheme, such as s.example.org or [2001:db8::1]:5432",
        "example.org",
    ),
    AfterValidator(_host),
    BeforeValidator(_host_text),
]

_ROUTE_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

_ROUTE_TOP = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"

RouteHost = Annotated[
    str,
    _pattern(
        rf"^({_ROUTE_LABEL}\.)*{_ROUTE_TOP}$",
        "a host name in small letters without a port, such as s.example.org",
        "s.example.org",
    ),
    Field(max_length=253),
    BeforeValidator(_host_text),
]
"""What an Ingress or an HTTPRoute takes as a host; no address."""

RestHost = Annotated[
    str,
    _pattern(
        rf"^(everywhere|nowhere|({_ROUTE_LABEL}\.)+{_ROUTE_TOP})$",
        "everywhere, nowhere, or one of the route's hosts",
        "everywhere",
    ),
    Field(max_length=253),
    BeforeValidator(text),
]


def _url(value: str) -> str:
    _host(re.split("[/?]", value.partition("://")[2])[0])
    return value


def _url_elsewhere(value: str) -> str:
    elsewhere(urlsplit(value).hostname or "")
    return value


Url = Annotated[
    str,
    _pattern(
        rf"^https?://({_DNS_NAME}|{_IPV6}){_PORT}(/[A-Za-z0-9._~/-]*)?$",
        "http(s)://host:port without a user in it, such as https://vault.example.org:8200",
        "https://vault.example.org:8200",
    ),
    AfterValidator(_url),
    BeforeValidator(text),
]

UrlElsewhere = Annotated[Url, AfterValidator(_url_elsewhere)]
"""Of a server that pods reach."""

RedisUrl = Annotated[
    str,
    _pattern(
        rf"^(tcp|tls|redis|rediss)://({_DNS_NAME}|{_IPV6}){_PORT}"
        r"((/|/?\?database=)[0-9]{1,4})?$",
        "tcp://host:port or tls://host:port; a password goes to shlink:redis.password",
        "tcp://redis.example.org:6379",
    ),
    AfterValidator(_url),
    AfterValidator(_url_elsewhere),
    BeforeValidator(text),
]


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        pass
    else:
        return value
    try:
        near = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("is no network of IP addresses, such as 10.0.0.0/8") from None
    raise ValueError(
        f"has host bits set; write {near} or the one address with /{near.max_prefixlen}"
    )


_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

_IPV4_NETWORK = rf"{_OCTET}(\.{_OCTET}){{3}}/(3[0-2]|[12]?[0-9])"

_IPV6_NETWORK = "[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"

Cidr = Annotated[
    str,
    _pattern(
        rf"^({_IPV4_NETWORK}|{_IPV6_NETWORK})$",
        "a network in CIDR notation, such as 10.0.0.0/8, or 10.1.2.3/32 for one address",
        "10.0.0.0/8",
    ),
    AfterValidator(_network),
    BeforeValidator(text),
]

Networks = Annotated[
    list[Cidr],
    Field(min_length=1, json_schema_extra=lambda schema: schema.update(_one_or_more(schema))),
    BeforeValidator(_as_list),
]
"""One network, or a list of them."""

_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"


def _proxy(value: str) -> str:
    if ":" not in value:
        return value if value.isdecimal() else _any_address(value)
    address, _, length = value.partition("/")
    if length not in ("", "128"):
        raise ValueError(
            "is a network of IPv6, with which Shlink answers every short URL with an error; "
            "allowed: single addresses of IPv6, networks of IPv4, or a number of hops"
        )
    return _any_address(address)


def _any_address(value: str) -> str:
    return _network(value) if "/" in value else str(ipaddress.ip_address(value))


def _hops_alone(value: list[str]) -> list[str]:
    if len(value) > 1 and any(proxy.isdecimal() for proxy in value):
        raise ValueError(
            "has a number beside others; allowed: a number of hops alone, or addresses"
        )
    return value


TrustedProxies = Annotated[
    list[
        Annotated[
            str,
            _pattern(
                rf"^([1-9][0-9]?|{_IPV4}|{_IPV4_NETWORK}|[0-9a-fA-F:.]*:[0-9a-fA-F:./]*)$",
                "an address, a network of IPv4 such as 10.1.2.0/24, or alone a number of hops",
                "10.1.2.0/24",
            ),
            AfterValidator(_proxy),
            BeforeValidator(text),
        ]
    ],
    Field(
        json_schema_extra=lambda schema: schema.update(
            {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99}, *_either(schema)]}
        )
    ),
    AfterValidator(_hops_alone),
    BeforeValidator(_as_list),
]
"""Addresses of proxies, or how many of them stand in a row."""


def _either(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return _one_or_more(schema)["anyOf"]


class Client(Model):
    """Pods of this cluster that may connect."""

    namespace: Name = Field(description="Namespace of the pods.")
    labels: dict[AnnotationName, LabelText] = Field(
        default={}, description="Labels that the pods have; every pod there when left out."
    )


class InCluster(Model):
    """Pods of this cluster, where a server that Shlink or another product uses may be."""

    namespace: Name | None = Field(
        default=None,
        description="Namespace of its pods, if it runs in this cluster. No network will do then: "
        "policies see a pod's address and no Service's, and on Cilium no network holds a pod.",
    )
    labels: dict[AnnotationName, LabelText] = Field(
        default={}, description="Labels of its pods; every pod of `namespace` when left out."
    )
    pod_ports: list[RemotePort] = Field(
        default=[],
        description="Ports of its pods, where its Service has others: policies see the pod's.",
    )

    @model_validator(mode="after")
    def _pods_somewhere(self) -> Self:
        for name in ("labels", "pod_ports"):
            if getattr(self, name) and self.namespace is None:
                raise ValueError(
                    f"{to_camel(name)}: belongs to `namespace`, which is missing; "
                    "set it, or remove this"
                )
        return self


class Destination(InCluster):
    """Where a server answers, for the NetworkPolicies: networks, or pods of this cluster."""

    cidrs: list[Cidr] = Field(
        default=["0.0.0.0/0", "::/0"],
        min_length=1,
        description="Networks in which it answers, for the NetworkPolicy. With `namespace` none, "
        "unless they are set too.",
    )


_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"

_DAYS = "sun|mon|tue|wed|thu|fri|sat"


def _schedule(value: str) -> str:
    # What cron's own parser takes beyond the one in Kubernetes (robfig/cron, its standard form).
    if re.search(r"[^0-9A-Za-z*,/ -]", value) or re.search(
        rf"(?i)(?<![a-z])(?!({_MONTHS}|{_DAYS})(?![a-z]))[a-z]", value
    ):
        raise ValueError("has something in it that Kubernetes' schedules do not have")
    if re.search(r"(^|[,-])7", value.rsplit(" ", maxsplit=1)[-1]):
        raise ValueError("has weekday 7; Kubernetes counts 0 (Sunday) to 6")
    try:
        next(CronSim(value.upper(), datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        fault = str(error).removeprefix("Bad ")
        raise ValueError(f"has an impossible {fault}") from None
    except StopIteration:
        raise ValueError("is a date that never comes") from None
    return value


Cron = Annotated[
    str,
    _pattern(
        r"^[0-9A-Za-z*,/-]+( [0-9A-Za-z*,/-]+){4}$",
        "a schedule of five fields (minute, hour, day, month, weekday) in UTC, such as 0 1 * * 0",
        "0 1 * * 0",
    ),
    AfterValidator(_schedule),
    BeforeValidator(text),
]

_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"

_DIGEST = "@sha256:[0-9a-f]{64}"

_VERSION_TAG = r":([A-Za-z0-9_][A-Za-z0-9_.-]{0,60})?[0-9]+\.[0-9]+[.-][0-9]+[A-Za-z0-9_.-]{0,60}"

_ANY_TAG = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"

_IMAGE_HOST = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?"


def _pinned(value: str) -> str:
    reference = ImageReference.parse(value)
    if reference.tag is None and reference.digest is None:
        raise ValueError("has no tag; name a version, as in docker.io/shlinkio/shlink:4.6.0")
    # `shlinkio/shlink:stable` was 4.6.0 when the guide was written and is 5.x now.
    if not reference.pinned:
        raise ValueError(
            f"has the mutable tag {reference.tag!r}: "
            "use a whole version, such as 4.6.0, or a digest (name@sha256:...)"
        )
    return value


Image = Annotated[
    str,
    Field(
        max_length=512,
        examples=["docker.io/shlinkio/shlink:4.6.0"],
        # For editors; what is said of a wrong one comes from the function.
        json_schema_extra={
            "pattern": rf"^({_IMAGE_HOST}/)?{_PATH}"
            rf"({_VERSION_TAG}({_DIGEST})?|({_ANY_TAG})?{_DIGEST})$",
            EXPECTED: "an image with a whole version or a digest, "
            "such as docker.io/shlinkio/shlink:4.6.0",
        },
    ),
    AfterValidator(_pinned),
    BeforeValidator(text),
]

Registry = Annotated[
    str,
    _pattern(
        rf"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?{_PORT}(/{_PATH})?$",
        "a registry's host and path without a scheme, such as registry.example.org/mirror",
        "registry.example.org/mirror",
    ),
    BeforeValidator(text),
]

_NUMBER = "(0|[1-9][0-9]*)"

ChartVersion = Annotated[
    str,
    _pattern(
        rf"^v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$",
        "a chart's whole version, such as 0.32.0",
        "0.32.0",
    ),
    BeforeValidator(text),
]

_CHART_URL = rf"(https|oci)://({_DNS_NAME}|{_IPV6}){_PORT}(/[A-Za-z0-9._~/-]*)?"

_CHART_PATH = r"\.{0,2}/[A-Za-z0-9._~/+@ -]*[A-Za-z0-9._~+@-]"

_PROGRAM = Path(__file__).parents[2]


def _chart(value: str) -> str:
    """A repository, or a chart that is there."""
    if "://" in value:
        return value
    path = _PROGRAM / value
    if path.is_dir() and not (path / "Chart.yaml").is_file():
        raise ValueError("is a folder without a Chart.yaml; allowed: a chart's folder or .tgz")
    if not path.exists():
        raise ValueError(f"is not there ({path}); allowed: a chart's folder or .tgz")
    return value


ChartRepository = Annotated[
    str,
    _pattern(
        rf"^({_CHART_URL}|{_CHART_PATH})$",
        "https:// of a repository, oci:// with the chart's own name, or the path of a folder "
        "or .tgz that begins with ./, ../ or /",
        "https://charts.example.org",
    ),
    AfterValidator(_chart),
    BeforeValidator(text),
]

PathPrefix = Annotated[
    str,
    _pattern(
        r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$",
        "a path that begins and does not end with a slash, e.g. /s",
        "/s",
    ),
    BeforeValidator(text),
]

PhpMemory = Annotated[
    str,
    _pattern(r"^([3-9][0-9]|[1-9][0-9]{2,4})M$", "PHP's unit M, 30M or more, such as 256M", "256M"),
]


def _bucket(value: str) -> str:
    if len(value) not in range(3, 64):
        raise ValueError("has the wrong length; allowed: 3 to 63 characters")
    if re.fullmatch("[0-9.]+", value) and "." in value:
        raise ValueError("looks like an address; allowed: a name")
    return value


_BUCKET_PART = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"

Bucket = Annotated[
    str,
    _pattern(
        rf"^{_BUCKET_PART}(\.{_BUCKET_PART})*$",
        "3 to 63 small letters, digits, dashes and single dots",
        "shlink-backups",
    ),
    AfterValidator(_bucket),
    BeforeValidator(text),
]

_GOOGLE_PART = "[a-z0-9]([a-z0-9_-]*[a-z0-9])?"

GoogleBucket = Annotated[
    str,
    _pattern(
        rf"^{_GOOGLE_PART}(\.{_GOOGLE_PART})*$",
        "3 to 63 small letters, digits, dashes, underscores and single dots",
        "shlink-backups",
    ),
    AfterValidator(_bucket),
    BeforeValidator(text),
]

Container = Annotated[
    str,
    _pattern(
        "^[a-z0-9]+(-[a-z0-9]+)*$",
        "3 to 63 small letters, digits and single dashes",
        "shlink-backups",
    ),
    AfterValidator(_bucket),
    BeforeValidator(text),
]

StorageAccount = Annotated[
    str,
    _pattern("^[a-z0-9]{3,24}$", "3 to 24 small letters and digits", "shlinkbackups"),
    BeforeValidator(text),
]

Region = Annotated[
    str,
    _pattern(r"^[A-Za-z0-9-]{1,63}$", "a region, such as eu-central-1", "eu-central-1"),
    BeforeValidator(text),
]


@cache
def timezones() -> tuple[str, ...]:
    """The zones of the locked tzdata package, so that no machine's own list matters.

    PHP has the same IANA database. `Factory` is its mark of a machine that was never set up.
    """
    names = resources.files("tzdata").joinpath("zones").read_text().split()
    return tuple(sorted(name for name in names if name != "Factory"))


def _zone(value: str) -> str:
    if value in timezones():
        return value
    near = difflib.get_close_matches(value[:50], timezones(), n=1, cutoff=0.6)
    example = near[0] if near else "Europe/Berlin"
    raise ValueError(f"is no time zone; write one such as {example}")


Timezone = Annotated[
    str,
    Field(json_schema_extra=lambda schema: schema.update({"enum": list(timezones())})),
    AfterValidator(_zone),
    BeforeValidator(text),
]
