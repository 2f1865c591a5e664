"""The authority of one environment: it signs the certificate of every server that speaks TLS.

Keys are made by pulumi-tls and live in the encrypted state, as every other credential does. No
client has to trust anything but `Authority.ca_pem`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_tls as tls

_HOURS_PER_YEAR = 8760


@dataclass(frozen=True)
class AuthorityArgs:
    """What an Authority is made of; the defaults fit an environment that is updated once a year."""

    rotation: int = 1
    """Raise it by one to replace the authority's key and every server's key, for instance after one
    of them leaked. Clients trust the next authority before a server shows its certificate, and the
    previous one until the number is raised again, so clients and servers need not change at the
    same moment. At least 1."""
    ca_years: int = 10
    """Years that the authority's own certificate is valid. An update in its last fifth renews it
    with the same key, so that certificates signed before stay valid."""
    server_hours: int = 2 * _HOURS_PER_YEAR
    """Hours that a server's certificate is valid. An update in the second half renews it, and the
    server's pods roll. Shorten it where a policy asks for that, and update more often then."""


@dataclass(frozen=True)
class Certificate:
    """A server's certificate and key, each as PEM text."""

    certificate_pem: pulumi.Output[str]
    private_key_pem: pulumi.Output[str]
    """PKCS#8; secret."""
    ca_pem: pulumi.Output[str]
    """What a client must trust to verify this certificate: `Authority.ca_pem`."""
    serial: pulumi.Output[str]
    """Changes with the certificate. A pod template that carries it rolls its pods on a renewal."""
    expires: pulumi.Output[str]
    """End of validity (RFC 3339)."""


class Authority(pulumi.ComponentResource):
    """A private certificate authority for the servers of one environment."""

    ca_pem: pulumi.Output[str]
    """Certificates that a client must trust, as PEM text; not secret: the current authority's, the
    next one's and, after a rotation, the previous one's."""

    def __init__(
        self,
        name: str,
        args: AuthorityArgs | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("shlink:tls:Authority", name, None, opts)
        self._name = name
        self._args = args = args or AuthorityArgs()
        if args.rotation < 1:
            raise ValueError(f"rotation: {args.rotation} is not possible; allowed: 1 or more")
        self._key, self._certificate = self._generation(args.rotation)
        others = [args.rotation + 1, *([args.rotation - 1] if args.rotation > 1 else [])]
        trusted = [self._certificate, *(self._generation(number)[1] for number in others)]
        self.ca_pem = pulumi.Output.concat(*(certificate.cert_pem for certificate in trusted))
        self.register_outputs({"ca_pem": self.ca_pem})

    def certificate(
        self,
        name: str,
        *,
        dns_names: Sequence[pulumi.Input[str]] = (),
        ip_addresses: Sequence[pulumi.Input[str]] = ("127.0.0.1",),
        common_name: pulumi.Input[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> Certificate:
        """A certificate for a server, which the server may also show as a client.

        `name` is the resources' name, unique in the stack, and the subject's common name unless
        `common_name` says another (a login role, for a client of PostgreSQL: at most 64
        characters). The default address is for what reaches the server through a forward or from
        its own pod. The resources are children of the authority unless `opts` has a parent.
        """
        opts = pulumi.ResourceOptions.merge(pulumi.ResourceOptions(parent=self), opts)
        # Its number in the name: a rotation makes another key, in place of this one.
        key = _private_key(f"{name}-key-{self._args.rotation}", opts)
        subject = name if common_name is None else common_name
        request = tls.CertRequest(
            f"{name}-request",
            private_key_pem=key.private_key_pem,
            subject=tls.CertRequestSubjectArgs(common_name=subject),
            dns_names=list(dns_names),
            ip_addresses=list(ip_addresses),
            opts=opts,
        )
        certificate = tls.LocallySignedCert(
            f"{name}-certificate",
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=self._key.private_key_pem,
            ca_cert_pem=self._certificate.cert_pem,
            allowed_uses=["digital_signature", "server_auth", "client_auth"],
            validity_period_hours=self._args.server_hours,
            early_renewal_hours=self._args.server_hours // 2,
            opts=opts,
        )
        return Certificate(
            certificate_pem=certificate.cert_pem,
            private_key_pem=pulumi.Output.secret(key.private_key_pem_pkcs8),
            ca_pem=self.ca_pem,
            # The provider's id of a certificate is its serial number (terraform-provider-tls).
            serial=certificate.id,
            expires=certificate.validity_end_time,
        )

    def _generation(self, number: int) -> tuple[tls.PrivateKey, tls.SelfSignedCert]:
        """The authority's key and certificate after so many rotations."""
        opts = pulumi.ResourceOptions(parent=self)
        years = self._args.ca_years
        key = _private_key(f"{self._name}-key-{number}", opts)
        certificate = tls.SelfSignedCert(
            f"{self._name}-certificate-{number}",
            private_key_pem=key.private_key_pem,
            subject=tls.SelfSignedCertSubjectArgs(common_name=f"{self._name} {number}"),
            is_ca_certificate=True,
            set_subject_key_id=True,
            allowed_uses=["cert_signing", "crl_signing"],
            validity_period_hours=years * _HOURS_PER_YEAR,
            early_renewal_hours=years * _HOURS_PER_YEAR // 5,
            opts=opts,
        )
        return key, certificate


def _private_key(name: str, opts: pulumi.ResourceOptions) -> tls.PrivateKey:
    return tls.PrivateKey(
        name,
        algorithm="ECDSA",
        ecdsa_curve="P256",
        opts=pulumi.ResourceOptions.merge(
            opts,
            pulumi.ResourceOptions(
                additional_secret_outputs=[
                    "privateKeyPem",
                    "privateKeyPemPkcs8",
                    "privateKeyOpenssh",
                ]
            ),
        ),
    )


def ca_file(pem: str, path: Path) -> str:
    """Write certificates to a file, for a provider that takes a path only; returns the path.

    Raises pulumi.RunError when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that a provider never reads half a file.
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(pem)
        draft.replace(path)
    except OSError as error:
        raise pulumi.RunError(
            f"{path}: {error.strerror}. Vault's authority is written there, so that the provider "
            "can verify Vault; run from a folder that may be written to"
        ) from None
    return str(path)
