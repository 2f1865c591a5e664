"""Kubeconfigs, logins and proxies: what they mean, what they leave behind, what a message says."""

import asyncio
import base64
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import yaml

from components.cluster.access import ClusterAccess, ClusterError, LoginError, UnreachableError
from components.cluster.login import Login
from components.cluster.proxies import proxy_for
from tests.certificates import made


def config(cluster: dict[str, Any], user: dict[str, Any], context: str = "dev") -> str:
    return yaml.safe_dump(
        {
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
        }
    )


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def login(access: ClusterAccess) -> Login:
    """A login, without an API server."""
    result = Login(*vars(ClusterAccess)["_entries"](access))
    asyncio.run(result.reauthenticate())
    return result


# Kubeconfigs


def test_a_path_with_files_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(f"# Autorité\n{made().read('authority')}")
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "config").write_text(
        config({"server": "https://c", "certificate-authority": "ca.crt"}, {"tokenFile": "token"})
    )
    result = login(ClusterAccess("dev", str(tmp_path / "config")))
    assert result.token == "one"
    (authority,) = result.tls.get_ca_certs()
    assert authority["subject"] == ((("commonName", "authority"),),)


def test_the_environment_names_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, context in (("first", "other"), ("second", "dev")):
        (tmp_path / name).write_text(
            config({"server": f"https://{name}"}, {"token": name}, context)
        )
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/first:{tmp_path}/missing:{tmp_path}/second")
    result = login(ClusterAccess("dev"))
    # As with kubectl, the first file that has a name wins.
    assert (result.server, result.token) == ("https://first", "first")


SERVER = {"server": "https://c"}


@pytest.mark.parametrize(
    ("kubeconfig", "message"),
    [
        ("/nowhere/config", "there is no kubeconfig at /nowhere/config"),
        ("users:\n- token: [s3cret", "the kubeconfig is not valid YAML"),
        (config(SERVER, {}, "prod"), "the kubeconfig has no context 'dev', only: prod"),
        (config({}, {}), "the kubeconfig's context 'dev' leads to no cluster"),
        (
            config(SERVER, {"client-certificate": "/nowhere/crt"}),
            "the kubeconfig's client-certificate is not there: /nowhere/crt",
        ),
        (
            config(SERVER, {"client-key-data": "s3cret!"}),
            "the kubeconfig's client-key-data is not Base64",
        ),
        (
            config(
                SERVER,
                {"client-certificate-data": encoded("s3cret"), "client-key-data": encoded("x")},
            ),
            "the kubeconfig's certificates can't be used: not PEM",
        ),
        ("{}", "the kubeconfig has no context 'dev', only: none"),
    ],
    ids=["missing", "broken", "context", "cluster", "file", "base64", "pem", "empty"],
)
def test_a_kubeconfig_that_is_no_use(kubeconfig: str, message: str) -> None:
    with pytest.raises(ClusterError, match=f"^{re.escape(message)}$"):
        login(ClusterAccess("dev", kubeconfig))


# What a login leaves behind


PROGRAM = """
import asyncio, json, os, subprocess, sys
from components.cluster.access import ClusterAccess
from components.cluster.login import Login
access = ClusterAccess("dev", os.environ["CONFIG"])
written = []
def hook(event, arguments):
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        if isinstance(arguments[0], str) and arguments[0] != os.devnull:
            written.append(arguments[0])
sys.addaudithook(hook)
login = Login(*ClusterAccess._entries(access))
asyncio.run(login.reauthenticate())
print(json.dumps([written, os.listdir(os.environ["TMPDIR"]), login.tls.cert_store_stats()]))
"""


def key_pair() -> tuple[str, str]:
    return made().read("good"), (made().folder / "good.key").read_text()


def written_by(user: dict[str, Any], folder: Path) -> list[Any]:
    """Files that a login opened for writing, and what is in the temporary folder after it."""
    cluster = {**SERVER, "certificate-authority-data": encoded(made().read("authority"))}
    environment = {**os.environ, "TMPDIR": str(folder), "CONFIG": config(cluster, user)}
    done = subprocess.run(  # noqa: S603 -- this interpreter, our words
        [sys.executable, "-B", "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_a_private_key_is_in_no_file_at_any_moment(tmp_path: Path) -> None:
    """So nothing that ends the process can leave one behind."""
    certificate, key = key_pair()
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    assert written_by(user, tmp_path) == [[], [], {"x509": 1, "crl": 0, "x509_ca": 1}]


def plugin(status: Mapping[str, str], code: int = 0) -> dict[str, Any]:
    credential = json.dumps({"status": dict(status)})
    script = f"import sys; print({credential!r}); sys.exit({code})"
    return {"exec": {"command": sys.executable, "args": ["-c", script], "env": None}}


def test_the_key_of_a_credential_plugin_is_in_no_file_either(tmp_path: Path) -> None:
    certificate, key = key_pair()
    user = plugin({"clientCertificateData": certificate, "clientKeyData": key})
    assert written_by(user, tmp_path)[:2] == [[], []]


def test_the_server_is_shown_the_certificate() -> None:
    """By a handshake in memory."""
    certificate, key = key_pair()
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    cluster = {**SERVER, "certificate-authority-data": encoded(made().read("authority"))}
    near = login(ClusterAccess("dev", config(cluster, user))).tls
    far = made().server("good")
    far.verify_mode = ssl.CERT_REQUIRED
    far.load_verify_locations(cadata=made().read("authority"))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = near.wrap_bio(down, up, server_hostname="vault.vault.svc")
    server = far.wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = server.getpeercert()
    assert shown is not None
    assert shown["subject"] == ((("commonName", "good"),),)


# Credential plugins


def test_a_token_of_a_plugin() -> None:
    assert login(ClusterAccess("dev", config(SERVER, plugin({"token": "t"})))).token == "t"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (
            {"exec": {"command": "no-such-plugin"}},
            "no-such-plugin, which can't be run here (No such file or directory). Install it",
        ),
        (plugin({"token": "s3cret"}, 3), "failed (3). Log in again"),
        ({"exec": {"command": "echo", "args": ["s3cret"]}}, "printed no credentials. Log in again"),
    ],
    ids=["missing", "failing", "garbled"],
)
def test_a_plugin_that_fails_is_told_without_what_it_printed(
    user: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoginError) as error:
        login(ClusterAccess("dev", config(SERVER, user)))
    assert str(error.value).endswith(message)
    assert "s3cret" not in str(error.value)


