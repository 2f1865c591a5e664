"""The documents: links lead somewhere, commands exist, the guide's table names what is there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.settings.environment import parse
from components.settings.reading import SettingsError
from offline.__main__ import main
from offline.record import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SCHEME = re.compile(r"^[a-z]+:")


def prose(path: Path) -> str:
    """Without fenced code, where a # is no heading and brackets are no link."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """As the hosting service makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"^ {4,}.*$", "", prose(path), flags=re.MULTILINE)
    yield from (link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not SCHEME.match(link))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_anchors_lead_somewhere(document: Path) -> None:
    wrong: list[str] = []
    for link in links(document):
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    text = document.read_text()
    code = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)]
    for command in code:
        for target in re.findall(r"(?:^|[;&|] *)make ([a-z][a-z-]*)", command):
            assert target in TARGETS, command
        for script in re.findall(r"(?:^|\s)((?:scripts|\.ci)/[\w.]+)", command):
            assert (ROOT / script).exists(), command


COMMANDS = {"argocd", "git", "helm", "kubectl", "make", "pulumi"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_can_be_pasted(document: Path) -> None:
    """No tool that wraps prose has joined two commands, or broken one without a backslash."""
    fenced = re.findall(r"^ *```sh\n(.*?)^ *```", document.read_text(), re.MULTILINE | re.DOTALL)
    for block in [*fenced, *_indented(document)]:
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("#")[0].replace("-n argocd", "")
            words = command.split()
            if words and words[0] in COMMANDS and not set(words) & {"&&", "|", ";"}:
                assert not COMMANDS & set(words[2:]), line
            assert not command.strip().startswith(("--", "'{")), line
        shell = ["bash", "-n"]
        done = subprocess.run(shell, input=block, text=True, capture_output=True, check=False)  # noqa: S603 -- only parsed
        assert done.returncode == 0, f"{done.stderr}{block}"


def _indented(path: Path) -> list[str]:
    """Indented code that begins with a command."""
    blocks = re.findall(r"(?:^\n)((?:^ {4,}\S.*\n)+)", prose(path), re.MULTILINE)
    return [block for block in blocks if block.split()[0] in COMMANDS]


def test_every_command_of_a_person_is_in_the_documents() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    hidden = {"help", "setup", "bench"}
    assert [target for target in sorted(TARGETS - hidden) if f"make {target}" not in text] == []


def defines(path: Path, name: str) -> bool:
    """Whether a file defines this at its top level."""
    return (
        re.search(
            rf"^(?:(?:async )?def |class )?{name}\b(?:\(|:| =)", path.read_text(), re.MULTILINE
        )
        is not None
    )


def test_the_guides_table_names_what_is_there() -> None:
    lines = (ROOT / "docs/guide.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "| where |" not in line]
    rows = [row for row in rows if "---" not in row]
    assert len(rows) >= 20
    for row in rows:
        place = re.search(r"\| `([\w./]+)(?::(\w+))?` \|$", row)
        assert place, row
        path = ROOT / place[1]
        assert path.exists(), row
        assert place[2] is None or defines(path, place[2]), row


def test_files_named_in_the_documents_exist() -> None:
    for document in DOCUMENTS:
        named = re.findall(
            r"`((?:components|offline|tests|deploy|examples|scripts|docs)/[\w./-]+\.(?:py|yaml|md))`",
            document.read_text(),
        )
        assert [name for name in named if not (ROOT / name).exists()] == [], document.name


def test_the_readme_says_what_a_person_asks_first() -> None:
    text = (ROOT / "README.md").read_text()
    for heading in ("What is created", "Where the passwords live", "How to undo it"):
        assert f"## {heading}" in text
    first = text[: text.index("## ")]
    assert "make preview" in first
    assert "make test" in first
    assert "```mermaid" in first
    assert "<!-- preview output -->" in first


def test_what_the_sizing_page_says_of_the_connections_is_the_check_itself() -> None:
    def tried(connections: int) -> None:
        parse({"kubernetes:context": "c", "shlink:postgres": {"maxConnections": connections}})

    tried(40)
    with pytest.raises(SettingsError, match="allowed: 40 or more"):
        tried(39)
    assert "= 40 of 100" in (ROOT / "docs/sizing.md").read_text()


def test_the_readme_shows_what_preview_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line by line and without the counts, which change with each new resource."""
    assert main(["dev", "--out", str(tmp_path)]) == 0
    printed = {_without_count(line) for line in capsys.readouterr().out.splitlines()}
    text = (ROOT / "README.md").read_text()
    block = text.partition("<!-- preview output -->")[2].partition("<!-- end")[0]
    shown = [line[4:].rstrip() for line in block.splitlines() if line.startswith("    ")]
    shown = [line for line in shown if line != "..."]
    assert len(shown) > 15
    assert [line for line in shown if line not in printed] == []


def _without_count(line: str) -> str:
    return re.sub(r"  \d+$", "", line.rstrip())


def test_every_decision_has_its_parts_and_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(folder.glob("[0-9]*.md"))
    assert len(records) > 20
    index = (folder / "README.md").read_text()
    for record in records:
        text = record.read_text()
        title = re.match(r"# (\d{4})\. (.+)\n\nDate: ([\d-]{10})\. Status: (.+)\.\n", text)
        assert title, record.name
        number, name, date, status = title.groups()
        assert record.name.startswith(number)
        assert f"| {number} | [{name}]({record.name}) | {date} | {status} |" in index, record.name
        parts = re.findall(r"(?m)^## (.+)$", text)
        required = ["Context", "Decision", "Rejected"]
        assert parts in (required, [*required, "Measured"]), record.name
