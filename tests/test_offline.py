"""What `make preview` shows and writes, and that what is made from the settings' models is current."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from offline import schema, stacks
from offline.__main__ import main
from offline.record import ROOT, Recording, plain, record
from offline.render import columns, layers, longest_chain, masked, svg

Preview = Callable[[Path, str], "Run"]


@pytest.fixture(scope="module")
def dev() -> Recording:
    return record("dev", *stacks.configuration(ROOT, "dev"))


@dataclass(frozen=True)
class Run:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def preview(capsys: pytest.CaptureFixture[str]) -> Preview:
    """The command, with the stack files of another folder."""

    def run(root: Path, stack: str) -> Run:
        code = main([stack, "--root", str(root), "--out", str(root / "out")])
        shown = capsys.readouterr()
        return Run(code, shown.out, shown.err)

    return run


def stack_file(folder: Path, content: str) -> None:
    (folder / "Pulumi.test.yaml").write_text(content)


def test_preview_shows_and_writes_what_the_stack_would_hold(
    preview: Preview, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "Pulumi.dev.yaml", tmp_path)
    run = preview(tmp_path, "dev")
    assert run.returncode == 0, run.stderr
    assert "CREATE, USAGE on schema public of shlink to shlink" in run.stdout
    assert "secret/data/postgres/shlink" in run.stdout
    written = {
        path.relative_to(tmp_path / "out" / "dev").as_posix()
        for path in (tmp_path / "out" / "dev").rglob("*.*")
    }
    assert {
        "postgres/postgrescluster-shlink-db.yaml",
        "redis/redisfailover-shlink-redis.yaml",
        "shlink/secretstore-vault-backend.yaml",
        "shlink/externalsecret-postgres-credentials.yaml",
        "shlink/deployment-shlink.yaml",
        "shlink/job-shlink-migration.yaml",
        "vault/job-vault-init.yaml",
        "shlink/networkpolicy-default-deny.yaml",
        "graph.svg",
        "graph.md",
        "tree.txt",
    } <= written


def test_preview_leaves_no_password_anywhere(preview: Preview, tmp_path: Path) -> None:
    stack_file(
        tmp_path,
        "config: {kubernetes:context: c, shlink:app: {geoliteLicenseKey: hunter2hunter2}, shlink:vault: {token: hunter3hunter3},"
        " shlink:redis: {mode: external, servers: ['tls://r.example.com:6380'], password: hunter4hunter4}}",
    )
    run = preview(tmp_path, "test")
    assert run.returncode == 0, run.stderr
    recording = record("test", *stacks.configuration(tmp_path, "test"))
    secrets = [plain(one.inputs["dataJson"]) for one in recording.of_kind("SecretV2")]
    values = {value for text in secrets for key, value in json.loads(text).items() if key != "user"}
    assert len(values) >= 4
    shown = (
        run.stdout
        + run.stderr
        + "".join(path.read_text() for path in (tmp_path / "out").rglob("*.*") if path.is_file())
    )
    assert [
        value
        for value in (*values, "hunter2hunter2", "hunter3hunter3", "hunter4hunter4")
        if value in shown
    ] == []


def test_a_secret_map_keeps_its_keys(dev: Recording) -> None:
    assert masked(dev.one("Secret", "shlink-redis-auth").inputs)["stringData"] == {
        "password": "[secret]"
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("config: {kubernetes:context: c, shlink:pstgres: {}}", ["shlink:pstgres", "postgres"]),
        (
            "config: {kubernetes:context: c, shlink:app: {replicas: three}}",
            ["shlink:app.replicas", '"three"', "1 to 50"],
        ),
        ("config: {}", ["kubernetes:context", "is missing"]),
        ("config: [1]", ["Pulumi.test.yaml", "map of keys"]),
        ("config: {a: b", ["Pulumi.test.yaml", "not valid YAML"]),
    ],
)
def test_a_broken_configuration_ends_with_a_message_and_no_traceback(
    preview: Preview, tmp_path: Path, content: str, words: list[str]
) -> None:
    stack_file(tmp_path, content)
    run = preview(tmp_path, "test")
    assert run.returncode == 1
    assert all(word in run.stderr for word in words), run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_stack_names_those_that_exist(preview: Preview, tmp_path: Path) -> None:
    stack_file(tmp_path, "config: {}")
    run = preview(tmp_path, "prod")
    assert run.returncode == 1
    assert "Pulumi.prod.yaml does not exist; stacks: test" in run.stderr


def test_encrypted_configuration_is_a_placeholder_and_stays_secret(tmp_path: Path) -> None:
    stack_file(
        tmp_path,
        "config: {kubernetes:context: c, shlink:app: {geoliteLicenseKey: {secure: v1:abc}}}",
    )
    configuration, encrypted = stacks.configuration(tmp_path, "test")
    assert json.loads(configuration["shlink:app"]) == {"geoliteLicenseKey": stacks.PLACEHOLDER}
    assert encrypted == {"shlink:app"}


def test_layers_run_side_by_side(dev: Recording) -> None:
    graph = layers(dev)
    assert graph["shlink"] == {"shlink-db", "shlink-redis", "vault-backend"}
    assert graph["shlink-db"] == {"pgo"}
    assert {"external-secrets-operator", "pgo", "redis-operator", "vault"} in map(set, columns(dev))


def test_the_longest_chain_is_one(dev: Recording) -> None:
    chain = longest_chain(dev)
    assert chain[-1].kind == "Service"
    assert all(before.urn in dev.waits_for(after) for before, after in pairwise(chain))


def test_the_picture_names_every_layer(dev: Recording) -> None:
    picture = svg(dev)
    assert all(f">{name}<" in picture for name in layers(dev))


@pytest.mark.parametrize("path", schema.FILES, ids=lambda path: path.name)
def test_what_is_made_from_the_settings_is_current(path: Path) -> None:
    assert path.read_text() == schema.FILES[path](), "run: make schema"


@pytest.mark.parametrize("stack", stacks.names(ROOT))
def test_every_stack_file_fits_the_schema(stack: str) -> None:
    jsonschema.validate(
        yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text()), schema.json_schema()
    )


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kubernetes:context": "c", "shlink:postgress": {}},
        {"kubernetes:context": "c", "shlink:postgres": {"instances": "two"}},
        {"kubernetes:context": "c", "shlink:app": {"geoliteLicenseKey": {"insecure": "x"}}},
        {"kubernetes:context": "c", "vault:token": "x"},
    ],
)
def test_the_schema_refuses_what_the_program_refuses(config: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"config": config}, schema.json_schema())


def test_the_schema_takes_an_encrypted_secret() -> None:
    config = {
        "kubernetes:context": "c",
        "shlink:app": {"geoliteLicenseKey": {"secure": "v1:abc"}},
        "aws:region": "eu-west-1",
    }
    jsonschema.validate({"config": config}, schema.json_schema())
