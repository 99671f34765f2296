/* Any processor; the compiler's vectors of four. */
#define VECTOR_ISA VECTOR_PLAIN
#include "cpu/vector_attention.h"
#include "cpu/vector_product.h"
#include "cpu/vector_rows.h"

const struct isa isa_plain = {
    .name = "plain",
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
