"""Where Helm finds a chart: an HTTP repository, an OCI registry, or a folder or archive on disk."""

from dataclasses import dataclass

_LOCAL = ("./", "../", "/")


@dataclass(frozen=True)
class ChartSource:
    """One chart in one version."""

    name: str
    """The chart's own name, by which an HTTP repository lists it."""
    repository: str
    """The URL of an HTTP repository, the chart's own `oci://` reference, or the path of a folder or
    a `.tgz`. A path begins with `./`, `../` or `/`; a relative one counts from Pulumi.yaml."""
    version: str
    """Ignored by Helm for a path: there is only one version on disk."""

    @property
    def local(self) -> bool:
        """Whether it is read from disk: an air-gapped environment then needs no server for it."""
        return self.repository.startswith(_LOCAL)

    @property
    def chart(self) -> str:
        """The `chart` of Helm's release: only its name if `repository_url` is set."""
        return self.name if self.repository_url else self.repository

    @property
    def repository_url(self) -> str | None:
        """For `repository_opts`: only an HTTP repository has one."""
        if self.local or self.repository.startswith("oci://"):
            return None
        return self.repository
