/* rmsnorm_qkv of up to 16 rows in one kernel: norm, projection, QK-norm, RoPE, append.
 *
 * A cluster of blocks makes one head. A group has dimensions d to d + 7 and their partners of the rotation, head_dim /
 * 2 further; only the sums of squares of the QK-norm cross between blocks. All that does not depend on x, the rotation
 * and where the row goes, is there before the kernel ahead has ended.
 * Rounding: x times the norm's weight to bf16, then float32 up to q, K and V. */
#include "cuda/cluster.cuh"
#include "cuda/ops.cuh"
#include "cuda/qkv_heads.cuh"
#include "cuda/thin.cuh"

#include <assert.h>

#define GROUPS        2
#define GROUP_COLUMNS 16 // a tile of 8 dimensions and the tile of their partners
#define DEPTH         4

struct thin_qkv_params {
    struct thin_norm norm;
    const uint16_t *normed;   // [n_rows][hidden] of more rows than each block norms for itself
    struct row_scales scales; // of these
    const uint16_t *weight;   // [heads * head_dim][hidden]
    struct qkv_heads heads;
};

/* Grid (heads * BLOCKS), clusters of BLOCKS. A block reads head_dim / BLOCKS columns of weights once and every row: 4 *
 * hidden bytes where it norms them, else 2 * hidden. */
template <int HEAD_DIM, bool NORMS>
__global__ static void __launch_bounds__(GROUPS *THIN_THREADS, 2)
    rmsnorm_qkv_thin_kernel(const __grid_constant__ struct thin_qkv_params p) {
#if HAVE_CLUSTERS
    constexpr int PARTS = HEAD_DIM / GROUP_COLUMNS, BLOCKS = PARTS / GROUPS;
    extern __shared__ uint4 shared[]; // rings, normed rows
    __shared__ struct thin_sums<2> group_sums[GROUPS];
    __shared__ float head_squares[THIN_ROWS][PARTS];
    int group = threadIdx.x / THIN_THREADS, thread = threadIdx.x % THIN_THREADS, g = threadIdx.x % WARP / 4;
    int32_t head = (int32_t)blockIdx.x / BLOCKS, part = cluster_rank() * GROUPS + group, hidden = p.norm.hidden;
    cluster_arrive(); // no block stores into another that has not begun: waited for below

    /* In the end a thread has one value of one row. */
    int row = thread / GROUP_COLUMNS, column = thread % GROUP_COLUMNS;
    int low_d = part * 8 + column % 8, d = low_d + column / 8 * (HEAD_DIM / 2);
    bool is_value = head >= p.heads.n_heads + p.heads.n_kv_heads;
    uint16_t *to = row < p.norm.n_rows ? head_destination(p.heads, row, head, HEAD_DIM) : NULL;
    float sine = 0, cosine = 0, head_norm = 0;
    if (!is_value && row < p.norm.n_rows) {
        rope_angle(p.heads, (float)__ldg(p.heads.positions + row), low_d, &sine, &cosine);
        head_norm = bf16_low(__ldg((head < p.heads.n_heads ? p.heads.q_norm : p.heads.k_norm) + d));
    }

    struct thin_columns columns = {p.weight + ((size_t)head * HEAD_DIM + part * 8 + g) * hidden,
                                   (size_t)(HEAD_DIM / 2) * hidden, 0, 2};
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

    float value = 0;
    if (row < p.norm.n_rows)
        value = group_sums[group].of(row, column) * (NORMS ? p.norm.scale_of(row) : scale_of_row(p.scales, row));
    float squares = value * value;
    for (int step = 1; step < GROUP_COLUMNS; step *= 2) squares += __shfl_xor_sync(ALL_LANES, squares, step);
    cluster_wait();
    if (column < BLOCKS) // each of the first threads tells one block
        cluster_store(cluster_address(&head_squares[row][part], column), squares);
    cluster_sync();
    float total = 0;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) total += head_squares[row][i];
    if (!is_value) {
        float scale = 1.0f / sqrtf(total / HEAD_DIM + p.heads.eps);
        value = value * scale * head_norm;
        float partner = __shfl_xor_sync(ALL_LANES, value, 8);
        value = column < 8 ? rotated_low(value, partner, sine, cosine) : rotated_high(partner, value, sine, cosine);
    }
    if (to) to[d] = bf16_bits(value);
#endif
}

static size_t ring_bytes() {
    return GROUPS * thin_ring_bytes(2, DEPTH);
}

template <int HEAD_DIM> static bool configure(struct error *err) {
    return allow_shared(rmsnorm_qkv_thin_kernel<HEAD_DIM, true>, ring_bytes() + THIN_NORM_BYTES, err) &&
           allow_shared(rmsnorm_qkv_thin_kernel<HEAD_DIM, false>, ring_bytes(), err);
}

bool rmsnorm_qkv_thin_configure(struct error *err) {
    return configure<64>(err) && configure<128>(err);
}

template <int HEAD_DIM>
static bool launch_thin(const struct context *ctx, struct thin_qkv_params *params, struct error *err) {
    constexpr int BLOCKS = HEAD_DIM / GROUP_COLUMNS / GROUPS;
    int32_t n_heads = params->heads.n_heads + 2 * params->heads.n_kv_heads;
    struct launch launch = {dim3((unsigned)(n_heads * BLOCKS)), dim3(GROUPS * THIN_THREADS), ring_bytes(), BLOCKS};
    if (!params->norm.fits())
        return rmsnorm_rows_unscaled(ctx, params->norm.norm, &params->scales, err) &&
               launch_kernel(ctx->device, launch, rmsnorm_qkv_thin_kernel<HEAD_DIM, false>, err, *params);
    launch.shared_bytes += params->norm.shared_bytes();
    return launch_kernel(ctx->device, launch, rmsnorm_qkv_thin_kernel<HEAD_DIM, true>, err, *params);
}

bool rmsnorm_qkv_thin(const struct context *ctx, const struct weights *weights, int32_t layer, struct error *err) {
    const struct model_shape *shape = ctx->shape;
    const struct layer_weights *of_layer = &weights->layers[layer];
    struct thin_qkv_params params = {};
    params.norm = {ctx->scratch.hidden, of_layer->input_norm, ctx->batch.n_rows, shape->hidden, shape->rms_eps};
    params.normed = (const uint16_t *)ctx->scratch.normed;
    params.weight = of_layer->qkv;
    params.heads = qkv_heads_from(ctx, of_layer, layer);
    assert(params.norm.n_rows <= THIN_ROWS);
    return shape->head_dim == 64 ? launch_thin<64>(ctx, &params, err) : launch_thin<128>(ctx, &params, err);
}
