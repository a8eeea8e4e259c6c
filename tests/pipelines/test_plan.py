"""Plans: which measures they take, what they say of each phase, and how fast they are made."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from cogworks.config.measures import STRIPS, Measures
from cogworks.config.variants import COGVIDEOX_5B, PUBLISHED, TINY, Variant
from cogworks.errors import RequestError
from cogworks.models.vae import VAE
from cogworks.nn.time_context import Stream
from cogworks.pipelines.geometry import geometry
from cogworks.pipelines.planning import measure
from cogworks.pipelines.planning import plan as planning
from cogworks.pipelines.planning.calibration import Rates
from cogworks.pipelines.planning.plan import PhaseName, Plan, ladder, plan_run, what_would_fit
from cogworks.pipelines.planning.shape import InMemory, RunShape, default_shape
from cogworks.weights.components import empty_vae

CUDA = torch.device("cuda")  # plans are made for devices that are not here
GB = 10**9


def make(variant: Variant, budget: float, shape: RunShape | None = None, **options: Any) -> Plan:
    dtype = getattr(torch, variant.dtype)
    options = {"device": CUDA, "seconds": False, **options}
    return plan_run(
        variant, shape or default_shape(variant), dtype=dtype, text_dtype=dtype, budget=int(budget * GB), **options
    )


def test_the_first_rung_that_fits_is_taken() -> None:
    free = make(COGVIDEOX_5B, 80)
    assert free.measures == Measures()
    assert free.fits
    offloaded = make(COGVIDEOX_5B, free.peak / GB - 0.01)
    assert offloaded.measures == Measures(offload=True)
    split = make(COGVIDEOX_5B, offloaded.peak / GB - 0.01)
    assert split.measures == Measures(offload=True, split_guidance=True)
    assert free.peak > offloaded.peak > split.peak


def least_of(variant: Variant, shape: RunShape) -> Plan:
    """With all measures that keep the pixels; strips as thin as helps."""
    apart = Measures(offload=True, split_guidance=True)
    plans = [make(variant, 1, shape, measures=replace(apart, strips=count)) for count in STRIPS]
    return min(plans, key=lambda plan: plan.peak)


def test_no_plan_takes_tiles_by_itself() -> None:
    shape = replace(default_shape(TINY), geometry=geometry(TINY, 256, 256, 17))
    whole = make(TINY, 1, shape, measures=Measures(offload=True, split_guidance=True))
    plan = make(TINY, (whole.peak - 1) / GB, shape)
    assert (plan.fits, plan.measures) == (True, Measures(strips=8))  # with strips, nothing else is needed any more
    eight = make(TINY, 1, shape, measures=Measures(offload=True, split_guidance=True, strips=8))
    thinner = make(TINY, (eight.peak - 1) / GB, shape)
    assert (thinner.fits, thinner.measures.strips) == (True, 16)  # as thin as they have to be
    # Where nothing fits it is planned as small as it gets with the same pixels.
    least = least_of(TINY, shape)
    plan = make(TINY, (least.peak - 1) / GB, shape)
    assert (plan.fits, plan.peak, plan.measures.tile) == (False, least.peak, None)
    assert make(TINY, (least.peak + 1) / GB, shape).fits


def test_tiles_that_are_asked_for_are_in_every_plan() -> None:
    shape = replace(default_shape(TINY), geometry=geometry(TINY, 256, 256, 17))
    least = least_of(TINY, shape)
    assert make(TINY, 1, shape, tile=(64, 96)).measures == Measures(tile=(64, 96))
    plan = make(TINY, (least.peak - 1) / GB, shape, tile=(64, 64))
    assert plan.fits
    assert plan.measures.tile == (64, 64)
    with pytest.raises(RequestError, match="the width of a tile must be a multiple of 8 pixels, got 60"):
        make(TINY, 1, shape, tile=(64, 60))


def test_the_ladder_leaves_out_what_has_no_effect() -> None:
    alone = replace(default_shape(TINY), guided=False)
    assert list(ladder(alone)) == [
        Measures(),
        Measures(offload=True),
        Measures(strips=8),
        Measures(offload=True, strips=8),
        Measures(strips=16),
        Measures(offload=True, strips=16),
        Measures(strips=32),
        Measures(offload=True, strips=32),
    ]
    both = list(ladder(replace(alone, guided=True, num_videos=2)))
    assert len(both) == len(set(both)) == 32
    assert both[0] == Measures()


def test_whole_pictures_come_before_strips() -> None:
    rungs = list(ladder(replace(default_shape(TINY), num_videos=2)))
    assert [measures.strips for measures in rungs] == [1] * 8 + [8] * 8 + [16] * 8 + [32] * 8
    assert {measures.tile for measures in rungs} == {None}  # these change pixels


def test_measures_that_are_given_are_described_whatever_they_are() -> None:
    for measures in (Measures(strips=8), Measures(tile=(32, 32))):
        assert make(TINY, 1, measures=measures).measures == measures


@torch.no_grad()
def test_on_an_accelerator_frames_of_strips_wait_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they take is on the device where they stay there, and nowhere else does the plan differ."""
    shape, decoder = geometry(TINY, 64, 64, 17), VAE(TINY.vae).to("meta")
    context = Stream(strips=8)
    for frames in (1, 2):
        decoder.decoder(torch.zeros(1, 24, frames, 8, 8, device="meta"), context)
    carried = context.carried_elements * 4

    def decode(device: str) -> int:
        return measure.measure_decoding.__wrapped__(TINY, shape, 1, 8, None, torch.float32, torch.device(device)).alive

    on_host, on_cpu = decode("cuda"), decode("cpu")
    monkeypatch.setattr(measure, "waits_on_host", lambda measures, device: False)
    stays = decode("cuda")
    assert 0.8 * carried < stays - on_host <= carried
    assert decode("cpu") == on_cpu


