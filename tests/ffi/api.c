/* Every function of unicon.h on its success path, with results checked against plain formulas in double. */
#include "check.h"

enum { N = 70, D1 = 12, D2 = 9, R = 4 };

static float x[N * D1], y[N * D2];

static int32_t count_calls(const unicon_progress_t *progress, void *user)
{
    CHECK(progress->struct_size == sizeof *progress);
    CHECK(progress->done <= progress->total);
    CHECK(progress->phase >= UNICON_PHASE_FEATURES && progress->phase <= UNICON_PHASE_RETRIEVAL);
    ++*(int *)user;
    return 0;
}

/* Cancels after so many updates or steps. */
static int32_t cancel_late(const unicon_progress_t *progress, void *user)
{
    return progress->phase == UNICON_PHASE_ITERATION && --*(int *)user < 0;
}

static void library(void)
{
    int32_t count = -1;
    CHECK(unicon_abi_version() == UNICON_ABI_VERSION);
    CHECK(strlen(unicon_version()) >= 5);
    CHECK(unicon_version_number() == UNICON_VERSION_NUMBER);
    {
        char text[32];
        snprintf(text, sizeof text, "%d.%d.%d", UNICON_VERSION_MAJOR, UNICON_VERSION_MINOR, UNICON_VERSION_PATCH);
        CHECK(strcmp(text, unicon_version()) == 0);
    }
    CHECK(unicon_capabilities() & UNICON_CAP_CPU);
    CHECK(strcmp(unicon_status_string(UNICON_OK), "ok") == 0);
    CHECK(strcmp(unicon_status_string(99), "unknown status") == 0);
    OK(NULL, unicon_device_count(UNICON_DEVICE_CPU, &count));
    CHECK(count == 1);
    OK(NULL, unicon_device_count(UNICON_DEVICE_CUDA, &count));
    CHECK(count >= 0);
}

/* Clip as functions of one's own, at the temperature that `user` points to. */
static int32_t own_psi(const double *t, double *value, double *derivative, int64_t count, void *user)
{
    double tau = *(const double *)user;
    int64_t k;
    CHECK(count >= 1 && count <= 32768);
    for (k = 0; k < count; k++) {
        value[k] = exp(t[k] / tau);
        derivative[k] = value[k] / tau;
    }
    return 0;
}

static int32_t own_phi(const double *u, double *value, double *derivative, int64_t count, void *user)
{
    double tau = *(const double *)user;
    int64_t k;
    for (k = 0; k < count; k++) {
        value[k] = tau * log(u[k]);
        derivative[k] = tau / u[k];
    }
    return 0;
}

static int32_t no_psi(const double *t, double *value, double *derivative, int64_t count, void *user)
{
    (void)t, (void)value, (void)derivative, (void)count;
    return *(const int32_t *)user;
}

/* Any psi and phi: as clip they give clip's numbers, in one thread at a time and in several; what fails is said. */
static void family(unicon_context_t *context, const char *path)
{
    enum { n = 300, r = 5 };
    static double zx[n * r], zy[n * r], s_ref[n * n], s[n * n], dzx[n * r], dzy[n * r], want[n * r];
    double tau = 0.2, loss_ref, value = 0;
    int32_t code = 17;
    unicon_matrix_t zxm, zym, sm, gx, gy, wm;
    unicon_family_t own;
    unicon_loss_t loss, clip;
    unicon_weights_t *w = NULL;
    unicon_fit_options_t options;
    unicon_model_t *model = NULL, *again = NULL;
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2);
    make_unit(zx, n, r, 5);
    make_unit(zy, n, r, 6);
    zxm = unicon_matrix_f64(zx, n, r), zym = unicon_matrix_f64(zy, n, r), sm = unicon_matrix_f64(s, n, n);
    gx = unicon_matrix_f64(dzx, n, r), gy = unicon_matrix_f64(dzy, n, r), wm = unicon_matrix_f64(want, n, r);
    loss_ref = clip_reference(zx, zy, n, r, tau, s_ref);
    OK(NULL, unicon_family_init(&own, sizeof own));
    CHECK(own.struct_size == sizeof own && !own.name && !own.psi && !own.phi && !own.user && !own.concurrent);
    OK(NULL, unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CUSTOM));
    CHECK(!loss.family);
    EXPECT(context, unicon_weights_create(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "family");
    loss.family = &own;
    EXPECT(context, unicon_weights_create(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "loss.family");
    own.psi = own_psi, own.phi = own_phi, own.user = &tau, own.name = "my clip";
    for (own.concurrent = 0; own.concurrent < 2; own.concurrent++) {
        OK(context, unicon_weights_create(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &w));
        OK(context, unicon_weights_loss(w, &value, NULL, NULL));
        CHECK(fabs(value - loss_ref) < 1e-12);
        OK(context, unicon_weights_dense(w, &sm));
        CHECK(distance(s, s_ref, n * n) < 1e-14);
        unicon_weights_destroy(w);
    }
    own.concurrent = 2;
    EXPECT(context, unicon_weights_create(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &w), UNICON_ERROR_INVALID_ARGUMENT, "concurrent");
    own.concurrent = 0;
    OK(NULL, unicon_loss_init(&clip, sizeof clip, UNICON_LOSS_CLIP));
    clip.tau = tau;
    OK(context, unicon_contrastive_grad(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &value, &gx, &gy));
    OK(context, unicon_contrastive_grad(context, WEIGHTS(&clip), PAIRS(&zxm, &zym, NULL), NULL, &wm, NULL));
    CHECK(fabs(value - loss_ref) < 1e-12 && distance(dzx, want, n * r) < 1e-14);
    clip.family = &own;
    EXPECT(context, unicon_contrastive_grad(context, WEIGHTS(&clip), PAIRS(&zxm, &zym, NULL), &value, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "custom");
    /* A fit records the name, and its model needs no functions. */
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    options.r = R, options.loss = &loss;
    OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
    OK(context, unicon_model_save(context, model, path));
    own.psi = no_psi, own.user = &code;
    OK(context, unicon_model_load(context, path, &again));
    unicon_model_destroy(model);
    unicon_model_destroy(again);
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL), UNICON_ERROR_NUMERICAL,
           "psi of the loss \"my clip\" failed: the function returned 17");
    code = 0; /* Answers nothing, and says that it has. */
    EXPECT(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL), UNICON_ERROR_NUMERICAL,
           "psi of the loss \"my clip\" is NaN at t = 0");
}

