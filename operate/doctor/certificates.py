"""Whether an environment's servers show certificates that their clients accept, and until when."""

import asyncio
import dataclasses
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from components.cluster.streams import PortStream
from components.monitoring.thresholds import CERTIFICATE_DAYS
from operate.view import NoAnswerError, Object, SkippedError, place

from .findings import Environment, Problem, Severity, error_unless, skip
from .inside import authority, certificate, days_left, trusting, tunnel
from .pod_problems import moved

_REFUSED = "certificate-refused"

_ROTATION_SECONDS = 60.0
"""Seconds after a server's restart in which its clients learn of another authority."""


class NoTlsError(NoAnswerError):
    """A server that answers, and offers no TLS."""


Opening = Callable[[PortStream], Awaitable[None]]
"""What a protocol says before TLS begins."""


async def _at_once(_: PortStream) -> None:
    """TLS begins with the connection."""


async def problems(
    environment: Environment,
    pods: Sequence[Object],
    *,
    title: str,
    port: int,
    name: str,
    server: str,
    opening: Opening = _at_once,
) -> list[Problem]:
    """What is wrong with the certificates that these pods show to a client that asks for `name`.

    `server`: the check that the server runs. The authority that a store names may be what is wrong,
    which `secrets.unchanged` tells.
    """
    trusted = await authority(environment)
    if not trusted:
        # Nothing is deployed yet that could tell.
        return []
    try:
        context = trusting(trusted)
    except ssl.SSLError:
        text = f"the authority that {title}'s clients trust can't be read"
        return [Problem(text, _REFUSED)]
    problems = _authority_problems(environment, context)
    client = _Client(title=title, context=context, port=port, name=name, opening=opening)
    for shown in await asyncio.gather(*(_shown(environment, pod, client) for pod in pods)):
        problems += shown
    causes = (server, "secrets.unchanged")
    return [dataclasses.replace(problem, causes=causes) for problem in problems]


@dataclass(frozen=True)
class _Client:
    """How a client of this environment connects to a server."""

    title: str
    context: ssl.SSLContext
    port: int
    name: str
    opening: Opening


async def _shown(environment: Environment, pod: Object, client: _Client) -> list[Problem]:
    """What is wrong with the certificate that a pod shows, or why a client gets none."""
    server = f"{client.title} (pod {pod['metadata']['name']})"
    try:
        async with tunnel(environment.view, *place(pod), client.port) as connection:
            await client.opening(connection)
            shown = await certificate(connection, client.context, client.name)
    except SkippedError as error:
        return [skip(str(error))]
    except NoTlsError:
        return [Problem(f"{server} offers no TLS, and its clients ask for it", _REFUSED)]
    except NoAnswerError as error:
        # Why it does not answer is for the checks of its pods to tell.
        return [skip(f"{server} shows no certificate: {error}")]
    except ssl.SSLCertVerificationError as error:
        text = f"{server} shows a certificate that its clients refuse: {error.verify_message}"
        # A rotation gives the servers their new certificate before the stores learn its authority.
        severity = error_unless(changing=moved(environment.view, pod, _ROTATION_SECONDS))
        return [Problem(text, _REFUSED, severity=severity)]
    except ssl.SSLError:
        return [skip(f"{server} does not complete a TLS handshake")]
    return _ending(environment, f"the certificate of {server}", shown)


def _authority_problems(environment: Environment, context: ssl.SSLContext) -> list[Problem]:
    """The current authority is the newest; the one before it may have ended."""
    authorities: list[Object] = [*context.get_ca_certs()]
    authorities.sort(key=lambda entry: ssl.cert_time_to_seconds(str(entry["notAfter"])))
    if not authorities:
        return []
    return _ending(environment, "the certificate of the authority", authorities[-1])


def _ending(environment: Environment, what: str, shown: Object) -> list[Problem]:
    days = days_left(environment.view, shown)
    if days > CERTIFICATE_DAYS:
        return []
    remedy = environment.make("up")
    if days < 0:
        text = f"{what} ended {-days:.0f} days ago"
        return [Problem(text, _REFUSED, remedy)]
    text = f"{what} ends in {days:.0f} days"
    return [Problem(text, "certificate-near-its-end", remedy, severity=Severity.WARNING)]
