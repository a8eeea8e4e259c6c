"""Every case of every benchmark, once, at the smallest shapes: none of them rots. No figure is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_dtype
import bench_gpu
import bench_int8
import bench_pipeline
import bench_startup
import bench_training
import bench_transformer
import bench_vae
import fresh
import pytest
import torch
from bench_training import Job
from measure import Settings, Unequal
from results import Case, Mark
from rival_pipelines import open_both, save_longer_text
from rival_transformers import tiny_transformers, transformer_inputs, transformer_pair
from rival_vaes import vae_pair
from torch import Tensor

from cogworks.config.variants import COGVIDEOX_2B, PUBLISHED, TINY
from cogworks.pipelines.load import compute_dtype

ONCE = Settings(quick=True, threads=1, rounds=1)
SIZE = (2, 4, 4)
LITTLE = replace(
    COGVIDEOX_2B.transformer,
    num_layers=2,
    num_heads=2,
    head_width=16,
    text_width=24,
    text_tokens=7,
    time_width=16,
    sample_size=SIZE[1:],
    sample_frames=5,
)
SLIM = replace(TINY.vae, widths=(4, 4, 8, 8), latent_channels=4, layers_per_block=1)
MARK = Mark(at_least=0.0)


def assert_measured(case: Case, *, equal: bool = True) -> None:
    """A case with times of both sides; and their outputs were compared."""
    assert case.ours.values
    assert case.ratio.median > 0 or case.figure == "ours"
    assert (case.difference is not None) == equal


@pytest.fixture
def compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than all tests here together; what is measured afterwards is the same call."""
    monkeypatch.setattr(torch, "compile", lambda network, *, fullgraph: network)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, *, fullgraph: None)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)


@torch.no_grad()
@pytest.mark.usefixtures("compiles_nothing")
def test_transformers() -> None:
    pair = transformer_pair(replace(LITTLE, rope="crop", position_table="none"), 0)
    inputs = transformer_inputs(pair.config, SIZE, batch=2, seed=0, same_latents=True)
    for case in (
        bench_transformer.forward(pair, inputs, ONCE, "n", "w", MARK),
        bench_transformer.step_of_a_run(pair, inputs, ONCE, "n", "w", MARK),
        bench_transformer.block(pair, inputs, ONCE, "n", "w"),
        *bench_transformer.against_compiled(pair, inputs, ONCE, "n", "w"),
    ):
        assert_measured(case)
        assert case.shapes["latents"] == (2, 16, *SIZE)
    assert case.rival == "diffusers compiled"


def test_the_measured_blocks_are_of_published_width() -> None:
    config = bench_transformer.two_blocks(COGVIDEOX_2B.transformer)
    assert (config.num_layers, config.width) == (2, 1920)
    size = bench_transformer.BLOCK_SIZE
    assert size[0] * size[1] * size[2] // 4 == 1350


