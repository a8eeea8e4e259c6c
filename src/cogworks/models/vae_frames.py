"""Frame rules of the VAE: which counts it takes, and into which pieces a clip is cut.

Group norms see one piece at a time, so the cut is part of the result: a rule is named after the program whose numbers
it gives.

Letters: T pixel frames, L latent frames.
Sources: diffusers' `AutoencoderKLCogVideoX` ("chunked"), the SAT code of the 1.0 models ("whole" for encoding,
"chunked" for decoding) and of the 1.5 models ("sat15").
"""

from __future__ import annotations

from typing import Literal

from cogworks.errors import RequestError

EncodeRule = Literal["chunked", "whole"]
DecodeRule = Literal["chunked", "whole", "sat15"]

LATENTS_PER_CHUNK = 2
SAT15_MAX_CHUNKS = 10


def encode_chunks(frames: int, rule: EncodeRule, stride: int = 4) -> list[int]:
    """Frames of each piece a clip is encoded in.

    "chunked": two latents' worth (8 frames) each, the remainder joins the first: 49 -> 9, 8, 8, 8, 8, 8.
    "whole": one piece.

    Args:
        frames: T. With stride 4, well defined are 4k + 1 (the first frame alone makes the first latent) and 4k.
        stride: pixel frames per latent frame.

    Raises:
        RequestError: another count (the first frame would be apart at some levels and not at others), or a rule
            that does not exist.
    """
    check_encodable(frames, frames % 2, stride)
    if rule == "whole":
        return [frames]
    if rule == "chunked":
        return _remainder_first(frames, LATENTS_PER_CHUNK * stride)
    raise RequestError(f'unknown rule of encoding {rule!r}; the rules are "chunked" and "whole"')


def decode_chunks(latent_frames: int, rule: DecodeRule) -> list[int]:
    """Latent frames of each piece that latents are decoded in.

    "chunked": two each, an odd one joins the first: 13 -> 3, 2, 2, 2, 2, 2.
    "whole": one piece.
    "sat15": at most ten pieces of at least two, as equal as can be, larger ones first: 21 -> 3, 2, 2, ..., 2. These are
    what is left once the first latent frame has been dropped, which this function does not do.

    Raises:
        RequestError: nothing to decode, fewer than two latent frames for "sat15", or a rule that does not exist.
    """
    if latent_frames < 1:
        raise RequestError("there is no latent frame to decode; give at least one")
    if rule == "whole":
        return [latent_frames]
    if rule == "chunked":
        return _remainder_first(latent_frames, LATENTS_PER_CHUNK)
    if rule == "sat15":
        if latent_frames < 2:
            raise RequestError(
                'the rule "sat15" drops the first latent frame and decodes at least two more; give three or more, '
                'or use the rule "chunked"'
            )
        count = min(SAT15_MAX_CHUNKS, latent_frames // 2)
        small, larger = divmod(latent_frames, count)
        return [small + 1] * larger + [small] * (count - larger)
    raise RequestError(f'unknown rule of decoding {rule!r}; the rules are "chunked", "whole" and "sat15"')


def check_encodable(frames: int, lead: int, stride: int) -> None:
    """Raise RequestError unless the frames after the first `lead` (0 or 1) halve evenly at every level."""
    if frames < 1 or (frames - lead) % stride:
        raise RequestError(
            f"the VAE encodes 1, {stride}k or {stride}k + 1 frames to begin with and {stride}k in later pieces, "
            f"got {frames}; cut the clip or repeat its last frame"
        )


def _remainder_first(total: int, size: int) -> list[int]:
    count = max(total // size, 1)
    return [total - size * (count - 1)] + [size] * (count - 1)
