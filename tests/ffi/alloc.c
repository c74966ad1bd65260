/* An allocator that fails at its k-th call, for every k: each failure is a status, nothing leaks, nothing is written. */
#include "check.h"

enum { N = 40, D1 = 6, D2 = 5, R = 3 };

static float x[N * D1], y[N * D2];

typedef struct counted {
    long left, calls, live;
    size_t bytes;
} counted;

static void *counted_allocate(void *user, size_t size, size_t alignment)
{
    counted *c = user;
    void *p = NULL;
    c->calls++;
    if (c->left-- <= 0 || posix_memalign(&p, alignment, size))
        return NULL;
    c->live++;
    c->bytes += size;
    memset(p, 0xa5, size);
    return p;
}

static void counted_deallocate(void *user, void *data, size_t size, size_t alignment)
{
    counted *c = user;
    CHECK(data && size > 0 && alignment >= 16);
    c->live--;
    c->bytes -= size;
    free(data);
}

/* Every kind of call; the first failure ends it. Outputs are only written by calls that succeed. */
static unicon_status_t everything(unicon_context_t *context)
{
    static float zx[N * R], zy[N * R], s[N * N], scores[N * 2], c[D1 * D2];
    static int64_t indices[N * 2];
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zxm = unicon_matrix_f32(zx, N, R),
                    zym = unicon_matrix_f32(zy, N, R), sm = unicon_matrix_f32(s, N, N), cm = unicon_matrix_f32(c, D1, D2),
                    scorem = unicon_matrix_f32(scores, N, 2);
    unicon_fit_options_t options;
    unicon_kernel_t kernel;
    unicon_model_t *model = NULL, *other = NULL;
    unicon_damping_t damping;
    unicon_refine_t refine;
    unicon_best_options_t best;
    unicon_weights_t *w = NULL, *dense = NULL;
    static const float eye[4] = {1, 0, 0, 1};
    unicon_matrix_t eyem = unicon_matrix_f32(eye, 2, 2);
    unicon_partial_fit_t *stream = NULL;
    unicon_pairs_t held = unicon_pairs(&xm, &ym, NULL);
    double loss = -1, recall[2];
    int64_t one = 1;
    unicon_status_t status;
    int i;
    unicon_fit_options_init(&options, sizeof options);
    unicon_kernel_init(&kernel, sizeof kernel, UNICON_KERNEL_RBF);
    options.r = R;
    options.whiten = 0.1;
    for (i = 0; i < N * R; i++)
        zx[i] = zy[i] = -77;
#define STEP(call)                                                                                                    \
    do {                                                                                                              \
        if ((status = (call)) != UNICON_OK)                                                                           \
            goto done;                                                                                                \
    } while (0)
    status = unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL);
    CHECK((status == UNICON_OK) == (model != NULL));
    if (status != UNICON_OK)
        goto done;
    status = unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &zxm);
    CHECK((status == UNICON_OK) == (zx[N * R - 1] != -77 && zx[0] != -77));
    if (status != UNICON_OK)
        goto done;
    STEP(unicon_model_encode(context, model, UNICON_SIDE_Y, &ym, &zym));
    STEP(unicon_model_similarity(context, model, &xm, &ym, &sm));
    STEP(unicon_weights_create(context, NULL, PAIRS(&zxm, &zym, NULL), &w));
    STEP(unicon_weights_dense(w, &sm));
    STEP(unicon_weights_apply(w, &ym, &(unicon_matrix_t){s, N, D2, D2, 1, UNICON_F32, UNICON_DEVICE_CPU, 0, 0}));
    STEP(unicon_weights_cross(w, &xm, &ym, &cm));
    status = unicon_contrastive_grad(context, NULL, PAIRS(&zxm, &zym, NULL), &loss, NULL, &(unicon_matrix_t){s, N, R, R, 1, UNICON_F32, UNICON_DEVICE_CPU, 0, 0});
    CHECK((status == UNICON_OK) == (loss != -1));
    if (status != UNICON_OK)
        goto done;
    STEP(unicon_search(context, &zxm, &zym, 2, &scorem, indices));
    STEP(unicon_recall(context, PAIRS(&zxm, &zym, NULL), UNICON_TIES_LOWER_INDEX, &one, 1, recall));
    STEP(unicon_gram(context, &kernel, &xm, &xm, &sm));
    options.whiten = -1;
    options.batch_size = 20;
    options.validation = &held;
    STEP(unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &other, NULL));
    options.validation = NULL;
    unicon_model_destroy(other);
    other = NULL;
    options.batch_size = 0;
    for (i = UNICON_ACCUMULATE_MOMENTS; i <= UNICON_ACCUMULATE_SOLUTIONS; i++) {
        options.whiten = i == UNICON_ACCUMULATE_MOMENTS ? 0.1 : -1;
        options.validation = i == UNICON_ACCUMULATE_MOMENTS ? NULL : &held;
        STEP(unicon_partial_fit_create(context, &options, i, D1, D2, UNICON_F32, &stream));
        STEP(unicon_partial_fit_add(stream, PAIRS(&xm, &ym, NULL), &loss));
        STEP(unicon_partial_fit_finish(stream, &other));
        unicon_model_destroy(other);
        other = NULL;
        unicon_partial_fit_destroy(stream);
        stream = NULL;
    }
    unicon_damping_init(&damping, sizeof damping);
    unicon_refine_init(&refine, sizeof refine);
    refine.max_steps = 2;
    options.whiten = -1;
    options.damping = &damping;
    options.refine = &refine;
    options.validation = &held;
    STEP(unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &other, NULL));
    options.validation = NULL;
    unicon_model_destroy(other);
    other = NULL;
    options.damping = NULL;
    options.refine = NULL;
    unicon_best_options_init(&best, sizeof best);
    best.r = R;
    best.refine = &refine;
    best.n_negatives = 8;
    STEP(unicon_fit_best(context, &best, PAIRS(&xm, &ym, NULL), &other, NULL));
    unicon_model_destroy(other);
    other = NULL;
    STEP(unicon_weights_create_similarity(context, NULL, &eyem, NULL, &dense));
    options.kernel = &kernel;
    options.n_landmarks = 12;
    STEP(unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &other, NULL));
