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
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if (
            path.name not in SKIPPED
            and path.is_file()
            and not path.is_symlink()
            and path.stat().st_size <= LARGEST
        ):
            name = "".join(map(_harmless, str(path.relative_to(folder))))
            texts[name] = path.read_text(errors="replace")
    return texts


def _harmless(letter: str) -> str:
    """A letter of a file's name as a comment may show it."""
    return letter if letter.isprintable() and letter not in "`<>|" else "?"


def fenced(text: str) -> str:
    """A code block that nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}diff\n{text}\n{fence}"


def diff(name: str, before: str | None, after: str | None) -> str:
    source = "/dev/null" if before is None else f"base/{name}"
    target = "/dev/null" if after is None else f"head/{name}"
    lines = difflib.unified_diff(
        (before or "").splitlines(), (after or "").splitlines(), source, target, lineterm=""
    )
    return "\n".join(lines)


def stacks(base: dict[str, str], head: dict[str, str]) -> list[str]:
    return sorted({name.partition("/")[0] for name in (*base, *head) if "/" in name})


def _sign(name: str, base: dict[str, str], head: dict[str, str]) -> str:
    if name not in base:
        return "+"
    return "~" if name in head else "-"


def _counts(sign: dict[str, str]) -> str:
    """How many manifests are new, changed and gone."""
    signs = [sign[name] for name in sign if name.endswith(".yaml")]
    new, changed, gone = (signs.count(mark) for mark in "+~-")
    return f"{new} new, {changed} changed, {gone} gone"


def parts(base: dict[str, str], head: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of a piece and its replacement when there is no room for it; the trees come first."""
    changed = {name for name in (*base, *head) if base.get(name) != head.get(name)}
    for stack in stacks(base, head):
        names = sorted(name for name in changed if name.startswith(f"{stack}/"))
        sign = {name: _sign(name, base, head) for name in names}
        summary = f"{_counts(sign)} manifests" if names else "no difference"
        yield f"### `{stack}`: {summary}", ""
        tree = f"{stack}/{TREE}"
        if tree in changed:
            yield (
                fenced(diff(tree, base.get(tree), head.get(tree))),
                "The tree's difference is too long to show here.",
            )
        for name in names:
            if name != tree:
                shown = fenced(diff(name, base.get(name), head.get(name)))
                title = f"<summary>{sign[name]} <code>{name}</code></summary>"
                yield f"<details>{title}\n\n{shown}\n\n</details>", f"{sign[name]} `{name}`"


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
