"""Shlink's variables: what the file may set, as Shlink reads it, and that the program's own win."""

import re
from typing import Any

import jsonschema
import pytest

from components.settings.environment import Settings, parse
from components.settings.reading import SettingsError
from offline.schema import json_schema
from tests import configurations
from tests.conftest import configuration

_ACCEPTED: dict[str, dict[Any, str]] = {
    "DISABLE_TRACKING": {
        True: "true",
        False: "false",
        "true": "true",
        "false": "false",
        "0": "false",
        "1": "true",
    },
    "REDIRECT_STATUS_CODE": {301: "301", "308": "308"},
    "SHORT_URL_MODE": {"loose": "loose"},
    "DEFAULT_SHORT_CODES_LENGTH": {4: "4", "8": "8"},
    "DEFAULT_REGULAR_404_REDIRECT": {
        "https://example.org/lost?from={ORIGINAL_PATH}": (
            "https://example.org/lost?from={ORIGINAL_PATH}"
        ),
        "https://{DOMAIN}.example.org": "https://{DOMAIN}.example.org",
    },
    "DISABLE_TRACKING_FROM": {
        "10.0.0.0/8,192.0.2.*, 198.51.100.7": "10.0.0.0/8,192.0.2.*, 198.51.100.7"
    },
    "CORS_ALLOW_ORIGIN": {
        "*": "*",
        "https://a.example,http://b:8080": "https://a.example,http://b:8080",
    },
    "REAL_TIME_UPDATES_TOPICS": {"NEW_VISIT,NEW_SHORT_URL": "NEW_VISIT,NEW_SHORT_URL"},
    "ROBOTS_USER_AGENTS": {"googlebot, bingbot": "googlebot, bingbot"},
    "DEFAULT_QR_CODE_COLOR": {"#369": "#369"},
}

_REFUSED: dict[str, list[Any]] = {
    "DISABLE_TRACKING": ["no", "off", "n", "yes", "on", "False ", "TRUE!", 2, 0.5],
    "REDIRECT_STATUS_CODE": [303, 310, "302.0", True],
    "SHORT_URL_MODE": ["lose", "STRICT", True],
    "REDIRECT_EXTRA_PATH_MODE": ["add"],
    "REDIRECT_CACHE_VISIBILITY": ["shared"],
    "REDIRECT_CACHE_LIFETIME": [0, -1, "30s"],
    "DEFAULT_SHORT_CODES_LENGTH": [3, "four", True],
    "RABBITMQ_PORT": [0, 70000],
    "DEFAULT_BASE_URL_REDIRECT": [
        "example.org",
        "https://user:pw@example.org",
        "https://a b",
        "/x",
    ],
    "DISABLE_TRACKING_FROM": [
        "10.0.0.300",
        "fd00::/8",
        "10.0.0.0/33",
        "localhost",
        "10.0.0.1 10.0.0.2",
    ],
    "CORS_ALLOW_ORIGIN": ["a.example", "https://a.example/x", "**"],
    "REAL_TIME_UPDATES_TOPICS": ["NEW_VISITS", "new_visit"],
    "DISABLE_TRACK_PARAM": ["1", "a b", "null", "true"],
    "CACHE_NAMESPACE": ["a:b", "007", "a/b"],
    "RABBITMQ_VHOST": ["007", "null", "1e5"],
    "DEFAULT_QR_CODE_COLOR": ["red"],
}


_EDITOR: Any = jsonschema.Draft202012Validator(json_schema())


def parsed(variables: dict[str, Any], image: str = "") -> Settings:
    groups: dict[str, Any] = {"app": {"environment": variables}}
    if image:
        groups["images"] = {"shlink": f"shlinkio/shlink{image}"}
    return parse(configuration(groups))[1]


@pytest.mark.parametrize("name", _ACCEPTED)
def test_a_value_is_written_as_shlink_reads_it(name: str) -> None:
    for value, written in _ACCEPTED[name].items():
        assert parsed({name: value}).shlink.environment == {name: written}
        app = {"environment": {name: value}}
        assert _EDITOR.is_valid({"config": {"kubernetes:context": "lab", "shlink:app": app}})


