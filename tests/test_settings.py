"""Settings: a refusal names the key, the value and what is allowed; accepted ones take effect."""

from typing import Any

import pytest

from components.settings.environment import Settings, parse
from components.settings.platform import Images
from components.settings.reading import SettingsError
from components.settings.shlink import shlink_version
from tests.conftest import Fault, configuration

_SEAL = {"type": "awskms", "region": "eu-central-1", "kmsKeyId": "alias/vault"}
_TRANSIT = {"type": "transit", "address": "https://vault.example.org", "keyName": "k", "token": "t"}
_S3 = {
    "type": "s3",
    "bucket": "backups",
    "endpoint": "e",
    "region": "r",
    "key": "k",
    "keySecret": "s",
}
_EXTERNAL = {"mode": "external", "servers": ["tcp://redis.example.org:6379"]}
_INGRESS = {"type": "ingress", "className": "nginx", "controllerNamespace": "ingress"}


def parsed(**settings: Any) -> Settings:
    return parse(configuration(settings))[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"pstgres": {}},
            [
                "shlink:pstgres: is not a setting",
                "did you mean `postgres`?",
                "allowed: allowedChanges, app, charts,",
            ],
        ),
        (
            {"app": {"replica": 2}},
            ["shlink:app.replica: is not a setting", "did you mean `replicas`?", "webWorkers"],
        ),
        ({"app": {"web_workers": 2}}, ["shlink:app.web_workers: is not a setting", "`webWorkers`"]),
        (
            {"app": {"route": _INGRESS | {"class": "x"}}},
            ["shlink:app.route.class: is not a setting", "className"],
        ),
        (
            {"app": {"route": {"type": "ingress", "controllerNamespace": "i"}}},
            ["shlink:app.route.className: is missing"],
        ),
        (
            {"app": {"route": {"type": "loadbalancer"}}},
            [
                "shlink:app.route: `type: loadbalancer` is not possible",
                "type: gateway, type: ingress",
            ],
        ),
        ({"app": {"replicas": 51}}, ["shlink:app.replicas: 51", "allowed: 0 to 50"]),
        ({"app": {"replicas": "three"}}, ['shlink:app.replicas: "three"', "allowed: 0 to 50"]),
        (
            {"app": {"memoryLimit": "256Mi"}},
            ['shlink:app.memoryLimit: "256Mi"', "allowed: PHP's unit M"],
        ),
        (
            {"app": {"resources": {"memory": "256MB"}}},
            ['shlink:app.resources.memory: "256MB"', "allowed: memory with its unit, such as"],
        ),
        ({"app": {"basePath": "s"}}, ['shlink:app.basePath: "s"', "e.g. /s"]),
        (
            {"app": {"environment": {"CORS_MAX_AGE": ""}}},
            ["shlink:app.environment.CORS_MAX_AGE", "is empty"],
        ),
        ({"app": {"environment": {"base": "x"}}}, ["shlink:app.environment.base"]),
        ({"app": "none"}, ["shlink:app: must be a map of keys", "allowed: basePath, "]),
        ({"postgres": {"version": 14}}, ["shlink:postgres.version: 14", "allowed: 15, 16, 17, 18"]),
        (
            {"postgres": {"storage": {"size": "10GB"}}},
            ['shlink:postgres.storage.size: "10GB"', "binary unit"],
        ),
        ({"postgres": {"storage": {"size": "0Gi"}}}, ['"0Gi"']),
        (
            {"postgres": {"backups": {"full": "weekly"}}},
            ['shlink:postgres.backups.full: "weekly"', "cron"],
        ),
        (
            {"postgres": {"backups": {"retentionFull": 0}}},
            ["shlink:postgres.backups.retentionFull: 0", "1 to 9999"],
        ),
        (
            {"postgres": {"maxConnections": 30}},
            ["shlink:postgres.maxConnections: 30", "allowed: 40 or more", "app.replicas"],
        ),
        (
            {"app": {"replicas": 20}},
            ["shlink:postgres.maxConnections: 100", "20 replicas", "allowed: 142 or more"],
        ),
        ({"postgres": {"localPort": 80}}, ["shlink:postgres.localPort: 80", "1024 to 65535"]),
        (
            {"redis": {"sentinels": 4}},
            ["shlink:redis.sentinels: 4", "an odd number", "allowed: 3, 5, 7, 9"],
        ),
        ({"redis": {"replicas": 1}}, ["shlink:redis.replicas: 1", "allowed: 3 to 9"]),
        (
            {"redis": {"mode": "cluster"}},
            ["shlink:redis: `mode: cluster`", "mode: external, mode: failover, mode: none"],
        ),
        ({"redis": {"mode": "none", "replicas": 3}}, ["shlink:redis.replicas: is not a setting"]),
        (
            {"redis": {"mode": "external", "servers": []}},
            ["shlink:redis.servers: must not be empty"],
        ),
        (
            {"redis": {"mode": "external", "servers": ["redis:6379"]}},
            ['shlink:redis.servers.0: "redis:6379"', "tcp://host:port or tls://"],
        ),
        (
            {"vault": {"mode": "ha"}},
            [
                "shlink:vault.seal: is missing; in mode ha",
                "allowed: awskms, gcpckms, azurekeyvault, transit",
            ],
        ),
        (
            {"vault": {"mode": "ha", "replicas": 2, "seal": _SEAL}},
            ["shlink:vault.replicas: 2", "allowed: 3, 5, 7"],
        ),
        ({"vault": {"replicas": 3}}, ["shlink:vault.replicas: belongs to mode ha"]),
        (
            {"vault": {"seal": {"type": "shamir"}}},
            ["shlink:vault.seal: `type: shamir`", "type: awskms, "],
        ),
        (
            {"vault": {"seal": {"type": "awskms"}}},
            ["shlink:vault.seal.region: is missing", "shlink:vault.seal.kmsKeyId: is missing"],
        ),
        (
            {"vault": {"token": "t", "authLogin": {"path": "auth/jwt/login"}}},
            ["shlink:vault", "not both"],
        ),
        ({"vault": {"address": "vault:8200"}}, ['shlink:vault.address: "vault:8200"']),
        (
            {"images": {"shlink": "shlinkio/shlink:stable"}},
            ["shlink:images.shlink", "mutable tag 'stable'"],
        ),
        (
            {"images": {"vault": "registry.example.org:5000/vault"}},
            ["shlink:images.vault", "has no tag; name a version"],
        ),
        (
            {"images": {"shlink": "shlinkio/shlink:4.5.3"}},
            ["shlink:images.shlink", "4.5.3", "4.6.0 or newer", "redis.mode"],
        ),
        (
            {"charts": {"pgo": {"repository": "ftp://x"}}},
            ['shlink:charts.pgo.repository: "ftp://x"'],
        ),
        ({"charts": {"vault": {"version": "latest"}}}, ['shlink:charts.vault.version: "latest"']),
        (
            {"operators": {"pgo": {"install": False}}},
            ["shlink:operators.pgo.namespace: is missing"],
        ),
        (
            {"operators": {"pgo": {"namespace": "platform"}}},
            ["shlink:operators.pgo.namespace: is fixed"],
        ),
        (
            {"operators": {"pgo": {"install": False, "namespace": "redis"}}},
            [
                "shlink:operators.pgo.namespace: redis is this environment's own",
                "allowed: a namespace that this environment does not use, or postgres",
            ],
        ),
        ({"network": {"apiServer": ["10.96.0.1"]}}, ['shlink:network.apiServer.0: "10.96.0.1"']),
        ({"rotation": {"redis": 0}}, ["shlink:rotation.redis: 0", "allowed: 1 to"]),
        ({"protect": "perhaps"}, ['shlink:protect: "perhaps"', "allowed: true, false"]),
    ],
    ids=str,
)
def test_a_fault_names_key_value_and_what_is_allowed(
    fault: Fault, settings: dict[str, Any], words: list[str]
) -> None:
    message = fault(**settings)
    assert [word for word in words if word not in message] == [], message


