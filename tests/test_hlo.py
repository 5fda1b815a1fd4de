"""The bytes that a product of the LSTM's loop moves, in programs of two compilers for an H100."""

import pytest

from benchmarks.speed import hlo

PRODUCT = """custom_call_target="__cublas$lt$matmul", \
output_to_operand_aliasing={{0}: (2, {})}, \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{\
"lhs_contracting_dimensions":["1"]},"precision_config":{"operand_precision":["HIGHEST"]}}}"""
# jax 0.10: the sums are sliced by another kernel; the product adds to them in place.
CALL = """
ENTRY %main (h: f32[256,64], kernel: f32[64,256], sums: f32[256,256]) -> f32[256,256] {
  %h = f32[256,64]{1,0} parameter(0)
  %kernel = f32[64,256]{1,0} parameter(1)
  %sums = f32[256,256]{1,0} parameter(2)
  %product = (f32[256,256]{1,0}, s8[4194304]{0}) custom-call(%h, %kernel, %sums), PRODUCT
  ROOT %out = f32[256,256]{1,0} get-tuple-element(%product), index=0
}
"""
# jax 0.12: slice and product are one kernel.
FUSION = """
%fused (sums: f32[1,10,256,256], h: f32[256,64], kernel: f32[64,256]) -> \
(f32[256,256], s8[33554432]) {
  %sums = f32[1,10,256,256]{3,2,1,0} parameter(0)
  %h = f32[256,64]{1,0} parameter(1)
  %kernel = f32[64,256]{1,0} parameter(2)
  %slice = f32[1,1,256,256]{3,2,1,0} slice(%sums), slice={[0:1], [3:4], [0:256], [0:256]}
  %bitcast = f32[256,256]{1,0} bitcast(%slice)
  ROOT %product = (f32[256,256]{1,0}, s8[33554432]{0}) custom-call(%h, %kernel, %bitcast), PRODUCT
}

ENTRY %main (sums: f32[1,10,256,256], h: f32[256,64], kernel: f32[64,256]) -> f32[256,256] {
  %sums = f32[1,10,256,256]{3,2,1,0} parameter(0)
  %h = f32[256,64]{1,0} parameter(1)
  %kernel = f32[64,256]{1,0} parameter(2)
  %call = (f32[256,256]{1,0}, s8[33554432]{0}) fusion(%sums, %h, %kernel), kind=kCustom, \
calls=%fused
  ROOT %out = f32[256,256]{1,0} get-tuple-element(%call), index=0
}
"""


@pytest.mark.parametrize("text", [CALL, FUSION], ids=["0.10", "0.12"])
def test_a_product_moves_its_operands_and_its_result_but_no_workspace(text):
    (kernel,) = hlo.kernels(text.replace("PRODUCT", PRODUCT))
    assert kernel.moved == 4 * (256 * 64 + 64 * 256 + 256 * 256 + 256 * 256)
    assert kernel.flops == {"f32": 2 * 256 * 256 * 64}
