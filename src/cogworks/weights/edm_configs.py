"""Configuration files of diffusers for networks in EDM's form, to our dataclass and back.

diffusers samples such a folder with Euler's method, which is `ddim` here.
Source: diffusers' EDMEulerScheduler and its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cogworks.config.architecture import EDM, EDMScheduleConfig
from cogworks.weights.config_schema import Schema, build

EDM_CLASS = "EDMEulerScheduler"

_EDM = Schema(
    classes=(EDM_CLASS,),
    defaults={"rho": 7.0, "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002},
    # Their "epsilon" has the sign of the published form; it does not predict noise.
    fixed={"final_sigmas_type": "zero", "prediction_type": "epsilon", "sigma_schedule": "karras"},
    ignored=("num_train_timesteps",),  # sampling lays its own levels
)


def read_edm_schedule(config: Mapping[str, Any], origin: str) -> EDMScheduleConfig:
    """`scheduler/scheduler_config.json` to ours. Raises WeightsError for an unsupported value."""
    values = _EDM.read(config, origin)
    return build(
        EDMScheduleConfig,
        origin,
        prediction=build(EDM, origin, sigma_data=values["sigma_data"]),
        sigma_min=values["sigma_min"],
        sigma_max=values["sigma_max"],
        rho=values["rho"],
    )


def write_edm_schedule(config: EDMScheduleConfig) -> dict[str, Any]:
    """Ours to `scheduler/scheduler_config.json`."""
    values = {
        "rho": config.rho,
        "sigma_data": config.prediction.sigma_data,
        "sigma_max": config.sigma_max,
        "sigma_min": config.sigma_min,
    }
    return _EDM.write(values, EDM_CLASS)