def test_slicing_makes_memory_independent_of_the_number_of_videos() -> None:
    def decode(videos: int, measures: Measures) -> int:
        shape = replace(default_shape(TINY), num_videos=videos)
        plan = make(TINY, 1, shape, measures=measures)
        return next(phase.memory for phase in plan.phases if phase.name == "decode")

    state = 6 * 24 * 5 * 8 * 8 * 4 + 2 * 32 * 128 * 4  # of one video: six latents and two embeddings
    grown = decode(4, Measures(slicing=True)) - decode(1, Measures(slicing=True))
    assert grown == 3 * state
    assert decode(4, Measures()) - decode(1, Measures()) > 10 * state


def test_what_cannot_fit_is_said_with_what_would() -> None:
    shape = replace(default_shape(TINY), geometry=geometry(TINY, 128, 128, 33), num_videos=2)
    options = {"device": CUDA, "dtype": torch.float32, "text_dtype": torch.float32}
    plan = make(TINY, 0.03, shape)
    assert not plan.fits
    sentence = what_would_fit(TINY, plan, **options)
    found = re.fullmatch(
        r"this run needs .* MB and may hold 30.0 MB; one video of (\d+) frames of (\d+)x(\d+) would fit", sentence
    )
    assert found
    frames, width, height = map(int, found.groups())
    smaller = replace(default_shape(TINY), geometry=geometry(TINY, height, width, frames))
    assert make(TINY, 0.03, smaller).fits
    hopeless = make(TINY, 0.01, shape)
    assert "no smaller video of tiny fits" in what_would_fit(TINY, hopeless, **options)


def test_weights_count_once_and_the_text_encoder_only_for_prompts() -> None:
    shape = default_shape(COGVIDEOX_5B)
    plan = make(COGVIDEOX_5B, 80, replace(shape, num_prompts=0))
    assert [phase.name for phase in plan.phases] == ["steps", "decode"]
    transformer, vae = 5_570_283_072 * 2, 215_583_907 * 2
    assert [phase.weights for phase in plan.phases] == [transformer, transformer + vae]
    apart = make(COGVIDEOX_5B, 80, shape, measures=Measures(offload=True))
    assert [(phase.name, phase.weights) for phase in apart.phases[1:]] == [("steps", transformer), ("decode", vae)]


def test_a_network_counts_from_its_first_work_on_or_from_the_beginning_if_it_is_there() -> None:
    shape = replace(default_shape(TINY), source="video")
    alone = {phase.name: phase.weights for phase in make(TINY, 1, shape, measures=Measures(offload=True)).phases}
    text, vae, transformer = alone["prompt"], alone["source"], alone["steps"]
    assert alone["decode"] == vae

    def weights(*loaded: str, offload: bool = False) -> list[int]:
        made = make(TINY, 1, shape, in_memory=InMemory(loaded=frozenset(loaded)), measures=Measures(offload=offload))
        return [phase.weights for phase in made.phases]

    everything = text + vae + transformer
    assert weights() == [text, text + vae, everything, everything]
    assert weights("transformer") == [text + transformer, *[everything] * 3]
    assert weights("text_encoder", "transformer", "vae") == [everything] * 4
    assert weights("transformer", offload=True) == [text, vae, transformer, vae]
    changed = InMemory(loaded=frozenset({"transformer"}), kept=frozenset({"transformer"}))
    made = make(TINY, 1, shape, in_memory=changed, measures=Measures(offload=True))
    expected = [text + transformer, vae + transformer, transformer, vae + transformer]
    assert [phase.weights for phase in made.phases] == expected