def test_a_key_unlike_any_other_gets_no_suggestion(fault: Fault) -> None:
    message = fault(zzz=1)
    assert "did you mean" not in message
    assert "allowed: allowedChanges, app, " in message


def test_every_fault_is_in_the_one_message() -> None:
    with pytest.raises(SettingsError) as error:
        parse(
            {
                "vault:address": "x",
                "shlink:app": '{"replicas": -1, "webWorkers": 0}',
                "shlink:postgres": '{"version": 9}',
            }
        )
    lines = str(error.value).splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == [
        "vault:address",
        "kubernetes:context",
        "shlink:app.replicas",
        "shlink:app.webWorkers",
        "shlink:postgres.version",
    ]


@pytest.mark.parametrize("key", ["vault:address", "vault:token", "postgresql:host", "random:seed"])
def test_a_key_of_a_provider_that_the_program_configures_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match=f"{key}: has no effect") as error:
        parse({"kubernetes:context": "lab", key: "hunter2"})
    assert "hunter2" not in str(error.value)


def test_keys_of_other_programs_are_left_alone() -> None:
    assert parse({"kubernetes:context": "lab", "aws:region": "eu-west-1"})[0].context == "lab"


@pytest.mark.parametrize(
    "values", [{}, {"kubernetes:context": ""}, {"kubernetes:kubeconfig": "/kubeconfig"}], ids=str
)
def test_no_run_without_a_named_cluster(values: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="kubernetes:context"):
        parse(values)


def test_a_renamed_context_keeps_the_cluster_when_its_identifier_is_set() -> None:
    cluster, _ = parse({"kubernetes:context": "new", "kubernetes:clusterIdentifier": "old"})
    assert (cluster.context, cluster.identifier) == ("new", "old")
    assert parse({"kubernetes:context": "new"})[0].identifier == "new"