/* Ranks among items of which most are equal, against the formulas, and the same items resident. */
static void evaluation(unicon_context_t *context)
{
    enum { n = 12, r = 3, k = 4 };
    static float z[n * r];
    static int64_t groups[n], indices[n * k], resident_indices[n * k];
    float scores[n * k], resident_scores[n * k];
    double recall[2], best[2], low[2], high[2], value;
    const int64_t ks[] = {1, 4};
    int64_t count, tied;
    unicon_positives_t truth;
    unicon_evaluation_options_t e;
    unicon_report_t *report = NULL;
    unicon_items_t *items = NULL;
    unicon_matrix_t zm, sm = unicon_matrix_f32(scores, n, k), rm = unicon_matrix_f32(resident_scores, n, k), one;
    int i, j;
    /* Four equal rows along each axis. */
    for (i = 0; i < n; i++)
        z[i * r + i % r] = 1;
    zm = unicon_matrix_f32(z, n, r);
    OK(NULL, unicon_evaluation_options_init(&e, sizeof e));
    CHECK(e.ties == UNICON_TIES_EXPECTED && e.resamples == 1000 && e.level == 0.95 && !e.exclude_self && !e.ks && !e.n_ks);
    OK(context, unicon_evaluate(context, NULL, PAIRS(&zm, &zm, NULL), &report));
    OK(NULL, unicon_report_series(report, UNICON_REPORT_RECALL_X2Y, NULL, 0, &count));
    CHECK(count == 3);
    unicon_report_destroy(report);
    e.ks = ks, e.n_ks = 2;
    OK(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, NULL), &report));
    for (i = 0; i < 2; i++) {
        int first = i ? UNICON_REPORT_RECALL_Y2X : UNICON_REPORT_RECALL_X2Y,
            ends = i ? UNICON_REPORT_RECALL_Y2X_LOW : UNICON_REPORT_RECALL_X2Y_LOW;
        OK(NULL, unicon_report_series(report, first, recall, 2, &count));
        CHECK(count == 2 && fabs(recall[0] - 0.25) < 1e-12 && fabs(recall[1] - 1) < 1e-12);
        OK(NULL, unicon_report_series(report, ends, low, 2, &count));
        OK(NULL, unicon_report_series(report, ends + 1, high, 2, &count));
        CHECK(low[0] <= 0.25 && 0.25 <= high[0] + 1e-12);
        OK(NULL, unicon_report_integer(report, i ? UNICON_REPORT_TIED_Y2X : UNICON_REPORT_TIED_X2Y, &tied));
        CHECK(tied == n);
    }
    CHECK(fabs(told_real(report, UNICON_REPORT_MATCHING_ACCURACY) - 0.25) < 1e-12);
    CHECK(fabs(told_real(report, UNICON_REPORT_MRR_X2Y) - (1 + 0.5 + 1.0 / 3 + 0.25) / 4) < 1e-12);
    CHECK(told_real(report, UNICON_REPORT_MRR_X2Y_LOW) <= told_real(report, UNICON_REPORT_MRR_X2Y_HIGH));
    CHECK(told_real(report, UNICON_REPORT_MEDIAN_RANK_X2Y) == 2.5 && told_real(report, UNICON_REPORT_MEAN_RANK_Y2X) == 2.5);
    /* No values of a fit, and no keys of another kind or of none. */
    EXPECT(NULL, unicon_report_real(report, UNICON_REPORT_FINAL_LOSS, &value), UNICON_ERROR_NO_VALUE, "an evaluation has no value");
    EXPECT(NULL, unicon_report_integer(report, UNICON_REPORT_OUTCOME, &count), UNICON_ERROR_NO_VALUE, "an evaluation");
    EXPECT(NULL, unicon_report_series(report, UNICON_REPORT_LOSS, low, 2, &count), UNICON_ERROR_NO_VALUE, "an evaluation");
    EXPECT(NULL, unicon_report_real(report, UNICON_REPORT_OUTCOME, &value), UNICON_ERROR_INVALID_ARGUMENT, "key: expected");
    EXPECT(NULL, unicon_report_real(report, 999, &value), UNICON_ERROR_INVALID_ARGUMENT, "reals");
    EXPECT(NULL, unicon_report_integer(report, -1, &count), UNICON_ERROR_INVALID_ARGUMENT, "integers");
    EXPECT(NULL, unicon_report_series(report, UNICON_REPORT_TAU, low, 2, &count), UNICON_ERROR_INVALID_ARGUMENT, "series");
    unicon_report_destroy(report);
    for (i = UNICON_TIES_EXPECTED; i <= UNICON_TIES_PESSIMISTIC; i++) {
        static const double expected[] = {0.25, 0.25, 1, 0};
        e.ties = i;
        e.resamples = 0;
        OK(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, NULL), &report));
        OK(NULL, unicon_report_series(report, UNICON_REPORT_RECALL_X2Y, best, 2, &count));
        CHECK(fabs(best[0] - expected[i]) < 1e-12 && best[1] == 1);
        EXPECT(NULL, unicon_report_series(report, UNICON_REPORT_RECALL_X2Y_LOW, low, 2, &count), UNICON_ERROR_NO_VALUE, "");
        EXPECT(NULL, unicon_report_real(report, UNICON_REPORT_MRR_X2Y_LOW, &value), UNICON_ERROR_NO_VALUE, "");
        unicon_report_destroy(report);
        { /* The short way, by every rule of ties. */
            double both[2];
            OK(context, unicon_recall(context, PAIRS(&zm, &zm, NULL), i, ks, 1, both));
            CHECK(both[0] == best[0] && fabs(both[1] - expected[i]) < 1e-12);
        }
    }
    CHECK(unicon_recall(context, PAIRS(&zm, &zm, NULL), 4, ks, 1, best) == UNICON_ERROR_INVALID_ARGUMENT);
    /* A set against itself: each row finds one of its three twins. */
    OK(NULL, unicon_positives_init(&truth, sizeof truth));
    for (i = 0; i < n; i++)
        groups[i] = i % r;
    truth.kind = UNICON_POSITIVES_GROUPS;
    truth.x_groups = truth.y_groups = groups;
    e.ties = UNICON_TIES_LOWER_INDEX;
    e.exclude_self = 1;
    OK(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, &truth), &report));
    OK(NULL, unicon_report_series(report, UNICON_REPORT_RECALL_X2Y, best, 2, &count));
    CHECK(best[0] == 1 && told_integer(report, UNICON_REPORT_TIED_X2Y) == 0);
    unicon_report_destroy(report);
    report = NULL;
    EXPECT(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, NULL), &report), UNICON_ERROR_INVALID_ARGUMENT, "");
    e.exclude_self = 2;
    EXPECT(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, &truth), &report), UNICON_ERROR_INVALID_ARGUMENT, "exclude_self");
    e.exclude_self = 0;
    e.ties = 4;
    EXPECT(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, &truth), &report), UNICON_ERROR_INVALID_ARGUMENT, "ties");
    e.ties = 0;
    e.resamples = 7;
    EXPECT(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, &truth), &report), UNICON_ERROR_INVALID_ARGUMENT, "resamples");
    e.resamples = 0;
    e.n_ks = 0;
    EXPECT(context, unicon_evaluate(context, &e, PAIRS(&zm, &zm, &truth), &report), UNICON_ERROR_INVALID_ARGUMENT, "ks");
    CHECK(!report);

    OK(context, unicon_search(context, &zm, &zm, k, &sm, indices));
    OK(context, unicon_items_create(context, &zm, &items));
    OK(context, unicon_items_search(context, items, &zm, k, UNICON_OWN_NONE, &rm, resident_indices));
    CHECK(memcmp(scores, resident_scores, sizeof scores) == 0 && memcmp(indices, resident_indices, sizeof indices) == 0);
    for (i = 0; i < n; i++)
        for (j = 0; j < k; j++)
            CHECK(indices[i * k + j] == i % r + r * j);
    one = unicon_matrix_f32(z + 5 * r, 1, r);
    OK(context, unicon_items_search(context, items, &one, k, 5, NULL, indices));
    CHECK(indices[0] == 2 && indices[1] == 8 && indices[2] == 11 && indices[3] == 0);
    OK(context, unicon_items_search(context, items, &one, n, 5, NULL, indices));
    CHECK(indices[n - 2] >= 0 && indices[n - 1] == -1);
    CHECK(unicon_items_search(context, items, &one, k, n, NULL, indices) == UNICON_ERROR_INVALID_ARGUMENT);
    CHECK(unicon_items_search(context, items, &one, k, -2, NULL, indices) == UNICON_ERROR_INVALID_ARGUMENT);
    CHECK(unicon_items_search(context, items, &one, 0, UNICON_OWN_NONE, NULL, indices) == UNICON_ERROR_INVALID_ARGUMENT);
    CHECK(unicon_items_search(context, NULL, &one, k, UNICON_OWN_NONE, NULL, indices) == UNICON_ERROR_INVALID_ARGUMENT);
    one = unicon_matrix_f32(z, 1, r - 1);
    CHECK(unicon_items_search(context, items, &one, k, UNICON_OWN_NONE, NULL, indices) == UNICON_ERROR_INVALID_ARGUMENT);
    z[4] = NAN;
    one = unicon_matrix_f32(z, 2, r);
    CHECK(unicon_items_search(context, items, &one, k, UNICON_OWN_NONE, NULL, indices) == UNICON_ERROR_INVALID_ARGUMENT);
    unicon_items_destroy(items);
    CHECK(unicon_items_create(context, &zm, &items) == UNICON_ERROR_INVALID_ARGUMENT);
    unicon_items_destroy(NULL);
}

