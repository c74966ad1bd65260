/* A context of several CUDA devices: fits over all of them, everything else on the first. The stand-in has three. */
#define _POSIX_C_SOURCE 200809L /* setenv */
#include "check.h"

enum { N = 1100, D1 = 14, D2 = 11, R = 5, DEVICES = 3 };

static float x[N * D1], y[N * D2], z[N * R];

typedef struct seen {
    long calls;
    double loss;
    int cancel;
} seen_t;

static int32_t watch(const unicon_progress_t *progress, void *user)
{
    seen_t *seen = user;
    seen->calls++;
    seen->loss = progress->loss;
    return seen->cancel && progress->phase == UNICON_PHASE_ITERATION;
}

static unicon_context_options_t options_of(const int32_t *devices, int64_t n)
{
    unicon_context_options_t o;
    unicon_context_options_init(&o, sizeof o);
    o.device_type = UNICON_DEVICE_CUDA;
    o.precision = UNICON_F32;
    o.devices = devices;
    o.n_devices = n;
    return o;
}

/* A fit on these devices; its final loss. */
static double fitted(const int32_t *devices, int64_t n, float *f1, seen_t *seen)
{
    unicon_context_options_t o = options_of(devices, n);
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zm = unicon_matrix_f32(z, N, R),
                    fm = unicon_matrix_f32(f1, R, D1);
    unicon_fit_options_t fit;
    told_t info;
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL;
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    fit.whiten = 0.1;
    fit.progress = watch;
    fit.progress_user = seen;
    OK(NULL, unicon_context_create(&o, &context));
    OK(context, fit_told(context, &fit, PAIRS(&xm, &ym, NULL), &model, &info));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &zm));
    OK(context, unicon_model_encoder(context, model, UNICON_SIDE_X, &fm));
    unicon_model_destroy(model);
    model = NULL;
    /* The context can be used again, and a cancelled fit gives nothing. */
    seen->cancel = 1;
    EXPECT(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL), UNICON_ERROR_CANCELLED, "cancelled");
    CHECK(model == NULL);
    unicon_context_destroy(context);
    return info.final_loss;
}

#define REFUSED(change, status, text)                                                                                  \
    do {                                                                                                               \
        unicon_context_t *context_ = NULL;                                                                             \
        unicon_context_options_t o = options_of(two, 2);                                                               \
        change;                                                                                                        \
        EXPECT(NULL, unicon_context_create(&o, &context_), status, text);                                              \
        CHECK(context_ == NULL);                                                                                       \
    } while (0)

int main(void)
{
    static const int32_t one[] = {0}, two[] = {0, 2}, all[] = {0, 1, 2}, twice[] = {1, 1}, many[] = {0, 7};
    static float alone[R * D1], several[R * D1], again[R * D1];
    seen_t seen[4];
    unicon_communicator_t communicator;
    unicon_context_options_t o = options_of(all, DEVICES);
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL;
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), there;
    unicon_fit_options_t fit;
    double loss[4];
    int32_t count = 0;
    memset(seen, 0, sizeof seen);
    OK(NULL, unicon_communicator_init(&communicator, sizeof communicator));
    CHECK(unicon_device_count(UNICON_DEVICE_CUDA, &count) == UNICON_OK && count == DEVICES);
    make_pairs(x, y, N, D1, D2, R, 21);
    loss[0] = fitted(one, 0, alone, &seen[0]);
    loss[1] = fitted(one, 1, again, &seen[1]);
    CHECK(loss[1] == loss[0] && memcmp(alone, again, sizeof alone) == 0);
    loss[2] = fitted(all, DEVICES, several, &seen[2]);
    loss[3] = fitted(all, DEVICES, again, &seen[3]);
    /* Sums in fp32 that are cut elsewhere; the same from run to run. */
    CHECK(loss[2] > loss[0] * (1 - 1e-5) && loss[2] < loss[0] * (1 + 1e-5));
    CHECK(loss[3] == loss[2] && memcmp(several, again, sizeof several) == 0);
    CHECK(seen[2].calls > 3 && seen[3].calls == seen[2].calls);

    REFUSED(o.devices = NULL, UNICON_ERROR_INVALID_ARGUMENT, "options.devices: expected 2 values");
    REFUSED(o.devices = twice, UNICON_ERROR_INVALID_ARGUMENT, "options.devices: expected different devices' numbers, got 1");
    REFUSED(o.devices = many, UNICON_ERROR_NO_DEVICE, "cuda:7: there are cuda:0 to cuda:2");
    REFUSED(o.n_devices = -1, UNICON_ERROR_INVALID_ARGUMENT, "options.n_devices");
    REFUSED(o.device_id = 2, UNICON_ERROR_INVALID_ARGUMENT, "options.device_id: expected 0 with devices");
    REFUSED(o.device_type = UNICON_DEVICE_CPU, UNICON_ERROR_INVALID_ARGUMENT, "UNICON_DEVICE_CUDA with devices");
    REFUSED(o.stream = (void *)1, UNICON_ERROR_INVALID_ARGUMENT, "options.stream: expected NULL with devices");
    REFUSED(o.communicator = &communicator, UNICON_ERROR_INVALID_ARGUMENT, "communicator");

    /* Matrices are in host memory; an error of one device is that of the fit. */
    OK(NULL, unicon_context_create(&o, &context));
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    there = xm;
    there.device_type = UNICON_DEVICE_CUDA;
    EXPECT(context, unicon_fit(context, &fit, PAIRS(&there, &ym, NULL), &model, NULL), UNICON_ERROR_UNSUPPORTED,
           "x: device memory on a context of several devices");
    setenv("UNICON_STANDIN_FAIL", "cuLaunchKernel:0:719", 1);
    setenv("UNICON_STANDIN_FAIL_DEVICE", "1", 1);
    EXPECT(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL), UNICON_ERROR_CUDA, "cuda:1: ");
    CHECK(model == NULL);
    unicon_context_destroy(context);
    return checks_done("cuda_devices");
}
