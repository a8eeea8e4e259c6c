"""What a training run takes, before it runs: memory by what it is for, work and time of a step.

Two steps of the run's own module are computed on tensors without values. What is alive then is counted: what the
backward pass needs, gradients, the optimizer's state; a CPU's allocator is followed too (`heap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cogworks.config.measures import Measures
from cogworks.config.recipe import Recipe
from cogworks.config.training_data import Bucket
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.config.vae_recipe import VAERecipe
from cogworks.config.variants import Variant
from cogworks.extensions.int8 import Int8Linear
from cogworks.pipelines.geometry import geometry
from cogworks.pipelines.planning.calibration import calibrate
from cogworks.pipelines.planning.meter import Meter, Work
from cogworks.pipelines.planning.plan import SAFE_SHARE, free_memory, is_here, plan_run
from cogworks.pipelines.planning.shape import RunShape
from cogworks.training.clips.batches import Batch, CaptionBatch, PixelBatch
from cogworks.training.export import TrainingModule
from cogworks.training.planning.meter import AsOnDevice, Stage, TrainingMeter, backward, dry_step, narrow_dtype
from cogworks.training.planning.networks import META, buckets_of, empty_batch, empty_captions, empty_module
from cogworks.training.text_encoder.module import TextEncoderModule
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.transformer.start import weights_dtype
from cogworks.training.vae.module import VAEModule
from cogworks.training.watching.watch import sample_tokens

SAMPLES = "samples"
LIBRARY_BYTES = 24 * 10**6
"""What a training step on a CPU brings into its process besides tensors: code that is read from its files at first use,
kernels that are compiled for shapes, more of both than sampling does."""
MUON_COPIES = 4
"""Matrices that Muon holds besides: the update, its iterate, its products."""
ADAMW_MOVES = 7
"""Times that AdamW reads or writes each trained value or one like it: gradient; weight and two moments, both ways."""


@dataclass(frozen=True)
class StepPhase:
    """One part of a step.

    Attributes:
        memory: most bytes that are alive at once, all that the run holds included.
        work: what is computed.
        seconds: expected; None where nothing is known of the device's speed.
    """

    name: str
    memory: int
    work: Work
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a run takes on each of its devices. Memory in bytes.

    Attributes:
        name: of the variant.
        parameters, trained: values in all networks, and those of them that learn.
        weights: of all networks.
        helpers: of these, text encoder, VAE and whatever else only helps.
        gradients, optimizer, average: beside the weights: of what is trained, of the optimizer, of the average.
        activations: most of all else that is alive at once, the batch included.
        batch: of these, a batch as it comes from the data.
        kept: what the process holds besides: freed memory that its allocator keeps, and libraries.
        phases: of a step; where samples are made on the way, their sampling too.
        tokens: of a sample, text and video; 0 for a VAE.
        steps: of the run.
        budget: that may be held.
        baseline: that the process held when the plan was made; not the run's.
    """

    name: str
    parameters: int
    trained: int
    weights: int
    helpers: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    batch: int
    kept: int
    phases: tuple[StepPhase, ...]
    tokens: int
    steps: int
    budget: int
    baseline: int

    @property
    def peak(self) -> int:
        """Most bytes that the run holds at once on a device."""
        return max(phase.memory for phase in self.phases) + self.kept

    @property
    def fits(self) -> bool:
        return self.peak <= self.budget

    @property
    def flops(self) -> int:
        """Of a step, on each device."""
        return sum(phase.work.flops for phase in self.step_phases)

    @property
    def step_phases(self) -> tuple[StepPhase, ...]:
        return tuple(phase for phase in self.phases if phase.name != SAMPLES)

    @property
    def step_seconds(self) -> float | None:
        known = [phase.seconds for phase in self.step_phases if phase.seconds is not None]
        return sum(known) if known else None

    @property
    def seconds(self) -> float | None:
        """Of all steps, without the reading of data and the samples."""
        return None if self.step_seconds is None else self.step_seconds * self.steps


