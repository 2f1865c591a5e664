"""What an environment may set about Vault: servers, key service, and people who log in."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from .. import ports
from .platform import Resources, Volume
from .types import (
    EXPECTED,
    AnnotationName,
    AnnotationText,
    Certificates,
    Destination,
    Model,
    Port,
    PublicKey,
    Region,
    Secret,
    Text,
    Url,
    UrlElsewhere,
    elsewhere,
    text,
)

# Without a comma: the provider would make two of it (terraform-provider-vault, bound_claims).
Group = Annotated[
    str,
    Field(
        pattern=r"^[^,]{1,256}$",
        json_schema_extra={EXPECTED: "a group's name without a comma, such as platform-team"},
    ),
    BeforeValidator(text),
]


class _People(Destination):
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
    discovery_url: UrlElsewhere = Field(
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
        _must_be_issuer(self.discovery_url)
        for url in self.redirect_uris:
            _must_come_back(url)
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
    discovery_url: UrlElsewhere | None = Field(
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
            _must_be_issuer(self.discovery_url)
        elif self.ca is not None:
            raise ValueError("ca: has no effect with `publicKeys`, Vault asks nobody; remove it")
        return self

    @property
    def port(self) -> int | None:
        """The port that Vault's policy must leave open; None: Vault asks nobody."""
        return None if self.discovery_url is None else _port(self.discovery_url)


def _must_come_back(url: str) -> None:
    """A browser returns either to the person's own machine or, encrypted, to Vault's pages."""
    parts = urlsplit(url)
    try:
        elsewhere(parts.hostname or "")
    except ValueError:
        pass
    else:
        if parts.scheme == "http":
            raise ValueError(
                f"redirectUris: {url!r} is not encrypted, and the login passes there; allowed: "
                "https://host:port, or http://localhost:port"
            )
    if not parts.path.endswith("/oidc/callback"):
        raise ValueError(
            f"redirectUris: {url!r} is no page that Vault answers; allowed: "
            "http://localhost:8250/oidc/callback, "
            "https://HOST:PORT/ui/vault/auth/people/oidc/callback"
        )


People = Annotated[OidcPeople | JwtPeople, Field(discriminator="type")]


def _must_be_issuer(url: str) -> None:
    if ".well-known" in url:
        issuer = url.partition("/.well-known")[0]
        raise ValueError(
            f"discoveryUrl: {url!r} is where Vault looks by itself; allowed: the issuer, {issuer}"
        )
    if not url.startswith("https://"):
        raise ValueError(
            f"discoveryUrl: {url!r} is not encrypted, so anybody in between could log in; "
            "allowed: https://host:port"
        )


_OWN_SERVICE = re.compile(r"vault(-active|-standby|-internal|-ui)?(\.vault(\.svc(\..*)?)?)?")
"""Its Services in the cluster, by what chart and namespace are called."""


class AwsKms(Model):
    """Auto-unseal with AWS KMS."""

    type: Literal["awskms"]
    region: Region = Field(description="AWS region of the key.")
    kms_key_id: Text = Field(description="Id, ARN or alias of the key.")
    endpoint: UrlElsewhere | None = Field(
        default=None, description="Another address of KMS, such as a VPC endpoint."
    )

    @model_validator(mode="after")
    def _in_the_region(self) -> Self:
        arn = re.match(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):", self.kms_key_id)
        if arn and arn[1] != self.region:
            raise ValueError(
                f"region: {self.region} is not the region of `kmsKeyId`; allowed: {arn[1]}"
            )
        return self

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return _port(self.endpoint) if self.endpoint else ports.HTTPS


class GcpCkms(Model):
    """Auto-unseal with Google Cloud KMS."""

    type: Literal["gcpckms"]
    project: Text = Field(description="Google Cloud project of the key ring.")
    region: Region = Field(description="Location of the key ring.")
    key_ring: Text = Field(description="Name of the key ring.")
    crypto_key: Text = Field(description="Name of the key.")

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return ports.HTTPS


class AzureKeyVault(Model):
    """Auto-unseal with Azure Key Vault."""

    type: Literal["azurekeyvault"]
    tenant_id: Text = Field(description="Entra tenant of the key vault.")
    vault_name: Text = Field(description="Name of the key vault.")
    key_name: Text = Field(description="Name of the key.")

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return ports.HTTPS


MountPath = Annotated[
    str,
    Field(
        pattern="^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$",
        json_schema_extra={EXPECTED: "a path without a slash before it, such as transit/team-a"},
    ),
    BeforeValidator(text),
]