static void weights(unicon_context_t *context)
{
    enum { n = 33, r = 5, c = 3 };
    static double zx[n * r], zy[n * r], s[n * n], s_ref[n * n], v[n * c], out[n * c], ref[n * c], cross[r * c],
        cross_ref[r * c], gx[n * r], gy[n * r], ref_g[n * r];
    double value = 0, loss_ref, grad_value = 0;
    int64_t rows = -1, cols = -1;
    uint64_t state = 5, bytes = 0;
    unicon_loss_t loss;
    unicon_weights_t *w = NULL;
    unicon_matrix_t zxm = unicon_matrix_f64(zx, n, r), zym = unicon_matrix_f64(zy, n, r), m, o, p;
    int i, j, k;
    make_unit(zx, n, r, 1);
    make_unit(zy, n, r, 2);
    for (i = 0; i < n * c; i++)
        v[i] = uniform(&state);
    loss_ref = clip_reference(zx, zy, n, r, 0.1, s_ref);

    OK(NULL, unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CLIP));
    loss.tau = 0.1;
    OK(context, unicon_weights_workspace(context, n, n, r, UNICON_F64, &bytes));
    CHECK(bytes >= 2u * n * r * sizeof(double));
    OK(context, unicon_weights_create(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &w));
    OK(context, unicon_weights_loss(w, &value, NULL, NULL));
    CHECK(fabs(value - loss_ref) < 1e-13);
    OK(context, unicon_weights_unmatched(w, &rows, &cols));
    CHECK(rows == 0 && cols == 0);
    OK(context, unicon_weights_unmatched(w, NULL, NULL));
    m = unicon_matrix_f64(s, n, n);
    OK(context, unicon_weights_dense(w, &m));
    CHECK(distance(s, s_ref, n * n) < 1e-14);
    { /* The same from explicit similarities. */
        static double cosines[n * n], again[n * n];
        double parts[3];
        unicon_matrix_t cm = unicon_matrix_f64(cosines, n, n), am = unicon_matrix_f64(again, n, n);
        unicon_weights_t *given = NULL;
        for (i = 0; i < n; i++)
            for (j = 0; j < n; j++)
                for (k = 0; k < r; k++)
                    cosines[i * n + j] += zx[i * r + k] * zy[j * r + k];
        OK(context, unicon_weights_create_similarity(context, WEIGHTS(&loss), &cm, NULL, &given));
        OK(context, unicon_weights_loss(given, parts, parts + 1, parts + 2));
        CHECK(fabs(parts[0] - loss_ref) < 1e-13 && fabs(parts[1] + parts[2] - loss_ref) < 1e-13);
        OK(context, unicon_weights_dense(given, &am));
        CHECK(distance(again, s_ref, n * n) < 1e-14);
        unicon_weights_destroy(given);
    }

    m = unicon_matrix_f64(v, n, c);
    o = unicon_matrix_f64(out, n, c);
    OK(context, unicon_weights_apply(w, &m, &o));
    for (i = 0; i < n; i++)
        for (k = 0; k < c; k++)
            for (ref[i * c + k] = 0, j = 0; j < n; j++)
                ref[i * c + k] += s_ref[i * n + j] * v[j * c + k];
    CHECK(distance(out, ref, n * c) < 1e-14);
    OK(context, unicon_weights_apply_transpose(w, &m, &o));
    for (i = 0; i < n; i++)
        for (k = 0; k < c; k++)
            for (ref[i * c + k] = 0, j = 0; j < n; j++)
                ref[i * c + k] += s_ref[j * n + i] * v[j * c + k];
    CHECK(distance(out, ref, n * c) < 1e-14);
    p = unicon_matrix_f64(cross, r, c);
    OK(context, unicon_weights_cross(w, &zxm, &m, &p));
    for (i = 0; i < r; i++)
        for (k = 0; k < c; k++) {
            cross_ref[i * c + k] = 0;
            for (j = 0; j < n; j++) {
                double sv = 0;
                int l;
                for (l = 0; l < n; l++)
                    sv += s_ref[j * n + l] * v[l * c + k];
                cross_ref[i * c + k] += zx[j * r + i] * sv;
            }
        }
    CHECK(distance(cross, cross_ref, r * c) < 1e-13);

    o = unicon_matrix_f64(gx, n, r);
    p = unicon_matrix_f64(gy, n, r);
    OK(context, unicon_contrastive_grad(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &grad_value, &o, &p));
    CHECK(fabs(grad_value - loss_ref) < 1e-13);
    for (i = 0; i < n; i++)
        for (k = 0; k < r; k++)
            for (ref_g[i * r + k] = 0, j = 0; j < n; j++)
                ref_g[i * r + k] -= s_ref[i * n + j] * zy[j * r + k];
    CHECK(distance(gx, ref_g, n * r) < 1e-13);
    for (i = 0; i < n; i++)
        for (k = 0; k < r; k++)
            for (ref_g[i * r + k] = 0, j = 0; j < n; j++)
                ref_g[i * r + k] -= s_ref[j * n + i] * zx[j * r + k];
    CHECK(distance(gy, ref_g, n * r) < 1e-13);
    OK(context, unicon_contrastive_grad(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), NULL, NULL, &p));
    OK(context, unicon_contrastive_grad(context, NULL, PAIRS(&zxm, &zym, NULL), &grad_value, NULL, NULL));
    unicon_weights_destroy(w);

    { /* Every way of saying the same relation gives the same loss. */
        int64_t ids[n], indptr[n + 1], indices[n];
        unicon_positives_t positives;
        double a, b;
        for (i = 0; i < n; i++) {
            ids[i] = 1000 - i;
            indptr[i] = indices[i] = i;
        }
        indptr[n] = n;
        OK(NULL, unicon_positives_init(&positives, sizeof positives));
        positives.kind = UNICON_POSITIVES_GROUPS;
        positives.x_groups = positives.y_groups = ids;
        OK(context, unicon_contrastive_grad(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, &positives), &a, NULL, NULL));
        OK(NULL, unicon_positives_init(&positives, sizeof positives));
        positives.kind = UNICON_POSITIVES_CSR;
        positives.indptr = indptr;
        positives.indices = indices;
        positives.nnz = n;
        OK(context, unicon_contrastive_grad(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, &positives), &b, NULL, NULL));
        CHECK(fabs(a - loss_ref) < 1e-13 && fabs(b - loss_ref) < 1e-13);
    }
    for (i = UNICON_LOSS_CLIP; i <= UNICON_LOSS_TRIPLET_SMOOTH; i++) {
        OK(NULL, unicon_loss_init(&loss, sizeof loss, i));
        OK(context, unicon_contrastive_grad(context, WEIGHTS(&loss), PAIRS(&zxm, &zym, NULL), &value, &o, &p));
        CHECK(isfinite(value));
    }
}