def plan_training(recipe: Recipe, device: torch.device, *, budget: int | None = None) -> TrainingPlan:
    """Plan a run. No weights and no data are read; a device that is here and unknown is measured for a second.

    Args:
        device: of the plan; it need not be here.
        budget: bytes that the run may hold on it; None for what is free there now.

    Raises:
        RecipeError, WeightsError: the recipe names a model that is not known.
    """
    if budget is None:
        budget = int(free_memory(device) * SAFE_SHARE)
    with Meter(device):  # who builds networks asks whether weights are finite; a meter says yes
        module = empty_module(recipe, device)
    variant = _variant(module)
    bucket = max(buckets_of(recipe), key=lambda each: each.frames * each.height * each.width)
    measured = max((_measure(recipe, module, device, bucket, step) for step in _steps(recipe)), key=lambda m: m.held)
    networks = list(_networks(module))
    trained = list(_trained(module))
    weights = _bytes(weight for network in networks for weight in network.parameters())
    average = 0 if recipe.average is None else _bytes(module.parameters())
    replicated = _bytes(trained) if recipe.devices > 1 else 0  # the buffers in which gradients are exchanged
    held = weights + average + replicated
    rates = calibrate(device, narrow_dtype(recipe.precision) or trained[0].dtype) if is_here(device) else None
    phases = [
        StepPhase(stage.name, held + stage.alive, stage.work, None if rates is None else rates.seconds(stage.work))
        for stage in measured.stages
    ]
    resting = held + measured.optimizer + _bytes(trained)
    if isinstance(recipe, TransformerRecipe) and recipe.samples is not None:
        phases.append(_sampling(recipe, variant, bucket, device, resting, budget))
    batch = _empty_batch(recipe, module, bucket, device)
    return TrainingPlan(
        name=variant.name,
        parameters=sum(weight.numel() for network in networks for weight in network.parameters()),
        trained=sum(weight.numel() for weight in trained),
        weights=weights,
        helpers=weights - _bytes(module.parameters()),
        gradients=_bytes(trained) + replicated,
        optimizer=measured.optimizer,
        average=average,
        activations=measured.alive - measured.optimizer - _bytes(trained),
        batch=_bytes(value for value in batch if isinstance(value, Tensor)),
        kept=measured.held - measured.alive + (LIBRARY_BYTES if device.type == "cpu" else 0),
        phases=tuple(phases),
        tokens=0 if isinstance(batch, CaptionBatch) else sample_tokens(variant, batch),
        steps=recipe.steps,
        budget=budget,
        baseline=psutil.Process().memory_info().rss if device.type == "cpu" else 0,
    )


@dataclass(frozen=True)
class _Measured:
    """What two steps did.

    Attributes:
        stages: of the second step.
        alive: most bytes alive at once beyond the weights, in both.
        held: most that a process holds for them.
        optimizer: bytes of its state.
    """

    stages: tuple[Stage, ...]
    alive: int
    held: int
    optimizer: int


