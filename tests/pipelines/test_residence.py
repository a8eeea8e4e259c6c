"""Where networks are: read late, dropped and read again, never dropped where a caller may have changed them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import cogworks
from cogworks.config.measures import Measures
from cogworks.errors import MemoryShortageError, RequestError, WeightsError
from cogworks.extensions.attach import attach
from cogworks.extensions.kernels import AttentionKernel
from cogworks.models.transformer import Transformer
from cogworks.pipelines import residence
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.planning.shape import default_shape
from cogworks.pipelines.progress import Progress
from cogworks.pipelines.residence import Residence
from cogworks.weights.components import empty_vae
from cogworks.weights.lazy import LazyNetwork

Small = Callable[..., Pipeline]
OFFLOAD = Measures(offload=True)


def loaded(pipeline: Pipeline) -> list[str]:
    return [network.name for network in pipeline.components.networks if network.loaded]


def test_nothing_is_read_before_it_is_needed(fresh: Small) -> None:
    pipeline = fresh("small")
    assert loaded(pipeline) == []
    assert (pipeline.components.dtype, pipeline.components.text_dtype) == (torch.float32, torch.float32)
    seen: dict[str, list[str]] = {}
    pipeline.generate("a", on_progress=lambda progress: seen.setdefault(progress.phase, loaded(pipeline)))
    assert seen == {
        "encode": [],
        "load": [],
        "steps": ["text encoder", "transformer"],
        "decode": ["text encoder", "transformer", "VAE"],
    }


def test_a_plan_knows_what_is_there_by_now(fresh: Small) -> None:
    pipeline = fresh("small")
    shape = default_shape(pipeline.variant)
    first = pipeline.plan(shape)
    assert pipeline.plan(shape) is first
    text, transformer, vae = (network.form.num_bytes for network in pipeline.components.networks)
    decoder = decoder_bytes(pipeline)
    assert [phase.weights for phase in first.phases] == [text, text + transformer, text + transformer + decoder]
    pipeline.load_networks()
    read = pipeline.plan(shape)
    assert [phase.weights for phase in read.phases] == [text + transformer + vae] * 3
    pipeline.generate("a", num_inference_steps=1)
    again = pipeline.plan(shape)
    assert all(now.memory < then.memory for now, then in zip(again.phases, read.phases, strict=True))


def test_a_plan_knows_what_stays(fresh: Small) -> None:
    pipeline = fresh("small", measures=OFFLOAD)
    shape = default_shape(pipeline.variant)
    text, transformer, _ = (network.form.num_bytes for network in pipeline.components.networks)
    assert [phase.weights for phase in pipeline.plan(shape).phases] == [text, transformer, decoder_bytes(pipeline)]
    _ = pipeline.components.transformer
    stays = [phase.weights for phase in pipeline.plan(shape).phases]
    assert stays == [text + transformer, transformer, decoder_bytes(pipeline) + transformer]
    pipeline.generate("a", num_inference_steps=1)
    assert loaded(pipeline) == ["transformer"]


def decoder_bytes(pipeline: Pipeline) -> int:
    """Bytes of the decoder: the small models are computed with as they are stored."""
    return sum(weight.nbytes for weight in empty_vae(pipeline.variant).decoder.parameters())


def test_with_measures_that_keep_them_networks_are_read_by_load(fresh: Small) -> None:
    assert loaded(fresh("small", measures=Measures())) == ["transformer", "VAE"]
    assert loaded(fresh("small", measures=OFFLOAD)) == []


def test_reading_is_told_in_bytes(fresh: Small) -> None:
    pipeline, told = fresh("small-i2v"), []
    pipeline.load_networks(on_progress=told.append)
    assert loaded(pipeline) == ["transformer", "VAE"]
    networks = pipeline.components.networks[1:]
    assert {progress.phase for progress in told} == {"load"}
    assert [progress for progress in told if progress.done in (0, progress.total)] == [
        Progress("load", done, network.form.num_bytes, network.name)
        for network in networks
        for done in (0, network.form.num_bytes)
    ]
    told.clear()
    pipeline.load_networks(on_progress=told.append)
    assert told == []


def test_one_network_at_a_time(fresh: Small, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[str] = []
    monkeypatch.setattr(residence, "release_unused", lambda device: given_back.append(device.type))
    pipeline, seen = fresh("small-1.5", measures=OFFLOAD), []
    frames = cogworks.Video(torch.zeros(8, 32, 32, 3, dtype=torch.uint8).numpy(), 8)
    pipeline.generate("a", video=frames, on_progress=lambda progress: seen.append((progress.phase, loaded(pipeline))))
    assert max(len(networks) for _, networks in seen) == 1
    assert {networks[0] for phase, networks in seen if phase == "steps" and networks} == {"transformer"}
    assert loaded(pipeline) == []
    assert reads == ["TextEncoder", "VAE", "Transformer", "VAE"]
    assert given_back == ["cpu"] * 4


def test_a_network_that_was_taken_stays(fresh: Small, reads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Changed in place, replaced, or extended: what the caller did takes part, and is there afterwards."""
    caplog.set_level(logging.INFO, logger="cogworks")
    asked = {"seed": 1, "output_type": "pt", "guidance_scale": 1.0}
    expected = fresh("small", measures=OFFLOAD).generate("a", **asked)
    pipeline = fresh("small", measures=OFFLOAD)
    with torch.no_grad():
        pipeline.components.transformer.proj_out.bias.add_(0.5)
    changed = pipeline.generate("a", **asked)
    assert not torch.equal(changed, expected)
    assert loaded(pipeline) == ["transformer"]
    assert torch.equal(pipeline.generate("a", **asked), changed)
    said = "the transformer stays in memory: it was taken from the pipeline and may have been changed"
    assert [record.getMessage() for record in caplog.records].count(said) == 2  # once in a run

    other = fresh("small", measures=OFFLOAD)
    other.components.transformer = pipeline.components.transformer
    assert torch.equal(other.generate("a", **asked), changed)
    assert other.components.transformer is pipeline.components.transformer

    reads.clear()
    extended = fresh("small", measures=OFFLOAD)
    with attach(extended.components.transformer, AttentionKernel("math")) as attachment:
        extended.generate("a", **asked)
        extended.generate("b", **asked)
        assert attachment.paths
    assert reads.count("Transformer") == 1


