"""Recipes that train a text encoder on the captions of the Shapes world."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from cogworks.config.training import Run


class TextEncoderRecipe(Run):
    """Train a text encoder to say, at every word about an object, all that the caption says of that object.

    A transformer gives its text tokens no positions: what belongs together in a sentence it can learn from the
    embeddings alone (docs/bundled-models.md).

    Attributes:
        model: what to begin with: a bundled name, a hub id or a folder; None begins from nothing.
        variant: row of the table of variants to build from nothing; not beside `model`. The vocabulary is then learned
            too.
    """

    kind: Literal["text_encoder"]
    model: str | None = None
    variant: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model is None) == (self.variant is None):
            raise ValueError("a recipe names either the model to begin with or the variant to build from nothing")
        if self.data.kind != "shapes":
            raise ValueError("a text encoder learns from captions whose facts are known: data.kind must be shapes")
        if self.data.pictures:
            raise ValueError("data.pictures is about clips, and a text encoder learns from captions: leave it out")
        if self.optimizer.kind == "muon":
            raise ValueError("optimizer.kind muon is for the matrices of a transformer; a text encoder takes adamw")
        if self.precision == "bf16-true":
            raise ValueError("precision bf16-true loses most steps of a text encoder; use 32-true")
        if self.samples is not None:
            raise ValueError("samples shows what a transformer makes of prompts; leave it out for a text encoder")
        if self.compile or self.activation_checkpointing:
            raise ValueError("compile and activation_checkpointing are for larger networks; leave them out here")
        return self
