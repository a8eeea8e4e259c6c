"""Encoding clips and captions into a prepared folder, here or in several processes.

Every process takes a share. Files appear whole or not at all, and their names tell what is in them: two processes that
make the same file do no harm, and one that is killed leaves nothing that could be taken for a result.

Letters: C latent channels, T frames, H W pixels, t h w latents, M text tokens, D text width.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import CogworksError, DataError, RunError, VideoError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.vae import VAE
from cogworks.pipelines.load import choose_device
from cogworks.rng import generator_for
from cogworks.training.clips.batches import to_batch
from cogworks.training.clips.prepared import PreparedClip, PreparedFolder
from cogworks.training.clips.sources import ClipSource
from cogworks.training.transformer.encode import encode_clips
from cogworks.training.transformer.start import Parts, load_codec, load_text_part, load_tokenizer_part, load_vae_part
from cogworks.training.vae.linear_codec import LinearCodec
from cogworks.weights.storage import replacing

KILLED = -9  # exit code of a process that the system ended, on POSIX


@dataclass(frozen=True)
class Work:
    """What is to be encoded: clips by their index in the source, and captions."""

    recipe: TransformerRecipe
    parts: Parts
    folder: PreparedFolder
    source: ClipSource
    captions: tuple[str, ...]
    clips: tuple[int, ...]


@dataclass(frozen=True)
class CaptionMade:
    """An embedding is in its place."""

    caption: str


@dataclass(frozen=True)
class ClipBegun:
    """A clip is being read: should the process end now, this clip did it."""

    index: int


@dataclass(frozen=True)
class ClipMade:
    """Latents are in their place; `new` if they were not before."""

    index: int
    clip: PreparedClip
    new: bool


@dataclass(frozen=True)
class ClipBad:
    """A clip cannot be used."""

    index: int
    why: str


Event = CaptionMade | ClipBegun | ClipMade | ClipBad


def is_whole(path: Path, *names: str) -> bool:
    """Whether a file is there with these tensors, as long as its header says."""
    try:
        with safe_open(path, "pt") as file:
            return set(names) <= set(file.keys())
    except (OSError, SafetensorError):
        return False


def encode_here(work: Work, rank: int = 0) -> Iterator[Event]:
    """Do all of `work` in this process, captions first: the text encoder is gone before the VAE is needed.

    Args:
        rank: of this process; it chooses one of several GPUs.
    """
    device = choose_device(None)
    if device.type == "cuda":
        device = torch.device("cuda", rank % torch.cuda.device_count())
    captions = _CaptionEncoder(work, device)
    for caption in work.captions:
        captions.make(caption)
        yield CaptionMade(caption)
    del captions
    clips = _ClipEncoder(work, device)
    for index in work.clips:
        yield ClipBegun(index)
        try:
            yield clips.make(index)
        except (DataError, VideoError) as error:
            yield ClipBad(index, str(error))


def encode_in_processes(work: Work, workers: int) -> Iterator[Event]:
    """Do `work` in processes of which each takes a share.

    A clip that ends the process that decodes it is a bad clip, and the rest of the share goes to a new process.

    Raises:
        RunError: a process was killed, or ended while it read no clip.
        CogworksError: what a process met that no clip is to blame for.
    """
    shares = [
        replace(work, captions=work.captions[rank::workers], clips=work.clips[rank::workers]) for rank in range(workers)
    ]
    running = [_Process(share, rank) for rank, share in enumerate(shares)]
    try:
        while running:
            ready = wait([process.events for process in running])
            for process in [each for each in running if each.events in ready]:
                event = process.next_event()
                if event is None:
                    running.remove(process)
                    if process.left is not None:
                        running.append(_Process(process.left, process.rank))
                elif not isinstance(event, ClipBegun):
                    yield event
    finally:
        for process in running:
            process.end()


class _Process:
    """One process and what it has told so far."""

    def __init__(self, share: Work, rank: int) -> None:
        context = get_context("spawn")
        self.events, sender = context.Pipe(duplex=False)
        self.rank = rank
        self.share = share
        self.reading: int | None = None
        self.left: Work | None = None
        self.process: SpawnProcess = context.Process(target=_child, args=(share, rank, sender), daemon=True)
        self.process.start()
        sender.close()  # the child alone holds it: its end is the end of events

    def next_event(self) -> Event | None:
        """What it tells next; None when it has ended. `left` is then what another process has to do."""
        try:
            event = self.events.recv()
        except EOFError:
            return self._died()
        if isinstance(event, CogworksError):
            raise event
        if event is None:
            self.end()
        self.reading = event.index if isinstance(event, ClipBegun) else None
        told: Event | None = event
        return told

    def _died(self) -> Event | None:
        self.process.join()
        code = self.process.exitcode or 0
        # A signal while it reads a clip is the decoder's; a status of its own is a fault of ours, told on stderr.
        if code == KILLED:
            raise RunError(
                "a process was killed while it prepared clips, as systems do when memory runs out: try fewer workers"
            )
        if self.left is not None:  # the clip that ended it has been told
            return None
        if self.reading is None or code >= 0:
            raise RunError(f"a process that prepared clips ended with status {code}; see above")
        bad, self.reading = self.reading, None
        rest = self.share.clips[self.share.clips.index(bad) + 1 :]
        self.left = replace(self.share, captions=(), clips=rest)
        return ClipBad(bad, f"ended the process that read it, with signal {-code}")

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.events.close()


def _child(share: Work, rank: int, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this one
    torch.set_num_threads(share.recipe.threads)
    try:
        for event in encode_here(share, rank):
            sender.send(event)
        sender.send(None)
    except BrokenPipeError:  # the parent was killed: nobody waits for more
        os._exit(0)
    except CogworksError as error:
        sender.send(error)


class _CaptionEncoder:
    def __init__(self, work: Work, device: torch.device) -> None:
        self.work = work
        self.device = device

    def make(self, caption: str) -> None:
        """The embedding (M, D) of a caption, into its place."""
        path = self.work.folder.text_file(caption)
        if not is_whole(path, "text_emb"):
            _write(path, {"text_emb": self._embed(caption)})

    @torch.no_grad()
    def _embed(self, caption: str) -> Tensor:
        # One at a time: in a batch the last bits would depend on what else is in it.
        ids = self._tokenizer.encode([caption], self.work.parts.variant.transformer.text_tokens)
        embedded: Tensor = self._encoder(ids.to(self.device))
        return embedded[0]

    @cached_property
    def _encoder(self) -> TextEncoder:
        return load_text_part(self.work.recipe, self.work.parts, self.device)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer_part(self.work.recipe, self.work.parts)


class _ClipEncoder:
    def __init__(self, work: Work, device: torch.device) -> None:
        self.work = work
        self.device = device

    def make(self, index: int) -> ClipMade:
        """The latents (C, t, h, w) and the first frame (H, W, 3) of a clip, into their place.

        Raises:
            DataError, VideoError: the clip cannot be used.
        """
        source, folder = self.work.source, self.work.folder
        stamp, content = source.stamp(index), source.content(index)
        bucket = source.bucket(source.extent(index))
        path = folder.latents_file(content, bucket)
        new = not is_whole(path, "latents", "image")
        if new:
            frames, image = source.view(index, bucket), source.image(index, bucket)
            latents = self._encode(to_batch([frames]), content)
            _write(path, {"latents": latents[0], "image": torch.from_numpy(frames[0] if image is None else image)})
        clip = PreparedClip(source.name(index), source.caption(index), stamp, content, bucket, path.stat().st_size)
        return ClipMade(index, clip, new)

    def _encode(self, pixels: Tensor, content: str) -> Tensor:
        recipe, encoder = self.work.recipe, self._encoder
        device = torch.device("cpu") if isinstance(encoder, LinearCodec) else self.device
        return encode_clips(pixels.to(device), generator_for(recipe.seed, "prepared", content), recipe, encoder)

    @cached_property
    def _encoder(self) -> VAE | LinearCodec:
        if self.work.recipe.codec is not None:
            return load_codec(self.work.recipe.codec)
        vae = load_vae_part(self.work.parts, self.device)
        assert vae is not None  # only a codec can stand in for it
        return vae


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        with replacing(path) as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot write {path}: {error}; what was prepared before is there, and is not made again"
        ) from None
