"""Faults of an environment, each with the finding that doctor must name first.

The cause comes with its consequences, as in a cluster: a sealed Vault has a store that can't log
in, Secrets that are not synced and pods that wait.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.world import PGO, World, ago

SHLINK, VAULT, POSTGRES, REDIS = "shlink", "vault", "postgres", "redis"


@dataclass(frozen=True)
class Fault:
    """Something that is broken, and what doctor must say first."""

    name: str
    make: Callable[[World], object]
    check: str
    anchor: str
    stack: str = "dev"


FAULTS: list[Fault] = []


Make = Callable[[World], object]


def fault(check: str, anchor: str, stack: str = "dev") -> Callable[[Make], Make]:
    """Add a function that breaks a healthy world to the table."""

    def add(make: Make) -> Make:
        name = make.__name__.strip("_").replace("_", " ")
        FAULTS.append(Fault(name=name, make=make, check=check, anchor=anchor, stack=stack))
        return make

    return add


def unsynced(world: World, message: str) -> None:
    """No ExternalSecret can be refreshed."""
    for item in world.of("ExternalSecret"):
        name = item["metadata"]["name"]
        told = "could not get secret data from provider"
        world.condition("ExternalSecret", name, "False", "SecretSyncedError", told)
        world.event("ExternalSecret", name, SHLINK, "UpdateFailed", message)


def store_down(world: World, message: str) -> None:
    """The SecretStore can't log in, and what follows from that."""
    told = "unable to create client"
    world.condition("SecretStore", "vault-backend", "False", "InvalidProviderConfig", told)
    world.event("SecretStore", "vault-backend", SHLINK, "InvalidProviderConfig", message)
    unsynced(world, "store is not ready")


def tells(world: World, **facts: Any) -> None:
    """What the primary of PostgreSQL tells of itself."""
    assert world.psql is not None
    world.psql |= facts


def shlink_down(world: World) -> None:
    """Shlink's pods have been running and are not Ready."""
    world.not_ready("shlink-7f8b")
    for pod in world.pods("shlink-7f8b"):
        name = pod["metadata"]["name"]
        message = "Readiness probe failed: HTTP probe failed with statuscode: 503"
        world.event("Pod", name, SHLINK, "Unhealthy", message)


def migration(world: World, log: str) -> None:
    """The migration Job has failed with this log, and Shlink was never deployed."""
    job = world.find("Job", "shlink-migration")
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    job["status"] = {"conditions": [failed]}
    pod = world.pods("shlink-7f8b-0")[0]
    world.remove("Pod", "shlink-7f8b")
    world.remove("Deployment", "shlink")
    pod["metadata"] |= {
        "name": "shlink-migration-x1",
        "labels": {"job-name": "shlink-migration"},
    }
    pod["status"] |= {"phase": "Failed"}
    pod["status"]["containerStatuses"][0] |= {"name": "migration", "state": {"terminated": {}}}
    world.objects.append(pod)
    world.logs["shlink-migration-x1"] = log


# The cluster


@fault("cluster.reachable", "cluster-unreachable")
def the_api_server_is_silent(world: World) -> None:
    world.silent = True


@fault("cluster.namespaces", "namespace-missing")
def nothing_is_deployed(world: World) -> None:
    world.objects = [item for item in world.objects if item["kind"] == "Node"]


@fault("cluster.namespaces", "namespace-terminating")
def a_namespace_hangs_in_deletion(world: World) -> None:
    world.find("Namespace", REDIS)["status"]["phase"] = "Terminating"
    world.remove("Pod", "rfr-")
    world.remove("Pod", "rfs-")
    shlink_down(world)


@fault("cluster.nodes", "node-not-ready")
def a_node_is_lost(world: World) -> None:
    world.find("Node", "node-1")["status"]["conditions"][0]["status"] = "Unknown"
    for prefix in ("vault-0", "shlink-db", "rfr-", "shlink-7f8b"):
        world.not_ready(prefix)


@fault("cluster.kinds", "custom-resource-missing")
def the_definitions_of_external_secrets_are_missing(world: World) -> None:
    world.unserved |= {"ExternalSecret", "SecretStore"}
    world.waiting("shlink-7f8b", "CreateContainerConfigError", 'secret "shlink-api-key" not found')


@fault("cluster.kinds", "custom-resource-missing")
def the_definition_of_redisfailover_is_missing(world: World) -> None:
    world.unserved |= {"RedisFailover"}
    world.remove("Pod", "rfr-")
    world.remove("Pod", "rfs-")
    shlink_down(world)


@fault("cluster.policies", "network-policy-missing")
def the_network_policy_of_shlink_is_missing(world: World) -> None:
    world.objects = [
        item
        for item in world.objects
        if item["kind"] != "NetworkPolicy"
        or (item["metadata"]["namespace"], item["metadata"]["name"]) != (SHLINK, SHLINK)
    ]
    world.waits("shlink-7f8b", "wait-for-postgres")


@fault("cluster.policies", "network-policy-changed")
def a_network_policy_was_edited(world: World) -> None:
    policies = [
        item
        for item in world.of("NetworkPolicy")
        if (item["metadata"]["namespace"], item["metadata"]["name"]) == (SHLINK, SHLINK)
    ]
    policies[0]["spec"]["egress"] = policies[0]["spec"]["egress"][:1]
    world.waits("shlink-7f8b", "wait-for-redis")


@fault("cluster.volumes", "volume-not-bound")
def the_volume_of_vault_is_never_bound(world: World) -> None:
    claim = world.find("PersistentVolumeClaim", "data-vault-0")
    claim["status"]["phase"] = "Pending"
    message = 'storageclass.storage.k8s.io "fast" not found'
    world.event("PersistentVolumeClaim", "data-vault-0", VAULT, "ProvisioningFailed", message)
    world.unscheduled("vault-0", "pod has unbound immediate PersistentVolumeClaims")
    store_down(world, "dial tcp 10.96.3.4:8200: connect: connection refused")


