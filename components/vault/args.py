"""The arguments of `Vault`, and how an environment's settings become them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pulumi

from .. import pins
from ..cluster.access import ClusterAccess
from ..credentials import tls
from ..manifests.charts import ChartSource
from ..manifests.placement import Placement
from ..manifests.pods import requirements
from ..settings import changes

if TYPE_CHECKING:
    from ..settings.environment import Settings


_FLOW = frozenset({"cidrs", "namespace", "labels", "pod_ports"})
"""Where a server is, for the network policies: no word of Vault's configuration."""


def _server() -> Mapping[str, Mapping[str, str]]:
    return {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


def _chart() -> ChartSource:
    return ChartSource(name="vault", repository=pins.VAULT_REPOSITORY, version=pins.VAULT_CHART)


@dataclass(frozen=True)
class KeyService:
    """What unseals Vault in place of keys in a Secret."""

    type: str
    """Name of Vault's `seal` stanza: awskms, gcpckms, azurekeyvault, transit."""
    parameters: Mapping[str, str]
    """Parameters of the stanza, none of them secret: they land in a ConfigMap.
    https://developer.hashicorp.com/vault/docs/configuration/seal"""
    token: pulumi.Input[str] | None = None
    """For transit: the token for the other Vault. It goes into a Secret."""
    ca_pem: str | None = None
    """For transit: the authority of the other Vault's certificate as PEM text. The authorities that
    Vault's image trusts when None."""


@dataclass(frozen=True)
class Login:
    """A login for this program that somebody set up in Vault: `auth_login` of pulumi-vault."""

    path: str
    """Where to log in: auth/jwt/login."""
    parameters: Mapping[str, pulumi.Input[str]]
    """What the login needs, for instance role and jwt. Treated as secret."""
    method: str | None = None
    """Only for methods that pulumi-vault treats specially: aws."""


@dataclass(frozen=True)
class People:
    """Where people log in, and which of their groups may do what."""

    type: Literal["oidc", "jwt"]
    """A browser at an OpenID Connect provider, or a signed token that they already have."""
    viewers: Sequence[str] = ()
    """Groups that may log in with the viewer's policy. No name has a comma."""
    operators: Sequence[str] = ()
    """Groups that may log in with the operator's policy. No name has a comma."""
    discovery_url: str | None = None
    """The OpenID Connect provider or issuer."""
    ca_pem: str | None = None
    """The authority of its certificate as PEM text; those that the image trusts when None."""
    client_id: str | None = None
    """For oidc: the client that the provider knows Vault as."""
    client_secret: pulumi.Input[str] | None = None
    """For oidc: that client's secret."""
    scopes: Sequence[str] = ()
    """For oidc: what to ask for beside `openid`."""
    redirect_uris: Sequence[str] = ()
    """For oidc: where a browser may return to."""
    audiences: Sequence[str] = ()
    """For jwt: a token must have one of them."""
    issuer: str | None = None
    """For jwt: a token must have it; any when None."""
    public_keys: Sequence[str] = ()
    """For jwt, in place of `discovery_url`: PEM texts."""
    user_claim: str = "sub"
    """Names the person in the audit log; one that nobody else can get."""
    groups_claim: str = "groups"
    """Holds the groups."""


@dataclass(frozen=True)
class VaultArgs:
    """What a Vault is made of. Everything but the first four has a default."""

    namespace: pulumi.Input[str]
    """Namespace of the server and of its Secrets."""
    authority: tls.Authority
    """Signs the server's certificate; whoever talks to Vault trusts it."""
    provider_address: pulumi.Input[str]
    """URL at which this program reaches Vault: `https://`, and the near end of a forward
    (https://127.0.0.1:PORT) or an address of your own. The certificate is checked either way."""
    access: ClusterAccess
    """For the wait until every server is unsealed: the cluster of the Kubernetes provider."""
    release: str | None = None
    """Name of the Helm release, of the pods, and the beginning of all other names in Kubernetes.
    The component's name by default."""
    mode: Literal["standalone", "ha"] = "standalone"
    """One server on a file volume, or a raft cluster, which needs a key service."""
    replicas: int = 3
    """Servers of a raft cluster: 3, 5 or 7."""
    sealed_by: str = "none"
    """What names the key: another one is refused. Nothing of it is secret."""
    key_service: KeyService | None = None
    """Unseals every server. Without one, the unseal keys are in a Kubernetes Secret beside the data
    that they protect."""
    storage_size: str = "10Gi"
    """Size of each server's volume. It cannot be changed later."""
    storage_class: str | None = None
    """The cluster's default when None."""
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=_server)
    """Requests and limits of a server, as Kubernetes writes them."""
    service_account_annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    """Workload identity for the key service, as in eks.amazonaws.com/role-arn."""
    proxy: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables of the proxy by which the key service is reached."""
    pod_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """More labels of the server's pods. Azure's workload identity needs one, which is added for
    the key service azurekeyvault."""
    chart: ChartSource = field(default_factory=_chart)
    """Vault's own chart. Another repository for a mirror."""
    image: str = pins.VAULT_IMAGE
    """Vault's image: the server, and the Job's own steps."""
    bank_vaults_image: str = pins.BANK_VAULTS_IMAGE
    """Initialises and unseals; its image must have a shell, as bank-vaults' own has."""
    mount: str = "secret"
    """Path of the KV v2 store."""
    auth_path: str = "kubernetes"
    """Path of the kubernetes auth method."""
    login: str = "pulumi"
    """Name of this program's login in Vault: of the AppRole's mount, role and policy. Every other
    rotation takes a role whose name ends in `-b`."""
    rotation: int = 1
    """Raise it by one to replace the role id and secret id of that login. At least 1."""
    token: pulumi.Input[str] | None = None
    """A token that this program uses in place of its own login. Never a root token: the Job revokes
    those."""
    auth_login: Login | None = None
    """A login that this program uses in place of its own."""
    viewer_policy: str = "viewer"
    """Name of the policy for people who look: what exists, and never a value."""
    operator_policy: str = "operator"
    """Name of the policy for people who operate: health, raft, leases, seal; no value either."""
    people: People | None = None
    """How people log in; nobody does when None."""
    people_path: str = "people"
    """Path of the auth method for people."""
    ca_file: str | None = None
    """File that the authority's certificates are written to for the provider, which takes a path
    only. Relative to the program's folder, so that it does not differ between machines.
    build/tls/STACK-NAME.pem by default; keep it out of version control."""
    placement: Placement = field(default_factory=Placement)
    """On which nodes the servers and the Job may run."""
    metrics: bool = False
    """Serve metrics at /v1/sys/metrics without a token, for Prometheus. A change restarts Vault."""
    protect: bool = False
    """Refuse to delete the StatefulSet, the unseal keys and the store."""
    allowed_changes: frozenset[str] = frozenset()
    """Changes that are refused otherwise, after they were prepared by hand."""

    @property
    def roles(self) -> tuple[str, str]:
        """The AppRole that this program logs in with, and the one that it used before.

        They take turns, so that a login stays valid until the next one is proven.
        """
        first, second = self.login, f"{self.login}-b"
        return (first, second) if self.rotation % 2 else (second, first)

    @classmethod
    def from_settings(
        cls,
        settings: "Settings",
        *,
        namespace: pulumi.Input[str],
        authority: tls.Authority,
        provider_address: pulumi.Input[str],
        access: ClusterAccess,
    ) -> "VaultArgs":
        """What this environment's settings say."""
        group = settings.vault
        chart, images = settings.charts.vault, settings.images
        token = None
        if group.token is not None:
            token = pulumi.Output.secret(group.token.get_secret_value())
        return cls(
            namespace=namespace,
            authority=authority,
            provider_address=provider_address,
            access=access,
            mode=group.mode,
            replicas=group.replicas,
            key_service=_key_service(settings),
            storage_size=group.storage.size,
            storage_class=group.storage.storage_class,
            resources=requirements(group.resources),
            service_account_annotations=group.service_account_annotations,
            chart=ChartSource(name="vault", repository=chart.repository, version=chart.version),
            image=images.vault,
            bank_vaults_image=images.bank_vaults,
            rotation=settings.rotation.vault,
            token=token,
            auth_login=_auth_login(settings),
            people=_people(settings),
            proxy=_proxy(settings),
            placement=Placement.from_settings(settings),
            metrics=settings.monitoring.enabled,
            protect=settings.protect,
            allowed_changes=frozenset(settings.allowed_changes),
            sealed_by=changes.sealed_by(group.seal),
        )


