/* What must not be done: each misuse gives its status and a text that names the argument, and changes nothing. */
#include "check.h"

enum { N = 24, D1 = 6, D2 = 5, R = 3 };

static float x[N * D1], y[N * D2], out[N * N], big[4 * N * N];
static double zx[N * R], zy[N * R], dz[N * R];
static unicon_context_t *context;
static unicon_matrix_t xm, ym, zxm, zym, zout;
static unicon_model_t *model;
static unicon_weights_t *weights;

/* All outputs that a failing call must leave alone. */
static unicon_model_t *const NO_MODEL = (unicon_model_t *)(uintptr_t)0x5a5a5a58;

static void nulls(void)
{
    unicon_context_t *ctx = NULL;
    unicon_model_t *m = NO_MODEL;
    unicon_weights_t *w = NULL;
    unicon_partial_fit_t *p = NULL;
    unicon_fit_options_t options;
    unicon_best_options_t best;
    unicon_kernel_t kernel;
    double value = 7;
    uint64_t bytes = 7;
    int64_t indices[N], k = 1;
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    OK(NULL, unicon_kernel_init(&kernel, sizeof kernel, UNICON_KERNEL_RBF));
    options.r = R;
    EXPECT(NULL, unicon_context_options_init(NULL, sizeof(unicon_context_options_t)), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(NULL, unicon_context_create(NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "context");
    EXPECT(NULL, unicon_cancel(NULL), UNICON_ERROR_INVALID_ARGUMENT, "");
    EXPECT(NULL, unicon_device_count(UNICON_DEVICE_CPU, NULL), UNICON_ERROR_INVALID_ARGUMENT, "count");
    EXPECT(NULL, unicon_communicator_nccl(NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "communicator");
    EXPECT(NULL, unicon_loss_init(NULL, sizeof(unicon_loss_t), 0), UNICON_ERROR_INVALID_ARGUMENT, "loss");
    EXPECT(NULL, unicon_positives_init(NULL, sizeof(unicon_positives_t)), UNICON_ERROR_INVALID_ARGUMENT, "positives");
    EXPECT(NULL, unicon_kernel_init(NULL, sizeof(unicon_kernel_t), 0), UNICON_ERROR_INVALID_ARGUMENT, "kernel");
    EXPECT(NULL, unicon_fit_options_init(NULL, sizeof options), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(NULL, unicon_fit_options_preset(NULL, 0), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(NULL, unicon_communicator_init(NULL, sizeof(unicon_communicator_t)), UNICON_ERROR_INVALID_ARGUMENT, "communicator");
    EXPECT(NULL, unicon_weights_options_init(NULL, sizeof(unicon_weights_options_t)), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(NULL, unicon_sizes_init(NULL, sizeof(unicon_sizes_t)), UNICON_ERROR_INVALID_ARGUMENT, "sizes");
    EXPECT(NULL, unicon_evaluation_options_init(NULL, sizeof(unicon_evaluation_options_t)), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(NULL, unicon_cancel_clear(NULL), UNICON_ERROR_INVALID_ARGUMENT, "");
    EXPECT(NULL, unicon_report_real(NULL, 1, &value), UNICON_ERROR_INVALID_ARGUMENT, "report");
    EXPECT(NULL, unicon_report_integer(NULL, 1001, indices), UNICON_ERROR_INVALID_ARGUMENT, "report");
    EXPECT(NULL, unicon_report_series(NULL, 2001, &value, 1, indices), UNICON_ERROR_INVALID_ARGUMENT, "report");
    unicon_report_destroy(NULL);
    EXPECT(context, unicon_weights_create(context, NULL, NULL, &w), UNICON_ERROR_INVALID_ARGUMENT, "pairs: expected a struct, got NULL");
    EXPECT(context, unicon_contrastive_grad(context, NULL, NULL, &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "pairs");
    EXPECT(context, unicon_fit(context, &options, NULL, &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "pairs");
    EXPECT(context, unicon_recall(context, NULL, 0, &k, 1, &value), UNICON_ERROR_INVALID_ARGUMENT, "pairs");
    EXPECT(context, unicon_evaluate(context, NULL, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "report");
    EXPECT(context, unicon_fit_workspace(context, &options, NULL, &bytes), UNICON_ERROR_INVALID_ARGUMENT, "sizes");
    EXPECT(NULL, unicon_weights_create(NULL, NULL, PAIRS(&zxm, &zym, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "context");
    EXPECT(context, unicon_weights_create(context, NULL, PAIRS(NULL, &zym, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "zx");
    EXPECT(context, unicon_weights_create(context, NULL, PAIRS(&zxm, NULL, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "zy");
    EXPECT(context, unicon_weights_create(context, NULL, PAIRS(&zxm, &zym, NULL), NULL), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    EXPECT(NULL, unicon_weights_loss(NULL, &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    OK(context, unicon_weights_loss(weights, NULL, NULL, NULL));
    EXPECT(NULL, unicon_weights_create_similarity(NULL, NULL, &zxm, NULL, &w), UNICON_ERROR_INVALID_ARGUMENT, "context");
    EXPECT(context, unicon_weights_create_similarity(context, NULL, NULL, NULL, &w), UNICON_ERROR_INVALID_ARGUMENT, "similarity");
    EXPECT(context, unicon_weights_create_similarity(context, NULL, &zxm, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    EXPECT(NULL, unicon_weights_unmatched(NULL, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    EXPECT(NULL, unicon_weights_dense(NULL, &zout), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    EXPECT(context, unicon_weights_dense(weights, NULL), UNICON_ERROR_INVALID_ARGUMENT, "s: expected a matrix, got NULL");
    EXPECT(NULL, unicon_weights_apply(NULL, &zym, &zout), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    EXPECT(context, unicon_weights_apply(weights, NULL, &zout), UNICON_ERROR_INVALID_ARGUMENT, "v:");
    EXPECT(context, unicon_weights_apply(weights, &zym, NULL), UNICON_ERROR_INVALID_ARGUMENT, "sv:");
    EXPECT(NULL, unicon_weights_apply_transpose(NULL, &zxm, &zout), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    EXPECT(context, unicon_weights_apply_transpose(weights, NULL, &zout), UNICON_ERROR_INVALID_ARGUMENT, "u:");
    EXPECT(context, unicon_weights_apply_transpose(weights, &zxm, NULL), UNICON_ERROR_INVALID_ARGUMENT, "stu:");
    EXPECT(NULL, unicon_weights_cross(NULL, &zxm, &zym, &zout), UNICON_ERROR_INVALID_ARGUMENT, "weights");
    EXPECT(context, unicon_weights_cross(weights, NULL, &zym, &zout), UNICON_ERROR_INVALID_ARGUMENT, "x:");
    EXPECT(context, unicon_weights_cross(weights, &zxm, NULL, &zout), UNICON_ERROR_INVALID_ARGUMENT, "y:");
    EXPECT(context, unicon_weights_cross(weights, &zxm, &zym, NULL), UNICON_ERROR_INVALID_ARGUMENT, "c:");
    EXPECT(NULL, unicon_contrastive_grad(NULL, NULL, PAIRS(&zxm, &zym, NULL), &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "context");
    EXPECT(context, unicon_contrastive_grad(context, NULL, PAIRS(NULL, &zym, NULL), &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "zx");
    EXPECT(context, unicon_weights_workspace(context, 1, 1, 1, UNICON_F32, NULL), UNICON_ERROR_INVALID_ARGUMENT, "bytes");
    EXPECT(context, unicon_model_create_linear(context, NULL, &zym, &m), UNICON_ERROR_INVALID_ARGUMENT, "f1");
    EXPECT(context, unicon_model_create_linear(context, &zxm, NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "f2");
    EXPECT(context, unicon_model_create_linear(context, &zxm, &zym, NULL), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(NULL, unicon_model_describe(NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(NULL, unicon_model_describe(model, NULL), UNICON_ERROR_INVALID_ARGUMENT, "description");
    EXPECT(context, unicon_model_encoder(context, NULL, 0, &zout), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(context, unicon_model_encode(context, NULL, 0, &xm, &zout), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(context, unicon_model_encode(context, model, 0, NULL, &zout), UNICON_ERROR_INVALID_ARGUMENT, "in:");
    EXPECT(context, unicon_model_encode(context, model, 0, &xm, NULL), UNICON_ERROR_INVALID_ARGUMENT, "out:");
    EXPECT(context, unicon_model_similarity(context, NULL, &xm, &ym, &zout), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(context, unicon_model_compress(context, NULL, &xm, &ym, 1, NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(context, unicon_model_compress(context, model, NULL, &ym, 1, NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "x:");
    EXPECT(context, unicon_model_compress(context, model, &xm, NULL, 1, NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "y:");
    EXPECT(context, unicon_model_compress(context, model, &xm, &ym, 1, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "compressed");
    EXPECT(context, unicon_model_compress(context, model, &xm, &ym, 0, NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "r:");
    EXPECT(context, unicon_model_compress(context, model, &xm, &ym, 1000, NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "r: expected at most");
    EXPECT(context, unicon_model_save(context, NULL, "/dev/null"), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(context, unicon_model_save(context, model, NULL), UNICON_ERROR_INVALID_ARGUMENT, "path");
    EXPECT(context, unicon_model_load(context, NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "path");
    EXPECT(context, unicon_model_load(context, "x", NULL), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(NULL, unicon_fit(NULL, &options, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "context");
    EXPECT(context, unicon_fit(context, NULL, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(context, unicon_fit(context, &options, PAIRS(NULL, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "x:");
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, NULL, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "y:");
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(context, unicon_fit_workspace(context, NULL, SIZES(1, 1, 1, 1, 0, 0, UNICON_F32), &bytes), UNICON_ERROR_INVALID_ARGUMENT, "options");
    OK(NULL, unicon_best_options_init(&best, sizeof best));
    best.r = R;
    EXPECT(NULL, unicon_damping_init(NULL, sizeof(unicon_damping_t)), UNICON_ERROR_INVALID_ARGUMENT, "damping");
    EXPECT(NULL, unicon_minibatch_init(NULL, sizeof(unicon_minibatch_t)), UNICON_ERROR_INVALID_ARGUMENT, "minibatch");
    EXPECT(NULL, unicon_refine_init(NULL, sizeof(unicon_refine_t)), UNICON_ERROR_INVALID_ARGUMENT, "refine");
    EXPECT(NULL, unicon_best_options_init(NULL, sizeof best), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(NULL, unicon_fit_best(NULL, &best, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "context");
    EXPECT(context, unicon_fit_best(context, NULL, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(context, unicon_fit_best(context, &best, PAIRS(NULL, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "x:");
    EXPECT(context, unicon_fit_best(context, &best, PAIRS(&xm, NULL, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "y:");
    EXPECT(context, unicon_fit_best(context, &best, PAIRS(&xm, &ym, NULL), NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(context, unicon_fit_best_workspace(context, NULL, SIZES(1, 1, 1, 1, 0, 0, UNICON_F32), &bytes), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(context, unicon_fit_best_workspace(context, &best, SIZES(1, 1, 1, 1, 0, 0, UNICON_F32), NULL), UNICON_ERROR_INVALID_ARGUMENT, "bytes");
    EXPECT(context, unicon_fit_best_workspace(context, &best, SIZES(1, 1, 1, 1, -1, 0, UNICON_F32), &bytes), UNICON_ERROR_INVALID_ARGUMENT, "m_x");
    EXPECT(context, unicon_fit_workspace(context, &options, SIZES(-1, 1, 1, 1, 0, 0, UNICON_F32), &bytes), UNICON_ERROR_INVALID_ARGUMENT, "n_x");
    EXPECT(context, unicon_fit_workspace(context, &options, SIZES(1, 1, 0, 1, 0, 0, UNICON_F32), &bytes), UNICON_ERROR_INVALID_ARGUMENT, "d1");
    EXPECT(context, unicon_fit_workspace(context, &options, SIZES(1, 1, 1, 1, 0, 0, 7), &bytes), UNICON_ERROR_INVALID_ARGUMENT, "dtype");
    EXPECT(context, unicon_fit_workspace(context, &options, SIZES(1, 1, 1, 1, 0, 0, UNICON_F32), NULL), UNICON_ERROR_INVALID_ARGUMENT, "bytes");
    EXPECT(NULL, unicon_partial_fit_model(NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "partial");
    EXPECT(context, unicon_partial_fit_create(context, NULL, UNICON_ACCUMULATE_MOMENTS, 1, 1, UNICON_F32, &p), UNICON_ERROR_INVALID_ARGUMENT, "options");
    EXPECT(context, unicon_partial_fit_create(context, &options, UNICON_ACCUMULATE_MOMENTS, D1, D2, UNICON_F32, NULL), UNICON_ERROR_INVALID_ARGUMENT, "partial");
    EXPECT(NULL, unicon_partial_fit_add(NULL, PAIRS(&xm, &ym, NULL), NULL), UNICON_ERROR_INVALID_ARGUMENT, "partial");
    EXPECT(NULL, unicon_partial_fit_finish(NULL, &m), UNICON_ERROR_INVALID_ARGUMENT, "partial");
    EXPECT(context, unicon_search(context, NULL, &zym, 1, NULL, indices), UNICON_ERROR_INVALID_ARGUMENT, "queries");
    EXPECT(context, unicon_search(context, &zxm, NULL, 1, NULL, indices), UNICON_ERROR_INVALID_ARGUMENT, "items");
    EXPECT(context, unicon_search(context, &zxm, &zym, 1, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "indices");
    EXPECT(context, unicon_recall(context, PAIRS(&zxm, &zym, NULL), UNICON_TIES_LOWER_INDEX, NULL, 1, &value), UNICON_ERROR_INVALID_ARGUMENT, "ks");
    EXPECT(context, unicon_recall(context, PAIRS(&zxm, &zym, NULL), UNICON_TIES_LOWER_INDEX, &k, 1, NULL), UNICON_ERROR_INVALID_ARGUMENT, "recall");
    EXPECT(context, unicon_gram(context, NULL, &xm, &xm, &zout), UNICON_ERROR_INVALID_ARGUMENT, "kernel");
    EXPECT(context, unicon_gram(context, &kernel, NULL, &xm, &zout), UNICON_ERROR_INVALID_ARGUMENT, "a:");
    EXPECT(context, unicon_gram(context, &kernel, &xm, NULL, &zout), UNICON_ERROR_INVALID_ARGUMENT, "b:");
    EXPECT(context, unicon_gram(context, &kernel, &xm, &xm, NULL), UNICON_ERROR_INVALID_ARGUMENT, "out:");
    CHECK(m == NO_MODEL && !w && !p && !ctx && value == 7 && bytes == 7);
}

static void matrices(void)
{
    static const struct {
        const char *what;
        int64_t rows, cols, row_stride, col_stride;
        int32_t dtype, device_type, device_id, reserved;
        unicon_status_t status;
        const char *text;
    } table[] = {
        {"no rows", 0, D1, D1, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "out: expected 0 x 3, got 24 x 3"},
        {"negative rows", -4, D1, D1, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "in.rows"},
        {"no columns", N, 0, D1, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "in.cols"},
        {"overflow", INT64_MAX, D1, D1, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "address space"},
        {"overflowing stride", N, D1, INT64_MAX, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "address space"},
        {"overflowing bytes", N, D1, INT64_MAX / N, 1, UNICON_F64, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "address space"},
        {"no unit stride", N, D1, 2 * D1, 2, UNICON_F32, 1, 0, 0, UNICON_ERROR_UNSUPPORTED, "in: expected one stride of 1"},
        {"negative stride", N, D1, -D1, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_UNSUPPORTED, "stride"},
        {"overlapping rows", N, D1, D1 - 1, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_UNSUPPORTED, "stride"},
        {"overlapping columns", N, D1, 1, N - 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_UNSUPPORTED, "stride"},
        {"zero dtype", N, D1, D1, 1, 0, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "in.dtype"},
        {"unknown dtype", N, D1, D1, 1, 99, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "in.dtype"},
        {"unknown device", N, D1, D1, 1, UNICON_F32, 7, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "in.device_type"},
        {"host device id", N, D1, D1, 1, UNICON_F32, 1, 3, 0, UNICON_ERROR_INVALID_ARGUMENT, "in.device_id"},
        {"device memory", N, D1, D1, 1, UNICON_F32, UNICON_DEVICE_CUDA, 0, 0, UNICON_ERROR_UNSUPPORTED, "in: a CPU context"},
        {"reserved", N, D1, D1, 1, UNICON_F32, 1, 0, 1, UNICON_ERROR_UNSUPPORTED, "in.reserved"},
        {"wrong width", N, D1 - 1, D1, 1, UNICON_F32, 1, 0, 0, UNICON_ERROR_INVALID_ARGUMENT, "in: expected 6 columns"},
    };
    size_t i;
    unicon_matrix_t m, o = unicon_matrix_f32(out, N, R);
    int64_t indices[N];
    for (i = 0; i < sizeof table / sizeof *table; i++) {
        m = unicon_matrix_host(x, table[i].rows, table[i].cols, table[i].dtype);
        m.row_stride = table[i].row_stride;
        m.col_stride = table[i].col_stride;
        m.device_type = table[i].device_type;
        m.device_id = table[i].device_id;
        m.reserved = table[i].reserved;
        EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &m, &o), table[i].status, table[i].text);
    }
    m = xm;
    m.data = NULL;
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &m, &o), UNICON_ERROR_INVALID_ARGUMENT, "in.data");
    m.data = (char *)(void *)big + 2;
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &m, &o), UNICON_ERROR_INVALID_ARGUMENT, "aligned");
    m = xm;
    o = unicon_matrix_f32(out, N, R + 1);
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &m, &o), UNICON_ERROR_INVALID_ARGUMENT, "out: expected 24 x 3");
    o = unicon_matrix_f32(x, N, R);
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &m, &o), UNICON_ERROR_INVALID_ARGUMENT, "overlap");
    o = unicon_matrix_host(out, N, N, UNICON_F16);
    EXPECT(context, unicon_model_similarity(context, model, &xm, &ym, &o), UNICON_ERROR_INVALID_ARGUMENT, "out.dtype");
    EXPECT(context, unicon_model_encode(context, model, 2, &xm, &o), UNICON_ERROR_INVALID_ARGUMENT, "side");
    o = unicon_matrix_f64(dz, N, R);
    EXPECT(context, unicon_contrastive_grad(context, NULL, PAIRS(&zxm, &zym, NULL), NULL, &o, &o), UNICON_ERROR_INVALID_ARGUMENT, "dzy");
    EXPECT(context, unicon_weights_apply(weights, &zym, &zym), UNICON_ERROR_INVALID_ARGUMENT, "overlap");
    EXPECT(context, unicon_weights_apply(weights, &xm, &xm), UNICON_ERROR_INVALID_ARGUMENT, "sv");
    EXPECT(context, unicon_search(context, &zxm, &zym, 0, NULL, indices), UNICON_ERROR_INVALID_ARGUMENT, "k");
    EXPECT(context, unicon_search(context, &zxm, &zym, INT64_MAX, NULL, indices), UNICON_ERROR_INVALID_ARGUMENT, "k");
    EXPECT(context, unicon_search(context, &zxm, &xm, 1, NULL, indices), UNICON_ERROR_INVALID_ARGUMENT, "items");
    { /* NaN and infinity are found and located. */
        float kept = x[5 * D1 + 2];
        unicon_weights_t *w = NULL;
        unicon_model_t *m2 = NO_MODEL;
        unicon_fit_options_t options;
        OK(NULL, unicon_fit_options_init(&options, sizeof options));
        options.r = R;
        x[5 * D1 + 2] = NAN;
        EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m2, NULL), UNICON_ERROR_INVALID_ARGUMENT, "x");
        x[5 * D1 + 2] = INFINITY;
        o = unicon_matrix_f32(out, N, R);
        EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &o), UNICON_ERROR_INVALID_ARGUMENT, "row 5");
        x[5 * D1 + 2] = kept;
        CHECK(m2 == NO_MODEL);
        out[0] = 1.5f;
        o = unicon_matrix_f32(out, N, N);
        EXPECT(context, unicon_weights_create_similarity(context, NULL, &o, NULL, &w), UNICON_ERROR_INVALID_ARGUMENT, "similarity: expected cosines");
        out[0] = NAN;
        EXPECT(context, unicon_weights_create_similarity(context, NULL, &o, NULL, &w), UNICON_ERROR_INVALID_ARGUMENT, "similarity");
        out[0] = -77;
        CHECK(!w);
        zx[4] *= 3;
        EXPECT(context, unicon_contrastive_grad(context, NULL, PAIRS(&zxm, &zym, NULL), NULL, &zout, NULL), UNICON_ERROR_INVALID_ARGUMENT, "norm");
        zx[4] /= 3;
    }
}

static int32_t no_progress(const unicon_progress_t *progress, void *user)
{
    (void)progress;
    (void)user;
    return 0;
}

static void structs(void)
{
    struct {
        unicon_loss_t loss;
        unsigned char tail[32];
    } wide;
    unicon_loss_t loss;
    unicon_fit_options_t options;
    unicon_best_options_t best;
    unicon_minibatch_t minibatch;
    unicon_damping_t damping;
    unicon_refine_t refine;
    told_t info;
    unicon_context_options_t co;
    unicon_positives_t positives;
    unicon_kernel_t kernel;
    unicon_model_t *m = NO_MODEL;
    unicon_context_t *ctx = NULL;
    unicon_allocator_t allocator = {NULL, NULL, NULL};
    unicon_communicator_t communicator;
    double value = 0, a[2];
    int64_t ids[N], indptr[N + 1], indices[N + 1], landmarks[2] = {0, 99};
    int i;

    memset(&wide, 0, sizeof wide);
    OK(NULL, unicon_loss_init(&wide.loss, sizeof wide, UNICON_LOSS_CLIP));
    CHECK(wide.loss.struct_size == sizeof wide);
    OK(context, unicon_contrastive_grad(context, WEIGHTS(&wide.loss), PAIRS(&zxm, &zym, NULL), &value, NULL, NULL));
    wide.tail[31] = 1;
    EXPECT(context, unicon_contrastive_grad(context, WEIGHTS(&wide.loss), PAIRS(&zxm, &zym, NULL), &value, NULL, NULL), UNICON_ERROR_UNSUPPORTED, "loss");
    wide.loss.struct_size = offsetof(unicon_loss_t, nu); /* an older caller: nu and the rest are not there */
    wide.loss.nu = NAN;
    OK(context, unicon_contrastive_grad(context, WEIGHTS(&wide.loss), PAIRS(&zxm, &zym, NULL), &value, NULL, NULL));
    wide.loss.struct_size = offsetof(unicon_loss_t, nu) + 3;
    EXPECT(context, unicon_contrastive_grad(context, WEIGHTS(&wide.loss), PAIRS(&zxm, &zym, NULL), &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "struct_size");
    wide.loss.struct_size = 0;
    EXPECT(context, unicon_contrastive_grad(context, WEIGHTS(&wide.loss), PAIRS(&zxm, &zym, NULL), &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "struct_size");
    EXPECT(NULL, unicon_loss_init(&loss, 3, UNICON_LOSS_CLIP), UNICON_ERROR_INVALID_ARGUMENT, "loss");
    EXPECT(NULL, unicon_loss_init(&loss, sizeof loss, 5), UNICON_ERROR_INVALID_ARGUMENT, "loss.kind");
    EXPECT(NULL, unicon_loss_init(&loss, sizeof loss, -1), UNICON_ERROR_INVALID_ARGUMENT, "loss.kind");
    EXPECT(NULL, unicon_kernel_init(&kernel, sizeof kernel, 8), UNICON_ERROR_INVALID_ARGUMENT, "kernel.kind");

#define LOSS(field, bad, expected)                                                                                    \
    do {                                                                                                              \
        OK(NULL, unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CLIP));                                             \
        loss.field = bad;                                                                                             \
        EXPECT(context, unicon_contrastive_grad(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &value, NULL, NULL),                \
               UNICON_ERROR_INVALID_ARGUMENT, expected);                                                                    \
    } while (0)
    LOSS(kind, 17, "loss.kind");
    LOSS(eps_by, 2, "loss.eps_by");
    LOSS(tau, 0, "tau");
    LOSS(tau, -1, "tau");
    LOSS(tau, NAN, "tau");
    LOSS(nu, INFINITY, "nu");
    LOSS(margin, NAN, "margin");
    LOSS(eps_pos, -1, "eps_pos");
    LOSS(eps_neg, NAN, "eps_neg");
    LOSS(log_eps, -1e-9, "log_eps");

#define OPTION(field, bad, status, expected)                                                                          \
    do {                                                                                                              \
        OK(NULL, unicon_fit_options_init(&options, sizeof options));                                                  \
        options.r = R;                                                                                                \
        options.field = bad;                                                                                          \
        EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL), status, expected);       \
    } while (0)
    OPTION(r, 0, UNICON_ERROR_INVALID_ARGUMENT, "options.r");
    OPTION(r, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.r");
    OPTION(r, D2 + 1, UNICON_ERROR_INVALID_ARGUMENT, "rank");
    OPTION(n_iters, 0, UNICON_ERROR_INVALID_ARGUMENT, "n_iters");
    OPTION(n_iters, -2, UNICON_ERROR_INVALID_ARGUMENT, "options.n_iters");
    OPTION(cos_clamp, 1.0, UNICON_ERROR_INVALID_ARGUMENT, "options.cos_clamp");
    OPTION(budget, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.budget");
    OPTION(growth, 0.5, UNICON_ERROR_INVALID_ARGUMENT, "growth");
    OPTION(exact_last, 2, UNICON_ERROR_INVALID_ARGUMENT, "options.exact_last");
    OPTION(reserved, 1, UNICON_ERROR_UNSUPPORTED, "options");
    OPTION(budget, NAN, UNICON_ERROR_INVALID_ARGUMENT, "options.budget");
    OPTION(checkpoint, "\xff", UNICON_ERROR_INVALID_ARGUMENT, "options.checkpoint");
    OPTION(power, -1; options.factorization = UNICON_FACTORIZATION_POWER, UNICON_ERROR_INVALID_ARGUMENT, "factorization");
    OPTION(tol, -1, UNICON_ERROR_INVALID_ARGUMENT, "tol");
    OPTION(rho, 0, UNICON_ERROR_INVALID_ARGUMENT, "rho");
    OPTION(ridge, NAN, UNICON_ERROR_INVALID_ARGUMENT, "ridge");
    OPTION(factorization, 3, UNICON_ERROR_INVALID_ARGUMENT, "options.factorization");
    OPTION(svd, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.svd");
    OPTION(init, 9, UNICON_ERROR_INVALID_ARGUMENT, "options.init");
    OPTION(init, UNICON_INIT_SIMILARITY, UNICON_ERROR_INVALID_ARGUMENT, "options.similarity");
    OPTION(similarity, &zxm, UNICON_ERROR_INVALID_ARGUMENT, "options.similarity");
    OPTION(scale_inputs, 2, UNICON_ERROR_INVALID_ARGUMENT, "options.scale_inputs");
    OPTION(final_loss, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.final_loss");
    OPTION(drop_trailing, 5, UNICON_ERROR_INVALID_ARGUMENT, "options.drop_trailing");
    OPTION(center, 3, UNICON_ERROR_INVALID_ARGUMENT, "options.center");
    OPTION(center, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.center");
    OPTION(batch_score, 5, UNICON_ERROR_INVALID_ARGUMENT, "options.batch_score");
    OPTION(batch_score, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.batch_score");
    OPTION(whiten, -0.5, UNICON_ERROR_INVALID_ARGUMENT, "whiten");
    OPTION(whiten, NAN, UNICON_ERROR_INVALID_ARGUMENT, "whiten");
    OPTION(batch_size, 1, UNICON_ERROR_INVALID_ARGUMENT, "batch_size");
    OPTION(batch_size, N + 1, UNICON_ERROR_INVALID_ARGUMENT, "batch_size");
    OPTION(n_batches, 2, UNICON_ERROR_INVALID_ARGUMENT, "n_batches");
    OPTION(n_negatives, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.n_negatives");
    OPTION(n_landmarks, 3, UNICON_ERROR_INVALID_ARGUMENT, "options.n_landmarks");
    OPTION(landmarks, landmarks, UNICON_ERROR_INVALID_ARGUMENT, "options.n_landmarks");
#define DAMPING(field, bad, expected)                                                                                 \
    do {                                                                                                              \
        OK(NULL, unicon_damping_init(&damping, sizeof damping));                                                      \
        damping.field = bad;                                                                                          \
        OPTION(damping, &damping, UNICON_ERROR_INVALID_ARGUMENT, expected);                                                 \
    } while (0)
#define REFINE(field, bad, expected)                                                                                  \
    do {                                                                                                              \
        OK(NULL, unicon_refine_init(&refine, sizeof refine));                                                         \
        refine.field = bad;                                                                                           \
        OPTION(refine, &refine, UNICON_ERROR_INVALID_ARGUMENT, expected);                                                   \
    } while (0)
    DAMPING(struct_size, 1, "damping");
    DAMPING(first, 0, "damping first");
    DAMPING(halvings, -1, "damping.halvings");
    DAMPING(tol, NAN, "damping tol");
    OK(NULL, unicon_damping_init(&damping, sizeof damping));
    OPTION(damping, &damping; options.ridge = 1, UNICON_ERROR_UNSUPPORTED, "damping");
    OPTION(damping, &damping; options.batch_size = 8, UNICON_ERROR_UNSUPPORTED, "damping");
    REFINE(max_steps, -1, "refine.max_steps");
    REFINE(tol, -1, "refine tol");
    REFINE(memory, 0, "refine.memory");
    REFINE(patience, 0, "refine.patience");
    REFINE(first_step, INFINITY, "refine first_step");
    REFINE(n_stages, 2, "refine.stages");
    REFINE(stages, landmarks, "refine.stages");
    landmarks[1] = -5;
    REFINE(stages, landmarks; refine.n_stages = 2, "refine.stages");
    landmarks[1] = 99;

#define BEST(field, bad, status, expected)                                                                            \
    do {                                                                                                              \
        OK(NULL, unicon_best_options_init(&best, sizeof best));                                                       \
        best.r = R;                                                                                                   \
        best.field = bad;                                                                                             \
        EXPECT(context, unicon_fit_best(context, &best, PAIRS(&xm, &ym, NULL), &m, NULL), status, expected);     \
    } while (0)
    OK(NULL, unicon_kernel_init(&kernel, sizeof kernel, UNICON_KERNEL_RBF));
    BEST(struct_size, 5, UNICON_ERROR_INVALID_ARGUMENT, "struct_size");
    BEST(r, 0, UNICON_ERROR_INVALID_ARGUMENT, "options.r");
    BEST(r, D2 + 1, UNICON_ERROR_INVALID_ARGUMENT, "rank");
    BEST(dimension, 3, UNICON_ERROR_INVALID_ARGUMENT, "options.r");
    BEST(dimension, 3; best.r = 0, UNICON_ERROR_INVALID_ARGUMENT, "options.dimension");
    BEST(dimension, UNICON_DIMENSION_AUTO, UNICON_ERROR_INVALID_ARGUMENT, "options.r: expected 0");
    BEST(dimension, UNICON_DIMENSION_ENERGY; best.r = 0; best.energy = 1.5, UNICON_ERROR_INVALID_ARGUMENT, "energy");
    BEST(tau_auto, 2, UNICON_ERROR_INVALID_ARGUMENT, "options.tau_auto");
    BEST(exact, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.exact");
    BEST(final_loss, 7, UNICON_ERROR_INVALID_ARGUMENT, "options.final_loss");
    BEST(n_negatives, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.n_negatives");
    BEST(center, 3, UNICON_ERROR_INVALID_ARGUMENT, "options.center");
    BEST(n_whiten, 1, UNICON_ERROR_INVALID_ARGUMENT, "options.whiten");
    BEST(whiten, a, UNICON_ERROR_INVALID_ARGUMENT, "options.whiten");
    a[0] = 0.1;
    a[1] = -0.1;
    BEST(whiten, a; best.n_whiten = 2, UNICON_ERROR_INVALID_ARGUMENT, "whiten");
    BEST(powers, a; best.n_powers = 2, UNICON_ERROR_INVALID_ARGUMENT, "powers");
#define MINIBATCH(field, bad, expected)                                                                               \
    do {                                                                                                              \
        OK(NULL, unicon_minibatch_init(&minibatch, sizeof minibatch));                                                \
        minibatch.field = bad;                                                                                        \
        BEST(minibatch, &minibatch, UNICON_ERROR_INVALID_ARGUMENT, expected);                                               \
    } while (0)
    MINIBATCH(struct_size, 9, "minibatch");
    MINIBATCH(batch, -1, "minibatch.batch");
    MINIBATCH(batch, 1, "minibatch batch");
    MINIBATCH(epochs, 0, "minibatch.epochs");
    MINIBATCH(min_steps, -1, "minibatch.min_steps");
    MINIBATCH(max_steps, -1, "minibatch.max_steps");
    MINIBATCH(rate, 0, "minibatch rate");
    MINIBATCH(momentum, 1, "minibatch momentum");
    MINIBATCH(patience, -1, "minibatch.patience");
    BEST(budget, -1, UNICON_ERROR_INVALID_ARGUMENT, "options.budget");
    BEST(n_landmarks, 3, UNICON_ERROR_INVALID_ARGUMENT, "options.n_landmarks");
    BEST(kernel, &kernel; best.n_landmarks = 1000000, UNICON_ERROR_INVALID_ARGUMENT, "landmarks");
    OK(NULL, unicon_refine_init(&refine, sizeof refine));
    refine.stages = landmarks;
    refine.n_stages = 2;
    BEST(refine, &refine, UNICON_ERROR_INVALID_ARGUMENT, "refine.stages");

    {
        unicon_partial_fit_t *p = NULL;
        unicon_pairs_t held = unicon_pairs(&xm, &ym, NULL);
#define PARTIAL(set, stream, held_out, status, expected)                                                              \
    do {                                                                                                              \
        OK(NULL, unicon_fit_options_init(&options, sizeof options));                                                  \
        options.r = R;                                                                                                \
        set;                                                                                                          \
        options.validation = held_out;                                                                                \
        EXPECT(context, unicon_partial_fit_create(context, &options, stream, D1, D2, UNICON_F32, &p), status, expected);   \
    } while (0)
        PARTIAL((void)0, 2, NULL, UNICON_ERROR_INVALID_ARGUMENT, "accumulate");
        PARTIAL((void)0, UNICON_ACCUMULATE_MOMENTS, &held, UNICON_ERROR_UNSUPPORTED, "validation");
        PARTIAL(options.whiten = 0, UNICON_ACCUMULATE_SOLUTIONS, NULL, UNICON_ERROR_UNSUPPORTED, "whitening");
        PARTIAL(options.kernel = &kernel, UNICON_ACCUMULATE_MOMENTS, NULL, UNICON_ERROR_UNSUPPORTED, "kernel");
        PARTIAL(options.batch_size = 9, UNICON_ACCUMULATE_MOMENTS, NULL, UNICON_ERROR_UNSUPPORTED, "batch");
        PARTIAL(options.damping = &damping, UNICON_ACCUMULATE_MOMENTS, NULL, UNICON_ERROR_UNSUPPORTED, "damping");
        PARTIAL(options.budget = 1, UNICON_ACCUMULATE_MOMENTS, NULL, UNICON_ERROR_UNSUPPORTED, "budget");
        PARTIAL(options.checkpoint = "x", UNICON_ACCUMULATE_MOMENTS, NULL, UNICON_ERROR_UNSUPPORTED, "checkpoint");
        PARTIAL(options.progress = no_progress, UNICON_ACCUMULATE_MOMENTS, NULL, UNICON_ERROR_UNSUPPORTED, "options.progress");
        PARTIAL(options.r = D2 + 1, UNICON_ACCUMULATE_MOMENTS, NULL, UNICON_ERROR_INVALID_ARGUMENT, "rank");
        CHECK(!p);
    }

    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    options.r = 1;
    options.kernel = &kernel;
    options.n_landmarks = 2;
    options.landmarks = landmarks;
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "landmarks");
    options.n_landmarks = N + 1;
    options.landmarks = NULL;
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "landmarks");
    options.n_landmarks = 0;
    kernel.gamma = 0;
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "gamma");
    kernel.gamma = 1;
    kernel.reserved = 1;
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_UNSUPPORTED, "kernel");
    kernel.reserved = 0;
    options.warm_start = model;
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_UNSUPPORTED, "warm_start");
    options.warm_start = NULL;
    EXPECT(NULL, unicon_fit_options_preset(&options, 7), UNICON_ERROR_INVALID_ARGUMENT, "preset");
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    options.r = R;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &m, &info));
    CHECK(info.n_loss == 2);
    unicon_model_destroy(m);
    m = NO_MODEL;
    ym.rows = N - 1;
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL), UNICON_ERROR_INVALID_ARGUMENT, "positives");
    ym.rows = N;
    CHECK(m == NO_MODEL);

    for (i = 0; i <= N; i++) {
        indptr[i] = i;
        indices[i] = i;
        if (i < N)
            ids[i] = i;
    }
#define POSITIVES(set, status, expected)                                                                              \
    do {                                                                                                              \
        OK(NULL, unicon_positives_init(&positives, sizeof positives));                                                \
        set;                                                                                                          \
        EXPECT(context, unicon_contrastive_grad(context, NULL, PAIRS(&zxm, &zym, &positives), &value, NULL, NULL), status,   \
               expected);                                                                                             \
    } while (0)
    POSITIVES(positives.kind = 3, UNICON_ERROR_INVALID_ARGUMENT, "positives.kind");
    POSITIVES(positives.reserved = 3, UNICON_ERROR_UNSUPPORTED, "positives");
    POSITIVES((positives.kind = UNICON_POSITIVES_GROUPS, positives.x_groups = ids), UNICON_ERROR_INVALID_ARGUMENT, "positives.y_groups");
    POSITIVES((positives.kind = UNICON_POSITIVES_CSR, positives.indptr = indptr, positives.indices = indices), UNICON_ERROR_INVALID_ARGUMENT, "positives.nnz");
    POSITIVES((positives.kind = UNICON_POSITIVES_CSR, positives.indptr = indptr, positives.nnz = N), UNICON_ERROR_INVALID_ARGUMENT, "positives.indices");
    POSITIVES((positives.kind = UNICON_POSITIVES_CSR, positives.indptr = indptr, positives.indices = indices, positives.nnz = N - 1), UNICON_ERROR_INVALID_ARGUMENT, "indptr");
    indices[3] = N;
    POSITIVES((positives.kind = UNICON_POSITIVES_CSR, positives.indptr = indptr, positives.indices = indices, positives.nnz = N), UNICON_ERROR_INVALID_ARGUMENT, "3");
    indices[3] = -1;
    POSITIVES((positives.kind = UNICON_POSITIVES_CSR, positives.indptr = indptr, positives.indices = indices, positives.nnz = N), UNICON_ERROR_INVALID_ARGUMENT, "3");
    indices[3] = 3;
    indptr[2] = 9;
    POSITIVES((positives.kind = UNICON_POSITIVES_CSR, positives.indptr = indptr, positives.indices = indices, positives.nnz = N), UNICON_ERROR_INVALID_ARGUMENT, "indptr");
    indptr[2] = -9;
    POSITIVES((positives.kind = UNICON_POSITIVES_CSR, positives.indptr = indptr, positives.indices = indices, positives.nnz = N), UNICON_ERROR_INVALID_ARGUMENT, "indptr");

#define CONTEXT(set, status, expected)                                                                                \
    do {                                                                                                              \
        OK(NULL, unicon_context_options_init(&co, sizeof co));                                                        \
        set;                                                                                                          \
        EXPECT(NULL, unicon_context_create(&co, &ctx), status, expected);                                             \
    } while (0)
    OK(NULL, unicon_communicator_init(&communicator, sizeof communicator));
    communicator.size = 0;
    CONTEXT(co.device_type = 77, UNICON_ERROR_INVALID_ARGUMENT, "options.device_type");
    CONTEXT(co.device_id = 1, UNICON_ERROR_INVALID_ARGUMENT, "options.device_id");
    CONTEXT(co.stream = &co, UNICON_ERROR_INVALID_ARGUMENT, "options.stream");
    CONTEXT(co.n_threads = -1, UNICON_ERROR_INVALID_ARGUMENT, "options.n_threads");
    CONTEXT(co.n_threads = 5000, UNICON_ERROR_INVALID_ARGUMENT, "options.n_threads");
    CONTEXT(co.precision = 9, UNICON_ERROR_INVALID_ARGUMENT, "options.precision");
    CONTEXT(co.precision = UNICON_F64, UNICON_ERROR_INVALID_ARGUMENT, "options.precision");
    CONTEXT(co.precision = UNICON_F16, UNICON_ERROR_UNSUPPORTED, "options.precision");
    CONTEXT(co.allocator = &allocator, UNICON_ERROR_INVALID_ARGUMENT, "allocator");
    CONTEXT(co.communicator = &communicator, UNICON_ERROR_INVALID_ARGUMENT, "communicator.size");
    communicator.size = 2;
    communicator.rank = 2;
    CONTEXT(co.communicator = &communicator, UNICON_ERROR_INVALID_ARGUMENT, "communicator.rank");
    communicator.rank = 1;
    CONTEXT(co.communicator = &communicator, UNICON_ERROR_INVALID_ARGUMENT, "communicator");
    CHECK(!ctx);
    EXPECT(NULL, unicon_communicator_nccl(&communicator, &communicator), UNICON_ERROR_UNSUPPORTED, "NCCL");
    EXPECT(NULL, unicon_device_count(5, &i), UNICON_ERROR_INVALID_ARGUMENT, "device_type");
}

static void files(const char *directory)
{
    char path[1024];
    FILE *file;
    unicon_model_t *m = NO_MODEL;
    EXPECT(context, unicon_model_load(context, "/nonexistent/model", &m), UNICON_ERROR_IO, "/nonexistent/model");
    EXPECT(context, unicon_model_load(context, "\xff\xfe", &m), UNICON_ERROR_INVALID_ARGUMENT, "path");
    EXPECT(context, unicon_model_save(context, model, "/nonexistent/model"), UNICON_ERROR_IO, "/nonexistent");
    snprintf(path, sizeof path, "%s/not-a-model", directory);
    file = fopen(path, "w");
    fputs("not a model at all", file);
    fclose(file);
    EXPECT(context, unicon_model_load(context, path, &m), UNICON_ERROR_BAD_FILE, "not-a-model");
    CHECK(m == NO_MODEL);
}

static void texts(void)
{
    char buffer[8];
    size_t length;
    unicon_weights_t *w = NULL;
    EXPECT(context, unicon_weights_create(context, NULL, PAIRS(NULL, &zym, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "zx: expected a matrix, got NULL");
    length = unicon_last_error(context, NULL, 0);
    CHECK(length == strlen("zx: expected a matrix, got NULL"));
    memset(buffer, 'x', sizeof buffer);
    CHECK(unicon_last_error(context, buffer, 5) == length && memcmp(buffer, "zx: \0xxx", 8) == 0);
    CHECK(unicon_last_error(context, buffer, 1) == length && buffer[0] == 0);
    CHECK(unicon_last_error(context, NULL, 100) == length);
}

static int32_t refuse(const unicon_progress_t *progress, void *user)
{
    (void)progress;
    return --*(int *)user < 0 ? -7 : 0;
}

static int32_t call_again(const unicon_progress_t *progress, void *user)
{
    double value;
    (void)progress;
    *(unicon_status_t *)user = unicon_contrastive_grad(context, NULL, PAIRS(&zxm, &zym, NULL), &value, NULL, NULL);
    return 0;
}

static void callbacks(void)
{
    unicon_fit_options_t options;
    told_t info;
    unicon_model_t *m = NO_MODEL;
    unicon_status_t inner = -1;
    int after, cancelled = 0;
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    options.r = R;
    options.progress = refuse;
    for (after = 0; after < 100; after++) { /* cancelled at every point where it can be */
        int left = after;
        unicon_status_t status;
        options.progress_user = &left;
        status = fit_told(context, &options, PAIRS(&xm, &ym, NULL), &m, &info);
        if (status == UNICON_OK)
            break;
        cancelled++;
        CHECK(status == UNICON_ERROR_CANCELLED && m == NO_MODEL && info.outcome == UNICON_OUTCOME_CANCELLED);
        CHECK(left == -1); /* no further callback after the one that cancelled */
    }
    CHECK(cancelled > 4 && after < 100 && info.outcome == UNICON_OUTCOME_COMPLETED);
    unicon_model_destroy(m);
    options.progress = call_again;
    options.progress_user = &inner;
    OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &m, NULL));
    CHECK(inner == UNICON_ERROR_BUSY);
    unicon_model_destroy(m);
}

int main(int argc, char **argv)
{
    unicon_matrix_t f1, f2;
    static float f[R * D1];
    int i;
    if (argc != 2)
        return 2;
    make_pairs(x, y, N, D1, D2, R, 1);
    make_unit(zx, N, R, 2);
    make_unit(zy, N, R, 3);
    for (i = 0; i < R * D1; i++)
        f[i] = x[i];
    for (i = 0; i < N * N; i++)
        out[i] = -77;
    for (i = 0; i < N * R; i++)
        dz[i] = -77;
    xm = unicon_matrix_f32(x, N, D1);
    ym = unicon_matrix_f32(y, N, D2);
    zxm = unicon_matrix_f64(zx, N, R);
    zym = unicon_matrix_f64(zy, N, R);
    zout = unicon_matrix_f64(dz, N, R);
    f1 = unicon_matrix_f32(f, R, D1);
    f2 = unicon_matrix_f32(f, R, D2);
    OK(NULL, unicon_context_create(NULL, &context));
    OK(context, unicon_model_create_linear(context, &f1, &f2, &model));
    OK(context, unicon_weights_create(context, NULL, PAIRS(&zxm, &zym, NULL), &weights));
    nulls();
    matrices();
    structs();
    files(argv[1]);
    texts();
    callbacks();
    for (i = 0; i < N * N; i++)
        CHECK(out[i] == -77);
    for (i = 0; i < N * R; i++)
        CHECK(dz[i] == -77);
    unicon_weights_destroy(weights);
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    return checks_done("misuse");
}
