"""Reads the configuration that Pulumi hands over into models, and explains what can't be used.

Each fault is one line: the key as the file has it, the value unless it may be secret, and what is
allowed.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import pulumi
from pulumi.runtime import config as runtime_config
from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from . import stack_file
from .types import EXPECTED, Model, Refused

_ROOT = Path(__file__).parents[2]

TO_CHANGE = re.compile(r"(?i)CHANGE-ME[\w-]*")
"""A placeholder of a stack's file; names of Kubernetes have small letters only."""

_CUT = 60
"""Characters of a value that a message shows."""

_PROVIDERS = ("vault", "postgresql", "random", "tls")
"""Configured by this program: a key of theirs would do nothing."""

_SAYS_WHAT = re.compile(
    r"such as|as in|; write|allowed:|the setting is|did you mean|by this program|config set"
)
"""A sentence that needs no limits after it."""

_ENCRYPTABLE = re.compile(r"kubernetes:.*|shlink:(vault|postgres)\.address")
"""Not secret by its type, but used in plain text only where Pulumi keeps it encrypted."""


class SettingsError(pulumi.RunError):
    """A stack's configuration can't be used. The message has a line for each wrong key.

    A `RunError`, so that Pulumi prints the message without a traceback.
    """

    def __init__(self, faults: list[str]) -> None:
        lines = [f"  {fault}" for fault in dict.fromkeys(faults)]
        super().__init__("\n".join(["this stack's configuration can't be used:", *lines]))


def of_this_run() -> tuple[dict[str, Any], frozenset[str]]:
    """The running stack's values as Pulumi hands them over, and which keys or paths are encrypted.

    Pulumi names only the keys with something encrypted below them; the stack's file tells the exact
    paths. Raises SettingsError: the file has something in it that the engine ignores.
    """
    values = runtime_config.CONFIG.get() or runtime_config.get_config_env()
    secret_keys = frozenset(key for key in values if runtime_config.is_config_secret(key))
    path = _ROOT / f"Pulumi.{pulumi.get_stack()}.yaml"
    if not path.is_file():
        # Another file is in use (--config-file), or the values are a test's.
        return values, secret_keys
    try:
        file = stack_file.read(path)
    except stack_file.StackFileError as error:
        raise SettingsError([str(error)]) from error
    if not _is_of(file, values):
        # Another file is in use (--config-file), or the values are another program's test.
        return values, secret_keys
    if file.faults:
        raise SettingsError(file.faults)
    encrypted = set(file.encrypted)
    for key in secret_keys:
        if not stack_file.paths_below(key, file.encrypted):
            encrypted.add(key)
    return values, frozenset(encrypted)


def _is_of(file: stack_file.StackFile, values: Mapping[str, Any]) -> bool:
    """Whether these values come from this file, as far as it is readable."""
    for key, value in file.values.items():
        if key not in values:
            return False
        readable = not stack_file.paths_below(key, file.encrypted)
        if readable and opened(values[key]) != opened(value):
            return False
    return True


def validated(
    models: Mapping[str, type[Model]], values: Mapping[str, Any], secrets: frozenset[str]
) -> tuple[Model, ...]:
    """One instance for each group of keys. Raises SettingsError with every fault."""
    groups: dict[str, dict[str, Any]] = {name: {} for name in models}
    faults: list[str] = []
    for key, value in values.items():
        group, _, name = key.partition(":")
        if group not in groups:
            faults += _foreign(key, models)
        elif group == "kubernetes":
            # Its values are text: a kubeconfig's contents may look like an object.
            groups[group][name] = value
        else:
            groups[group][name] = opened(value)
    faults += _without_context(groups)
    instances: list[Model] = []
    for name, model in models.items():
        reader = _Explainer(model, name, secrets)
        faults += reader.misplaced_secrets()
        group_values = reader.with_examples(groups[name])
        try:
            instances.append(model.model_validate(group_values, by_alias=True, by_name=False))
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                faults += reader.explain(fault).splitlines()
        except RecursionError:
            faults.append(f"{name}: is nested too deeply")
    faults += _still_to_change(values)
    if faults:
        raise SettingsError(faults)
    return tuple(instances)


