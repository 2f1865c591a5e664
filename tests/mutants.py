"""`make mutants`: breaks a copy of the program, fault by fault, and names what notices.

Each fault names the checks on real parts that ought to notice; where they can't run (no
SHLINK_TEST_KUBECONFIG, no PostgreSQL or Redis) or notice nothing, the tests without a cluster are
asked. A fault whose text is gone stops everything: it would test nothing.
"""

# ruff: noqa: T201 -- what it prints is what it is for

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".uv", "build", "__pycache__", ".pytest_cache", ".ruff_cache", ".coverage*"
)
_QUICK = (
    "tests",
    "--ignore=tests/real",
    "--ignore=tests/test_docs.py",
    "--ignore=tests/test_forward.py",
    "--ignore=tests/test_scripts.py",
    "--ignore=tests/test_workflows.py",
)
_TIMEOUT = 300


@dataclass(frozen=True)
class Change:
    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    what: str
    changes: Sequence[Change]
    real: Sequence[str] = ()
    """Arguments of pytest; nothing: the quick tests are all there is."""


MUTANTS = [
    Mutant(
        "a drill calls a moment between two faults a recovery",
        [Change("operate/rehearse/drills.py", "if looked - healthy_since >= _CALM:", "if True:")],
        ["tests/test_drills.py", "-k", "does_not_last"],
    ),
    Mutant(
        "a pod may gain privileges",
        [Change("components/manifests/pods.py", 'Escalation": False', 'Escalation": True')],
        ["tests/test_policy.py", "-k", "keeps_every_rule"],
    ),
    Mutant(
        "Shlink's image is a tag that moves",
        [Change("components/pins.py", "shlinkio/shlink:4.6.0", "shlinkio/shlink:stable")],
        ["tests/test_policy.py", "-k", "keeps_every_rule"],
    ),
    Mutant(
        "what is in Vault follows VAULT_ADDR",
        [Change("components/vault/component.py", "            provider=self._provider,\n", "")],
        ["tests/test_policy.py", "-k", "keeps_every_rule"],
    ),
    Mutant(
        "a secret is written into a ConfigMap",
        [
            Change(
                "components/shlink/component.py",
                'data={"timeouts.ini": _PHP_INI}',
                'data={"timeouts.ini": pulumi.Output.secret(_PHP_INI)}',
            )
        ],
        ["tests/test_policy.py", "-k", "keeps_every_rule"],
    ),
    Mutant(
        "a password stands in a pod's variable",
        [
            Change(
                "components/shlink/component.py",
                'secret_variable("DB_PASSWORD", args.database_secret.name, PASSWORD_KEY)',
                'core.v1.EnvVarArgs(name="DB_PASSWORD", value="shlink")',
            )
        ],
        ["tests/test_policy.py", "-k", "keeps_every_rule"],
    ),
    Mutant(
        "a generated password loses its mark and is written into an annotation",
        [
            Change(
                "components/redis/component.py",
                "annotations={REVISION_ANNOTATION: revision},",
                "annotations={REVISION_ANNOTATION: pulumi.Output.unsecret(current)},",
            )
        ],
        ["tests/test_policy.py", "-k", "keeps_every_rule"],
    ),
    Mutant(
        "the grants of two users share a name",
        [
            Change(
                "components/postgres/component.py",
                '    if name == f"{user.name}-db" and database == user.name:\n',
                "    if database == user.name:\n",
            )
        ],
        ["tests/test_operators.py", "-k", "second_consumer"],
    ),
    Mutant(
        "a recovery forgets what a killed run began in Vault",
        [
            Change(
                "operate/repair/recover.py",
                '        if operation["type"] == "creating" and urn in paths:\n',
                '        if operation["type"] == "nothing" and urn in paths:\n',
            )
        ],
        ["tests/test_recover.py", "-k", "paths_are_read"],
    ),
    Mutant(
        "a drill counts the pod that still stops as recovered",
        [Change("operate/rehearse/drills.py", "        await _gone(api, namespace, old)\n", "")],
        ["tests/test_drills.py", "-k", "has_stopped"],
    ),
    Mutant(
        "doctor looks inside a pod without asking whether it may",
        [
            Change(
                "operate/doctor/inside.py",
                'if not await view.may(verb, "pods", subresource, namespace):',
                "if False:",
            )
        ],
        ["tests/test_doctor.py", "-k", "own_role_skips"],
    ),
    Mutant(
        "doctor takes a webhook without a pod for one that answers",
        [Change("operate/doctor/checks/cluster.py", "if not any_ready(entries):", "if False:")],
        ["tests/test_doctor.py", "-k", "webhook_without_a_ready_pod"],
    ),
    Mutant(
        "a question of rights that nobody answers counts as a missing right",
        [
            Change(
                "operate/view.py",
                "if reply.status >= HTTPStatus.BAD_REQUEST:\n            # An",
                "if False:\n            # An",
            )
        ],
        ["tests/test_doctor.py", "-k", "refuses_a_question_of_rights"],
    ),
    Mutant(
        "doctor accepts a server's certificate whoever signed it",
        [
            Change(
                "operate/doctor/inside.py",
                "    context.verify_flags &= ~ssl.VERIFY_X509_STRICT\n",
                "    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n",
            )
        ],
        ["tests/test_doctor.py", "-k", "certificate"],
    ),
    Mutant(
        "the program and the autoscaler fight over the number of pods",
        [
            Change(
                "components/shlink/component.py", 'unmanaged = ["spec.replicas"]', "unmanaged = []"
            )
        ],
        ["tests/test_shlink.py", "-k", "belongs_to_the_autoscaler"],
    ),
    Mutant(
        "Vault counts as sealed for an hour after its start",
        [
            Change(
                "components/monitoring/alerts.yaml",
                "max by (namespace, pod) (vault_core",
                "(vault_core",
            )
        ],
        ["tests/test_monitoring.py", "-k", "healthy"],
    ),
    Mutant(
        "an alert asks for a metric that no exporter has",
        [Change("components/monitoring/terms.yaml", "recovery: ccp_is_in", "recovery: ccp_in")],
        ["tests/test_metrics.py", "-k", "exporter_has"],
    ),
    Mutant(
        "the path that closes /rest leads to Shlink",
        [
            Change(
                "components/shlink/route.py", "target_port=ports.CLOSED", "target_port=ports.SHLINK"
            )
        ],
        ["tests/test_route.py", "-k", "without_a_server"],
    ),
    Mutant(
        "the network drops what the closed path sends, and requests hang",
        [Change("components/network/flows.py", "shlink_ports.append(ports.CLOSED)", "pass")],
        ["tests/test_route.py", "-k", "refused_at_once"],
    ),
    Mutant(
        "Vault's listener is told of no TLS by the chart",
        [Change("components/vault/server.py", '{"tlsDisable": False}', '{"tlsDisable": True}')],
        ["tests/test_vault.py", "-k", "without_tls"],
    ),
    Mutant(
        "the program may change its own policy in Vault",
        [
            Change(
                "components/vault/policies.py",
                '            f"sys/policies/acl/{login}": ["read"],\n',
                "",
            )
        ],
        ["tests/test_vault.py", "-k", "own_rights"],
    ),
    Mutant(
        "a person who operates may restore a snapshot",
        [
            Change(
                "components/vault/policies.py",
                '"sys/storage/raft/snapshot": ["read"]',
                '"sys/storage/raft/snapshot": ["read", "update"]',
            )
        ],
        ["tests/real/test_vault_people.py", "-k", "may_not"],
    ),
    Mutant(
        "the auth method for people cannot be taken away again",
        [
            Change(
                "components/vault/policies.py",
                'f"sys/auth/{people}": ["read", "delete", "sudo"]',
                'f"sys/auth/{people}": ["read"]',
            )
        ],
        ["tests/real/test_vault_people.py", "-k", "takes_the_auth"],
    ),
    Mutant(
        "any group may log in to Vault as an operator",
        [
            Change(
                "components/vault/people.py",
                "args.operator_policy: people.operators",
                "args.operator_policy: (*people.operators, *people.viewers)",
            )
        ],
        ["tests/test_vault.py", "-k", "by_their_group"],
    ),
    Mutant(
        "a transit seal is verified against this environment's own authority",
        [
            Change(
                "components/vault/server.py",
                'service.type == "transit" and',
                'service.type == "other" and',
            )
        ],
        ["tests/test_vault.py", "-k", "transit_seal"],
    ),
    Mutant(
        "the init Job initialises a Vault whose earlier keys are kept",
        [
            Change(
                "components/scripts/vault_check.sh",
                '"$first" = new ] && [ "$keys" -gt 0 ]',
                '"$first" = new ] && [ "$keys" -gt 9 ]',
            )
        ],
        ["tests/real/test_vault.py", "-k", "lost_volume"],
    ),
    Mutant(
        "a root token outlives an init Job that was cut off",
        [Change("components/scripts/vault_login.sh", "\nlimit_root\n", "\n")],
        ["tests/real/test_vault.py", "-k", "cut_off"],
    ),
    Mutant(
        "the grant on schema public lacks CREATE",
        [
            Change(
                "components/postgres/component.py",
                'privileges: Sequence[str] = ("CREATE", "USAGE")',
                'privileges: Sequence[str] = ("USAGE",)',
            )
        ],
        ["tests/real/test_postgres.py"],
    ),
    Mutant(
        "the SCRAM verifier is computed with another word",
        [Change("components/postgres/component.py", 'b"Client Key"', 'b"Client key"')],
        ["tests/real/test_postgres.py"],
    ),
    Mutant(
        "a field of ExternalSecret is misspelt",
        [
            Change(
                "components/external_secrets/component.py",
                '"deletionPolicy": "Retain"',
                '"deletePolicy": "Retain"',
            )
        ],
        ["tests/real/test_objects.py"],
    ),
    Mutant(
        "a field is called otherwise in the types than in the CRD",
        [
            Change(
                "components/redis/crds.py",
                "    keepAfterDeletion: bool",
                "    keepAfterDelete: bool",
            )
        ],
        ["tests/real/test_crds.py"],
    ),
    Mutant(
        "every pod of `shlink` may reach PostgreSQL",
        [
            Change(
                "components/network/flows.py",
                "Flow(SERVER, DATABASE, [ports.POSTGRES])",
                'Flow(Pods("any", SHLINK), DATABASE, [ports.POSTGRES])',
            )
        ],
        ["tests/real/test_network.py"],
    ),
    Mutant(
        "egress is no longer denied by default",
        [
            Change(
                "components/network/namespaces.py",
                'policy_types=["Ingress", "Egress"],\n            egress=',
                'policy_types=["Ingress"],\n            egress=',
            )
        ],
        ["tests/real/test_network.py"],
    ),
    Mutant(
        "the ports of Redis and Sentinel are swapped in the flow table",
        [
            Change(
                "components/network/flows.py",
                "Flow(client, REDIS_SERVERS, [ports.REDIS])",
                "Flow(client, REDIS_SERVERS, [ports.SENTINEL])",
            ),
            Change(
                "components/network/flows.py",
                "Flow(client, SENTINELS, [ports.SENTINEL])",
                "Flow(client, SENTINELS, [ports.REDIS])",
            ),
        ],
        ["tests/real/test_network.py"],
    ),
    Mutant(
        "titles may be fetched from the cloud's metadata service",
        [Change("components/network/flows.py", '        "169.254.0.0/16",\n', "")],
        ["tests/real/test_network.py"],
    ),
    Mutant(
        "Shlink's containers lack their securityContext",
        [
            Change(
                "components/shlink/component.py",
                "security_context=CONTAINER_SECURITY,\n"
                "        resources=requirements(args.settings.resources)",
                "resources=requirements(args.settings.resources)",
            )
        ],
        ["tests/real/test_pods.py"],
    ),
    Mutant(
        "the unseal sidecar may gain privileges",
        [
            Change(
                "components/vault/server.py",
                '"securityContext": CONTAINER_SECURITY,\n        "resources": _small()',
                '"resources": _small()',
            )
        ],
        ["tests/real/test_pods.py"],
    ),
    Mutant(
        "Pod Security only warns",
        [
            Change(
                "components/network/namespaces.py",
                'for mode in ("enforce", "audit", "warn")',
                'for mode in ("audit", "warn")',
            )
        ],
        ["tests/real/test_pods.py"],
    ),
    Mutant(
        "replicas are spread by labels that they don't bear",
        [
            Change(
                "components/redis/component.py",
                '"app.kubernetes.io/component": "sentinel"}',
                '"app.kubernetes.io/component": "sentinels"}',
            )
        ],
        ["tests/real/test_pods.py"],
    ),
    Mutant(
        "Shlink is given one Redis server",
        [Change("components/redis/component.py", 'pulumi.Output.concat(url, ",", url)', "url")],
        ["tests/real/test_redis.py", "-k", "publish"],
    ),
    Mutant(
        "Shlink is not told the name of the monitored master",
        [
            Change(
                "components/redis/component.py", "sentinel_service=MASTER", "sentinel_service=None"
            )
        ],
        ["tests/real/test_redis.py", "-k", "publish"],
    ),
    Mutant(
        "the wait for Redis is satisfied by the servers of before the change",
        [
            Change(
                "components/redis/component.py",
                "if annotations.get(REVISION_ANNOTATION) != revision:",
                "if REVISION_ANNOTATION not in annotations:",
            )
        ],
    ),
    Mutant(
        "a full cache evicts nothing but locks",
        [Change("components/redis/component.py", '"allkeys-lru"', '"volatile-lru"')],
        ["tests/real/test_redis.py", "-k", "full_cache"],
    ),
    Mutant(
        "a rotation gives up at the first refusal",
        [
            Change(
                "components/scripts/redis_rotate.sh",
                "tries=$((tries - 1))",
                "tries=0",
            )
        ],
        ["tests/real/test_redis.py", "-k", "refusal"],
    ),
    Mutant(
        "a rotation forgets the sentinels",
        [
            Change(
                "components/scripts/redis_rotate.sh",
                '-x sentinel set "$MASTER" auth-pass >/dev/null',
                "-x echo >/dev/null",
            )
        ],
        ["tests/real/test_redis.py", "-k", "rotation"],
    ),
    Mutant(
        "a rotation takes the old password away at once",
        [
            Change(
                "components/scripts/redis_rotate.sh",
                "-x acl setuser default >/dev/null",
                "-x acl setuser default resetpass >/dev/null",
            )
        ],
        ["tests/real/test_redis.py", "-k", "rotation"],
    ),
    Mutant(
        "Vault's server may read every Secret of its namespace",
        [
            Change(
                "components/vault/component.py", "verbs, [keys.metadata.name.apply(str)]", "verbs"
            )
        ],
        ["tests/real/test_rights.py", "-k", "test_account"],
    ),
    Mutant(
        "redis-operator lacks a right that it uses",
        [
            Change(
                "components/operators/redis_operator.py",
                '                rule("policy", "poddisruptionbudgets", "get create update"),\n',
                "",
            )
        ],
        ["tests/real/test_rights.py", "-k", "test_account"],
    ),
    Mutant(
        "External Secrets may ask for a token of any ServiceAccount",
        [Change("components/external_secrets/component.py", ", [args.account])", ")")],
        ["tests/real/test_rights.py", "-k", "test_account"],
    ),
    Mutant(
        "whoever previews may read Secrets",
        [
            Change(
                "deploy/rbac/preview.yaml",
                "resources: [serviceaccounts,",
                "resources: [secrets, serviceaccounts,",
            )
        ],
        ["tests/real/test_rights.py", "-k", "preview"],
    ),
    Mutant(
        "whoever previews may read every ConfigMap",
        [
            Change(
                "deploy/rbac/preview.yaml",
                "resources: [serviceaccounts,",
                "resources: [configmaps, serviceaccounts,",
            )
        ],
        ["tests/real/test_rights.py", "-k", "preview"],
    ),
    Mutant(
        "whoever deploys may bind any ClusterRole",
        [
            Change(
                "deploy/rbac/deploy.yaml",
                '    resourceNames: ["system:auth-delegator", shlink-redis-operator]\n'
                "    verbs: [bind]",
                "    verbs: [bind]",
            )
        ],
        ["tests/real/test_rights.py", "-k", "deploy"],
    ),
    Mutant(
        "the PostgresCluster does not wait for its operator, and outlives it on destroy",
        [
            Change(
                "components/postgres/component.py",
                "depends_on=[*secrets, *args.operator]",
                "depends_on=[*secrets]",
            )
        ],
    ),
    Mutant(
        "the database pods are spread by a constraint that PGO adds too",
        [
            Change(
                "components/postgres/component.py",
                '                "dataVolumeClaimSpec": volume_claim(settings.storage),\n',
                '                "dataVolumeClaimSpec": volume_claim(settings.storage),\n'
                '                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": '
                '"kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}],\n',
            )
        ],
        ["tests/real/test_pods.py", "-k", "admitted"],
    ),
    Mutant(
        "the database counts as complete without a first backup",
        [
            Change(
                "components/postgres/readiness.py",
                'get("PGBackRestReplicaCreate", {}).get("status") != "True"',
                'get("PGBackRestReplicaCreate", {}).get("status") == "False"',
            )
        ],
    ),
    Mutant(
        "a rotation changes the password of the login that is in use",
        [
            Change(
                "components/postgres/component.py",
                "return self.logins[(self.rotation - 1) % 2]",
                "return self.name",
            )
        ],
    ),
    Mutant(
        "the second login is no member of the role that owns the tables",
        [
            Change(
                "components/postgres/component.py",
                "rights[user.name].append(membership)",
                "del membership",
            )
        ],
    ),
    Mutant(
        "an object store takes the place of the volume, and PGO deletes the backups on it",
        [Change("components/settings/postgres.py", 'VOLUME = "repo1"', 'VOLUME = "repo4"')],
    ),
    Mutant(
        "every incarnation of the database writes to one path",
        [
            Change(
                "components/postgres/backups.py",
                '"/", self._args.cluster, "/", incarnation.hex, "/", repository',
                '"/", self._args.cluster, "/", repository',
            )
        ],
    ),
    Mutant(
        "a restore leaves the passwords of its time",
        [
            Change(
                "components/postgres/component.py",
                'return " ".join([self.options, *added])',
                "return self.options",
            )
        ],
    ),
    Mutant(
        "the object store's port is closed",
        [
            Change(
                "components/network/flows.py",
                "_to(pods, store, [store.port])",
                "_to(pods, store, [ports.HTTP])",
            )
        ],
        ["tests/real/test_network.py"],
    ),
    Mutant(
        "Shlink takes any server for PostgreSQL",
        [
            Change(
                "components/shlink/component.py",
                '"PGSSLMODE": "verify-full"',
                '"PGSSLMODE": "require"',
            )
        ],
        ["tests/real/test_postgres.py", "-k", "verify"],
    ),
    Mutant(
        "replicas log in with a certificate of another role",
        [
            Change(
                "components/postgres/component.py",
                "            common_name=_REPLICATION_ROLE,\n",
                "",
            )
        ],
    ),
    Mutant(
        "a data source replaces a running database",
        [
            Change(
                "components/postgres/guard.py",
                'if "dataSource" in new and "dataSource" not in old:',
                'if "dataSource" in old and "dataSource" not in new:',
            )
        ],
        ["tests/test_restores.py", "-k", "beside_the_running_one"],
    ),
    Mutant(
        "the migration does not wait for the grant",
        [
            Change(
                "components/postgres/component.py",
                "ready=[complete, *rights[user.name]]",
                "ready=[complete]",
            )
        ],
        ["tests/real/test_postgres.py", "-k", "between"],
    ),
    Mutant(
        "the grant does not go with its cluster, so destroy needs a connection",
        [
            Change(
                "components/postgres/component.py",
                "            deleted_with=cluster,\n",
                "",
            )
        ],
        ["tests/real/test_postgres.py", "-k", "between"],
    ),
    Mutant(
        "the program reads a Secret from the cluster",
        [
            Change(
                "components/postgres/component.py",
                "        # Connects only when something inside",
                '        core.v1.Secret.get("read", f"{POSTGRES}/{CLUSTER}-pguser-{SUPERUSER}")\n'
                "        # Connects only when something inside",
            )
        ],
        ["tests/real/test_rights.py", "-k", "reads_nothing"],
    ),
    Mutant(
        "the token that External Secrets shows has no audience",
        [
            Change(
                "components/external_secrets/component.py",
                "            audience=args.audience,\n",
                "",
            )
        ],
        ["tests/real/test_rights.py", "-k", "vault_alone"],
    ),
    Mutant(
        "a changed password does not reach the pods",
        [
            Change(
                "components/shlink/component.py",
                "        for secret in secrets\n"
                "        if secret is not None\n    }\n    if database",
                "        for secret in secrets[:0]\n"
                "        if secret is not None\n    }\n    if database",
            )
        ],
        ["tests/real/test_pods.py", "-k", "changed_secret"],
    ),
    Mutant(
        "the fields of a killed run can't be changed later",
        [Change("components/cluster/access.py", "        enable_patch_force=True,\n", "")],
    ),
    Mutant(
        "a recovery creates a second time what has a path in Vault",
        [
            Change(
                "operate/repair/recover.py",
                'if resource["type"] in _PATHS:',
                'if resource["type"] in ():',
            )
        ],
    ),
    Mutant(
        "the API key is stored as its own name",
        [
            Change(
                "components/shlink/component.py",
                'secret_variable("API_KEY", args.api_key.name, API_KEY)',
                'secret_variable("INITIAL_API_KEY", args.api_key.name, API_KEY)',
            )
        ],
    ),
    Mutant(
        "a stopping pod is killed before RoadRunner has stopped",
        [
            Change(
                "components/shlink/component.py",
                "        termination_grace_period_seconds=_STOP_SECONDS,\n",
                "",
            )
        ],
    ),
    Mutant(
        "titles may be fetched from inside the cluster over IPv6",
        [Change("components/network/flows.py", '        "fc00::/7",\n', "")],
    ),
    Mutant(
        "a group that is set in part gets its type's defaults, not its own",
        [
            Change(
                "components/settings/types.py",
                "return merged("
                "field.default.model_dump(by_alias=True, exclude_unset=True), partial)",
                "return partial",
            )
        ],
    ),
    Mutant(
        "a mutable tag of an image is accepted",
        [Change("components/settings/types.py", "if not reference.pinned:", "if False:")],
    ),
    Mutant(
        "a password in a refused URL is printed",
        [
            Change(
                "components/settings/reading.py",
                'r"(?<=://)[^/\\s]*@", "[secret]@", value',
                'r"(?!)", "", value',
            )
        ],
    ),
    Mutant(
        "a new major version of PostgreSQL is no destructive change",
        [
            Change(
                "components/postgres/guard.py",
                "        *await _version(before, after, cluster),\n",
                "",
            )
        ],
        ["tests/test_changes.py", "-k", "waits_for_its_upgrade"],
    ),
    Mutant(
        "the archived redis-operator starts beside its fork",
        [Change("components/settings/changes.py", '== ("freshworks", "spotahome")', '== ("", "")')],
        ["tests/test_changes.py", "-k", "destroys_is_refused"],
    ),
    Mutant(
        "an autoscaler holds up the pods that a restore stops",
        [
            Change(
                "components/postgres/restore.py",
                """current.raw["spec"].get("replicas") != 0:""",
                """current.raw["spec"].get("replicas") == 3:""",
            )
        ],
        ["tests/test_restores.py", "-k", "overruled"],
    ),
    Mutant(
        "a Deployment that did not stop for a restore stays at 0",
        [
            Change(
                "components/postgres/restore.py",
                '            await deployment.patch({"spec": {"replicas": replicas}})\n',
                "",
            )
        ],
        ["tests/test_restores.py", "-k", "runs_again"],
    ),
    Mutant(
        "PostgreSQL's image changes without pgBackRest's",
        [Change("components/settings/changes.py", ".count(False) == 1", ".count(False) > 1")],
        ["tests/test_changes.py", "-k", "destroys_is_refused or ordinary_change"],
    ),
    Mutant(
        "the migration goes through PgBouncer, where it works as no role",
        [Change("components/shlink/component.py", "pooled=False", "pooled=True")],
        ["tests/test_postgres.py", "-k", "migration_past_it"],
    ),
    Mutant(
        "PgBouncer may reach what the database may",
        [
            Change(
                "components/network/namespaces.py",
                "[beside_pooler(flow) for flow in table]",
                "list(table)",
            )
        ],
        ["tests/test_network.py", "-k", "exactly_the_flows and pooler"],
    ),
    Mutant(
        "PgBouncer's pools take the connections that are reserved",
        [Change("components/settings/postgres.py", "// (3 * pods)", "// pods")],
        ["tests/test_postgres.py", "-k", "leave_the_database_its_reserve"],
    ),
    Mutant(
        "a repository is taken away while no other holds a full backup",
        [
            Change(
                "components/postgres/guard.py",
                "        *await _removals(before, after, cluster),\n",
                "",
            )
        ],
        ["tests/test_changes.py", "-k", "otherwise_it_stays"],
    ),
    Mutant(
        "nothing waits for the comparison of settings",
        [Change("components/cluster/access.py", "else [after]", "else None")],
        ["tests/test_changes.py", "-k", "before_the_network_policies"],
    ),
    Mutant(
        "a targeted update passes the refusals of Redis",
        [
            Change(
                "components/redis/component.py",
                "before_update=[refusal_hook(",
                "after_update=[refusal_hook(",
            )
        ],
        ["tests/test_changes.py", "-k", "targeted_update_meets"],
    ),
    Mutant(
        "a login that Vault has not been told is tried",
        [
            Change(
                "components/vault/init.py",
                "pulumi.Output.all(job.id, job.spec)",
                'pulumi.Output.all("", job.spec)',
            )
        ],
        ["tests/test_vault.py", "-k", "has_not_been_told"],
    ),
    Mutant(
        "a migration that runs is run again",
        [
            Change(
                "components/cluster/jobs.py",
                'if end == "Failed" and self._runs_again',
                "if self._runs_again",
            )
        ],
        ["tests/test_jobs.py"],
    ),
    Mutant(
        "a key twice in a stack's file is accepted",
        [
            Change(
                "components/settings/stack_file.py",
                "            if key in entries:\n",
                "            if False:\n",
            )
        ],
    ),
]