done:
    unicon_model_destroy(other);
    unicon_model_destroy(model);
    unicon_weights_destroy(w);
    unicon_weights_destroy(dense);
    unicon_partial_fit_destroy(stream);
    return status;
}

int main(void)
{
    unicon_context_options_t options;
    unicon_context_t *context = NULL;
    unicon_status_t status = UNICON_OK;
    counted state = {0, 0, 0, 0};
    unicon_allocator_t allocator = {counted_allocate, counted_deallocate, &state};
    long k;
    char text[256];
    make_pairs(x, y, N, D1, D2, R, 4);
    OK(NULL, unicon_context_options_init(&options, sizeof options));
    options.allocator = &allocator;
    options.n_threads = 2;
    OK(NULL, unicon_context_create(&options, &context));
    for (k = 0; k < 4000; k++) {
        state.left = k;
        state.calls = 0;
        status = everything(context);
        CHECK(state.live == 0 && state.bytes == 0);
        if (status == UNICON_OK)
            break;
        CHECK(status == UNICON_ERROR_OUT_OF_MEMORY && state.calls == k + 1);
        unicon_last_error(context, text, sizeof text);
        CHECK(strstr(text, "out of memory: a "));
    }
    CHECK(status == UNICON_OK && k == state.calls && k > 40);
    printf("alloc: %ld allocations, each failed once\n", k);
    unicon_context_destroy(context);

    { /* A limit is kept, with the same status, and lifted by another context. */
        uint64_t bytes = 0;
        unicon_fit_options_t fit;
        unicon_model_t *model = NULL;
        unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2);
        OK(NULL, unicon_fit_options_init(&fit, sizeof fit));
        fit.r = R;
        options.allocator = NULL;
        OK(NULL, unicon_context_create(&options, &context));
        OK(context, unicon_fit_workspace(context, &fit, SIZES(N, N, D1, D2, 0, 0, UNICON_F32), &bytes));
        unicon_context_destroy(context);
        options.workspace_limit = bytes;
        OK(NULL, unicon_context_create(&options, &context));
        OK(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL));
        unicon_model_destroy(model);
        unicon_context_destroy(context);
        options.workspace_limit = bytes / 2;
        OK(NULL, unicon_context_create(&options, &context));
        EXPECT(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL), UNICON_ERROR_OUT_OF_MEMORY, "out of memory");
        unicon_context_destroy(context);
    }
    return checks_done("alloc");
}
