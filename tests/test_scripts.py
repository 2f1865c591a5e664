"""The scripts of the workflows, run on folders and with stand-ins for commands."""

# ruff: noqa: S603, S607 -- commands of the tests themselves
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline.record import ROOT
from scripts import preview_diff

MakeCommand = Callable[[str, str], None]


def files(folder: Path, content: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def commands(tmp_path: Path) -> tuple[MakeCommand, dict[str, str]]:
    """Stand-ins for commands: each gets its arguments and appends them to $LOG."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "log"
    log.touch()

    def make(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$LOG"\n{script}\n')
        path.chmod(0o755)

    return make, {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log)}


def run(
    command: list[str], environment: dict[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("status", [0, 7])
def test_the_plan_is_printed_and_is_in_the_summary(
    commands: tuple[MakeCommand, dict[str, str]], tmp_path: Path, status: int
) -> None:
    """A plan that fails fails the step; the reviewer sees what it printed all the same."""
    make, environment = commands
    make("make", f"echo '+ pod ```'; exit {status}")
    summary = tmp_path / "summary.md"
    environment["GITHUB_STEP_SUMMARY"] = str(summary)
    done = run([str(ROOT / "scripts" / "plan"), "prod"], environment)
    assert done.returncode == status
    assert "+ pod" in done.stdout
    assert summary.read_text().startswith("### prod\n\n    + pod ```\n")
    assert ("the preview of prod failed" in summary.read_text()) == (status != 0)
    assert "live-preview STACK=prod" in Path(environment["LOG"]).read_text()


class TestPreviewDiff:
    """The comment under a pull request."""

    def test_shows_the_tree_first_and_each_manifest(self, tmp_path: Path) -> None:
        base = files(
            tmp_path / "base",
            {
                "dev/tree.txt": "a\nb\n",
                "dev/vault/x.yaml": "size: 1Gi\n",
                "dev/vault/gone.yaml": "a: 1\n",
            },
        )
        head = files(
            tmp_path / "head",
            {
                "dev/tree.txt": "a\nc\n",
                "dev/vault/x.yaml": "size: 2Gi\n",
                "dev/redis/new.yaml": "b: 1\n",
            },
        )
        text = preview_diff.comment(base, head)
        assert text.startswith(preview_diff.MARK)
        assert "`dev`: 1 new, 1 changed, 1 gone manifests" in text
        assert text.index("+c") < text.index("+size: 2Gi")
        assert "-size: 1Gi" in text
        assert "<summary>+ <code>dev/redis/new.yaml</code>" in text
        assert "<summary>- <code>dev/vault/gone.yaml</code>" in text

    def test_says_that_nothing_differs(self, tmp_path: Path) -> None:
        same = files(tmp_path / "same", {"dev/tree.txt": "a\n"})
        assert "`dev`: no difference" in preview_diff.comment(same, same)

    def test_a_base_without_a_preview(self, tmp_path: Path) -> None:
        head = files(tmp_path / "head", {"dev/x.yaml": "a: 1\n"})
        assert "nothing" not in preview_diff.comment(files(tmp_path / "base", {}), head)
        assert "everything is new" in preview_diff.comment(tmp_path / "base", head)

    def test_is_bounded_and_names_what_does_not_fit(self, tmp_path: Path) -> None:
        head = files(tmp_path / "head", {f"dev/{n}.yaml": f"{n}\n" * 400 for n in range(3000)})
        text = preview_diff.comment(files(tmp_path / "base", {}), head)
        assert len(text) < preview_diff.LIMIT
        assert "+ `dev/" in text
        assert "parts are not shown in full" in text

    def test_nothing_in_a_file_or_its_name_ends_the_code_block(self, tmp_path: Path) -> None:
        evil = "```\n</details>\n[click](https://example.com)\n````\n@everyone\n"
        head = files(tmp_path / "head", {"dev/x.yaml": evil, "dev/`</code><b>.yaml": "a\n"})
        text = preview_diff.comment(files(tmp_path / "base", {}), head)
        fences = re.findall(r"^(`{3,})", text, re.MULTILINE)
        assert fences[0] == fences[1] == "`````" or "`````" in fences
        inside = text[text.index("`````diff") : text.rindex("\n`````")]
        assert "click" in inside
        assert "<b>" not in text

    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        head = files(tmp_path / "head", {"dev/x.yaml": "a\n"})
        (tmp_path / "outside.yaml").write_text("hidden")
        (head / "dev" / "link.yaml").symlink_to(tmp_path / "outside.yaml")
        assert "hidden" not in preview_diff.comment(files(tmp_path / "base", {}), head)

    def test_needs_nothing_but_python(self, tmp_path: Path) -> None:
        files(tmp_path / "base", {})
        files(tmp_path / "head", {"dev/x.yaml": "a\n"})
        done = run(
            [
                sys.executable,
                "-I",
                "-S",
                str(ROOT / "scripts/preview_diff.py"),
                str(tmp_path / "base"),
                str(tmp_path / "head"),
            ],
            {},
        )
        assert done.returncode == 0, done.stderr
        assert preview_diff.MARK in done.stdout


class TestPreviews:
    """Both sides of a pull request as data, in a repository of its own."""

    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        folder = files(tmp_path / "repository", {"Pulumi.dev.yaml": "{}", "size": "1"})
        (folder / "Makefile").write_text(
            "preview:\n\t@mkdir -p build/preview/$(STACK)"
            " && cp size build/preview/$(STACK)/x.yaml\n"
        )
        (folder / "scripts").mkdir()
        (folder / "scripts" / "previews").write_bytes((ROOT / "scripts/previews").read_bytes())
        (folder / ".gitignore").write_text("build/\n")
        self.git(folder, "init", "-q", "-b", "main")
        self.commit(folder)
        return folder

    def git(self, folder: Path, *arguments: str) -> None:
        subprocess.run(
            [
                "git",
                "-C",
                folder,
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@example.com",
                *arguments,
            ],
            check=True,
        )

    def commit(self, folder: Path) -> None:
        self.git(folder, "add", ".")
        self.git(folder, "commit", "-qm", "x")

    def test_both_sides(self, repository: Path) -> None:
        (repository / "size").write_text("2")
        (repository / "Pulumi.prod.yaml").write_text("{}")
        self.commit(repository)
        done = run(
            ["bash", "scripts/previews", "HEAD^1", "build/previews"],
            dict(os.environ),
            cwd=repository,
        )
        assert done.returncode == 0, done.stderr
        contents = {
            path.relative_to(repository / "build/previews").as_posix(): path.read_text()
            for path in repository.glob("build/previews/*/*/*")
        }
        assert contents == {"base/dev/x.yaml": "1", "head/dev/x.yaml": "2", "head/prod/x.yaml": "2"}
        worktrees = subprocess.check_output(
            ["git", "-C", repository, "worktree", "list"], text=True
        )
        assert len(worktrees.splitlines()) == 1

    def test_a_base_that_cannot_be_previewed_counts_as_nothing(self, repository: Path) -> None:
        makefile = repository / "Makefile"
        works = makefile.read_text()
        makefile.write_text("preview:\n\t@false\n")
        self.commit(repository)
        makefile.write_text(works)
        self.commit(repository)
        done = run(
            ["bash", "scripts/previews", "HEAD^1", "build/previews"],
            dict(os.environ),
            cwd=repository,
        )
        assert done.returncode == 0, done.stderr
        assert "everything counts as new" in done.stderr
        assert list((repository / "build/previews/base").iterdir()) == []

    def test_a_broken_stack_fails(self, repository: Path) -> None:
        (repository / "Makefile").write_text("preview:\n\t@false\n")
        assert (
            run(
                ["bash", "scripts/previews", "HEAD", "build/previews"],
                dict(os.environ),
                cwd=repository,
            ).returncode
            != 0
        )


@pytest.mark.skipif(
    shutil.which("jq") is None, reason="jq is not installed; the hosting service's machines have it"
)
class TestPostPreview:
    """The comment, with a stand-in for the hosting service's command."""

    GH = """
case "$*" in
  *"/pulls"*) cat "$PULLS" ;;
  "run download"*)
    [ -z "${NO_ARTIFACT:-}" ] || exit 1
    mkdir -p "${!#}/base/dev" "${!#}/head/dev"
    echo a > "${!#}/base/dev/x.yaml"
    echo b > "${!#}/head/dev/x.yaml"
    ;;
  *"--method PATCH"* | *"--method POST"*) cp "${!#}" "$BODY" ;;
  *"/comments"*) cat "$COMMENTS" ;;
esac
"""

    @pytest.fixture
    def post(
        self, tmp_path: Path, commands: tuple[MakeCommand, dict[str, str]]
    ) -> Callable[..., str]:
        make, environment = commands
        make("gh", self.GH)

        def run_it(pulls: list[Any], comments: list[Any], **more: str) -> str:
            (tmp_path / "pulls").write_text(json.dumps(pulls))
            (tmp_path / "comments").write_text(json.dumps(comments))
            event = {
                "REPOSITORY": "o/r",
                "RUN_ID": "7",
                "HEAD_OWNER": "fork",
                "HEAD_BRANCH": "b",
                "HEAD_SHA": "c0ffee",
            }
            places = {
                "PULLS": str(tmp_path / "pulls"),
                "COMMENTS": str(tmp_path / "comments"),
                "BODY": str(tmp_path / "body"),
            }
            done = run(
                [str(ROOT / "scripts/post_preview")], {**environment, **event, **places, **more}
            )
            assert done.returncode == 0, done.stderr
            return (tmp_path / "log").read_text()

        return run_it

    def test_a_first_comment(self, post: Callable[..., str], tmp_path: Path) -> None:
        log = post([{"number": 3, "head": {"sha": "c0ffee"}}], [])
        assert "head=fork:b" in log
        assert "--method POST repos/o/r/issues/3/comments" in log
        assert "+b" in json.loads((tmp_path / "body").read_text())["body"]

    def test_the_comment_is_edited_in_place(self, post: Callable[..., str]) -> None:
        mine = {
            "id": 11,
            "user": {"login": "github-actions[bot]"},
            "body": f"{preview_diff.MARK}\nold",
        }
        forged = {"id": 10, "user": {"login": "somebody"}, "body": f"{preview_diff.MARK}\nnot mine"}
        log = post([{"number": 3, "head": {"sha": "c0ffee"}}], [forged, mine])
        assert "--method PATCH repos/o/r/issues/comments/11" in log
        assert "POST" not in log

    def test_a_preview_that_failed_is_said_in_the_same_comment(
        self, post: Callable[..., str], tmp_path: Path
    ) -> None:
        log = post([{"number": 3, "head": {"sha": "c0ffee"}}], [], NO_ARTIFACT="1")
        assert "--method POST" in log
        body = json.loads((tmp_path / "body").read_text())["body"]
        assert body.startswith(preview_diff.MARK)
        assert "failed: https://github.com/o/r/actions/runs/7" in body

    def test_a_branch_that_moved_on_gets_none(self, post: Callable[..., str]) -> None:
        log = post([{"number": 3, "head": {"sha": "another"}}], [])
        assert "download" not in log
        assert "POST" not in log


class TestEndToEnd:
    """The order of the steps, with stand-ins for every command."""

    def run_it(
        self, tmp_path: Path, commands: tuple[MakeCommand, dict[str, str]]
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        make, environment = commands
        folder = files(tmp_path / "checkout", {"Pulumi.dev.yaml": "config: {}\n"})
        (folder / "scripts").mkdir()
        (folder / "scripts" / "e2e").write_bytes((ROOT / "scripts/e2e").read_bytes())
        make(
            "pulumi",
            '[ "$1" != stack ] || echo "encryptionsalt: x" >> Pulumi.dev.yaml; '
            '[ "$1" != config ] || echo kind-x',
        )
        make("make", "")
        make(
            "kubectl",
            'case $* in *can-i*) echo "${ANSWER:-no}" ;; *"get namespace"*) exit 1 ;; esac',
        )
        done = run(["bash", str(folder / "scripts/e2e"), "dev"], environment)
        assert (folder / "Pulumi.dev.yaml").read_text() == "config: {}\n"
        return done, Path(environment["LOG"]).read_text().splitlines()

    def test_the_whole_life(
        self, tmp_path: Path, commands: tuple[MakeCommand, dict[str, str]]
    ) -> None:
        done, log = self.run_it(tmp_path, commands)
        assert done.returncode == 0, done.stderr
        expected = [
            "pulumi stack init dev",
            "make up STACK=dev",
            "make smoke STACK=dev",
            "make doctor STACK=dev",
            "pulumi up --stack dev --expect-no-changes",
            "make destroy STACK=dev",
        ]
        assert [line for line in log if line in expected] == expected
        assert all("--context kind-x" in line for line in log if line.startswith("kubectl"))

    def test_a_role_that_may_read_secrets_fails_it(
        self, tmp_path: Path, commands: tuple[MakeCommand, dict[str, str]]
    ) -> None:
        commands[1]["ANSWER"] = "yes"
        done, log = self.run_it(tmp_path, commands)
        assert done.returncode == 1
        assert "shlink-preview may get Secrets" in done.stderr
        assert "make destroy STACK=dev" not in log


class TestWithKubeconfig:
    """The kubeconfig of an environment's secret."""

    def test_only_this_user_reads_it_and_it_ends_with_the_command(self, tmp_path: Path) -> None:
        look = (
            'cat "$KUBECONFIG"; ls -l "$KUBECONFIG" | cut -c1-10; test -z "${KUBECONFIG_CONTENT:-}"'
        )
        command = f'{look} && echo "$KUBECONFIG" > {tmp_path}/where'
        done = run(
            [str(ROOT / "scripts/with_kubeconfig"), "bash", "-c", command],
            {**os.environ, "KUBECONFIG_CONTENT": "kind: Config"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "kind: Config\n-rw-------\n"
        assert not Path((tmp_path / "where").read_text().strip()).exists()

    def test_the_command_decides_how_it_ends(self) -> None:
        assert (
            run(
                [str(ROOT / "scripts/with_kubeconfig"), "false"],
                {**os.environ, "KUBECONFIG_CONTENT": "x"},
            ).returncode
            == 1
        )

    def test_without_the_secret(self) -> None:
        done = run([str(ROOT / "scripts/with_kubeconfig"), "true"], {"PATH": os.environ["PATH"]})
        assert done.returncode == 1
        assert "set the secret KUBECONFIG" in done.stderr


LIMIT = 'The process "shlink db:migrate" exceeded the timeout of 600 seconds.'


@pytest.mark.parametrize(
    ("failures", "text", "code"),
    [(2, LIMIT, 0), (1, "an error", 0), (2, "an error", 1), (9, LIMIT, 1)],
)
def test_a_migration_goes_on_after_a_time_limit_and_may_succeed_the_second_time(
    tmp_path: Path,
    commands: tuple[MakeCommand, dict[str, str]],
    failures: int,
    text: str,
    code: int,
) -> None:
    make, environment = commands
    make("php", "true")
    runs = tmp_path / "runs"
    fails = f"[ \"$(wc -l < {runs})\" -gt {failures} ] || {{ echo '{text}'; exit 1; }}"
    entrypoint = f"echo x >> {runs}; {fails}"
    folder = files(tmp_path / "shlink", {"docker-entrypoint.sh": entrypoint})
    script = (ROOT / "components/scripts/shlink_migrate.sh").read_text()
    script = script.replace("/tmp/", f"{tmp_path}/")  # noqa: S108 - of the pod
    done = subprocess.run(
        ["sh", "-ec", script, "migrate", "prepare", "key"],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == code, done.stderr
