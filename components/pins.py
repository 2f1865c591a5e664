"""Every chart and image, pinned here and nowhere else.

An environment overrides any of them (`shlink:charts`, `shlink:images`). Renovate reads the comment
above a pin (renovate.json). How each product is upgraded, CRDs first: docs/upgrades.md.
"""

from typing import Final

TRIED_ENGINES: Final = ">=3.259.0 <3.277.0"
"""Pulumi's engines on which a whole life of an environment was run."""

# renovate: datasource=helm depName=vault registryUrl=https://helm.releases.hashicorp.com
VAULT_CHART: Final = "0.34.1"
VAULT_REPOSITORY: Final = "https://helm.releases.hashicorp.com"
# renovate: datasource=helm depName=external-secrets registryUrl=https://charts.external-secrets.io
EXTERNAL_SECRETS_CHART: Final = "2.9.0"
EXTERNAL_SECRETS_REPOSITORY: Final = "https://charts.external-secrets.io"
# renovate: datasource=docker depName=registry.developers.crunchydata.com/crunchydata/pgo
PGO_CHART: Final = "6.0.3"
PGO_REPOSITORY: Final = "oci://registry.developers.crunchydata.com/crunchydata/pgo"
# The images that PGO of that version names (config/components/images-by-tag at its tag), by the
# chart's own keys: raise them with it. They are used only if a mirror replaces their registry.
_CRUNCHY: Final = "registry.developers.crunchydata.com/crunchydata"
# Held: it moves with PGO_CHART, together with the images that the chart names.
PGO_IMAGE: Final = f"{_CRUNCHY}/postgres-operator:ubi9-6.0.3-0"
PGO_RELATED_IMAGES: Final = {
    "postgres_15": f"{_CRUNCHY}/crunchy-postgres:ubi9-15.19-2633",
    "postgres_16": f"{_CRUNCHY}/crunchy-postgres:ubi9-16.15-2633",
    "postgres_17": f"{_CRUNCHY}/crunchy-postgres:ubi9-17.11-2633",
    "postgres_18": f"{_CRUNCHY}/crunchy-postgres:ubi9-18.6-2633",
    "pgbackrest": f"{_CRUNCHY}/crunchy-pgbackrest:ubi9-2.59.0-2633",
    "pgbouncer": f"{_CRUNCHY}/crunchy-pgbouncer:ubi9-1.25-2633",
    "pgexporter": f"{_CRUNCHY}/crunchy-postgres-exporter:ubi9-0.19.1-2633",
    "pgupgrade": f"{_CRUNCHY}/crunchy-upgrade:ubi9-18.6-2633",
    "collector": f"{_CRUNCHY}/postgres-operator:ubi9-6.0.3-0",
}
# Held at 3.2.9: 3.3.0 has a template inside crds/ and can't be installed.
REDIS_OPERATOR_CHART: Final = "3.2.9"
REDIS_OPERATOR_REPOSITORY: Final = "https://spotahome.github.io/redis-operator"
# The maintained fork's chart brings its CRD; its numbers are not those of the image.
# renovate: datasource=docker depName=ghcr.io/freshworks-oss/charts/redis-operator
REDIS_OPERATOR_FORK_CHART: Final = "3.3.4"
REDIS_OPERATOR_FORK_REPOSITORY: Final = "oci://ghcr.io/freshworks-oss/charts/redis-operator"

# renovate: datasource=docker depName=docker.io/shlinkio/shlink
SHLINK_IMAGE: Final = "docker.io/shlinkio/shlink:4.6.0"
# It works with Shlink 4.0 and newer.
# renovate: datasource=docker depName=docker.io/shlinkio/shlink-web-client
WEB_CLIENT_IMAGE: Final = "docker.io/shlinkio/shlink-web-client:4.8.1"
# The newest image of 1.x. The community's edition gets fixes in its newest minor only, and that is
# 2.x: docs/upgrades.md.
# renovate: datasource=docker depName=docker.io/hashicorp/vault
VAULT_IMAGE: Final = "docker.io/hashicorp/vault:1.21.4"
# renovate: datasource=docker depName=ghcr.io/bank-vaults/bank-vaults
BANK_VAULTS_IMAGE: Final = "ghcr.io/bank-vaults/bank-vaults:v1.33.2"
# renovate: datasource=docker depName=ghcr.io/external-secrets/external-secrets
EXTERNAL_SECRETS_IMAGE: Final = "ghcr.io/external-secrets/external-secrets:v2.9.0"
# renovate: datasource=docker depName=docker.io/library/redis
REDIS_IMAGE: Final = "docker.io/library/redis:7.2.16-alpine"
# renovate: datasource=docker depName=docker.io/oliver006/redis_exporter
REDIS_EXPORTER_IMAGE: Final = "docker.io/oliver006/redis_exporter:v1.93.0-alpine"
# Held at the last stable release of the archived project. The maintained fork is a setting
# (docs/upgrades.md).
REDIS_OPERATOR_IMAGE: Final = "quay.io/spotahome/redis-operator:v1.2.4"
# renovate: datasource=docker depName=ghcr.io/freshworks-oss/redis-operator
REDIS_OPERATOR_FORK_IMAGE: Final = "ghcr.io/freshworks-oss/redis-operator:v3.3.5"