# Proxies


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "excluded", "expected"),
    [
        ("https://10.1.2.3:6443", "", PROXY),
        ("https://api.example.com", "", PROXY),
        # This machine, always.
        ("https://localhost:6443", "", None),
        ("https://127.0.0.1:6443", "", None),
        ("https://127.9.9.9", "", None),
        ("https://[::1]:6443", "", None),
        ("https://[::ffff:127.0.0.1]", "", None),
        ("https://localhost.example.com", "", PROXY),
        # Everything.
        ("https://10.1.2.3", "10.9.0.0/16, *", None),
        # Networks and addresses.
        ("https://10.1.2.3:6443", "10.0.0.0/8", None),
        ("https://10.1.2.3:6443", "192.168.0.0/16,10.1.2.3", None),
        ("https://11.1.2.3:6443", "10.0.0.0/8", PROXY),
        ("https://10.1.2.3:6443", "10.1.2.3:6443", None),
        ("https://10.1.2.3:6443", "10.1.2.3:443", PROXY),
        ("https://10.1.2.3", "10.1.2.3:443", None),
        ("https://[fd00::5]:6443", "fd00::/8", None),
        ("https://[fd00::5]:6443", "[fd00::5]:6443", None),
        ("https://[fd00::5]:6443", "[fd00::5]:443", PROXY),
        ("https://[fd00::5]:6443", "fd00::5", None),
        ("https://api.example.com", "10.0.0.0/8", PROXY),
        # Domains.
        ("https://example.com", "example.com", None),
        ("https://api.example.com", "example.com", None),
        ("https://api.example.com", "EXAMPLE.com", None),
        ("https://notexample.com", "example.com", PROXY),
        ("https://api.example.com", ".example.com", None),
        ("https://example.com", ".example.com", PROXY),
        ("https://api.example.com", "*.example.com", None),
        ("https://example.com", "*.example.com", PROXY),
        ("https://api.example.com:6443", "example.com:6443", None),
        ("https://api.example.com:6443", "example.com:443", PROXY),
        ("https://api.example.com", " , :443, example.com ", None),
        # Only the scheme's own variable.
        ("http://api.example.com", "", None),
    ],
)
def test_the_proxy_that_a_client_in_go_would_take(
    url: str, excluded: str, expected: str | None
) -> None:
    assert proxy_for(url, {"HTTPS_PROXY": PROXY, "NO_PROXY": excluded}) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY, "https_proxy": "http://other"}, PROXY),
        ({"HTTPS_PROXY": "proxy:3128"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "example.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other", "no_proxy": "example.com"}, PROXY),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ({}, None),
    ],
)
def test_the_variables_that_name_a_proxy(environment: dict[str, str], expected: str | None) -> None:
    assert proxy_for("https://api.example.com", environment) == expected


def reach(server: dict[str, Any], answer: Any) -> list[str]:
    """Log in to a server behind a network that does this; the transports that were used."""
    used: list[str] = []

    async def handle(transport: Any, _: httpx.Request) -> httpx.Response:
        used.append(type(transport).__qualname__)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, json={})

    async def connect() -> None:
        async with ClusterAccess("dev", config(server, {"token": "t"})).connected():
            pass

    with mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request", handle):
        asyncio.run(connect())
    return used


@pytest.mark.parametrize("excluded", ["", "10.0.0.0/8"])
def test_no_connection_takes_a_proxy_by_httpx_own_rules(
    excluded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", excluded)
    assert reach({"server": "https://10.1.2.3"}, 200) == ["_Transport"]


def test_the_proxy_of_the_kubeconfig_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other")
    monkeypatch.setenv("NO_PROXY", "*")
    known = {"server": "https://127.0.0.1", "proxy-url": PROXY}
    assert Login(known, {}).proxy == PROXY


def test_a_proxy_that_fails_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy:3128")
    with pytest.raises(UnreachableError) as error:
        reach({"server": "https://10.1.2.3:6443"}, httpx.ProxyError("403 Forbidden"))
    assert str(error.value) == (
        "no connection to https://10.1.2.3:6443 through the proxy http://proxy:3128 (403 Forbidden)"
    )


def test_a_login_that_is_not_accepted() -> None:
    with pytest.raises(LoginError, match="does not accept the login"):
        reach(SERVER, 401)


def test_whoever_may_not_see_the_version_is_logged_in() -> None:
    assert reach(SERVER, 403) == ["_Transport"]
