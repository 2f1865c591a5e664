"""Every configuration that the tests try: each stack's file, and each switch by itself.

A new switch is added here and nowhere else.
"""

import fcntl
import gc
import json
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from offline import stacks
from offline.record import ROOT, Recorded, Recording, plain, record

_RAFT = {
    "mode": "ha",
    "seal": {"type": "awskms", "region": "eu-central-1", "kmsKeyId": "alias/vault"},
}

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
"""As far as the settings look into it."""

PLACEMENT: Mapping[str, Any] = {
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "pool", "value": "shlink", "effect": "NoSchedule"}],
    "priorityClassName": "shlink",
    "spreadZones": True,
}
_PULL_CREDENTIALS = [
    {"registry": "registry.example.org/mirror", "username": "puller", "password": "pull-password"}
]

OPTIONAL_KINDS = frozenset(
    {
        "BackendConfig",
        "CiliumNetworkPolicy",
        "HTTPRoute",
        "HealthCheckPolicy",
        "PodMonitor",
        "PrometheusRule",
    }
)
"""Kinds of Cilium, the Gateway API, the Prometheus operator and GKE, which a cluster may lack."""

SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "redis-external": {
        "redis": {
            "mode": "external",
            "servers": ["tls://redis.example.org:6380"],
            "password": "p@ss/word",
        }
    },
    "redis-external-open": {
        "redis": {"mode": "external", "servers": ["tcp://10.1.2.3:6379"], "cidr": "10.1.2.3/32"}
    },
    "redis-cluster": {
        "redis": {
            "mode": "external",
            "servers": [f"tcp://redis-{n}.example.org:6379" for n in range(3)],
        }
    },
    "redis-sentinels": {
        "redis": {
            "mode": "external",
            "servers": ["tls://sentinel.example.org:26379"],
            "sentinelService": "mymaster",
            "user": "shlink",
            "password": "p@ss/word",
            "ca": CERTIFICATE,
            "cidr": ["192.0.2.0/24", "2001:db8::/32"],
        }
    },
    "redis-database": {
        "redis": {"mode": "external", "servers": ["tcp://redis.example.org:6379/3"]},
        "images": {"shlink": "shlinkio/shlink:5.1.5"},
    },
    "redis-none": {"redis": {"mode": "none"}},
    "redis-sized": {
        "redis": {
            "mode": "failover",
            "replicas": 5,
            "sentinels": 5,
            "storage": {"size": "4Gi", "storageClass": "kwok-volume"},
        }
    },
    "redis-rotated": {"rotation": {"redis": 2}},
    "redis-fork": {"operators": {"redisOperator": {"distribution": "freshworks"}}},
    "database-rotated": {"rotation": {"database": 2, "superuser": 3}},
    "database-sized": {
        "postgres": {
            "version": 17,
            "instances": 3,
            "maxConnections": 400,
            "storage": {"size": "20Gi"},
        }
    },
    "pooler": {"postgres": {"pooler": {}}, "rotation": {"database": 2}},
    "backups-s3": {
        "postgres": {
            "backups": {
                "repositories": {
                    "repo2": {
                        "type": "s3",
                        "bucket": "backups",
                        "endpoint": "s3.example.org",
                        "region": "eu-central-1",
                        "key": "k",
                        "keySecret": "s",
                    }
                }
            }
        }
    },
    "backups-everywhere": {
        "postgres": {
            "backups": {
                "repositories": {
                    "repo2": {
                        "type": "s3",
                        "bucket": "backups",
                        "endpoint": "minio.example.org:9000",
                        "region": "any-1",
                        "pathStyle": True,
                        "ca": CERTIFICATE,
                        "cidrs": ["192.0.2.10/32"],
                        "encrypted": False,
                        "full": "0 4 * * 6",
                        "retentionFull": 8,
                    },
                    "repo3": {
                        "type": "gcs",
                        "bucket": "google",
                        "full": "0 5 * * 0",
                        "differential": "0 5 * * 1-6",
                    },
                    "repo4": {
                        "type": "azure",
                        "full": "0 6 * * 0",
                        "differential": "0 6 * * 1-6",
                        "container": "container",
                        "account": "account",
                        "key": "azurekey",
                    },
                }
            },
            "serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn"},
        }
    },
    "backups-tuned": {
        "postgres": {
            "storage": {"size": "20Gi"},
            "backups": {
                "processes": 4,
                "compression": "zst",
                "pendingWal": "8Gi",
                "repositories": {
                    "repo2": {
                        "type": "s3",
                        "bucket": "backups",
                        "endpoint": "s3.eu-central-1.amazonaws.com",
                        "region": "eu-central-1",
                        "key": "k",
                        "keySecret": "s",
                        "kmsKeyId": "alias/backups",
                    },
                    "repo3": {
                        "type": "azure",
                        "container": "container",
                        "account": "account",
                        "full": "0 5 * * 0",
                        "differential": "0 5 * * 1-6",
                    },
                },
            },
        }
    },
    "restore-in-place": {
        "postgres": {"restore": {"type": "inPlace", "number": 2, "time": "2026-11-24 09:30:00+00"}}
    },
    "restore-store": {
        "postgres": {
            "restore": {
                "type": "store",
                "store": {
                    "type": "gcs",
                    "bucket": "prod",
                    "key": "{}",
                },
                "path": "/shlink-db/0a1b2c3d/repo2",
                "passphrase": "passphrase",
                "set": "20261124-093000F",
            }
        }
    },
    "monitoring": {
        "postgres": {"monitoring": True},
        "network": {"monitoringNamespace": "monitoring"},
    },
    "autoscaled": {"app": {"maxReplicas": 8}},
    "autoscaled-stopped": {"app": {"replicas": 0, "maxReplicas": 8}},
    "monitored": {
        "app": {"maxReplicas": 4},
        "postgres": {"monitoring": True, "pooler": {}},
        "network": {"monitoringNamespace": "monitoring"},
        "monitoring": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}},
    },
    "vault-awskms": {"vault": _RAFT},
    "vault-gcpckms": {
        "vault": {
            "mode": "ha",
            "seal": {
                "type": "gcpckms",
                "project": "p",
                "region": "global",
                "keyRing": "r",
                "cryptoKey": "k",
            },
        }
    },
    "vault-azurekeyvault": {
        "vault": {
            "mode": "ha",
            "replicas": 5,
            "seal": {"type": "azurekeyvault", "tenantId": "t", "vaultName": "v", "keyName": "k"},
        }
    },
    "vault-transit": {
        "vault": {
            "mode": "ha",
            "seal": {
                "type": "transit",
                "address": "https://vault.example.org:8200",
                "keyName": "shlink",
                "token": "t",
            },
        }
    },
    "vault-transit-private": {
        "vault": {
            "seal": {
                "type": "transit",
                "address": "https://keys.example.org:8200",
                "keyName": "shlink",
                "token": "t",
                "ca": CERTIFICATE,
            },
        }
    },
    "vault-standalone-sealed": {
        "vault": {
            "seal": _RAFT["seal"],
            "serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn"},
        }
    },
    "vault-token": {"vault": {"token": "limited"}},
    "vault-login": {
        "vault": {
            "authLogin": {
                "path": "auth/jwt/login",
                "method": "jwt",
                "parameters": {"role": "deploy", "jwt": "j"},
            }
        }
    },
    "vault-people-oidc": {
        "vault": {
            "people": {
                "type": "oidc",
                "discoveryUrl": "https://id.example.org:8443/realms/staff",
                "clientId": "vault",
                "clientSecret": "oidcsecret",
                "scopes": ["groups"],
                "ca": CERTIFICATE,
                "viewers": ["developers", "support"],
                "operators": ["platform"],
            }
        }
    },
    "vault-people-jwt": {
        "vault": {
            "people": {
                "type": "jwt",
                "audiences": ["vault"],
                "issuer": "https://id.example.org",
                "publicKeys": ["-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"],
                "viewers": ["developers", "support"],
                "operators": ["platform"],
            }
        }
    },
    "direct": {
        "vault": {"address": "https://10.0.0.7:8200"},
        "postgres": {"address": "10.0.0.8:5432"},
    },
    "operators-there": {
        "operators": {
            "externalSecrets": {"install": False, "namespace": "platform"},
            "pgo": {"install": False, "namespace": "platform"},
            "redisOperator": {"install": False, "namespace": "platform"},
        }
    },
    "ingress": {
        "app": {
            "domain": "s.example.org",
            "https": True,
            "basePath": "/s",
            "route": {
                "type": "ingress",
                "className": "nginx",
                "tlsSecret": "shlink-tls",
                "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
                "controllerNamespace": "ingress-nginx",
            },
        }
    },
    "gateway": {
        "app": {
            "domain": "s.example.org",
            "https": True,
            "route": {
                "type": "gateway",
                "name": "public",
                "namespace": "gateways",
                "sectionName": "https",
                "controllerNamespace": "envoy",
            },
        }
    },
    "ingress-domains": {
        "app": {
            "domain": "s.example.org",
            "https": True,
            "basePath": "/s",
            "route": {
                "type": "ingress",
                "className": "nginx",
                "tlsSecret": "shlink-tls",
                "tlsSecrets": {"s.example.net": "net-tls"},
                "domains": ["s.example.net", "api.example.org"],
                "rest": "api.example.org",
                "webClient": "links.example.org",
                "controllerNamespace": "ingress-nginx",
            },
        }
    },
    "gateway-domains": {
        "app": {
            "domain": "s.example.org",
            "https": True,
            "route": {
                "type": "gateway",
                "name": "public",
                "namespace": "gateways",
                "sectionName": ["org", "net"],
                "domains": ["s.example.net"],
                "rest": "s.example.org",
                "webClient": "links.example.org",
                "controllerNamespace": "envoy",
            },
        }
    },
    "ingress-gke": {
        "app": {
            "domain": "s.example.org",
            "https": True,
            "route": {"type": "ingress", "className": "gce", "tlsSecret": "shlink-tls"},
        }
    },
    "gateway-gke": {
        "app": {
            "domain": "s.example.org",
            "https": True,
            "route": {
                "type": "gateway",
                "name": "public",
                "namespace": "gateways",
                "controllerAddresses": ["35.191.0.0/16", "130.211.0.0/22"],
            },
        }
    },
    "integrations": {
        "app": {
            "domain": "s.example.org",
            "route": {"type": "none"},
            "rabbitmq": {
                "host": "mq.broker.svc",
                "user": "shlink",
                "password": "rabbit",
                "tls": True,
                "namespace": "broker",
            },
            "clients": [{"namespace": "tunnel", "labels": {"app": "cloudflared"}}],
            "egress": [{"cidrs": ["198.51.100.0/24"], "ports": [443]}],
        }
    },
    "rest-nowhere": {
        "app": {
            "domain": "s.example.org",
            "route": {
                "type": "gateway",
                "name": "public",
                "namespace": "gateways",
                "rest": "nowhere",
                "controllerNamespace": "envoy",
            },
        }
    },
    "app": {
        "network": {"clusterCidrs": ["10.244.0.0/16"]},
        "app": {
            "geoliteLicenseKey": "key",
            "resolveTitles": True,
            "replicas": 1,
            "verbosity": 3,
            "trustedProxies": ["10.1.2.0/24"],
            "environment": {"ANONYMIZE_REMOTE_ADDR": "false"},
            "secretEnvironment": {"RABBITMQ_PASSWORD": "rabbit"},
            "pubSub": True,
        },
    },
    "shlink-5": {"images": {"shlink": "docker.io/shlinkio/shlink:5.1.5"}},
    "cilium": {"network": {"policies": "cilium"}},
    "unusual-network": {
        "network": {"dnsAddresses": ["169.254.20.10/32"], "dnsPorts": [53, 5353]},
        "app": {
            "https": True,
            "domain": "s.example.org",
            "route": {
                "type": "ingress",
                "className": "traefik",
                "tlsSecret": "shlink-tls",
                "annotations": {"cert-manager.io/issuer": "letsencrypt"},
                "controllerNamespace": ["traefik", "traefik-internal"],
                "controllerAddresses": ["10.0.0.0/24"],
            },
        },
    },
    "api-server-narrow": {"network": {"apiServer": ["10.96.0.1/32"], "apiServerPorts": [443]}},
    "placed": {
        "placement": PLACEMENT,
        "app": {
            "geoliteLicenseKey": "key",
            "domain": "s.example.org",
            "route": {
                "type": "gateway",
                "name": "public",
                "namespace": "gateways",
                "webClient": "links.example.org",
                "controllerNamespace": "envoy",
            },
        },
        "images": {"pullCredentials": _PULL_CREDENTIALS},
        "vault": _RAFT,
        "postgres": {
            "instances": 2,
            "monitoring": True,
            "pooler": {"instances": 3},
            "restore": {"type": "inPlace", "number": 2},
        },
        "rotation": {"redis": 2},
    },
    "placed-fork": {
        "placement": PLACEMENT,
        "images": {
            "pullCredentials": _PULL_CREDENTIALS,
            "shlink": "docker.io/shlinkio/shlink:5.1.5",
        },
        "operators": {"redisOperator": {"distribution": "freshworks"}},
        "postgres": {
            "restore": {
                "type": "store",
                "store": {"type": "gcs", "bucket": "prod", "key": "{}"},
                "path": "/shlink-db/0a1b2c3d/repo2",
            }
        },
    },
    "mirror": {
        "images": {
            "registry": "registry.example.org/mirror",
            "postgres": "r.example.org/postgres:ubi9-16.11-2547",
            "pgbackrest": "r.example.org/pgbackrest:ubi9-2.56.0-2547",
        },
        "protect": True,
    },
}


