"""The workflows are pinned and have least permissions; Renovate raises every version."""

import itertools
import json
import os
import re
from typing import Any, cast

import yaml

from components import pins
from offline import stacks
from offline.record import ROOT

FOLDER = ROOT / ".github" / "workflows"
LOGIN = ROOT / ".github" / "actions" / "cloud_login" / "action.yml"
CLOUD_JOBS = (
    "deploy/plan",
    "deploy/up",
    "drift/drift",
    "preview-live/preview",
    "restore-drill/restore-drill",
)
"""Those that reach a cluster or a state."""
WORKFLOWS = {
    path.stem: cast("dict[Any, Any]", yaml.safe_load(path.read_text()))
    for path in sorted(FOLDER.glob("*.yml"))
}


def _jobs() -> dict[str, dict[str, Any]]:
    """Every job, by workflow and key."""
    jobs: dict[str, dict[str, Any]] = {}
    for name, workflow in WORKFLOWS.items():
        for key, job in workflow["jobs"].items():
            jobs[f"{name}/{key}"] = job
    return jobs


JOBS = _jobs()
STEPS: list[dict[str, Any]] = list(
    itertools.chain.from_iterable(job["steps"] for job in JOBS.values())
)
TARGETS = re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
ON = True  # YAML 1.1 reads the key `on` as a boolean


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_ci_lints_the_workflows_and_scripts() -> None:
    """`.ci/run` and `make check` run `make lint`, which runs every hook."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {"actionlint", "zizmor", "shellcheck", "codespell"} <= {hook["id"] for hook in hooks}
    assert "make lint\n" in (ROOT / ".ci" / "run").read_text()
    assert "pre-commit run --all-files\n" in (ROOT / "Makefile").read_text()


def test_every_hook_runs_what_the_project_has_installed() -> None:
    """So that a commit needs no network, and everybody has the versions of uv.lock."""
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            assert hook["entry"].startswith((".venv/bin/", "scripts/"))


def test_every_action_is_pinned_by_commit_and_says_its_version() -> None:
    """A tag can be moved to other code; the comment tells readers and Renovate the version."""
    text = "\n".join(path.read_text() for path in [*FOLDER.glob("*.yml"), LOGIN])
    lines = [line for line in text.splitlines() if re.search(r"\buses:", line)]
    assert lines
    pinned = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
    own = f"uses: $/{LOGIN.parent.relative_to(ROOT)}"
    assert [line for line in lines if not pinned.search(line) and own not in line] == []


def test_every_workflow_starts_with_no_permission_and_no_job_gets_more_than_it_uses() -> None:
    assert {name for name, workflow in WORKFLOWS.items() if workflow["permissions"] != {}} == set()
    writing = {
        name: job["permissions"]
        for name, job in JOBS.items()
        if "write" in job["permissions"].values()
    }
    cloud = {"contents": "read", "id-token": "write"}
    assert writing == {
        "pull-request-comment/comment": {
            "actions": "read",
            "contents": "read",
            "pull-requests": "write",
        },
        "e2e/outdated": {"contents": "read", "issues": "write"},
        **dict.fromkeys(CLOUD_JOBS, cloud),
    }


def test_whatever_reaches_a_cluster_can_log_in_to_a_cloud_without_a_stored_key() -> None:
    """By the OIDC token of a job that has an environment, which the cloud's trust names."""
    for name in CLOUD_JOBS:
        uses = [str(step.get("uses", "")) for step in JOBS[name]["steps"]]
        commands = [position for position, item in enumerate(uses) if not item]
        login = uses.index(f"$/{LOGIN.parent.relative_to(ROOT)}")
        assert JOBS[name]["steps"][login]["with"] == {"variables": "${{ toJSON(vars) }}"}
        assert login < max(commands)
        assert "environment" in JOBS[name]
    with_cluster = {name for name, job in JOBS.items() if "secrets.KUBECONFIG" in json.dumps(job)}
    assert with_cluster == set(CLOUD_JOBS)