@fault("cluster.objects", "object-missing")
def the_service_account_of_the_store_is_missing(world: World) -> None:
    world.remove("ServiceAccount", "external-secrets-sa")
    store_down(world, 'ServiceAccount "external-secrets-sa" not found')


@fault("cluster.dns", "name-does-not-resolve")
def the_dns_of_the_cluster_is_down(world: World) -> None:
    world.not_ready("coredns-")
    store_down(world, "dial tcp: lookup vault.vault.svc: i/o timeout")
    world.waits("shlink-7f8b", "wait-for-postgres")


@fault("cluster.dns", "name-does-not-resolve")
def the_service_of_the_dns_was_deleted(world: World) -> None:
    world.remove("EndpointSlice", "kube-dns")
    store_down(world, "dial tcp: lookup vault.vault.svc: i/o timeout")


@fault("cluster.objects", "object-missing")
def vault_may_not_review_tokens(world: World) -> None:
    world.remove("ClusterRoleBinding", "vault-vault-token-review")
    store_down(world, "Code: 403. Errors: * permission denied")


@fault("cluster.objects", "not-as-declared")
def external_secrets_may_not_request_the_token_of_the_store(world: World) -> None:
    role = world.find("Role", "external-secrets-sa")
    world.edit(role, "rules", [{**role["rules"][0], "resourceNames": ["other"]}])
    store_down(world, 'serviceaccounts "external-secrets-sa" is forbidden')


@fault("cluster.nodes", "node-takes-no-pods")
def the_only_node_is_cordoned(world: World) -> None:
    world.find("Node", "node-1")["spec"] = {"unschedulable": True}
    world.unscheduled("shlink-7f8b", "0/1 nodes are available: 1 node(s) were unschedulable")


@fault("cluster.nodes", "node-takes-no-pods")
def the_disk_of_the_node_is_full(world: World) -> None:
    conditions = world.find("Node", "node-1")["status"]["conditions"]
    conditions.append({"type": "DiskPressure", "status": "True"})
    world.unscheduled("shlink-7f8b-0", "0/1 nodes are available: 1 node(s) had untolerated taint")


@fault("cluster.admission", "admission-webhook-down")
def an_admission_webhook_is_down(world: World) -> None:
    message = 'Internal error occurred: failed calling webhook "validate.policy": refused'
    for prefix, owner, namespace in (
        ("rfr-shlink-redis-2", "rfr-shlink-redis", REDIS),
        ("shlink-7f8b-0", "shlink-7f8b", SHLINK),
    ):
        world.remove("Pod", prefix)
        world.event("StatefulSet", owner, namespace, "FailedCreate", message)


@fault("cluster.strays", "stray-pod")
def a_pod_for_debugging_gets_requests(world: World) -> None:
    stray = copy.deepcopy(world.pods("shlink-7f8b")[0])
    for item in world.pods("shlink-7f8b"):
        owner = {"controller": True, "kind": "ReplicaSet", "name": "shlink-7f8b"}
        item["metadata"]["ownerReferences"] = [owner]
    stray["metadata"]["name"] = "shlink-7f8b-debug"
    world.objects.append(stray)


@fault("cluster.dns", "name-does-not-resolve")
def the_dns_of_the_cluster_has_no_pods(world: World) -> None:
    """Without pods its Service's slice tells no ports."""
    for piece in world.of("EndpointSlice"):
        if piece["metadata"]["namespace"] == "kube-system":
            piece |= {"ports": None, "endpoints": []}
            piece["metadata"]["annotations"]["pods"] = "nothing"


# The operators


@fault("operators.unchanged", "not-as-declared")
def the_arguments_of_pgo_were_edited(world: World) -> None:
    deployment = world.find("Deployment", "pgo")
    deployment["spec"]["template"] = {"spec": {"containers": [{"name": "pgo"}]}}
    world.edit(deployment, "spec.template.spec.containers.pgo.args", ["--nothing"])
    world.crashed("pgo-")


@fault("operators.rights", "operator-rights-missing")
def the_rights_of_external_secrets_were_deleted(world: World) -> None:
    pods = {"spec": {"serviceAccountName": "external-secrets"}}
    world.find("Deployment", "external-secrets")["spec"]["template"] = pods
    world.crashed("external-secrets-")


@fault("operators.available", "operator-down")
def pgo_is_scaled_to_0(world: World) -> None:
    world.find("Deployment", "pgo")["spec"]["replicas"] = 0
    world.remove("Pod", "pgo-")
    world.find("PostgresCluster", "shlink-db")["metadata"]["generation"] = 2


@fault("operators.available", "operator-down")
def external_secrets_is_gone(world: World) -> None:
    world.remove("Deployment", "external-secrets")
    world.remove("Pod", "external-secrets-")
    for item in world.of("ExternalSecret"):
        item["status"]["refreshTime"] = ago(86400)


@fault("operators.available", "image-not-pulled")
def the_image_of_redis_operator_is_not_pulled(world: World) -> None:
    world.waiting("redis-operator-", "ImagePullBackOff")
    for kind in ("Pod", "Service", "StatefulSet"):
        world.remove(kind, "rfr-")
    shlink_down(world)


@fault("operators.available", "container-crashes")
def pgo_crashes(world: World) -> None:
    world.crashed("pgo-")
    world.find("PostgresCluster", "shlink-db")["status"] = {}
    world.remove("Pod", "shlink-db-")
    shlink_down(world)


# Vault


