"""The editor's schema and the models accept the same files, shown with generated ones."""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.settings.environment import Settings, parse
from components.settings.reading import SettingsError
from components.settings.stack_file import PLACEHOLDER
from components.settings.types import Model
from offline.schema import json_schema
from tests.conftest import configuration

_SCHEMA = json_schema()
_GROUPS: dict[str, Any] = {
    key.partition(":")[2]: field
    for key, field in _SCHEMA["properties"]["config"]["properties"].items()
    if key.startswith("shlink:")
}
_VALIDATOR: Any = jsonschema.Draft202012Validator(_SCHEMA)
_PROFILE = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# What a function says of one value, and JSON Schema has no words for.
_BEYOND = (
    "has host bits set",
    "is no network",
    "no IP address",
    "has the port",
    "host name",
    "has an impossible",
    "never comes",
    "Kubernetes' schedules",
    "weekday 7",
    "is set by this program",
    "is no text to Shlink",
    "no address or network of IPv4",
    "names a file",
    "is no certificate",
    "is no public key",
    "something else in it than",
    "is cut off",
    "is no key file",
    "is not there",
    "without a Chart.yaml",
    "leads a pod to itself",
    "looks like an address",
    "has the wrong length",
    "a calendar and a clock",
    "a calendar has no such moment",
    "the full backup comes before",
    "an offset that no place has",
)


def values(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema accepts, as far as this project's schema goes."""
    if "const" in node:
        return st.just(node["const"])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in node:
            return st.one_of([values(branch) for branch in node[choice]])
    kind = node.get("type", "string")
    kinds = cast("list[str]", kind) if isinstance(kind, list) else [str(kind)]
    return st.one_of([_of_kind(name, node) for name in kinds])


@cache
def _group(name: str) -> st.SearchStrategy[Any]:
    return values(_GROUPS[name])


def _of_kind(kind: str, node: dict[str, Any]) -> st.SearchStrategy[Any]:
    if kind == "object":
        return _objects(node)
    if kind == "array":
        return st.lists(values(node["items"]), min_size=node.get("minItems", 0), max_size=2)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "integer": st.integers(node.get("minimum"), node.get("maximum", 10**6)),
        "number": st.integers(1, 8),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple[kind] if kind in simple else _texts(node)


def _texts(node: dict[str, Any]) -> st.SearchStrategy[str]:
    # Printable ASCII is enough here: other characters have their cases in tests/stack_files.
    pattern = node.get("pattern", "^[a-z]{1,9}$").replace("$", r"\Z")
    alphabet = st.characters(min_codepoint=32, max_codepoint=126)
    shortest, longest = node.get("minLength", 0), min(200, node.get("maxLength", 200))
    return st.from_regex(pattern, fullmatch=True, alphabet=alphabet).filter(
        lambda text: shortest <= len(text) <= longest
    )


def _objects(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" in node:
        required = {name: values(node["properties"][name]) for name in node.get("required", [])}
        optional = {
            name: values(field)
            for name, field in node["properties"].items()
            if name not in required
        }
        return st.fixed_dictionaries(required, optional=optional)
    for names, field in node.get("patternProperties", {}).items():
        keys = values({"pattern": names})
        return st.dictionaries(keys, values(field), max_size=2)
    keys = values(node.get("propertyNames", {}))
    return st.dictionaries(keys, values(node.get("additionalProperties", {})), max_size=2)


@st.composite
def accepted(draw: st.DrawFn) -> dict[str, Any]:
    """One or two groups of settings that the schema accepts."""
    names = draw(st.lists(st.sampled_from(sorted(_GROUPS)), min_size=1, max_size=2, unique=True))
    return {name: draw(_group(name)) for name in names}


@st.composite
def nearly_accepted(draw: st.DrawFn, odd: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The same with one value somewhere in it replaced."""
    document = draw(accepted())
    place: Any = document
    key: Any = draw(st.sampled_from(sorted(document)))
    while place[key] and isinstance(place[key], dict | list) and draw(st.integers(0, 4)):
        place = place[key]
        key = draw(st.sampled_from(_keys(place)))
    place[key] = draw(odd)
    return document


def _keys(place: Any) -> list[Any]:
    if isinstance(place, dict):
        return sorted(cast("dict[str, Any]", place))
    return list(range(len(place)))


def without_secrets(value: Any, path: str, encrypted: set[str]) -> Any:
    """As the stack's file is read: a placeholder for what is encrypted, and its path."""
    if isinstance(value, list):
        items = enumerate(cast("list[Any]", value))
        return [without_secrets(item, f"{path}.{position}", encrypted) for position, item in items]
    if not isinstance(value, dict):
        return value
    entries = cast("dict[str, Any]", value)
    if set(entries) == {"secure"} and isinstance(entries["secure"], str):
        encrypted.add(path)
        return PLACEHOLDER
    return {key: without_secrets(item, f"{path}.{key}", encrypted) for key, item in entries.items()}


def refusal(document: dict[str, Any]) -> str:
    encrypted: set[str] = set()
    read = {
        key: without_secrets(value, f"shlink:{key}", encrypted) for key, value in document.items()
    }
    try:
        parse(configuration(read), frozenset(encrypted))
    except SettingsError as error:
        return str(error)
    return ""


def valid(document: dict[str, Any]) -> bool:
    config = {"kubernetes:context": "lab"}
    config |= {f"shlink:{key}": value for key, value in document.items()}
    return bool(_VALIDATOR.is_valid({"config": config}))


@_PROFILE
@given(accepted())
def test_what_the_schema_accepts_the_models_accept_but_for_rules_between_keys(
    document: dict[str, Any],
) -> None:
    if not valid(document):
        return
    encrypted: set[str] = set()
    read = {
        key: without_secrets(value, f"shlink:{key}", encrypted) for key, value in document.items()
    }
    try:
        Settings.model_validate(read, by_alias=True, by_name=False)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            between_keys = fault["type"] == "value_error" and isinstance(
                fault["input"], dict | Model
            )
            reason = f"{fault['msg']} {fault['input']}"  # the input, where a reader refused it
            beyond = any(rule in reason for rule in _BEYOND)
            assert between_keys or beyond or fault["input"] == PLACEHOLDER, fault


_NUMBERS: Sequence[Any] = (0, 1, -1, 2**40, 0.5, 3.0)
_TEXTS: Sequence[Any] = (
    *("", " ", "0", "1", "true", "yes", "10Gi", "x", "X", "a\nb", "\u0663"),
    *("10.0.0.0/8", "a.b", "2026-01-01", "{", "["),
)
_NESTED: Sequence[Any] = ([], [1], ["x"], {}, {"x": 1}, {"secure": "x"})
_ODD = st.sampled_from([None, True, False, *_NUMBERS, *_TEXTS, *_NESTED])


@_PROFILE
@given(nearly_accepted(_ODD))
def test_what_the_models_accept_the_schema_accepts_and_nothing_ends_in_a_traceback(
    document: dict[str, Any],
) -> None:
    if not refusal(document):
        faults = [] if valid(document) else [document]
        assert faults == []


_PASSWORD = "hunter2x9"


@_PROFILE
@given(
    nearly_accepted(
        st.sampled_from(
            [
                f"tcp://user:{_PASSWORD}@host:1",
                f"https://{_PASSWORD}@h\n",
                {"token": _PASSWORD},
                [{"password": _PASSWORD}],
            ]
        )
    )
)
def test_no_password_is_in_a_message_wherever_it_stands(document: dict[str, Any]) -> None:
    assert _PASSWORD not in refusal(document)
