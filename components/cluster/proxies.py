"""Which proxy leads to a server, as kubectl and every other client in Go decide.

By golang.org/x/net/http/httpproxy (proxy.go); httpx knows neither networks in NO_PROXY nor that
this machine is never reached by a proxy.
"""

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The proxy for requests to a URL; None: there is none, or it is not for this server."""
    server = urlsplit(url)
    proxy = _variable(environment, f"{server.scheme}_proxy")
    host = server.hostname or ""
    address = _address(host)
    if not proxy or host == "localhost" or (address and address.is_loopback):
        return None
    port = str(server.port or _PORTS.get(server.scheme, ""))
    for entry in _variable(environment, "no_proxy").lower().split(","):
        if _names(entry.strip(), host, address, port):
            return None
    return proxy if "://" in proxy else f"http://{proxy}"


def shown(proxy: str) -> str:
    """A proxy for messages, without its password."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name) or ""


def _names(entry: str, host: str, address: _Address | None, port: str) -> bool:
    """Whether an entry of NO_PROXY names the server."""
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    else:
        return address in network if address else False
    name, colon, only_port = entry.rpartition(":")
    if not colon:
        name, only_port = entry, ""
    if not name or only_port not in ("", port):
        return False
    if excluded := _address(name.strip("[]")):
        return excluded == address
    domain = name.removeprefix("*")
    return host.endswith(f".{domain.removeprefix('.')}") or host == domain


def _address(host: str) -> _Address | None:
    """The address, where it is one; IPv4 within IPv6 as IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
