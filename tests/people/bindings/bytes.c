/* Models to and from bytes, and the nu of a loss whose kind is changed, through the C ABI. */

#include "check.h"

#include <float.h>

enum { N = 60, D1 = 7, D2 = 5, R = 3 };

static double loss_of(unicon_context_t *context, const unicon_loss_t *loss, const unicon_matrix_t *zx, const unicon_matrix_t *zy)
{
    const unicon_pairs_t pairs = unicon_pairs(zx, zy, NULL);
    unicon_weights_options_t options;
    double value = NAN;
    OK(NULL, unicon_weights_options_init(&options, sizeof options));
    options.loss = loss;
    OK(context, unicon_contrastive_grad(context, &options, &pairs, &value, NULL, NULL));
    return value;
}

int main(int argc, char **argv)
{
    static float x[N * D1], y[N * D2];
    static double zx_data[N * R], zy_data[N * R], other[N * R];
    unicon_matrix_t mx = unicon_matrix_f32(x, N, D1), my = unicon_matrix_f32(y, N, D2), zx, zy, z;
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL, *again = NULL, *untouched = NULL;
    unicon_pairs_t pairs = unicon_pairs(&mx, &my, NULL), embedded;
    unicon_weights_options_t weights;
    unicon_fit_options_t options;
    unicon_loss_t loss, sigmoid;
    uint64_t state = 7;
    int64_t size = -1, written = -1, k;
    unsigned char *bytes, *twice;
    FILE *file;
    double clip, tau, ratio = 0;

    if (argc != 2)
        return 2;
    for (k = 0; k < N * D1; k++)
        x[k] = (float)uniform(&state);
    for (k = 0; k < N * D2; k++)
        y[k] = x[k / D2 * D1 + k % D2] + 0.3f * (float)uniform(&state);
    OK(NULL, unicon_context_create(NULL, &context));
    OK(NULL, unicon_fit_options_init(&options, sizeof options));
    options.r = R;
    OK(context, unicon_fit(context, &options, &pairs, &model, NULL));

    /* The size, then the bytes: those of the file. */
    OK(NULL, unicon_model_to_bytes(model, NULL, 0, &size));
    CHECK(size > 8 * R * (D1 + D2));
    bytes = malloc((size_t)size + 16);
    twice = malloc((size_t)size);
    memset(bytes, 0xa5, (size_t)size + 16);
    OK(NULL, unicon_model_to_bytes(model, bytes, size + 7, &written));
    CHECK(written == size);
    for (k = size; k < size + 16; k++)
        CHECK(bytes[k] == 0xa5);
    OK(context, unicon_model_save(context, model, argv[1]));
    file = fopen(argv[1], "rb");
    CHECK(file && fread(twice, 1, (size_t)size, file) == (size_t)size && fgetc(file) == EOF);
    if (file)
        fclose(file);
    CHECK(memcmp(bytes, twice, (size_t)size) == 0);

    /* What is refused leaves everything as it was. */
    written = -1;
    memset(twice, 0xa5, (size_t)size);
    EXPECT(NULL, unicon_model_to_bytes(model, twice, size - 1, &written), UNICON_ERROR_INVALID_ARGUMENT, "capacity");
    EXPECT(NULL, unicon_model_to_bytes(model, twice, -1, &written), UNICON_ERROR_INVALID_ARGUMENT, "capacity");
    EXPECT(NULL, unicon_model_to_bytes(model, NULL, size, &written), UNICON_ERROR_INVALID_ARGUMENT, "buffer");
    EXPECT(NULL, unicon_model_to_bytes(NULL, twice, size, &written), UNICON_ERROR_INVALID_ARGUMENT, "model");
    EXPECT(NULL, unicon_model_to_bytes(model, twice, size, NULL), UNICON_ERROR_INVALID_ARGUMENT, "size");
    CHECK(written == -1 && twice[0] == 0xa5 && twice[size - 1] == 0xa5);
    EXPECT(NULL, unicon_model_from_bytes(NULL, size, &untouched), UNICON_ERROR_INVALID_ARGUMENT, "data");
    EXPECT(NULL, unicon_model_from_bytes(bytes, 0, &untouched), UNICON_ERROR_INVALID_ARGUMENT, "size");
    EXPECT(NULL, unicon_model_from_bytes(bytes, -5, &untouched), UNICON_ERROR_INVALID_ARGUMENT, "size");
    EXPECT(NULL, unicon_model_from_bytes(bytes, size, NULL), UNICON_ERROR_INVALID_ARGUMENT, "model");
    for (k = 1; k < size; k += 1 + size / 200)
        EXPECT(NULL, unicon_model_from_bytes(bytes, k, &untouched), UNICON_ERROR_BAD_FILE, "data");
    CHECK(untouched == NULL);

    /* The same model, independent of the first and of the bytes. */
    OK(NULL, unicon_model_from_bytes(bytes, size, &again));
    zx = unicon_matrix_f64(zx_data, N, R);
    zy = unicon_matrix_f64(zy_data, N, R);
    z = unicon_matrix_f64(other, N, R);
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &mx, &zx));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_Y, &my, &zy));
    unicon_model_destroy(model);
    memset(bytes, 0, (size_t)size);
    OK(context, unicon_model_encode(context, again, UNICON_SIDE_X, &mx, &z));
    CHECK(memcmp(zx_data, other, sizeof other) == 0);
    OK(NULL, unicon_model_to_bytes(again, twice, size, &written));
    OK(NULL, unicon_model_to_bytes(again, bytes, size, &written));
    CHECK(memcmp(bytes, twice, (size_t)size) == 0);
    unicon_model_destroy(again);

    /* Whatever kind the struct was made for, nu is that of the kind it has; a number that was set stays. */
    CHECK(UNICON_NU_USUAL == -DBL_MAX);
    OK(NULL, unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CLIP));
    OK(NULL, unicon_loss_init(&sigmoid, sizeof sigmoid, UNICON_LOSS_SIGMOID));
    CHECK(loss.nu == UNICON_NU_USUAL && sigmoid.nu == UNICON_NU_USUAL);
    clip = loss_of(context, &loss, &zx, &zy);
    loss.kind = UNICON_LOSS_SIGMOID;
    CHECK(loss_of(context, &loss, &zx, &zy) == loss_of(context, &sigmoid, &zx, &zy));
    sigmoid.nu = 1.5;
    CHECK(loss_of(context, &loss, &zx, &zy) == loss_of(context, &sigmoid, &zx, &zy));
    sigmoid.nu = 1;
    CHECK(loss_of(context, &loss, &zx, &zy) != loss_of(context, &sigmoid, &zx, &zy));
    sigmoid.kind = UNICON_LOSS_CLIP;
    CHECK(loss_of(context, &sigmoid, &zx, &zy) == clip);
    embedded = unicon_pairs(&zx, &zy, NULL);
    OK(NULL, unicon_weights_options_init(&weights, sizeof weights));
    weights.loss = &sigmoid;
    for (k = 0; k < 3; k++) {
        sigmoid.nu = k == 0 ? NAN : k == 1 ? HUGE_VAL : -HUGE_VAL;
        EXPECT(context, unicon_contrastive_grad(context, &weights, &embedded, &tau, NULL, NULL), UNICON_ERROR_INVALID_ARGUMENT, "nu");
    }

    /* The value is tau times open_clip's: the mean of two cross-entropies of s / tau. */
    OK(NULL, unicon_loss_init(&loss, sizeof loss, UNICON_LOSS_CLIP));
    for (tau = 0.05; tau < 3; tau *= 4) {
        double cross = 0;
        int64_t i, j, side, c;
        for (side = 0; side < 2; side++)
            for (i = 0; i < N; i++) {
                const double *a = side ? zy_data : zx_data, *b = side ? zx_data : zy_data;
                double sum = 0, own = 0;
                for (j = 0; j < N; j++) {
                    double s = 0;
                    for (c = 0; c < R; c++)
                        s += a[i * R + c] * b[j * R + c];
                    sum += exp(s / tau);
                    if (i == j)
                        own = s / tau;
                }
                cross += (log(sum) - own) / (2.0 * N);
            }
        loss.tau = tau;
        ratio = loss_of(context, &loss, &zx, &zy) / cross;
        CHECK(fabs(ratio - tau) < 1e-9 * tau);
    }

    free(bytes);
    free(twice);
    unicon_context_destroy(context);
    return checks_done("bytes");
}
