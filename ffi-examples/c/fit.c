/*
 * Fits encoders to two .npy feature files (float32, C order), with progress, and prints recall.
 *
 *     cc fit.c -o fit $(pkg-config --cflags --libs unicon)
 *     ./fit x.npy y.npy 128
 *     ./fit x.npy y.npy 128 best    (shrinkage and power are chosen on rows that are held back, and the encoders refined)
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unicon.h>

/* Reads a two-dimensional float32 C-order .npy file, version 1. Returns NULL with a message on failure. */
static float *read_npy(const char *path, int64_t *rows, int64_t *cols)
{
    unsigned char head[10];
    char text[4096];
    const char *shape;
    size_t length, count;
    long long n, d;
    float *data;
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return NULL;
    }
    if (fread(head, 1, 10, file) != 10 || memcmp(head, "\x93NUMPY\x01", 7) != 0
        || (length = head[8] | (size_t)head[9] << 8) >= sizeof text || fread(text, 1, length, file) != length)
        goto bad;
    text[length] = 0;
    shape = strstr(text, "'shape': (");
    if (!strstr(text, "'<f4'") || !strstr(text, "'fortran_order': False") || !shape
        || sscanf(shape, "'shape': (%lld, %lld)", &n, &d) != 2 || n < 1 || d < 1 || n > INT64_MAX / 4 / d)
        goto bad;
    count = (size_t)(n * d);
    data = malloc(count * sizeof *data);
    if (!data || fread(data, sizeof *data, count, file) != count) {
        free(data);
        goto bad;
    }
    fclose(file);
    *rows = n;
    *cols = d;
    return data;
bad:
    fprintf(stderr, "%s: expected a 2-d float32 .npy file in C order\n", path);
    fclose(file);
    return NULL;
}

static int32_t show(const unicon_progress_t *progress, void *user)
{
    (void)user;
    if (progress->phase == UNICON_PHASE_ITERATION)
        printf("update %lld of %lld: loss %.5f, %.2f s\n", (long long)progress->done, (long long)progress->total,
               progress->loss, progress->seconds);
    return 0; /* anything else cancels */
}

/* What the library noticed and a person may want to know. */
static void warn(const char *text, void *user)
{
    (void)user;
    fprintf(stderr, "warning: %s\n", text);
}

/* A value of a report; NaN where it has none. */
static double real(const unicon_report_t *report, int32_t key)
{
    double value;
    return unicon_report_real(report, key, &value) == UNICON_OK ? value : NAN;
}

int main(int argc, char **argv)
{
    int64_t n_x, n_y, d1, d2, r, peak;
    int64_t ks[3] = {1, 5, 10};
    double recall[6];
    float *x = NULL, *y = NULL, *zx = NULL, *zy = NULL;
    unicon_context_options_t context_options;
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL;
    unicon_fit_options_t options;
    unicon_best_options_t best;
    unicon_report_t *report = NULL;
    unicon_matrix_t xm, ym, zxm, zym;
    unicon_pairs_t pairs, embedded;
    int failed = 1;

    if (argc < 4 || argc > 5 || (r = atol(argv[3])) < 1) {
        fprintf(stderr, "usage: fit X.npy Y.npy R [best]\n");
        return 2;
    }
    x = read_npy(argv[1], &n_x, &d1);
    y = read_npy(argv[2], &n_y, &d2);
    unicon_context_options_init(&context_options, sizeof context_options);
    context_options.warning = warn;
    if (!x || !y || unicon_context_create(&context_options, &context) != UNICON_OK)
        goto done;
    xm = unicon_matrix_f32(x, n_x, d1);
    ym = unicon_matrix_f32(y, n_y, d2);
    pairs = unicon_pairs(&xm, &ym, NULL); /* row i of x matches row i of y */

    unicon_fit_options_init(&options, sizeof options);
    unicon_best_options_init(&best, sizeof best);
    options.r = best.r = r;
    options.whiten = 0.1;
    options.progress = best.progress = show;
    best.final_loss = 1;
    if (argc == 5) {
        if (unicon_fit_best(context, &best, &pairs, &model, &report) != UNICON_OK)
            goto done;
        printf("chosen: whiten %g, power %g\n", real(report, UNICON_REPORT_WHITEN), real(report, UNICON_REPORT_POWER));
    } else if (unicon_fit(context, &options, &pairs, &model, &report) != UNICON_OK)
        goto done;
    if (unicon_report_integer(report, UNICON_REPORT_PEAK_BYTES, &peak) != UNICON_OK)
        goto done;
    printf("fitted in %.2f s, loss %.5f, peak %.1f MB\n", real(report, UNICON_REPORT_SECONDS),
           real(report, UNICON_REPORT_FINAL_LOSS), (double)peak / 1e6);

    zx = malloc((size_t)(n_x * r) * sizeof *zx);
    zy = malloc((size_t)(n_y * r) * sizeof *zy);
    if (!zx || !zy)
        goto done;
    zxm = unicon_matrix_f32(zx, n_x, r);
    zym = unicon_matrix_f32(zy, n_y, r);
    embedded = unicon_pairs(&zxm, &zym, NULL);
    if (unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &zxm) != UNICON_OK
        || unicon_model_encode(context, model, UNICON_SIDE_Y, &ym, &zym) != UNICON_OK
        || unicon_recall(context, &embedded, UNICON_TIES_EXPECTED, ks, 3, recall) != UNICON_OK)
        goto done;
    printf("recall@1/5/10  x to y %.3f %.3f %.3f  y to x %.3f %.3f %.3f\n", recall[0], recall[1], recall[2], recall[3],
           recall[4], recall[5]);
    failed = 0;
done:
    if (failed) {
        char text[512];
        if (unicon_last_error(NULL, text, sizeof text)) /* of any call on this thread */
            fprintf(stderr, "fit: %s\n", text);
    }
    unicon_report_destroy(report);
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    free(x);
    free(y);
    free(zx);
    free(zy);
    return failed;
}
