"""What our containers run, each file in its own language."""

from pathlib import Path


def read(name: str) -> str:
    """A script's text. PHP comes without its opening tag, as `php -r` wants it."""
    return (Path(__file__).parent / name).read_text().removeprefix("<?php\n")