def _key_service(settings: "Settings") -> KeyService | None:
    seal = settings.vault.seal
    if seal is None:
        return None
    token, ca_pem = None, None
    if seal.type == "transit":
        token = pulumi.Output.secret(seal.token.get_secret_value())
        ca_pem = seal.ca
    parameters = seal.model_dump(exclude={"type", "token", "ca", *_FLOW}, exclude_none=True)
    return KeyService(type=seal.type, parameters=parameters, token=token, ca_pem=ca_pem)


def _auth_login(settings: "Settings") -> Login | None:
    login = settings.vault.auth_login
    if login is None:
        return None
    parameters = {key: value.get_secret_value() for key, value in login.parameters.items()}
    return Login(path=login.path, method=login.method, parameters=parameters)


def _proxy(settings: "Settings") -> dict[str, str]:
    """Variables of the proxy by which a cloud's key service is reached."""
    proxy, seal = settings.network.proxy, settings.vault.seal
    if proxy is None or seal is None or seal.type == "transit":
        return {}
    people = settings.vault.people
    direct: list[str] = []
    if people is not None and people.discovery_url is not None:
        direct.append(urlsplit(people.discovery_url).hostname or "")
    return proxy.variables(direct)


def _people(settings: "Settings") -> People | None:
    people = settings.vault.people
    if people is None:
        return None
    values = people.model_dump(exclude={"ca", "client_secret", *_FLOW})
    if people.type == "oidc":
        values["client_secret"] = pulumi.Output.secret(people.client_secret.get_secret_value())
    return People(**values, ca_pem=people.ca)
