/* What unicon.h promises of all calls: errors that are kept, cancellations that are not lost, warnings, no rows, samples. */
#include "check.h"

#include <pthread.h>

enum { N = 60, D1 = 8, D2 = 7, R = 3 };

static float x[N * D1], y[N * D2];

static void errors(unicon_context_t *context)
{
    static double z[4] = {1, 0, 0, 1};
    char text[256];
    unicon_context_t *gone = NULL;
    unicon_weights_t *w = NULL;
    unicon_matrix_t m = unicon_matrix_f64(z, 2, 2), bad = unicon_matrix_f64(z, 1, 2);
    /* A failure of a call on a context is this thread's last one, too. */
    EXPECT(context, unicon_weights_create(context, NULL, PAIRS(&m, NULL, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "zy");
    EXPECT(NULL, UNICON_ERROR_INVALID_ARGUMENT, UNICON_ERROR_INVALID_ARGUMENT, "zy: expected a matrix, got NULL");
    /* So the text of a handle whose context is gone can be read. */
    OK(NULL, unicon_context_create(NULL, &gone));
    OK(gone, unicon_weights_create(gone, NULL, PAIRS(&m, &m, NULL), &w));
    unicon_context_destroy(gone);
    EXPECT(NULL, unicon_weights_apply(w, &bad, &bad), UNICON_ERROR_INVALID_ARGUMENT, "v: expected 2 rows, got 1");
    unicon_weights_destroy(w);
    /* What another call of the thread says later does not change the context's own. */
    unicon_last_error(context, text, sizeof text);
    CHECK(strstr(text, "zy"));
}

/* A thread at its end has no text any more, and that is no reason to end the process. */
static void at_exit(void)
{
    char text[64];
    unicon_context_t *none = NULL;
    unicon_model_t *model = NULL;
    if (unicon_model_load(none, "x", &model) != UNICON_ERROR_INVALID_ARGUMENT)
        abort();
    unicon_last_error(NULL, text, sizeof text);
}

static void *cancels(void *context)
{
    CHECK(unicon_cancel(context) == UNICON_OK);
    return NULL;
}

static void cancellation(unicon_context_t *context)
{
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2);
    unicon_model_t *model = NULL;
    unicon_report_t *report = NULL;
    unicon_fit_options_t options;
    pthread_t thread;
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    options.r = R;
    /* One that comes before the call ends that call, and no other. */
    CHECK(pthread_create(&thread, NULL, cancels, context) == 0);
    pthread_join(thread, NULL);
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, &report), UNICON_ERROR_CANCELLED, "cancelled");
    CHECK(!model && !report);
    OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
    /* One that is taken back ends none. */
    OK(NULL, unicon_cancel(context));
    OK(NULL, unicon_cancel(context));
    OK(NULL, unicon_cancel_clear(context));
    OK(context, unicon_model_save(context, model, "/dev/null"));
    unicon_model_destroy(model);
}

typedef struct heard {
    int count;
    char text[2048];
} heard_t;

static void hear(const char *text, void *user)
{
    heard_t *heard = user;
    heard->count++;
    strncat(heard->text, text, sizeof heard->text - strlen(heard->text) - 1);
    strncat(heard->text, "\n", sizeof heard->text - strlen(heard->text) - 1);
}

