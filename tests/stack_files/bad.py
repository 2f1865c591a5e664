"""Wrong stack files, by class.

A case is a line below `config:` (the context is added) and words of the message. A case in `WHOLE`
is a whole file.
"""

from collections.abc import Sequence

Case = tuple[str, str]

_OIDC = "type: oidc, discoveryUrl: https://id, clientId: c, clientSecret: s"
_SEAL = "seal: {type: awskms, region: eu-central-1, kmsKeyId: alias/v}"
_S3 = {
    "type": "s3",
    "bucket": "buck",
    "endpoint": "s3.example.org",
    "region": "r",
    "key": "k1",
    "keySecret": "s1",
}
_ROUTE = "type: ingress, className: nginx, controllerNamespace: ingress"
_DIGEST = "sha256:" + "ab" * 32


def _s3(**changes: str | None) -> str:
    """Backups in an S3 bucket with these fields changed. None leaves a field out."""
    values = (_S3 | changes).items()
    fields = ", ".join(f"{key}: {value}" for key, value in values if value is not None)
    return f"shlink:postgres: {{backups: {{repositories: {{repo2: {{{fields}}}}}}}}}"


SIZES: Sequence[Case] = (
    (
        "shlink:app: {resources: {cpu: 256Mi}}",
        'app.resources.cpu: "256Mi" is not allowed; allowed: processors',
    ),
    ("shlink:app: {resources: {cpu: 0}}", 'app.resources.cpu: "0"'),
    ("shlink:app: {resources: {cpu: -1}}", 'app.resources.cpu: "-1"'),
    ("shlink:app: {resources: {cpu: 0m}}", 'app.resources.cpu: "0m"'),
    ("shlink:app: {resources: {cpu: 1.5m}}", 'app.resources.cpu: "1.5m"'),
    ("shlink:app: {resources: {cpu: true}}", "put it in quotes"),
    (
        "shlink:app: {resources: {cpu: [1]}}",
        "app.resources.cpu: must be a single value, and is a list",
    ),
    ("shlink:app: {resources: {cpu: 5000}}", 'app.resources.cpu: "5000"'),
    ("shlink:app: {resources: {cpu: 1e3}}", "app.resources.cpu"),
    ("shlink:app: {resources: {cpu: \u0663}}", "app.resources.cpu"),
    (
        "shlink:app: {resources: {memory: 500m}}",
        'app.resources.memory: "500m" is not allowed; allowed: memory with its unit',
    ),
    ("shlink:app: {resources: {memory: 512}}", "app.resources.memory: 512 is not allowed"),
    ("shlink:app: {resources: {memory: 256MB}}", 'app.resources.memory: "256MB"'),
    ("shlink:app: {resources: {memory: 256mi}}", 'app.resources.memory: "256mi"'),
    ("shlink:app: {resources: {memory: 1Mi}}", 'app.resources.memory: "1Mi"'),
    ("shlink:app: {resources: {memory: 0Gi}}", 'app.resources.memory: "0Gi"'),
    ("shlink:app: {resources: {memory: 256 Mi}}", 'app.resources.memory: "256 Mi"'),
    ("shlink:app: {resources: {memory: 99999999Gi}}", "app.resources.memory"),
    ("shlink:app: {resources: {memory: 1Pi}}", "app.resources.memory"),
    (
        "shlink:app: {resources: {memory: 1Gi, memoryLimit: 512Mi}}",
        "app.resources.memoryLimit: 512Mi is less than the request",
    ),
    (
        "shlink:app: {resources: {memory: 1Gi}}",
        "app.resources.memoryLimit: 512Mi is less than the request `memory` of 1Gi",
    ),
    ("shlink:redis: {resources: {memory: 512Mi}}", "redis.resources.memoryLimit: 256Mi is less"),
    (
        "shlink:redis: {sentinelResources: {memoryLimit: 16Mi}}",
        "redis.sentinelResources.memoryLimit: 16Mi is less",
    ),
    (
        "shlink:postgres: {resources: {memoryLimit: 100Mi}}",
        "postgres.resources.memoryLimit: 100Mi is less",
    ),
    (
        "shlink:vault: {resources: {memory: 1G, memoryLimit: 900Mi}}",
        "vault.resources.memoryLimit: 900Mi is less",
    ),
    (
        "shlink:operators: {pgo: {resources: {memoryLimit: 64Mi}}}",
        "operators.pgo.resources.memoryLimit: 64Mi is less",
    ),
    (
        "shlink:app: {resources: {limits: {memory: 1Gi}}}",
        "app.resources.limits: is not a setting; allowed: cpu, memory, memoryLimit",
    ),
    ("shlink:app: {resources: 256Mi}", "app.resources: must be a map of keys; allowed: cpu"),
    ("shlink:postgres: {storage: {size: 1Mi}}", 'postgres.storage.size: "1Mi"'),
    ("shlink:postgres: {storage: {size: 10GB}}", "with a binary unit, such as 500Mi, 10Gi"),
    ("shlink:postgres: {storage: {size: 10G}}", 'postgres.storage.size: "10G"'),
    ("shlink:postgres: {storage: {size: 10gi}}", 'postgres.storage.size: "10gi"'),
    ("shlink:postgres: {storage: {size: 10}}", "postgres.storage.size: 10 is not allowed"),
    ("shlink:postgres: {storage: {size: 0Gi}}", 'postgres.storage.size: "0Gi"'),
    ("shlink:postgres: {storage: {size: 99999999999Gi}}", "postgres.storage.size"),
    ("shlink:postgres: {storage: {size: \u0661Gi}}", "postgres.storage.size"),
    (
        "shlink:postgres: {storage: 10Gi}",
        "postgres.storage: must be a map of keys; allowed: size, storageClass",
    ),
    (
        "shlink:postgres: {storage: {storageClass: Fast SSD}}",
        'postgres.storage.storageClass: "Fast SSD"',
    ),
    (
        'shlink:postgres: {storage: {storageClass: ""}}',
        'postgres.storage.storageClass: "" is empty',
    ),
    ("shlink:vault: {storage: {storageClass: Fast}}", "vault.storage.storageClass"),
    ("shlink:redis: {storage: {size: 512M}}", "redis.storage.size"),
    ("shlink:app: {memoryLimit: 256Mi}", "allowed: PHP's unit M"),
    ("shlink:app: {memoryLimit: 256}", "app.memoryLimit"),
    ("shlink:app: {memoryLimit: 1M}", "app.memoryLimit"),
    ("shlink:app: {memoryLimit: -1}", "app.memoryLimit"),
)