@pytest.mark.parametrize("name", _REFUSED)
def test_a_value_that_shlink_would_misread_is_refused_with_what_is_allowed(name: str) -> None:
    for value in _REFUSED[name]:
        with pytest.raises(SettingsError, match=rf"environment\.{name}: .*; allowed: ") as error:
            parsed({name: value})
        assert "pw@" not in str(error.value)


_REMOVED = {
    "REDIRECT_APPEND_EXTRA_PATH": True,
    "QR_CODE_FOR_DISABLED_SHORT_URLS": False,
    "DEFAULT_QR_CODE_SIZE": 400,
    "DEFAULT_QR_CODE_MARGIN": 0,
    "DEFAULT_QR_CODE_FORMAT": "svg",
    "DEFAULT_QR_CODE_ERROR_CORRECTION": "q",
    "DEFAULT_QR_CODE_ROUND_BLOCK_SIZE": True,
    "DEFAULT_QR_CODE_COLOR": "#000000",
    "DEFAULT_QR_CODE_BG_COLOR": "#fff",
    "DEFAULT_QR_CODE_LOGO_URL": "https://example.org/logo.png",
}
"""By Shlink 5.0, with a value each."""


@pytest.mark.parametrize("name", _REMOVED)
def test_a_variable_of_an_older_shlink_is_refused_with_a_newer_one(name: str) -> None:
    assert parsed({name: _REMOVED[name]})
    words = f"{name}: is no variable of Shlink 5.0.0; allowed with images.shlink: versions before 5"
    with pytest.raises(SettingsError, match=re.escape(words)):
        parsed({name: _REMOVED[name]}, ":5.0.0")


def test_a_variable_that_an_older_shlink_does_not_read_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no variable of Shlink 4\.4\.0.*4\.5 or newer"):
        parse(
            configuration(
                {
                    "app": {"environment": {"CORS_MAX_AGE": 5}},
                    "images": {"shlink": "shlinkio/shlink:4.4.0"},
                    "redis": {"mode": "none"},
                }
            )
        )


def test_a_setting_that_an_older_shlink_does_not_read_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"app.trustedProxies: has no effect in Shlink 4\.4\.0"):
        parse(
            configuration(
                {
                    "app": {"trustedProxies": ["10.0.0.0/8"]},
                    "images": {"shlink": "shlinkio/shlink:4.4.0"},
                    "redis": {"mode": "none"},
                }
            )
        )


@pytest.mark.parametrize("image", ["", ":5.1.6"])
def test_what_no_known_shlink_reads_is_refused(image: str) -> None:
    with pytest.raises(SettingsError, match="FOO_BAR: is no variable of Shlink"):
        parsed({"FOO_BAR": "x"}, image)


@pytest.mark.parametrize("image", [":5.2.0", ":6.0.0", "@sha256:" + "ab" * 32])
def test_a_newer_shlink_may_have_newer_variables(image: str) -> None:
    settings = parsed({"SHORT_URL_MODES": "x"}, image)
    assert "SHORT_URL_MODES" in settings.warnings[0]
    assert "did you mean SHORT_URL_MODE" in settings.warnings[0]


@pytest.mark.parametrize("name", ["RABBITMQ_PASSWORD", "MATOMO_API_TOKEN", "MERCURE_JWT_SECRET"])
def test_a_secret_by_its_name_is_refused_in_plain_text(name: str) -> None:
    with pytest.raises(
        SettingsError, match=f"--path 'shlink:app.secretEnvironment.{name}'"
    ) as error:
        parsed({name: "hunter2"})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", ["app", "redis-external", "redis-rotated", "pooler", "monitoring"])
def test_what_the_program_sets_is_never_the_files(name: str) -> None:
    """Whichever table forgets it."""
    chosen = configurations.SWITCHES[name].get("app", {})
    free = {**chosen.get("environment", {}), **chosen.get("secretEnvironment", {})}
    (deployment,) = [
        resource
        for resource in configurations.recording(name).of_kind("Deployment")
        if resource.inputs["metadata"]["name"] == "shlink"
    ]
    (server,) = deployment.inputs["spec"]["template"]["spec"]["containers"]
    names = [variable["name"] for variable in server["env"]]
    assert len(names) == len(set(names))
    for variable in set(names) - set(free):
        with pytest.raises(SettingsError, match="is set by this program"):
            parsed({variable: "true"})