static void layouts(unicon_context_t *context)
{
    /* The same features by rows, by columns, with padding, and in half precision, give the same embeddings. */
    static float padded[N * (D1 + 3)], by_columns[D1 * N], a[N * R], b[R * N];
    static uint16_t half[N * R], brain[N * R];
    float f1[R * D1], f2[R * D2];
    uint64_t state = 9;
    unicon_matrix_t m = unicon_matrix_f32(f1, R, D1), q = unicon_matrix_f32(f2, R, D2), in = unicon_matrix_f32(x, N, D1),
                    out = unicon_matrix_f32(a, N, R);
    unicon_model_t *model = NULL;
    unicon_model_description_t d;
    int i, j;
    for (i = 0; i < R * D1; i++)
        f1[i] = (float)uniform(&state);
    for (i = 0; i < R * D2; i++)
        f2[i] = (float)uniform(&state);
    OK(context, unicon_model_create_linear(context, &m, &q, &model));
    d.struct_size = sizeof d;
    OK(NULL, unicon_model_describe(model, &d));
    CHECK(d.d1 == D1 && d.d2 == D2 && d.r == R && d.members == 1 && d.kernel_x == UNICON_KERNEL_NONE && d.kernel_y == UNICON_KERNEL_NONE);
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &in, &out));
    for (i = 0; i < N; i++)
        for (j = 0; j < D1; j++)
            padded[i * (D1 + 3) + j] = by_columns[j * N + i] = x[i * D1 + j];
    in = unicon_matrix_f32(padded, N, D1);
    in.row_stride = D1 + 3;
    out = unicon_matrix_f32(b, N, R);
    out.row_stride = 1;
    out.col_stride = N;
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &in, &out));
    for (i = 0; i < N; i++)
        for (j = 0; j < R; j++)
            CHECK(a[i * R + j] == b[j * N + i]);
    in = unicon_matrix_f32(by_columns, N, D1);
    in.row_stride = 1;
    in.col_stride = N;
    out = unicon_matrix_f32(b, N, R);
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &in, &out));
    CHECK(memcmp(a, b, sizeof a) == 0);
    out = unicon_matrix_host(half, N, R, UNICON_F16);
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &in, &out));
    out = unicon_matrix_host(brain, N, R, UNICON_BF16);
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &in, &out));
    for (i = 0; i < N * R; i++) {
        uint32_t bits = (uint32_t)brain[i] << 16;
        float wide;
        memcpy(&wide, &bits, sizeof wide);
        CHECK(fabsf(wide - a[i]) <= fabsf(a[i]) / 256);
    }
    { /* A half input: encode the half embeddings with the identity and compare. */
        float eye[R * R] = {0};
        unicon_matrix_t e = unicon_matrix_f32(eye, R, R);
        unicon_model_t *identity = NULL;
        for (i = 0; i < R; i++)
            eye[i * R + i] = 1;
        OK(context, unicon_model_create_linear(context, &e, &e, &identity));
        in = unicon_matrix_host(half, N, R, UNICON_F16);
        out = unicon_matrix_f32(b, N, R);
        OK(context, unicon_model_encode(context, identity, UNICON_SIDE_Y, &in, &out));
        for (i = 0; i < N * R; i++)
            CHECK(fabsf(a[i] - b[i]) < 1e-3f);
        unicon_model_destroy(identity);
    }
    unicon_model_destroy(model);
}

