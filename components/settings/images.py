"""A container image's reference, taken apart once.

A registry host may have a port and a digest has a colon too, so a tag is never whatever follows the
last colon. The grammar is that of https://github.com/distribution/reference (reference.go).
"""

import re
from dataclasses import dataclass, replace
from typing import Self

_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9-]+)*(?::\d+)?"

_REFERENCE = re.compile(
    rf"(?P<repository>(?:{_HOST}/)?{_NAME}(?:/{_NAME})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)

_VERSION = re.compile(r"[0-9]+\.[0-9]+[.-][0-9]+")


@dataclass(frozen=True)
class ImageReference:
    """An image: `repository[:tag][@digest]`."""

    repository: str
    """Registry host and path: `docker.io/shlinkio/shlink`."""
    tag: str | None = None
    """A version; it only informs where there is a digest too."""
    digest: str | None = None
    """`sha256:` and 64 hexadecimal digits; it decides what is pulled."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference as a stack's file has it. Raises ValueError with what is wrong."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(
                "has the wrong format; allowed: registry/path:tag, registry/path@sha256:digest, "
                "or both, as in docker.io/shlinkio/shlink:4.6.0"
            )
        return cls(**match.groupdict())

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def pinned(self) -> bool:
        """Whether a later pull brings the same image: a digest, or a tag that holds a version.

        Whole versions are `4.6.0`, `7.2.11-alpine` and Crunchy's `ubi9-16.11-2547`. None are
        `stable`, `4.6` and `ubi9`.
        """
        return self.digest is not None or _VERSION.search(self.tag or "") is not None

    @property
    def is_openbao(self) -> bool:
        """Whether its name says that it is OpenBao, in Vault's place."""
        return "openbao" in self.repository.rpartition("/")[2]

    def at(self, registry: str) -> Self:
        """The same image in a mirror: `registry` takes the place of the registry host."""
        host, slash, path = self.repository.partition("/")
        if not slash or not re.search(r"[.:]|^localhost$", host):
            path = self.repository
        return replace(self, repository=f"{registry}/{path}")

    def helm_values(self) -> dict[str, str]:
        """`repository` and `tag` for a chart that writes `repository:tag` and knows no digest.

        With a digest the split is at the digest's own colon: what the chart puts together is the
        whole reference again.
        """
        if self.digest is None:
            return {"repository": self.repository, "tag": self.tag or ""}
        name, _, digits = str(self).rpartition(":")
        return {"repository": name, "tag": digits}