def test_of_a_vae_in_its_file_the_half_counts_that_works() -> None:
    shape = replace(default_shape(TINY), source="video")

    def vae(*loaded: str, **options: Any) -> list[int]:
        made = make(TINY, 1, shape, in_memory=InMemory(vae_in_file=True, loaded=frozenset(loaded)), **options)
        others = make(TINY, 1, replace(shape, source="none"), measures=Measures(offload=True)).phases
        text, transformer = others[0].weights, others[1].weights
        if options["measures"].offload:
            return [phase.weights for phase in made.phases if phase.name in ("source", "decode")]
        return [made.phases[1].weights - text, made.phases[3].weights - text - transformer]

    network = empty_vae(TINY)
    encoder, decoder = (sum(w.nbytes for w in half.parameters()) for half in (network.encoder, network.decoder))
    assert vae(measures=Measures()) == [encoder, encoder + decoder]
    assert vae(measures=Measures(offload=True)) == [encoder, decoder]
    whole, in_file = (
        make(TINY, 1, shape, in_memory=InMemory(vae_in_file=stays)).phases[1].memory for stays in (False, True)
    )
    part = measure.measure_encoding(TINY, shape.geometry, 17, 1, None, torch.float32, CUDA)
    assert part.unread > 0
    assert whole - in_file == decoder + part.unread
    assert vae("vae", measures=Measures()) == [encoder + decoder] * 2


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_what_libraries_bring_counts_once_and_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    cold, warm, on_gpu = (
        [phase.memory for phase in make(TINY, 1, device=torch.device(device), in_memory=InMemory(warm=warm)).phases]
        for device, warm in (("cpu", False), ("cpu", True), ("cuda", False))
    )
    brought = [first - later for first, later in zip(cold, warm, strict=True)]
    assert 0 < brought[0] < brought[1] < brought[2] < 30 * 10**6
    assert max(on_gpu) < max(cold) - 10**7


@pytest.mark.parametrize("source", ["image", "video"])
def test_a_source_is_a_phase(source: Any) -> None:
    plan = make(TINY, 1, replace(default_shape(TINY), source=source))
    assert [phase.name for phase in plan.phases] == ["prompt", "source", "steps", "decode"]
    work = {phase.name: phase.work for phase in plan.phases}["source"]
    assert work.convolution > 0


def test_frames_are_held_where_the_memory_is_the_hosts() -> None:
    """Those of a video to begin from all the time, those of the result while it is decoded."""

    def held(device: str, phase: PhaseName) -> int:
        shape = replace(default_shape(TINY), num_videos=3, source="video")
        return planning._frames_bytes(TINY, shape, phase, torch.device(device)) // (17 * 64 * 64 * 3)

    assert [held("cpu", phase) for phase in ("prompt", "source", "steps", "decode")] == [1, 1, 1, 4]
    assert held("cuda", "decode") == 0


def test_work_grows_with_steps_and_with_the_length_of_the_clip() -> None:
    plans = [make(TINY, 1, replace(default_shape(TINY), steps=steps)) for steps in (10, 20, 30)]
    flops = [{phase.name: phase.flops for phase in plan.phases} for plan in plans]
    assert flops[2]["steps"] - flops[1]["steps"] == flops[1]["steps"] - flops[0]["steps"] > 0.9 * flops[0]["steps"]
    assert flops[1]["decode"] == flops[0]["decode"]
    lengths = [
        make(TINY, 1, replace(default_shape(TINY), geometry=geometry(TINY, 64, 64, n))) for n in (17, 25, 33, 41)
    ]
    decode = [plan.phases[-1].flops for plan in lengths]
    assert decode[3] - decode[2] == decode[2] - decode[1] == decode[1] - decode[0]
    assert len({plan.phases[-1].memory for plan in lengths[1:]}) == 3  # the state alone grows
    assert lengths[3].phases[-1].memory < 1.05 * lengths[1].phases[-1].memory


def test_every_published_model_is_planned_quickly() -> None:
    begun = time.process_time()
    plans = [make(variant, 80) for variant in PUBLISHED.values()]
    assert time.process_time() - begun < 10
    assert all(plan.fits and plan.measures == Measures() for plan in plans)
    # 480x720 and 49 frames, of which performance figures are published.
    flops = {phase.name: phase.flops / 1e12 for phase in plans[0].phases}
    assert flops["steps"] == pytest.approx(50 * 240, rel=0.01)
    assert flops["decode"] == pytest.approx(315, rel=0.03)


def test_seconds_come_from_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "remembered_rates", lambda device, dtype: Rates(1e12, 1e12, 1e12, 1e12, 1e-6))
    plan = make(TINY, 1, device=torch.device("cpu"), seconds=None)
    work = plan.phases[1].work
    assert plan.phases[1].seconds == pytest.approx((work.flops + work.moved) / 1e12 + work.operations * 1e-6)
    assert plan.seconds == pytest.approx(sum(phase.seconds or 0 for phase in plan.phases))
    assert make(TINY, 1, device=torch.device("cpu"), seconds=False).seconds is None


def test_free_memory_is_the_budget_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_memory", lambda device: 10**9)
    plan = plan_run(
        TINY,
        default_shape(TINY),
        device=torch.device("cpu"),
        dtype=torch.float32,
        text_dtype=torch.float32,
        budget=None,
        seconds=False,
    )
    assert plan.budget == int(10**9 * planning.SAFE_SHARE)
    assert plan.baseline > 0
    assert plan.total == plan.baseline + plan.peak
