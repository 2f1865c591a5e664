"""What `pgbackrest info --output=json` tells, and whether a restore could work with it.

Only pgBackRest knows whether a backup is whole: a backup Job that was cut off counts as complete in
Kubernetes while `info` says `no valid backups`, and a restore then leaves the database down.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from ..settings.postgres import InPlaceRestore, StoreRestore


class BackupInfoError(ValueError):
    """The text is not what pgBackRest prints; the message holds its beginning."""


@dataclass(frozen=True)
class Backup:
    """One backup that pgBackRest finished."""

    label: str
    """Such as 20261124-093000F; a differential one has a second part."""
    kind: str
    """`full`, `diff` or `incr`."""
    stop: datetime
    """When it was complete: the earliest moment that a restore from it can reach."""
    size: int
    """Of the database, in bytes."""
    timeline: int = 1
    """Of PostgreSQL; each restore and each failover begins a new one."""
    position: int = 0
    """Where in the WAL of its timeline it begins."""


@dataclass(frozen=True)
class RepositoryContent:
    """What one repository holds of the present database.

    Backups of an older major version of PostgreSQL, or of a database that was there before, do not
    count: no restore can use them.
    """

    problem: str | None
    """Why pgBackRest can't use it, in its own words; None when it can."""
    backups: Sequence[Backup] = ()
    """The valid ones, the oldest first."""
    archive: str = ""
    """The folder of its WAL: 16-1."""
    timeline: int = 1
    """The newest that has archived WAL."""

    @property
    def has_full(self) -> bool:
        """Whether it holds a full backup, so that it can do without the other repositories."""
        return any(backup.kind == "full" for backup in self.backups)

    @property
    def latest(self) -> Backup | None:
        """The backup that was finished last."""
        return self.backups[-1] if self.backups else None


def contents(text: str) -> Mapping[str, RepositoryContent]:
    """What each repository holds, by its name (repo1). Raises BackupInfoError."""
    stanzas = _parsed(text)
    known: dict[str, RepositoryContent] = {}
    for stanza in stanzas:
        for repository in stanza.get("repo", []):
            key = int(repository["key"])
            known[f"repo{key}"] = _content(stanza, key, repository["status"])
    return known


def _parsed(text: str) -> list[Mapping[str, Any]]:
    # A pod's log has pgBackRest's errors before and after the document.
    for begin in re.finditer(r"^\[(?=[{\]])", text, re.MULTILINE):
        try:
            document, _ = json.JSONDecoder().raw_decode(text, begin.start())
        except ValueError:
            continue
        return cast("list[Mapping[str, Any]]", document)
    beginning = " ".join(text.split())[:300] or "nothing"
    raise BackupInfoError(f"pgBackRest told: {beginning}")


def _content(stanza: Mapping[str, Any], key: int, status: Mapping[str, Any]) -> RepositoryContent:
    databases = [item["id"] for item in stanza.get("db", []) if item["repo-key"] == key]
    current = max(databases, default=None)
    backups: list[Backup] = []
    for item in stanza.get("backup", []):
        database = item["database"]
        # `error`: pages whose checksum was wrong when they were copied.
        if database["repo-key"] != key or database["id"] != current or item.get("error"):
            continue
        backups.append(
            Backup(
                label=item["label"],
                kind=item["type"],
                stop=datetime.fromtimestamp(item["timestamp"]["stop"], tz=UTC),
                size=int(item.get("info", {}).get("size", 0)),
                timeline=_timeline(item["archive"]["start"]),
                position=_position(item["lsn"]["start"]),
            )
        )
    backups.sort(key=lambda backup: backup.stop)
    # What follows in its second line is a request or a file, which would bury the cause.
    problem = str(status["message"]).partition("\n")[0].rstrip(":") if status["code"] else None
    if problem is None and not backups:
        problem = "no valid backups of this database"
    archives = {
        str(item["id"]): _timeline(item["max"])
        for item in stanza.get("archive", [])
        if item["database"] == {"id": current, "repo-key": key} and item.get("max")
    }
    archive = max(archives, default="")
    return RepositoryContent(problem, backups, archive, archives.get(archive, 1))


