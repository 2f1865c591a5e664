"""What an upgrade of Shlink needs, since pods of two versions run side by side for a while.

docs/upgrades.md has what was seen without it.
"""

import re
from collections.abc import Mapping

from ..settings.images import ImageReference
from ..settings.shlink import known_version

_VARIABLE = "CACHE_NAMESPACE"
_SHARED_BY_DEFAULT = (5, 0)
"""Environments of before have no namespace of their own; one is enough to keep two apart."""
_HASHES_SINCE = (5, 1)
"""Shlink finds an existing URL by `short_urls.long_url_hash` since 5.1.0."""


def cache_variables(image: str, environment: Mapping[str, str]) -> dict[str, str]:
    """A namespace for this version's cache in Redis; none for the versions before 5.0.

    Doctrine's description of the tables lies in that cache for ever, and each version reads the
    other's. Shlink 5.1 then stored every new URL with an empty hash, and answered with 200.
    """
    version = known_version(image)
    if version and version < _SHARED_BY_DEFAULT:
        return {}
    reference = ImageReference.parse(image)
    name = reference.tag or (reference.digest or "").rpartition(":")[2][:12]
    prefix = environment.get(_VARIABLE, "Shlink")
    return {_VARIABLE: f"{prefix}-{re.sub('[^A-Za-z0-9.]', '-', name)}"}


def fills_hashes(image: str) -> bool:
    """Whether URLs that older pods make meanwhile lack a hash that this version needs."""
    version = known_version(image)
    return version is None or version >= _HASHES_SINCE
