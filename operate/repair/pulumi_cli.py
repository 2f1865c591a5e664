"""Running the `pulumi` command, and getting past the lock that a killed run left behind."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pulumi

from operate.asking import agreed, answered_by_script

_LOCK = re.compile(
    r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<time>\S+)|"
    r"(?P<service>Another update is currently in progress)"
)
"""How the engine names a lock: files of a self-managed back end, or an update of Pulumi Cloud
(pkg/backend/diy/lock.go and pkg/backend/httpstate, 3.259)."""

_UNKNOWN_STACK = "no stack named"
_CHANGES = "no changes were expected"
"""The engine's words (pkg/cmd/pulumi, 3.259 and 3.276)."""

_REMEDIES = {
    r"PULUMI_ACCESS_TOKEN must be set|Unauthorized|invalid access token": (
        "the back end does not accept this login: it has expired, or there is none; pulumi login"
    ),
    r"passphrase must be set": "the stack's passphrase is missing; set PULUMI_CONFIG_PASSPHRASE",
}
"""What to do, by a pattern of the engine's words (3.259 and 3.276)."""

_STATE_VERSION = 3
"""Form of an exported state (apitype.DeploymentSchemaVersionCurrent, 3.259)."""


class PulumiError(pulumi.RunError):
    """The pulumi command failed, or can't be run; the message says what to do."""


class DriftError(PulumiError):
    """What runs differs from the program."""


@dataclass(frozen=True)
class Lock:
    """A lock on a stack."""

    description: str
    """Who holds it and since when, for a person."""
    abandoned: bool
    """Whether its holder is a process of this machine that no longer exists."""


