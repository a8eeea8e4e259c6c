"""Time context: what a causal network knows about the frames around the piece it is given.

A clip may reach the VAE whole, chunk by chunk, or split over processes. Three questions then depend on where the
piece stands in time, and a `TimeContext` answers them; the networks only ask:

    extend         which frames stand before the first one of a causal convolution;
    lead_frames    whether the first frame is the first of the clip, which time resampling leaves alone;
    statistics     over which frames a group norm takes its mean and variance.

It says besides in how many strips of rows the layers work.

`Start` and `Stream` are the answers for one process. An answer for several, where the frames before the first come
from another process, is a further subclass, handed to the same networks.

Letters: B batch, C channels, T frames, G norm groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, MutableMapping

import torch
from torch import Tensor

from cogworks.nn.onednn_conv import empty_clip

Waiting = MutableMapping[Hashable, Tensor]
"""Frames by the convolution that they wait for, or by one and the number of a strip."""


class TimeContext(ABC):
    """Where a piece of a clip stands in time. One object serves one network and one clip.

    Attributes:
        strips: how many strips of rows a layer cuts pictures into, to need less memory; one, the default, means whole
            pictures. Without gradients only.
    """

    strips: int = 1

    @abstractmethod
    def extend(self, conv: Hashable, x: Tensor, frames: int) -> Tensor:
        """Put the `frames` frames that come before `x` in front of it.

        Args:
            conv: the convolution that asks, or one and the number of a strip; a key for what is carried from one
                piece to the next.
            x: (B, C, T, H, W), the input of the convolution.
            frames: how many; kernel length in time minus one.

        Returns:
            (B, C, frames + T, H, W).
        """

    def fill(
        self, conv: Hashable, x: Tensor, frames: int, write: Callable[[Tensor], None], height: int | None = None
    ) -> Tensor:
        """`extend` for an input that is yet to be computed, without gradients.

        A context that can say where the input will stand saves a copy of it; this one, for all others, cannot. What
        overrides `extend` below a context that can has to override this as well.

        Args:
            conv: as for `extend`.
            x: a tensor like the input: its shape, dtype, device and layout.
            frames: as for `extend`.
            write: writes the input into a tensor (B, C, T, H, W), which may be a view.
            height: H of the input, where it is not that of `x`.

        Returns:
            (B, C, frames + T, H, W).
        """
        written = empty_clip(x, height=height)
        write(written)
        return self.extend(conv, written, frames)

    @abstractmethod
    def lead_frames(self, frames: int) -> int:
        """How many frames at the front (0 or 1) stand apart when time is halved or doubled.

        A network asks once, when a piece of `frames` frames enters.
        """

    def statistics(self, x: Tensor, groups: int) -> tuple[Tensor, Tensor] | None:
        """Mean and biased variance, each (B, G), for a group norm of `x` (B, C, T, ...).

        None, the default, means those of `x` itself.
        """
        return None


class Start(TimeContext):
    """The piece is the whole clip, or its beginning: the first frame is repeated in front. Trainable.

    Args:
        first_frame_apart: the published rule: of an odd number of frames the first stands apart, an even number is
            resampled in pairs throughout. False: no frame ever stands apart (the 1.5 models' own decoding).
        strips: as above.
    """

    def __init__(self, *, first_frame_apart: bool = True, strips: int = 1) -> None:
        self.first_frame_apart = first_frame_apart
        self.strips = strips

    def extend(self, conv: Hashable, x: Tensor, frames: int) -> Tensor:
        return repeat_first(x, frames)

    def fill(
        self, conv: Hashable, x: Tensor, frames: int, write: Callable[[Tensor], None], height: int | None = None
    ) -> Tensor:
        return _fill(empty_clip(x, frames=frames + x.shape[2], height=height), frames, write, None)

    def lead_frames(self, frames: int) -> int:
        return frames % 2 if self.first_frame_apart else 0


class Stream(TimeContext):
    """Consecutive pieces of one clip, each continuing where the last one ended. Inference only.

    Holds the last frames of every convolution's input. The first piece is treated as by `Start`, later pieces have no
    frame apart. Group norms see one piece at a time, so the result depends on where the clip is cut.

    Args:
        first_frame_apart: as for `Start`, for the first piece.
        strips: as for `Start`; every strip carries its own frames.
        waiting: where the frames wait between two pieces, empty; a dict if not given. What is put there may come back
            as a copy, of the same layout.
    """

    def __init__(self, *, first_frame_apart: bool = True, strips: int = 1, waiting: Waiting | None = None) -> None:
        self.first_frame_apart = first_frame_apart
        self.strips = strips
        self._carried: Waiting = {} if waiting is None else waiting

    def extend(self, conv: Hashable, x: Tensor, frames: int) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("a Stream keeps no gradients between pieces; use torch.no_grad(), or Start to train")
        carried = self._carried.get(conv)
        extended = repeat_first(x, frames) if carried is None else torch.cat([carried, x], dim=2)
        self._carry(conv, extended[:, :, extended.shape[2] - frames :], carried)
        return extended

    def fill(
        self, conv: Hashable, x: Tensor, frames: int, write: Callable[[Tensor], None], height: int | None = None
    ) -> Tensor:
        carried = self._carried.get(conv)
        # Reserved before what is large and soon gone, so that it leaves no gaps in memory behind it.
        place = empty_clip(x, frames=frames, height=height) if carried is None else carried
        extended = _fill(empty_clip(x, frames=frames + x.shape[2], height=height), frames, write, carried)
        self._carry(conv, extended[:, :, extended.shape[2] - frames :], place)
        return extended

    def _carry(self, conv: Hashable, last: Tensor, place: Tensor | None) -> None:
        """Keep a copy of the last frames, in `place` where there is one that may be written."""
        if (
            place is not None
            and place.shape == last.shape
            and place.is_inference() == torch.is_inference_mode_enabled()
        ):
            self._carried[conv] = place.copy_(last)
        else:
            self._carried[conv] = last.clone()

    def lead_frames(self, frames: int) -> int:
        started = bool(self._carried)
        return frames % 2 if self.first_frame_apart and not started else 0

    @property
    def carried_elements(self) -> int:
        """Number of elements held between pieces; it does not grow with the length of the clip."""
        return sum(frames.numel() for frames in self._carried.values())


def repeat_first(x: Tensor, frames: int) -> Tensor:
    """Put `frames` copies of the first frame in front: (B, C, T, ...) -> (B, C, frames + T, ...)."""
    return torch.cat([x[:, :, :1]] * frames + [x], dim=2)


def _fill(extended: Tensor, frames: int, write: Callable[[Tensor], None], earlier: Tensor | None) -> Tensor:
    """`extended` with what `write` writes behind `earlier` frames, or else behind copies of its first frame."""
    write(extended[:, :, frames:])
    extended[:, :, :frames] = extended[:, :, frames : frames + 1] if earlier is None else earlier
    return extended
