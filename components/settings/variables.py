"""Shlink's variables: which setting each follows from, what it may hold, and in which versions.

From shlinkio/shlink 4.6.0 and 5.1.5, module/Core/src/Config/EnvVars.php and what reads them. Shlink
takes every other text for true, falls back in silence from a word that it does not know, and makes
numbers, booleans and null of texts that look so (shlink-config, parseEnvVar).
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, SecretStr
from pydantic.alias_generators import to_snake

from .stack_file import PLACEHOLDER
from .types import EXPECTED, Refused, text, truth, whole_number

Version = tuple[int, ...]

NEWEST: Version = (5, 1)
"""Shlink's newest version whose variables are known here."""


@dataclass(frozen=True)
class Kind:
    """What a variable may hold."""

    read: Callable[[Any], str]
    """The text that Shlink gets. Raises ValueError with what is allowed."""
    schema: Mapping[str, Any]
    """The same for editors."""


@dataclass(frozen=True)
class Variable:
    """A variable of Shlink."""

    name: str
    kind: Kind | None = None
    """None: only the program sets it, as its setting says or for good."""
    setting: str = ""
    """The setting that it follows from; then `app.environment` can't have it."""
    elsewhere: bool = False
    """Not written by `from_settings`, since it depends on more than its setting."""
    secret: bool = False
    """Belongs into `app.secretEnvironment`."""
    since: Version = (4, 0)
    until: Version = (99,)
    """The first version that no longer knows it."""

    def known_to(self, version: Version | None) -> bool:
        """Whether this version of Shlink reads it; an unknown version may."""
        return version is None or self.since <= version < self.until


def _boolean(value: Any) -> str:
    switch = {0: False, 1: True, "0": False, "1": True}
    try:
        return str(truth(switch.get(value, value))).lower()
    except ValueError:
        hint = ""
        if str(value).lower() in ("no", "off", "n", "f", "disabled"):
            hint = ", and to Shlink every other word is true"
        raise ValueError(f"is neither true nor false{hint}; allowed: true, false") from None


BOOLEAN = Kind(_boolean, {"type": "boolean"})


def number(least: int, most: int) -> Kind:
    """A whole number within limits."""

    def read(value: Any) -> str:
        try:
            count = whole_number(value)
        except ValueError:
            count = least - 1
        if not least <= count <= most:
            raise ValueError(f"is out of range; allowed: {least} to {most}")
        return str(count)

    return Kind(read, {"type": "integer", "minimum": least, "maximum": most})


def choice(*words: str | int) -> Kind:
    """One of Shlink's own words or numbers."""
    allowed = [str(word) for word in words]

    def read(value: Any) -> str:
        if isinstance(value, bool) or str(value) not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"is not one of them; allowed: {', '.join(allowed)}{hint}")
        return str(value)

    kind = {"type": "integer"} if isinstance(words[0], int) else {}
    return Kind(read, {"enum": list(words), **kind})


_READ_AS_NO_TEXT = (
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|\(?(true|false|empty|null)\)?"
)


def words(pattern: str, expected: str) -> Kind:
    """Text that Shlink reads as such."""

    def read(value: Any) -> str:
        written = str(value).lower() if isinstance(value, bool) else str(text(value))
        if re.fullmatch(_READ_AS_NO_TEXT, written, re.IGNORECASE):
            raise ValueError(f"is no text to Shlink, which reads a number or true; {allowed}")
        if not re.fullmatch(pattern, written):
            raise ValueError(f"is not allowed; {allowed}")
        return written

    allowed = f"allowed: {expected}"
    return Kind(read, {"type": "string", "pattern": f"^({pattern})$", EXPECTED: expected})


def listed(pattern: str, expected: str, check: Callable[[str], None] | None = None) -> Kind:
    """Items with commas between them."""
    plain = words(rf"{pattern}( ?, ?{pattern})*", expected)

    def read(value: Any) -> str:
        written = plain.read(value)
        for item in written.split(","):
            if check:
                check(item.strip())
        return written

    return Kind(read, plain.schema)


def _network(item: str) -> None:
    try:
        ipaddress.IPv4Network(item.replace("*", "0"), strict=False)
    except ValueError:
        raise ValueError(f"has {item} in it, which is no address or network of IPv4") from None


TEXT = words(r"\S.*", "text that is neither a number nor true, false, null or empty")

_AUTHORITY = r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9{][A-Za-z0-9._{}-]*)(:[0-9]{1,5})?"

URL = words(
    rf"https?://{_AUTHORITY}([/?#][^\s<>\"]*)?",
    "http(s)://host without a user in it, such as https://example.org/lost",
)

