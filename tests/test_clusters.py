"""docs/clusters.md: every block is a stack's file that the program runs with."""

import re
from pathlib import Path

import pytest

from components.settings.environment import parse
from offline import stacks
from offline.record import ROOT, Recording, record

_PAGE = (ROOT / "docs" / "clusters.md").read_text()
_CLUSTERS = ("EKS", "GKE", "AKS", "k3s", "kubeadm with Calico", "kubeadm with Cilium", "OpenShift")


def _blocks() -> dict[str, str]:
    """The block of each section, by its heading."""
    blocks: dict[str, str] = {}
    for section in _PAGE.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            assert heading not in blocks, f"{heading} has two blocks"
            blocks[heading] = block
    return blocks


_BLOCKS = _blocks()


def _run(folder: Path, cluster: str) -> Recording:
    lines = "".join(f"  {line}\n" for line in _BLOCKS[cluster].splitlines())
    (folder / "Pulumi.page.yaml").write_text(f"config:\n{lines}")
    configuration, encrypted = stacks.configuration(folder, "page")
    parse(configuration, encrypted)
    return record("page", configuration, encrypted)


def test_every_section_has_one_block() -> None:
    assert set(_CLUSTERS) < set(_BLOCKS)
    assert len(_BLOCKS) == _PAGE.count("```yaml")


@pytest.mark.parametrize("cluster", sorted(_BLOCKS))
def test_the_program_runs_with_the_block(tmp_path: Path, cluster: str) -> None:
    """Without a warning, which would be that the API server may be anywhere."""
    recording = _run(tmp_path, cluster)
    assert recording.of_kind("Deployment")
    if cluster in _CLUSTERS:
        assert recording.messages == []
