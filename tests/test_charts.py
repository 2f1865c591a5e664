"""Where a chart comes from, and what Helm's release is told of it."""

import pytest

from components.manifests.charts import ChartSource


@pytest.mark.parametrize(
    ("repository", "chart", "repository_url", "local"),
    [
        ("https://charts.example.org", "pgo", "https://charts.example.org", False),
        (
            "oci://registry.example.org/charts/pgo",
            "oci://registry.example.org/charts/pgo",
            None,
            False,
        ),
        ("./charts/pgo", "./charts/pgo", None, True),
        ("../charts/pgo-6.0.3.tgz", "../charts/pgo-6.0.3.tgz", None, True),
        ("/srv/charts/pgo-6.0.3.tgz", "/srv/charts/pgo-6.0.3.tgz", None, True),
    ],
)
def test_helm_finds_a_chart_in_each_kind_of_place(
    repository: str,
    chart: str,
    repository_url: str | None,
    local: bool,  # noqa: FBT001 -- a case
) -> None:
    source = ChartSource(name="pgo", repository=repository, version="6.0.3")
    assert (source.chart, source.repository_url, source.local) == (chart, repository_url, local)