NUMBERS: Sequence[Case] = (
    ("shlink:app: {replicas: true}", "app.replicas: true is not a whole number; allowed: 0 to 50"),
    ("shlink:app: {replicas: 2.5}", "app.replicas: 2.5 is not a whole number"),
    ("shlink:app: {replicas: three}", 'app.replicas: "three" is not a whole number'),
    ("shlink:app: {replicas: -1}", "app.replicas: -1 is out of range"),
    ("shlink:app: {replicas: 51}", "app.replicas: 51 is out of range"),
    ('shlink:app: {replicas: "03"}', 'app.replicas: "03" is not a whole number'),
    ("shlink:app: {replicas: 03}", '"03" is read as the number 3 by Pulumi: put it in quotes'),
    ("shlink:app: {replicas: 0x3}", "is read as the number 3"),
    ("shlink:app: {replicas: 1_0}", "is read as the number 10"),
    ("shlink:app: {replicas: \uff13}", "app.replicas"),
    ('shlink:app: {replicas: " 3"}', "app.replicas"),
    ("shlink:app: {replicas: null}", "app.replicas: null is empty; leave the key out"),
    ("shlink:app: {replicas: }", "app.replicas: null is empty"),
    ("shlink:app: {replicas: [3]}", "app.replicas: must be a single value, and is a list"),
    ("shlink:app: {replicas: {min: 3}}", "app.replicas: must be a single value, and is a map"),
    ("shlink:app: {replicas: 99999999999999999999}", "app.replicas"),
    ("shlink:app: {replicas: .inf}", "is no number that can be used"),
    ("shlink:app: {replicas: .nan}", "is no number that can be used"),
    ("shlink:app: {webWorkers: 0}", "app.webWorkers: 0 is out of range"),
    ("shlink:app: {taskWorkers: 65}", "app.taskWorkers: 65 is out of range"),
    ("shlink:app: {verbosity: 4}", "app.verbosity: 4 is not allowed; allowed: 0, 1, 2, 3"),
    ("shlink:app: {verbosity: true}", "app.verbosity: true is not a whole number"),
    ("shlink:app: {https: 1}", "app.https: 1 is neither true nor false"),
    (
        "shlink:app: {https: yes}",
        'app.https: "yes" is neither true nor false; allowed: true, false',
    ),
    ("shlink:app: {https: on}", 'app.https: "on" is neither true nor false'),
    ('shlink:app: {https: ""}', 'app.https: "" is neither true nor false'),
    ('shlink:app: {https: "True"}', 'app.https: "True" is neither'),
    ("shlink:app: {https: null}", "app.https: null is empty"),
    ("shlink:app: {https: [true]}", "app.https: must be a single value"),
    ("shlink:protect: yes", 'protect: "yes" is neither true nor false'),
    ("shlink:protect: 1", 'protect: "1" is neither true nor false'),
    ("shlink:protect: {a: 1}", "protect: must be a single value, and is a map"),
    (
        "shlink:postgres: {version: 14}",
        "postgres.version: 14 is not allowed; allowed: 15, 16, 17, 18",
    ),
    ("shlink:postgres: {version: 16.4}", "postgres.version: 16.4 is not a whole number"),
    ("shlink:postgres: {version: sixteen}", "postgres.version"),
    ("shlink:postgres: {instances: 0}", "postgres.instances: 0 is out of range"),
    ("shlink:postgres: {instances: 10}", "postgres.instances: 10 is out of range"),
    ("shlink:postgres: {maxConnections: 20}", "postgres.maxConnections: 20 is out of range"),
    (
        "shlink:postgres: {localPort: 80}",
        "postgres.localPort: 80 is out of range; allowed: 1024 to 65535",
    ),
    ("shlink:postgres: {localPort: 99999}", "postgres.localPort: 99999 is out of range"),
    ("shlink:vault: {localPort: 0}", "vault.localPort: 0 is out of range"),
    ("shlink:redis: {sentinels: 4}", "redis.sentinels: 4 is not allowed; allowed: 3, 5, 7, 9"),
    ("shlink:redis: {sentinels: 1}", "redis.sentinels: 1 is not allowed"),
    ("shlink:redis: {replicas: 2}", "redis.replicas: 2 is out of range"),
    ("shlink:rotation: {redis: 0}", "rotation.redis: 0 is out of range"),
    ("shlink:rotation: {redis: 1.5}", "rotation.redis: 1.5 is not a whole number"),
    ("shlink:rotation: 2", "rotation: must be a map of keys"),
    ("shlink:network: {apiServerPorts: [0]}", "network.apiServerPorts.0: 0 is out of range"),
    (
        "shlink:network: {apiServerPorts: [70000]}",
        "network.apiServerPorts.0: 70000 is out of range",
    ),
    (
        "shlink:network: {apiServerPorts: [https]}",
        'network.apiServerPorts.0: "https" is not a whole number',
    ),
    (
        "shlink:network: {apiServerPorts: 443}",
        "must be a list, as in [a, b]",
    ),
)

SCHEDULES: Sequence[Case] = tuple(
    (f'shlink:postgres: {{backups: {{full: "{schedule}"}}}}', words)
    for schedule, words in (
        ("weekly", '"weekly" is not allowed; allowed: a schedule of five fields'),
        ("@daily", '"@daily" is not allowed'),
        ("99 1 * * *", '"99 1 * * *" has an impossible minute'),
        ("0 24 * * *", '"0 24 * * *" has an impossible hour'),
        ("0 1 32 * *", '"0 1 32 * *" has an impossible day-of-month'),
        ("0 1 * 13 *", '"0 1 * 13 *" has an impossible month'),
        ("0 1 * * 8", '"0 1 * * 8" has an impossible day-of-week'),
        ("0 1 * * 7", '"0 1 * * 7" has weekday 7'),
        ("*/0 * * * *", '"*/0 * * * *" has an impossible minute'),
        ("5-1 * * * *", '"5-1 * * * *" has an impossible minute'),
        ("0 0 31 2 *", '"0 0 31 2 *" has an impossible day-of-month'),
        ("0 0 30 2 *", '"0 0 30 2 *" has an impossible day-of-month'),
        ("0 0 31 4 *", '"0 0 31 4 *"'),
        ("0 0 12 * * ?", '"0 0 12 * * ?" is not allowed'),
        ("0 0 0 1 1 * 2026", "is not allowed"),
        ("0 1 * *", '"0 1 * *" is not allowed'),
        ("0 0 L * *", "Kubernetes' schedules do not have"),
        ("0 0 * * 5#2", "is not allowed"),
        ("0  1 * * 0", "is not allowed"),
        ("0 1 * * sunday", "Kubernetes' schedules do not have"),
        ("\u0660 1 * * 0", "is not allowed"),
        ("a b c d e", "Kubernetes' schedules do not have"),
        ("", '"" is empty'),
    )
)

ADDRESSES: Sequence[Case] = (
    (
        "shlink:network: {apiServer: [10.0.0.5/8]}",
        'apiServer.0: "10.0.0.5/8" has host bits set; write 10.0.0.0/8 or the one address with /32',
    ),
    (
        "shlink:network: {apiServer: [10.0.0.0/33]}",
        'network.apiServer.0: "10.0.0.0/33" is not allowed',
    ),
    (
        "shlink:network: {apiServer: [10.0.0.1]}",
        'network.apiServer.0: "10.0.0.1" is not allowed; allowed: a network in CIDR notation',
    ),
    ("shlink:network: {apiServer: [256.0.0.0/8]}", "network.apiServer.0"),
    ("shlink:network: {apiServer: [10.0.0/24]}", "network.apiServer.0"),
    ('shlink:network: {apiServer: ["2001:db8::1/32"]}', "has host bits set; write 2001:db8::/32"),
    ('shlink:network: {apiServer: ["2001:db8::/129"]}', "network.apiServer.0"),
    ('shlink:network: {apiServer: ["1::2::3/64"]}', "is no network"),
    ("shlink:network: {apiServer: [010.0.0.0/8]}", "network.apiServer.0"),
    ("shlink:network: {apiServer: [kubernetes.default]}", "network.apiServer.0"),
    ("shlink:network: {apiServer: 10.0.0.0/8}", "must be a list"),
    ("shlink:network: {apiServer: []}", "network.apiServer: must not be empty"),
    ("shlink:network: {apiServerPorts: []}", "network.apiServerPorts: must not be empty"),
    ("shlink:network: {dnsNamespace: Kube_System}", "network.dnsNamespace"),
    ('shlink:network: {dnsNamespace: ""}', "network.dnsNamespace"),
    ("shlink:network: {monitoringNamespace: -x}", "network.monitoringNamespace"),
    (f"shlink:network: {{monitoringNamespace: {'a' * 64}}}", "network.monitoringNamespace"),
    (
        "shlink:app: {trustedProxies: [10.0.0.7/8]}",
        'app.trustedProxies.0: "10.0.0.7/8" has host bits',
    ),
    (
        'shlink:app: {trustedProxies: ["fd00:10:244::/56"]}',
        "is a network of IPv6, with which Shlink answers every short URL with an error",
    ),
    ("shlink:app: {trustedProxies: [2, 10.0.0.1]}", "has a number beside others"),
    (
        "shlink:app: {domain: s.example.org, route: {type: none}}",
        "app.clients: is missing; with route.type none",
    ),
    (
        f"shlink:app: {{route: {{{_ROUTE}}}}}",
        'app.domain: "localhost:8080" is the machine of whoever follows a short URL',
    ),
    (
        f"shlink:app: {{domain: s.example.org, route: {{{_ROUTE}, tlsSecret: a}}}}",
        "app.https: false makes links with http, but the route has a certificate",
    ),
    (
        "shlink:app: {environment: {RABBITMQ_ENABLED: true}}",
        "app.environment.RABBITMQ_ENABLED: the network policies leave no way there",
    ),
    (
        (
            "shlink:app: {secretEnvironment: {RABBITMQ_PASSWORD: {secure: a}}, rabbitmq: "
            "{host: r, user: u, password: {secure: a}}}"
        ),
        "app.environment.RABBITMQ_PASSWORD: is set by `rabbitmq`",
    ),
    ("shlink:app: {egress: [{ports: [443]}]}", "cidrs: is missing, and so is `namespace`"),
    (
        "shlink:app: {egress: [{cidrs: [10.0.0.0/8], labels: {a: b}, ports: [443]}]}",
        "labels: belongs to `namespace`, which is missing",
    ),
    ("shlink:app: {trustedProxies: proxy}", 'app.trustedProxies.0: "proxy"'),
    (
        "shlink:app: {domain: https://s.example.org}",
        (
            'app.domain: "https://s.example.org" is not allowed; '
            "allowed: host or host:port without a scheme"
        ),
    ),
    ("shlink:app: {domain: s.example.org/x}", "app.domain"),
    (
        'shlink:app: {domain: "s.example.org:99999"}',
        'app.domain: "s.example.org:99999" has the port 99999; allowed: 1 to 65535',
    ),
    ('shlink:app: {domain: "s.example.org:0"}', "app.domain"),
    ("shlink:app: {domain: -s.example.org}", "app.domain"),
    ("shlink:app: {domain: s..example.org}", "app.domain"),
    ("shlink:app: {domain: s_x.example.org}", "app.domain"),
    ("shlink:app: {domain: münchen.example}", "app.domain"),
    (
        'shlink:app: {domain: "s.example.org "}',
        'app.domain: "s.example.org " begins or ends with a space',
    ),
    (
        "shlink:app: {domain: 999.1.1.1}",
        "app.domain: \"999.1.1.1\" has '999.1.1.1' in it, which is no IP address",
    ),
    (f"shlink:app: {{domain: {'a' * 64}.example.org}}", "app.domain"),
    ("shlink:app: {domain: [s.example.org]}", "app.domain: must be a single value, and is a list"),
    ("shlink:app: {domain: }", "app.domain: null is empty"),
    ('shlink:app: {domain: ""}', 'app.domain: "" is empty'),
    ("shlink:app: {basePath: s}", 'app.basePath: "s" is not allowed'),
    ("shlink:app: {basePath: /s/}", "app.basePath"),
    ("shlink:app: {basePath: /}", "app.basePath"),
    ("shlink:app: {basePath: /a b}", "app.basePath"),
    ("shlink:app: {basePath: /../x}", "app.basePath"),
    ('shlink:app: {basePath: "/s?x=1"}', "app.basePath"),
    (
        "shlink:app: {timezone: Europe/Berln}",
        'app.timezone: "Europe/Berln" is no time zone; write one such as Europe/Berlin',
    ),
    ("shlink:app: {timezone: CEST}", "app.timezone"),
    ("shlink:app: {timezone: UTC+2}", "app.timezone"),
    ("shlink:app: {timezone: europe/berlin}", "app.timezone"),
    ("shlink:app: {timezone: Factory}", "app.timezone"),
    (
        "shlink:app: {logsFormat: xml}",
        'app.logsFormat: "xml" is not allowed; allowed: console, json',
    ),
    (
        "shlink:vault: {address: vault:8200}",
        'vault.address: "vault:8200" is not allowed; allowed: http(s)://host:port',
    ),
    (
        'shlink:vault: {address: "http://vault:99999"}',
        'vault.address: "http://vault:99999" has the port 99999',
    ),
    ('shlink:vault: {address: "http://[::1"}', "vault.address"),
    ('shlink:vault: {address: "http://[zz::1]:8200"}', "vault.address"),
    ('shlink:vault: {address: "http://[1:2]:8200"}', "is no IP address"),
    ('shlink:vault: {address: "http://vault/?x=1"}', "vault.address"),
    ("shlink:vault: {address: ftp://vault}", "vault.address"),
    ('shlink:postgres: {address: "postgres://h:5432"}', "postgres.address"),
    (
        'shlink:postgres: {address: "db.example.org:70000"}',
        'postgres.address: "db.example.org:70000" has the port 70000',
    ),
    ('shlink:postgres: {address: "2001:db8::1:5432"}', "postgres.address"),
    (
        'shlink:redis: {mode: external, servers: ["redis:6379"]}',
        'redis.servers.0: "redis:6379" is not allowed; allowed: tcp://host:port',
    ),
    ('shlink:redis: {mode: external, servers: ["tcp://r:port"]}', "redis.servers.0"),
    (
        'shlink:redis: {mode: external, servers: ["tcp://r:99999"]}',
        'redis.servers.0: "tcp://r:99999" has the port 99999',
    ),
    ('shlink:redis: {mode: external, servers: ["tcp://[::1:6379"]}', "redis.servers.0"),
    ('shlink:redis: {mode: external, servers: ["tcp://r:1,tcp://s:2"]}', "redis.servers.0"),
    ('shlink:redis: {mode: external, servers: "tcp://r:6379"}', "must be a list"),
    ("shlink:redis: {mode: external, servers: []}", "redis.servers: must not be empty"),
    ("shlink:redis: {mode: external}", "redis.servers: is missing"),
    (
        'shlink:redis: {mode: external, servers: ["tcp://r:6379"], cidr: 10.0.0.1/24}',
        'redis.cidr.0: "10.0.0.1/24" has host bits',
    ),
)

