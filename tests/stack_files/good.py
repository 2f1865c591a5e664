"""Unusual stack files that are right. A case is lines below `config:`; the context is added."""

from collections.abc import Sequence

_ROUTE = "type: ingress, className: nginx, controllerNamespace: ingress"
_DIGEST = "sha256:" + "ab" * 32
_PEM = r'"-----BEGIN CERTIFICATE-----\nMIIB\nMIIB\n-----END CERTIFICATE-----"'
_SECURE = "{secure: abc}"
_AMAZON = (
    "type: s3, bucket: shlink-backups, endpoint: s3.eu-central-1.amazonaws.com, "
    "region: eu-central-1"
)
_KEY = f"key: {_SECURE}, keySecret: {_SECURE}"


def _repositories(**stores: str) -> str:
    listed = ", ".join(f"{name}: {{{fields}}}" for name, fields in stores.items())
    return f"backups: {{repositories: {{{listed}}}}}"


CASES: Sequence[str] = (
    "shlink:app: {resources: {cpu: 1}}",
    'shlink:app: {resources: {cpu: "1"}}',
    "shlink:app: {resources: {cpu: 0.5}}",
    "shlink:app: {resources: {cpu: 250m, memory: 1.5Gi, memoryLimit: 2G}}",
    "shlink:app: {resources: {memory: 262144Ki}}",
    'shlink:app: {replicas: "3"}',
    "shlink:app: {replicas: 0}",
    "shlink:app: {replicas: 0, maxReplicas: 4}",
    'shlink:app: {maxReplicas: "3"}',
    "shlink:app: {replicas: 3.0}",
    'shlink:app: {https: "true", resolveTitles: "false"}',
    'shlink:protect: "true"',
    "shlink:protect: true",
    "shlink:protect: TRUE",
    'shlink:postgres: {version: "17"}',
    "shlink:postgres: {instances: 3, storage: {size: 1Ti, storageClass: fast.ssd}}",
    'shlink:postgres: {localPort: "20000"}',
    'shlink:postgres: {address: "[2001:db8::1]:5432"}',
    "shlink:postgres: {address: db.example.org}",
    'shlink:postgres: {backups: {full: 0 1 * * 0, differential: "*/30 0-6 1,15 jan-jun mon"}}',
    "shlink:postgres: {backups: {full: 0 0 29 2 *}}",
    (
        "shlink:postgres: {backups: {repositories: {repo2: {type: s3, bucket: my.backups, "
        'endpoint: "minio.example.org:9000", region: us-east-1, pathStyle: true, '
        "key: {secure: abc}, keySecret: {secure: abc}}}}}"
    ),
    (
        "shlink:postgres: {backups: {repositories: {repo2: {type: s3, bucket: 123456, "
        "endpoint: 10.0.0.7, pathStyle: true, region: r, key: k, keySecret: s}}}}"
    ),
    'shlink:vault: {address: "https://[2001:db8::1]:8200"}',
    "shlink:vault: {address: {secure: abc}}",
    "shlink:vault: {token: {secure: abc}}",
    (
        'shlink:vault: {mode: ha, replicas: "5", '
        "seal: {type: gcpckms, project: 123456, region: global, keyRing: r, cryptoKey: k}}"
    ),
    (
        'shlink:vault: {seal: {type: transit, address: "https://10.0.0.7:8300/v", keyName: k, '
        "token: {secure: abc}}}"
    ),
    (
        "shlink:vault: {authLogin: {path: auth/jwt/login, method: jwt, "
        "parameters: {role: r, jwt: {secure: abc}}}}"
    ),
    (
        "shlink:vault: {people: {type: oidc, discoveryUrl: https://id.example.org/realms/a, "
        "clientId: vault, clientSecret: {secure: abc}, viewers: [a b, /staff/ops], "
        "redirectUris: [https://127.0.0.1:8200/ui/vault/auth/people/oidc/callback]}}"
    ),
    (
        "shlink:vault: {people: {type: jwt, audiences: [vault], operators: [platform], "
        'publicKeys: ["-----BEGIN PUBLIC KEY-----\\nMFkw\\n-----END PUBLIC KEY-----"]}}'
    ),
    "shlink:redis: {}",
    "shlink:redis: {replicas: 5}",
    "shlink:redis: {mode: none}",
    (
        'shlink:redis: {mode: external, servers: ["rediss://[2001:db8::1]:6380/2"], '
        'cidr: "2001:db8::/32", password: {secure: abc}}'
    ),
    'shlink:redis: {mode: external, servers: [tcp://redis.example.org, "tcp://other:7000"]}',
    ("shlink:app: {environment: {CORS_MAX_AGE: 3600, DISABLE_TRACKING: 0, SHORT_URL_MODE: loose}}"),
    (
        'shlink:images: {shlink: "shlinkio/shlink:5.2.0"}\n'
        '  shlink:app: {environment: {SOMETHING_NEW_IN_SHLINK: "no"}}'
    ),
    "shlink:app: {secretEnvironment: {MATOMO_API_TOKEN: {secure: abc}, RABBITMQ_PASSWORD: plain}}",
    "shlink:app: {environment: {}, trustedProxies: []}",
    "shlink:app: {trustedProxies: 2}",
    'shlink:app: {trustedProxies: [10.0.0.7, "fd00::7", 10.1.0.0/16]}',
    "shlink:app: {domain: s.example.org, route: {type: none}, clients: [{namespace: tunnel}]}",
    (
        "shlink:app: {domain: s.example.org, https: true, "
        "route: {type: service, sourceRanges: [192.0.2.0/24], annotations: {a: b}}}"
    ),
    "shlink:app: {domain: s.example.org, https: true, route: {type: ingress, className: gce}}",
    (
        "shlink:app: {domain: s.example.org, https: true, "
        "route: {type: gateway, name: a, namespace: g}}\n  shlink:network: {policies: cilium}"
    ),
    (
        "shlink:app: {rabbitmq: {host: rabbitmq.broker.svc, user: u, password: {secure: a}, "
        "namespace: broker, labels: {app: rabbitmq}}, egress: [{cidrs: [192.0.2.1/32], ports: "
        "[443]}]}"
    ),
    (
        "shlink:app: {matomo: {baseUrl: https://m.example.org, siteId: 1, apiToken: {secure: a}}, "
        "mercure: {publicUrl: https://h.example.org/hub, jwtSecret: {secure: a}}}"
    ),
    "shlink:app: {timezone: America/Argentina/Buenos_Aires}",
    "shlink:app: {timezone: Etc/GMT+1}",
    "shlink:app: {timezone: US/Eastern}",
    'shlink:app: {basePath: /a/b.c, domain: "S.Example.org:8443"}',
    "shlink:app: {domain: 10.0.0.7}",
    'shlink:app: {domain: "[2001:db8::1]:8080"}',
    "shlink:app: {domain: xn--mnchen-3ya.example}",
    (
        f"shlink:app: {{domain: s.example.org, https: true, route: {{{_ROUTE}, tlsSecret: a.b, "
        "annotations: {cert-manager.io/cluster-issuer: x, n: 3}}}"
    ),
    (
        "shlink:app: {domain: s.example.org, route: {type: gateway, name: a.b, namespace: g, "
        "sectionName: https, controllerNamespace: e}}"
    ),
    (
        'shlink:images: {postgres: "r.example.org/crunchy-postgres:ubi9-16.11-2547", '
        'pgbackrest: "r.example.org/crunchy-pgbackrest:ubi9-2.56.0-2547"}'
    ),
    (
        f"shlink:app: {{domain: s.example.org, https: true, route: {{{_ROUTE}, "
        "domains: [s.example.net], rest: s.example.net, tlsSecrets: {s.example.net: net}}}"
    ),
    (
        "shlink:app: {domain: s.example.org, route: {type: gateway, name: a, namespace: g, "
        "sectionName: [a, b.c], rest: nowhere, controllerNamespace: e}}"
    ),
    'shlink:images: {registry: "localhost:5000"}',
    "shlink:images: {registry: registry.example.org/a/b}",
    f'shlink:images: {{shlink: "shlinkio/shlink@{_DIGEST}"}}',
    f'shlink:images: {{redis: "redis:7@{_DIGEST}"}}',
    'shlink:images: {shlink: "shlinkio/shlink:5.1.6-non-root"}',
    'shlink:images: {shlink: "shlinkio/shlink:4.5.3"}\n  shlink:redis: {mode: none}',
    "shlink:charts: {vault: {version: 0.33.0}}",
    "shlink:charts: {vault: {version: 1.0.0-rc.1+build}}",
    (
        "shlink:charts: {redisOperator: "
        "{repository: oci://ghcr.io/freshworks-oss/charts/redis-operator, version: v3.3.5}}"
    ),
    'shlink:operators: {pgo: {install: "false", namespace: platform}}',
    "shlink:operators: {pgo: {install: true}}",
    'shlink:network: {apiServer: [10.96.0.1/32, "fd00::/8"], apiServerPorts: [443, "8443"]}',
    'shlink:network: {monitoringNamespace: "123"}',
    (
        "shlink:placement: {nodeSelector: "
        '{kubernetes.io/arch: amd64, node-role.kubernetes.io/worker: ""}}'
    ),
    (
        'shlink:placement: {nodeSelector: {pool: "7"}, '
        'spreadZones: "true", priorityClassName: high.first}'
    ),
    (
        "shlink:placement: {tolerations: "
        "[{operator: Exists}, {key: pool, value: shlink, effect: NoSchedule}]}"
    ),
    (
        "shlink:placement: {tolerations: "
        '[{key: a.b/c, operator: Exists, effect: NoExecute, tolerationSeconds: "60"}]}'
    ),
    (
        "shlink:images: {pullCredentials: "
        "[{registry: docker.io, username: u, password: {secure: abc}}]}"
    ),
    (
        "shlink:images: {pullCredentials: "
        '[{registry: "localhost:5000/a", username: 7, password: "with space"}]}'
    ),
    "kubernetes:kubeconfig: {secure: abc}",
    'kubernetes:kubeconfig: \'{"apiVersion": "v1", "kind": "Config"}\'',
    "kubernetes:kubeconfig: |\n    apiVersion: v1\n    kind: Config",
    'kubernetes:clusterIdentifier: "42"',
    "app: {replicas: 2}",
    "shlink:config:app: {replicas: 2}",
    "aws:region: eu-central-1\n  other:date: 2026-01-01",
    "shlink:app: &shared {domain: s.example.org}\n  other:app: *shared",
    (
        "shlink:postgres: {resources: &r {memory: 512Mi, memoryLimit: 1Gi}}\n"
        "  shlink:redis: {resources: {<<: *r, cpu: 1}}"
    ),
    "shlink:app: {domain: 'yes', logsFormat: console}",
    # Certificates in every place that takes some.
    (
        "shlink:vault: {mode: ha, replicas: 5, seal: {type: transit, keyName: autounseal, "
        "address: https://vault.corp.example:8200, mountPath: transit/team-a/, "
        f"token: {_SECURE}, ca: {_PEM}}}}}"
    ),
    (
        "shlink:vault: {people: {type: oidc, discoveryUrl: https://id.example.org/realms/a, "
        f"clientId: vault, clientSecret: {_SECURE}, operators: [platform-team], ca: {_PEM}}}}}"
    ),
    (
        "shlink:vault: {people: {type: jwt, audiences: [vault], operators: [ci], "
        f"discoveryUrl: https://ci.example.org, ca: {_PEM}}}}}"
    ),
    f"shlink:postgres: {{{_repositories(repo2=f'{_AMAZON}, {_KEY}, ca: {_PEM}')}}}",
    (
        "shlink:redis: {mode: external, servers: ['tls://redis.example.org:6380'], "
        f"password: {_SECURE}, user: shlink, ca: {_PEM}}}"
    ),
    # Redis elsewhere.
    (
        "shlink:redis: {mode: external, sentinelService: mymaster, "
        "servers: ['tcp://redis-node-0.redis.example.org:26379', "
        f"'tcp://redis-node-1.redis.example.org:26379'], password: {_SECURE}}}"
    ),
    (
        "shlink:redis: {mode: external, servers: ['tcp://10.1.2.3:6379'], "
        "cidr: [10.1.2.0/24, 10.1.3.0/24]}"
    ),
    "shlink:redis: {mode: external, servers: ['tcp://redis.example.org?database=3']}",
    (
        "shlink:redis: {mode: external, servers: ['tcp://redis.example.org:6379']}\n"
        "  shlink:app: {pubSub: true}"
    ),
    (
        "shlink:redis: {mode: external, sentinelService: mymaster, "
        "servers: ['tcp://sentinels.example.org:26379', 'tcp://sentinels.example.org:26379']}"
    ),
    # Object stores.
    (
        f"shlink:postgres: {{{_repositories(repo2=_AMAZON)}, serviceAccountAnnotations: "
        "{eks.amazonaws.com/role-arn: arn:aws:iam::123456789012:role/backups}}"
    ),
    f"shlink:postgres: {{{_repositories(repo2=f'type: gcs, bucket: a_b, key: {_SECURE}')}}}",
    f"shlink:postgres: {{{_repositories(repo2='type: azure, container: a-b, account: acc')}}}",
    (
        "shlink:postgres: {"
        + _repositories(
            repo2=f"type: azure, container: backups, account: acc, key: {_SECURE}",
            repo3=f"{_AMAZON}, {_KEY}, full: 0 5 * * 0, differential: 0 5 * * 1-6",
        )
        + "}"
    ),
    (
        "shlink:postgres: {"
        + _repositories(
            repo2="type: s3, bucket: backups, endpoint: nyc3.digitaloceanspaces.com, "
            f"region: us-east-1, {_KEY}"
        )
        + "}"
    ),
    (
        "shlink:postgres: {storage: {size: 20Gi}, "
        "backups: {processes: 4, compression: zst, pendingWal: 8Gi}}"
    ),
    (
        f"shlink:postgres: {{restore: {{type: store, path: /a/b/repo2, passphrase: {_SECURE}, "
        f"time: '2026-02-28 09:30:00.5+05:30', store: {{{_AMAZON}, {_KEY}}}}}}}"
    ),
    (
        "shlink:postgres: {restore: {type: store, path: /a/b/repo2, "
        f"store: {{{_AMAZON}, {_KEY}, encrypted: false}}}}}}"
    ),
    (
        "shlink:postgres: {restore: {type: inPlace, number: 3, set: 20261124-093000F, "
        "time: '2026-11-24 10:30:00+00'}}"
    ),
    # Parameters.
    (
        "shlink:postgres: {resources: {memoryLimit: 2Gi}, parameters: {shared_buffers: 1GB, "
        "work_mem: 16MB, wal_level: logical, jit: false, random_page_cost: 1.1, "
        "log_min_duration_statement: 500, pg_stat_statements.max: 5000, max_wal_size: 4GB}}"
    ),
    (
        "shlink:postgres: {synchronous: true, instances: 3, "
        "parameters: {synchronous_commit: remote_apply, max_wal_senders: 12}}"
    ),
    "shlink:postgres: {pooler: {}}",
    "shlink:postgres: {version: 18, parameters: {ssl_groups: X25519}}",
    "shlink:allowedChanges: ['postgres.version: 16 -> 17']",
    (
        "shlink:monitoring: {enabled: true, backupHours: 25}\n"
        "  shlink:network: {monitoringNamespace: monitoring}"
    ),
    (
        "shlink:app: {webWorkers: 16, taskWorkers: 8, resources: {memoryLimit: 1Gi}}\n"
        "  shlink:postgres: {maxConnections: 200}"
    ),
    "shlink:app: !!map {domain: x.example.org}",
)


def files() -> list[str]:
    """Every right file."""
    return [f"config:\n  kubernetes:context: lab\n  {line}\n" for line in CASES]
