"""Where frames wait between the pieces of a clip."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from cogworks.config.measures import Measures
from cogworks.models.vae import VAE
from cogworks.models.vae_tiling import Tiling, decode_tiled_stream
from cogworks.nn.time_context import Waiting
from cogworks.pipelines import codec
from cogworks.pipelines.progress import ignore
from cogworks.pipelines.waiting import OnHost, waiting_room
from helpers.vae_reference import perturbed_vae, random_clip

CPU = torch.device("cpu")


class Counted(OnHost):
    """Copies both ways, as an accelerator and its host would, and counts them."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.sent = self.fetched = 0

    def __setitem__(self, key: Hashable, frames: Tensor) -> None:
        self.sent += 1
        super().__setitem__(key, frames.clone())

    def __getitem__(self, key: Hashable) -> Tensor:
        frames = super().__getitem__(key).clone()
        self.fetched += 1
        return frames


@pytest.fixture(scope="module")
def vae() -> VAE:
    return perturbed_vae()


def joined(pieces: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(pieces), dim=2)


@pytest.mark.parametrize(
    ("strips", "device", "on_host"),
    [(8, "cuda", True), (32, "xpu", True), (8, "cpu", False), (8, "mps", False), (1, "cuda", False)],
)
def test_frames_of_strips_wait_on_the_host_where_that_is_elsewhere(strips: int, device: str, on_host: bool) -> None:
    first, second = (waiting_room(Measures(strips=strips), torch.device(device))() for _ in range(2))
    assert isinstance(first, OnHost) == on_host
    assert first is not second


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_frames_come_back_as_they_were(layout: torch.memory_format) -> None:
    room, frames = Counted(), random_clip(2, 3, 2, 4, 5).contiguous(memory_format=layout)
    assert room.get("a") is None
    assert not room
    room["a"] = frames
    for _ in range(2):
        again = room.get("a")
        assert torch.equal(again, frames)
        assert (again.stride(), again.data_ptr() == frames.data_ptr()) == (frames.stride(), False)
    room["a"] = frames + 1
    assert torch.equal(room["a"], frames + 1)
    assert (len(room), "a" in room, room.sent, room.fetched) == (1, True, 2, 3)


@torch.no_grad()
@pytest.mark.parametrize("strips", [1, 2])
def test_a_stream_whose_frames_wait_elsewhere_gives_the_same_pixels(vae: VAE, strips: int) -> None:
    latents, rooms = random_clip(1, 4, 7, 4, 3), list[Counted]()

    def room() -> Waiting:
        rooms.append(Counted())
        return rooms[-1]

    expected = joined(vae.decode_stream(latents, strips=strips))
    assert torch.equal(joined(vae.decode_stream(latents, strips=strips, waiting=room)), expected)
    (used,) = rooms
    assert used.sent == 3 * len(used) > 0  # pieces, of which the first fetches nothing
    assert used.fetched == 2 * len(used)

    def forgetful() -> Waiting:
        return Forgetful()

    # The negative control: what does not wait makes another clip.
    assert not torch.equal(joined(vae.decode_stream(latents, strips=strips, waiting=forgetful)), expected)


class Forgetful(OnHost):
    """Gives zeros back."""

    def __init__(self) -> None:
        super().__init__(CPU)

    def __setitem__(self, key: Hashable, frames: Tensor) -> None:
        super().__setitem__(key, torch.zeros_like(frames))


@torch.no_grad()
def test_every_tile_has_a_room_of_its_own(vae: VAE) -> None:
    latents, tiling, rooms = random_clip(1, 4, 5, 8, 8), Tiling(height=32, width=32), list[Counted]()

    def room() -> Waiting:
        rooms.append(Counted())
        return rooms[-1]

    expected = joined(decode_tiled_stream(vae, latents, tiling))
    assert torch.equal(joined(decode_tiled_stream(vae, latents, tiling, waiting=room)), expected)
    assert len(rooms) == 4
    shared = Counted()  # the negative control
    with pytest.raises(RuntimeError, match="size"):
        joined(decode_tiled_stream(vae, latents[..., :7, :], tiling, waiting=lambda: shared))


@torch.no_grad()
def test_encoding_and_decoding_use_the_room_that_they_are_given(vae: VAE) -> None:
    frames = (random_clip(17, 16, 16, 3) * 50 + 128).clamp(0, 255).byte().numpy()
    made = list[Counted]()

    def room() -> Waiting:
        made.append(Counted())
        return made[-1]

    posterior = codec.encode(vae, frames, Measures(strips=8), room)
    assert torch.equal(posterior.mean, codec.encode(vae, frames, Measures(strips=8)).mean)
    decode = partial(codec.decode, vae, posterior.mean, Measures(strips=8), lambda piece: piece, ignore)
    assert torch.equal(joined(iter(decode(room)[0])), joined(iter(decode()[0])))
    assert [bool(each.sent and each.fetched) for each in made] == [True, True]
