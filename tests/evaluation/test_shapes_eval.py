"""The evaluation counts right, whatever the batch, and its prompts are what they promise."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from cogworks.data.captions import parse_caption
from cogworks.data.shape_words import novel_triples
from cogworks.data.shapes import BACKGROUNDS, Scene, SceneObject, distinguishable, held_out_triples, render_scene
from cogworks.evaluation.prompts import compose_heart_prompts, compose_prompts, evaluation_prompts, heart_prompts
from cogworks.evaluation.shapes_eval import ATTRIBUTES, evaluate_shapes, reconstruction_report


def obedient(prompts: list[str], seeds: list[int]) -> list[np.ndarray]:
    """A model without fault: it renders what the prompt says, somewhere near the middle."""
    videos = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        facts = parse_caption(prompt)
        (words,) = facts.objects
        x, y = np.random.default_rng(seed).uniform(-4, 4, 2)
        item = SceneObject(words.shape, words.colour, words.motion, "large", (x, y), 16.0)
        videos.append(render_scene(Scene((item,), facts.background, prompt), 64, 64, 17, 8))
    return videos


def test_prompts_are_the_committed_list() -> None:
    assert evaluation_prompts() == compose_prompts()
    assert heart_prompts() == compose_heart_prompts()


def test_prompts_cover_the_held_out_triples_and_backgrounds_evenly() -> None:
    prompts = evaluation_prompts()
    facts = [parse_caption(prompt) for prompt in prompts]
    objects = [item for fact in facts for item in fact.objects]
    assert len(set(prompts)) == len(objects) == 100
    triples = Counter((item.shape, item.colour, item.motion) for item in objects)
    assert set(triples) == held_out_triples()
    assert set(triples.values()) == {2, 3}
    backgrounds = Counter(fact.background for fact in facts)
    assert all(19 <= backgrounds[name] <= 21 for name in BACKGROUNDS)
    assert all(distinguishable(item.colour, fact.background) for item, fact in zip(objects, facts, strict=True))


def test_heart_prompts_cover_their_held_out_triples_and_backgrounds_evenly() -> None:
    prompts = heart_prompts()
    facts = [parse_caption(prompt) for prompt in prompts]
    objects = [item for fact in facts for item in fact.objects]
    assert len(set(prompts)) == len(objects) == 50
    triples = Counter((item.shape, item.colour, item.motion) for item in objects)
    assert set(triples) == set(novel_triples("heart")[1])
    assert set(triples.values()) == {3, 4}
    backgrounds = Counter(fact.background for fact in facts)
    assert all(9 <= backgrounds[name] <= 11 for name in BACKGROUNDS)
    assert all(distinguishable(item.colour, fact.background) for item, fact in zip(objects, facts, strict=True))


def test_an_obedient_model_has_full_marks() -> None:
    report = evaluate_shapes(obedient, evaluation_prompts()[::3], batch=8)
    assert report.all_four.value == 1
    assert all(report.accuracy(name).value == 1 for name in ATTRIBUTES)


def test_faults_are_counted_where_they_are() -> None:
    prompts = evaluation_prompts()[:12]

    def faulty(texts: list[str], seeds: list[int]) -> list[np.ndarray]:
        """Paints everything as if it were asked to move left; the last prompt of all gets an empty clip."""
        objects = [parse_caption(text).objects[0] for text in texts]
        left = [
            f"a {word.colour} {word.shape} moves left, {parse_caption(text).background} background"
            for word, text in zip(objects, texts, strict=True)
        ]
        videos = obedient(left, seeds)
        return [np.zeros_like(video) if seed == 11 else video for video, seed in zip(videos, seeds, strict=True)]

    report = evaluate_shapes(faulty, prompts, batch=5)
    asked = [parse_caption(prompt) for prompt in prompts]
    lefts = sum(fact.objects[0].motion == "left" for fact in asked[:11])
    assert report.accuracy("motion").right == lefts == report.all_four.right
    assert report.accuracy("shape").right == report.accuracy("colour").right == 11
    assert report.rows[11].seen.shape is None
    confusion = report.confusion("motion")
    assert sum(sum(counts.values()) for counts in confusion.values()) == 12
    assert all(set(counts) <= {"left", "none"} for counts in confusion.values())
    assert confusion[asked[11].objects[0].motion]["none"] == 1


def test_seeds_and_order_do_not_depend_on_the_batch() -> None:
    calls: list[tuple[str, int]] = []
    progress: list[tuple[int, int]] = []

    def generate(prompts: list[str], seeds: list[int]) -> list[np.ndarray]:
        calls.extend(zip(prompts, seeds, strict=True))
        return obedient(prompts, seeds)

    prompts = evaluation_prompts()[:5]
    by_two = evaluate_shapes(
        generate, prompts, batch=2, first_seed=40, on_progress=lambda done, total: progress.append((done, total))
    )
    assert calls == list(zip(prompts, range(40, 45), strict=True))
    assert progress == [(2, 5), (4, 5), (5, 5)]
    assert by_two == evaluate_shapes(obedient, prompts, batch=5, first_seed=40)


def test_report_as_json() -> None:
    report = json.loads(json.dumps(evaluate_shapes(obedient, evaluation_prompts()[:3]).to_json()))
    assert report["all_four"] == {
        "share": 1.0,
        "right": 3,
        "total": 3,
        "low": pytest.approx(0.4385, abs=1e-4),
        "high": 1,
    }
    assert set(report["accuracy"]) == set(report["confusion"]) == set(ATTRIBUTES)
    assert report["rows"][0]["asked"] == report["rows"][0]["seen"]
    assert report["rows"][2]["seed"] == 2


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="not a caption"):
        evaluate_shapes(obedient, ["a cat"])
    with pytest.raises(ValueError, match="asks for 2"):
        evaluate_shapes(obedient, ["a red circle grows and a blue ring shrinks on black"])
    with pytest.raises(ValueError, match="batch"):
        evaluate_shapes(obedient, [], batch=0)
    with pytest.raises(ValueError, match="one video for each"):
        evaluate_shapes(lambda prompts, seeds: [], evaluation_prompts()[:1])
    with pytest.raises(ValueError, match="num_clips"):
        reconstruction_report(lambda clips: clips, 0)


def test_an_exact_reconstruction() -> None:
    report = reconstruction_report(lambda clips: clips, 7, batch=3)
    assert (report.num_clips, report.psnr, report.unchanged.value) == (7, 100, 1)
    assert report.ssim == pytest.approx(1)
    json.dumps(report.to_json(), allow_nan=False)


def test_a_reconstruction_with_faults() -> None:
    batches: list[int] = []

    def reconstruct(clips: np.ndarray) -> np.ndarray:
        batches.append(len(clips))
        again = np.minimum(clips, 245) + 10
        again[0] = again[0, :1]  # the first clip of each batch stands still
        return again.astype(np.uint8)

    report = reconstruction_report(reconstruct, 7, batch=3)
    assert batches == [3, 3, 1]
    assert report.psnr < 30
    assert report.unchanged_by_attribute["colour"].value == 1
    assert 4 <= report.unchanged_by_attribute["motion"].right < 7
    assert report.unchanged.right == report.unchanged_by_attribute["motion"].right