@torch.no_grad()
@pytest.mark.parametrize("job", ["encode", "decode"])
def test_vaes(job: Any) -> None:
    assert_measured(bench_vae.timed(vae_pair(SLIM, 0), job, (5, 16, 16), ONCE, "n", "w", MARK))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_peaks_of_vaes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has everything loaded."""
    monkeypatch.setattr(fresh, "call", in_this_process(bench_vae.measure_peak))
    for case in (
        bench_vae.peak(SLIM, (9, 64, 64), ONCE, "n", "w"),
        bench_vae.streamed(SLIM, ONCE, "n", "w", ((9, 64, 64), (17, 64, 64))),
    ):
        assert case.unit == "B"
        assert case.allocator == "default"


def in_this_process(function: Callable[..., Any]) -> Callable[..., Any]:
    """`fresh.call` without a process; arguments and result go through JSON all the same."""
    import json

    def call(module: str, name: str, arguments: dict[str, Any], **options: Any) -> Any:
        assert name == function.__name__
        return json.loads(json.dumps(function(**json.loads(json.dumps(arguments)))))

    return call


SMALL = replace(
    bench_dtype.SMALL_5B,
    transformer=replace(
        bench_dtype.SMALL_5B.transformer, num_layers=1, num_heads=1, text_tokens=7, time_width=16, sample_size=(2, 2)
    ),
    vae=replace(bench_dtype.SMALL_5B.vae, widths=(4, 4, 4, 4)),
    defaults=replace(bench_dtype.SMALL_5B.defaults, height=16, width=16, num_frames=1, steps=1),
)


@torch.no_grad()
def test_pipelines(tmp_path: Path) -> None:
    folder = bench_dtype.save_bfloat16(SMALL, tmp_path / "model", 0)
    case = bench_pipeline.whole(open_both(folder, dtype=torch.float32), ONCE, "n", MARK, steps=2)
    assert_measured(case)
    assert case.shapes["frames"] == (1, 1, 3, 16, 16)


def test_the_bundled_model_with_longer_prompts(tmp_path: Path) -> None:
    folder = save_longer_text(tmp_path / "longer", 40)
    pair = tiny_transformers(folder)
    assert pair.config.text_tokens == pair.theirs.config.max_text_seq_length == 40


def test_loading_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []

    def spend(command: list[str], **options: Any) -> fresh.Spent:
        run.append("theirs" if "diffusers" in command[2] else "ours")
        return fresh.Spent(wall=3.0, cpu=float(len(run)))

    monkeypatch.setattr(fresh, "spend", spend)
    case = bench_startup.loading(ONCE)
    assert run == ["ours", "theirs", "ours", "theirs", "theirs", "ours"]
    assert case.ours.values == (3.0, 6.0)
    assert case.figure == "ours / theirs"


def test_a_command_has_to_leave_its_video(monkeypatch: pytest.MonkeyPatch) -> None:
    def spend(command: list[str], *, content: bytes, **options: Any) -> fresh.Spent:
        Path(command[command.index("-o") + 1]).write_bytes(content)
        return fresh.Spent(wall=5.0, cpu=4.0)

    monkeypatch.setattr(fresh, "spend", lambda *given, **options: spend(*given, content=b"mp4", **options))
    case = bench_startup.command(ONCE)
    assert (case.ours.values, case.met, case.notes["CPU seconds"]) == ((5.0,), True, 4.0)
    monkeypatch.setattr(fresh, "spend", lambda *given, **options: spend(*given, content=b"", **options))
    with pytest.raises(fresh.Failed, match="empty"):
        bench_startup.command(ONCE)


def test_a_prompt_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(module: str, name: str, arguments: dict[str, Any], *, threads: int, **places: str) -> int:
        for variable, value in places.items():
            monkeypatch.setenv(variable, value)
        return bench_startup.encoders_loaded(**arguments)

    monkeypatch.setattr(fresh, "call", call)
    assert bench_startup.seen_before(ONCE).met
    # The negative control: nothing that is remembered.
    monkeypatch.setattr(
        fresh, "call", lambda *given, **places: call(*given, **{**places, "COGWORKS_PROMPT_CACHE": "0"})
    )
    assert not bench_startup.seen_before(ONCE).met


@torch.no_grad()
@pytest.mark.skipif(
    compute_dtype(torch.bfloat16, torch.device("cpu")) == torch.bfloat16, reason="this CPU computes bfloat16 itself"
)
def test_a_checkpoint_in_bfloat16(tmp_path: Path) -> None:
    error, time = bench_dtype.compared(bench_dtype.save_bfloat16(SMALL, tmp_path / "model", 0), ONCE)
    assert_measured(error)
    assert_measured(time)
    assert error.met  # nearer to float32 than diffusers in bfloat16
    assert "computing in float32" in str(error.notes["announced"])


SMALL_JOB = Job("small", "small", LITTLE, 2, SIZE, MARK)


def test_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_training.JOBS, "small", SMALL_JOB)
    assert_measured(bench_training.timed(SMALL_JOB, ONCE))
    if Path("/proc/self/clear_refs").exists():
        monkeypatch.setattr(fresh, "call", in_this_process(bench_training.measure_peak))
        assert bench_training.peak(SMALL_JOB, ONCE).unit == "B"


def test_other_gradients_are_found() -> None:
    """The negative control: one weight differs, and so do gradients."""
    pair = transformer_pair(LITTLE, 0)
    inputs = transformer_inputs(LITTLE, SIZE, batch=2, seed=0)
    target = torch.randn(inputs.latents.shape)
    assert bench_training.check_gradients(pair, inputs, target).largest > 0.01
    with torch.no_grad():
        pair.theirs.proj_out.bias += 0.1
    with pytest.raises(Unequal):
        bench_training.check_gradients(pair, inputs, target)


def test_a_training_step_changes_every_weight() -> None:
    pair = transformer_pair(LITTLE, 0)
    inputs = transformer_inputs(LITTLE, SIZE, batch=2, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in pair.ours.named_parameters()}
    bench_training.step_of(pair, inputs, torch.randn(inputs.latents.shape), "ours")()
    assert not any(torch.equal(before[name], parameter) for name, parameter in pair.ours.named_parameters())
    assert all(parameter.grad is None for parameter in pair.ours.parameters())


@torch.no_grad()
def test_eight_bits() -> None:
    case = bench_int8.block(replace(LITTLE, num_layers=1), SIZE, ONCE)
    assert_measured(case, equal=False)
    assert 1e-4 < float(case.notes["relative error"]) < 0.1
    case = bench_int8.pixels("int8-weights", ONCE, steps=1)
    assert 0 < case.ours.median < 0.1
    assert float(case.notes["weights, of float32"]) < 0.8


CPU = bench_gpu.Target("cpu", torch.float32, 1e9)


@torch.no_grad()
@pytest.mark.usefixtures("compiles_nothing")
@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox1.5-5b"])
def test_what_runs_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    published = PUBLISHED[name]
    config = replace(
        published.transformer, num_layers=2, num_heads=2, head_width=16, text_width=24, text_tokens=7, time_width=16
    )
    monkeypatch.setattr(bench_gpu, "SHORT", (2, 4, 4))
    # The fixed table of 2B is laid out for one size.
    config = replace(config, sample_size=(4, 4), sample_frames=5)
    found = list(bench_gpu.model(replace(published, transformer=config), (2, 4, 4), CPU, ONCE))
    kinds = [case.name.rpartition("-")[2] for case in found]
    assert kinds == ["eager", "flash", "compiled"]  # memory and cuDNN are of a GPU
    for case in found:
        assert_measured(case)
    assert "compile seconds, diffusers" in found[-1].notes
    assert float(found[0].notes["TFLOP"]) == 2 * bench_gpu.flops(config, (2, 4, 4)) / 1e12


@torch.no_grad()
def test_the_vae_of_a_gpu() -> None:
    (case,) = bench_gpu.vae(SLIM, (5, 16, 16), CPU, ONCE)
    assert_measured(case)


def test_work_of_published_models() -> None:
    """TFLOP of a step with guidance, of the reference's table."""
    expected = {"cogvideox-2b": 240, "cogvideox-5b": 664, "cogvideox-5b-i2v": 664, "cogvideox1.5-5b": 2958}
    for variant in bench_gpu.MODELS:
        work = 2 * bench_gpu.flops(variant.transformer, bench_gpu.latent_size(variant)) / 1e12
        assert work == pytest.approx(expected[variant.name], rel=0.005), variant.name


def test_a_model_that_does_not_fit_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def cases() -> Any:
        yield "the first"
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GB\nmore")

    assert list(bench_gpu.as_far_as_memory_goes("5B", cases)) == ["the first"]
    assert "5B: left out from here on: CUDA out of memory" in capsys.readouterr().err


def test_other_weights_on_a_gpu_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the comparison in float32."""
    true = bench_gpu.run_ours

    def wrong(*given: Any) -> Tensor:
        return true(*given) + 0.01

    monkeypatch.setattr(bench_gpu, "run_ours", wrong)
    monkeypatch.setattr(bench_gpu, "SHORT", (2, 4, 4))
    with torch.no_grad(), pytest.raises(Unequal):
        bench_gpu.check_float32(LITTLE, "cpu", 0)