def in_clear(group: str, model: Model, secrets: frozenset[str]) -> list[str]:
    """Warnings: secrets that the stack's file, which is meant for git, has in plain text."""
    warnings: list[str] = []
    for path in _secrets(model, ""):
        plain = re.sub(r"\[[0-9]+\]", lambda index: f".{index[0][1:-1]}", path)
        key = f"{group}:{plain}"
        if not any(key == name or key.startswith(f"{name}.") for name in secrets):
            warnings.append(
                f"{group}:{path}: is a secret, and is in plain text in the stack's file; encrypt "
                f"it: pulumi config set --secret --path '{group}:{path}'"
            )
    return warnings


def _secrets(value: Any, path: str) -> Iterator[str]:
    """Where secrets are below a setting, as `pulumi config set --path` writes it."""
    if isinstance(value, SecretStr):
        yield path
    elif isinstance(value, Model):
        for name, field in type(value).model_fields.items():
            key = field.alias or name
            below = f"{path}.{key}" if path else key
            yield from _secrets(getattr(value, name), below)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from _secrets(item, f"{path}.{key}")
    elif isinstance(value, list):
        for position, item in enumerate(cast("list[Any]", value)):
            yield from _secrets(item, f"{path}[{position}]")


def opened(value: Any) -> Any:
    """Pulumi hands over objects and lists as JSON text."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _without_context(groups: dict[str, dict[str, Any]]) -> list[str]:
    cluster = groups["kubernetes"]
    if cluster.get("context") not in (None, ""):
        return []
    cluster["context"] = "missing"
    fault = (
        "kubernetes:context: is missing; name the context of this stack's cluster (kubectl config "
        "get-contexts), so that no run can reach another one: "
        "pulumi config set kubernetes:context NAME"
    )
    return [fault]


def _foreign(key: str, models: Mapping[str, type[Model]]) -> list[str]:
    """What is wrong with a key of another group; keys of other programs are theirs."""
    group = key.partition(":")[0]
    if group in _PROVIDERS:
        names = _properties(models["shlink"])
        see = f"; see `shlink:{group}`" if group in names else ""
        return [f"{_cut(key)}: has no effect, this program configures that provider itself{see}"]
    if group in _properties(models["shlink"]):
        return [f"{_cut(key)}: belongs to `shlink:{group}`; here it has no effect"]
    near = difflib.get_close_matches(group.lower(), models, n=1, cutoff=0.75)
    if near:
        name = key.partition(":")[2]
        return [f"{_cut(key)}: would be ignored; did you mean `{near[0]}:{name}`?"]
    return []


def left_to_change(values: Mapping[str, Any]) -> list[str]:
    """The keys below which a placeholder stands still."""
    left: list[str] = []
    for key, value in values.items():
        if key.partition(":")[0] in ("shlink", "kubernetes"):
            left += _marked(key, opened(value))
    return left


def _marked(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        items = [(f"{key}.{name}", item) for name, item in cast("Mapping[str, Any]", value).items()]
    elif isinstance(value, list):
        items = [(f"{key}.{number}", item) for number, item in enumerate(cast("list[Any]", value))]
    else:
        return [_cut(key)] if TO_CHANGE.search(str(value)) else []
    left: list[str] = []
    for path, item in items:
        left += _marked(path, item)
    return left


def _still_to_change(values: Mapping[str, Any]) -> list[str]:
    """Placeholders in a file that is otherwise in use."""
    left = left_to_change(values)
    if "kubernetes:context" in left:
        return []  # nothing can be reached yet, and the offline preview shows what would be
    return [f"{key}: still has CHANGE-ME in it; set it, or remove it" for key in left]


def _properties(model: type[Model]) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


@cache
def _schema(model: type[Model]) -> dict[str, Any]:
    return model.model_json_schema()


class _Explainer:
    """Says in words what pydantic found in one group."""

    def __init__(self, model: type[Model], group: str, secrets: frozenset[str]) -> None:
        self.model = model
        self.group = group
        self.secrets = secrets

    @property
    def schema(self) -> dict[str, Any]:
        """Made only when there is something to explain: it takes a while."""
        return _schema(self.model)

    def misplaced_secrets(self) -> list[str]:
        """What is encrypted in the file, although it must be in plain text in the cluster."""
        faults: list[str] = []
        for path in sorted(self.secrets):
            group, _, rest = path.partition(":")
            if group != self.group or "." not in rest or _ENCRYPTABLE.fullmatch(path):
                continue
            node = self._at(rest.split("."))
            if rest.startswith("app.environment."):
                name = rest.removeprefix("app.environment.")
                faults.append(
                    f"{path}: is encrypted here, but would be in plain text in the Deployment; "
                    "set it with pulumi config set --secret --path "
                    f"'shlink:app.secretEnvironment.{name}', and remove it here"
                )
            elif node and not node.get("writeOnly") and "properties" not in node:
                faults.append(
                    f"{path}: is encrypted, but is no secret here: objects in the cluster have it "
                    "in plain text; "
                    f"set it without --secret: pulumi config set --path '{path}' VALUE"
                )
        return faults

    def with_examples(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values, with an example in place of each that the offline preview can't decrypt."""

        def replaced(value: Any, path: list[str]) -> Any:
            if isinstance(value, dict):
                items = cast("dict[str, Any]", value)
                return {key: replaced(item, [*path, key]) for key, item in items.items()}
            if isinstance(value, list):
                entries = cast("list[Any]", value)
                return [replaced(item, [*path, str(at)]) for at, item in enumerate(entries)]
            key = f"{self.group}:{'.'.join(path)}"
            if value != stack_file.PLACEHOLDER or not self._hidden(key):
                return value
            node = self._at(path)
            known = [*node.get("examples", []), *node.get("enum", []), node.get("minimum")]
            return known[0] if known[0] is not None else value

        try:
            return {key: replaced(value, [key]) for key, value in values.items()}
        except RecursionError:
            return values

    def _at(self, path: list[str]) -> dict[str, Any]:
        """The schema of what is at a path; empty if there is nothing of that name."""
        node = _resolve(self.schema, self.schema)
        for part in path:
            key = int(part) if part.isdecimal() else part
            node = self._below(node, key)
        return node

    def _below(self, node: dict[str, Any], part: int | str) -> dict[str, Any]:
        if isinstance(part, int):
            return _resolve(self.schema, node.get("items", {}))
        for branch in _branches(self.schema, node):
            if part in branch.get("properties", {}):
                return _resolve(self.schema, branch["properties"][part])
        for field in node.get("patternProperties", {}).values():
            return _resolve(self.schema, field)
        return _resolve(self.schema, node.get("additionalProperties", {}))

    def explain(self, fault: ErrorDetails) -> str:
        """One line: the key as the file has it, its value, what is wrong and what is allowed."""
        node, path, of_key = self._place(fault)
        kind, value = fault["type"], fault["input"]
        refused = isinstance(value, Refused)
        key = f"{self.group}:{'.'.join(path)}"
        if kind == "extra_forbidden":
            return self._unknown(node, path)
        if kind == "missing":
            return f"{key}: is missing; {_allowed(node)}"
        value = value.value if refused else value
        problem = _problem(fault, node)
        if refused and not isinstance(value, list | dict):
            problem = cast("Refused", fault["input"]).reason
        if of_key:
            limits = "" if _SAYS_WHAT.search(problem) else _allowed(self._names(path[:-1]))
            return _line(f"{key}: {problem}", limits)
        if isinstance(value, Model) or (kind == "value_error" and isinstance(value, dict)):
            return "\n".join(_rule(key, line) for line in problem.splitlines())
        if isinstance(value, dict | list) or "properties" in node or "discriminator" in node:
            return _line(f"{key}: {problem}", _allowed(node))
        limits = "" if _SAYS_WHAT.search(problem) else _allowed(node)
        return _line(f"{key}: {self._shown(key, node, value)} {problem}", limits)

    def _place(self, fault: ErrorDetails) -> tuple[dict[str, Any], list[str], bool]:
        """The schema and the path of what a fault is about, and whether that is a map's key."""
        node, path = _resolve(self.schema, self.schema), list[str]()
        for part in fault["loc"]:
            branches = node.get("discriminator", {}).get("mapping", {})
            if part in branches:  # the chosen branch of a union; the file has no such level
                node = _resolve(self.schema, {"$ref": branches[part]})
            elif part == "[key]":
                return node, path, True
            elif fault["type"] == "extra_forbidden" and part is fault["loc"][-1]:
                path.append(str(part))
            else:
                path.append(_cut(str(part)))
                node = self._below(node, part)
        return node, path, False

    def _names(self, path: list[str]) -> dict[str, Any]:
        """What is allowed as a key of a map."""
        return self._at(path).get("propertyNames", {})

    def _unknown(self, node: dict[str, Any], path: list[str]) -> str:
        name, known = path[-1], sorted(node.get("properties", {}))
        key = f"{self.group}:{'.'.join([*path[:-1], _cut(name)])}"
        if self.group == "shlink" and len(path) == 1:
            first = re.split(r"[.\[]", name)[0]
            if name in ("context", "kubeconfig", "clusterIdentifier"):
                return f"{key}: is not a setting; did you mean `kubernetes:{name}`?"
            if first != name and first in known:
                below = name.partition(".")[2]
                return (
                    f"{key}: is not a setting by that name; {below} stands in the map below "
                    f"`shlink:{first}:`, or is set with "
                    f"pulumi config set --path 'shlink:{_cut(name)}' VALUE"
                )
            for group, branch in node.get("properties", {}).items():
                if name in self._below(node, group).get("properties", {}) and branch:
                    return (
                        f"{key}: is not a setting; "
                        f"did you mean `{name}` in the map below `shlink:{group}:`?"
                    )
        near = difflib.get_close_matches(name[:_CUT], known, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        return f"{key}: is not a setting; {hint}allowed: {', '.join(known)}"

    def _hidden(self, key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in self.secrets)

    def _shown(self, key: str, node: dict[str, Any], value: Any) -> str:
        hidden = node.get("writeOnly") or key == "kubernetes:kubeconfig" or ".environment." in key
        if hidden or self._hidden(key):
            return "[secret]"
        if node.get("format") == "pem" or (isinstance(value, str) and "PRIVATE KEY" in value):
            return "[not shown]"
        if isinstance(value, str):
            return _quoted(value)
        return _cut(json.dumps(value, default=str))


def _problem(fault: ErrorDetails, node: dict[str, Any]) -> str:
    """What is wrong, in our words; the limits follow."""
    kind, value = fault["type"], fault["input"]
    if isinstance(value, Refused):
        kind, value = "", value.value
    if kind == "value_error":
        return fault["msg"].removeprefix("Value error, ")
    if kind.startswith("union_tag"):
        return _kind_problem(kind, value, node)
    quoted = isinstance(value, str) and value.lstrip().startswith(("{", "["))
    hint = ", and is text: remove the quotes around it" if quoted else ""
    sentences = {
        "model_type": f"must be a map of keys{hint}",
        "model_attributes_type": f"must be a map of keys{hint}",
        "dict_type": f"must be a map of keys{hint}",
        "list_type": f"must be a list, as in [a, b]{hint}",
        "too_short": "must not be empty",
        "string_too_short": "is empty: leave the key out to get its default",
        "string_too_long": "is too long",
        "greater_than_equal": "is out of range",
        "less_than_equal": "is out of range",
    }
    return sentences.get(kind) or _type_problem(value)


def _rule(group: str, problem: str) -> str:
    """The fault of a rule within a group or between groups.

    Most of these messages begin with the key below the group.
    """
    if not re.match(r"[a-z][A-Za-z0-9_.]*: ", problem):
        return f"{group}: {problem}"
    return f"{group}{problem}" if group.endswith(":") else f"{group}.{problem}"


def _kind_problem(kind: str, value: Any, node: dict[str, Any]) -> str:
    name = node.get("discriminator", {}).get("propertyName", "type")
    if kind == "union_tag_not_found":
        return f"`{name}` is missing"
    chosen = cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else value
    if not isinstance(chosen, str):
        return f"`{name}` must be one word"
    return f"`{name}: {_cut(chosen)}` is not possible"


def _type_problem(value: Any) -> str:
    if isinstance(value, list):
        return "must be a single value, and is a list"
    if isinstance(value, dict):
        return "must be a single value, and is a map"
    if value is None:
        return "is empty; leave the key out to get its default"
    return "is not allowed"


def _quoted(value: str) -> str:
    """Text as a message shows it: cut, escaped, without the user of a URL."""
    hidden = re.sub(r"(?<=://)[^/\s]*@", "[secret]@", value)
    hidden = re.sub(r"(?i)((?:password|passwd|token|secret|key)=)[^&\s]+", r"\1[secret]", hidden)
    if len(hidden) > _CUT:
        return f"{json.dumps(hidden[:_CUT])}... ({len(value)} characters)"
    return json.dumps(hidden)


def _cut(text: str) -> str:
    hidden = re.sub(r"(?<=://)[^/\s]*@", "[secret]@", text)
    short = hidden if len(hidden) <= _CUT else f"{hidden[:_CUT]}..."
    return short if short.isprintable() else json.dumps(short)


def _line(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _resolve(schema: dict[str, Any], node: Any) -> dict[str, Any]:
    """Follow references, and the one branch of an optional value that is not null."""
    if not isinstance(node, dict):
        return {}
    known = cast("dict[str, Any]", node)
    own = {key: known[key] for key in ("description", EXPECTED) if key in known}
    if "$ref" in known:
        target = schema["$defs"][known["$ref"].rpartition("/")[2]]
        return _resolve(schema, target) | own
    branches = [branch for branch in known.get("anyOf", []) if branch.get("type") != "null"]
    if len(branches) == 1:
        return _resolve(schema, branches[0]) | own
    return known


def _branches(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    """The kinds of group that may stand at a place."""
    kinds = [_resolve(schema, branch) for branch in node.get("oneOf", [])]
    return kinds or [node]


def _allowed(node: dict[str, Any]) -> str:
    """The limits of a value, and what it is for."""
    limits = _limits(node)
    if limits:
        limits = f"allowed: {limits}"
    description = "" if "properties" in node else node.get("description", "")
    return _line(limits, description)


def _limits(node: dict[str, Any]) -> str:
    limits = ""
    few = 12
    if "const" in node:
        limits = str(node["const"])
    elif len(node.get("enum", [])) in range(1, few):
        limits = ", ".join(map(str, node["enum"]))
    elif "enum" in node:
        limits = f"one of {len(node['enum'])} names, such as {node['enum'][0]}, {node['enum'][-1]}"
    elif "minimum" in node and "maximum" in node:
        limits = f"{node['minimum']} to {node['maximum']}"
    elif "minimum" in node:
        limits = f"{node['minimum']} or more"
    elif EXPECTED in node:
        limits = node[EXPECTED]
    elif "discriminator" in node:
        kinds = node["discriminator"]
        limits = ", ".join(f"{kinds['propertyName']}: {tag}" for tag in kinds["mapping"])
    elif node.get("type") == "boolean":
        limits = "true, false"
    elif "properties" in node and "patternProperties" not in node:
        limits = ", ".join(sorted(node["properties"]))
    return limits
