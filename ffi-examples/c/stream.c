/*
 * Fits batches that are never together in memory: Gram matrices and C are summed, two passes, a model after every few batches.
 *
 *     cc stream.c -o stream $(pkg-config --cflags --libs unicon) -lm
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <unicon.h>

enum { BATCH = 200, BATCHES = 20, D1 = 24, D2 = 16, R = 6 };

static float x[BATCH * D1], y[BATCH * D2], zx[BATCH * R], zy[BATCH * R];

/* What would come from a file or a queue: batch b of two noisy views of R latent coordinates. */
static void read_batch(unsigned b)
{
    int i, j, k;
    srand(b + 1);
    for (i = 0; i < BATCH; i++) {
        double latent[R];
        for (k = 0; k < R; k++)
            latent[k] = 2.0 * rand() / RAND_MAX - 1.0;
        for (j = 0; j < D1; j++)
            x[i * D1 + j] = (float)(latent[j % R] + 0.5 * latent[(j / R + j) % R] + 0.1 * rand() / RAND_MAX);
        for (j = 0; j < D2; j++)
            y[i * D2 + j] = (float)(latent[(j + 2) % R] - 0.5 * latent[(j / R + j) % R] + 0.1 * rand() / RAND_MAX);
    }
}

static int fail(const unicon_context_t *context)
{
    char text[512];
    unicon_last_error(context, text, sizeof text);
    fprintf(stderr, "stream: %s\n", text);
    return 1;
}

int main(void)
{
    unicon_context_t *context = NULL;
    unicon_partial_fit_t *partial = NULL;
    unicon_model_t *model = NULL;
    unicon_fit_options_t options;
    unicon_matrix_t xm = unicon_matrix_f32(x, BATCH, D1), ym = unicon_matrix_f32(y, BATCH, D2),
                    zxm = unicon_matrix_f32(zx, BATCH, R), zym = unicon_matrix_f32(zy, BATCH, R);
    unicon_pairs_t batch = unicon_pairs(&xm, &ym, NULL), embedded = unicon_pairs(&zxm, &zym, NULL);
    int64_t one = 1;
    double loss, sum, recall[2] = {0, 0};
    unsigned pass, b;

    if (unicon_context_create(NULL, &context) != UNICON_OK)
        return fail(NULL);
    unicon_fit_options_init(&options, sizeof options);
    options.r = R;
    options.whiten = 0.01;
    if (unicon_partial_fit_create(context, &options, UNICON_ACCUMULATE_MOMENTS, D1, D2, UNICON_F32, &partial) != UNICON_OK)
        return fail(context);
    for (pass = 1; pass <= 2; pass++) {
        for (sum = 0, b = 0; b < BATCHES; b++) {
            read_batch(b);
            if (unicon_partial_fit_add(partial, &batch, &loss) != UNICON_OK)
                return fail(context);
            sum += loss;
        }
        unicon_model_destroy(model); /* of the pass before */
        if (unicon_partial_fit_finish(partial, &model) != UNICON_OK)
            return fail(context);
        printf("pass %u: mean loss %.4f before it\n", pass, sum / BATCHES);
    }
    read_batch(BATCHES); /* a batch that was not seen */
    if (unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &zxm) != UNICON_OK
        || unicon_model_encode(context, model, UNICON_SIDE_Y, &ym, &zym) != UNICON_OK
        || unicon_recall(context, &embedded, UNICON_TIES_EXPECTED, &one, 1, recall) != UNICON_OK)
        return fail(context);
    printf("recall@1 of a new batch: %.3f and %.3f\n", recall[0], recall[1]);
    unicon_model_destroy(model);
    unicon_partial_fit_destroy(partial);
    unicon_context_destroy(context);
    return recall[0] > 0.9 ? 0 : 1;
}