static void fit(unicon_context_t *context, const char *path)
{
    static float zx[N * R], zy[N * R], zx2[N * R], s[N * N], f[R * D1];
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zxm = unicon_matrix_f32(zx, N, R),
                    zym = unicon_matrix_f32(zy, N, R), z2m = unicon_matrix_f32(zx2, N, R), sm = unicon_matrix_f32(s, N, N),
                    fm = unicon_matrix_f32(f, R, D1);
    unicon_fit_options_t options;
    told_t info;
    unicon_loss_t loss;
    unicon_kernel_t kernel;
    unicon_model_t *model = NULL, *loaded = NULL, *second = NULL;
    unicon_pairs_t held = unicon_pairs(&xm, &ym, NULL);
    uint64_t bytes = 0;
    int calls = 0, i, j, k;

    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    OK(NULL, unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CLIP));
    loss.tau = 0.2;
    options.r = R;
    options.loss = &loss;
    options.whiten = 0.01;
    options.n_iters = 3;
    options.progress = count_calls;
    options.progress_user = &calls;
    OK(context, unicon_fit_workspace(context, &options, SIZES(N, N, D1, D2, 0, 0, UNICON_F32), &bytes));
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    CHECK(calls > 3);
    CHECK(info.n_iters == 3 && info.n_loss == 3 && info.n_change == 2 && info.outcome == UNICON_OUTCOME_COMPLETED);
    CHECK(info.workspace_bytes == (int64_t)bytes && info.peak_bytes > 0 && info.peak_bytes <= info.workspace_bytes);
    CHECK(info.final_loss < info.loss[0] && info.loss[0] > 0);
    CHECK(info.seconds > 0 && info.n_singular_values >= R);
    for (i = 1; i < R; i++)
        CHECK(info.singular_values[i] <= info.singular_values[i - 1]);

    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &zxm));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_Y, &ym, &zym));
    OK(context, unicon_model_similarity(context, model, &xm, &ym, &sm));
    for (i = 0; i < N; i++)
        for (j = 0; j < N; j++) {
            double dot = 0;
            for (k = 0; k < R; k++)
                dot += (double)zx[i * R + k] * zy[j * R + k];
            CHECK(fabs(dot - s[i * N + j]) < 1e-5);
        }
    { /* Search and recall against the similarities. */
        static float scores[N * 3];
        static int64_t indices[N * 3], wide[2 * (N + 5)];
        int64_t ks[2] = {1, 5};
        double recall[4];
        int hits = 0;
        unicon_matrix_t score = unicon_matrix_f32(scores, N, 3), two = unicon_matrix_f32(zx, 2, R);
        OK(context, unicon_search(context, &zxm, &zym, 3, &score, indices));
        for (i = 0; i < N; i++) {
            int best = 0;
            for (j = 1; j < N; j++)
                if (s[i * N + j] > s[i * N + best])
                    best = j;
            CHECK(fabsf(s[i * N + indices[i * 3]] - s[i * N + best]) < 1e-5f);
            CHECK(scores[i * 3] >= scores[i * 3 + 1] && scores[i * 3 + 1] >= scores[i * 3 + 2]);
            hits += indices[i * 3] == i;
        }
        OK(context, unicon_recall(context, PAIRS(&zxm, &zym, NULL), UNICON_TIES_LOWER_INDEX, ks, 2, recall));
        CHECK(fabs(recall[0] - (double)hits / N) < 1e-12);
        CHECK(recall[0] <= recall[1] && recall[2] <= recall[3] && recall[0] > 0.8);
        OK(context, unicon_search(context, &two, &zym, N + 5, NULL, wide));
        CHECK(wide[N - 1] >= 0 && wide[N] == -1 && wide[2 * (N + 5) - 1] == -1);
    }
    OK(context, unicon_model_encoder(context, model, UNICON_SIDE_X, &fm));
    for (i = 0; i < N; i++) {
        double e[R], norm = 0;
        for (k = 0; k < R; k++) {
            for (e[k] = 0, j = 0; j < D1; j++)
                e[k] += (double)f[k * D1 + j] * x[i * D1 + j];
            norm += e[k] * e[k];
        }
        for (k = 0; k < R; k++)
            CHECK(fabs(e[k] / sqrt(norm) - zx[i * R + k]) < 1e-4);
    }
    OK(context, unicon_model_save(context, model, path));
    OK(context, unicon_model_load(context, path, &loaded));
    OK(context, unicon_model_encode(context, loaded, UNICON_SIDE_X, &xm, &z2m));
    CHECK(memcmp(zx, zx2, sizeof zx) == 0);
    unicon_model_destroy(loaded);

    /* A warm start continues where the first fit ended: one more update equals two from the beginning. */
    options.whiten = UNICON_WHITEN_NONE;
    options.progress = NULL;
    options.n_iters = 1;
    unicon_model_destroy(model);
    OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
    options.warm_start = model;
    OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &second, NULL));
    options.warm_start = NULL;
    OK(context, unicon_model_encode(context, second, UNICON_SIDE_X, &xm, &zxm));
    unicon_model_destroy(second);
    unicon_model_destroy(model);
    options.n_iters = 2;
    OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &z2m));
    for (i = 0; i < N * R; i++)
        CHECK(fabsf(fabsf(zx[i]) - fabsf(zx2[i])) < 2e-3f);
    unicon_model_destroy(model);

    /* Batches with validation, sampled negatives, the other choices, the preset. */
    options.batch_size = 20;
    options.ridge = 0.1;
    options.scale_inputs = 1;
    options.factorization = UNICON_FACTORIZATION_ORTHONORMAL;
    options.svd = UNICON_SVD_RANDOMIZED;
    options.validation = &held;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    unicon_model_destroy(model);
    OK(NULL, unicon_fit_options_preset(&options, UNICON_PRESET_PAPER));
    CHECK(options.init == UNICON_INIT_RANDOM && options.r == R && options.loss == &loss);
    CHECK(options.batch_size == 30 && options.n_iters == 1 && options.cos_clamp == 1e-5);
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    CHECK(info.rows_dropped == N % 30);
    unicon_model_destroy(model);
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    options.r = R;
    options.n_negatives = 16;
    options.growth = 2;
    options.exact_last = 1;
    options.seed = 3;
    options.factorization = UNICON_FACTORIZATION_POWER;
    options.power = 1;
    OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
    unicon_model_destroy(model);

    /* Kernels: exact, drawn landmarks, given landmarks, in batches, from a given similarity. */
    for (i = UNICON_KERNEL_LINEAR; i <= UNICON_KERNEL_MATERN32; i++) {
        static float gram[N * N];
        unicon_matrix_t g = unicon_matrix_f32(gram, N, N);
        OK(NULL, unicon_kernel_init(&kernel, sizeof kernel, i));
        OK(context, unicon_gram(context, &kernel, &xm, &xm, &g));
        for (j = 0; j < N; j++)
            for (k = 0; k < N; k++)
                CHECK(fabsf(gram[j * N + k] - gram[k * N + j]) < 1e-5f);
        OK(NULL, unicon_fit_options_init(&options, sizeof options));
        options.r = R;
        options.kernel = &kernel;
        options.n_landmarks = UNICON_LANDMARKS_ALL;
        OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
        unicon_model_destroy(model);
    }
    { /* The values of a kernel in place of features give what the kernel gives. */
        static double gx[N * N], gy[N * N], wide_x[N * D1], wide_y[N * D2], built_in[N * N], given[N * N];
        unicon_matrix_t gxm = unicon_matrix_f64(gx, N, N), gym = unicon_matrix_f64(gy, N, N), bm = unicon_matrix_f64(built_in, N, N),
                        vm = unicon_matrix_f64(given, N, N), wxm = unicon_matrix_f64(wide_x, N, D1), wym = unicon_matrix_f64(wide_y, N, D2);
        unicon_kernel_t precomputed;
        unicon_model_t *other = NULL;
        for (j = 0; j < N * D1; j++)
            wide_x[j] = x[j];
        for (j = 0; j < N * D2; j++)
            wide_y[j] = y[j];
        OK(NULL, unicon_kernel_init(&kernel, sizeof kernel, UNICON_KERNEL_ANGULAR));
        OK(NULL, unicon_kernel_init(&precomputed, sizeof precomputed, UNICON_KERNEL_PRECOMPUTED));
        OK(context, unicon_gram(context, &kernel, &wxm, &wxm, &gxm));
        OK(context, unicon_gram(context, &kernel, &wym, &wym, &gym));
        OK(NULL, unicon_fit_options_init(&options, sizeof options));
        options.r = R;
        options.center = UNICON_CENTER_OFF;
        options.n_landmarks = UNICON_LANDMARKS_ALL;
        options.kernel = &kernel;
        OK(context, unicon_fit(context, &options, PAIRS(&wxm, &wym, NULL), &model, NULL));
        options.kernel = &precomputed;
        OK(context, unicon_fit(context, &options, PAIRS(&gxm, &gym, NULL), &other, NULL));
        OK(context, unicon_model_similarity(context, model, &wxm, &wym, &bm));
        OK(context, unicon_model_similarity(context, other, &gxm, &gym, &vm));
        for (j = 0; j < N * N; j++)
            CHECK(fabs(built_in[j] - given[j]) < 1e-8);
        unicon_model_destroy(model);
        unicon_model_destroy(other);
        CHECK(unicon_fit(context, &options, PAIRS(&wxm, &gym, NULL), &other, NULL) == UNICON_ERROR_INVALID_ARGUMENT);
        CHECK(unicon_gram(context, &precomputed, &wxm, &wxm, &gxm) == UNICON_ERROR_INVALID_ARGUMENT);
        OK(NULL, unicon_kernel_init(&kernel, sizeof kernel, UNICON_KERNEL_MATERN32));
        options.center = UNICON_CENTER_AUTO;
        options.kernel = &kernel;
    }
    {
        int64_t landmarks[10] = {0, 7, 3, 69, 12, 40, 41, 42, 55, 20};
        static double zeros[N * N];
        unicon_matrix_t similarity = unicon_matrix_f64(zeros, N, N);
        unicon_model_description_t d;
        options.n_landmarks = 10;
        OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
        unicon_model_destroy(model);
        options.landmarks = landmarks;
        OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
        unicon_model_destroy(model);
        options.landmarks = NULL;
        options.n_landmarks = UNICON_LANDMARKS_ALL;
        options.init = UNICON_INIT_SIMILARITY;
        options.similarity = &similarity;
        OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
        unicon_model_destroy(model);
        options.init = UNICON_INIT_ZEROS;
        options.similarity = NULL;
        options.n_landmarks = 0; /* of batches: all */
        options.batch_size = 35;
        OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &model, NULL));
        d.struct_size = sizeof d;
        OK(NULL, unicon_model_describe(model, &d));
        CHECK(d.members == 2 && d.r == 2 * R && d.kernel_x == UNICON_KERNEL_MATERN32);
        { /* All columns keep the similarities, half of them keep what the error says. */
            static double whole[N * N], part[N * N];
            unicon_matrix_t to[2] = {unicon_matrix_f64(whole, N, N), unicon_matrix_f64(part, N, N)};
            int64_t columns[2] = {2 * R, R};
            OK(context, unicon_model_similarity(context, model, &xm, &ym, &to[0]));
            for (i = 0; i < 2; i++) {
                unicon_model_t *small = NULL;
                double error = -1, square = 0, off = 0;
                OK(context, unicon_model_compress(context, model, &xm, &ym, columns[i], &error, &small));
                OK(NULL, unicon_model_describe(small, &d));
                CHECK(d.members == 2 && d.r == columns[i]);
                OK(context, unicon_model_similarity(context, small, &xm, &ym, &to[1]));
                for (j = 0; j < N * N; j++) {
                    square += whole[j] * whole[j];
                    off += (whole[j] - part[j]) * (whole[j] - part[j]);
                }
                CHECK(fabs(sqrt(off / square) - error) < 1e-5 && (i == 0 ? error < 1e-6 : error > 1e-6));
                CHECK(unicon_model_encoder(context, small, UNICON_SIDE_X, &to[1]) == UNICON_ERROR_UNSUPPORTED);
                unicon_model_destroy(small);
                OK(context, unicon_model_compress(context, model, &xm, &ym, columns[i], NULL, &small));
                unicon_model_destroy(small);
            }
        }
        unicon_model_destroy(model);
    }
}