_PART = r"([0-9]{1,3}|\*)"

NETWORKS = listed(
    rf"{_PART}(\.{_PART}){{3}}(/[0-9]{{1,2}})?",
    "addresses and networks of IPv4 with commas between them, such as 10.0.0.0/8,192.0.2.*",
    _network,
)

ORIGINS = words(
    r"\*|<origin>|https?://[^\s,/@]+(, ?https?://[^\s,/@]+)*",
    "*, <origin>, or origins with commas between them, such as https://app.example.org",
)

_TOPIC = "(NEW_VISIT|NEW_SHORT_URL_VISIT|NEW_ORPHAN_VISIT|NEW_SHORT_URL)"

TOPICS = listed(
    _TOPIC,
    "NEW_VISIT, NEW_SHORT_URL_VISIT, NEW_ORPHAN_VISIT, NEW_SHORT_URL with commas between them",
)

COLOR = words("#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", "a color such as #336699")

_CACHE = words("[A-Za-z][-+_.A-Za-z0-9]{0,63}", "letters, digits, dashes, dots and underscores")

_CORS: Version = (4, 5)

_QR: Version = (5, 0)

VARIABLES = (
    # What `from_settings` writes, in this order.
    Variable("DEFAULT_DOMAIN", setting="app.domain"),
    Variable("IS_HTTPS_ENABLED", setting="app.https"),
    # RoadRunner would size its pools by the node's processors, not by the container's limit.
    Variable("WEB_WORKER_NUM", setting="app.webWorkers"),
    Variable("TASK_WORKER_NUM", setting="app.taskWorkers"),
    Variable("MEMORY_LIMIT", setting="app.memoryLimit", since=(4, 1)),
    Variable("LOGS_FORMAT", setting="app.logsFormat", since=(4, 5)),
    # On by default in Shlink; where egress is closed it costs 3 s for each link.
    Variable("AUTO_RESOLVE_TITLES", setting="app.resolveTitles"),
    Variable("BASE_PATH", setting="app.basePath"),
    Variable("SHELL_VERBOSITY", setting="app.verbosity"),
    Variable("TRUSTED_PROXIES", setting="app.trustedProxies", since=(4, 5)),
    # What other parts of the program write.
    Variable("TIMEZONE", setting="app.timezone", elsewhere=True),
    Variable("GEOLITE_LICENSE_KEY", setting="app.geoliteLicenseKey", elsewhere=True),
    Variable("REDIS_PUB_SUB_ENABLED", setting="app.pubSub", elsewhere=True),
    Variable("REDIS_SERVERS_PASSWORD", setting="redis.password", elsewhere=True, since=(4, 6)),
    Variable("REDIS_SERVERS_USER", setting="redis.user", elsewhere=True, since=(4, 6)),
    Variable("REDIS_SENTINEL_SERVICE", setting="redis.sentinelService", elsewhere=True),
    Variable("REDIS_SERVERS", setting="redis", elsewhere=True),
    # What `app.environment` and `app.secretEnvironment` may have.
    Variable("DELETE_SHORT_URL_THRESHOLD", number(0, 1_000_000_000)),
    Variable("CACHE_NAMESPACE", _CACHE),
    Variable("MERCURE_ENABLED", BOOLEAN, since=(4, 5)),
    Variable("MERCURE_PUBLIC_HUB_URL", URL),
    Variable("MERCURE_INTERNAL_HUB_URL", URL),
    Variable("MERCURE_JWT_SECRET", TEXT, secret=True),
    Variable("RABBITMQ_ENABLED", BOOLEAN),
    Variable("RABBITMQ_HOST", words("[A-Za-z0-9][A-Za-z0-9.-]*", "a host name without a port")),
    Variable("RABBITMQ_PORT", number(1, 65535)),
    Variable("RABBITMQ_USER", TEXT),
    Variable("RABBITMQ_PASSWORD", TEXT, secret=True),
    Variable("RABBITMQ_VHOST", TEXT),
    Variable("RABBITMQ_USE_SSL", BOOLEAN),
    Variable("MATOMO_ENABLED", BOOLEAN),
    Variable("MATOMO_BASE_URL", URL),
    Variable("MATOMO_SITE_ID", number(1, 1_000_000_000)),
    Variable("MATOMO_API_TOKEN", TEXT, secret=True),
    Variable("DEFAULT_INVALID_SHORT_URL_REDIRECT", URL),
    Variable("DEFAULT_REGULAR_404_REDIRECT", URL),
    Variable("DEFAULT_BASE_URL_REDIRECT", URL),
    Variable("REDIRECT_STATUS_CODE", choice(301, 302, 307, 308)),
    Variable("REDIRECT_CACHE_LIFETIME", number(1, 1_000_000_000)),
    Variable("REDIRECT_CACHE_VISIBILITY", choice("private", "public"), since=(4, 5)),
    Variable("SHORT_URL_TRAILING_SLASH", BOOLEAN),
    Variable("SHORT_URL_MODE", choice("strict", "loose")),
    Variable("ANONYMIZE_REMOTE_ADDR", BOOLEAN),
    Variable("TRACK_ORPHAN_VISITS", BOOLEAN),
    Variable("DISABLE_TRACK_PARAM", words(r"[^\s&=#?]+", "the name of a query parameter")),
    Variable("DISABLE_TRACKING", BOOLEAN),
    Variable("DISABLE_IP_TRACKING", BOOLEAN),
    Variable("DISABLE_REFERRER_TRACKING", BOOLEAN),
    Variable("DISABLE_UA_TRACKING", BOOLEAN),
    Variable("DISABLE_TRACKING_FROM", NETWORKS),
    Variable("DEFAULT_SHORT_CODES_LENGTH", number(4, 255)),
    Variable("REDIRECT_EXTRA_PATH_MODE", choice("default", "append", "ignore"), since=(4, 4)),
    Variable("MULTI_SEGMENT_SLUGS_ENABLED", BOOLEAN),
    Variable("ROBOTS_ALLOW_ALL_SHORT_URLS", BOOLEAN, since=(4, 2)),
    Variable("ROBOTS_USER_AGENTS", TEXT, since=(4, 2)),
    Variable("REAL_TIME_UPDATES_TOPICS", TOPICS, since=(4, 5)),
    Variable("CORS_ALLOW_ORIGIN", ORIGINS, since=_CORS),
    Variable("CORS_ALLOW_CREDENTIALS", BOOLEAN, since=_CORS),
    Variable("CORS_MAX_AGE", number(0, 1_000_000_000), since=_CORS),
    Variable("GC_COLLECT_CYCLES", BOOLEAN, since=(4, 6)),
    Variable("REDIRECT_APPEND_EXTRA_PATH", BOOLEAN, until=_QR),
    Variable("QR_CODE_FOR_DISABLED_SHORT_URLS", BOOLEAN, until=_QR),
    Variable("DEFAULT_QR_CODE_SIZE", number(50, 1000), until=_QR),
    Variable("DEFAULT_QR_CODE_MARGIN", number(0, 1000), until=_QR),
    Variable("DEFAULT_QR_CODE_FORMAT", choice("png", "svg"), until=_QR),
    Variable("DEFAULT_QR_CODE_ERROR_CORRECTION", choice("l", "m", "q", "h"), until=_QR),
    Variable("DEFAULT_QR_CODE_ROUND_BLOCK_SIZE", BOOLEAN, until=_QR),
    Variable("DEFAULT_QR_CODE_COLOR", COLOR, until=_QR),
    Variable("DEFAULT_QR_CODE_BG_COLOR", COLOR, until=_QR),
    Variable("DEFAULT_QR_CODE_LOGO_URL", URL, until=_QR),
)

