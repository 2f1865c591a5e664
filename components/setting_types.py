"""The types of which the settings' models are made: what Kubernetes or a product would refuse is refused here."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from .images import ImageReference


class Model(BaseModel):
    """A group of settings: camelCase keys, unknown keys refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_by_name=True,
    )


def _pinned(image: str) -> str:
    reference = ImageReference.parse(image)
    if reference.tag is None and reference.digest is None:
        raise ValueError("name a tag too, as in docker.io/shlinkio/shlink:4.6.0")
    # `shlinkio/shlink:stable` was 4.6.0 when the guide was written and is 5.x now.
    if not reference.pinned:
        raise ValueError(
            f"the tag {reference.tag!r} is mutable: use a version or a digest (name@sha256:...)"
        )
    return image


Image = Annotated[str, AfterValidator(_pinned)]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
DiskSize = Annotated[str, Field(pattern=r"^[1-9]\d*(Mi|Gi|Ti)$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?$")]
Cron = Annotated[str, Field(pattern=r"^\S+ \S+ \S+ \S+ \S+$")]
Port = Annotated[int, Field(ge=1024, le=65535)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Cidr = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+/\d{1,3}$")]
Rotation = Annotated[int, Field(ge=1)]