def _timeline(segment: str) -> int:
    """Of a WAL file's name, whose first eight hexadecimal digits it is."""
    return int(segment[:8], 16)


def _position(text: str) -> int:
    """A position in the WAL as a number: 0/6000050."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def impossible(
    restore: InPlaceRestore | StoreRestore, content: RepositoryContent | None, now: datetime
) -> str | None:
    """Why a restore from this repository can't work, and what could; None when it can."""
    if content is None:
        return "pgBackRest does not know this repository"
    if content.problem is not None:
        return f"pgBackRest says: {content.problem}"
    backups = _allowed(restore, content)
    if not backups:
        labels = ", ".join(backup.label for backup in content.backups)
        return f"it holds no valid backup {restore.set}, only: {labels}"
    return _without_moment(restore.time, backups, now) if restore.time is not None else None


def _allowed(
    restore: InPlaceRestore | StoreRestore, content: RepositoryContent
) -> Sequence[Backup]:
    """The backups that a restore may start from: the one that it names, or all."""
    return [backup for backup in content.backups if restore.set in (None, backup.label)]


def _without_moment(time: str, backups: Sequence[Backup], now: datetime) -> str | None:
    moment = datetime.fromisoformat(time)
    if moment > now:
        return f"{time} is still to come; it is {_shown(now)}"
    earliest = backups[0].stop
    if moment < earliest:
        return f"its oldest backup was complete at {_shown(earliest)}, after {time}"
    return None


def beginning(restore: InPlaceRestore, content: RepositoryContent) -> Backup | None:
    """The backup that pgBackRest starts from where the restore then follows the newest timeline.

    None where it follows none: a `set` alone ends where that backup ends.
    """
    if restore.set is not None and restore.time is None:
        return None
    backups = _allowed(restore, content)
    if restore.time is not None:
        moment = datetime.fromisoformat(restore.time)
        backups = [backup for backup in backups if backup.stop < moment]
    return backups[-1] if backups else None


def left_behind(
    backup: Backup, restore: InPlaceRestore, content: RepositoryContent, history: str
) -> str | None:
    """Why no way leads from a backup to the newest timeline, and what does; None where one leads.

    `history`: PostgreSQL's history file of the newest timeline. A restore to an earlier moment
    leaves the backups behind that were made since that moment: pgBackRest then ends with
    `target timeline 2 forked from backup timeline 1`.
    """
    forks = _forks(history)
    if _leads(backup, forks):
        return None
    older = [item for item in content.backups if item.stop < backup.stop]
    usable = [item.label for item in older if _leads(item, forks)]
    ways = ["make a backup of what runs now (docs/operations.md#a-backup-by-hand)"]
    if usable and restore.time is not None:
        ways.append(f"name an older backup by `set`, beside `time`: {', '.join(usable)}")
    return (
        f"it would start from backup {backup.label}, and an earlier restore went back to a moment "
        f"before that backup. What works: {', or '.join(ways)}"
    )


def _leads(backup: Backup, forks: Mapping[int, int]) -> bool:
    return backup.position < forks.get(backup.timeline, 0)


def _forks(history: str) -> dict[int, int]:
    """Where each earlier timeline was left: lines of a timeline, a position and a reason."""
    lines = [line.split() for line in history.splitlines()]
    rows = [line for line in lines if len(line) > 1 and line[0].isdigit()]
    return {int(row[0]): _position(row[1]) for row in rows}


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")


def summary(content: RepositoryContent) -> str:
    """The repository in one line, for a person who chooses."""
    if content.problem is not None:
        return content.problem
    first, last = content.backups[0], content.backups[-1]
    return (
        f"{len(content.backups)} backups, the oldest {first.label}, the latest {last.label} "
        f"(complete at {_shown(last.stop)})"
    )