/* Damping, refinement, checkpoints, budgets, and the fit that chooses everything. */
static void refined(unicon_context_t *context, const char *path)
{
    static float hx[20 * D1], hy[20 * D2], held_x[2][20 * R];
    char checkpoint[1024];
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), hxm = unicon_matrix_f32(hx, 20, D1),
                    hym = unicon_matrix_f32(hy, 20, D2), zm[2];
    unicon_pairs_t held = unicon_pairs(&hxm, &hym, NULL);
    unicon_fit_options_t options;
    unicon_best_options_t best;
    unicon_minibatch_t minibatch;
    unicon_damping_t damping;
    unicon_refine_t refine;
    told_t info;
    unicon_model_t *model = NULL, *first = NULL;
    int64_t stages[3] = {8, 8, 0};
    double whiten[2] = {0.5, 0.05}, start_loss;
    uint64_t bytes = 0;
    int i, calls = 0;

    make_pairs(hx, hy, 20, D1, D2, R, 42); /* the first rows of the training pairs' generator: same views */
    for (i = 0; i < 2; i++)
        zm[i] = unicon_matrix_f32(held_x[i], 20, R);
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    OK(NULL, unicon_damping_init(&damping, sizeof damping));
    OK(NULL, unicon_refine_init(&refine, sizeof refine));
    CHECK(damping.first == 1 && damping.halvings == 12 && refine.max_steps == 30 && refine.memory == 10 && refine.patience == 3);
    options.r = R;
    options.n_iters = 4;
    options.damping = &damping;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    unicon_model_destroy(model);
    /* The first loss is that of the plain update's start; from then on it falls. */
    CHECK(info.n_loss >= 3 && info.n_trace >= 2 && info.evaluations >= info.n_trace);
    for (i = 2; i < info.n_loss; i++)
        CHECK(info.loss[i] <= info.loss[i - 1]);
    CHECK(info.final_loss <= info.loss[info.n_loss - 1] + 1e-6);

    options.damping = NULL;
    options.n_iters = 1;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &first, &info));
    start_loss = info.final_loss;
    CHECK(info.n_trace == 0 && isnan(info.whiten) && info.power == 0.5 && info.tau == 0.07 && info.r == R);
    refine.max_steps = 6;
    options.refine = &refine;
    options.progress = count_calls;
    options.progress_user = &calls;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    CHECK(info.final_loss < start_loss && info.n_trace >= 2 && calls > 6);
    CHECK(isnan(info.trace.score[0]) && info.trace.negatives[0] == 0 && info.trace.loss[1] < info.trace.loss[0] &&
          info.trace.seconds[1] >= info.trace.seconds[0]);
    unicon_model_destroy(model);

    /* From a model as it is; with validation pairs and stages of sampled negatives. */
    options.n_iters = 0;
    refine.stages = stages;
    refine.n_stages = 3;
    refine.max_steps = 12;
    options.validation = &held;
    options.warm_start = first;
    OK(context, unicon_fit_workspace(context, &options, SIZES(N, N, D1, D2, 20, 20, UNICON_F32), &bytes));
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    CHECK(info.workspace_bytes == (int64_t)bytes && info.peak_bytes <= info.workspace_bytes);
    CHECK(info.n_trace >= 2 && info.trace.negatives[0] > 0 && info.trace.score[0] > 0 && info.trace.score[0] <= 1);
    options.validation = NULL;
    options.warm_start = NULL;
    unicon_model_destroy(model);
    refine.stages = NULL;
    refine.n_stages = 0;

    /* An interrupted refinement continues from its checkpoint to the same encoders, and another fit refuses it. */
    snprintf(checkpoint, sizeof checkpoint, "%s.state", path);
    remove(checkpoint);
    options.n_iters = 1;
    options.progress = NULL;
    refine.max_steps = 6;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &hxm, &zm[0]));
    unicon_model_destroy(model);
    options.checkpoint = checkpoint;
    options.progress = cancel_late;
    calls = 3;
    EXPECT(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info), UNICON_ERROR_CANCELLED, "");
    CHECK(info.outcome == UNICON_OUTCOME_CANCELLED && info.seconds > 0 && info.peak_bytes > 0 && info.workspace_bytes > 0);
    CHECK(info.n_iters == -1 && info.n_loss == -1 && isnan(info.final_loss));
    options.progress = NULL;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &hxm, &zm[1]));
    CHECK(memcmp(held_x[0], held_x[1], sizeof held_x[0]) == 0);
    unicon_model_destroy(model);
    model = NULL;
    options.seed = 77;
    EXPECT(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info), UNICON_ERROR_BAD_FILE, checkpoint);
    CHECK(!model);
    remove(checkpoint);
    options.checkpoint = NULL;
    options.budget = 1e-9;
    OK(context, fit_told(context, &options, PAIRS(&xm, &ym, NULL), &model, &info));
    CHECK(info.outcome == UNICON_OUTCOME_OUT_OF_TIME && info.n_trace <= 2);
    unicon_model_destroy(model);

    OK(NULL, unicon_best_options_init(&best, sizeof best));
    CHECK(best.n_negatives == 0 && !best.minibatch && best.dimension == UNICON_DIMENSION_FIXED && !best.refine && !best.whiten);
    best.r = R;
    OK(context, unicon_fit_best_workspace(context, &best, SIZES(N, N, D1, D2, 20, 20, UNICON_F32), &bytes));
    best.validation = &held;
    OK(context, best_told(context, &best, PAIRS(&xm, &ym, NULL), &model, &info));
    best.validation = NULL;
    CHECK(info.workspace_bytes == (int64_t)bytes && info.peak_bytes <= info.workspace_bytes && info.peak_bytes > 0);
    CHECK(info.r == R && info.tau == 0.07 && info.whiten > 0 && info.power >= 0 && info.rows_held_back == 0);
    unicon_model_destroy(model);
    best.whiten = whiten;
    best.n_whiten = 2;
    best.powers = whiten;
    best.n_powers = 1;
    OK(NULL, unicon_minibatch_init(&minibatch, sizeof minibatch));
    CHECK(minibatch.batch == 1024 && minibatch.epochs == 4 && minibatch.max_steps == 0 && minibatch.momentum == 0.5);
    minibatch.batch = 8;
    minibatch.min_steps = 6;
    best.minibatch = &minibatch;
    best.n_negatives = 8;
    best.tau_auto = 1;
    best.final_loss = 1;
    best.exact = 1;
    best.warm_start = first;
    OK(context, best_told(context, &best, PAIRS(&xm, &ym, NULL), &model, &info));
    CHECK((info.whiten == 0.5 || info.whiten == 0.05) && info.power == 0.5 && isfinite(info.final_loss));
    CHECK(info.rows_held_back == N / 10 && info.cols_held_back == N / 10);
    unicon_model_destroy(model);
    for (i = UNICON_DIMENSION_ENERGY; i <= UNICON_DIMENSION_AUTO; i++) {
        unicon_model_description_t d;
        unicon_kernel_t kernel;
        OK(NULL, unicon_best_options_init(&best, sizeof best));
        OK(NULL, unicon_kernel_init(&kernel, sizeof kernel, UNICON_KERNEL_ANGULAR));
        best.dimension = i;
        best.n_negatives = 16;
        if (i == UNICON_DIMENSION_AUTO) {
            best.kernel = &kernel;
            best.n_landmarks = 11;
        }
        best.validation = &held;
        OK(context, best_told(context, &best, PAIRS(&xm, &ym, NULL), &model, &info));
        d.struct_size = sizeof d;
        OK(NULL, unicon_model_describe(model, &d));
        CHECK(d.r == info.r && d.r >= 1 && d.r <= (i == UNICON_DIMENSION_AUTO ? 11 : D2));
        CHECK(d.kernel_x == (i == UNICON_DIMENSION_AUTO ? UNICON_KERNEL_ANGULAR : UNICON_KERNEL_NONE));
        unicon_model_destroy(model);
    }
    unicon_model_destroy(first);
}

