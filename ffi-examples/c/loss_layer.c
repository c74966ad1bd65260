/*
 * unicon_contrastive_grad as the loss layer of a small training loop: two linear encoders, plain gradient descent on an
 * exact global batch. The normalisation is differentiated here, the loss by the library.
 *
 *     cc loss_layer.c -o loss_layer $(pkg-config --cflags --libs unicon) -lm
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <unicon.h>

enum { N = 256, D = 12, R = 4, STEPS = 60 };

static double x[N * D], y[N * D], fx[R * D], fy[R * D], zx[N * R], zy[N * R], gx[N * R], gy[N * R], norms[N];

static double uniform(void)
{
    return 2.0 * rand() / RAND_MAX - 1.0;
}

/* z_i = F a_i / |F a_i|. */
static void encode(const double *a, const double *f, double *z)
{
    int i, j, k;
    for (i = 0; i < N; i++) {
        double sum = 0;
        for (k = 0; k < R; k++) {
            z[i * R + k] = 0;
            for (j = 0; j < D; j++)
                z[i * R + k] += f[k * D + j] * a[i * D + j];
            sum += z[i * R + k] * z[i * R + k];
        }
        norms[i] = sqrt(sum);
        for (k = 0; k < R; k++)
            z[i * R + k] /= norms[i];
    }
}

/* F -= rate dL/dF, with dL/du = (g - (g . z) z)/|u| through the normalisation. */
static void descend(const double *a, double *f, const double *z, const double *g, double rate)
{
    int i, j, k;
    for (i = 0; i < N; i++) {
        double along = 0;
        for (k = 0; k < R; k++)
            along += g[i * R + k] * z[i * R + k];
        for (k = 0; k < R; k++)
            for (j = 0; j < D; j++)
                f[k * D + j] -= rate * (g[i * R + k] - along * z[i * R + k]) / norms[i] * a[i * D + j];
    }
}

int main(void)
{
    unicon_context_t *context = NULL;
    unicon_matrix_t zxm = unicon_matrix_f64(zx, N, R), zym = unicon_matrix_f64(zy, N, R), gxm = unicon_matrix_f64(gx, N, R),
                    gym = unicon_matrix_f64(gy, N, R);
    unicon_pairs_t pairs = unicon_pairs(&zxm, &zym, NULL);
    unicon_weights_options_t options;
    unicon_loss_t loss;
    double value = 0, first = 0;
    int i, j, k, step;
    srand(1);
    for (i = 0; i < N; i++) { /* both views share R latent coordinates */
        double latent[R];
        for (k = 0; k < R; k++)
            latent[k] = uniform();
        for (j = 0; j < D; j++) {
            x[i * D + j] = latent[j % R] + 0.2 * uniform();
            y[i * D + j] = latent[(j + 1) % R] + 0.2 * uniform();
        }
    }
    for (i = 0; i < R * D; i++) {
        fx[i] = 0.3 * uniform();
        fy[i] = 0.3 * uniform();
    }
    unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CLIP);
    loss.tau = 0.1;
    unicon_weights_options_init(&options, sizeof options);
    options.loss = &loss;
    if (unicon_context_create(NULL, &context) != UNICON_OK)
        return 1;
    for (step = 0; step <= STEPS; step++) {
        encode(y, fy, zy);
        encode(x, fx, zx); /* leaves the norms of x for its step */
        if (unicon_contrastive_grad(context, &options, &pairs, &value, &gxm, &gym) != UNICON_OK) {
            char text[256];
            unicon_last_error(context, text, sizeof text);
            fprintf(stderr, "loss_layer: %s\n", text);
            return 1;
        }
        if (step == 0)
            first = value;
        if (step % 20 == 0)
            printf("step %2d: loss %.4f\n", step, value);
        descend(x, fx, zx, gx, 2.0);
        encode(y, fy, zy); /* the norms of y */
        descend(y, fy, zy, gy, 2.0);
    }
    unicon_context_destroy(context);
    return value < first / 2 ? 0 : 1;
}
