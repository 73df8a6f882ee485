"""The structure of a hypernetwork, as our safetensors files store it."""

from typing import Annotated, Any

from pydantic import Field, ValidationError

from adapterhub.documents.base import Document


class HypernetworkStructure(Document):
    """The shape of every net of a hypernetwork. A safetensors file holds it as JSON in the metadata field
    `adapterhub.hypernetwork`, beside tensors called `hypernet.WIDTH.NET.PART.NUMBER.weight` and `.bias`: NET is `k` or `v`,
    PART `linear`, `norm`, `activation` (PReLU's slope) or `upsample`, NUMBER counts from 0 in each part.

    A net changes a context x into x + strength · f(x). For each layer, f is a linear layer, the activation, a layer norm and
    a dropout, each if there is one; from layer to layer x grows to the multiples in `layer_structure` of its width.
    """

    widths: list[Annotated[int, Field(gt=0, lt=100_000)]] = Field(
        max_length=100, description="the widths of contexts that it changes"
    )
    layer_structure: list[Annotated[int | float, Field(gt=0, lt=1e12)]] = Field(
        min_length=2,
        max_length=100,
        description="how many times the width the input and each layer are wide; the first and last are 1",
    )
    activation: str = Field(default="linear", description="A1111's name of the activation; linear for none")
    activate_output: bool = Field(default=False, description="whether it stands behind the last layer too")
    layer_norm: bool = Field(
        default=False, description="whether a layer norm stands behind every layer, the last included"
    )
    dropout: list[Annotated[float, Field(ge=0, lt=1)]] | None = Field(
        default=None, description="the probability at the input and behind each layer, in training; null for none"
    )
    weight_initialization: str | None = Field(default=None, description="how it was initialized")
    skip_connection: bool = Field(
        default=False,
        description="whether each layer is added to its input, and strength interpolates: x + strength · (f(x) - x)",
    )
    upsample_linear: bool = Field(
        default=False,
        description="with skip_connection: whether a matrix brings the input to the layer's width, or its nearest values do",
    )

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "HypernetworkStructure":
        """The structure with these `fields`. ValueError, beginning with the name of one that cannot be."""
        try:
            return cls(**fields)
        except ValidationError as invalid:
            first = invalid.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