@fault("vault.unchanged", "not-as-declared")
def the_image_of_vault_was_edited(world: World) -> None:
    stateful_set = world.find("StatefulSet", VAULT)
    stateful_set["spec"]["template"] = {"spec": {"containers": [{"name": "vault"}]}}
    world.edit(stateful_set, "spec.template.spec.containers.vault.image", "vault:nope")
    world.waiting("vault-0", "ErrImagePull")
    store_down(world, "connection refused")


@fault("vault.unsealed", "vault-sealed")
def vault_is_sealed(world: World) -> None:
    world.health["vault-0"] = {"initialized": True, "sealed": True}
    world.not_ready("vault-0")
    store_down(world, "Code: 503. Errors: * Vault is sealed")
    world.waiting("shlink-7f8b", "CreateContainerConfigError", 'secret "shlink-redis" not found')


@fault("vault.unsealed", "vault-sealed")
def vault_is_sealed_and_the_proxy_is_fenced_out(world: World) -> None:
    world.health["vault-0"] = None
    world.not_ready("vault-0")
    message = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    world.event("Pod", "vault-0", VAULT, "Unhealthy", message)
    store_down(world, "Code: 503. Errors: * Vault is sealed")


@fault("vault.unsealed", "vault-not-initialised")
def vault_is_not_initialised(world: World) -> None:
    world.health["vault-0"] = {"initialized": False, "sealed": True}
    world.not_ready("vault-0")
    store_down(world, "Code: 503")


@fault("vault.initialised", "vault-init-failed")
def the_init_job_of_vault_failed(world: World) -> None:
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    world.find("Job", "vault-init")["status"] = {"conditions": [failed]}
    world.health["vault-0"] = {"initialized": False, "sealed": True}
    world.not_ready("vault-0")


@fault("vault.running", "out-of-memory")
def vault_runs_out_of_memory(world: World) -> None:
    world.crashed("vault-0", "OOMKilled", 137)
    world.health["vault-0"] = None
    store_down(world, "connection refused")


@fault("vault.running", "vault-not-running")
def vault_is_scaled_to_0(world: World) -> None:
    world.find("StatefulSet", VAULT)["spec"]["replicas"] = 0
    world.remove("Pod", "vault-0")
    store_down(world, "connection refused")


@fault("vault.running", "pod-pending")
def no_node_takes_vault(world: World) -> None:
    world.unscheduled("vault-0", "0/3 nodes are available: 3 Insufficient memory.")
    store_down(world, "connection refused")


@fault("vault.leader", "vault-no-leader", stack="prod")
def vault_has_no_leader(world: World) -> None:
    world.pods("vault-0")[0]["metadata"]["labels"]["vault-active"] = "false"
    store_down(world, "local node not active but active cluster node not found")


@fault("vault.unsealed", "vault-sealed", stack="prod")
def all_servers_of_vault_are_sealed(world: World) -> None:
    for name in world.health:
        world.health[name] = {"initialized": True, "sealed": True}
    world.not_ready("vault-")
    store_down(world, "Vault is sealed")


@fault("vault.certificate", "certificate-refused")
def the_certificate_of_vault_has_expired(world: World) -> None:
    world.shown["vault-0"] = "expired"
    store_down(world, "tls: failed to verify certificate: x509: certificate has expired")


@fault("vault.certificate", "certificate-refused")
def vault_shows_the_certificate_of_another_authority(world: World) -> None:
    world.shown["vault-0"] = "foreign"
    store_down(world, "tls: failed to verify certificate: x509: signed by unknown authority")


@fault("secrets.store", "certificate-refused")
def the_certificate_of_vault_has_expired_and_only_the_store_tells(world: World) -> None:
    """As with doctor's own role, which may not open a connection to Vault."""
    world.forbidden_inside = {"exec", "portforward"}
    store_down(world, "tls: failed to verify certificate: x509: certificate has expired")


@fault("vault.login", "vault-login-changed")
def the_kubernetes_auth_of_vault_is_disabled(world: World) -> None:
    """The store tells it only after minutes."""
    world.refusal = "403 permission denied, nothing at this mount"


@fault("vault.login", "vault-login-changed")
def the_role_in_vault_is_missing(world: World) -> None:
    world.refusal = '400 invalid role name "shlink"'


@fault("vault.login", "vault-login-changed")
def the_role_in_vault_asks_for_another_audience(world: World) -> None:
    world.refusal = "403 invalid audience (aud) claim: audience claim does not match"
    store_down(world, "Code: 403. invalid audience (aud) claim")


@fault("vault.login", "vault-login-changed")
def the_role_in_vault_is_bound_to_another_account(world: World) -> None:
    world.refusal = "403 service account name not authorized"
    store_down(world, "Code: 403. service account name not authorized")


@fault("vault.login", "vault-refuses-all")
def the_audit_log_of_vault_can_not_be_written(world: World) -> None:
    world.refusal = "500 1 error occurred: no audit backend succeeded"
    store_down(world, "Code: 500. Errors: * internal error")


@fault("vault.names", "vault-no-names")
def the_service_of_vault_was_deleted(world: World) -> None:
    world.remove("Service", VAULT)
    world.remove("EndpointSlice", "vault-abc")
    store_down(world, "dial tcp: lookup vault.vault.svc: no such host")


@fault("vault.names", "vault-no-names")
def the_service_of_vault_leads_nowhere(world: World) -> None:
    for item in world.of("EndpointSlice"):
        if item["metadata"]["name"] == "vault-abc":
            item["metadata"]["annotations"]["pods"] = "nobody"
    store_down(world, "connection refused")


# Secrets


@fault("secrets.unchanged", "not-as-declared")
def the_role_of_the_store_was_edited(world: World) -> None:
    world.edit(world.find("SecretStore", ""), "spec.provider.vault.auth.kubernetes.role", "x")
    store_down(world, 'unable to log in with Kubernetes auth: Code: 400. invalid role name "x"')


