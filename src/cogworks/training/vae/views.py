"""Which part of a batch a VAE learns from: parts of clips, whole clips, or single frames of them.

Letters: B samples, T frames, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.config.vae_recipe import CropOptions, VAERecipe
from cogworks.errors import RecipeError
from cogworks.rng import generator_for
from cogworks.training.clips.batches import PixelBatch


def choose_view(recipe: VAERecipe, batch: PixelBatch, progress: float, draws: torch.Generator) -> Tensor:
    """Pixels (B, 3, T, H, W) that a step learns from.

    Whether they are images depends on the number of the batch alone, so that replicas agree; the rest on `draws`.

    Args:
        progress: share of the run that is over.

    Raises:
        RecipeError: the crop is larger than the clips.
    """
    pixels = batch.pixels
    if recipe.crops is not None:
        pixels = crop(pixels, recipe.crops, draws, whole=progress >= recipe.crops.until)
    options = recipe.images
    if options is None or not _holds_images(recipe.seed, batch.number, options.share):
        return pixels
    if options.frame == "first":
        return pixels[:, :, :1]
    chosen = torch.randint(pixels.shape[2], (len(pixels),), generator=draws).tolist()
    return torch.stack([clip[:, t : t + 1] for clip, t in zip(pixels, chosen, strict=True)])


def _holds_images(seed: int, number: int, share: float) -> bool:
    return bool(torch.rand((), generator=generator_for(seed, "images", number)) < share)


def crop(pixels: Tensor, options: CropOptions, draws: torch.Generator, *, whole: bool) -> Tensor:
    """`frames` frames of a square drawn near the middle; `whole` keeps height and width, and fewer samples."""
    height, width = pixels.shape[3:] if whole else (options.size, options.size)
    if whole:
        pixels = pixels[: options.whole_batch_size]
    sizes = (options.frames, height, width)
    room = torch.tensor([have - want for have, want in zip(pixels.shape[2:], sizes, strict=True)])
    if room.min() < 0:
        raise RecipeError(
            f"crops are {'x'.join(map(str, sizes))} (frames, height, width), and the clips "
            f"{'x'.join(map(str, pixels.shape[2:]))}: take smaller crops or larger clips"
        )
    spread = torch.rand(len(pixels), 3, 2, generator=draws).mean(-1)  # triangular: the middle most often
    corners = (spread * (room + 1)).long().clamp(max=room).tolist()
    return torch.stack(
        [
            clip[:, t : t + options.frames, y : y + height, x : x + width]
            for clip, (t, y, x) in zip(pixels, corners, strict=True)
        ]
    )