NAMES: Sequence[Case] = (
    (
        f"shlink:app: {{route: {{{_ROUTE}, tlsSecret: TLS_Secret}}}}",
        'app.route.tlsSecret: "TLS_Secret"',
    ),
    (f'shlink:app: {{route: {{{_ROUTE}, tlsSecret: ""}}}}', 'app.route.tlsSecret: "" is empty'),
    (
        "shlink:app: {route: {type: ingress, className: Nginx!, controllerNamespace: i}}",
        "app.route.className",
    ),
    (
        "shlink:app: {domain: s.example.org, route: {type: ingress, className: nginx}}",
        "app.route.controllerNamespace: is missing",
    ),
    (
        "shlink:app: {route: {type: ingress, controllerNamespace: i}}",
        "app.route.className: is missing",
    ),
    (
        "shlink:app: {route: {type: loadbalancer}}",
        "app.route: `type: loadbalancer` is not possible; allowed: type: gateway, type: ingress",
    ),
    (
        "shlink:app: {route: {className: nginx}}",
        "app.route: `type` is missing; allowed: type: gateway, type: ingress",
    ),
    ("shlink:app: {route: ingress}", "app.route: must be a map of keys"),
    ("shlink:app: {route: [ingress]}", "app.route: must be a map of keys"),
    (
        f'shlink:app: {{route: {{{_ROUTE}, annotations: {{"bad key!": x}}}}}}',
        "app.route.annotations.bad key!",
    ),
    (
        f"shlink:app: {{route: {{{_ROUTE}, annotations: {{a/b/c: x}}}}}}",
        "app.route.annotations.a/b/c",
    ),
    (
        f"shlink:app: {{route: {{{_ROUTE}, annotations: {{a: true}}}}}}",
        "app.route.annotations.a: true is not text: put it in quotes",
    ),
    (
        f"shlink:app: {{route: {{{_ROUTE}, annotations: {{a: 1.10}}}}}}",
        "is not text: put it in quotes",
    ),
    (
        f"shlink:app: {{route: {{{_ROUTE}, annotations: {{a: 2026-01-01}}}}}}",
        "is read as a date by Pulumi: put it in quotes",
    ),
    (
        f"shlink:app: {{route: {{{_ROUTE}, annotations: [a]}}}}",
        "app.route.annotations: must be a map of keys",
    ),
    (f"shlink:app: {{route: {{{_ROUTE}, path: /}}}}", "app.route.path: is not a setting"),
    ("shlink:app: {maxReplicas: 2}", "app.maxReplicas: 2 is less than `replicas`, 3"),
    (f"shlink:app: {{route: {{{_ROUTE}, rest: here}}}}", 'app.route.rest: "here"'),
    (
        f"shlink:app: {{domain: a.example, route: {{{_ROUTE}, rest: b.example}}}}",
        "route.rest: b.example is no host of this route; allowed: everywhere, nowhere, a.example",
    ),
    (f"shlink:app: {{route: {{{_ROUTE}, domains: [A.example]}}}}", "app.route.domains"),
    (
        f"shlink:app: {{domain: a.example, route: {{{_ROUTE}, tlsSecrets: {{b.example: b}}}}}}",
        "route.tlsSecrets: b.example is no host of this route; allowed: a.example",
    ),
    (
        f'shlink:app: {{domain: "10.0.0.7:8080", route: {{{_ROUTE}}}}}',
        'app.domain: "10.0.0.7:8080" can\'t be routed to',
    ),
    (
        f"shlink:app: {{domain: S.Example.org, route: {{{_ROUTE}}}}}",
        'app.domain: "S.Example.org" can\'t be routed to',
    ),
    (
        (
            "shlink:app: {route: "
            "{type: gateway, name: Public_GW, namespace: g, controllerNamespace: e}}"
        ),
        'app.route.name: "Public_GW"',
    ),
    (
        "shlink:app: {route: {type: gateway, name: g, namespace: a.b, controllerNamespace: e}}",
        "app.route.namespace",
    ),
    (
        (
            "shlink:app: {route: {type: gateway, name: g, namespace: a, controllerNamespace: e, "
            'sectionName: "a b"}}'
        ),
        "app.route.sectionName",
    ),
    (
        'shlink:vault: {serviceAccountAnnotations: {eks.amazonaws.com/role-arn: ""}}',
        "vault.serviceAccountAnnotations.eks.amazonaws.com/role-arn",
    ),
    ('shlink:vault: {serviceAccountAnnotations: {"-x": a}}', "vault.serviceAccountAnnotations.-x"),
    ("shlink:operators: {pgo: {install: false}}", "operators.pgo.namespace: is missing"),
    (
        "shlink:operators: {pgo: {namespace: platform}}",
        "operators.pgo.namespace: is fixed while `install` is true",
    ),
    (
        "shlink:operators: {pgo: {install: false, namespace: Platform}}",
        'operators.pgo.namespace: "Platform"',
    ),
    ("shlink:operators: {pgo: false}", "operators.pgo: must be a map of keys"),
    ("shlink:operators: {certManager: {install: true}}", "operators.certManager: is not a setting"),
    (
        _s3(bucket="B"),
        'postgres.backups.repositories.repo2.bucket: "B"',
    ),
    (
        _s3(bucket='""'),
        'postgres.backups.repositories.repo2.bucket: "" is empty',
    ),
    (
        _s3(endpoint='"https://s3.example.org"'),
        "postgres.backups.repositories.repo2.endpoint",
    ),
    (
        _s3(region='""'),
        "postgres.backups.repositories.repo2.region",
    ),
    (
        _s3(region="eu west"),
        "postgres.backups.repositories.repo2.region",
    ),
    (
        _s3(key='""'),
        "postgres.backups.repositories.repo2.key: [secret] is empty",
    ),
    (
        _s3(key='"a\\nb=c"'),
        "postgres.backups.repositories.repo2.key: [secret] has a line break",
    ),
    (
        _s3(keySecret=None),
        "postgres.backups.repositories.repo2: `key` and `keySecret` belong together",
    ),
    (
        _s3(bucket='"a\\nb"'),
        "postgres.backups.repositories.repo2.bucket",
    ),
    (
        "shlink:postgres: {backups: {retentionFull: 0}}",
        "postgres.backups.retentionFull: 0 is out of range",
    ),
    ("shlink:postgres: {backups: daily}", "postgres.backups: must be a map of keys"),
)

