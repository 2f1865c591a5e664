"""One short URL per release, created inside the cluster by a Job with Shlink's API key.

The outputs of Shlink's stack say where that key is.

No output's name is written here: `shlink_outputs` (a link to components/outputs.py; in a repository
of your own, a copy of that one file) knows them, and a missing or changed one ends the run with its
name.
"""

import json

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes import batch, core, meta

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
# denies by default, and Shlink's stack names these pods among its clients, which opens the way:
#   shlink:app: {clients: [{namespace: shlink, labels: {app.kubernetes.io/name: release-links}}]}
namespace = shlink.apply(lambda known: known.api_key.namespace)

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
    opts=opts,
)
pulumi.export("short_url", shlink.apply(lambda known: f"{known.external_url}/{release}"))