KNOWN = tuple(variable.name for variable in VARIABLES if variable.kind)
"""Names that a stack's file may have."""

_BY_NAME: Mapping[str, Variable] = {variable.name: variable for variable in VARIABLES}

_FIXED = re.compile(
    "(DB_|PG|REDIS_|SHLINK_|RR_|PHP_|KUBERNETES_|SKIP_INITIAL_GEOLITE_DOWNLOAD$|INITIAL_API_KEY$"
    "|APP_ENV$|SSL_CERT_|METRICS_PORT$|PORT$|ADDRESS$|LD_|PATH$|HOME$)"
)
"""What this program, the image or Kubernetes sets for good."""

_SECRET = re.compile("(PASSWORD|PASSWD|TOKEN|API_KEY|SECRET_KEY|PRIVATE_KEY|[A-Z]SECRET|_SECRET)$")


def from_settings(app: BaseModel) -> dict[str, str]:
    """What follows from the settings below `app`.

    What is unused is left out: to Shlink an empty value counts as set.
    """
    written: dict[str, str] = {}
    for variable in VARIABLES:
        if not variable.setting or variable.elsewhere:
            continue
        value = setting_of(variable, app)
        if isinstance(value, bool):
            written[variable.name] = str(value).lower()
        elif isinstance(value, list):
            written[variable.name] = ",".join(map(str, cast("list[Any]", value)))
        elif value:
            written[variable.name] = str(value)
    return {name: value for name, value in written.items() if value}