class LostError(Exception):
    """The text that a mutant replaces is not there, or not once."""


def _apply(folder: Path, mutant: Mutant) -> dict[Path, str]:
    """Returns the files as they were. Raises LostError."""
    before: dict[Path, str] = {}
    for change in mutant.changes:
        path = folder / change.file
        text = path.read_text()
        before.setdefault(path, text)
        if text.count(change.old) != 1:
            times = text.count(change.old)
            raise LostError(f"{mutant.what}: {change.file} has {times} times:\n{change.old}")
        path.write_text(text.replace(change.old, change.new))
    return before


def _run(folder: Path, arguments: Sequence[str]) -> tuple[str, int]:
    """The first check that fails, or nothing; and how many passed."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        *arguments,
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
    ]
    done = subprocess.run(  # noqa: S603 -- pytest with the arguments above
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )
    if done.returncode not in (0, 1, 5) and "ERROR" not in done.stdout:
        raise RuntimeError(
            f"pytest {' '.join(arguments)} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    failed = re.search(r"^(?:FAILED|ERROR) (\S+(?: \S+\])?)", done.stdout, re.MULTILINE)
    passed = re.search(r"(\d+) passed", done.stdout)
    return failed.group(1) if failed else "", int(passed.group(1)) if passed else 0


def _judge(folder: Path, mutant: Mutant) -> str:
    """The check that notices, or nothing."""
    check = ""
    if mutant.real:
        check, _ = _run(folder, mutant.real)
    if not check:
        check, _ = _run(folder, _QUICK)
    return check


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description="Break the program on purpose and say which check notices.",
    )
    parser.add_argument(
        "words", nargs="*", help="only faults whose description has one of these words"
    )
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.words or any(word in mutant.what for word in options.words)
    ]
    if not os.environ.get("SHLINK_TEST_KUBECONFIG"):
        print(
            "SHLINK_TEST_KUBECONFIG names no kubeconfig (make scratch-cluster starts one): only"
            " checks that need no cluster run"
        )
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name) / "copy"
        shutil.copytree(ROOT, folder, ignore=_LEFT_OUT, symlinks=True)
        try:
            for mutant in chosen:  # all of them before the first is tried
                for path, text in _apply(folder, mutant).items():
                    path.write_text(text)
        except LostError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        failing, passed = _run(folder, _QUICK)
        if failing or not passed:
            print(
                f"error: {failing or 'nothing'} fails without any fault: repair that first",
                file=sys.stderr,
            )
            return 2
        for mutant in chosen:
            before, began = _apply(folder, mutant), time.monotonic()
            caught = _judge(folder, mutant)
            survived += not caught
            outcome = "caught  " if caught else "SURVIVED"
            seconds = time.monotonic() - began
            print(f"{outcome}  {mutant.what:<75}  {seconds:4.0f} s  {caught}", flush=True)
            for path, text in before.items():
                path.write_text(text)
    print(f"{len(chosen) - survived} of {len(chosen)} noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
