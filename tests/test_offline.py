"""What `make preview` shows, writes and leaves alone; generated files are current."""

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
from offline.files import ForeignFilesError, dumped, masked, replacing
from offline.graph import columns, layers, longest_chain, mermaid
from offline.record import ROOT, Recording, plain, record

Preview = Callable[[Path, str], "Run"]


@pytest.fixture(scope="module")
def dev() -> Recording:
    return record("dev", *stacks.configuration(ROOT, "dev"))


def test_a_recorded_run_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that runs beside `make doctor` or `make preview` keeps its authorities' files."""
    configuration = stacks.configuration(ROOT, "dev")
    monkeypatch.chdir(tmp_path)
    record("dev", *configuration)
    assert list(tmp_path.iterdir()) == []


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


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_preview_shows_and_writes_what_the_stack_would_hold(
    preview: Preview, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "Pulumi.dev.yaml", tmp_path)
    run = preview(tmp_path, "dev")
    assert run.returncode == 0, run.stderr
    tree = (tmp_path / "out" / "dev" / "tree.txt").read_text()
    assert "CREATE, USAGE on schema public of shlink to shlink" in tree
    assert "secret/data/postgres/shlink" in run.stdout
    lines = run.stdout.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    # A folder's name is never broken.
    assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line] == []
    assert {
        "postgres/postgrescluster-shlink-db.yaml",
        "redis/redisfailover-shlink-redis.yaml",
        "shlink/secretstore-vault-backend.yaml",
        "shlink/externalsecret-postgres-credentials.yaml",
        "shlink/deployment-shlink.yaml",
        "shlink/job-shlink-migration.yaml",
        "vault/job-vault-init.yaml",
        "shlink/networkpolicy-default-deny.yaml",
        "graph.md",
        "tree.txt",
    } <= contents(tmp_path / "out" / "dev")


def test_a_preview_replaces_only_what_an_earlier_preview_wrote(
    preview: Preview, tmp_path: Path
) -> None:
    """A foreign file stops the preview before it writes anything; without it the folder is new."""
    shutil.copy(ROOT / "Pulumi.dev.yaml", tmp_path)
    folder = tmp_path / "out" / "dev"
    assert preview(tmp_path, "dev").returncode == 0
    expected = contents(folder)
    (folder / "tree.txt").write_text("old")
    notes = folder / "shlink" / "notes.txt"
    notes.write_text("mine")

    refused = preview(tmp_path, "dev")
    assert refused.returncode == 1
    assert "holds shlink/notes.txt, which no preview wrote" in refused.stderr
    assert "make clean" in refused.stderr
    assert notes.read_text() == "mine"
    assert (folder / "tree.txt").read_text() == "old"

    notes.unlink()
    assert preview(tmp_path, "dev").returncode == 0
    assert contents(folder) == expected
    assert (folder / "tree.txt").read_text() != "old"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dev"]


def test_a_folder_that_no_preview_wrote_is_left_alone(tmp_path: Path) -> None:
    """Also where its files bear the names that a preview would write, or where it is a link."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "tree.txt").write_text("an oak")
    link = tmp_path / "link"
    link.symlink_to(folder)
    for target in (folder, link, folder / "tree.txt"):
        with pytest.raises(ForeignFilesError, match="choose another --out"), replacing(target):
            pytest.fail("the folder was handed out")
    assert (folder / "tree.txt").read_text() == "an oak"


def test_previews_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The inner preview ends while the outer one is still writing: the folder is always whole."""
    folder = tmp_path / "dev"
    with replacing(folder) as outer:
        (outer / "outer.yaml").write_text("outer")
        with replacing(folder) as inner:
            (inner / "inner.yaml").write_text("inner")
        assert (folder / "inner.yaml").exists()
    assert (folder / "outer.yaml").exists()
    assert not (folder / "inner.yaml").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_preview_that_fails_keeps_the_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    with replacing(folder) as written:
        (written / "a.yaml").write_text("a")

    def fail() -> None:
        with replacing(folder) as half:
            (half / "b.yaml").write_text("b")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert (folder / "a.yaml").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("text", ["y", "N", "yes", "off", "null", "1e3", "0o14", "1.5", "012", "~"])
def test_a_string_that_looks_like_another_type_is_quoted(text: str) -> None:
    """Kubernetes reads manifests with a parser whose rules differ from PyYAML's."""
    line = dumped({"value": text}).strip()
    assert line in (f"value: '{text}'", f'value: "{text}"')


def test_a_script_is_readable_in_its_manifest() -> None:
    assert dumped({"script": "set -e\nexit 0\n"}) == "script: |\n  set -e\n  exit 0\n"


def test_preview_leaves_no_password_anywhere(preview: Preview, tmp_path: Path) -> None:
    stack_file(
        tmp_path,
        "config: {kubernetes:context: c, shlink:app: {geoliteLicenseKey: hunter2hunter2},"
        " shlink:vault: {token: hunter3hunter3}, shlink:redis: {mode: external,"
        " servers: ['tls://r.example.com:6380'], password: hunter4hunter4}}",
    )
    run = preview(tmp_path, "test")
    assert run.returncode == 0, run.stderr
    passwords = {"hunter2hunter2", "hunter3hunter3", "hunter4hunter4"}
    recording = record("test", *stacks.configuration(tmp_path, "test"))
    for resource in recording.of_kind("SecretV2"):
        fields = json.loads(plain(resource.inputs["dataJson"]))
        fields.pop("user", None)
        passwords.update(fields.values())
    assert len(passwords) >= 3 + 3
    shown = run.stdout + run.stderr
    for name in contents(tmp_path / "out"):
        shown += (tmp_path / "out" / name).read_text()
    assert [password for password in passwords if password in shown] == []


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
            ["shlink:app.replicas", '"three"', "0 to 50"],
        ),
        (
            "config: {kubernetes:context: c, app: {environment: {MATOMO_API_TOKEN: {secure: x}}}}",
            ["shlink:app.environment.MATOMO_API_TOKEN", "is encrypted", "secretEnvironment"],
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
    assert encrypted == {"shlink:app.geoliteLicenseKey"}


def test_layers_run_side_by_side(dev: Recording) -> None:
    graph = layers(dev)
    assert graph["shlink"] == {"shlink-db", "shlink-redis", "vault-backend"}
    assert graph["shlink-db"] == {"pgo"}
    assert {"external-secrets-operator", "pgo", "redis-operator", "vault"} in map(set, columns(dev))


def test_in_the_longest_chain_each_resource_waits_for_the_one_before(dev: Recording) -> None:
    chain = longest_chain(dev)
    assert [resource.kind for resource in chain[-2:]] == ["Service", "ConfigMap"]
    assert all(before.urn in dev.waits_for(after) for before, after in pairwise(chain))


def test_the_picture_names_every_layer(dev: Recording) -> None:
    picture = mermaid(dev)
    assert all(f"[{layer}]" in picture for layer in layers(dev))
    assert "shlink_db --> shlink\n" in picture


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
