"""`make outdated`, against a fake of GitHub and endoflife.date."""

from typing import Any

import httpx
import pytest

from offline import outdated


def _answers(url: str) -> Any:
    """Everything is as pinned, Redis' and PostgreSQL's lines are supported."""
    newest = {f"/repos/{pin.repository}": pin.pinned for pin in outdated.PINS}
    path = httpx.URL(url).path
    if path.endswith("/releases/latest"):
        return {"tag_name": newest[path.removesuffix("/releases/latest")].rpartition(":")[2]}
    if path in newest:
        return {"archived": False}
    lines = ["7.2", "15", "16", "17", "18"]
    latest = {"name": "9.9"}
    line = {"isEol": False, "eolFrom": "2029-12-31", "latest": latest}
    return {"result": {"releases": [{"name": name, **line} for name in lines]}}


def _client(changed: dict[str, Any]) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        for end, document in changed.items():
            if url.endswith(end):
                return httpx.Response(404 if document is None else 200, json=document)
        return httpx.Response(200, json=_answers(url))

    return httpx.Client(transport=httpx.MockTransport(answer))


def test_pins_of_today_are_supported(capsys: pytest.CaptureFixture[str]) -> None:
    assert outdated.main(_client({})) == 0
    shown = capsys.readouterr().out
    assert "until 2029-12-31" in shown
    assert "ENDED" not in shown


_OLD = {"name": "7.2", "isEol": True, "eolFrom": "2026-11-30", "latest": {"name": "7.2.99"}}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"/hashicorp/vault/releases/latest": {"tag_name": "v2.1.1"}}, "Vault 1.21"),
        ({"/spotahome/redis-operator": {"archived": True}}, "redis-operator 1.2.4"),
        ({"/products/redis/": {"result": {"releases": [_OLD]}}}, "Redis 7.2"),
    ],
    ids=["another minor", "archived", "the end of a line"],
)
def test_a_pin_that_lost_its_support_is_named(
    changed: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outdated.main(_client(changed)) == 1
    (ended,) = (line for line in capsys.readouterr().out.splitlines() if "ENDED" in line)
    assert ended.strip().startswith(name)


def test_a_newer_release_alone_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    newer = {
        "/shlinkio/shlink/releases/latest": {"tag_name": "v6.0.0"},
        "/freshworks-oss/redis-operator/releases/latest": None,
    }
    assert outdated.main(_client(newer)) == 0
    assert "6.0.0" in capsys.readouterr().out


def test_offline_it_says_so_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route to host", request=request)

    assert outdated.main(httpx.Client(transport=httpx.MockTransport(refuse))) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "no route to host" in output.err