_NUMBER = 1029384756
"""Where a text is wanted: a fault in the value of a secret."""


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"app": {"geoliteLicenseKey": _NUMBER}}, "shlink:app.geoliteLicenseKey"),
        ({"vault": {"token": _NUMBER}}, "shlink:vault.token"),
        ({"vault": {"seal": _TRANSIT | {"token": _NUMBER}}}, "shlink:vault.seal.token"),
        (
            {"vault": {"authLogin": {"path": "auth/jwt/login", "parameters": {"jwt": _NUMBER}}}},
            "shlink:vault.authLogin.parameters.jwt",
        ),
        ({"redis": _EXTERNAL | {"password": _NUMBER}}, "shlink:redis.password"),
        (
            {"postgres": {"backups": {"repositories": {"repo2": _S3 | {"key": _NUMBER}}}}},
            "shlink:postgres.backups.repositories.repo2.key",
        ),
        (
            {"postgres": {"backups": {"repositories": {"repo2": _S3 | {"keySecret": _NUMBER}}}}},
            "shlink:postgres.backups.repositories.repo2.keySecret",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_secret_is_never_in_a_message(fault: Fault, settings: dict[str, Any], key: str) -> None:
    message = fault(**settings)
    assert f"{key}: [secret]" in message
    assert str(_NUMBER) not in message


@pytest.mark.parametrize(
    "settings",
    [{"app": {"replicas": _NUMBER}}, {"app": {"domain": f"{_NUMBER}!"}}],
    ids=str,
)
def test_what_is_encrypted_is_never_in_a_message_whatever_its_key(
    fault: Fault, settings: dict[str, Any]
) -> None:
    assert str(_NUMBER) in fault(**settings)
    assert str(_NUMBER) not in fault(frozenset({"shlink:app"}), **settings)


def test_another_secret_key_hides_nothing_here(fault: Fault) -> None:
    assert "99" in fault(frozenset({"shlink:app"}), postgres={"version": 99})


def test_every_pinned_image_would_be_accepted_as_a_setting() -> None:
    pinned = Images().model_dump(by_alias=True, exclude_none=True)
    assert parsed(images=pinned).images == Images(**pinned)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("docker.io/shlinkio/shlink:4.6.0", (4, 6, 0)),
        ("shlinkio/shlink:v5.1.6-non-root", (5, 1, 6)),
        ("registry:5000/shlink:4.10.2@sha256:" + "4ab0" * 16, (4, 10, 2)),
        ("shlinkio/shlink:4.5@sha256:" + "4ab0" * 16, (4, 5, 0)),
        # Nothing is known of a bare digest, so it is not refused.
        ("shlinkio/shlink@sha256:" + "4ab0" * 16, (4, 6, 0)),
    ],
)
def test_shlinks_version_is_read_from_its_tag(image: str, version: tuple[int, int, int]) -> None:
    assert shlink_version(image) == version


@pytest.mark.parametrize(
    "settings",
    [
        {"images": {"shlink": "shlinkio/shlink:4.5.3"}, "redis": {"mode": "none"}},
        {"images": {"shlink": "shlinkio/shlink:4.5.3"}, "redis": _EXTERNAL},
        {"images": {"shlink": "shlinkio/shlink@sha256:" + "4ab0" * 16}},
        {"postgres": {"maxConnections": 40}},
        {"vault": {"seal": _SEAL}},
    ],
    ids=str,
)
def test_what_is_possible_is_accepted(settings: dict[str, Any]) -> None:
    assert parsed(**settings)


def test_a_chart_keeps_what_is_not_overridden() -> None:
    charts = parsed(charts={"pgo": {"version": "5.8.9"}}).charts
    assert charts.pgo.version == "5.8.9"
    assert charts.pgo.repository == parsed().charts.pgo.repository
    assert charts.vault == parsed().charts.vault


@pytest.mark.parametrize(
    "path", [("app", "replicas"), ("postgres", "instances"), ("rotation", "redis")], ids=str
)
def test_settings_cannot_change_during_a_run(path: tuple[str, str]) -> None:
    group = getattr(parsed(), {"app": "shlink"}.get(path[0], path[0]))
    with pytest.raises(ValueError, match="frozen"):
        setattr(group, path[1], 9)


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        ({}, set[str]()),
        ({"redis": {"mode": "none"}}, {"redis", "redis_operator_chart"}),
        ({"operators": {"pgo": {"install": False, "namespace": "platform"}}}, {"pgo_chart"}),
    ],
    ids=["all", "no Redis", "PGO elsewhere"],  # a set has another order in each process
)
def test_versions_name_what_is_deployed_and_nothing_else(
    settings: dict[str, Any], absent: set[str]
) -> None:
    every = {"shlink", "vault", "bank_vaults", "postgresql", "redis"}
    every |= {f"{name}_chart" for name in ("vault", "external_secrets", "pgo", "redis_operator")}
    assert set(parsed(**settings).versions) == every - absent
