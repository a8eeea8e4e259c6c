"""What a run on a CPU brings into its process besides tensors, the first time."""

from __future__ import annotations

from collections.abc import Collection

import torch

_MB = 10**6
_BYTES = {"text_encoder": 3 * _MB, "transformer": 5 * _MB, "vae": 9 * _MB}
_BYTES_AVX512 = {"text_encoder": 8 * _MB, "transformer": 9 * _MB, "vae": 6 * _MB}


def library_bytes(networks: Collection[str]) -> int:
    """Bytes that are there once these networks have worked.

    That is code of torch, oneDNN and MKL, read from their files at first use, kernels that are compiled for shapes, and
    Python's objects: all that dry runs do not see, and the only figures of a plan that come from measurements. They are
    rounded means of fresh processes on a CPU with AVX-512, and on the same held to AVX2 for those without, in 27 runs
    of 47 to 350 MB. docs/hardware.md says how far plans are off with them.

    Args:
        networks: by their names in `weights.Networks`.
    """
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    each = _BYTES_AVX512 if wide else _BYTES
    return sum(each[network] for network in networks)