static void warnings(void)
{
    enum { TIMES = 5 };
    static float rows[N * D1];
    static heard_t heard;
    int64_t ids[N];
    unicon_context_t *context = NULL;
    unicon_context_options_t options;
    unicon_fit_options_t fit;
    unicon_positives_t positives;
    unicon_model_t *model = NULL;
    unicon_matrix_t xm = unicon_matrix_f32(rows, N, D1), ym = unicon_matrix_f32(y, N, D2);
    int i;
    /* Each row several times, as images with their captions by row; the last is zero. */
    for (i = 0; i < N; i++) {
        memcpy(rows + i * D1, x + i / TIMES * D1, sizeof(float) * D1);
        ids[i] = i / TIMES;
    }
    memset(rows + (N - 1) * D1, 0, sizeof(float) * D1);
    OK(NULL, unicon_context_options_init(&options, sizeof options));
    CHECK(!options.warning && !options.warning_user);
    options.warning = hear;
    options.warning_user = &heard;
    OK(NULL, unicon_context_create(&options, &context));
    OK(NULL, unicon_fit_options_init(&fit, sizeof fit));
    fit.r = R;
    OK(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL));
    unicon_model_destroy(model);
    CHECK(heard.count >= 2);
    CHECK(strstr(heard.text, "x has 13 distinct rows of 60") && strstr(heard.text, "1 of 60 rows of x are all zero"));
    /* Groups that make them match: nothing to say of repeated rows. */
    memset(&heard, 0, sizeof heard);
    OK(NULL, unicon_positives_init(&positives, sizeof positives));
    positives.kind = UNICON_POSITIVES_GROUPS;
    positives.x_groups = positives.y_groups = ids;
    OK(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, &positives), &model, NULL));
    unicon_model_destroy(model);
    CHECK(!strstr(heard.text, "distinct"));
    /* The diagonal that is said is that which is not said. */
    memset(&heard, 0, sizeof heard);
    OK(NULL, unicon_positives_init(&positives, sizeof positives));
    OK(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, &positives), &model, NULL));
    unicon_model_destroy(model);
    CHECK(strstr(heard.text, "x has 13 distinct rows of 60"));
    /* Arrays of another kind than the one that is set are no slip to be silent about. */
    positives.x_groups = ids;
    model = NULL;
    EXPECT(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, &positives), &model, NULL), UNICON_ERROR_INVALID_ARGUMENT,
           "positives.x_groups: expected NULL (or 0) for positives of kind 0, got a value; set positives.kind");
    CHECK(!model);
    unicon_context_destroy(context);
}

/* No rows in, no rows out; whatever else is wrong is still told. */
static void no_rows(unicon_context_t *context)
{
    static float f[R * D1], g[R * D2];
    uint64_t state = 3;
    unicon_model_t *model = NULL;
    unicon_kernel_t kernel;
    unicon_items_t *items = NULL;
    unicon_matrix_t fm = unicon_matrix_f32(f, R, D1), gm = unicon_matrix_f32(g, R, D2), xm = unicon_matrix_f32(x, N, D1),
                    ym = unicon_matrix_f32(y, N, D2), none = unicon_matrix_f32(NULL, 0, D1),
                    out = unicon_matrix_f32(NULL, 0, R), wide = unicon_matrix_f32(NULL, 0, N),
                    three = unicon_matrix_f32(NULL, 0, 3), some = unicon_matrix_f32(f, R, D1);
    int i;
    for (i = 0; i < R * D1; i++)
        f[i] = (float)uniform(&state);
    for (i = 0; i < R * D2; i++)
        g[i] = (float)uniform(&state);
    OK(NULL, unicon_kernel_init(&kernel, sizeof kernel, UNICON_KERNEL_RBF));
    OK(context, unicon_model_create_linear(context, &fm, &gm, &model));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &none, &out));
    OK(context, unicon_model_similarity(context, model, &none, &ym, &wide));
    OK(context, unicon_gram(context, &kernel, &none, &xm, &wide));
    OK(context, unicon_search(context, &none, &xm, 3, &three, NULL));
    OK(context, unicon_search(context, &none, &xm, 3, NULL, NULL));
    OK(context, unicon_items_create(context, &xm, &items));
    OK(context, unicon_items_search(context, items, &none, 3, UNICON_OWN_NONE, &three, NULL));
    EXPECT(context, unicon_items_search(context, items, &none, 3, -7, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "own");
    unicon_items_destroy(items);
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_Y, &none, &out), UNICON_ERROR_INVALID_ARGUMENT, "in: expected 0 x 7");
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &none, &some), UNICON_ERROR_INVALID_ARGUMENT, "out: expected 0 x 3");
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &none, NULL), UNICON_ERROR_INVALID_ARGUMENT, "out");
    EXPECT(context, unicon_search(context, &none, &xm, 0, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "k");
    EXPECT(context, unicon_search(context, &xm, &none, 3, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "items.rows");
    none.dtype = 99;
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &none, &out), UNICON_ERROR_INVALID_ARGUMENT, "in.dtype");
    none.dtype = UNICON_F32;
    none.reserved = 5;
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &none, &out), UNICON_ERROR_UNSUPPORTED, "in.reserved");
    none.reserved = 0;
    none.rows = -1;
    EXPECT(context, unicon_model_encode(context, model, UNICON_SIDE_X, &none, &out), UNICON_ERROR_INVALID_ARGUMENT, "in.rows");
    unicon_model_destroy(model);
}