ENVIRONMENT: Sequence[Case] = (
    *(
        (
            f"shlink:app: {{environment: {{{name}: hunter2}}}}",
            f"app.environment.{name}: is a secret by its name",
        )
        for name in ("RABBITMQ_PASSWORD", "MATOMO_API_TOKEN", "MERCURE_JWT_SECRET", "MY_SECRET")
    ),
    ("shlink:app: {environment: {DISABLE_TRACKING: no}}", "[secret] is neither true nor false"),
    ("shlink:app: {environment: {SHORT_URL_MODE: lose}}", "did you mean loose?"),
    (
        "shlink:app: {secretEnvironment: {DISABLE_TRACKING: 'no'}}",
        "secretEnvironment.DISABLE_TRACKING: [secret] is neither",
    ),
    (
        "shlink:app: {environment: {CORS_ALLOW_CREDENTIALS: true}}",
        "environment.CORS_ALLOW_CREDENTIALS: is true for every origin",
    ),
    ("shlink:app: {environment: {APP_ENV: dev}}", "is set by this program and can't be changed"),
    ("shlink:app: {environment: {FOO_BAR: x}}", "FOO_BAR: is no variable of Shlink 4.6.0"),
    (
        "shlink:app: {environment: {MATOMO_BASE_URL_FILE: /x}}",
        "names a file, and no file can be put into the container",
    ),
    (
        "shlink:app: {environment: {DEFAULT_DOMAIN: x}}",
        "app.environment.DEFAULT_DOMAIN: is set by this program; the setting is shlink:app.domain",
    ),
    ('shlink:app: {environment: {WEB_WORKER_NUM: "9"}}', "the setting is shlink:app.webWorkers"),
    (
        "shlink:app: {environment: {DB_PASSWORD: hunter2}}",
        "app.environment.DB_PASSWORD: is set by this program",
    ),
    (
        "shlink:app: {environment: {DB_PASSWORD_FILE: /x}}",
        "app.environment.DB_PASSWORD_FILE: is set by this program",
    ),
    ("shlink:app: {environment: {DB_HOST: x}}", "is set by this program and can't be changed"),
    ("shlink:app: {environment: {REDIS_SERVERS: x}}", "is set by this program"),
    ("shlink:app: {environment: {INITIAL_API_KEY: x}}", "is set by this program"),
    ("shlink:app: {environment: {PGSSLMODE: disable}}", "is set by this program"),
    ('shlink:app: {environment: {PORT: "80"}}', "is set by this program"),
    ("shlink:app: {environment: {PATH: /x}}", "is set by this program"),
    (
        "shlink:app: {environment: {GEOLITE_LICENSE_KEY: x}}",
        "the setting is shlink:app.geoliteLicenseKey",
    ),
    (
        'shlink:app: {environment: {ANONYMIZE_REMOTE_ADR: "false"}}',
        "is no variable of Shlink 4.6.0; did you mean ANONYMIZE_REMOTE_ADDR?",
    ),
    (
        "shlink:app: {environment: {anonymize: x}}",
        "app.environment.anonymize: is not allowed; allowed: capital letters",
    ),
    ('shlink:app: {environment: {"A-B": x}}', "app.environment.A-B"),
    ('shlink:app: {environment: {"A=B": x}}', "app.environment.A=B"),
    ('shlink:app: {environment: {"A\\nB": x}}', "app.environment"),
    (
        'shlink:app: {environment: {CORS_MAX_AGE: ""}}',
        "app.environment.CORS_MAX_AGE: [secret] is empty",
    ),
    ("shlink:app: {environment: {CORS_MAX_AGE: 1.5}}", "is out of range; allowed: 0 to"),
    ("shlink:app: {environment: {CORS_MAX_AGE: [1]}}", "must be a single value, and is a list"),
    (
        "shlink:app: {environment: {CORS_MAX_AGE: 010}}",
        "is read as the number 8 by Pulumi: put it in quotes",
    ),
    (
        "shlink:app: {environment: {CORS_MAX_AGE: }}",
        "app.environment.CORS_MAX_AGE: [secret] is empty",
    ),
    ("shlink:app: {environment: [A=B]}", "app.environment: must be a map of keys"),
    (
        "shlink:app: {environment: {MATOMO_API_TOKEN: {secure: abc}}}",
        (
            "app.environment.MATOMO_API_TOKEN: is encrypted here, "
            "but would be in plain text in the Deployment"
        ),
    ),
    (
        'shlink:app: {secretEnvironment: {MATOMO_API_TOKEN: ""}}',
        "app.secretEnvironment.MATOMO_API_TOKEN: [secret] is empty",
    ),
    (
        "shlink:app: {secretEnvironment: {DB_PASSWORD: x}}",
        "app.secretEnvironment.DB_PASSWORD: is set by this program",
    ),
    (
        "shlink:app: {secretEnvironment: {MATOMO_API_TOKEN: 12}}",
        "app.secretEnvironment.MATOMO_API_TOKEN: [secret] is no text to Shlink",
    ),
    (
        'shlink:app: {environment: {CORS_MAX_AGE: "1"}, secretEnvironment: {CORS_MAX_AGE: "1"}}',
        "app.environment.CORS_MAX_AGE: is in `secretEnvironment` too",
    ),
    ("shlink:app: {domain: {secure: abc}}", "app.domain: is encrypted, but is no secret here"),
    ("shlink:app: {replicas: {secure: abc}}", "app.replicas: is encrypted, but is no secret here"),
    ('shlink:app: {geoliteLicenseKey: ""}', "app.geoliteLicenseKey: [secret] is empty"),
    (
        "shlink:app: {geoliteLicenseKey: 12345678}",
        "app.geoliteLicenseKey: [secret] is not text: put it in quotes",
    ),
    ("shlink:app: {geoliteLicenseKey: [a]}", "app.geoliteLicenseKey: must be a single value"),
)