static void partial(unicon_context_t *context)
{
    static float a[R * D1], b[R * D1];
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), am = unicon_matrix_f32(a, R, D1),
                    bm = unicon_matrix_f32(b, R, D1);
    unicon_fit_options_t options;
    unicon_partial_fit_t *stream = NULL;
    unicon_model_t *streamed = NULL, *whole = NULL;
    unicon_pairs_t held = unicon_pairs(&xm, &ym, NULL);
    double loss = 0;
    int pass, kind, i;
    for (kind = UNICON_ACCUMULATE_MOMENTS; kind <= UNICON_ACCUMULATE_SOLUTIONS; kind++) {
        /* Solutions of the same batches are the batched fit; sums of one batch are the global one. */
        int sums = kind == UNICON_ACCUMULATE_MOMENTS, size = sums ? N : 35, passes = sums ? 1 : 2;
        OK(NULL, unicon_fit_options_init(&options, sizeof options));
        options.r = R;
        options.n_iters = passes;
        options.whiten = sums ? 0.1 : -1;
        options.validation = sums ? NULL : &held;
        OK(context, unicon_partial_fit_create(context, &options, kind, D1, D2, UNICON_F32, &stream));
        for (pass = 0; pass < passes; pass++) {
            unicon_model_destroy(streamed);
            for (i = 0; i < N / size; i++) {
                unicon_matrix_t xb = unicon_matrix_f32(x + i * size * D1, size, D1),
                                yb = unicon_matrix_f32(y + i * size * D2, size, D2);
                OK(context, unicon_partial_fit_add(stream, PAIRS(&xb, &yb, NULL), &loss));
                CHECK(isfinite(loss));
                OK(context, unicon_partial_fit_model(stream, &whole));
                unicon_model_destroy(whole);
            }
            OK(context, unicon_partial_fit_finish(stream, &streamed));
            EXPECT(context, unicon_partial_fit_finish(stream, &whole), UNICON_ERROR_INVALID_ARGUMENT, "batches");
        }
        options.batch_size = sums ? 0 : size;
        OK(context, unicon_fit(context, &options, PAIRS(&xm, &ym, NULL), &whole, NULL));
        OK(context, unicon_model_encoder(context, streamed, UNICON_SIDE_X, &am));
        OK(context, unicon_model_encoder(context, whole, UNICON_SIDE_X, &bm));
        for (i = 0; i < R * D1; i++)
            CHECK(fabsf(fabsf(a[i]) - fabsf(b[i])) < 1e-4f * (1 + fabsf(b[i])));
        unicon_model_destroy(streamed);
        unicon_model_destroy(whole);
        unicon_partial_fit_destroy(stream);
        streamed = whole = NULL;
    }
}

