"""What models are judged by is nothing that they were trained on: a million draws of the recipes, and the rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cogworks.config.training_data import ShapesData
from cogworks.data.captions import parse_caption
from cogworks.data.shape_words import Triple, all_triples, train_triples
from cogworks.data.shapes import Split, draw_scene, draw_triples, held_out_triples
from cogworks.evaluation.shapes.image_cases import IMAGE_SEED, image_prompts
from cogworks.evaluation.shapes.prompts import (
    evaluation_prompts,
    two_object_prompts,
    two_object_validation_prompts,
    validation_prompts,
)
from cogworks.evaluation.shapes.vae_report import EVALUATION_SEED
from cogworks.training.clips.shapes_clips import clip_triples, shapes_clip

RECIPES = Path(__file__).parents[2] / "recipes"
SHAPES_RECIPES = {
    path.stem: ShapesData.model_validate(data)
    for path in sorted(RECIPES.glob("*.yaml"))
    if (data := yaml.safe_load(path.read_text())["data"]).get("kind", "shapes") == "shapes"
}


def share_of_two(data: ShapesData) -> float:
    """Of its clips that show two objects; a picture counts as one."""
    return data.two_objects * (1 - data.pictures)


OBJECTS = 1_000_000  # of all recipes together, drawn from each as many scenes
SCENES = round(1.01 * OBJECTS / sum(1 + share_of_two(data) for data in SHAPES_RECIPES.values()))


def triples_of(prompt: str) -> list[Triple]:
    return [(item.shape, item.colour, item.motion) for item in parse_caption(prompt).objects]


def draw_many(draw: Callable[[int], tuple[Triple, ...]], scenes: int) -> tuple[Counter[Triple], int]:
    """How often each triple was drawn, and how many of the scenes showed two."""
    counts: Counter[Triple] = Counter()
    pairs = 0
    for index in range(scenes):
        triples = draw(index)
        counts.update(triples)
        pairs += len(triples) == 2
    return counts, pairs


def test_the_recipes_of_the_bundled_models_are_among_those_drawn_from() -> None:
    assert {"tiny-vae", "tiny-t2v"} <= set(SHAPES_RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SHAPES_RECIPES)
def test_a_million_draws_of_training_show_nothing_held_out(recipe: str) -> None:
    data = SHAPES_RECIPES[recipe]
    counts, pairs = draw_many(lambda index: clip_triples(data, index), SCENES)
    assert not held_out_triples() & set(counts)
    # The draws are what they should be: every combination of training comes, and two objects as often as asked.
    assert set(counts) == set(train_triples())
    # A hundredth more scenes than the mean asks for, and a share within four standard deviations, make a million sure.
    assert counts.total() == SCENES + pairs
    share = share_of_two(data)
    assert abs(pairs / SCENES - share) < 4 * (share * (1 - share) / SCENES) ** 0.5


def test_the_same_count_finds_what_is_held_out_where_it_is_drawn() -> None:
    counts, _ = draw_many(lambda index: draw_triples(0, index, split="any"), 3000)
    assert len(held_out_triples() & set(counts)) == 38


@pytest.mark.parametrize("split", ["train", "held_out", "any"])
def test_the_triples_drawn_are_those_of_the_scene(split: Split) -> None:
    for index in range(150):
        for num_objects, two_objects, shape in ((None, 0.5, None), (1, 0.15, "heart"), (2, 0.15, "star")):
            scene = draw_scene(8, index, split=split, num_objects=num_objects, two_objects=two_objects, shape=shape)
            triples = draw_triples(8, index, split=split, num_objects=num_objects, two_objects=two_objects, shape=shape)
            assert triples == tuple(item.triple for item in scene.objects)


def test_what_is_trained_and_what_is_held_out_are_all_there_is() -> None:
    assert held_out_triples() | set(train_triples()) == set(all_triples())
    assert not held_out_triples() & set(train_triples())


@pytest.mark.parametrize("prompts", [evaluation_prompts, two_object_prompts, image_prompts])
def test_every_evaluation_prompt_asks_for_a_combination_that_is_held_out(prompts: object) -> None:
    assert all(held_out_triples() & set(triples_of(prompt)) for prompt in prompts())  # type: ignore[operator]


@pytest.mark.parametrize("prompts", [validation_prompts, two_object_validation_prompts])
def test_no_validation_prompt_asks_for_anything_held_out(prompts: object) -> None:
    assert not any(held_out_triples() & set(triples_of(prompt)) for prompt in prompts())  # type: ignore[operator]


def test_clips_and_images_for_measuring_have_seeds_of_their_own() -> None:
    assert len({IMAGE_SEED, EVALUATION_SEED}) == 2
    assert not {IMAGE_SEED, EVALUATION_SEED} & {data.seed for data in SHAPES_RECIPES.values()}


@pytest.mark.parametrize("recipe", SHAPES_RECIPES)
def test_the_triples_counted_are_those_of_the_clips(recipe: str) -> None:
    """Whatever a recipe mixes in: what a caption says of shape, colour and motion is one of the triples counted."""
    data = SHAPES_RECIPES[recipe].model_copy(update={"size": 16, "frames": 2})
    for index in range(60):
        triples = clip_triples(data, index)
        _, caption = shapes_clip(data, index)
        try:
            said = triples_of(caption)
        except ValueError:  # a vague one
            continue
        assert tuple(said) == triples