def test_the_login_takes_no_secret_and_each_step_waits_for_its_variable() -> None:
    action = yaml.safe_load(LOGIN.read_text())
    assert "secrets." not in LOGIN.read_text()
    conditions = [step["if"] for step in action["runs"]["steps"]]
    assert len(conditions) == 4
    documented = (ROOT / "docs" / "state.md").read_text()
    for variable in re.findall(r"fromJSON\(inputs\.variables\)\.(\w+)", LOGIN.read_text()):
        assert f"`{variable}`" in documented


def test_every_job_ends_by_itself_and_keeps_no_credentials() -> None:
    assert [name for name, job in JOBS.items() if not isinstance(job["timeout-minutes"], int)] == []
    checkouts = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert [
        step for step in checkouts if step["with"].get("persist-credentials") is not False
    ] == []


def test_what_a_pull_request_starts_has_no_secret_and_what_has_one_waits_for_an_environment() -> (
    None
):
    for name, job in JOBS.items():
        triggers = WORKFLOWS[name.partition("/")[0]][ON]
        text = json.dumps(job)
        if "pull_request" in triggers:
            assert "secrets." not in text, name
            assert "environment" not in job, name
        assert "pull_request_target" not in triggers
        if "secrets." in text:
            assert "environment" in job, name


def test_the_comment_runs_no_code_of_the_pull_request() -> None:
    steps = JOBS["pull-request-comment/comment"]["steps"]
    assert [step["with"]["ref"] for step in steps if "uses" in step] == [
        "${{ github.event.repository.default_branch }}"
    ]
    assert [step["run"] for step in steps if "run" in step] == ["scripts/post_preview"]
    assert WORKFLOWS["pull-request-comment"][ON]["workflow_run"]["workflows"] == [
        WORKFLOWS["pull-request"]["name"]
    ]


def test_a_stack_is_never_updated_twice_at_once_and_prod_comes_after_dev() -> None:
    job = JOBS["deploy/up"]
    assert job["strategy"]["max-parallel"] == 1
    assert job["strategy"]["fail-fast"] is True
    assert job["strategy"]["matrix"]["stack"] == ["dev", "prod"]
    assert job["environment"] == "${{ matrix.stack }}"
    assert job["concurrency"] == {"group": "stack-${{ matrix.stack }}", "cancel-in-progress": False}
    assert commands(job) == [
        'scripts/with_kubeconfig make up STACK="$STACK"',
        'scripts/with_kubeconfig make smoke doctor STACK="$STACK"',
    ]


def test_the_reviewer_of_a_deployment_can_read_its_plan_in_the_same_run() -> None:
    assert JOBS["deploy/up"]["needs"] == "plan"
    plan = JOBS["deploy/plan"]
    assert plan["environment"] == "plan-${{ matrix.stack }}"
    assert commands(plan) == ['scripts/with_kubeconfig scripts/plan "$STACK"']


def test_every_stack_is_planned_deployed_previewed_and_watched_for_drift() -> None:
    names = stacks.names(ROOT)
    for job in ("deploy/plan", "deploy/up", "drift/drift", "restore-drill/restore-drill"):
        assert JOBS[job]["strategy"]["matrix"]["stack"] == names
    inputs = WORKFLOWS["preview-live"][ON]["workflow_dispatch"]["inputs"]
    assert inputs["stack"]["options"] == names
    assert WORKFLOWS["drift"][ON]["schedule"]
    assert WORKFLOWS["restore-drill"][ON]["schedule"]
    (command,) = commands(JOBS["restore-drill/restore-drill"])
    assert command == 'scripts/with_kubeconfig make restore-drill STACK="$STACK"'
    assert commands(JOBS["drift/drift"]) == ['scripts/with_kubeconfig make drift STACK="$STACK"']


