"""What Shlink tells of each visit, and to whom: RabbitMQ, Mercure, Matomo."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from .. import ports
from .types import Destination, Host, RemotePort, Secret, Text, Url

_AMQP = 5672

_AMQPS = 5671


class Integration(Destination):
    """A server that Shlink connects to. Nothing else is opened for it than its own flow."""

    @property
    def host(self) -> str:
        """Its host's name or address."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """The port that Shlink connects to."""
        raise NotImplementedError

    def plain(self) -> dict[str, str]:
        """Shlink's variables for it."""
        raise NotImplementedError

    def secrets(self) -> dict[str, SecretStr]:
        """Those of them whose values are secret."""
        raise NotImplementedError


class RabbitMq(Integration):
    """A broker that gets an event for each visit and each new short URL."""

    server: Host = Field(alias="host", description="Name or address of the broker.")
    server_port: RemotePort | None = Field(
        default=None, alias="port", description="Its port; 5672, or 5671 with TLS, when left out."
    )
    tls: bool = Field(default=False, description="Whether connections use TLS.")
    user: Text = Field(description="User that may publish.")
    password: Secret = Field(description="That user's password.")
    vhost: Text = Field(default="/", description="Virtual host.")

    @model_validator(mode="after")
    def _without_port(self) -> Self:
        if urlsplit(f"//{self.server}").port is not None:
            raise ValueError(f"host: {self.server} has a port; allowed: the host, with `port`")
        return self

    @property
    def host(self) -> str:
        """Its host's name or address."""
        return self.server

    @property
    def port(self) -> int:
        """The port that Shlink connects to."""
        if self.server_port is not None:
            return self.server_port
        return _AMQPS if self.tls else _AMQP

    def plain(self) -> dict[str, str]:
        """Shlink's variables for it."""
        return {
            "RABBITMQ_ENABLED": "true",
            "RABBITMQ_HOST": self.server,
            "RABBITMQ_PORT": str(self.port),
            "RABBITMQ_USER": self.user,
            "RABBITMQ_VHOST": self.vhost,
            "RABBITMQ_USE_SSL": str(self.tls).lower(),
        }

    def secrets(self) -> dict[str, SecretStr]:
        """Those of them whose values are secret."""
        return {"RABBITMQ_PASSWORD": self.password}


class _OverHttp(Integration):
    """A server with a URL."""

    @property
    def internal(self) -> str:
        """The URL that Shlink uses."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """Its host's name or address."""
        return urlsplit(self.internal).hostname or ""

    @property
    def port(self) -> int:
        """The port that Shlink connects to."""
        parts = urlsplit(self.internal)
        return parts.port or (ports.HTTPS if parts.scheme == "https" else ports.HTTP)


class Mercure(_OverHttp):
    """A hub by which browsers hear of visits at once."""

    public_url: Url = Field(description="The hub's address for browsers.")
    internal_url: Url | None = Field(
        default=None, description="The hub's address for Shlink; `publicUrl` when left out."
    )
    jwt_secret: Secret = Field(description="The key with which the hub checks tokens.")

    @property
    def internal(self) -> str:
        """The URL that Shlink uses."""
        return self.internal_url or self.public_url

    def plain(self) -> dict[str, str]:
        """Shlink's variables for it."""
        return {
            "MERCURE_ENABLED": "true",
            "MERCURE_PUBLIC_HUB_URL": self.public_url,
            "MERCURE_INTERNAL_HUB_URL": self.internal,
        }

    def secrets(self) -> dict[str, SecretStr]:
        """Those of them whose values are secret."""
        return {"MERCURE_JWT_SECRET": self.jwt_secret}


class Matomo(_OverHttp):
    """A Matomo that counts the visits too. While it does not answer, each visit waits 10 s."""

    base_url: Url = Field(description="Matomo's address.")
    site_id: int = Field(ge=1, le=1_000_000_000, description="Number of the site in Matomo.")
    api_token: Secret = Field(description="Token that may write visits of that site.")

    @property
    def internal(self) -> str:
        """The URL that Shlink uses."""
        return self.base_url

    def plain(self) -> dict[str, str]:
        """Shlink's variables for it."""
        return {
            "MATOMO_ENABLED": "true",
            "MATOMO_BASE_URL": self.base_url,
            "MATOMO_SITE_ID": str(self.site_id),
        }

    def secrets(self) -> dict[str, SecretStr]:
        """Those of them whose values are secret."""
        return {"MATOMO_API_TOKEN": self.api_token}


class Egress(Destination):
    """A further server that Shlink may reach, such as a webhook's."""

    ports: list[RemotePort] = Field(
        min_length=1, description="Its ports; those of its pods, with `namespace`."
    )

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.namespace is None and "cidrs" not in self.model_fields_set:
            raise ValueError("cidrs: is missing, and so is `namespace`; allowed: either, or both")
        return self
