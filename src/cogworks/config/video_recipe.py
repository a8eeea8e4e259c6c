"""How a video was made: what travels inside its file, so that it can be made again and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cogworks.config.request import GenerationRequest
from cogworks.config.validation import explain
from cogworks.errors import RequestError

# What changes the last bits of a result: the same request gives the same pixels where these are equal.
COMPUTED_BY = ("device", "dtype", "text_dtype", "quantize", "hardware", "threads", "measures")


class VideoRecipe(BaseModel):
    """All it takes to make a video again.

    Attributes:
        request: what was asked, with all that the model filled in.
        key: names what was asked before anything was filled in, with the contents of all inputs (`request_key`).
        weights: sha256 of the model's weight files, or None where they were changed after loading.
        inputs: sha256 of every input file by the name of its field; of an image or video in memory, of its pixels.
        run: device, dtypes, quantization, measures, hardware, threads.
        versions: of cogworks, torch and python.
        pixels: sha256 of the frames before a file format loses anything.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may say more

    request: GenerationRequest
    key: str
    weights: str | None
    inputs: dict[str, str]
    run: dict[str, Any]
    versions: dict[str, str]
    pixels: str

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], name: str) -> Self:
        """The recipe in a file's metadata; `name` is what errors call the file.

        Raises:
            RequestError: there is none, or it was damaged.
        """
        values = metadata.get("cogworks")
        if not isinstance(values, dict):
            raise RequestError(f"{name} holds no recipe: Cogworks did not make it, or it was left out or taken away")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RequestError(f"{name} holds a damaged recipe: {explain(error, cls.model_fields)}") from None

    def metadata(self) -> dict[str, object]:
        """What `write_video` puts into the file."""
        return {"cogworks": self.model_dump(mode="json")}

    def differences(self, other: Self) -> list[str]:
        """What may be why two recipes of one request give different pixels, a line each."""
        found = [
            f"{name}: {mine} -> {theirs}"
            for name, mine, theirs in (
                *((f"version of {name}", self.versions.get(name), other.versions.get(name)) for name in self.versions),
                *((name, self.run.get(name), other.run.get(name)) for name in COMPUTED_BY),
                *((f"content of {name}", self.inputs.get(name), other.inputs.get(name)) for name in self.inputs),
                ("weights", self.weights, other.weights),
            )
            if mine != theirs
        ]
        return found