def setting_of(variable: Variable, app: BaseModel) -> Any:
    """The value of a variable's setting below `app`; None where a group on the way is left out."""
    value: Any = app
    for part in variable.setting.split(".")[1:]:
        value = None if value is None else getattr(value, to_snake(part))
    return value


def not_free(name: str) -> str:
    """A name that no setting has and nothing else sets. Raises ValueError."""
    plain = name.removesuffix("_FILE")
    variable = _BY_NAME.get(plain)
    if variable and variable.setting:
        raise ValueError(f"is set by this program; the setting is shlink:{variable.setting}")
    if _FIXED.match(plain):
        raise ValueError("is set by this program and can't be changed")
    if plain != name:
        raise ValueError(
            f"names a file, and no file can be put into the container; set {plain} by this program"
        )
    return name


def plain_name(name: str) -> str:
    """The same for a variable in plain text. Raises ValueError."""
    if _SECRET.search(not_free(name)):
        raise ValueError(
            "is a secret by its name, and would be in plain text in the Deployment; set it with "
            f"pulumi config set --secret --path 'shlink:app.secretEnvironment.{name}', "
            "and remove it here"
        )
    return name


def typed(values: Any) -> Any:
    """Each known variable's value as Shlink reads it, or what is wrong with it."""
    if not isinstance(values, Mapping):
        return values
    read: dict[Any, Any] = {}
    for name, value in cast("Mapping[Any, Any]", values).items():
        hidden = value.get_secret_value() if isinstance(value, SecretStr) else value
        variable = _BY_NAME.get(name)
        kind = variable.kind if variable else None
        read[name] = value
        if kind is None or hidden == "" or not isinstance(hidden, str | int | float):
            continue
        if hidden == PLACEHOLDER:
            continue
        try:
            read[name] = kind.read(hidden)
        except ValueError as error:
            read[name] = Refused(value, str(error))
    return read


def extend(schema: dict[str, Any]) -> None:
    """For editors: what each variable in plain text may hold, and names that it can't have."""
    properties: dict[str, Any] = {}
    owned: list[str] = []
    for variable in VARIABLES:
        if variable.setting:
            owned.append(variable.name)
        elif variable.kind and not variable.secret:
            last = f"Shlink before {_dotted(variable.until)} only." if variable.until == _QR else ""
            properties[variable.name] = {**variable.kind.schema, "description": last}
    schema["properties"] = properties
    schema["propertyNames"] = {
        **schema.get("propertyNames", {}),
        "pattern": f"^(?!{_FIXED.pattern})(?!.*{_SECRET.pattern}).*$",
        "not": {"enum": owned},
    }


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def without_effect(version: Version | None, app: BaseModel) -> list[str]:
    """Faults: settings below `app` whose variable this version of Shlink does not read."""
    faults: list[str] = []
    default = type(app)()
    for variable in VARIABLES:
        owner, _, key = variable.setting.partition(".")
        if owner != "app" or variable.known_to(version):
            continue
        if setting_of(variable, app) != setting_of(variable, default):
            faults.append(
                f"{key}: has no effect in Shlink {_dotted(version or ())}; allowed with "
                f"images.shlink: {_dotted(variable.since)} or newer"
            )
    return faults


def unknown_to(version: Version | None, names: list[str]) -> tuple[list[str], list[str]]:
    """Faults and warnings: names that this version of Shlink does not read, or may not."""
    faults: list[str] = []
    warnings: list[str] = []
    newer = version is None or version[:2] > NEWEST
    for name in names:
        variable = _BY_NAME.get(name)
        if variable and variable.known_to(version):
            continue
        shown = f"Shlink {_dotted(version)}" if version else "Shlink"
        if variable and version:
            only = f"{_dotted(variable.since)} or newer"
            if variable.until <= version:
                only = f"versions before {_dotted(variable.until)}"
            faults.append(f"{name}: is no variable of {shown}; allowed with images.shlink: {only}")
            continue
        known = [row.name for row in VARIABLES if row.known_to(version)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        if newer:
            warnings.append(
                f"{name}: is no variable of Shlink {_dotted(NEWEST)}, the newest known here{hint}"
            )
        else:
            allowed = hint or "; allowed: those that docs/configuration.md lists"
            faults.append(f"{name}: is no variable of {shown}{allowed}")
    return faults, warnings
