"""`make new`: a stack's file from another's, and what its owner answers."""

from pathlib import Path

import pytest

from components.settings.reading import SettingsError
from offline import new, stacks
from offline.record import ROOT


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """A folder with the project's own stack files."""
    for name in ("dev", "prod"):
        file = f"Pulumi.{name}.yaml"
        (tmp_path / file).write_text((ROOT / file).read_text())
    return tmp_path


def answer(question: str, default: str | None) -> str:
    """As a person would: a domain for the domain, a name for everything else."""
    return "s.example.org" if question.startswith("domain:") else default or "team-a"


@pytest.mark.parametrize("like", ["dev", "prod"])
def test_the_new_file_is_one_that_the_program_takes(root: Path, like: str) -> None:
    path = new.write(root, "staging", like, answer)
    text = path.read_text()
    values = [line.split(" #")[0] for line in text.splitlines() if "#" not in line.lstrip()[:1]]
    assert not any(new.TO_CHANGE.search(line) for line in values)
    assert "domain: s.example.org" in text
    assert stacks.configuration(root, "staging")[0]["kubernetes:context"]
    lines = (root / f"Pulumi.{like}.yaml").read_text().splitlines()
    assert len(text.splitlines()) == len(lines)


@pytest.mark.parametrize("name", ["dev", "a/b", "../x"])
def test_no_file_is_written_over_and_none_elsewhere(root: Path, name: str) -> None:
    before = {path: path.read_text() for path in root.iterdir()}
    with pytest.raises(stacks.StackError):
        new.write(root, name, "dev", answer)
    assert {path: path.read_text() for path in root.iterdir()} == before


def test_a_wrong_answer_is_refused_and_nothing_is_written(root: Path) -> None:
    def wrong(question: str, default: str | None) -> str:
        return "https://s.example.org" if question.startswith("domain:") else default or "x"

    with pytest.raises(SettingsError, match=r"shlink:app\.domain"):
        new.write(root, "staging", "dev", wrong)
    assert sorted(path.name for path in root.iterdir()) == ["Pulumi.dev.yaml", "Pulumi.prod.yaml"]


def test_encrypted_values_are_not_copied(root: Path) -> None:
    text = 'config:\n  kubernetes:context: c\n  shlink:redis:\n    password: {secure: "v1:a:b"}\n'
    (root / "Pulumi.mine.yaml").write_text(text)
    with pytest.raises(stacks.StackError, match="encrypted"):
        new.write(root, "staging", "mine", answer)
