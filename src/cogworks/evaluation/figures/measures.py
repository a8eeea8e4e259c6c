"""Figures of a video that need no oracle: how much lasts of its changes, and how near it is to another video.

A pixel's change over two steps, a = x[t] - x[t-1] and then b = x[t+1] - x[t], is in part taken back: the smaller of
|a| and |b| where their signs differ. What is not taken back lasts: |a + b|. Nothing is left over, for

    |a| + |b| = |a + b| + 2 * (what is taken back).

`motion` is half of what lasts and `flicker` what is taken back, both a step, averaged over all pixels, channels and
inner frames. Their sum is the mean difference between neighbouring frames there, by which VBench judges flicker alone;
parted like this, an object that moves on does not count as flicker, and a lamp that goes on and off does not count as
motion. Fine texture that moves by about its own width a frame is taken back and counts as flicker; a fade, and a
flicker that holds each level for two frames or more, counts as motion.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from cogworks.evaluation.case import Frames
from cogworks.evaluation.figures.metrics import MAX_PSNR, psnr, ssim
from cogworks.video.frames import check_frames, resize_frames

MIN_FRAMES = 3  # less has no step that could be taken back
MEASURES_FORMAT = 1  # another number is another meaning of a measure


def temporal_measures(frames: Frames) -> dict[str, float]:
    """The measures "flicker" and "motion", in 8-bit levels a step, each in 0..255; nothing of fewer than three frames.

    Raises:
        VideoError: `frames` is not (T, H, W, 3) uint8.
    """
    check_frames(frames)
    if len(frames) < MIN_FRAMES:
        return {}
    taken_back = lasting = 0
    before = frames[1].astype(np.int16) - frames[0]
    for earlier, later in pairwise(frames[1:]):  # a frame at a time: videos are large
        after = later.astype(np.int16) - earlier
        turned = np.sign(before) * np.sign(after) < 0
        taken_back += int(np.minimum(np.abs(before), np.abs(after)).sum(where=turned, dtype=np.int64))
        lasting += int(np.abs(before + after).sum(dtype=np.int64))
        before = after
    count = (len(frames) - 2) * frames[0].size
    return {"flicker": taken_back / count, "motion": lasting / (2 * count)}


def reference_measures(frames: Frames, reference: Frames) -> dict[str, float]:
    """ "PSNR" in dB and "SSIM" of a video against a reference, frame i against frame i.

    A reference of another size is scaled and its sides cut, as a source of a generation is. The longer of the two is
    cut at the end. Equal videos count as 100 dB.

    Raises:
        VideoError: either is not (T, H, W, 3) uint8.
        ValueError: a side below the 11 pixels of SSIM's window.
    """
    check_frames(frames)
    length = min(len(frames), len(reference))
    height, width = frames.shape[1:3]
    fitted = resize_frames(reference[:length], height, width)
    return {"PSNR": min(psnr(frames[:length], fitted), MAX_PSNR), "SSIM": ssim(frames[:length], fitted)}
