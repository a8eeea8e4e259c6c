"""What is said of a VAE is what it does: every kind of fault shows in its own figure, and in no other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import numpy as np
import pytest

from cogworks.data.shapes import draw_scene
from cogworks.evaluation.shapes import vae_eval
from cogworks.evaluation.shapes.oracle import ObjectReading, read_objects
from cogworks.evaluation.shapes.vae_eval import ClipFormat, measure
from cogworks.evaluation.shapes.vae_report import EVALUATION_SEED, MIN_CHANGE, Seams, VAEReport

FORM = ClipFormat(height=48, width=48, num_frames=17, fps=8)
Change = Callable[[np.ndarray], np.ndarray]


def measured(change: Change, samples: int = 3, form: ClipFormat = FORM) -> VAEReport:
    """What a reconstruction that changes clips (B, T, H, W, 3) in this way is said to do."""
    return measure(lambda clips: change(clips.astype(int)).clip(0, 255).astype(np.uint8), form, samples)


def brighter_by(levels: list[int]) -> Change:
    """Every frame by its own number of levels. Frames are made darker first, so that none is cut off."""
    return lambda clips: clips // 2 + np.asarray(levels)[None, :, None, None, None]


def steps_at(*frames: int) -> Change:
    """Ten levels brighter from each of these frames on."""
    return brighter_by([10 * sum(frame <= place for frame in frames) for place in range(17)])


def test_an_exact_reconstruction_has_nothing_to_say() -> None:
    report = measured(lambda clips: clips)
    for clips in (report.one_object, report.two_objects):
        assert (clips.psnr.mean, clips.unchanged.value) == (100, 1)
        assert clips.ssim.mean == pytest.approx(1)
        assert all(share.value == 1 for share in clips.by_attribute.values())
    assert report.still.high == report.resting.high == 0
    assert all(seams.ratio == seams.latent_ratio == 1 for seams in report.seams.values())


def test_clips_that_stand_still_lose_their_motion_alone() -> None:
    report = measured(lambda clips: np.repeat(clips[:, :1], 17, axis=1), samples=6)
    for clips in (report.one_object, report.two_objects):
        assert clips.by_attribute["motion"].value < 0.6  # some of the world's clips stand still themselves
        assert clips.by_attribute["colour"].value == clips.by_attribute["background"].value == 1
        assert clips.unchanged.right <= clips.by_attribute["motion"].right
    assert report.still.high == 0


def test_channels_in_another_order_are_another_colour_and_so_no_object_is_found_again() -> None:
    report = measured(lambda clips: clips[..., [1, 2, 0]], samples=6)
    white = sum(
        draw_scene(EVALUATION_SEED, i, split="any", num_objects=1).objects[0].colour == "white" for i in range(6)
    )
    assert report.one_object.by_attribute["colour"].right == white
    for clips in (report.one_object, report.two_objects):
        assert clips.by_attribute["shape"].right <= clips.by_attribute["colour"].right < 6


def test_the_order_in_which_two_objects_are_read_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = itertools.cycle([1, -1])

    def read_either_way(frames: np.ndarray, num_objects: int) -> tuple[list[ObjectReading], str | None]:
        objects, background = read_objects(frames, num_objects)
        return objects[:: next(turns)], background

    monkeypatch.setattr(vae_eval, "read_objects", read_either_way)
    assert measured(lambda clips: clips).two_objects.unchanged.value == 1


def test_flicker_shows_in_what_stands_still() -> None:
    report = measured(brighter_by([place % 2 for place in range(17)]))
    assert report.still.mean == pytest.approx(1 / 255)
    assert report.resting.mean == pytest.approx(1 / 255)
    assert measured(brighter_by([0] * 17)).still.mean == 0


def test_a_step_between_chunks_shows_as_a_seam() -> None:
    still, moving = (measured(steps_at(9)).seams[name] for name in ("still", "moving"))
    assert still.chunks == pytest.approx(10 / 255)
    assert still.latents == still.frames == 0
    assert still.ratio == pytest.approx(10 / 255 / MIN_CHANGE)
    assert moving.ratio > 3
    assert moving.latent_ratio > 3


def test_steps_at_every_latent_frame_are_no_fault_of_the_chunks() -> None:
    seams = measured(steps_at(1, 5, 9, 13)).seams["still"]
    assert seams.latent_ratio == pytest.approx(1)
    assert seams.ratio == pytest.approx(5)  # of the 15 other frames 3 begin a latent frame


def test_a_step_anywhere_else_is_not_taken_for_one() -> None:
    assert measured(steps_at(7)).seams["still"].ratio < 1


def test_longer_clips_have_more_seams_and_one_chunk_has_none() -> None:
    levels = [10 * (place >= 9) + 10 * (place >= 17) for place in range(25)]
    long = measured(brighter_by(levels), 1, ClipFormat(48, 48, 25, 8))
    assert long.seams["still"].chunks == pytest.approx(10 / 255)
    assert measured(lambda clips: clips, 1, ClipFormat(48, 48, 9, 8)).seams == {}


def test_psnr_is_that_of_an_error_of_known_size() -> None:
    report = measured(lambda clips: np.where(clips > 127, clips - 8, clips + 8), samples=2)
    for clips in (report.one_object, report.two_objects):
        assert clips.psnr.low == pytest.approx(20 * np.log10(255 / 8))
        assert clips.psnr.high == pytest.approx(clips.psnr.low)


def test_the_batch_changes_nothing_and_progress_counts_clips() -> None:
    told: list[tuple[int, int]] = []
    sizes: list[int] = []

    def reconstruct(clips: np.ndarray) -> np.ndarray:
        sizes.append(len(clips))
        return clips // 2 * 2

    by_two = measure(reconstruct, FORM, 3, 2, lambda done, total: told.append((done, total)))
    assert sizes == [2, 1, 2, 1, 2, 1]
    assert told == [(0, 9), (2, 9), (3, 9), (5, 9), (6, 9), (8, 9), (9, 9)]
    assert measure(reconstruct, FORM, 3, 10) == by_two


def test_a_report_comes_back_from_json_and_reads_as_lines() -> None:
    report = measured(lambda clips: np.minimum(clips, 240))
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert VAEReport.from_json(values) == report
    assert values["seams"]["moving"]["ratio"] == report.seams["moving"].ratio
    lines = report.lines()
    assert [line.split(":")[0] for line in lines[:2]] == ["one object", "two objects"]
    assert f"PSNR {report.one_object.psnr.mean:.2f} dB" in lines[0]
    assert len(lines) == 4
    assert len(measured(lambda clips: clips, 1, ClipFormat(48, 48, 9, 8)).lines()) == 3


def test_what_no_screen_shows_is_not_divided_by() -> None:
    assert Seams(1e-9, 1e-12, 1e-12).ratio == 1
    assert Seams(0.02, 0.01, 0.005).ratio == pytest.approx(4)


def test_bad_requests_are_refused() -> None:
    for samples, batch in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="samples and batch must be 1 or more"):
            measure(lambda clips: clips, FORM, samples, batch)
    with pytest.raises(ValueError, match="2 frames or more"):
        measured(lambda clips: clips, 1, ClipFormat(48, 48, 1, 8))
    with pytest.raises(ValueError, match="one shape"):
        measured(lambda clips: clips[:, :-1], 1)