@fault("secrets.unchanged", "not-as-declared")
def the_authority_of_the_store_was_edited(world: World) -> None:
    """Its certificate is not known without an update, so only the record tells."""
    bundle = world.find("SecretStore", "")["spec"]["provider"]["vault"]["caBundle"]
    world.edit(world.find("SecretStore", ""), "spec.provider.vault.caBundle", bundle)
    world.shown["vault-0"] = "foreign"
    store_down(world, "tls: failed to verify certificate: x509: signed by unknown authority")


@fault("secrets.unchanged", "not-as-declared")
def a_version_that_does_not_exist_is_asked_for(world: World) -> None:
    external = world.find("ExternalSecret", "redis-credentials")
    reference = {**external["spec"]["data"][0]["remoteRef"], "version": "99"}
    world.edit(external, "spec.data", [{**external["spec"]["data"][0], "remoteRef": reference}])
    unsynced(world, "error processing spec.data[0]: Secret does not exist")


@fault("secrets.store", "secret-store-not-ready")
def the_role_in_vault_is_wrong(world: World) -> None:
    store_down(world, 'unable to log in with Kubernetes auth: Code: 400. invalid role name "shlnk"')


@fault("secrets.store", "secret-store-not-ready")
def the_audience_is_wrong(world: World) -> None:
    store_down(world, "Code: 403. invalid audience (aud) claim: audience claim does not match")


@fault("secrets.synced", "secret-not-synced")
def a_path_in_vault_is_missing(world: World) -> None:
    unsynced(world, "error processing spec.data[0]: Secret does not exist")
    world.waiting("shlink-7f8b", "CreateContainerConfigError", 'secret "shlink-api-key" not found')


@fault("secrets.synced", "secret-not-synced")
def a_changed_secret_is_not_synced(world: World) -> None:
    world.find("ExternalSecret", "redis-credentials")["metadata"]["generation"] = 2


@fault("secrets.synced", "secret-not-refreshed")
def nobody_refreshes(world: World) -> None:
    world.find("ExternalSecret", "redis-credentials")["status"]["refreshTime"] = ago(86400)


@fault("secrets.synced", "object-missing")
def an_external_secret_was_deleted(world: World) -> None:
    world.remove("ExternalSecret", "shlink-api-key")


# PostgreSQL


@fault("postgres.unchanged", "not-as-declared")
def the_certificate_of_the_database_was_taken_away(world: World) -> None:
    cluster = world.find("PostgresCluster", "shlink-db")
    world.edit(cluster, "spec.customTLSSecret.name", "other")
    world.not_ready("shlink-db-instance1")
    shlink_down(world)


@fault("postgres.created", "postgres-not-created")
def pgo_makes_an_invalid_stateful_set(world: World) -> None:
    world.find("PostgresCluster", "shlink-db")["status"] = {"observedGeneration": 1}
    world.remove("Pod", "shlink-db-instance1")
    world.waits("shlink-7f8b", "wait-for-postgres")


@fault("postgres.created", "postgres-stopped")
def the_database_is_shut_down(world: World) -> None:
    world.find("PostgresCluster", "shlink-db")["spec"]["shutdown"] = True
    world.remove("Pod", "shlink-db-instance1")
    shlink_down(world)


@fault("postgres.running", "image-not-pulled")
def the_image_of_postgres_is_not_pulled(world: World) -> None:
    world.waiting("shlink-db-instance1", "ErrImagePull")
    world.waits("shlink-7f8b", "wait-for-postgres")


@fault("postgres.running", "out-of-memory")
def postgres_runs_out_of_memory(world: World) -> None:
    world.crashed("shlink-db-instance1", "OOMKilled", 137)
    shlink_down(world)


@fault("postgres.running", "pod-refused")
def pod_security_refuses_postgres(world: World) -> None:
    world.remove("Pod", "shlink-db-instance1")
    message = (
        'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'
    )
    owner = "shlink-db-instance1-abcd"
    world.event("StatefulSet", owner, POSTGRES, "FailedCreate", message)
    shlink_down(world)


@fault("postgres.primary", "postgres-no-primary", stack="prod")
def there_is_no_primary(world: World) -> None:
    for pod in world.pods("shlink-db-instance1"):
        pod["metadata"]["labels"][f"{PGO}/role"] = "replica"
    shlink_down(world)


@fault("postgres.pooler", "container-crashes", stack="pooler")
def the_pooler_crashes(world: World) -> None:
    world.crashed("shlink-db-pgbouncer")
    shlink_down(world)


@fault("postgres.pooler", "certificate-refused", stack="pooler")
def the_pooler_shows_the_certificate_of_another_authority(world: World) -> None:
    world.shown["shlink-db-pgbouncer-5da"] = "foreign"
    shlink_down(world)


@fault("postgres.pooler", "pooler-not-ready", stack="pooler")
def pgo_makes_no_pooler(world: World) -> None:
    world.remove("Pod", "shlink-db-pgbouncer")
    shlink_down(world)


@fault("postgres.repository", "postgres-no-repository")
def the_key_of_the_bucket_is_wrong(world: World) -> None:
    status = world.find("PostgresCluster", "shlink-db")["status"]
    status["pgbackrest"]["repos"][0]["stanzaCreated"] = False
    message = "unable to create stanza: 403 Forbidden"
    world.event("PostgresCluster", "shlink-db", POSTGRES, "UnableToCreateStanzas", message)


@fault("postgres.backups", "postgres-backup-old")
def backups_fail(world: World) -> None:
    status = world.find("CronJob", "shlink-db-repo1-diff")["status"]
    status |= {"lastScheduleTime": ago(50_000), "lastSuccessfulTime": ago(400_000)}


