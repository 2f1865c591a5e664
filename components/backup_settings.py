"""What an environment may set about object stores for backups, and about restores."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from . import ports
from .setting_types import (
    EXPECTED,
    Bucket,
    Cidr,
    Cron,
    Host,
    Model,
    Region,
    Secret,
    Text,
)

VOLUME = "repo1"
"""Name of the repository that is a volume; the others are stores."""


def _expected(words: str) -> dict[str, Any]:
    return {EXPECTED: words}


RepositoryName = Annotated[
    str,
    Field(pattern=r"^repo[2-4]$", json_schema_extra=_expected("repo2, repo3 or repo4")),
]
"""The volume is always repo1. A name must keep its meaning, or PGO would drop what it held."""


def _certificates(value: Any) -> Any:
    begins = "-----BEGIN CERTIFICATE-----"
    if value is None:
        return None
    if isinstance(value, str) and value.strip().startswith(begins):
        return value.strip() + "\n"
    raise ValueError(f"is no certificate as PEM text, which begins with {begins}")


def _key_file(value: Any) -> Any:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if plain is None or (isinstance(plain, str) and plain.strip().startswith("{")):
        return value
    raise ValueError("is no key file, which is a JSON object")


# On the optional type as a whole: several lines are fine here, which no other text may have.
Certificates = Annotated[str | None, BeforeValidator(_certificates)]
KeyFile = Annotated[SecretStr | None, BeforeValidator(_key_file)]


class _Store(Model):
    """What every object store has."""

    full: Cron = Field(default="0 3 * * 0", description="Schedule of full backups (cron, UTC).")
    differential: Cron = Field(
        default="0 3 * * 1-6",
        description="Schedule of differential backups (cron, UTC); not while another repository's "
        "backup runs, pgBackRest makes one at a time.",
    )
    retention_full: int = Field(
        default=2, ge=1, le=9999, description="Full backups kept; older ones expire."
    )
    encrypted: bool = Field(
        default=True,
        description="Encrypt with AES-256 before anything leaves the pod, with a passphrase that "
        "the program makes. Decided once: pgBackRest cannot change it in a path that is in use.",
    )
    cidrs: list[Cidr] = Field(
        default=["0.0.0.0/0", "::/0"],
        min_length=1,
        description="Where the store answers, for the NetworkPolicy.",
    )

    @property
    def port(self) -> int:
        """The port that the network policies must leave open."""
        return ports.HTTPS


class S3Store(_Store):
    """A bucket of S3, or of anything that speaks S3 with TLS."""

    type: Literal["s3"]
    bucket: Bucket = Field(description="The bucket; it must exist.")
    endpoint: Host = Field(
        description="Host of the object store, with its port when that is not 443."
    )
    region: Region = Field(description="Region of the bucket; any word for stores without regions.")
    path_style: bool = Field(
        default=False,
        description="Name the bucket in the path instead of the host, as stores other than "
        "Amazon's often need it.",
    )
    ca: Certificates = Field(
        default=None,
        description="The authority of the store's certificate as PEM text, when it is private.",
    )
    key: Secret | None = Field(
        default=None,
        description="Access key's id. Without one the pods log in by their workload identity "
        "(EKS: IRSA; see `postgres.serviceAccountAnnotations`).",
    )
    key_secret: Secret | None = Field(default=None, description="Access key's secret.")

    @model_validator(mode="after")
    def _whole_key(self) -> Self:
        if (self.key is None) != (self.key_secret is None):
            raise ValueError("`key` and `keySecret` belong together: set both, or neither")
        return self

    @property
    def host(self) -> str:
        """The endpoint without its port."""
        return urlsplit(f"//{self.endpoint}").hostname or ""

    @property
    def port(self) -> int:
        """The port that the network policies must leave open."""
        return urlsplit(f"//{self.endpoint}").port or ports.HTTPS


class GcsStore(_Store):
    """A bucket of Google Cloud Storage."""

    type: Literal["gcs"]
    bucket: Bucket = Field(description="The bucket; it must exist.")
    key: KeyFile = Field(
        default=None,
        description="A service account's key file (JSON). Without one the pods log in by their "
        "workload identity (GKE; see `postgres.serviceAccountAnnotations`).",
    )


class AzureStore(_Store):
    """A container of Azure Blob Storage."""

    type: Literal["azure"]
    container: Bucket = Field(description="The container; it must exist.")
    account: Text = Field(description="Storage account.")
    key: Secret = Field(description="Shared key of the storage account.")


Store = Annotated[S3Store | GcsStore | AzureStore, Field(discriminator="type")]

_SET = r"^[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?$"
_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"[+-][0-9]{2}(:[0-9]{2})?$"
)


class _Restore(Model):
    """How far the database is restored; by default, up to the last archived WAL."""

    set: str | None = Field(
        default=None,
        pattern=_SET,
        json_schema_extra=_expected("a backup's label, such as 20261124-093000F"),
        description="A named backup, as `pgbackrest info` lists it, and nothing after it; with "
        "`time` it is where the way to that moment begins.",
    )
    time: str | None = Field(
        default=None,
        pattern=_TIME,
        json_schema_extra=_expected("a moment with its offset, such as 2026-11-24 09:30:00+00"),
        description="A moment with its time zone: 2026-11-24 09:30:00+00.",
    )


class InPlaceRestore(_Restore):
    """Replaces what the running database holds by a backup from one of its own repositories."""

    type: Literal["inPlace"]
    number: int = Field(
        ge=1,
        le=9999,
        description="Raise it by one for another restore; the same number does nothing.",
    )
    repository: Literal["repo1", "repo2", "repo3", "repo4"] = Field(
        default=VOLUME, description="From which repository; repo1 is the volume."
    )


class StoreRestore(_Restore):
    """Starts a new environment with the data that another one left in an object store."""

    type: Literal["store"]
    store: Store = Field(
        description="Where the other environment's backups are. Read only: its schedules and "
        "retention do not apply."
    )
    path: str = Field(
        pattern=r"^/[A-Za-z0-9._/-]+$",
        json_schema_extra=_expected("a path, such as /shlink-db/0a1b2c3d/repo2"),
        description="The repository's path in the store: the other environment's output "
        "`database_backups`, or look for the folder that holds `backup/db`.",
    )
    passphrase: Secret | None = Field(
        default=None, description="The other environment's passphrase, when it encrypted."
    )


Restore = Annotated[InPlaceRestore | StoreRestore, Field(discriminator="type")]
