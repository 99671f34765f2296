/* The first half of mlp for up to 16 rows in one kernel: norm, gate and up, silu(gate) * up.
 *
 * A group has a tile of gate columns and the tile of up columns that belongs to it.
 * Rounding: as in mlp.cu. */
#include "cuda/gemm_wgmma.cuh"
#include "cuda/mlp.cuh"
#include "cuda/thin.cuh"

#include <assert.h>

#define GROUPS 2
#define DEPTH  4

struct thin_mlp_params {
    struct thin_norm norm;
    const uint16_t *normed;   // [n_rows][hidden] of more rows than each block norms for itself
    struct row_scales scales; // of these
    const uint16_t *weight;   // [2 * intermediate][hidden]
    uint16_t *activated;      // [n_rows][intermediate]
    int32_t intermediate;
};

/* Grid (tiles of 8 * GROUPS values). A block reads 16 * GROUPS columns of weights once and every row: 4 * hidden bytes
 * where it norms them, else 2 * hidden. */
template <bool NORMS>
__global__ static void __launch_bounds__(GROUPS *THIN_THREADS, 2)
    gate_up_thin_kernel(const __grid_constant__ struct thin_mlp_params p) {
    extern __shared__ uint4 shared[]; // rings, normed rows
    __shared__ struct thin_sums<2> group_sums[GROUPS];
    int group = threadIdx.x / THIN_THREADS, thread = threadIdx.x % THIN_THREADS, g = threadIdx.x % WARP / 4;
    int32_t hidden = p.norm.hidden, first = ((int32_t)blockIdx.x * GROUPS + group) * 8;
    bool exists = first < p.intermediate;
    struct thin_columns columns = {p.weight + (size_t)(exists ? first + g : 0) * hidden,
                                   (size_t)p.intermediate * hidden, 0, exists ? 2 : 0};
    struct thin_norm::weights norm_weights;
    if (NORMS) norm_weights = p.norm.fetch_weights();
    float sums[2][4] = {};
    thin_product<2, DEPTH, NORMS ? 8 : THIN_ROWS>(
        columns, hidden, shared + group * thin_ring_pieces(2, DEPTH),
        [&] {
            return NORMS ? p.norm.into<GROUPS>((uint16_t *)(shared + GROUPS * thin_ring_pieces(2, DEPTH)), norm_weights)
                         : thin_rows_at(p.normed, p.norm.n_rows, hidden);
        },
        sums);
    group_sums[group].put(sums);
    __syncthreads();

    int row = thread / 8, column = thread % 8;
    if (row >= p.norm.n_rows || !exists) return;
    float gate = group_sums[group].of(row, column), up = group_sums[group].of(row, 8 + column);
    float scale = NORMS ? p.norm.scale_of(row) : scale_of_row(p.scales, row);
    p.activated[(size_t)row * p.intermediate + first + column] = silu_times(bf16_bits(gate), bf16_bits(up), scale);
}

static size_t ring_bytes() {
    return GROUPS * thin_ring_bytes(2, DEPTH);
}

bool mlp_thin_configure(struct error *err) {
    return allow_shared(gate_up_thin_kernel<true>, ring_bytes() + THIN_NORM_BYTES, err) &&
           allow_shared(gate_up_thin_kernel<false>, ring_bytes(), err);
}

bool mlp_gate_up_thin_pays(const struct context *ctx, const struct layer_weights *weights) {
    struct gemm product = {(const uint16_t *)ctx->scratch.normed,
                           weights->gate_up,
                           ctx->scratch.activated,
                           ctx->batch.n_rows,
                           2 * ctx->shape->intermediate,
                           ctx->shape->hidden,
                           GEMM_BF16};
    return ctx->batch.n_rows <= THIN_ROWS && !gemm_wgmma_pays(ctx->device, &product);
}

bool mlp_gate_up_thin(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct layer_weights *of_layer = &weights->layers[layer];
    const struct model_shape *shape = ctx->shape;
    struct thin_mlp_params params = {};
    params.norm = {ctx->scratch.hidden, of_layer->post_attention_norm, ctx->batch.n_rows, shape->hidden,
                   shape->rms_eps};
    params.normed = (const uint16_t *)ctx->scratch.normed;
    params.weight = of_layer->gate_up;
    params.activated = (uint16_t *)ctx->scratch.activated;
    params.intermediate = shape->intermediate;
    assert(params.norm.n_rows <= THIN_ROWS);
    struct launch launch = {dim3((unsigned)divide_up(shape->intermediate, 8 * GROUPS)), dim3(GROUPS * THIN_THREADS),
                            ring_bytes()};
    if (!params.norm.fits())
        return rmsnorm_rows_unscaled(ctx, of_layer->post_attention_norm, &params.scales, err) &&
               launch_kernel(ctx->device, launch, gate_up_thin_kernel<false>, err, params);
    launch.shared_bytes += params.norm.shared_bytes();
    return launch_kernel(ctx->device, launch, gate_up_thin_kernel<true>, err, params);
}