def locks(output: str, *, host: str | None = None) -> list[Lock]:
    """The locks that the engine's error message names."""
    host = socket.gethostname() if host is None else host
    named: list[Lock] = []
    for match in _LOCK.finditer(output):
        if match["service"]:
            named.append(Lock("an update of this stack in the back end", abandoned=False))
            continue
        abandoned = match["host"] == host and not _runs(int(match["pid"]))
        description = (
            f"{match['user']}@{match['host']}, process {match['pid']}, since {match['time']}"
        )
        named.append(Lock(description, abandoned=abandoned))
    return named


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class Pulumi:
    """The pulumi command for one stack."""

    stack: str
    confirm: Callable[[str], bool] = agreed
    """Asks a person, or takes a script's word."""

    def check(self) -> None:
        """Raises PulumiError: no command, no back end, or no such stack; each with its remedy.

        Nothing selects the stack: the one that a person has selected stays.
        """
        done = self._call(["stack", "--non-interactive"])
        if not done.returncode:
            return
        answer = _errors(done.stderr)
        if _UNKNOWN_STACK in answer:
            raise PulumiError(
                f"the back end has no stack {self.stack}. Is it the right back end (pulumi whoami "
                f"-v)? A new environment begins with: pulumi stack init --no-select {self.stack}"
            )
        for pattern, remedy in _REMEDIES.items():
            if re.search(pattern, answer):
                raise PulumiError(f"{remedy}. The back end's own words: {answer}")
        raise PulumiError(
            f"the back end can't be used: {answer}. Is its address right (PULUMI_BACKEND_URL, or "
            "what `pulumi login` was given)? docs/state.md"
        )

    def export(self) -> dict[str, Any]:
        """The stack's state, its secrets encrypted. Raises PulumiError."""
        return json.loads(self._output(["stack", "export"]))["deployment"]

    def configuration(self) -> tuple[dict[str, str], frozenset[str]]:
        """The stack's configuration as the program gets it, decrypted, and its secret keys.

        Raises PulumiError, for example without the passphrase.
        """
        entries = json.loads(self._output(["config", "--json", "--show-secrets"]))
        values = {key: entry["value"] for key, entry in entries.items()}
        return values, frozenset(key for key, entry in entries.items() if entry["secret"])

    def run(
        self, command: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Run a command that takes the stack's lock, with its own display.

        A lock whose holder is known to be dead is removed. Any other is removed only after a
        person confirmed it. Raises PulumiError.
        """
        self._past_locks([command, *arguments], environment)

    def import_state(self, deployment: Mapping[str, Any]) -> None:
        """Replace the state by this one, of the form that `export` returns. Raises PulumiError."""
        document = {"version": _STATE_VERSION, "deployment": deployment}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(document, file)
            file.flush()
            self._past_locks(["stack", "import", "--file", file.name])

    def unprotect(self, urns: Iterable[str]) -> None:
        """Let these resources be deleted. Raises PulumiError."""
        for urn in urns:
            self._past_locks(["state", "unprotect", urn, "--yes"])

    def _past_locks(
        self, words: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        code, errors = self._stream(words, environment)
        held = locks(errors) if code else []
        if held:
            self.cancel(held)
            code, errors = self._stream(words, environment)
        if code and _CHANGES in errors:
            raise DriftError("what runs differs from the program, see above")
        if code:
            raise PulumiError(f"pulumi {words[0]} failed, see above")

    def cancel(self, held: Sequence[Lock]) -> None:
        """Remove locks. Raises PulumiError when a holder may be alive and nobody confirms."""
        doubtful = [lock for lock in held if not lock.abandoned]
        for lock in doubtful:
            question = f"The stack is locked by {lock.description}. Is that run dead for sure?"
            # No script can know.
            if answered_by_script() or not self.confirm(question):
                raise PulumiError(
                    f"the stack is locked by {lock.description}. If that run is dead: "
                    f"pulumi cancel --stack {self.stack}, then the same command again"
                )
        for lock in held:
            sys.stderr.write(f"removing the lock of {lock.description}\n")
        self._output(["cancel", "--yes"], stack_as_argument=True)

    def _stream(
        self, words: Sequence[str], environment: Mapping[str, str] | None
    ) -> tuple[int, str]:
        """Run with the terminal; what it prints as errors is shown and returned too."""
        lines: list[str] = []
        with subprocess.Popen(  # noqa: S603 -- the pulumi command with our words
            [executable(), *words, "--stack", self.stack],
            env={**os.environ, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None  # noqa: S101 -- for the type checker
            copier = threading.Thread(target=_copy, args=(process.stderr, lines))
            copier.start()
            try:
                code = process.wait()
            except KeyboardInterrupt:
                # The engine got it too, and stops in an orderly way.
                code = process.wait()
            copier.join()
        return code, "".join(lines)

    def _output(self, words: Sequence[str], *, stack_as_argument: bool = False) -> str:
        done = self._call(words, stack_as_argument=stack_as_argument)
        if done.returncode:
            raise PulumiError(f"pulumi {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def _call(
        self, words: Sequence[str], *, stack_as_argument: bool = False
    ) -> subprocess.CompletedProcess[str]:
        stack = [self.stack] if stack_as_argument else ["--stack", self.stack]
        return subprocess.run(  # noqa: S603 -- the pulumi command with our words
            [executable(), *words, *stack], capture_output=True, text=True, check=False
        )


def _errors(output: str) -> str:
    """What follows `error: `; the engine also tells how it logs in."""
    parts = output.partition("error: ")
    return " ".join((parts[2] or parts[0]).split()).rstrip(".")


def _copy(source: IO[str], lines: list[str]) -> None:
    for line in source:
        sys.stderr.write(line)
        sys.stderr.flush()
        lines.append(line)


def say(text: str) -> None:
    """Tell a person what happens, beside the engine's own display."""
    sys.stderr.write(f"=> {text}\n")


def per_resource(option: str, urns: Iterable[str]) -> list[str]:
    """The option once per resource, as the engine takes it."""
    words: list[str] = []
    for urn in urns:
        words += [option, urn]
    return words


def executable() -> str:
    """The path of the pulumi command. Raises PulumiError when it is not installed."""
    path = shutil.which("pulumi")
    if path is None:
        raise PulumiError(
            "the pulumi command is not installed; https://www.pulumi.com/docs/install/ says how "
            "(make preview works without it)"
        )
    return path
