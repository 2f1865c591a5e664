"""Image references: what a stack's file may say, and what charts and mirrors make of it."""

from typing import Any, cast

import pytest

from components.settings.images import ImageReference
from components.settings.platform import Images
from offline.record import plain
from tests import configurations
from tests.conftest import Program

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("docker.io/shlinkio/shlink:4.6.0", "docker.io/shlinkio/shlink", "4.6.0", None),
        ("localhost:5000/shlink:4.6.0", "localhost:5000/shlink", "4.6.0", None),
        ("localhost:5000/shlink", "localhost:5000/shlink", None, None),
        (f"quay.io/a/b@{DIGEST}", "quay.io/a/b", None, DIGEST),
        (f"quay.io/a/b:v1@{DIGEST}", "quay.io/a/b", "v1", DIGEST),
    ],
)
def test_a_reference_is_taken_apart(
    text: str, repository: str, tag: str | None, digest: str | None
) -> None:
    """The colon of a port and the one of a digest are not the one before a tag."""
    reference = ImageReference.parse(text)
    assert reference == ImageReference(repository=repository, tag=tag, digest=digest)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["", "Docker.io/Shlink:1", "a:1:2", "a@sha256:12", "a b:1", "https://docker.io/a:1"]
)
def test_what_no_registry_would_take_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has the wrong format; allowed: registry/path:tag"):
        ImageReference.parse(text)


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        ("a/b:4.6.0", True),
        ("a/b:v1.0.2", True),
        ("a/b:ubi9-16.11-2547", True),
        (f"a/b:stable@{DIGEST}", True),
        ("a/b:stable", False),
        ("a/b:latest", False),
        ("a/b:ubi9", False),
        ("a/b", False),
    ],
)
def test_a_tag_that_moves_is_recognised(text: str, pinned: bool) -> None:  # noqa: FBT001 -- a case
    assert ImageReference.parse(text).pinned is pinned


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("docker.io/shlinkio/shlink:4.6.0", "mirror.example/x/shlinkio/shlink:4.6.0"),
        ("localhost:5000/shlink:4.6.0", "mirror.example/x/shlink:4.6.0"),
        ("shlinkio/shlink:4.6.0", "mirror.example/x/shlinkio/shlink:4.6.0"),
        ("redis:7.2.11", "mirror.example/x/redis:7.2.11"),
        (f"quay.io/a/b@{DIGEST}", f"mirror.example/x/a/b@{DIGEST}"),
    ],
)
def test_a_mirror_replaces_the_registry_and_nothing_else(text: str, mirrored: str) -> None:
    assert str(ImageReference.parse(text).at("mirror.example/x")) == mirrored


@pytest.mark.parametrize(
    "text", ["quay.io/a/b:v1", "localhost:5000/b:1", f"quay.io/a/b@{DIGEST}", f"a/b:1@{DIGEST}"]
)
def test_a_chart_puts_the_whole_reference_together_again(text: str) -> None:
    """Charts write `repository:tag`; a digest must survive that."""
    values = ImageReference.parse(text).helm_values()
    assert f"{values['repository']}:{values['tag']}" == text


_NO_IMAGES = {"registry", "pull_credentials"}


@pytest.mark.parametrize("distribution", ["spotahome", "freshworks"])
def test_every_image_may_be_pinned_by_its_digest(program: Program, distribution: str) -> None:
    """What is set is what the manifests and the charts' values name, whole: no tag is left."""
    references = {
        field.alias or name: f"r.example.org/{name.replace('_', '-')}@{DIGEST}"
        for name, field in Images.model_fields.items()
        if name not in _NO_IMAGES
    }
    route = configurations.SWITCHES["gateway-domains"]["app"]["route"]
    recording = program(
        app={"domain": "s.example.org", "route": route},
        images=references,
        operators={"redisOperator": {"distribution": distribution}},
        postgres={"monitoring": True, "pooler": {}},
    )
    named = {
        image
        for resource in recording.resources.values()
        for image in _images(plain(resource.inputs))
    }
    other = {"spotahome": "redisOperatorFork", "freshworks": "redisOperator"}[distribution]
    assert named == {text for key, text in references.items() if key != other}


def _images(value: Any) -> list[str]:
    """Every image that a manifest or a chart's values name."""
    if isinstance(value, list):
        return [image for item in cast("list[Any]", value) for image in _images(item)]
    if not isinstance(value, dict):
        return []
    images: list[str] = []
    for key, item in cast("dict[str, Any]", value).items():
        if key == "image" and isinstance(item, dict):
            images.append(f"{item['repository']}:{item['tag']}")
        elif key in {"image", "cluster"} and isinstance(item, str) and "/" in item:
            images.append(item)
        else:
            images += _images(item)
    return images
