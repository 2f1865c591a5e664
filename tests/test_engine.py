"""An engine that was not tried is said once, and nothing stops."""

from unittest import mock

import pytest

from components import pins
from components.program import engine
from tests import configurations


@pytest.mark.parametrize("error", [None, RuntimeError("3.300.0 is not in range"), AttributeError()])
def test_only_an_untried_engine_is_warned_of(error: Exception | None) -> None:
    with (
        mock.patch("pulumi.require_pulumi_version", side_effect=error) as asked,
        mock.patch("pulumi.log.warn") as warn,
    ):
        engine.warn_if_untried()
    asked.assert_called_once_with(pins.TRIED_ENGINES)
    assert warn.call_count == (error is not None)
    if error is not None:
        assert str(error) in warn.call_args.args[0]
        assert pins.TRIED_ENGINES in warn.call_args.args[0]


def test_an_offline_preview_has_no_engine_to_warn_of() -> None:

    messages = configurations.recording("stack dev").messages
    assert not [message for message in messages if "engines" in message]
