/* AVX-512 F, BW, DQ, VL: sixteen lanes. */
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define VECTOR_ISA VECTOR_AVX512
#include "cpu/vector_attention.h"
#include "cpu/vector_product.h"
#include "cpu/vector_rows.h"

const struct isa isa_avx512 = {
    .name = "avx512",
    .packed_bytes = sizeof(packed),
    .group_rows = GROUP_ROWS,
    .block_groups = BLOCK_GROUPS,
    .product_inputs = PRODUCT_INPUTS,
    .stream_outputs = STREAM_OUTPUTS,
    .pack = pack,
    .begin = begin,
    .end = end,
    .product = product,
    .attend = attend,
    .sum_of_squares = sum_of_squares,
    .scale_by = scale_by,
    .dots = dots,
    .swiglu = swiglu,
    .rope_angles = rope_angles,
    .rotate = rotate,
    .largest = largest,
    .sampling_weights = sampling_weights,
    .exp_sum = exp_sum,
    .read = read_memory,
};
