"""Prompts that are known from disk: nothing of the text encoder is read, and no bit of a video changes."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cogworks
from cogworks.errors import RequestError
from cogworks.models.text_encoder import TextEncoder
from cogworks.pipelines import prompt_cache
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.prompt_cache import PromptCache, prompts_bytes, prompts_folder

Small = Callable[..., Pipeline]
PROMPT, OTHER = "a red circle", "a blue square"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COGWORKS_PROMPT_CACHE")


def entries() -> list[Path]:
    return sorted(prompts_folder().glob("*")) if prompts_folder().exists() else []


def latents(pipeline: Pipeline, prompt: str | list[str] = PROMPT) -> Tensor:
    made = pipeline.generate(prompt, seed=1, num_inference_steps=2, output_type="latent")
    assert isinstance(made, Tensor)
    return made


def test_a_known_prompt_reads_no_text_encoder_and_gives_the_same_video(
    fresh: Small, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGWORKS_PROMPT_CACHE", "0")
    expected = latents(fresh("small"))
    assert entries() == []
    monkeypatch.delenv("COGWORKS_PROMPT_CACHE")
    for times_read in (1, 0, 0):
        reads.clear()
        assert torch.equal(latents(fresh("small")), expected)
        assert reads.count("TextEncoder") == times_read
        assert len(entries()) == 2  # the prompt, and the empty one
    latents(fresh("small"), OTHER)
    assert reads.count("TextEncoder") == 1
    assert len(entries()) == 3


def test_what_an_embedding_is_does_not_depend_on_what_was_known(fresh: Small) -> None:
    texts = ["", PROMPT, OTHER, "red " * 11]
    together = fresh("small").prompts.encode(texts)
    for path in entries()[::2]:
        path.unlink()
    assert torch.equal(fresh("small").prompts.encode(texts), together)
    shutil.rmtree(prompts_folder())
    alone = [fresh("small").prompts.encode([text])[0] for text in texts]
    assert torch.equal(torch.stack(alone), together)


def test_what_is_planned_has_no_text_encoder_for_known_prompts(fresh: Small) -> None:
    asked = {"num_inference_steps": 2, "output_type": "latent"}

    def phases(pipeline: Pipeline) -> list[str]:
        (plan,) = pipeline._plans.values()
        return [phase.name for phase in plan.phases]

    for expected in (["prompt", "steps", "decode"], ["steps", "decode"]):
        pipeline = fresh("small", memory="2GB")
        pipeline.generate(PROMPT, **asked)
        assert phases(pipeline) == expected
    pipeline = fresh("small", memory="2GB")
    pipeline.generate(prompt_embeds=pipeline.prompts.encode([PROMPT]), negative_prompt="new", **asked)
    assert phases(pipeline) == ["prompt", "steps", "decode"]


def test_an_entry_is_found_only_where_its_bits_would_be_the_same(
    fresh: Small, small_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = fresh("small").components
    ids = torch.arange(12)
    embedding = torch.rand(12, 32)
    PromptCache(components).write(ids, embedding)

    def found(**changes: object) -> bool:
        return PromptCache(replace(components, **changes)).read(ids) is not None  # type: ignore[arg-type]

    assert found()
    moved = tmp_path / "moved"
    shutil.copytree(small_folder("small"), moved)
    same = cogworks.load(moved, device="cpu").components
    assert PromptCache(same).read(ids) is not None
    assert PromptCache(components).read(ids.roll(1)) is None
    assert not found(networks=fresh("small", text_dtype="bf16").components.networks)
    encoder = replace(components.variant.text_encoder, relative_buckets=16)
    assert not found(variant=replace(components.variant, text_encoder=encoder))
    with torch.autocast("cpu", torch.bfloat16):
        assert not found()
    for place, name, value in (
        (torch, "get_num_threads", lambda: 3),
        (torch, "get_float32_matmul_precision", lambda: "medium"),
        (prompt_cache, "hardware", lambda device: "another"),
        (prompt_cache, "versions", lambda: {"torch": "1.0"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            assert not found(), name
    assert found()


def test_a_text_encoder_that_may_be_another_is_neither_asked_nor_remembered(fresh: Small) -> None:
    pipeline = fresh("small")
    before = latents(pipeline)
    known = entries()
    with torch.no_grad():
        pipeline.components.text_encoder.norm_out.weight.mul_(2)
    changed = latents(pipeline)
    assert not torch.equal(changed, before)
    latents(pipeline, OTHER)
    assert entries() == known
    pipeline.components.text_encoder = TextEncoder(pipeline.variant.text_encoder).eval()
    assert not torch.equal(latents(pipeline), changed)
    assert entries() == known
    assert torch.equal(latents(fresh("small")), before)


def test_a_file_that_was_replaced_ends_it(fresh: Small, small_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """What is in memory is of the old file then: under the name of the new one it would be wrong."""
    folder = tmp_path / "model"
    shutil.copytree(small_folder("small"), folder)
    pipeline = cogworks.load(folder, device="cpu")
    pipeline.prompts.encode([PROMPT])
    file = folder / "text_encoder" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()  # the old one is mapped
    file.write_bytes(content)
    assert len(entries()) == 1
    pipeline.prompts.encode([OTHER])
    assert len(entries()) == 1
    cogworks.load(folder, device="cpu").prompts.encode([PROMPT, OTHER])
    assert len(entries()) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "other keys", "a folder"])
def test_what_is_damaged_is_made_again(
    fresh: Small, reads: list[str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fresh("small").prompts.encode([PROMPT])
    (path,) = entries()
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "a folder":
            path.mkdir()
        case "other keys":
            path.write_bytes(content.replace(b"embedding", b"embeddinG"))
        case _:
            flipped = content[:-1] + bytes([content[-1] ^ 1])
            path.write_bytes({"cut": content[:-9], "empty": b"", "a bit": flipped}[damage])
    reads.clear()
    with caplog.at_level(logging.DEBUG, logger="cogworks"):
        assert torch.equal(fresh("small").prompts.encode([PROMPT]), expected)
    assert reads == ["TextEncoder"]
    assert all(record.levelno == logging.DEBUG for record in caplog.records)
    if damage != "a folder":
        assert "is made again" in caplog.text
        assert path.read_bytes() == content
        assert entries() == [path]


def test_a_cache_that_cannot_be_written_changes_nothing(fresh: Small, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder would be")
    assert latents(fresh("small")).isfinite().all()


def test_the_entries_not_used_for_longest_go(fresh: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = fresh("small").prompts.encode
    paths: dict[str, Path] = {}
    for age, text in enumerate(("a", "b", "c")):
        encode([text])
        (paths[text],) = set(entries()) - set(paths.values())
        os.utime(paths[text], (1000 + age, 1000 + age))
    size = paths["a"].stat().st_size
    monkeypatch.setenv("COGWORKS_PROMPT_CACHE", str(3 * size))
    fresh("small").prompts.encode(["a"])  # used now
    encode(["d"])
    assert not paths["b"].exists()
    assert paths["a"].exists()
    assert paths["c"].exists()
    assert len(entries()) == 3
    monkeypatch.setenv("COGWORKS_PROMPT_CACHE", str(size // 2))
    encode(["e"])  # does not fit at all, and so moves nothing
    assert len(entries()) == 3


def test_several_write_at_once(fresh: Small) -> None:
    components = fresh("small").components
    ids, embedding = torch.arange(12), torch.rand(12, 32)

    def work(turn: int) -> bool:
        cache = PromptCache(components)
        cache.write(ids, embedding)
        found = cache.read(ids)
        return found is not None and torch.equal(found, embedding)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
    assert len(entries()) == 1


def test_the_room_is_an_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, room in (("", prompt_cache.DEFAULT_BYTES), ("0", 0), ("1GB", 10**9), (" 2 MiB ", 2**21)):
        monkeypatch.setenv("COGWORKS_PROMPT_CACHE", asked)
        assert prompts_bytes() == room
    monkeypatch.setenv("COGWORKS_PROMPT_CACHE", "much")
    with pytest.raises(RequestError, match="COGWORKS_PROMPT_CACHE is an amount such as 1GB, or 0 to keep nothing"):
        prompts_bytes()


def test_what_is_cut_of_a_known_prompt_is_still_said(fresh: Small, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        caplog.clear()
        latents(fresh("small"), " ".join(["red"] * 11) + " blue square")
        (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
        assert record.getMessage() == "the prompt is longer than 12 tokens; the model will not see: 'blue square'"


def test_another_process_reads_nothing_of_the_text_encoder(small_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Its weights are made worthless on disk, with nothing that shows it from outside; a new prompt finds out."""
    folder = tmp_path / "model"
    shutil.copytree(small_folder("small"), folder)
    expected = latents(cogworks.load(folder, device="cpu"))
    file = folder / "text_encoder" / "model.safetensors"
    before, content = file.stat(), file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    file.unlink()  # what is mapped stays what it was
    file.write_bytes(content[:header] + b"\xff" * (len(content) - header))  # not a number anywhere
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    program = """
import sys, cogworks, torch
torch.set_num_threads(1)
pipeline = cogworks.load(sys.argv[1], device="cpu")
for prompt in sys.argv[2:]:
    made = pipeline.generate(prompt, seed=1, num_inference_steps=2, output_type="latent")
    print(made.flatten().tolist(), flush=True)
"""
    words = [sys.executable, "-c", program, str(folder), PROMPT, OTHER]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stdout == f"{expected.flatten().tolist()}\n", ran.stderr
    assert ran.returncode == 1
    assert "the text encoder's embedding of 'a blue square' is not finite" in ran.stderr
