"""The variables of Shlink that an environment may set, and those that already have a setting."""

import difflib
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from .setting_types import EXPECTED, text

_SET_BY = {
    "DEFAULT_DOMAIN": "app.domain",
    "IS_HTTPS_ENABLED": "app.https",
    "BASE_PATH": "app.basePath",
    "WEB_WORKER_NUM": "app.webWorkers",
    "TASK_WORKER_NUM": "app.taskWorkers",
    "MEMORY_LIMIT": "app.memoryLimit",
    "TIMEZONE": "app.timezone",
    "LOGS_FORMAT": "app.logsFormat",
    "SHELL_VERBOSITY": "app.verbosity",
    "AUTO_RESOLVE_TITLES": "app.resolveTitles",
    "TRUSTED_PROXIES": "app.trustedProxies",
    "GEOLITE_LICENSE_KEY": "app.geoliteLicenseKey",
    "REDIS_PUB_SUB_ENABLED": "app.pubSub",
    "REDIS_SERVERS_PASSWORD": "redis.password",
    "REDIS_SERVERS": "redis",
}
"""Shlink's variables that have a setting of their own."""
_OWN = re.compile(
    "(DB_|PG|REDIS_|SHLINK_RUNTIME|SKIP_INITIAL_GEOLITE_DOWNLOAD|INITIAL_API_KEY"
    "|PORT$|ADDRESS$|LD_|PATH$|HOME$)"
)
"""What this program or the image sets for good."""
# shlinkio/shlink 4.6.0 and 5.1.5, module/Core/src/Config/EnvVars.php; only to recognise a mistype.
_KNOWN = frozenset(
    (
        "DELETE_SHORT_URL_THRESHOLD",
        "CACHE_NAMESPACE",
        "MERCURE_ENABLED",
        "MERCURE_PUBLIC_HUB_URL",
        "MERCURE_INTERNAL_HUB_URL",
        "MERCURE_JWT_SECRET",
        "RABBITMQ_ENABLED",
        "RABBITMQ_HOST",
        "RABBITMQ_PORT",
        "RABBITMQ_USER",
        "RABBITMQ_PASSWORD",
        "RABBITMQ_VHOST",
        "RABBITMQ_USE_SSL",
        "MATOMO_ENABLED",
        "MATOMO_BASE_URL",
        "MATOMO_SITE_ID",
        "MATOMO_API_TOKEN",
        "DEFAULT_INVALID_SHORT_URL_REDIRECT",
        "DEFAULT_REGULAR_404_REDIRECT",
        "DEFAULT_BASE_URL_REDIRECT",
        "REDIRECT_STATUS_CODE",
        "REDIRECT_CACHE_LIFETIME",
        "REDIRECT_CACHE_VISIBILITY",
        "SHORT_URL_TRAILING_SLASH",
        "SHORT_URL_MODE",
        "ANONYMIZE_REMOTE_ADDR",
        "TRACK_ORPHAN_VISITS",
        "DISABLE_TRACK_PARAM",
        "DISABLE_TRACKING",
        "DISABLE_IP_TRACKING",
        "DISABLE_REFERRER_TRACKING",
        "DISABLE_UA_TRACKING",
        "DISABLE_TRACKING_FROM",
        "DEFAULT_SHORT_CODES_LENGTH",
        "REDIRECT_EXTRA_PATH_MODE",
        "MULTI_SEGMENT_SLUGS_ENABLED",
        "ROBOTS_ALLOW_ALL_SHORT_URLS",
        "ROBOTS_USER_AGENTS",
        "REAL_TIME_UPDATES_TOPICS",
        "CORS_ALLOW_ORIGIN",
        "CORS_ALLOW_CREDENTIALS",
        "CORS_MAX_AGE",
    )
)


def _variable(name: str) -> str:
    """A variable of Shlink that nothing else here sets. Raises ValueError."""
    plain = name.removesuffix("_FILE")
    if plain in _SET_BY:
        raise ValueError(f"is set by this program; the setting is shlink:{_SET_BY[plain]}")
    if _OWN.match(plain):
        raise ValueError("is set by this program and can't be changed")
    near = difflib.get_close_matches(plain, [*_KNOWN, *_SET_BY], n=1, cutoff=0.85)
    if near and plain not in _KNOWN:
        raise ValueError(f"is no variable of Shlink; did you mean {near[0]}?")
    return name


ShlinkVariable = Annotated[
    str,
    Field(
        pattern=r"^[A-Z][A-Z0-9_]{0,127}$",
        json_schema_extra={
            EXPECTED: "capital letters, digits and underscores, as in ANONYMIZE_REMOTE_ADDR"
        },
    ),
    AfterValidator(_variable),
]


def _environment_text(value: Any) -> Any:
    """A variable's text. `pulumi config set --path` makes a boolean of true and a number of 3."""
    if isinstance(value, bool):
        return str(value).lower()
    return text(value)


EnvironmentText = Annotated[
    str, Field(min_length=1, max_length=32768), BeforeValidator(_environment_text)
]