IMAGES: Sequence[Case] = (
    ('shlink:images: {redis: "redis:7"}', "images.redis: \"redis:7\" has the mutable tag '7'"),
    ('shlink:images: {redis: "redis:7.2"}', "has the mutable tag '7.2'"),
    ('shlink:images: {shlink: "shlinkio/shlink:4"}', "has the mutable tag '4'"),
    ('shlink:images: {shlink: "shlinkio/shlink:4.6"}', "has the mutable tag '4.6'"),
    ('shlink:images: {shlink: "shlinkio/shlink:stable"}', "has the mutable tag 'stable'"),
    ("shlink:images: {shlink: shlinkio/shlink}", "has no tag"),
    ('shlink:images: {shlink: "https://docker.io/shlinkio/shlink:4.6.0"}', "images.shlink"),
    ('shlink:images: {shlink: "shlinkio/Shlink:4.6.0"}', "images.shlink"),
    ('shlink:images: {shlink: "shlinkio/shlink:4.6.0 "}', "images.shlink"),
    ('shlink:images: {shlink: "shlinkio/shlink:4.6.0@sha256:abc"}', "images.shlink"),
    ('shlink:images: {shlink: "shlinkio/shlink:-4.6.0"}', "images.shlink"),
    (
        'shlink:images: {shlink: "shlinkio/shlink:4.5.3"}',
        "images.shlink: shlinkio/shlink:4.5.3 can't give Redis a password through Sentinel",
    ),
    (f'shlink:images: {{shlink: "shlinkio/shlink:4.5@{_DIGEST}"}}', "can't give Redis a password"),
    ("shlink:images: {shlink: 4.6}", "images.shlink: 4.6 is not text: put it in quotes"),
    ("shlink:images: {shlink: [a]}", "images.shlink: must be a single value"),
    ('shlink:images: {shlnk: "a:1.2.3"}', "images.shlnk: is not a setting; did you mean `shlink`?"),
    ('shlink:images: {registry: "https://registry.example.org"}', "images.registry"),
    ("shlink:images: {registry: registry.example.org/}", "images.registry"),
    ('shlink:images: {registry: ""}', 'images.registry: "" is empty'),
    ("shlink:images: {registry: a b}", "images.registry"),
    (
        (
            'shlink:images: {postgres: "r.example.org/pg:ubi9-17.2-2547", '
            'pgbackrest: "r.example.org/b:ubi9-2.56.0-2547"}'
        ),
        (
            "images.postgres: r.example.org/pg:ubi9-17.2-2547 is PostgreSQL 17, "
            "but postgres.version is 16"
        ),
    ),
    (
        'shlink:images: {postgres: "r.example.org/pg:ubi9-16.11-2547"}',
        "images.pgbackrest: is missing",
    ),
    (
        'shlink:images: {pgbackrest: "r.example.org/b:ubi9-2.56.0-2547"}',
        "images.postgres: is missing",
    ),
    (
        (
            'shlink:images: {postgres: "r.example.org/pg:ubi9-16.11-2547", '
            'pgbackrest: "r.example.org/b:ubi9-2.55.0-2520"}'
        ),
        "is of another release than",
    ),
    (
        "shlink:charts: {redisOperator: {version: 3.3.0}}",
        "charts.redisOperator.version: 3.3.0 can't be installed",
    ),
    ("shlink:charts: {vault: {version: latest}}", 'charts.vault.version: "latest"'),
    ('shlink:charts: {vault: {version: "0.32"}}', 'charts.vault.version: "0.32"'),
    (
        "shlink:charts: {vault: {version: 0.32}}",
        "charts.vault.version: 0.32 is not text: put it in quotes",
    ),
    ('shlink:charts: {vault: {version: "[/x]"}}', "charts.vault.version"),
    ("shlink:charts: {pgo: {repository: ftp://x}}", 'charts.pgo.repository: "ftp://x"'),
    ("shlink:charts: {pgo: {repository: charts/pgo}}", "charts.pgo.repository"),
    ("shlink:charts: {pgo: 6.0.3}", "charts.pgo: must be a map of keys"),
    ("shlink:charts: {consul: {version: 1.0.0}}", "charts.consul: is not a setting"),
)

COMBINATIONS: Sequence[Case] = (
    (
        "shlink:postgres: {backups: {repositories: {repo1: {type: s3}}}}",
        "postgres.backups.repositories.repo1: is not allowed; allowed: repo2, repo3 or repo4",
    ),
    (
        "shlink:postgres: {backups: {repositories: {repo2: {type: ftp}}}}",
        "postgres.backups.repositories.repo2: `type: ftp` is not possible; allowed: type: azure,",
    ),
    (
        "shlink:postgres: {restore: {type: inPlace, number: 1, time: yesterday}}",
        'postgres.restore.time: "yesterday" is no moment that a calendar and a clock have',
    ),
    (
        "shlink:vault: {mode: ha}",
        "vault.seal: is missing; in mode ha every server must unseal by itself",
    ),
    (
        f"shlink:vault: {{mode: ha, replicas: 2, {_SEAL}}}",
        "vault.replicas: 2 is not allowed; allowed: 3, 5, 7",
    ),
    ("shlink:vault: {replicas: 3}", "vault.replicas: belongs to mode ha"),
    (
        "shlink:vault: {mode: cluster}",
        'vault.mode: "cluster" is not allowed; allowed: standalone, ha',
    ),
    ("shlink:vault: {seal: {type: shamir}}", "vault.seal: `type: shamir` is not possible"),
    ("shlink:vault: {seal: awskms}", "vault.seal: must be a map of keys"),
    ("shlink:vault: {seal: {type: awskms}}", "vault.seal.region: is missing"),
    (
        'shlink:vault: {seal: {type: awskms, region: "", kmsKeyId: k}}',
        'vault.seal.region: "" is empty',
    ),
    (
        'shlink:vault: {seal: {type: awskms, region: r, kmsKeyId: "a\\nb"}}',
        'vault.seal.kmsKeyId: "a\\nb" has a line break',
    ),
    (
        "shlink:vault: {seal: {type: transit, address: https://v, keyName: k}}",
        "vault.seal.token: is missing",
    ),
    (
        'shlink:vault: {seal: {type: transit, address: "http://v:8200", keyName: k, token: t}}',
        "vault.seal.address: 'http://v:8200' is not encrypted",
    ),
    (
        "shlink:vault: {seal: {type: transit, address: https://v, keyName: k, token: t, ca: c}}",
        "vault.seal.ca: [not shown] is no certificate",
    ),
    (
        'shlink:vault: {seal: {type: transit, address: https://v, keyName: k, token: ""}}',
        "vault.seal.token: [secret] is empty",
    ),
    (
        "shlink:vault: {seal: {type: gcpckms, project: p, region: r, keyRing: k}}",
        "vault.seal.cryptoKey: is missing",
    ),
    ("shlink:vault: {people: {type: ldap}}", "vault.people: `type: ldap` is not possible"),
    (
        f"shlink:vault: {{people: {{{_OIDC}}}}}",
        "vault.people.viewers: is empty and so is `operators`",
    ),
    (
        f'shlink:vault: {{people: {{{_OIDC}, viewers: ["cn=a,dc=b"]}}}}',
        'vault.people.viewers.0: "cn=a,dc=b" is not allowed',
    ),
    (
        f"shlink:vault: {{people: {{{_OIDC}, viewers: [a], issuer: i}}}}",
        "vault.people.issuer: is not a setting",
    ),
    (
        "shlink:vault: {people: {type: jwt, audiences: [v], discoveryUrl: http://i, viewers: [a]}}",
        "vault.people.discoveryUrl: 'http://i' is not encrypted",
    ),
    (
        "shlink:vault: {people: {type: jwt, audiences: [v], viewers: [a]}}",
        "vault.people.discoveryUrl: belongs in the place of `publicKeys`",
    ),
    (
        "shlink:vault: {people: {type: jwt, audiences: [], discoveryUrl: https://i, viewers: [a]}}",
        "vault.people.audiences",
    ),
    (
        "shlink:vault: {people: {type: jwt, audiences: [v], publicKeys: [k], viewers: [a]}}",
        "vault.people.publicKeys.0: [not shown] is no public key",
    ),
    ('shlink:vault: {token: ""}', "vault.token: [secret] is empty"),
    (
        "shlink:vault: {token: t, authLogin: {path: auth/jwt/login}}",
        "vault.token: is set and so is `authLogin`",
    ),
    ("shlink:vault: {authLogin: {path: jwt}}", "vault.authLogin.path"),
    (
        "shlink:vault: {localPort: 20000}\n  shlink:postgres: {localPort: 20000}",
        "postgres.localPort: 20000 is the local port of Vault too",
    ),
    ("shlink:app: {replicas: 20}", "postgres.maxConnections: 100 is less than what 20 replicas"),
    (
        "shlink:postgres: {version: 18, monitoring: true}",
        "postgres.monitoring: exports nothing on PostgreSQL 18",
    ),
    ("shlink:redis: {mode: none, replicas: 3}", "redis.replicas: is not a setting"),
    ("shlink:redis: {mode: cluster}", "redis: `mode: cluster` is not possible"),
    ("shlink:redis: none", "redis: must be a map of keys"),
    ("shlink:redis: {mode: }", "redis: `mode` must be one word; allowed: mode: external"),
    ("shlink:app: {domain: CHANGE-ME}", "shlink:app.domain: still has CHANGE-ME in it"),
    (
        "shlink:vault: {mode: ha, seal: {type: awskms, region: r, kmsKeyId: alias/CHANGE-ME}}",
        "shlink:vault.seal.kmsKeyId: still has CHANGE-ME in it",
    ),
)

