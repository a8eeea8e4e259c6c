"""Whole sampling runs of SAT (tests/golden/cogvideox_sat/README.md, sampler_*).

Tolerance 1e-4 for runs: guidance multiplies the float32 differences of the network by up to 13 a step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.guidance import GuidanceSchedule, constant_guidance, guide, timestep_cosine_guidance
from cogworks.diffusion.prediction import to_x0
from cogworks.diffusion.samplers import Sampler, ddim, dpmpp_2m, dpmpp_2m_sde
from cogworks.diffusion.schedule import NoiseSchedule, Step
from helpers.golden_weights import GOLDEN, load_golden, load_golden_transformer

TOLERANCE = 1e-4
NETWORKS = {
    "t2v15": "t2v15_rope_slice",
    "t2v_sincos": "t2v_sincos",
    "t2v_rope": "t2v_rope",
    "i2v_rope_learned": "i2v_rope_learned",
    "i2v15": "i2v15_rope_slice_ofs",
}
SAMPLER_OF = {"ddim": ddim, "dpm": dpmpp_2m_sde, "dpmode": dpmpp_2m}
GUIDANCE_OF = {"cfg6": constant_guidance(6.0), "dyncfg6": timestep_cosine_guidance(6.0)}


@dataclass
class RecordedNoise:
    """Recorded draws in SAT's order: one in the first step, two in the next, of which the first is discarded."""

    draws: Tensor
    discard_first: bool = True

    def next(self, step: Step, like: Tensor) -> Tensor:
        return self.draws[2 * step.index - (not self.discard_first and step.index > 0)]

    def skip(self, step: Step, like: Tensor) -> None: ...


@dataclass
class Case:
    sampler: Sampler
    steps: list[Step]
    guidance: GuidanceSchedule
    network: str
    io: dict[str, Tensor]
    noise: RecordedNoise

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """(x at the start of every step, every x_0 estimate, the result), in our layout."""
        states, estimates = [], []

        def record(step: Step, x: Tensor, x0: Tensor) -> None:
            estimates.append(x0)

        def denoise(x: Tensor, step: Step) -> Tensor:
            states.append(x)
            return self.denoise(x, step)

        with torch.no_grad():
            result = self.sampler(denoise, self.io["in.x_T"], self.steps, noise=self.noise, callback=record)
        return torch.stack(states), torch.stack(estimates), result

    def denoise(self, x: Tensor, step: Step) -> Tensor:
        inputs = torch.cat([x, self.io["in.concat"]], dim=1) if "in.concat" in self.io else x
        v = load_golden_transformer(self.network)(
            inputs.repeat(2, 1, 1, 1, 1),
            torch.full((2,), step.timestep),
            torch.cat([self.io["in.uncond"], self.io["in.cond"]]),
            ofs=self.io["in.ofs"].repeat(2) if "in.ofs" in self.io else None,
        )
        uncond, cond = to_x0(v, "v", x.repeat(2, 1, 1, 1, 1), step.prediction_alpha, step.prediction_sigma).chunk(2)
        return guide(uncond, cond, self.guidance(step))


def load_case(name: str) -> Case:
    sampler, guidance, rest = name.split("_", 2)
    network, shift = rest.rsplit("_shift", 1)
    num_steps = int(sampler[-1])
    schedule = NoiseSchedule(ScheduleConfig(snr_shift=float(shift), spacing="sat"))
    # Goldens are B T C H W, with a leading axis of steps or draws where there is one.
    io = {
        key: value.transpose(-4, -3) if value.ndim >= 5 else value
        for key, value in load_golden(f"sampler_{name}").items()
    }
    return Case(
        SAMPLER_OF[sampler[:-1]],
        schedule.steps(num_steps),
        GUIDANCE_OF[guidance],
        NETWORKS[network],
        io,
        RecordedNoise(io.get("in.noise_draws", torch.empty(0))),
    )


CASES = [
    "ddim5_cfg6_t2v15_shift1",
    "ddim5_cfg6_t2v_sincos_shift3",
    "ddim5_dyncfg6_t2v_rope_shift1",
    "dpm5_dyncfg6_i2v15_shift1",
    "dpm5_dyncfg6_i2v_rope_learned_shift1",
    "dpm5_dyncfg6_t2v_sincos_shift3",
    "dpm7_cfg6_t2v_rope_shift1",
    "dpmode5_cfg6_t2v_rope_shift1",
]


@pytest.mark.parametrize("name", CASES)
def test_run_reproduces_sat(name: str) -> None:
    case = load_case(name)
    states, estimates, result = case.run()
    for ours, golden in ((states, "out.x_steps"), (estimates, "out.denoised_steps"), (result, "out.x_0")):
        torch.testing.assert_close(ours, case.io[golden], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(result, estimates[-1], rtol=0, atol=1e-6)


def without_rounded_predictions(case: Case) -> Case:
    return replace(case, steps=[replace(step, prediction_alpha=step.alpha) for step in case.steps])


def with_levels_of_the_table(case: Case) -> Case:
    shift = 3.0 if case.network == "t2v_sincos" else 1.0
    return replace(case, steps=NoiseSchedule(ScheduleConfig(snr_shift=shift)).steps(len(case.steps), "trailing"))


def with_first_draws(case: Case) -> Case:
    return replace(case, noise=replace(case.noise, discard_first=False))


def with_constant_guidance(case: Case) -> Case:
    return replace(case, guidance=constant_guidance(6.0))


def with_first_order(case: Case) -> Case:
    return replace(case, sampler=ddim)


@pytest.mark.parametrize(
    ("name", "change", "at_least"),
    [
        ("ddim5_cfg6_t2v15_shift1", without_rounded_predictions, 1e-3),
        ("ddim5_cfg6_t2v_sincos_shift3", with_levels_of_the_table, 2.8e-2),
        ("ddim5_dyncfg6_t2v_rope_shift1", with_constant_guidance, 1e-1),
        ("dpm7_cfg6_t2v_rope_shift1", with_first_draws, 6.0),
        ("dpmode5_cfg6_t2v_rope_shift1", with_first_order, 1e-1),
    ],
)
def test_run_would_notice(name: str, change: Callable[[Case], Case], at_least: float) -> None:
    case = load_case(name)
    _, _, result = change(case).run()
    assert (result - case.io["out.x_0"]).abs().max() >= at_least


def test_every_golden_run_is_compared() -> None:
    assert {f"sampler_{name}" for name in CASES} == {path.stem for path in GOLDEN.glob("sampler_*.safetensors")}