def _measure(recipe: Recipe, module: TrainingModule, device: torch.device, bucket: Bucket, step: int) -> _Measured:
    """Run two steps: from the second on there are gradients and the optimizer's state from the start."""
    meter = TrainingMeter(device, (weight for network in _networks(module) for weight in network.parameters()))
    parts = min(recipe.accumulate, 2)  # the others are like the second
    state: list[Tensor] = []
    with meter:
        following = _empty_batch(recipe, module, bucket, device)
    for _ in range(2):
        meter.stages.clear()
        for part in range(parts):
            batch = following
            if device.type == "cpu":  # Lightning has the next one made first; for other devices it lies with the host
                with meter:
                    following = _empty_batch(recipe, module, bucket, device)
            with dry_step(meter, recipe.precision) as mode, _watched(module, meter, mode):
                _forward_and_backward(module, batch, meter, step, first=part == 0)
        with meter:
            state = state or [moment for weight in _trained(module) for moment in _optimizer_state(recipe, weight)]
            temporary = [torch.empty(size, dtype=torch.uint8, device=META) for size in _optimizer_work(recipe, module)]
            del temporary
        meter.end_stage("optimizer")
    names = dict.fromkeys(stage.name for stage in meter.stages)
    joined = [_join(name, meter.stages, 1 if name == "optimizer" else recipe.accumulate // parts) for name in names]
    size = _bytes(_trained(module))
    joined[-1] = replace(joined[-1], work=Work(moved=ADAMW_MOVES * size, operations=len(state)))
    for weight in _trained(module):
        weight.grad = None
    return _Measured(tuple(joined), meter.most, meter.held, _bytes(state))


def _forward_and_backward(
    module: TrainingModule, batch: Batch, meter: TrainingMeter, step: int, *, first: bool
) -> None:
    """One part of a step, in the order of Lightning: gradients of the step before stay until its first backward."""
    if isinstance(batch, CaptionBatch):
        assert isinstance(module, TextEncoderModule)
        loss = module.losses(batch)[0]
    elif isinstance(module, TransformerModule):
        loss = module.losses(batch)[0].mean()
    else:
        assert isinstance(module, VAEModule)
        assert isinstance(batch, PixelBatch)  # a VAE learns from nothing else
        loss = module.losses(batch, step)[0]
    meter.end_stage("forward")
    if first:
        module.zero_grad(set_to_none=True)
    backward(loss)
    meter.end_stage("backward")


def _empty_batch(recipe: Recipe, module: TrainingModule, bucket: Bucket, device: torch.device) -> Batch:
    """What a part of a step is given."""
    size = recipe.batch_size // recipe.accumulate
    if isinstance(module, TextEncoderModule):
        return empty_captions(module.variant, size)
    return empty_batch(recipe, _variant(module), bucket, size, device)


def _variant(module: TrainingModule) -> Variant:
    return module.model.variant if isinstance(module, TransformerModule) else module.variant


@contextmanager
def _watched(module: TrainingModule, meter: TrainingMeter, mode: AsOnDevice) -> Iterator[None]:
    """What is done before the transformer is called is a stage of its own; and autocast is where the code has it."""
    handles: list[RemovableHandle] = []
    if isinstance(module, TransformerModule):
        handles.append(module.transformer.register_forward_pre_hook(lambda *rest: meter.end_stage("encode")))
    else:
        for part in module.frozen:  # compares pictures in float32
            handles.append(part.register_forward_pre_hook(lambda *rest: setattr(mode, "paused", True)))
            handles.append(part.register_forward_hook(lambda *rest: setattr(mode, "paused", False)))
    if mode.narrow is not None:  # an int8 linear asks autocast itself
        handles += [
            part.register_forward_pre_hook(lambda part, given: (given[0].to(mode.narrow),))
            for part in module.modules()
            if isinstance(part, Int8Linear)
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _join(name: str, stages: list[Stage], times: int) -> Stage:
    """All stages of one name, so many times."""
    named = [stage for stage in stages if stage.name == name]
    return Stage(name, max(stage.alive for stage in named), sum((stage.work for stage in named), Work()) * times)


def _optimizer_state(recipe: Recipe, weight: Tensor) -> list[Tensor]:
    """What the optimizer keeps of one weight."""
    options = recipe.optimizer
    if options.kind == "adamw8bit":
        return [torch.empty_like(weight, dtype=torch.uint8) for _ in range(2)]
    return [torch.empty_like(weight) for _ in range(1 if options.kind == "muon" and weight.ndim == 2 else 2)]


def _optimizer_work(recipe: Recipe, module: TrainingModule) -> list[int]:
    """Bytes that the optimizer holds while it works. AdamW is one kernel; Muon multiplies copies of each matrix."""
    if recipe.optimizer.kind != "muon":
        return []
    matrices = [weight.numel() * weight.element_size() for weight in _trained(module) if weight.ndim == 2]
    return [max(matrices, default=0)] * MUON_COPIES


def _sampling(
    recipe: TransformerRecipe, variant: Variant, bucket: Bucket, device: torch.device, resting: int, budget: int
) -> StepPhase:
    """The sample videos of a run, one at a time, in what the run leaves free."""
    assert recipe.samples is not None
    shape = RunShape(
        geometry=geometry(variant, bucket.height, bucket.width, bucket.frames),
        num_videos=1,
        num_prompts=1,
        guided=variant.defaults.guidance_scale > 1,
        steps=recipe.samples.steps or variant.defaults.steps,
        source="image" if variant.takes_image else "none",
    )
    dtype = weights_dtype(recipe, variant, device)
    measures = Measures() if device.type == "cpu" else None
    made = plan_run(
        variant,
        shape,
        device=device,
        dtype=dtype,
        text_dtype=dtype,
        budget=max(budget - resting, 1),
        measures=measures,
        seconds=False,
    )
    beyond = max(phase.memory - phase.weights for phase in made.phases)
    work = sum((phase.work for phase in made.phases), Work())
    return StepPhase(SAMPLES, resting + beyond, work, None)


def _steps(recipe: Recipe) -> list[int]:
    """Steps of which one takes most: a VAE run changes on its way."""
    return [0, recipe.steps - 1] if isinstance(recipe, VAERecipe) and recipe.steps > 1 else [0]


def _networks(module: TrainingModule) -> Iterator[nn.Module]:
    yield module
    yield from module.frozen


def _trained(module: TrainingModule) -> Iterator[nn.Parameter]:
    return (weight for weight in module.parameters() if weight.requires_grad)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
