"""One short URL per release, created inside the cluster by a Job with Shlink's API key.

The outputs of Shlink's stack say where that key is.

No output's name is written here: `shlink_outputs` (a link to components/outputs.py; in a repository
of your own, a copy of that one file) knows them, and a missing or changed one ends the run with its
name.
"""

import json
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes import batch, core, meta, networking

import shlink_outputs

# renovate: datasource=docker depName=docker.io/curlimages/curl
CURL = "docker.io/curlimages/curl:8.18.0"
LABELS = {"app.kubernetes.io/name": "release-links"}
# Shlink answers 200 for a link that is there already, so a repeated Job changes nothing.
CREATE = """exec curl --fail-with-body --silent --show-error --retry 10 --retry-connrefused \
  --header "X-Api-Key: $API_KEY" --json "$LINK" "$SHLINK/rest/v3/short-urls" """

config = pulumi.Config()
release = config.require("release")
shlink = shlink_outputs.read(pulumi.StackReference(config.require("shlink")))
cluster = kubernetes.Provider(
    "cluster",
    context=pulumi.Config("kubernetes").require("context"),
    kubeconfig=pulumi.Config("kubernetes").get("kubeconfig"),
)
opts = pulumi.ResourceOptions(provider=cluster)

# A Secret can't be used from another namespace: the Job runs where the API key is. That namespace
# denies by default, and policies add up, so these two open the way from the Job to Shlink and
# nothing besides.
namespace = shlink.apply(lambda known: known.api_key.namespace)
server = meta.v1.LabelSelectorArgs(match_labels={"app.kubernetes.io/name": "shlink"})
job = meta.v1.LabelSelectorArgs(match_labels=LABELS)
ports = [
    networking.v1.NetworkPolicyPortArgs(
        protocol="TCP", port=shlink.apply(lambda known: urlsplit(known.internal_url).port or 80)
    )
]
policies = [
    networking.v1.NetworkPolicy(
        "from-release-links",
        metadata=meta.v1.ObjectMetaArgs(name="shlink-from-release-links", namespace=namespace),
        spec=networking.v1.NetworkPolicySpecArgs(
            pod_selector=server,
            policy_types=["Ingress"],
            ingress=[
                networking.v1.NetworkPolicyIngressRuleArgs(
                    from_=[networking.v1.NetworkPolicyPeerArgs(pod_selector=job)], ports=ports
                )
            ],
        ),
        opts=opts,
    ),
    networking.v1.NetworkPolicy(
        "release-links",
        metadata=meta.v1.ObjectMetaArgs(name="release-links", namespace=namespace),
        spec=networking.v1.NetworkPolicySpecArgs(
            pod_selector=job,
            policy_types=["Egress"],
            egress=[
                networking.v1.NetworkPolicyEgressRuleArgs(
                    to=[networking.v1.NetworkPolicyPeerArgs(pod_selector=server)], ports=ports
                )
            ],
        ),
        opts=opts,
    ),
]

link = json.dumps({"longUrl": config.require("notes"), "customSlug": release, "findIfExists": True})
batch.v1.Job(
    "release-link",
    # Another release makes another Job; the link of the one before stays in Shlink.
    metadata=meta.v1.ObjectMetaArgs(
        name=f"release-link-{release.lower().replace('.', '-')}", namespace=namespace
    ),
    spec=batch.v1.JobSpecArgs(
        backoff_limit=6,
        template=core.v1.PodTemplateSpecArgs(
            metadata=meta.v1.ObjectMetaArgs(labels=LABELS),
            spec=core.v1.PodSpecArgs(
                restart_policy="Never",
                automount_service_account_token=False,
                security_context=core.v1.PodSecurityContextArgs(
                    run_as_non_root=True,
                    run_as_user=100,
                    seccomp_profile=core.v1.SeccompProfileArgs(type="RuntimeDefault"),
                ),
                containers=[
                    core.v1.ContainerArgs(
                        name="create",
                        image=CURL,
                        command=["sh", "-c", CREATE],
                        env=[
                            core.v1.EnvVarArgs(
                                name="SHLINK", value=shlink.apply(lambda known: known.internal_url)
                            ),
                            core.v1.EnvVarArgs(name="LINK", value=link),
                            core.v1.EnvVarArgs(
                                name="API_KEY",
                                value_from=core.v1.EnvVarSourceArgs(
                                    secret_key_ref=core.v1.SecretKeySelectorArgs(
                                        name=shlink.apply(lambda known: known.api_key.secret),
                                        key=shlink.apply(lambda known: known.api_key.key),
                                    )
                                ),
                            ),
                        ],
                        security_context=core.v1.SecurityContextArgs(
                            allow_privilege_escalation=False,
                            read_only_root_filesystem=True,
                            capabilities=core.v1.CapabilitiesArgs(drop=["ALL"]),
                        ),
                        resources=core.v1.ResourceRequirementsArgs(
                            requests={"cpu": "10m", "memory": "16Mi"}, limits={"memory": "64Mi"}
                        ),
                    )
                ],
            ),
        ),
    ),
    opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=policies)),
)
pulumi.export("short_url", shlink.apply(lambda known: f"{known.external_url}/{release}"))
