"""What a user typed as a model, to a folder on this machine.

A bundled name (`tiny`), a published name (`cogvideox-5b`) or hub id (`THUDM/CogVideoX-5b`), or a folder in the layout
of diffusers or of SAT. A folder never causes a network access; the hub goes through huggingface_hub, with its cache,
its token and its environment variables (HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME). Knows no tensors.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogworks.config.variants import VARIANTS, Variant
from cogworks.errors import WeightsError
from cogworks.weights.sat_files import find_sat, infer_sat_variant_file
from cogworks.weights.variant_files import read_diffusers_variant

ASSETS = Path(__file__).resolve().parent.parent / "assets"
_COMPONENTS = ("transformer", "vae", "text_encoder")
_CONFIG_PATTERNS = ["model_index.json", "cogworks.json", "scheduler/scheduler_config.json", "tokenizer/*"]
_SAT_PATTERNS = ["transformer/latest", "transformer/*/mp_rank_*_model_states.pt", "vae/*.pt", "t5-v1_1-xxl/*"]
_PRECISIONS = ("fp16", "bf16", "fp32")