@fault("postgres.backups", "postgres-backup-old")
def backups_are_suspended(world: World) -> None:
    world.find("CronJob", "shlink-db-repo1-full")["spec"]["suspend"] = True


@fault("postgres.names", "postgres-no-names")
def the_service_of_the_primary_leads_nowhere(world: World) -> None:
    for item in world.of("EndpointSlice"):
        if item["metadata"]["name"] == "shlink-db-ha-abc":
            item["metadata"]["annotations"]["pods"] = "nobody"
    shlink_down(world)


@fault("postgres.certificate", "certificate-refused")
def the_certificate_of_the_database_has_expired(world: World) -> None:
    world.shown["shlink-db-instance1-axyz-0"] = "expired"
    migration(world, "SSL error: certificate verify failed")


def says(world: World, line: str) -> None:
    """The log of the database's first pod."""
    world.logs[world.pods("shlink-db-instance1")[0]["metadata"]["name"]] = line


@fault("postgres.log", "postgres-password-refused")
def the_password_of_shlink_was_changed_in_the_database(world: World) -> None:
    says(world, 'FATAL:  password authentication failed for user "shlink"')
    shlink_down(world)


@fault("postgres.log", "postgres-password-refused")
def no_rule_lets_shlink_in(world: World) -> None:
    says(world, 'FATAL:  no pg_hba.conf entry for host "10.1.1.1", user "shlink", database "x"')
    shlink_down(world)


@fault("postgres.log", "postgres-login-refused")
def shlinks_role_may_open_no_connection(world: World) -> None:
    """The log tells it too, and the server has connections left."""
    says(world, 'FATAL:  too many connections for role "shlink"')
    tells(world, logins={"shlink": "CONNECTION LIMIT"})
    shlink_down(world)


@fault("postgres.log", "postgres-no-connections")
def not_even_the_superuser_gets_a_connection(world: World) -> None:
    world.psql = None
    says(world, "FATAL:  sorry, too many clients already")
    shlink_down(world)


@fault("postgres.log", "volume-filling")
def the_volume_of_the_database_is_full(world: World) -> None:
    says(world, 'PANIC:  could not write to file "pg_wal/x": No space left on device hunter2')
    world.not_ready("shlink-db-instance1")
    shlink_down(world)


@fault("postgres.logins", "postgres-login-refused")
def the_login_of_shlink_does_not_belong_to_the_owner(world: World) -> None:
    tells(world, logins={"shlink": "", "shlink-b": "MEMBER"})
    shlink_down(world)


@fault("postgres.logins", "postgres-login-refused")
def shlink_may_not_log_in(world: World) -> None:
    tells(world, logins={"shlink": "LOGIN"})
    shlink_down(world)


@fault("postgres.logins", "postgres-login-refused")
def the_database_takes_no_connections(world: World) -> None:
    tells(world, databases={"shlink": False})
    shlink_down(world)


@fault("postgres.logins", "postgres-database-missing")
def the_database_was_dropped(world: World) -> None:
    tells(world, databases={})
    shlink_down(world)


@fault("postgres.logins", "postgres-no-connections")
def all_connections_are_in_use(world: World) -> None:
    tells(world, free=0)
    shlink_down(world)


@fault("postgres.logins", "postgres-read-only")
def the_database_is_read_only(world: World) -> None:
    tells(world, read_only=True)


@fault("postgres.patroni", "postgres-paused")
def patroni_is_paused(world: World) -> None:
    for pod in world.pods("shlink-db-instance1"):
        state = json.loads(pod["metadata"]["annotations"]["status"])
        pod["metadata"]["annotations"]["status"] = json.dumps({**state, "pause": True})
    world.not_ready("shlink-db-instance1")
    shlink_down(world)


@fault("postgres.grant", "postgres-grant-missing")
def the_grant_was_revoked(world: World) -> None:
    """Shlink runs on; its next migration would fail."""
    tells(world, may_create=False)


@fault("postgres.grant", "postgres-grant-missing")
def the_role_of_shlink_is_gone(world: World) -> None:
    tells(world, may_create=None, logins={})
    migration(world, 'FATAL:  role "shlink" does not exist')


@fault("postgres.archiving", "postgres-archiving-failing")
def archiving_fails(world: World) -> None:
    tells(world, failing=True, waiting=900)


@fault("postgres.archiving", "postgres-archiving-failing")
def archiving_is_off(world: World) -> None:
    tells(world, archiving=False)


# Redis


@fault("redis.unchanged", "not-as-declared")
def the_image_of_redis_was_edited(world: World) -> None:
    world.edit(world.find("RedisFailover", ""), "spec.redis.image", "redis:nope")
    world.waiting("rfr-", "ErrImagePull")
    shlink_down(world)


@fault("redis.created", "redis-not-created")
def redis_operator_does_nothing(world: World) -> None:
    for prefix in ("rfr-", "rfs-"):
        world.remove("Pod", prefix)
    world.remove("StatefulSet", "rfr-")
    world.remove("Deployment", "rfs-")
    world.waits("shlink-7f8b", "wait-for-redis")


@fault("redis.running", "pod-not-ready")
def redis_is_not_ready(world: World) -> None:
    world.not_ready("rfr-")
    shlink_down(world)


@fault("redis.running", "pod-refused")
def a_quota_refuses_redis(world: World) -> None:
    world.remove("Pod", "rfr-shlink-redis-2")
    message = 'pods "rfr-shlink-redis-2" is forbidden: exceeded quota: compute'
    world.event("StatefulSet", "rfr-shlink-redis", REDIS, "FailedCreate", message)


@fault("redis.running", "secret-not-found")
def the_password_of_redis_is_missing(world: World) -> None:
    message = 'secret "shlink-redis-auth" not found'
    world.waiting("rfr-", "CreateContainerConfigError", message)
    shlink_down(world)