MISTYPES: Sequence[Case] = (
    ("shlnk:app: {replicas: 2}", "shlnk:app: would be ignored; did you mean `shlink:app`?"),
    ("Shlink:app: {replicas: 2}", "did you mean `shlink:app`?"),
    ("kubernets:kubeconfig: /x", "did you mean `kubernetes:kubeconfig`?"),
    ("k8s:context: x\n  kuberentes:context: y", "did you mean `kubernetes:context`?"),
    ("app:replicas: 2", "app:replicas: belongs to `shlink:app`; here it has no effect"),
    ("postgres:version: 16", "postgres:version: belongs to `shlink:postgres`"),
    (
        "vault:address: x",
        "vault:address: has no effect, this program configures that provider itself",
    ),
    ("postgresql:host: x", "postgresql:host: has no effect"),
    ("shlink:pstgres: {}", "shlink:pstgres: is not a setting; did you mean `postgres`?"),
    ("shlink:zzz: {}", "shlink:zzz: is not a setting; allowed: allowedChanges, app"),
    (
        "shlink:app.domain: s.example.org",
        (
            "shlink:app.domain: is not a setting by that name; domain stands in the map below "
            "`shlink:app:`, or is set with pulumi config set --path"
        ),
    ),
    ("shlink:context: lab", "shlink:context: is not a setting; did you mean `kubernetes:context`?"),
    ("context: lab", "did you mean `kubernetes:context`?"),
    (
        "shlink:replicas: 3",
        (
            "shlink:replicas: is not a setting; "
            "did you mean `replicas` in the map below `shlink:app:`?"
        ),
    ),
    ("shlink:app: {replica: 2}", "shlink:app.replica: is not a setting; did you mean `replicas`?"),
    (
        "shlink:app: {web_workers: 2}",
        "shlink:app.web_workers: is not a setting; did you mean `webWorkers`?",
    ),
    (
        "shlink:app: {Replicas: 2}",
        "shlink:app.Replicas: is not a setting; did you mean `replicas`?",
    ),
    ('shlink:app: {"": 2}', "is not a setting"),
    ("shlink:app: [replicas]", "shlink:app: must be a map of keys"),
    ("shlink:app: none", "shlink:app: must be a map of keys"),
    ("shlink:app: ", "shlink:app: must be a map of keys"),
    (
        'shlink:app: "{replicas: 2}"',
        "shlink:app: must be a map of keys, and is text: remove the quotes around it",
    ),
    ('shlink:app: "["', "shlink:app: must be a map of keys"),
    ('shlink:app: "[[[[[["', "shlink:app: must be a map of keys"),
    (
        "kubernetes:namespace: x",
        "kubernetes:namespace: is not a setting; allowed: clusterIdentifier, context, kubeconfig",
    ),
    ('kubernetes:kubeconfig: ""', "kubernetes:kubeconfig"),
    ('kubernetes:clusterIdentifier: ""', "kubernetes:clusterIdentifier"),
    ("shlink:app:domain: x", "has too many colons"),
    (
        "shlink:app: {replicas: 2}\n  app: {replicas: 3}",
        "is there twice, once with and once without its prefix",
    ),
    (
        "shlink:app: {replicas: 2}\n  shlink:app: {replicas: 3}",
        '"shlink:app" is there twice, first on line 3; Pulumi refuses the file',
    ),
    ("shlink:app: {replicas: 2, replicas: 3}", '"replicas" is there twice, first on line 3'),
    ("shlink:app: {1: 2}", 'the key "1" is not text'),
    ("shlink:app: {true: 2}", 'the key "true" is not text'),
    ("shlink:app: {? [a] : 2}", "a key must be text, and is a group"),
    ("shlink:app: !!set {replicas, https}", "has the YAML tag"),
    ("shlink:app: {domain: !!binary aGVsbG8=}", "has the YAML tag"),
    ("shlink:app: {domain: !env X}", 'has the YAML tag "!env"; put the value in quotes'),
    ("shlink:app: {domain: 2026-01-01}", "is read as a date by Pulumi: put it in quotes"),
    ("shlink:app: &a {environment: *a}", "contains itself"),
    ("shlink:app: {domain: *nothing}", "it begins with *, which names an alias"),
    ("shlink:app: {domain: @x}", "that can't begin a value"),
    ("shlink:app: {domain: a: b}", "is not valid YAML: line 3"),
    ("shlink:app: {domain: x", "is not valid YAML"),
    ("shlink:app:\n\t- x", "indent with spaces"),
    (f"shlink:app: {{{'a' * 300}: 1}}", "is not a setting"),
    (f"shlink:app: {{domain: {'a' * 200_000}}}", "(200000 characters)"),
)

WHOLE: Sequence[Case] = (
    ("", "kubernetes:context: is missing"),
    ("config:\n", "kubernetes:context: is missing"),
    ("config: {}\n", "kubernetes:context: is missing"),
    ("config: null\n", "kubernetes:context: is missing"),
    ("config: []\n", "`config` must be a map of keys"),
    ("config: text\n", "`config` must be a map of keys"),
    ("config: {kubernetes:context: }\n", "kubernetes:context: is missing"),
    ("config: {kubernetes:context: null}\n", "kubernetes:context: is missing"),
    ("config: {kubernetes:context: ~}\n", "kubernetes:context: is missing"),
    ('config: {kubernetes:context: ""}\n', "kubernetes:context: is missing"),
    ("config: {kubernetes:context: [a]}\n", "kubernetes:context"),
    ('config: {kubernetes:context: " lab"}\n', "kubernetes:context"),
    ('config: {kubernetes:context: "a\\nb"}\n', "kubernetes:context"),
    ("config: {kubernetes:context: 2026-01-01}\n", "is read as a date"),
    (
        "config: {kubernetes:context: a, kubernetes:context: b}\n",
        '"kubernetes:context" is there twice, first on line 1',
    ),
    ("config: {kubernetes:context: a}\nconfig: {}\n", '"config" is there twice'),
    ("[]\n", "must be a map with the key `config`, and holds a list"),
    ("text\n", "and holds a single value"),
    ("1\n", "and holds a single value"),
    ("2026-01-01\n", "and holds a single value"),
    ("? [a]\n: b\n", "a key must be text"),
    ("1: 2\n", 'the key "1" is not text'),
    (
        "config: {kubernetes:context: lab}\nshlink:app: {replicas: 2}\n",
        '"shlink:app" must be indented below `config:`; here Pulumi ignores it',
    ),
    ("kubernetes:context: lab\n", '"kubernetes:context" must be indented below `config:`'),
    (
        "config: {kubernetes:context: lab}\nconfgi: {}\n",
        '"confgi" is no key of a stack\'s file, and Pulumi ignores it',
    ),
    (
        "config: {kubernetes:context: lab}\napp: {replicas: 2}\n",
        '"app" is no key of a stack\'s file',
    ),
    (
        "config: {kubernetes:context: lab}\n---\nconfig: {kubernetes:context: prod}\n",
        "holds 2 documents, and Pulumi reads only the first",
    ),
    ("config: {kubernetes:context: lab}\n...\ntext: [\n", "is not valid YAML"),
    ("{" * 500, "is nested too deeply"),
    (
        "config: {kubernetes:context: lab, a:b: " + "[" * 2000 + "]" * 2000 + "}\n",
        "nested too deeply",
    ),
    ("config: &a {kubernetes:context: lab, a:b: *a}\n", "contains itself"),
)

_LOGIN = "{registry: docker.io, password: hunter2"
PLACEMENT: Sequence[Case] = (
    (
        "shlink:placement: {nodeSelector: [a]}",
        "placement.nodeSelector: must be a map of keys",
    ),
    (
        "shlink:placement: {nodeSelector: {spot: true}}",
        "placement.nodeSelector.spot: true is not text: put it in quotes",
    ),
    (
        "shlink:placement: {nodeSelector: {pool: my pool}}",
        'placement.nodeSelector.pool: "my pool" is not allowed; allowed: up to 63 letters',
    ),
    ("shlink:placement: {nodeSelector: {a b: c}}", "placement.nodeSelector.a b: is not allowed"),
    ("shlink:placement: {priorityClassName: High}", 'placement.priorityClassName: "High"'),
    (
        "shlink:placement: {priorityClass: high}",
        "placement.priorityClass: is not a setting; did you mean `priorityClassName`?",
    ),
    ("shlink:placement: {spreadZones: yes}", "is neither true nor false"),
    ("shlink:placement: {tolerations: {key: a}}", "placement.tolerations: must be a list"),
    (
        "shlink:placement: {tolerations: [{value: a}]}",
        "placement.tolerations.0.key: is missing; only operator: Exists tolerates every key",
    ),
    (
        "shlink:placement: {tolerations: [{key: a, operator: Exists, value: b}]}",
        "placement.tolerations.0.value: belongs to operator: Equal",
    ),
    (
        "shlink:placement: {tolerations: [{key: a, effect: NoSchedule, tolerationSeconds: 5}]}",
        "placement.tolerations.0.tolerationSeconds: belongs to effect: NoExecute",
    ),
    (
        "shlink:placement: {tolerations: [{key: a, effect: Never}]}",
        "allowed: NoSchedule, PreferNoSchedule, NoExecute",
    ),
    ("shlink:images: {pullCredentials: {registry: docker.io}}", "pullCredentials: must be a list"),
    (
        "shlink:images: {pullCredentials: [{registry: docker.io, username: u}]}",
        "images.pullCredentials.0.password: is missing",
    ),
    (
        (
            "shlink:images: {pullCredentials: "
            '[{registry: "https://docker.io", username: u, password: hunter2}]}'
        ),
        "images.pullCredentials.0.registry",
    ),
    (
        f"shlink:images: {{pullCredentials: [{_LOGIN}, username: {{secure: abc}}}}]}}",
        "images.pullCredentials.0.username: is encrypted, but is no secret here",
    ),
    (
        f"shlink:images: {{pullCredentials: [{_LOGIN}, username: u}}, {_LOGIN}, username: v}}]}}",
        "images.pullCredentials: docker.io is there twice",
    ),
)