/* Sampled negatives: near the exact loss and gradient on average, the same for the loss and the weights, drawn anew by the seed. */
static void samples(unicon_context_t *context)
{
    enum { n = 200, r = 6, draws = 40 };
    static double zx[n * r], zy[n * r], dz[n * r], dz_all[n * r], s_ref[n * n], mean[n * r];
    unicon_weights_options_t o;
    unicon_loss_t loss;
    unicon_weights_t *w = NULL;
    unicon_matrix_t xm = unicon_matrix_f64(zx, n, r), ym = unicon_matrix_f64(zy, n, r), gm = unicon_matrix_f64(dz, n, r),
                    am = unicon_matrix_f64(dz_all, n, r);
    double exact, value, first = 0, sum = 0, worst = 0, scale = 0;
    int i, k;
    make_unit(zx, n, r, 11);
    make_unit(zy, n, r, 12);
    exact = clip_reference(zx, zy, n, r, 0.5, s_ref);
    OK(NULL, unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CLIP));
    loss.tau = 0.5;
    OK(NULL, unicon_weights_options_init(&o, sizeof o));
    CHECK(!o.loss && o.n_negatives == 0 && o.seed == 0);
    o.loss = &loss;
    OK(context, unicon_contrastive_grad(context, &o, PAIRS(&xm, &ym, NULL), &value, &am, NULL));
    CHECK(fabs(value - exact) < 1e-13);
    o.n_negatives = 32;
    for (k = 0; k < draws; k++) {
        o.seed = (uint64_t)k;
        OK(context, unicon_contrastive_grad(context, &o, PAIRS(&xm, &ym, NULL), &value, &gm, NULL));
        OK(context, unicon_weights_create(context, &o, PAIRS(&xm, &ym, NULL), &w));
        {
            double again = NAN;
            OK(context, unicon_weights_loss(w, &again, NULL, NULL));
            CHECK(again == value);
        }
        unicon_weights_destroy(w);
        if (k == 0)
            first = value;
        else
            CHECK(value != first);
        CHECK(fabs(value - exact) < 0.1 * exact);
        sum += value / draws;
        for (i = 0; i < n * r; i++)
            mean[i] += dz[i] / draws;
    }
    CHECK(fabs(sum - exact) < 0.01 * exact);
    for (i = 0; i < n * r; i++) {
        worst = fmax(worst, fabs(mean[i] - dz_all[i]));
        scale = fmax(scale, fabs(dz_all[i]));
    }
    CHECK(worst < 0.1 * scale);
    o.n_negatives = -1;
    EXPECT(context, unicon_contrastive_grad(context, &o, PAIRS(&xm, &ym, NULL), &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "options.n_negatives");
}

int main(int argc, char **argv)
{
    unicon_context_t *context = NULL;
    (void)argc, (void)argv;
    atexit(at_exit);
    make_pairs(x, y, N, D1, D2, R, 4);
    OK(NULL, unicon_context_create(NULL, &context));
    errors(context);
    cancellation(context);
    warnings();
    no_rows(context);
    samples(context);
    unicon_context_destroy(context);
    return checks_done("promises");
}