class Transit(Destination):
    """Auto-unseal with the transit engine of another Vault."""

    type: Literal["transit"]
    address: UrlElsewhere = Field(description="The other Vault.")
    key_name: Text = Field(description="Name of the transit key.")
    mount_path: MountPath = Field(
        default="transit/", description="Where the engine is mounted there."
    )
    token: Secret = Field(description="Token that may use the key.")
    ca: Certificates = Field(
        default=None,
        description="The authority of its certificate as PEM text, when it is private.",
    )

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.address.startswith("https://"):
            raise ValueError(
                f"address: {self.address!r} is not encrypted, and the token and the keys of this "
                "Vault go there; allowed: https://host:port"
            )
        if re.fullmatch(r"/v1/?", urlsplit(self.address).path):
            raise ValueError(f"address: {self.address!r} ends with the API's /v1; remove that")
        if _OWN_SERVICE.fullmatch(urlsplit(self.address).hostname or ""):
            raise ValueError(
                f"address: {self.address!r} is the Vault of this environment, which can't unseal "
                "itself; allowed: another Vault, or another `type`"
            )
        return self

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return _port(self.address)


def _port(url: str) -> int:
    parts = urlsplit(url)
    if parts.port:
        return parts.port
    return ports.HTTPS if parts.scheme == "https" else ports.HTTP


Seal = Annotated[AwsKms | GcpCkms | AzureKeyVault | Transit, Field(discriminator="type")]


class AuthLogin(Model):
    """A login of the Vault provider in place of the program's own, e.g. `auth/jwt/login`."""

    path: str = Field(
        pattern=r"^auth/[A-Za-z0-9._/-]+$",
        json_schema_extra={EXPECTED: "the login's path, such as auth/jwt/login"},
        description="The login's path in Vault.",
    )
    method: Text | None = Field(
        default=None, description="The provider's own method for it, where it has one."
    )
    parameters: dict[Text, Secret] = Field(default={}, description="What the login needs.")


class VaultSettings(Model):
    """Vault: one server on file storage, or a raft cluster with a key service."""

    mode: Literal["standalone", "ha"] = Field(
        default="standalone", description="One server on a file volume, or a raft cluster."
    )
    replicas: Literal[3, 5, 7] = Field(
        default=3,
        description="Raft voters in `ha`; an even number, or two, loses quorum with one pod.",
    )
    storage: Volume = Volume()
    resources: Resources = Resources(cpu="100m", memory="128Mi", memory_limit="512Mi")
    seal: Seal | None = Field(
        default=None,
        description="Key service for auto-unseal. Without one, the unseal keys are in a "
        "Kubernetes Secret.",
    )
    service_account_annotations: dict[AnnotationName, AnnotationText] = Field(
        default={}, description="Workload identity for the key service."
    )
    address: Url | None = Field(
        default=None,
        description="Direct https:// address from where Pulumi runs; no forward then. The "
        "certificate is checked against this environment's authority.",
    )
    local_port: Port | None = Field(
        default=None,
        description="Local port of the forward; derived from project and stack when left out.",
    )
    token: Secret | None = Field(
        default=None,
        description="A token that the program uses in place of its own login. Never a root token: "
        "every update that sets the login up revokes those.",
    )
    auth_login: AuthLogin | None = Field(
        default=None, description="A login that the program uses in place of its own."
    )
    people: People | None = Field(
        default=None,
        description="How people log in to Vault, as somebody who looks or who operates; without it "
        "nobody does.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.mode == "ha" and self.seal is None:
            raise ValueError(
                "seal: is missing; in mode ha every server must unseal by itself; "
                "allowed: awskms, gcpckms, azurekeyvault, transit"
            )
        if self.mode == "standalone" and "replicas" in self.model_fields_set:
            raise ValueError(
                "replicas: belongs to mode ha; file storage has exactly one server. "
                "Remove it, or set mode: ha"
            )
        if self.address is not None and not self.address.startswith("https://"):
            raise ValueError(
                f"address: {self.address!r} is not encrypted; allowed: https://host:port"
            )
        if self.address and urlsplit(self.address).path.strip("/") == "v1":
            raise ValueError(f"address: {self.address!r} ends with the API's /v1; remove that")
        if self.address and isinstance(self.seal, Transit) and self.seal.address == self.address:
            raise ValueError(
                f"seal.address: {self.address!r} is `address`, this Vault itself; "
                "allowed: another Vault"
            )
        if self.token is not None and self.auth_login is not None:
            raise ValueError(
                "token: is set and so is `authLogin`; allowed: one of the two, not both"
            )
        return self
