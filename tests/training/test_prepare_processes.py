"""Processes that prepare clips: what one of them meets, the others and the caller live through."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cogworks.config.recipe import parse_recipe
from cogworks.config.training_data import Bucket, ShapesData
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import DataError, RunError
from cogworks.training.clips.prepare_work import ClipBad, ClipMade, Event, Work, encode_here, encode_in_processes
from cogworks.training.clips.prepared import prepared_folder
from cogworks.training.clips.sources import Frames, ShapesSource
from cogworks.training.transformer.start import find_parts
from helpers.small_folder import save_small

pytestmark = [pytest.mark.slow, pytest.mark.dist]


class Treacherous(ShapesSource):
    """Reading clip 1 is the end of the process; clip 2 is merely bad."""

    def __init__(self, data: ShapesData, count: int, how: int) -> None:
        super().__init__(data, count)
        self.how = how

    def view(self, index: int, bucket: Bucket, *key: int | str) -> Frames:
        if index == 1:
            os.kill(os.getpid(), self.how)
        if index == 2:
            raise DataError("all black")
        return super().view(index, bucket, *key)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    values = {
        "version": 1,
        "kind": "transformer",
        "model": str(save_small(tmp_path / "model")),
        "output": str(tmp_path / "run"),
        "prepared": str(tmp_path / "prepared"),
        "steps": 1,
        "batch_size": 1,
        "threads": 1,
        "clips": 5,
        "optimizer": {"learning_rate": 0.01},
        "data": {"kind": "shapes", "size": 16, "frames": 5},
    }
    recipe = parse_recipe(values, "test")
    assert isinstance(recipe, TransformerRecipe)
    assert recipe.data.kind == "shapes"
    parts = find_parts(recipe)
    source = Treacherous(recipe.data, 5, signal.SIGSEGV)
    return Work(recipe, parts, prepared_folder(recipe, parts), source, ("",), tuple(range(5)))


def told(events: list[Event]) -> tuple[list[int], dict[int, str]]:
    made = sorted(event.index for event in events if isinstance(event, ClipMade))
    return made, {event.index: event.why for event in events if isinstance(event, ClipBad)}


def test_a_clip_that_ends_the_process_is_a_bad_clip(work: Work) -> None:
    made, bad = told(list(encode_in_processes(work, 1)))
    assert made == [0, 3, 4]
    assert bad == {1: f"ended the process that read it, with signal {int(signal.SIGSEGV)}", 2: "all black"}


def test_a_process_that_was_killed_is_an_error_that_says_so(work: Work) -> None:
    source = work.source
    assert isinstance(source, Treacherous)
    work = replace(work, source=Treacherous(source.data, 5, signal.SIGKILL))
    with pytest.raises(RunError, match=r"a process was killed while it prepared clips, .* try fewer workers"):
        list(encode_in_processes(work, 1))


def test_an_interrupted_caller_leaves_no_process(work: Work) -> None:
    from multiprocessing import active_children

    events = encode_in_processes(replace(work, clips=(0, 3, 4) * 200, captions=()), 2)
    next(events)
    children = active_children()
    assert len(children) == 2
    events.close()  # as an exception in the caller does
    assert not any(child.is_alive() for child in children)


def test_the_children_of_a_killed_caller_end(work: Work, tmp_path: Path) -> None:
    """They notice at their next word that nobody listens."""
    pid = os.fork()
    if pid == 0:
        try:
            events = encode_in_processes(replace(work, clips=(0, 3, 4) * 2000, captions=()), 2)
            next(events)
            from multiprocessing import active_children

            names = " ".join(str(child.pid) for child in active_children())
            (tmp_path / "children.part").write_text(names)
            (tmp_path / "children.part").rename(tmp_path / "children")
            for _ in events:
                pass
        finally:
            os._exit(1)
    deadline = time.monotonic() + 120
    while not (tmp_path / "children").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    children = [int(word) for word in (tmp_path / "children").read_text().split()]
    assert len(children) == 2
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, children))


def test_here_a_bad_clip_is_told_too(work: Work) -> None:
    made, bad = told(list(encode_here(replace(work, clips=(0, 2, 3)))))
    assert (made, bad) == ([0, 3], {2: "all black"})


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody fetched what is left of it
