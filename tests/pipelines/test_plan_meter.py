"""The meter of dry runs: bytes against a count by hand, FLOPs and shapes against torch's own."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from cogworks.config.architecture import TransformerConfig
from cogworks.config.variants import COGVIDEOX_2B, COGVIDEOX_15_5B_I2V, TINY, Variant
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.nn import embeddings, rope
from cogworks.pipelines.geometry import geometry
from cogworks.pipelines.planning import measure as dry
from cogworks.pipelines.planning import meter as metering
from cogworks.pipelines.planning.meter import FusedAttention, Meter
from cogworks.pipelines.planning.workspace import workspace_bytes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
aten = torch.ops.aten
KB = 1024  # bytes of a tensor of 256 float32


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def test_live_and_peak_by_hand() -> None:
    with Meter(CUDA) as meter:
        a = empty(256)
        b = a + 1
        assert meter.live == 2 * KB
        view = b.view(16, 16).transpose(0, 1)[:4]
        b.mul_(2)
        assert meter.live == 2 * KB
        del a
        assert meter.live == KB
        del b  # the view still holds it
        assert meter.live == KB
        del view
        assert (meter.live, meter.peak) == (0, 2 * KB)


def test_what_comes_from_outside_counts_when_it_is_used_and_weights_do_not() -> None:
    given, weight = empty(256), empty(256)
    with Meter(CUDA, [weight]) as meter:
        assert meter.live == 0
        made = given * weight
        assert meter.live == 2 * KB
    assert made.is_meta


def test_weights_that_are_read_as_they_are_used() -> None:
    first, last = empty(256), empty(1024)
    with Meter(CUDA, [first, last]) as meter:
        wide = empty(256).repeat(8) * first.repeat(8)  # 24 KB, and the first weight
        assert (meter.peak, meter.peak_as_used) == (24 * KB, 25 * KB)
        del wide
        narrow = last.view(4, 256).sum(0)
        assert (meter.peak, meter.peak_as_used) == (24 * KB, 25 * KB)
        del narrow
        _ = empty(6 * 1024) * 2  # 48 KB beside both weights
        assert (meter.peak, meter.peak_as_used) == (48 * KB, 53 * KB)


def test_of_a_vae_the_last_layers_are_not_read_when_the_first_hold_most() -> None:
    size = geometry(TINY, 128, 128, 9)
    encoding, decoding = (
        dry.measure_encoding(TINY, size, 9, 1, None, torch.float32, CPU),
        dry.measure_decoding(TINY, size, 1, 1, None, torch.float32, CPU),
    )
    assert encoding.working + decoding.working == encoding.weights == decoding.weights
    assert 0.5 * encoding.working < encoding.unread < encoding.working
    assert 0 <= decoding.unread < 0.1 * decoding.working


def test_tensors_of_the_host_count_where_its_memory_is_the_devices() -> None:
    for device, expected in ((CUDA, KB), (CPU, 2 * KB)):
        with Meter(device) as meter:
            table = torch.zeros(256)
            moved = table.to("meta")
        assert (meter.live, moved.numel()) == (expected, table.numel())


def test_a_remembered_operation_counts_like_the_first() -> None:
    with Meter(CUDA) as meter:
        x = empty(4, 8, 32)
        made = meter.work
        first = F.layer_norm(x, (32,))
        once, live = meter.work - made, meter.live
        second = F.layer_norm(x, (32,))
        assert meter.work - made == once + once
        assert meter.live - live == live - x.numel() * 4
    assert first.shape == second.shape


def test_attention_holds_no_matrix_of_scores() -> None:
    q = empty(2, 4, 1000, 16)
    with Meter(CUDA) as meter, FusedAttention():
        F.scaled_dot_product_attention(q, q, q)
    assert meter.peak == 2 * q.numel() * 4 + 2 * 4 * 1000 * 4  # q, the result, and a number a row
    assert meter.work.attention == 4 * 2 * 4 * 1000**2 * 16
    with Meter(CUDA) as plain:  # the negative control
        F.scaled_dot_product_attention(q, q, q)
    assert plain.peak > 2 * 4 * 1000**2 * 4


def test_flops_are_those_of_a_real_pass() -> None:
    config = replace(TINY.transformer, num_layers=2)
    network = Transformer(config)
    inputs = torch.randn(2, 24, 2, 4, 4), torch.zeros(2, dtype=torch.int64), torch.randn(2, 32, 128)
    # torch's counter does not know of oneDNN's products, which some CPUs take. Of tensors it hands on the shapes.
    direct = {torch.ops.mkldnn._linear_pointwise: lambda x, w, *rest, **named: 2 * math.prod(x) * w[0]}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=direct) as counter:
        network(*inputs)
    meta = network.to("meta")
    with torch.no_grad(), Meter(CPU, meta.parameters()) as meter, FusedAttention():
        meta(*(tensor.to("meta") for tensor in inputs))
    # torch's counter does not know the CPU's attention kernel.
    assert meter.work.matmul == counter.get_total_flops()
    text, video = 32, 2 * 2 * 2
    queries = (text + video) + video  # of two blocks, the last of which is for video alone
    assert meter.work.attention == 4 * 2 * config.num_heads * queries * (text + video) * config.head_width


def test_convolution_flops_are_those_of_a_real_decode() -> None:
    vae = VAE(TINY.vae)
    latents = torch.randn(1, 24, 3, 2, 2)
    # torch's counter does not know of the call to oneDNN. Of tensors it hands on the shapes.
    direct = {aten.mkldnn_convolution: lambda x, w, *rest, out_shape, **named: conv_flop_count(x, w, out_shape)}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=direct) as counter:
        vae.decode(latents)
    meta = vae.to("meta")
    with torch.no_grad(), Meter(CPU, meta.parameters()) as meter:
        meta.decode(latents.to("meta"))
    assert meter.work.convolution == counter.get_total_flops()


@pytest.mark.parametrize("variant", [TINY, COGVIDEOX_2B, COGVIDEOX_15_5B_I2V], ids=lambda variant: variant.name)
def test_shapes_are_those_of_torchs_own_kernels(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(variant, transformer=_shortened(variant.transformer))
    size = geometry(short, 64, 96, 9)

    def parts(device: torch.device, dtype: torch.dtype) -> list[tuple[int, int]]:
        rope._rope.cache_clear()  # what is remembered is not made a second time
        embeddings._sincos_rows.cache_clear()
        found = [
            dry.measure_text.__wrapped__(short, 2, dtype, device),
            dry.measure_steps.__wrapped__(short, size, 1, True, False, 2, None, dtype, device),
            dry.measure_decoding.__wrapped__(short, size, 1, 1, None, dtype, device),
            dry.measure_decoding.__wrapped__(short, size, 1, 8, None, dtype, device),
            dry.measure_encoding.__wrapped__(short, size, 9, 8, (32, 32), dtype, device),
        ]
        return [(part.alive, part.work.flops) for part in found]

    for device, dtype in ((CPU, torch.float32), (CUDA, torch.bfloat16)):
        ours = parts(device, dtype)
        with monkeypatch.context() as patch:
            patch.setattr(metering, "result_forms", lambda func, args, kwargs: None)
            patch.setattr(metering, "written_tensor", lambda func, args, kwargs: None)
            assert parts(device, dtype) == ours


@pytest.mark.parametrize(("strips", "tile"), [(1, None), (8, None), (1, (32, 32))])
def test_pieces_and_tiles_that_repeat_count_like_those_that_are_run(
    strips: int, tile: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = geometry(TINY, 64, 80, 41)

    def parts(device: torch.device) -> list[dry.Part]:
        return [
            dry.measure_decoding.__wrapped__(TINY, size, 2, strips, tile, torch.float32, device),
            dry.measure_encoding.__wrapped__(TINY, size, 41, strips, tile, torch.float32, device),
        ]

    for device in (CUDA, CPU):
        ours = parts(device)
        with monkeypatch.context() as patch:
            patch.setattr(dry, "Repeating", lambda network, meter: network)
            plain = parts(device)
        for part, run in zip(ours, plain, strict=True):
            assert part.work.flops == run.work.flops
            assert part.alive == pytest.approx(run.alive, rel=0.01)


def _shortened(config: TransformerConfig) -> TransformerConfig:
    return replace(config, num_layers=2, position_table="none" if config.position_table == "learned" else "sincos")


def test_neither_a_plan_nor_a_run_imports_the_compiler() -> None:
    """It takes 1.5 seconds and 70 MB, and is written in Python: a meta tensor may be enough to call for it."""
    code = (
        "import sys, torch\n"
        "from dataclasses import replace\n"
        "from cogworks.config.variants import TINY\n"
        "from cogworks.pipelines.planning.plan import plan_run\n"
        "from cogworks.pipelines.planning.shape import default_shape\n"
        "plan_run(TINY, default_shape(TINY), device=torch.device('cpu'), dtype=torch.float32,"
        " text_dtype=torch.float32, budget=10**9, seconds=False)\n"
        "from cogworks.config.variants import COGVIDEOX_5B_I2V as large\n"  # which comes down to strips
        "shape = replace(default_shape(large), source='image', quantize='int8')\n"
        "plan_run(large, shape, device=torch.device('cpu'), dtype=torch.float32,"
        " text_dtype=torch.float32, budget=10**9, seconds=False)\n"
        "import cogworks\n"
        "cogworks.load('tiny', device='cpu').generate('a', height=32, width=32, num_frames=1, num_inference_steps=1)\n"
        "print('torch._dynamo' in sys.modules or 'sympy' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_workspace_of_convolutions() -> None:
    def workspace(x: torch.Tensor, weight: torch.Tensor, device: torch.device = CPU) -> int:
        dims = x.ndim - 2
        args = (x, weight, None, [1] * dims, [0] * dims, [1] * dims, False, [0] * dims, 1)
        return workspace_bytes(aten.convolution.default, args, aten.convolution(*args), device)

    x, weight = empty(1, 32, 10, 20, 20), empty(8, 32, 3, 3, 3)
    turned = empty(1, 10, 32, 20, 20).transpose(1, 2)
    blocked = (x.numel() + weight.numel()) * 4
    assert workspace(x, weight) == workspace(turned, weight) == weight.numel() * 4  # handed to oneDNN as it lies
    assert workspace(x, weight, CUDA) == blocked
    # The result is larger.
    assert workspace(empty(2, 4, 4, 20, 20), empty(64, 4, 3, 3, 3), CUDA) == 2 * 64 * 2 * 18 * 18 * 4
    x, weight, turned = x.double(), weight.double(), turned.double()
    columns = 32 * 27 * 8 * 18 * 18 * 8
    assert workspace(x, weight) == columns  # torch's own kernel
    assert workspace(turned, weight) == columns + x.numel() * 8
    assert workspace(x, empty(8, 32, 1, 1, 1).double()) <= 2 * blocked
