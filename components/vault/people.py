"""How people log in to Vault: an OpenID Connect provider or signed tokens; a role per policy."""

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_vault as vault

from .args import People, VaultArgs

_TOKEN_SECONDS, _TOKEN_MAX_SECONDS = 3600, 8 * 3600
"""A person's token lives an hour, and a working day when it is renewed."""


def roles(args: VaultArgs, people: People) -> Mapping[str, Sequence[str]]:
    """The groups that may log in, by role; each role has the name of its policy."""
    groups = {args.viewer_policy: people.viewers, args.operator_policy: people.operators}
    return {role: names for role, names in groups.items() if names}


def people_auth(
    name: str, args: VaultArgs, people: People, opts: pulumi.ResourceOptions
) -> vault.jwt.AuthBackend:
    """The auth method at `args.people_path` and its roles.

    Their rights come from the policies alone: a group that is taken out of the provider loses them
    with its members' next login, within a working day.
    """
    backend = vault.jwt.AuthBackend(
        f"{name}-people",
        path=args.people_path,
        type=people.type,
        description="people",
        oidc_discovery_url=people.discovery_url,
        oidc_discovery_ca_pem=people.ca_pem,
        oidc_client_id=people.client_id,
        oidc_client_secret=people.client_secret,
        bound_issuer=people.issuer,
        # As Vault gives them back, or each update would change them.
        jwt_validation_pubkeys=[key.strip() for key in people.public_keys] or None,
        # The same path cannot hold two at a time.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )
    for role, groups in roles(args, people).items():
        vault.jwt.AuthBackendRole(
            f"{name}-people-{role}",
            backend=backend.path,
            role_name=role,
            role_type=people.type,
            user_claim=people.user_claim,
            bound_claims={people.groups_claim: ",".join(groups)},
            bound_audiences=list(people.audiences) or None,
            oidc_scopes=list(people.scopes) or None,
            allowed_redirect_uris=list(people.redirect_uris) or None,
            token_policies=[role],
            token_ttl=_TOKEN_SECONDS,
            token_max_ttl=_TOKEN_MAX_SECONDS,
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(deleted_with=backend)),
        )
    return backend