@fault("redis.master", "redis-no-master")
def redis_has_no_master(world: World) -> None:
    for pod in world.pods("rfr-"):
        pod["metadata"]["labels"]["redisfailovers-role"] = "slave"
    shlink_down(world)


@fault("redis.names", "redis-no-names")
def the_headless_service_of_redis_is_missing(world: World) -> None:
    world.remove("Service", "rfr-")
    shlink_down(world)


@fault("redis.names", "redis-no-names")
def a_pod_of_redis_has_no_name(world: World) -> None:
    for item in world.of("EndpointSlice"):
        if item["metadata"]["name"] == "rfr-shlink-redis-abc":
            item["metadata"]["annotations"]["pods"] = "rfr-shlink-redis-0"


@fault("redis.sentinels", "redis-sentinels-disagree")
def a_sentinel_names_another_master(world: World) -> None:
    pod = world.pods("rfs-")[1]["metadata"]["name"]
    world.sentinels[pod] = world.pods("rfr-shlink-redis-1")[0]["status"]["podIP"]


@fault("redis.sentinels", "redis-sentinels-disagree")
def the_sentinels_name_an_address_that_is_gone(world: World) -> None:
    for pod in world.pods("rfs-"):
        world.sentinels[pod["metadata"]["name"]] = "10.244.9.9"
    shlink_down(world)


@fault("redis.servers", "redis-replica-alone")
def a_replica_of_redis_does_not_reach_its_master(world: World) -> None:
    world.metrics["rfr-shlink-redis-1"] = "redis_master_link_up 0"


@fault("redis.answers", "redis-password-refused")
def a_server_of_redis_has_another_password(world: World) -> None:
    error = 'redis_exporter_last_scrape_error{err="dial redis: unknown network redis"} 1'
    world.metrics["rfr-shlink-redis-2"] = f"redis_up 0\n{error}"
    world.not_ready("rfr-shlink-redis-2", seconds=60)


@fault("redis.answers", "redis-does-not-answer")
def a_server_of_redis_hangs(world: World) -> None:
    error = 'redis_exporter_last_scrape_error{err="dial redis: unknown network redis"} 1'
    world.metrics["rfr-shlink-redis-2"] = f"redis_up 0\n{error}"
    world.hung.add("rfr-shlink-redis-2")


@fault("redis.answers", "redis-does-not-answer")
def the_master_of_redis_is_stopped(world: World) -> None:
    """Its exporter waits for it, and the operator finds no master."""
    world.hung.add("rfr-shlink-redis-0")
    redis_has_no_master(world)


@fault("redis.servers", "redis-no-master")
def two_servers_of_redis_are_masters(world: World) -> None:
    for name in ("rfr-shlink-redis-0", "rfr-shlink-redis-1"):
        world.metrics[name] = 'redis_instance_info{maxmemory_policy="allkeys-lru",role="master"} 1'


@fault("redis.servers", "redis-memory")
def redis_is_full_and_evicts_nothing(world: World) -> None:
    lines = [
        'redis_instance_info{maxmemory_policy="noeviction",role="master"} 1',
        "redis_memory_max_bytes 1.6e+08",
        "redis_memory_used_bytes 1.7e+08",
    ]
    world.metrics["rfr-shlink-redis-0"] = "\n".join(lines)


# Shlink


@fault("shlink.unchanged", "not-as-declared")
def the_database_of_shlink_was_edited(world: World) -> None:
    deployment = world.find("Deployment", SHLINK)
    path = "spec.template.spec.containers.shlink.env.DB_HOST.value"
    world.edit(deployment, path, "nowhere.example")
    shlink_down(world)


@fault("shlink.unchanged", "not-as-declared")
def the_selector_of_the_service_was_edited(world: World) -> None:
    service = next(item for item in world.of("Service") if item["metadata"]["name"] == SHLINK)
    world.edit(service, "spec.selector", {"app.kubernetes.io/name": "other"})
    for item in world.of("EndpointSlice"):
        if item["metadata"]["name"] == "shlink-abc":
            item["metadata"]["annotations"]["pods"] = "nobody"


@fault("shlink.unchanged", "not-as-declared")
def the_port_of_the_service_was_edited(world: World) -> None:
    """Its pods are Ready, and nobody reaches them."""
    service = next(item for item in world.of("Service") if item["metadata"]["name"] == SHLINK)
    world.edit(service, "spec.ports.http.targetPort", 1234)


@fault("shlink.unchanged", "not-as-declared")
def a_node_selector_was_added_to_shlink(world: World) -> None:
    world.edit(world.find("Deployment", SHLINK), "spec.template.spec.nodeSelector.disk", "none")
    world.unscheduled("shlink-7f8b-0", "0/3 nodes are available")


@fault("shlink.redis-mode", "shlink-redis-mode")
def shlink_is_told_one_sentinel(world: World) -> None:
    for variable in world.find("Deployment", SHLINK)["spec"]["template"]["spec"]["containers"][0][
        "env"
    ]:
        if variable["name"] == "REDIS_SERVERS":
            variable["value"] = variable["value"].partition(",")[0]
    shlink_down(world)
    for pod in world.pods("shlink-7f8b"):
        world.logs[pod["metadata"]["name"]] = "Cannot use object of type Response as array"


@fault("shlink.migrated", "postgres-grant-missing")
def the_grant_is_missing(world: World) -> None:
    migration(world, "SQLSTATE[42501]: ERROR:  permission denied for schema public")


@fault("shlink.migrated", "postgres-password-refused")
def the_password_of_postgres_is_wrong(world: World) -> None:
    migration(world, 'FATAL:  password authentication failed for user "shlink" pw=hunter2')