def test_every_command_exists() -> None:
    text = (
        "\n".join(str(step.get("run", "")) for step in STEPS)
        + (ROOT / "scripts" / "e2e").read_text()
    )
    named = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert named
    assert named <= set(TARGETS)
    scripts = set(re.findall(r"\b(scripts/[\w.]+)", text)) | set(
        re.findall(r"(?<!\S)(\.ci/\w+)", text)
    )
    assert {"scripts/e2e", "scripts/previews", ".ci/run"} <= scripts
    assert [name for name in sorted(scripts) if not os.access(ROOT / name, os.X_OK)] == []


def test_no_step_puts_what_a_stranger_chose_into_a_shell() -> None:
    assert [step["run"] for step in STEPS if "${{" in str(step.get("run", ""))] == []


def test_the_engine_in_the_workflows_belongs_to_the_sdk() -> None:
    versions = {
        step["with"]["pulumi-version"]
        for step in STEPS
        if step.get("uses", "").startswith("pulumi/actions@")
    }
    locked = re.search(r'name = "pulumi"\nversion = "([\d.]+)"', (ROOT / "uv.lock").read_text())
    assert locked
    assert {version.rpartition(".")[0] for version in versions} == {locked[1].rpartition(".")[0]}


def renovate() -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((ROOT / "renovate.json").read_text()))


def managers(path: str) -> list[dict[str, Any]]:
    """The custom managers that look at this file."""
    looking: list[dict[str, Any]] = []
    for manager in renovate()["customManagers"]:
        patterns = [pattern.strip("/") for pattern in manager["managerFilePatterns"]]
        if any(re.search(pattern, path) for pattern in patterns):
            looking.append(manager)
    return looking


def versions_in(path: str, text: str) -> list[dict[str, str | None]]:
    """The versions that Renovate would raise in a file.

    Its regular expressions are JavaScript's; Python writes named groups with a P.
    """
    matches: list[dict[str, str | None]] = []
    for manager in managers(path):
        for pattern in manager["matchStrings"]:
            python = pattern.replace("(?<", "(?P<")
            matches += [match.groupdict() for match in re.finditer(python, text)]
    return matches


def test_renovate_raises_every_pin_that_is_not_held() -> None:
    text = (ROOT / "components/pins.py").read_text()
    matched = versions_in("components/pins.py", text)
    names = re.findall(r"(?m)^((?:# .*\n)*)(\w+(?:_CHART|_IMAGE)): Final = ", text)
    free = {name for comment, name in names if "Held" not in comment}
    assert len(free) >= 8
    values = {getattr(pins, name) for name in free}
    assert {value.rpartition(":")[2] for value in values} == {
        match["currentValue"] for match in matched
    }
    assert len(matched) == len(free)
    for match in matched:
        assert match["datasource"] in ("docker", "helm")
        assert (match["registryUrl"] is not None) == (match["datasource"] == "helm")
    images = {value.rpartition(":")[0] for value in values if ":" in value}
    assert images <= {match["depName"] for match in matched}


def test_renovate_raises_what_a_stack_overrides() -> None:
    text = """
config:
  shlink:images:
    shlink: docker.io/shlinkio/shlink:4.6.1
    redis: "mirror.example.com:5000/library/redis:7.2.12-alpine"
  shlink:charts:
    vault:
      repository: https://helm.releases.hashicorp.com
      version: 0.33.0 # renovate: vault
"""
    matched = versions_in("Pulumi.prod.yaml", text)
    assert {(match["depName"], match["currentValue"]) for match in matched} == {
        ("docker.io/shlinkio/shlink", "4.6.1"),
        ("mirror.example.com:5000/library/redis", "7.2.12-alpine"),
        ("vault", "0.33.0"),
    }


def test_renovate_raises_the_engine_and_uv() -> None:
    path = ".github/workflows/deploy.yml"
    assert len(versions_in(path, (ROOT / path).read_text())) == 2
    assert [
        match["currentValue"] for match in versions_in("Makefile", (ROOT / "Makefile").read_text())
    ] == [re.findall(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())[0]]


def test_renovate_raises_the_image_of_the_example() -> None:
    path = "examples/consumer/__main__.py"
    assert [match["depName"] for match in versions_in(path, (ROOT / path).read_text())] == [
        "docker.io/curlimages/curl"
    ]