def configuration(name: str) -> dict[str, str]:
    """A switch's configuration as the program gets it."""
    return {"kubernetes:context": "lab"} | {
        f"shlink:{key}": json.dumps(value) for key, value in SWITCHES[name].items()
    }


SHARED = "TEST_RECORDINGS"
"""Variable with the folder of recordings that the workers of one run share."""

NAMES = (*SWITCHES, *(f"stack {stack}" for stack in stacks.names(ROOT)))


@cache
def recording(name: str) -> Recording:
    """What the program registers under one of `NAMES`.

    A run takes about half a second, so the workers of one run of pytest share it by a file.
    """
    folder = os.environ.get(SHARED)
    if folder is None:
        return _run(name)
    path = Path(folder) / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            shared: Recording = pickle.loads(path.read_bytes())  # noqa: S301 -- a worker wrote it
            return shared
        result = _run(name)
        path.write_bytes(pickle.dumps(result))
    return result


def _run(name: str) -> Recording:
    with warnings.catch_warnings():
        # Pulumi's test monitor leaves event loops open; collected here, no test is blamed for them.
        warnings.simplefilter("ignore", ResourceWarning)
        if name in SWITCHES:
            result = record("test", configuration(name))
        else:
            stack = name.removeprefix("stack ")
            result = record(stack, *stacks.configuration(ROOT, stack))
        gc.collect()
    return result


def resources() -> Iterator[tuple[str, Recorded]]:
    """Every resource of every configuration, with the configuration's name."""
    for name in NAMES:
        for resource in recording(name).resources.values():
            yield name, resource


def objects() -> list[tuple[str, Any]]:
    """Each distinct Kubernetes object, with the first configuration that declares it."""
    distinct: dict[str, tuple[str, Any]] = {}
    for name, resource in resources():
        if resource.is_kubernetes_object:
            manifest = plain(resource.inputs)
            distinct.setdefault(json.dumps(manifest, sort_keys=True), (name, manifest))
    return list(distinct.values())
