#!/usr/bin/env python3
"""Prints the difference between two folders of offline previews as one Markdown comment.

    preview_diff.py BASE HEAD

Each folder holds what `make preview` wrote, one folder a stack. Whatever is in them came from a
pull request and is only data here: it is shown inside code blocks that it can't close, links are
not followed, and the length is bounded. Needs nothing but Python.
"""

import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MARK = "<!-- preview-diff -->"
"""By its first line the comment is found again and edited in place."""
LIMIT = 60_000
"""Characters; GitHub takes 65,536."""
LARGEST = 1_000_000
"""Bytes of one file that is still compared line by line."""
TREE = "tree.txt"
SKIPPED = {"graph.svg"}  # a drawing of graph.md, in previews of versions before 0.2.0


def read(folder: Path) -> dict[str, str]:
    """Every regular file by its path within the folder."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if (
            path.name not in SKIPPED
            and path.is_file()
            and not path.is_symlink()
            and path.stat().st_size <= LARGEST
        ):
            name = "".join(
                letter if letter.isprintable() and letter not in "`<>|" else "?"
                for letter in str(path.relative_to(folder))
            )
            found[name] = path.read_text(errors="replace")
    return found


def fenced(text: str) -> str:
    """A code block that nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}diff\n{text}\n{fence}"


def diff(name: str, before: str | None, after: str | None) -> str:
    lines = difflib.unified_diff(
        (before or "").splitlines(),
        (after or "").splitlines(),
        f"base/{name}" if before is not None else "/dev/null",
        f"head/{name}" if after is not None else "/dev/null",
        lineterm="",
    )
    return "\n".join(lines)


def stacks(base: dict[str, str], head: dict[str, str]) -> list[str]:
    return sorted({name.partition("/")[0] for name in (*base, *head) if "/" in name})


def parts(base: dict[str, str], head: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of a piece and its replacement when there is no room for it; the trees come first."""
    changed = {name for name in (*base, *head) if base.get(name) != head.get(name)}
    for stack in stacks(base, head):
        names = sorted(name for name in changed if name.startswith(f"{stack}/"))
        sign = {
            name: "+" if name not in base else "-" if name not in head else "~" for name in names
        }
        objects = [name for name in names if name.endswith(".yaml")]
        kinds = (("+", "new"), ("~", "changed"), ("-", "gone"))
        count = ", ".join(
            f"{sum(sign[name] == key for name in objects)} {word}" for key, word in kinds
        )
        yield f"### `{stack}`: {f'{count} manifests' if names else 'no difference'}", ""
        tree = f"{stack}/{TREE}"
        if tree in changed:
            yield (
                fenced(diff(tree, base.get(tree), head.get(tree))),
                "The tree's difference is too long to show here.",
            )
        for name in names:
            if name != tree:
                shown = fenced(diff(name, base.get(name), head.get(name)))
                summary = f"<summary>{sign[name]} <code>{name}</code></summary>"
                yield f"<details>{summary}\n\n{shown}\n\n</details>", f"{sign[name]} `{name}`"


def comment(base: Path, head: Path) -> str:
    """The whole comment, at most LIMIT characters long."""
    before, after = read(base), read(head)
    pieces = [
        MARK,
        "## What this change makes of each stack (offline preview against the base branch)",
    ]
    if not before:
        pieces.append("The base branch has no preview to compare with: everything is new.")
    room = LIMIT - sum(map(len, pieces)) - 500
    left_out = 0
    for whole, short in parts(before, after):
        piece = whole if len(whole) + 2 <= room else short
        if len(piece) + 2 > room:
            left_out += 1
            continue
        left_out += 0 if piece is whole else 1
        if piece:
            pieces.append(piece)
            room -= len(piece) + 2
    if left_out:
        pieces.append(
            f"{left_out} parts are not shown in full: the workflow run's artifact `previews` has"
            " all of them."
        )
    return "\n\n".join(pieces) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 3:  # noqa: PLR2004 -- the two folders
        sys.exit(__doc__)
    for folder in sys.argv[1:]:
        if not Path(folder).is_dir():
            sys.exit(
                f"error: {folder} is no folder; both must have been written by scripts/previews"
            )
    sys.stdout.write(comment(Path(sys.argv[1]), Path(sys.argv[2])))
