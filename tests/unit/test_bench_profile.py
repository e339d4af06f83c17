"""Where the time of a call goes: which kernel is of which kind, and what the tables say."""

from __future__ import annotations

import pytest

from mien.bench.unet_profile import OTHER, Spent, by_kind, kind_of, markdown, report, with_idle


@pytest.mark.parametrize(
    "name, kind",
    [
        ("_cross_frame_attention_kernel", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolution"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "matrix product"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_relu_f16_256x128_32x3_nn_align8>", "matrix product"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, __half>", "matrix product"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__half, __half, float>", "layout"),
        ("_sums_kernel", "norm"),
        ("_group_kernel", "norm"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::Half, float>", "norm"),
        ("void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<c10::Half>", "norm"),
        ("_geglu_kernel", "geglu"),
        ("_consistency_step_kernel", "sampler's step"),
        ("_to_float8_kernel", "8-bit conversion"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy_aligned16_contig<...>", "copy and joining"),
        ("Memcpy DtoD (Device -> Device)", "copy and joining"),
        ("void at::native::(anonymous namespace)::upsample_nearest2d_nhwc_out_frame<c10::Half>", "resizing"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::Half>>",
            "element by element",
        ),
        ("triton_poi_fused_silu_3", "element by element"),
        ("something_else", OTHER),
    ],
)
def test_kernels_are_of_a_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_kinds_and_idle_time_sum_to_the_call() -> None:
    spent = [Spent("_geglu_kernel", 1.0, 16), Spent("nvjet_1", 2.0, 100), Spent("nvjet_2", 1.5, 20)]
    kinds = with_idle(by_kind(spent), call_ms=5.0)
    assert [(one.name, one.ms, one.calls) for one in kinds] == [
        ("matrix product", 3.5, 120), ("geglu", 1.0, 16), ("between kernels", 0.5, 0)
    ]  # fmt: skip
    assert with_idle([Spent("x", 6.0, 1)], call_ms=5.0)[-1].ms == 0.0, "kernels of several streams overlap"


def test_a_table_of_the_longest_and_the_rest() -> None:
    text = markdown(
        "Title", [Spent("a|b" + "x" * 200, 3.0, 2, "1x2"), Spent("c", 1.0, 1), Spent("d", 0.5, 1)], 10.0, most=1
    )
    lines = text.splitlines()
    assert lines[4].startswith("| a\\|b") and "... | 3.000 | 30.0 % | 2 | 1x2 |" in lines[4] and len(lines[4]) < 140
    assert lines[5] == "| 2 more | 1.500 | 15.0 % | | |"


def test_a_report_has_three_tables() -> None:
    spent = {"name": "x", "ms": 1.0, "calls": 1, "detail": ""}
    text = report(
        {"rows": 8, "call_ms": 4.0, "tflops": 300.0, "kinds": [spent], "kernels": [spent], "operators": [spent]}
    )
    assert (
        text.count("### UNet, batch 8: 4.000 ms a call, 300 TFLOP/s") == 3 and text.count("| x | 1.000 | 25.0 %") == 3
    )
