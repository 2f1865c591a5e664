"""What an environment may set about people who use Vault: where they log in, and who may what."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from . import ports
from .backup_settings import Certificates
from .setting_types import EXPECTED, Model, Secret, Text, Url, text

_PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----"


def _public_key(value: Any) -> Any:
    if isinstance(value, str) and value.strip().startswith(_PUBLIC_KEY):
        return value.strip()
    raise ValueError(f"is no public key as PEM text, which begins with {_PUBLIC_KEY}")


# Without a comma: the provider would make two of it (terraform-provider-vault, bound_claims).
Group = Annotated[
    str,
    Field(
        pattern=r"^[^,]{1,256}$",
        json_schema_extra={EXPECTED: "a group's name without a comma, such as platform-team"},
    ),
    BeforeValidator(text),
]
# The pattern is for editors: without one they would expect a single line.
PublicKey = Annotated[str, Field(pattern=f"^{_PUBLIC_KEY}"), BeforeValidator(_public_key)]


class _People(Model):
    """What both ways to log in have."""

    viewers: list[Group] = Field(
        default=[],
        description="Groups that may log in as `viewer`: see what exists, and never a value.",
    )
    operators: list[Group] = Field(
        default=[],
        description="Groups that may log in as `operator`: beside that, seal, step down, take a "
        "snapshot, revoke leases; no value either.",
    )
    groups_claim: Text = Field(
        default="groups", description="Claim with the groups, as the identity provider names it."
    )
    user_claim: Text = Field(
        default="sub",
        description="Claim that names the person in Vault's audit log; one that nobody else can "
        "get. `email` reads better where the provider verifies it.",
    )
    ca: Certificates = Field(
        default=None,
        description="The authority of the identity provider's certificate as PEM text, when it is "
        "private.",
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not self.viewers and not self.operators:
            raise ValueError(
                "viewers: is empty and so is `operators`, so nobody could log in; allowed: groups "
                "in one or both"
            )
        return self


class OidcPeople(_People):
    """People log in with a browser, at an OpenID Connect provider."""

    type: Literal["oidc"]
    discovery_url: Url = Field(
        description="The provider, without `.well-known/openid-configuration`; Vault must reach it."
    )
    client_id: Text = Field(description="Id of the client that is registered there for Vault.")
    client_secret: Secret = Field(description="That client's secret.")
    scopes: list[Text] = Field(
        default=[], description="Scopes beside `openid`; many providers send groups for `groups`."
    )
    redirect_uris: list[Url] = Field(
        default=["http://localhost:8250/oidc/callback"],
        min_length=1,
        description="Where a browser may return to, the same as at the provider. The default is "
        "for `vault login`; a browser in Vault's own pages needs "
        "https://HOST:PORT/ui/vault/auth/people/oidc/callback.",
    )

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        _must_be_https(self.discovery_url)
        return self

    @property
    def port(self) -> int | None:
        """The port that Vault's policy must leave open."""
        return _port(self.discovery_url)


class JwtPeople(_People):
    """People, or pipelines in their place, log in with a signed token that they already have."""

    type: Literal["jwt"]
    audiences: list[Text] = Field(
        min_length=1, description="Audiences of which a token must have one."
    )
    issuer: Text | None = Field(
        default=None, description="Issuer that a token must have; any when left out."
    )
    discovery_url: Url | None = Field(
        default=None,
        description="The issuer's OpenID Connect address, where Vault gets the keys; this or "
        "`publicKeys`.",
    )
    public_keys: list[PublicKey] = Field(
        default=[], description="Keys of which one must have signed the token, each as PEM text."
    )

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if (self.discovery_url is None) == (not self.public_keys):
            raise ValueError(
                "discoveryUrl: belongs in the place of `publicKeys`; allowed: one of the two"
            )
        if self.discovery_url is not None:
            _must_be_https(self.discovery_url)
        elif self.ca is not None:
            raise ValueError("ca: has no effect with `publicKeys`, Vault asks nobody; remove it")
        return self

    @property
    def port(self) -> int | None:
        """The port that Vault's policy must leave open; None: Vault asks nobody."""
        return None if self.discovery_url is None else _port(self.discovery_url)


People = Annotated[OidcPeople | JwtPeople, Field(discriminator="type")]


def _must_be_https(url: str) -> None:
    if not url.startswith("https://"):
        raise ValueError(
            f"discoveryUrl: {url!r} is not encrypted, so anybody in between could log in; "
            "allowed: https://host:port"
        )


def _port(url: str) -> int:
    return urlsplit(url).port or ports.HTTPS
