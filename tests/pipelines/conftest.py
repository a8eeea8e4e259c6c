"""Models for pipelines to run: made once for each process that runs tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from helpers.tiny_pipeline import PipelinePair, pipeline_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PipelinePair]:
    """A small random model of a variation, in diffusers and here."""
    made: dict[str, PipelinePair] = {}

    def get(variation: str) -> PipelinePair:
        if variation not in made:
            made[variation] = pipeline_pair(variation, tmp_path_factory.mktemp("models") / variation)
        return made[variation]

    return get
