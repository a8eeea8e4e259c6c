"""A third time context, written outside the networks: a clip split in time over two processes.

It stands here as a proof that the seam suffices: the networks are those of every other test.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from cogworks.models.vae import VAE
from cogworks.nn.time_context import Start, TimeContext, repeat_first
from helpers.vae_reference import SMALL_CONFIG, random_clip

pytestmark = pytest.mark.dist
PROCESSES = 2
# Sums over the clip are made of two parts, in another order than in one process; activations are of order one.
TOLERANCE = 1e-5


class Neighbour(TimeContext):
    """Frames before the first come from the rank before; group norms see all ranks if `gather`."""

    def __init__(self, gather: bool) -> None:
        self.gather = gather
        self.rank = distributed.get_rank()

    def extend(self, conv: nn.Module, x: Tensor, frames: int) -> Tensor:
        if self.rank == 0:
            extended = repeat_first(x, frames)
        else:
            before = torch.empty_like(x[:, :, :1]).repeat(1, 1, frames, 1, 1)
            distributed.recv(before, self.rank - 1)
            extended = torch.cat([before, x], dim=2)
        if self.rank < PROCESSES - 1:
            distributed.send(extended[:, :, -frames:].contiguous(), self.rank + 1)
        return extended

    def lead_frames(self, frames: int) -> int:
        return frames % 2 if self.rank == 0 else 0

    def statistics(self, x: Tensor, groups: int) -> tuple[Tensor, Tensor] | None:
        if not self.gather:
            return None
        values = x.unflatten(1, (groups, -1)).flatten(2).double()
        sums = torch.stack([torch.full_like(values[..., 0], values.shape[2]), values.sum(2), values.square().sum(2)])
        distributed.all_reduce(sums)
        mean, square = sums[1] / sums[0], sums[2] / sums[0]
        return mean.to(x.dtype), (square - mean.square()).to(x.dtype)


def small_vae() -> VAE:
    torch.manual_seed(0)
    return VAE(SMALL_CONFIG).requires_grad_(False)


PIXELS = (1, 3, 17, 16, 24)
LATENTS = (1, 4, 5, 2, 3)


def one_process(rank: int, folder: str) -> None:
    """Encode 9 or 8 frames and decode 3 or 2 latents, with and without gathered statistics."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=PROCESSES)
    vae = small_vae()
    pixels = random_clip(*PIXELS).split([9, 8], dim=2)[rank]
    latents = random_clip(*LATENTS).split([3, 2], dim=2)[rank]
    results = {
        f"{name}, gather={gather}": network(piece, Neighbour(gather))
        for name, network, piece in (("encode", vae.encoder, pixels), ("decode", vae.decoder, latents))
        for gather in (True, False)
    }
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What both processes made, put together in time."""
    folder = tmp_path_factory.mktemp("two_processes")
    multiprocessing.spawn(one_process, args=(str(folder),), nprocs=PROCESSES)
    parts = [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]
    return {name: torch.cat([part[name] for part in parts], dim=2) for name in parts[0]}


def test_split_encode_is_the_encode_in_one_pass(joined: dict[str, Tensor]) -> None:
    whole = small_vae().encoder(random_clip(*PIXELS), Start())
    torch.testing.assert_close(joined["encode, gather=True"], whole, atol=TOLERANCE, rtol=0)


def test_split_decode_is_the_decode_in_one_pass(joined: dict[str, Tensor]) -> None:
    whole = small_vae().decode(random_clip(*LATENTS), rule="whole")
    torch.testing.assert_close(joined["decode, gather=True"], whole, atol=TOLERANCE, rtol=0)


def test_own_statistics_are_those_of_chunks(joined: dict[str, Tensor]) -> None:
    """Without gathering, two ranks are two chunks (reference: SAT's own context parallelism), not one pass."""
    vae, pixels, latents = small_vae(), random_clip(*PIXELS), random_clip(*LATENTS)
    torch.testing.assert_close(joined["encode, gather=False"], vae.moments(pixels, "chunked"), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(joined["decode, gather=False"], vae.decode(latents, "chunked"), atol=TOLERANCE, rtol=0)
    # The negative control of the two tests above.
    assert (joined["encode, gather=False"] - joined["encode, gather=True"]).abs().max() > 100 * TOLERANCE
    assert (joined["decode, gather=False"] - joined["decode, gather=True"]).abs().max() > 100 * TOLERANCE