int main(int argc, char **argv)
{
    unicon_context_options_t options;
    unicon_context_t *context = NULL;
    unicon_weights_t *outlives = NULL;
    double value = 0;
    if (argc != 2)
        return 2;
    make_pairs(x, y, N, D1, D2, R, 42);
    library();
    OK(NULL, unicon_context_options_init(&options, sizeof options));
    options.n_threads = 2;
    OK(NULL, unicon_context_create(&options, &context));
    CHECK(unicon_context_device_type(context) == UNICON_DEVICE_CPU && unicon_context_device_type(NULL) == 0);
    CHECK(unicon_last_error(context, NULL, 0) == 0);
    weights(context);
    evaluation(context);
    family(context, argv[1]);
    layouts(context);
    fit(context, argv[1]);
    refined(context, argv[1]);
    partial(context);
    { /* A handle keeps what it needs of its context alive. */
        static double z[4] = {1, 0, 0, 1};
        unicon_matrix_t m = unicon_matrix_f64(z, 2, 2);
        OK(context, unicon_weights_create(context, NULL, PAIRS(&m, &m, NULL), &outlives));
    }
    unicon_context_destroy(context);
    OK(NULL, unicon_weights_loss(outlives, &value, NULL, NULL));
    CHECK(value >= 0);
    unicon_weights_destroy(outlives);
    unicon_context_destroy(NULL);
    unicon_model_destroy(NULL);
    unicon_weights_destroy(NULL);
    unicon_partial_fit_destroy(NULL);
    return checks_done("api");
}
