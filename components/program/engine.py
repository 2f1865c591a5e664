"""Which Pulumi engine runs this program, against those that it was tried on."""

import pulumi

from .. import pins


def warn_if_untried() -> None:
    """Warn, once and at the start, of an engine outside the tried range. The update goes on."""
    try:
        pulumi.require_pulumi_version(pins.TRIED_ENGINES)
    except Exception as error:  # noqa: BLE001 -- the SDK raises no type of its own
        pulumi.log.warn(
            f"this program was tried on engines {pins.TRIED_ENGINES}; preview before you "
            f"update: {error}"
        )
