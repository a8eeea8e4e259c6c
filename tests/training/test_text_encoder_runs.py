"""Training a text encoder: what every token should tell, and that it learns to."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cogworks.config.recipe import load_recipe
from cogworks.config.training_data import ShapesData
from cogworks.data.captions import ObjectWords, write_caption
from cogworks.data.shapes import COLOURS, MOTIONS, SHAPES, held_out_triples
from cogworks.errors import CogworksError
from cogworks.training.clips.batches import CaptionBatch
from cogworks.training.run import train
from cogworks.training.text_encoder.facts import FACTS, UNKNOWN, LabelledCaption, labelled_caption, token_facts
from cogworks.training.text_encoder.module import TextEncoderModule
from cogworks.training.watching.metrics_file import read_metrics
from cogworks.weights.fingerprint import part_hash
from cogworks.weights.load import load_text_encoder, load_tokenizer, load_variant
from cogworks.weights.source import resolve

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-text-encoder.yaml"
SHORT = ["threads=1", "log_every=1", "batch_size=4", "steps=4", "learning_rate.warmup_steps=1"]


def test_every_token_of_a_phrase_tells_its_object() -> None:
    tokenizer = load_tokenizer(resolve("tiny"))
    objects = (ObjectWords("ring", "red", "grows"), ObjectWords("object", None, "left"))
    caption = LabelledCaption(write_caption(objects, "navy", "on a {background} background, {verbs}"), objects)
    facts = token_facts(caption, tokenizer, 32)
    words = tokenizer.words(caption.text)
    by_word = {word: facts[words.index(number)].tolist() for number, word in enumerate(caption.text.split())}
    ring = [0, SHAPES.index("ring"), list(COLOURS).index("red"), MOTIONS.index("grows")]
    other = [1, UNKNOWN, UNKNOWN, MOTIONS.index("left")]
    nothing = [UNKNOWN] * len(FACTS)
    assert by_word["red"] == by_word["ring"] == by_word["grows"] == ring
    assert by_word["object"] == by_word["moves"] == by_word["left"] == other
    assert by_word["on"] == by_word["navy"] == by_word["and"] == nothing
    assert (facts[len(words) :] == UNKNOWN).all()


def test_captions_speak_of_training_scenes_and_some_are_vague() -> None:
    data = ShapesData(two_objects=0.7, vague_captions=0.35)
    captions = [labelled_caption(data, index) for index in range(400)]
    said = [(words.shape, words.colour, words.motion) for caption in captions for words in caption.objects]
    assert not held_out_triples() & set(said)
    vague = sum(any(words.colour is None for words in caption.objects) for caption in captions)
    assert 60 < vague < 160
    assert {len(caption.objects) for caption in captions} == {1, 2}


def test_a_run_learns(tmp_path: Path) -> None:
    train(load_recipe(RECIPE, [*SHORT, f"output={tmp_path}", "batch_size=32", "steps=40"]))
    rows = read_metrics(tmp_path / "metrics.csv")
    chance = sum(math.log(len(values)) for values in FACTS.values())
    assert rows[0]["loss"] == pytest.approx(chance, rel=0.01)  # a reader that begins at zero guesses
    assert rows[-1]["loss"] < 0.9 * chance
    assert rows[-1]["read/motion"] > 0.3  # of eight


def test_a_batch_that_leaves_a_fact_unsaid_has_a_loss(tmp_path: Path) -> None:
    module = TextEncoderModule(load_recipe(RECIPE, [*SHORT, f"output={tmp_path}", "variant=null", "model=tiny"]))
    objects = (ObjectWords("object", None, "left"),)
    caption = LabelledCaption(write_caption(objects, "", "{verbs}"), objects)
    facts = token_facts(caption, module.tokenizer, 32)[None]
    loss, read = module.losses(CaptionBatch(module.tokenizer.encode([caption.text], 32), facts, 0))
    assert loss.item() == pytest.approx(math.log(2) + math.log(8), rel=1e-5)  # which object and its motion, guessed
    assert read["read/colour"] == 0


def test_a_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def run(name: str, *words: str) -> Path:
        return train(load_recipe(RECIPE, [*SHORT, f"output={tmp_path / name}", *words]))

    whole = run("whole")
    for name in ("text_encoder", "tokenizer"):
        assert (whole / name).is_dir()
    run("again", "checkpoints.every_steps=2")
    for path in (tmp_path / "again" / "checkpoints").iterdir():
        if "000002" not in path.name:
            path.unlink()
    resumed = run("again", "checkpoints.every_steps=2")
    states = [
        load_text_encoder(resolve(model), load_variant(resolve(model))).state_dict() for model in (whole, resumed)
    ]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_a_trained_encoder_serves_a_transformer(tmp_path: Path) -> None:
    text = train(load_recipe(RECIPE, [*SHORT, f"output={tmp_path / 'text'}"]))
    words = [f"output={tmp_path / 'run'}", f"prepared={tmp_path / 'prepared'}", f"text_encoder={text}", "clips=2"]
    recipe = RECIPE.with_name("tiny-t2v-encoder.yaml")
    model = train(load_recipe(recipe, [*SHORT, "batch_size=2", "steps=1", "model=tiny", "vae=tiny", *words]))
    assert part_hash(resolve(model), "text_encoder") == part_hash(resolve(text), "text_encoder")


@torch.no_grad()
def test_the_bundled_text_encoder_tells_which_words_belong_together() -> None:
    """Without this no transformer can: it sees text tokens as a set."""
    model = resolve("tiny")
    encoder, tokenizer = load_text_encoder(model, load_variant(model), dtype=torch.float32), load_tokenizer(model)
    objects = [ObjectWords("ring", "red", "grows"), ObjectWords("square", "blue", "left")]
    exchanged = [ObjectWords("ring", "red", "left"), ObjectWords("square", "blue", "grows")]
    one, other = (encoder(tokenizer.encode([write_caption(each, "navy")], 32))[0] for each in (objects, exchanged))
    words = write_caption(objects, "navy").split()
    for word in ("red", "ring", "blue", "square"):
        place = words.index(word)
        assert (one[place] - other[place]).norm() > 0.2 * one[place].norm(), word


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model=tiny", "either the model to begin with or the variant"),
        ("variant=small", "no variant named 'small'"),
        ("data.kind=clips data.source=x data.sizes=[[9,64,64]]", "data"),
        ("optimizer.kind=muon optimizer.matrix_learning_rate=0.1", "a text encoder takes adamw"),
        ("compile=true", "leave them out here"),
        ("data.pictures=0.5", "data.pictures is about clips"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(CogworksError) as caught:
        train(load_recipe(RECIPE, [*SHORT, f"output={tmp_path / 'run'}", *words.split()]))
    assert message in str(caught.value)