_AMAZON = {
    "endpoint": "s3.eu-central-1.amazonaws.com",
    "region": "eu-central-1",
    "bucket": "shlink-backups",
}

STORES: Sequence[Case] = (
    (_s3(key=None, keySecret=None), "repositories.repo2.key: is missing, and so is eks.amazonaws"),
    (_s3(**_AMAZON | {"region": "us-east-1"}), "repo2.region: us-east-1 is not the endpoint's"),
    (_s3(endpoint="s3.nl-ams.scw.cloud", region="fr-par"), "repo2.region: fr-par is not"),
    (
        _s3(endpoint="shlink-backups.s3.eu-central-1.amazonaws.com", bucket="shlink-backups"),
        "repo2.endpoint: shlink-backups.s3.eu-central-1.amazonaws.com begins with the bucket",
    ),
    (_s3(endpoint="10.0.0.7"), "repo2.pathStyle: is false, and buck.10.0.0.7 is no host name"),
    (_s3(bucket="a.bucket"), "repo2.pathStyle: is false, and a.bucket.s3.example.org has a dot"),
    (_s3(endpoint="localhost"), "repo2.endpoint: leads a pod to itself"),
    (_s3(endpoint='"127.0.0.1:9000"', pathStyle="true"), "repo2.endpoint: leads a pod to itself"),
    (_s3(endpoint='"s3.example.org:80"'), "repo2.endpoint: port 80 is not encrypted"),
    (
        _s3(endpoint="10.0.0.7", pathStyle="true", cidrs="[10.1.0.0/16]"),
        "repo2.cidrs: 10.0.0.7, the endpoint, is in none of them",
    ),
    (_s3(bucket="a..b"), 'repo2.bucket: "a..b" is not allowed'),
    (_s3(bucket="192.168.0.1"), 'repo2.bucket: "192.168.0.1" looks like an address'),
    (_s3(full="0 1 * * 0"), "repositories.repo2.full: backups begin at 01:00 on Sunday"),
    (_s3(ca='"-----BEGIN CERTIFICATE-----\\nMIIB"'), "repo2.ca: [not shown] is cut off"),
    (_s3(ca="hunter2"), "repo2.ca: [not shown] is no certificate"),
    (
        _s3(ca='"-----BEGIN CERTIFICATE-----\\nhunter2\\n-----END CERTIFICATE-----"'),
        "repo2.ca: [not shown] has something else in it than a certificate",
    ),
    *(
        (
            f"shlink:postgres: {{backups: {{repositories: {{repo2: {{type: azure, {fields}}}}}}}}}",
            words,
        )
        for fields, words in (
            ("container: my..back--ups, account: acc", 'repo2.container: "my..back--ups"'),
            ("container: my.backups, account: acc", 'repo2.container: "my.backups"'),
            ("container: backups, account: My-Account", 'repo2.account: "My-Account"'),
            ("container: ab, account: acc", 'repo2.container: "ab" has the wrong length'),
        )
    ),
    (
        (
            "shlink:postgres: {backups: {repositories: "
            "{repo2: {type: gcs, bucket: b-1}, repo3: {type: gcs, bucket: b-2}}}}"
        ),
        "repositories.repo3.full: backups begin at 03:00",
    ),
    (
        "shlink:postgres: {backups: {pendingWal: 1Gi}}",
        "backups.pendingWal: 1Gi is no less than the volume",
    ),
    ("shlink:postgres: {backups: {processes: 0}}", "backups.processes: 0 is out of range"),
    ("shlink:postgres: {backups: {compression: zip}}", 'backups.compression: "zip"'),
)

_FROM = ", ".join(f"{key}: {value}" for key, value in (_S3 | _AMAZON).items())

RESTORES: Sequence[Case] = (
    *(
        (
            f"shlink:postgres: {{restore: {{type: inPlace, number: 1, time: '{time}'}}}}",
            f'restore.time: "{time}"',
        )
        for time in (
            "2026-02-31 09:30:00+00",
            "2026-13-01 09:30:00+00",
            "2026-11-24 25:61:00+00",
            "2026-11-24 09:30:61+00",
            "2026-11-24 09:30:00+99",
            "2026-11-24 09:30:00",
            "2026-11-24T09:30:00+00",
        )
    ),
    (
        "shlink:postgres: {restore: {type: inPlace, number: 1, set: 20261399-093000F}}",
        'restore.set: "20261399-093000F" is no backup',
    ),
    (
        (
            "shlink:postgres: "
            "{restore: {type: inPlace, number: 1, set: 20261124-093000F_20261123-093000D}}"
        ),
        "the full backup comes before the other one",
    ),
    (
        (
            "shlink:postgres: {restore: {type: inPlace, number: 1, set: 20261124-093000F, "
            "time: '2026-11-24 09:00:00+00'}}"
        ),
        "restore.time: 2026-11-24 09:00:00+00 is before 20261124-093000F",
    ),
    (
        (
            "shlink:postgres: {restore: {type: store, path: /a/repo2, "
            f"store: {{{_FROM}, encrypted: true}}}}}}"
        ),
        "restore.passphrase: is missing",
    ),
    (
        (
            "shlink:postgres: {restore: {type: store, path: /a/repo2, passphrase: hunter2, "
            f"store: {{{_FROM}, encrypted: false}}}}}}"
        ),
        "restore.passphrase: is set, but store.encrypted is false",
    ),
    (
        (
            "shlink:postgres: {restore: {type: store, path: /a/../b, passphrase: hunter2, "
            f"store: {{{_FROM}}}}}}}"
        ),
        'restore.path: "/a/../b"',
    ),
)

PARAMETERS: Sequence[Case] = (
    *(
        (
            f"shlink:postgres: {{parameters: {{{name}: {value}}}}}",
            f"postgres.parameters.{name}: can't be set",
        )
        for name, value in (
            ("port", 5433),
            ("listen_addresses", "'*'"),
            ("ssl", "off"),
            ("ssl_min_protocol_version", "TLSv1"),
            ("archive_mode", "off"),
            ("archive_command", "cp"),
            ("hot_standby", "off"),
            ("cluster_name", "mine"),
            ("logging_collector", "off"),
            ("unix_socket_directories", "/x"),
            ("recovery_target_time", "x"),
            ("recovery_target", "immediate"),
            ("primary_conninfo", "x"),
            ("synchronous_standby_names", "'*'"),
            ("data_directory", "/x"),
            ("max_connections", 200),
        )
    ),
    ("shlink:postgres: {parameters: {wal_level: minimal}}", "wal_level: minimal is not possible"),
    ("shlink:postgres: {parameters: {huge_pages: on}}", "parameters.huge_pages: on is not"),
    ("shlink:postgres: {parameters: {fsync: false}}", "parameters.fsync: false is not possible"),
    (
        "shlink:postgres: {parameters: {shared_buffers: 1GB}}",
        "parameters.shared_buffers: 1GB is too much for resources.memoryLimit, 512Mi",
    ),
    ("shlink:postgres: {parameters: {shared_buffers: 131072}}", "parameters.shared_buffers"),
    ("shlink:postgres: {parameters: {work_mem: 2GB}}", "parameters.work_mem: 2GB is too much"),
    (
        "shlink:postgres: {instances: 2, parameters: {max_wal_senders: 0}}",
        "parameters.max_wal_senders: 0 is too few for 2 instances",
    ),
    (
        (
            "shlink:postgres: {synchronous: true, instances: 2, "
            "parameters: {synchronous_commit: 'off'}}"
        ),
        "parameters.synchronous_commit: off does not wait for the replica",
    ),
    ("shlink:postgres: {parameters: {shared_bufers: 1GB}}", "did you mean shared_buffers?"),
    ("shlink:postgres: {parameters: {jit: maybe}}", "parameters.jit: maybe is neither on nor off"),
    ("shlink:postgres: {parameters: {max_wal_size: lots}}", "max_wal_size: lots is no number"),
    ("shlink:postgres: {parameters: {ssl_groups: X25519}}", "ssl_groups: is not in this version"),
)