@fault("shlink.migrated", "redis-password-refused")
def the_password_of_redis_is_wrong(world: World) -> None:
    migration(world, "WRONGPASS invalid username-password pair or user is disabled.")


@fault("shlink.migrated", "name-does-not-resolve")
def a_name_does_not_resolve(world: World) -> None:
    migration(world, 'could not translate host name "shlink-db-primary.postgres.svc" to address')


@fault("shlink.migrated", "postgres-certificate-refused")
def the_certificate_of_postgres_is_refused(world: World) -> None:
    migration(world, "SSL error: certificate verify failed")


@fault("shlink.migrated", "shlink-migration-failed")
def the_migration_fails_for_another_reason(world: World) -> None:
    migration(world, "Something else")


@fault("shlink.running", "image-not-pulled")
def the_image_of_shlink_is_not_pulled(world: World) -> None:
    world.waiting("shlink-7f8b-0", "ImagePullBackOff")


@fault("shlink.running", "secret-not-found")
def a_secret_of_shlink_is_missing(world: World) -> None:
    message = "couldn't find key api-key in Secret shlink/shlink-api-key"
    world.waiting("shlink-7f8b-0", "CreateContainerConfigError", message)


@fault("shlink.running", "out-of-memory")
def shlink_runs_out_of_memory(world: World) -> None:
    world.crashed("shlink-7f8b-0", "OOMKilled", 137)


@fault("shlink.running", "pod-not-ready")
def the_probe_of_shlink_fails(world: World) -> None:
    shlink_down(world)


@fault("shlink.running", "container-crashes")
def shlink_crashes(world: World) -> None:
    world.crashed("shlink-7f8b")


@fault("shlink.running", "pod-does-not-stop")
def a_pod_of_shlink_does_not_stop(world: World) -> None:
    world.pods("shlink-7f8b-0")[0]["metadata"]["deletionTimestamp"] = ago(1000)


@fault("shlink.running", "shlink-scaled-to-0")
def shlink_is_scaled_to_0(world: World) -> None:
    world.find("Deployment", SHLINK)["spec"]["replicas"] = 0
    world.remove("Pod", "shlink-7f8b")


@fault("shlink.running", "pod-refused")
def pod_security_refuses_the_new_pods_of_shlink(world: World) -> None:
    """The old ones go on serving, so nothing but the Deployment's condition tells."""
    message = 'pods "shlink-9-x" is forbidden: violates PodSecurity "restricted:latest"'
    entry = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
    conditions = [{**entry, "message": message}]
    world.conditions[SHLINK] = conditions


@fault("shlink.reached", "object-missing")
def the_service_of_shlink_is_missing(world: World) -> None:
    world.objects = [
        item
        for item in world.objects
        if (item["kind"], item["metadata"]["name"]) != ("Service", SHLINK)
    ]


@fault("shlink.reached", "object-missing", stack="prod")
def the_route_is_missing(world: World) -> None:
    kind = "HTTPRoute" if world.of("HTTPRoute") else "Ingress"
    world.remove(kind, SHLINK)


@fault("cluster.reserves", "object-missing", stack="prod")
def a_disruption_budget_is_missing(world: World) -> None:
    world.remove("PodDisruptionBudget", SHLINK)


# What only the inside of the database tells


@fault("postgres.tables", "postgres-table-missing")
def a_table_was_dropped(world: World) -> None:
    assert world.psql is not None
    del world.psql["tables"]["visits"]


@fault("postgres.tables", "postgres-table-closed")
def a_table_has_another_owner(world: World) -> None:
    assert world.psql is not None
    world.psql["tables"]["short_urls"] = "owner"


@fault("postgres.tables", "postgres-table-closed")
def shlink_may_not_write_a_table(world: World) -> None:
    assert world.psql is not None
    world.psql["tables"]["short_urls"] = "rights"


@fault("postgres.tables", "postgres-locked")
def a_session_holds_a_lock(world: World) -> None:
    """Every worker waits for it, and none is left for the probe."""
    tells(world, holders=[{"pid": 4711, "role": "postgres", "waiting": 6, "seconds": 40}])
    shlink_down(world)


@fault("postgres.settings", "postgres-settings-changed")
def the_role_of_shlink_looks_elsewhere_for_its_tables(world: World) -> None:
    tells(world, own=[{"role": "shlink", "database": None, "name": "search_path"}])
    shlink_down(world)


@fault("postgres.settings", "postgres-settings-changed")
def archiving_was_turned_off_by_hand(world: World) -> None:
    tells(world, system=["archive_command"], failing=True, waiting=4000)


@fault("postgres.certificate", "certificate-refused")
def the_database_offers_no_tls(world: World) -> None:
    world.shown["shlink-db-instance1-axyz-0"] = "none"
    shlink_down(world)


@fault("postgres.volumes", "volume-filling")
def the_volume_of_the_database_has_no_room(world: World) -> None:
    world.used["/pgdata"] = 100
    world.crashed("shlink-db-instance1-axyz")
    for item in world.pods("shlink-db-instance1-axyz"):
        item["status"]["containerStatuses"].append(
            {"name": "pgbackrest", "state": {"running": {}}, "started": True}
        )
    shlink_down(world)


@fault("shlink.api-key", "shlink-api-key-refused")
def the_api_key_was_disabled(world: World) -> None:
    tells(world, valid=False)


@fault("cluster.names", "name-does-not-resolve")
def the_dns_of_the_cluster_serves_another_zone(world: World) -> None:
    world.resolved = "2"
    store_down(world, "dial tcp: lookup vault.vault.svc: no such host")
    shlink_down(world)


