"""What every training run can be told, whatever it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cogworks.config.strict import Strict
from cogworks.config.training_data import TrainingData


class OptimizerOptions(Strict):
    """How gradients become steps.

    Attributes:
        kind: AdamW; AdamW with its state in 8 bits, where bitsandbytes or torchao is installed; or Muon for the
            matrices of the transformer's blocks and AdamW for the rest.
        learning_rate: at the top of the schedule.
        matrix_learning_rate: of Muon; updates are scaled to AdamW's, so rates of the same kind do.
        betas, eps, weight_decay: of AdamW.
        clip_norm: gradients are scaled down to this norm, all together; None leaves them.
    """

    kind: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    learning_rate: float = Field(gt=0)
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _rates(self) -> Self:
        if (self.kind == "muon") != (self.matrix_learning_rate is not None):
            raise ValueError("optimizer.matrix_learning_rate belongs to kind muon, which needs it")
        return self


class LearningRateOptions(Strict):
    """How the learning rate moves over a run.

    Attributes:
        shape: `trapezoid` rises, stays, and falls in a straight line to zero over the last `cooldown` of the run;
            `constant` only rises; `cosine` and `linear` fall to zero from the end of the rise. Those named `sat_` are
            the schedules of the SAT trainer, with its own warm-up (a hundredth of the run) and its flat start.
        warmup_steps: of the rise; not for `sat_` shapes.
        cooldown: share of the run in which a trapezoid falls.
        sat_auto_warmup: steps at a twentieth of the rate with which SAT begins a fine-tuning; 0 when it pretrains.
    """

    shape: Literal["trapezoid", "constant", "linear", "cosine", "sat_constant", "sat_linear", "sat_cosine"] = "constant"
    warmup_steps: int = Field(default=100, ge=0)
    cooldown: float = Field(default=0.3, ge=0, le=1)
    sat_auto_warmup: int = Field(default=100, ge=0)


class AverageOptions(Strict):
    """An exponential moving average of the weights, which is what a run exports.

    Attributes:
        decay: its highest value; after n steps it is min(decay, (1 + n) / (10 + n)).
    """

    decay: float = Field(default=0.9999, gt=0, lt=1)


class CheckpointOptions(Strict):
    """What is kept of a run on the way.

    Attributes:
        minutes: between two checkpoints to go on from.
        keep: how many of those; an older one is there should the last be damaged.
        every_steps: also keep one each so many steps, all of them; None keeps none.
        best: also keep the one with the lowest mean loss.
    """

    minutes: float = Field(default=10.0, gt=0)
    keep: int = Field(default=2, ge=1)
    every_steps: int | None = Field(default=None, gt=0)
    best: bool = True


class SampleOptions(Strict):
    """Videos made on the way, to see what a run has learned.

    Attributes:
        every_steps: how often.
        prompts: what they show; or a file with a prompt a line.
        steps: of the sampler; None takes the model's default.
        seed: of the first video; the next ones count up.
        image: the first frame, for an image-to-video model.
    """

    every_steps: int = Field(gt=0)
    prompts: tuple[str, ...] | Path
    steps: int | None = Field(default=None, gt=0)
    seed: int = 0
    image: Path | None = None


class SentinelOptions(Strict):
    """When a run is stopped, or set back to its last checkpoint, because it has gone wrong.

    Attributes:
        action: what happens. A run that is set back sees other batches and draws from there on.
        loss_factor: the mean of the last 20 losses may be this many times the median of the last 200.
        most_rollbacks: after so many a run stops.
    """

    action: Literal["stop", "rollback"] = "rollback"
    loss_factor: float = Field(default=10.0, gt=1)
    most_rollbacks: int = Field(default=3, ge=1)


class Run(Strict):
    """What every recipe has.

    Attributes:
        output: folder of the run. A run that finds its checkpoint there goes on from it.
        seed: keys everything that is drawn.
        steps: of the optimizer.
        batch_size: samples a step on each device, all `accumulate` parts together.
        accumulate: parts that a batch is cut into, to need less memory.
        devices: processes, each with its own device, that share the work.
        threads: of each process, on a CPU.
        data_workers: processes that prepare batches; 0 prepares them in between.
        precision: of the computation, by the names of Lightning. Weights in training are float32 where it says `mixed`.
        save_dtype: of the exported model.
        compile: compile the blocks of the transformer, or the VAE.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        log_every: steps between two lines of the log.
    """

    version: Literal[1]
    output: Path
    seed: int = 0
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    accumulate: int = Field(default=1, gt=0)
    devices: int = Field(default=1, gt=0)
    threads: int = Field(default=2, gt=0)
    data_workers: int = Field(default=0, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "32-true"
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    compile: bool = False
    activation_checkpointing: bool = False
    log_every: int = Field(default=20, gt=0)
    data: TrainingData
    optimizer: OptimizerOptions
    learning_rate: LearningRateOptions = LearningRateOptions()
    average: AverageOptions | None = None
    checkpoints: CheckpointOptions = CheckpointOptions()
    samples: SampleOptions | None = None
    sentinel: SentinelOptions | None = SentinelOptions()

    @model_validator(mode="after")
    def _parts_divide(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size, {self.batch_size}; got {self.accumulate}")
        return self
