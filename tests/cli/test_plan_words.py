"""What `cogworks plan` says of measures."""

from __future__ import annotations

from cogworks.cli.plan import describe_measures
from cogworks.config.measures import Measures


def test_measures_in_words() -> None:
    assert describe_measures(Measures()) == "as it is"
    assert describe_measures(Measures(strips=8)) == "with the VAE in 8 strips"
    words = describe_measures(Measures(offload=True, split_guidance=True, slicing=True, strips=8, tile=(64, 96)))
    assert words.split(", ") == [
        "with one video at a time through the VAE",
        "the halves of guidance one after the other",
        "the networks in memory one after the other",
        "the VAE in 8 strips",
        "the VAE in tiles of 96x64",
        "which changes pixels a little",
    ]