@fault("cluster.nodes", "node-takes-no-pods")
def a_node_was_tainted_for_its_maintenance(world: World) -> None:
    taint = {"key": "maintenance", "value": "yes", "effect": "NoSchedule"}
    world.find("Node", "node-1")["spec"] = {"taints": [taint]}
    message = "0/1 nodes are available: 1 node(s) had untolerated taint {maintenance: yes}"
    world.unscheduled("shlink-7f8b-0", message)


@fault("cluster.volumes", "volume-being-deleted")
def the_claim_of_a_server_was_deleted(world: World) -> None:
    claim = world.find("PersistentVolumeClaim", "data-vault-0")
    claim["metadata"]["deletionTimestamp"] = ago(60)
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data-vault-0"}}
    world.pods("vault-0")[0]["spec"]["volumes"] = [volume]


@fault("shlink.running", "pod-pending")
def no_scheduler_looks_at_a_pod(world: World) -> None:
    world.unscheduled("shlink-7f8b-0", "")
    world.pods("shlink-7f8b-0")[0]["status"].pop("conditions")


@fault("shlink.running", "pod-not-ready")
def a_rollout_was_paused(world: World) -> None:
    shlink = world.find("Deployment", SHLINK)
    shlink["spec"]["paused"] = True
    shlink["metadata"]["generation"] = 2


def drain_blocked(world: World) -> None:
    """A warning: it is for the next upgrade of a node."""
    budget = {"name": "by-hand", "namespace": POSTGRES}
    status = {"expectedPods": 1, "currentHealthy": 1, "disruptionsAllowed": 0}
    api = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget"}
    world.objects.append({**api, "metadata": budget, "spec": {}, "status": status})


def budget_of_a_missing_pod(world: World) -> None:
    """Nothing may move until it is there again."""
    drain_blocked(world)
    labels = {"app": "one-of-two"}
    world.find("PodDisruptionBudget", "by-hand")["spec"] = {"selector": {"matchLabels": labels}}
    template = {"metadata": {"labels": labels}}
    world.objects.append(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "two", "namespace": POSTGRES},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        }
    )


def drain_blocked_by_a_count(world: World) -> None:
    """Its selector meets the pod of a Job, which has no scale."""
    drain_blocked(world)
    entry = {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed"}
    status = {"expectedPods": 0, "disruptionsAllowed": 0, "conditions": [entry]}
    world.find("PodDisruptionBudget", "by-hand")["status"] = status


def volume_nearly_full(world: World) -> None:
    """A warning, as the alert."""
    world.used["/pgdata"] = 90


def slot_unread(world: World) -> None:
    """A warning: the volume fills in days."""
    tells(world, slots=["forgotten"])


@fault("shlink.api-key", "shlink-api-key-refused")
def all_api_keys_are_gone(world: World) -> None:
    tells(world, known=False, valid=False, before=False, any=False)


def api_key_of_another_name(world: World) -> None:
    """A warning: Shlink has nothing against another name."""
    tells(world, known=False, valid=False, before=False)


def setting_by_hand(world: World) -> None:
    """A warning: nothing fails."""
    tells(world, own=[{"role": None, "database": "shlink", "name": "work_mem"}])


def redis_nearly_full(world: World) -> None:
    """A warning, so it is not in the table."""
    world.metrics["rfr-shlink-redis-0"] = "redis_memory_used_rss_bytes 5.2e+08"


def certificate_ends(world: World) -> None:
    """A warning: any `make up` renews it."""
    world.shown["vault-0"] = "ending"


def policy_peer_missing(world: World) -> None:
    """A warning: nobody can come from there."""
    world.remove("Namespace", "monitoring")


def redis_refuses_writes(world: World) -> None:
    lines = ('redis_errors_total{err="NOAUTH"} 62', 'redis_errors_total{err="NOREPLICAS"} 3')
    world.metrics["rfr-shlink-redis-0"] = "\n".join(lines)


def redis_does_not_save(world: World) -> None:
    """A warning: it goes on, and would lose more in a restart of all servers."""
    world.metrics["rfr-shlink-redis-0"] = "redis_rdb_last_bgsave_status 0"


def harmless_edit(world: World) -> None:
    """A warning: nothing fails."""
    path = "spec.template.spec.containers.shlink.env.TIMEZONE.value"
    world.edit(world.find("Deployment", SHLINK), path, "Europe/Madrid")


def policy_added(world: World) -> None:
    """A warning: it opens something."""
    policy = dict(world.of("NetworkPolicy")[0])
    policy["metadata"] = {"name": "by-hand", "namespace": REDIS}
    world.objects.append(policy)


@fault("postgres.created", "postgres-restore-failed")
def a_restore_fails_again_and_again(world: World) -> None:
    (cluster,) = world.of("PostgresCluster")
    cluster["status"]["pgbackrest"]["restore"] = {"id": "2", "failed": 3, "finished": False}
    for pod in world.pods("shlink-db-instance1"):
        world.remove("Pod", pod["metadata"]["name"])


@fault("postgres.running", "postgres-replica-behind", stack="prod")
def a_replica_of_postgresql_can_not_be_started(world: World) -> None:
    """As after a restore that it can't be rewound to: Patroni tries again and again."""
    pod = world.pods("shlink-db-instance1")[1]
    state = json.loads(pod["metadata"]["annotations"]["status"])
    pod["metadata"]["annotations"]["status"] = json.dumps({**state, "state": "start failed"})
    world.not_ready(pod["metadata"]["name"], seconds=600)


def replica_behind(world: World) -> None:
    """A replica of PostgreSQL lags; a warning, so it is not in the table."""
    pod = world.pods("shlink-db-instance1")[1]
    state = json.loads(pod["metadata"]["annotations"]["status"])
    primary = world.pods("shlink-db-instance1")[0]["metadata"]["annotations"]
    primary["status"] = json.dumps({**state, "role": "master", "xlog_location": 10**10})