_PRIVATE = r'"-----BEGIN PRIVATE KEY-----\nhunter2MIGH\n-----END PRIVATE KEY-----"'
_JWT = "type: jwt, audiences: [vault], viewers: [ops]"
_TRANSIT = "type: transit, keyName: k, token: hunter2"

PEOPLE_AND_SEALS: Sequence[Case] = (
    (
        f"shlink:vault: {{people: {{{_JWT}, publicKeys: [{_PRIVATE}]}}}}",
        "vault.people.publicKeys.0: [not shown] holds a private key",
    ),
    (
        f"shlink:vault: {{people: {{{_JWT}, publicKeys: [hunter2]}}}}",
        "vault.people.publicKeys.0: [not shown] is no public key",
    ),
    (
        f"shlink:vault: {{people: {{{_JWT}, discoveryUrl: https://i.example, ca: {_PRIVATE}}}}}",
        "vault.people.ca: [not shown] holds a private key",
    ),
    (
        f"shlink:vault: {{people: {{{_JWT}, discoveryUrl: 'https://localhost:8443'}}}}",
        'vault.people.discoveryUrl: "https://localhost:8443" leads a pod to itself',
    ),
    *(
        (
            (
                "shlink:vault: {people: {type: oidc, clientId: c, clientSecret: hunter2, "
                f"viewers: [a], {fields}}}}}"
            ),
            words,
        )
        for fields, words in (
            (
                "discoveryUrl: 'https://id.example/.well-known/openid-configuration'",
                "discoveryUrl: 'https://id.example/.well-known/openid-configuration' is where",
            ),
            (
                (
                    "discoveryUrl: https://id.example, redirectUris: "
                    "['http://vault.example/ui/vault/auth/people/oidc/callback']"
                ),
                "redirectUris: 'http://vault.example/ui/vault/auth/people/oidc/callback' is not",
            ),
            (
                "discoveryUrl: https://id.example, redirectUris: [https://vault.example/callback]",
                "redirectUris: 'https://vault.example/callback' is no page that Vault answers",
            ),
        )
    ),
    *(
        (f"shlink:vault: {{mode: ha, seal: {{{_TRANSIT}, address: '{address}'}}}}", words)
        for address, words in (
            ("https://vault.vault.svc:8200", "is the Vault of this environment"),
            ("https://vault-active.vault.svc.cluster.local:8200", "is the Vault of this"),
            ("https://vault.corp.example:8200/v1", "ends with the API's /v1"),
            ("https://127.0.0.1:8200", "leads a pod to itself"),
        )
    ),
    (
        (
            f"shlink:vault: {{mode: ha, seal: {{{_TRANSIT}, address: https://v.example}}, "
            "address: https://v.example}"
        ),
        "vault.seal.address: 'https://v.example' is `address`, this Vault itself",
    ),
    (
        (
            f"shlink:vault: {{mode: ha, seal: {{{_TRANSIT}, address: https://v.example, "
            "mountPath: /transit}}"
        ),
        'vault.seal.mountPath: "/transit"',
    ),
    (
        (
            "shlink:vault: {mode: ha, seal: {type: awskms, region: eu-central-1, "
            "kmsKeyId: 'arn:aws:kms:us-east-1:123456789012:key/1'}}"
        ),
        "vault.seal.region: eu-central-1 is not the region of `kmsKeyId`; allowed: us-east-1",
    ),
    ("shlink:vault: {address: 'https://v.example/v1'}", "ends with the API's /v1"),
)

_NODES = "'tcp://redis-node-0.example.org:26379', 'tcp://redis-node-1.example.org:26379'"

REDIS: Sequence[Case] = tuple(
    (f"shlink:redis: {{mode: external, {fields}}}", words)
    for fields, words in (
        (f"servers: [{_NODES}]", "redis.sentinelService: is missing; 26379 is the port"),
        ("servers: ['tcp://s:6379'], sentinelService: m", "redis.servers: 6379 is the port of"),
        ("servers: ['tcp://a.example:6379', 'tls://b.example:6379']", "some are encrypted"),
        (
            "servers: ['tcp://[2001:db8::1]:6379'], cidr: 0.0.0.0/0",
            "redis.cidr: 2001:db8::1, a server",
        ),
        ("servers: ['tcp://10.1.2.3'], cidr: [10.2.0.0/16]", "redis.cidr: 10.1.2.3, a server"),
        ("servers: ['tcp://localhost:6379']", 'redis.servers.0: "tcp://localhost:6379" leads'),
        ("servers: ['tcp://a.example/1', 'tcp://b.example/1']", "only one server has databases"),
        (f"servers: [{_NODES}], sentinelService: m, user: u", "redis.password: is missing"),
        ("servers: ['tcp://a.example', 'tcp://a.example']", "is there twice"),
        (
            (
                "servers: ['tcp://a.example'], "
                r'ca: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"'
            ),
            "redis.ca: has no effect without TLS",
        ),
        ("servers: ['tcp://a.example'], sentinelService: ''", "redis.sentinelService"),
    )
)

TOGETHER: Sequence[Case] = (
    (
        (
            "shlink:vault: {seal: {type: awskms, region: eu-central-1, kmsKeyId: k}}\n"
            '  shlink:images: {vault: "openbao/openbao:2.7.1"}'
        ),
        "vault.seal.type: awskms is a plugin since OpenBao 2.7, and its image has none",
    ),
    (
        'shlink:redis: {engine: Valkey}\n  shlink:images: {redis: "valkey/valkey:9.1.1"}',
        "redis.engine: Valkey is unknown to the archived redis-operator",
    ),
    (
        (
            "shlink:redis: {engine: Valkey}\n"
            '  shlink:images: {redis: "valkey/valkey:8.1.9-alpine"}\n'
            "  shlink:operators: {redisOperator: {distribution: freshworks}}"
        ),
        "images.redis: valkey/valkey:8.1.9-alpine is not Valkey 9.0 or newer",
    ),
    (
        "shlink:app: {pubSub: true}\n  shlink:redis: {mode: none}",
        "app.pubSub: true publishes to Redis, and redis.mode is none",
    ),
    (
        (
            "shlink:app: {pubSub: true}\n  shlink:redis: "
            "{mode: external, servers: ['tcp://a.example', 'tcp://b.example']}"
        ),
        "app.pubSub: true does not work with a Redis Cluster",
    ),
    (
        ("shlink:app: {webWorkers: 16, taskWorkers: 8}\n  shlink:postgres: {maxConnections: 200}"),
        "app.webWorkers: 16, and 8 task workers, need more than app.resources.memoryLimit, 512Mi",
    ),
    ("shlink:app: {memoryLimit: 1024M}", "app.memoryLimit: 1024M for one worker is more than"),
    (
        (
            "shlink:monitoring: {enabled: true, backupHours: 1}\n"
            "  shlink:network: {monitoringNamespace: monitoring}"
        ),
        "monitoring.backupHours: 1 is no more than the 24 hours between two backups",
    ),
    (
        (
            "shlink:monitoring: {enabled: true}\n  shlink:network: {monitoringNamespace: m}\n"
            '  shlink:postgres: {backups: {full: 0 1 * * 0, differential: "0 1 * * 4"}}'
        ),
        "monitoring.backupHours: 48 is no more than the 96 hours",
    ),
    ("shlink:allowedChanges: [postgres.version: 16 -> 17]", "allowedChanges.0: is a map to YAML"),
    *(
        (f"shlink:{group}: {{{key}: }}", f"{group}.{key}: is empty; leave it out")
        for group, key in (
            ("postgres", "pooler"),
            ("postgres", "restore"),
            ("app", "route"),
            ("app", "resources"),
            ("vault", "seal"),
            ("vault", "people"),
            ("vault", "authLogin"),
        )
    ),
    ("shlink:images: {registry: r.example.org/Mirror}", 'images.registry: "r.example.org/Mirror"'),
    ("shlink:charts: {pgo: {repository: 'http://charts.example'}}", "charts.pgo.repository"),
    ("shlink:charts: {pgo: {repository: ./not-there}}", "is not there"),
    ("shlink:charts: {pgo: {repository: ./docs}}", "is a folder without a Chart.yaml"),
    ("shlink:app: {domain: münchen.example}", "write xn--mnchen-3ya.example"),
)

CASES: Sequence[Case] = (
    *STORES,
    *RESTORES,
    *PARAMETERS,
    *PEOPLE_AND_SEALS,
    *REDIS,
    *TOGETHER,
    *SIZES,
    *NUMBERS,
    *SCHEDULES,
    *ADDRESSES,
    *NAMES,
    *ENVIRONMENT,
    *IMAGES,
    *COMBINATIONS,
    *PLACEMENT,
    *MISTYPES,
)


def files() -> list[Case]:
    """Every wrong file with words of its message."""
    below = [(f"config:\n  kubernetes:context: lab\n  {line}\n", words) for line, words in CASES]
    return [*below, *WHOLE]