def test_what_was_changed_is_saved(fresh: Small, tmp_path: Path) -> None:
    pipeline = fresh("small", measures=OFFLOAD)
    with torch.no_grad():
        pipeline.components.transformer.proj_out.bias.fill_(0.5)
        pipeline.components.text_encoder.norm_out.weight.fill_(2.0)
    pipeline.save_pretrained(tmp_path / "saved")
    again = cogworks.load(tmp_path / "saved", device="cpu").components
    assert again.transformer.proj_out.bias.eq(0.5).all()
    assert again.text_encoder.norm_out.weight.eq(2.0).all()
    assert torch.equal(again.vae.decoder.conv_in.weight, pipeline.components.vae.decoder.conv_in.weight)


def test_saving_takes_nothing_that_would_then_stay(fresh: Small, tmp_path: Path) -> None:
    pipeline = fresh("small", measures=OFFLOAD)
    pipeline.save_pretrained(tmp_path / "saved")
    pipeline.generate("a", num_inference_steps=1)
    assert loaded(pipeline) == []


def test_on_an_accelerator_networks_move_and_are_read_once(
    fresh: Small, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the host is another place: what does not work waits there. The CPU stands for both."""
    monkeypatch.setattr("cogworks.pipelines.residence.SHARED_MEMORY", ())
    pipeline, moves = fresh("small", measures=OFFLOAD), []
    monkeypatch.setattr(nn.Module, "to", lambda self, place: moves.append((type(self).__name__, place)))
    for prompt in ("a", "b"):
        pipeline.generate(prompt, num_inference_steps=1)
    assert reads == ["TextEncoder", "Transformer", "VAE"]
    for name in reads:
        assert (name, "cpu") in moves


def test_a_network_that_is_elsewhere_is_brought(fresh: Small) -> None:
    components = fresh("small").components
    transformer = components.transformer
    components.device = torch.device("meta")
    with Residence(components).use(components.networks.transformer) as network:
        assert network is transformer
        assert network.proj_out.weight.is_meta


def test_a_folder_that_is_broken_is_found_by_load(fresh: Small, tmp_path: Path) -> None:
    fresh("small").save_pretrained(tmp_path / "m")
    for part in ("text_encoder/model", "vae/diffusion_pytorch_model"):
        path = tmp_path / "m" / f"{part}.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        with pytest.raises(WeightsError, match="damaged"):
            cogworks.load(tmp_path / "m")
        path.write_bytes(whole)
    cogworks.load(tmp_path / "m")


def test_without_room_the_others_go_first(fresh: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read beside the others is read alone; where it cannot be read at all, that is said."""
    pipeline = fresh("small", measures=Measures())
    components, right = pipeline.components, LazyNetwork.get
    components.networks.vae.drop()

    def get(self: LazyNetwork, *arguments: object) -> object:
        if self.name == "VAE" and not self.loaded and components.networks.transformer.loaded:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(self, *arguments)

    monkeypatch.setattr(LazyNetwork, "get", get)
    pipeline.generate("a", num_inference_steps=1)
    assert pipeline.last_measures == OFFLOAD
    components.transformer = Transformer(pipeline.variant.transformer)  # stays, so that there is never room
    with pytest.raises(MemoryShortageError, match=r"there is no room for the VAE \(0.0 GB\) on cpu; free memory, or"):
        pipeline.generate("a", num_inference_steps=1)


@pytest.mark.parametrize(
    ("amount", "count"),
    [("8GB", 8 * 10**9), ("7.5 GiB", 15 * 2**29), ("512mb", 512 * 10**6), ("8g", 8 * 10**9), (5, 5)],
)
def test_amounts_of_memory(fresh: Small, amount: str | int, count: int) -> None:
    assert fresh("small", memory=amount).memory == count


@pytest.mark.parametrize("amount", ["", "much", "-8GB", "0GB", "8 apples", 0, -1, True, "8GBB", "1e9", "inf"])
def test_no_amounts_of_memory(fresh: Small, amount: str | int) -> None:
    with pytest.raises(RequestError, match=r"memory is an amount such as 8GB or 512MB, got"):
        fresh("small", memory=amount)
