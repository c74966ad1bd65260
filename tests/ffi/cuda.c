/* A CUDA context: host and device pointers, a borrowed stream, what it refuses; against a CPU context. */
#include "check.h"

enum { N = 150, D1 = 20, D2 = 14, R = 4 };

/* Of the driver, what a caller needs who has memory on a device. */
extern int cuInit(unsigned flags);
extern int cuDeviceGet(int *device, int ordinal);
extern int cuDevicePrimaryCtxRetain(void **context, int device);
extern int cuCtxSetCurrent(void *context);
extern int cuMemAlloc_v2(unsigned long long *data, size_t bytes);
extern int cuMemFree_v2(unsigned long long data);
extern int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes);
extern int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes);
extern int cuStreamCreate(void **stream, unsigned flags);
extern int cuStreamDestroy_v2(void *stream);

static float x[N * D1], y[N * D2];

static unsigned long long put(const void *data, size_t bytes)
{
    unsigned long long at = 0;
    CHECK(cuMemAlloc_v2(&at, bytes) == 0 && cuMemcpyHtoD_v2(at, data, bytes) == 0);
    return at;
}

static unicon_matrix_t on_device(unsigned long long at, int64_t rows, int64_t cols, int32_t dtype)
{
    unicon_matrix_t m = unicon_matrix_host((void *)(uintptr_t)at, rows, cols, dtype);
    m.device_type = UNICON_DEVICE_CUDA;
    return m;
}

static unicon_context_t *open_context(int32_t device_type, int32_t precision, void *stream)
{
    unicon_context_options_t o;
    unicon_context_t *context = NULL;
    OK(NULL, unicon_context_options_init(&o, sizeof o));
    o.device_type = device_type;
    o.precision = precision;
    o.stream = stream;
    o.n_threads = 2;
    OK(NULL, unicon_context_create(&o, &context));
    return context;
}

static void *nothing(void *user, size_t size, size_t alignment)
{
    (void)user;
    (void)size;
    (void)alignment;
    return NULL;
}

static void nowhere(void *user, void *data, size_t size, size_t alignment)
{
    (void)user;
    (void)data;
    (void)size;
    (void)alignment;
}

static void refusals(unicon_context_t *cuda, unicon_context_t *cpu, const unicon_matrix_t *xd, const unicon_matrix_t *ym)
{
    static double z[N * R];
    unicon_allocator_t allocator = {nothing, nowhere, NULL};
    unicon_context_options_t o;
    unicon_context_t *context = NULL;
    unicon_fit_options_t fit;
    unicon_model_t *model = NULL;
    unicon_matrix_t wide = unicon_matrix_f64(z, N, R), other = *xd, odd = *xd;
    double value = 7;
    OK(NULL, unicon_fit_options_init(&fit, sizeof fit));
    fit.r = R;
    z[0] = 0.5;
    EXPECT(cuda, unicon_contrastive_grad(cuda, NULL, PAIRS(&wide, &wide, NULL), &value, NULL, NULL), UNICON_ERROR_UNSUPPORTED, "float64");
    EXPECT(cpu, unicon_fit(cpu, &fit, PAIRS(xd, ym, NULL), &model, NULL), UNICON_ERROR_UNSUPPORTED, "x: a CPU context");
    other.device_id = 3;
    EXPECT(cuda, unicon_fit(cuda, &fit, PAIRS(&other, ym, NULL), &model, NULL), UNICON_ERROR_UNSUPPORTED, "x: memory of cuda:3");
    odd.dtype = UNICON_F64;
    odd.rows = odd.rows / 2;
    EXPECT(cuda, unicon_fit(cuda, &fit, PAIRS(&odd, ym, NULL), &model, NULL), UNICON_ERROR_UNSUPPORTED, "device memory");
    OK(NULL, unicon_context_options_init(&o, sizeof o));
    o.device_type = UNICON_DEVICE_CUDA;
    o.device_id = 40;
    EXPECT(NULL, unicon_context_create(&o, &context), UNICON_ERROR_NO_DEVICE, "cuda:40");
    o.device_id = -1;
    EXPECT(NULL, unicon_context_create(&o, &context), UNICON_ERROR_INVALID_ARGUMENT, "options.device_id");
    o.device_id = 0;
    o.allocator = &allocator;
    EXPECT(NULL, unicon_context_create(&o, &context), UNICON_ERROR_UNSUPPORTED, "options.allocator");
    CHECK(!context && !model && value == 7);
}

int main(void)
{
    static float zc[N * R], zh[N * R], zd[N * R], back[N * R], columns[D1 * N], padded[N * (D1 + 4)], g[2][N * R];
    unicon_context_t *cpu, *cuda, *borrowed;
    unicon_fit_options_t fit;
    told_t on_cpu, on_cuda;
    unicon_model_t *model = NULL, *host = NULL, *device = NULL;
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zm = unicon_matrix_f32(zc, N, R), xd, yd, m, o, p;
    unsigned long long at_x, at_y, at_z, at_g;
    void *current = NULL, *stream = NULL;
    double a = 0, b = 0;
    int32_t count = 0;
    int device_number = 0, i, j;

    make_pairs(x, y, N, D1, D2, R, 8);
    CHECK(cuInit(0) == 0 && cuDeviceGet(&device_number, 0) == 0);
    CHECK(cuDevicePrimaryCtxRetain(&current, device_number) == 0 && cuCtxSetCurrent(current) == 0);
    OK(NULL, unicon_device_count(UNICON_DEVICE_CUDA, &count));
    CHECK(count >= 1 && unicon_capabilities() & UNICON_CAP_CUDA);
    cpu = open_context(UNICON_DEVICE_CPU, 0, NULL);
    cuda = open_context(UNICON_DEVICE_CUDA, UNICON_F32, NULL);
    CHECK(unicon_context_device_type(cuda) == UNICON_DEVICE_CUDA);
    borrowed = open_context(UNICON_DEVICE_AUTO, 0, NULL);
    CHECK(unicon_context_device_type(borrowed) == UNICON_DEVICE_CUDA);
    unicon_context_destroy(borrowed);
    CHECK(cuStreamCreate(&stream, 0) == 0);
    borrowed = open_context(UNICON_DEVICE_CUDA, UNICON_F32, stream);

    OK(NULL, unicon_fit_options_init(&fit, sizeof fit));
    fit.r = R;
    fit.whiten = 0.1;
    OK(cpu, fit_told(cpu, &fit, PAIRS(&xm, &ym, NULL), &model, &on_cpu));
    OK(cuda, fit_told(cuda, &fit, PAIRS(&xm, &ym, NULL), &host, &on_cuda));
    /* Similarities of split embeddings are off by about 4e-7, weights by that over tau. */
    CHECK(fabs(on_cpu.final_loss - on_cuda.final_loss) < 1e-4 * on_cpu.final_loss && on_cuda.peak_bytes > 0);

    at_x = put(x, sizeof x);
    at_y = put(y, sizeof y);
    at_z = put(zd, sizeof zd);
    at_g = put(g, sizeof g);
    xd = on_device(at_x, N, D1, UNICON_F32);
    yd = on_device(at_y, N, D2, UNICON_F32);
    OK(borrowed, fit_told(borrowed, &fit, PAIRS(&xd, &yd, NULL), &device, &on_cuda));
    OK(cuda, unicon_model_encode(cuda, host, UNICON_SIDE_X, &xm, &zm));
    memcpy(zh, zc, sizeof zh);
    m = on_device(at_z, N, R, UNICON_F32);
    OK(borrowed, unicon_model_encode(borrowed, device, UNICON_SIDE_X, &xd, &m));
    CHECK(cuMemcpyDtoH_v2(back, at_z, sizeof back) == 0);
    CHECK(memcmp(back, zh, sizeof zh) == 0); /* the same kernels on the same numbers */

    /* Other layouts of the same rows, in and out. */
    for (i = 0; i < N; i++)
        for (j = 0; j < D1; j++)
            columns[j * N + i] = padded[i * (D1 + 4) + j] = x[i * D1 + j];
    {
        unsigned long long at_c = put(columns, sizeof columns), at_p = put(padded, sizeof padded);
        unicon_matrix_t c = on_device(at_c, N, D1, UNICON_F32), q = on_device(at_p, N, D1, UNICON_F32), t = m;
        c.row_stride = 1;
        c.col_stride = N;
        q.row_stride = D1 + 4;
        OK(cuda, unicon_model_encode(cuda, host, UNICON_SIDE_X, &c, &zm));
        CHECK(memcmp(zc, zh, sizeof zh) == 0);
        t.row_stride = 1;
        t.col_stride = N;
        OK(cuda, unicon_model_encode(cuda, host, UNICON_SIDE_X, &q, &t));
        CHECK(cuMemcpyDtoH_v2(back, at_z, sizeof back) == 0);
        for (i = 0; i < N; i++)
            for (j = 0; j < R; j++)
                CHECK(back[j * N + i] == zh[i * R + j]);
        CHECK(cuMemFree_v2(at_c) == 0 && cuMemFree_v2(at_p) == 0);
    }

    /* The loss layer: embeddings and gradients on the device. */
    CHECK(cuMemcpyHtoD_v2(at_z, zh, sizeof zh) == 0);
    zm = unicon_matrix_f32(zh, N, R);
    m = on_device(at_z, N, R, UNICON_F32);
    o = on_device(at_g, N, R, UNICON_F32);
    p = on_device(at_g + sizeof g[0], N, R, UNICON_F32);
    OK(cuda, unicon_contrastive_grad(cuda, NULL, PAIRS(&m, &m, NULL), &a, &o, &p));
    CHECK(cuMemcpyDtoH_v2(g, at_g, sizeof g) == 0);
    o = unicon_matrix_f32(zc, N, R);
    p = unicon_matrix_f32(back, N, R);
    OK(cpu, unicon_contrastive_grad(cpu, NULL, PAIRS(&zm, &zm, NULL), &b, &o, &p));
    CHECK(fabs(a - b) < 1e-4);
    for (i = 0; i < N * R; i++)
        CHECK(fabsf(g[0][i] - zc[i]) < 1e-5f && fabsf(g[1][i] - back[i]) < 1e-5f);

    /* NaN on the device is found, and located. */
    x[7 * D1 + 3] = NAN;
    CHECK(cuMemcpyHtoD_v2(at_x, x, sizeof x) == 0);
    unicon_model_destroy(device);
    device = NULL;
    EXPECT(cuda, unicon_fit(cuda, &fit, PAIRS(&xd, &yd, NULL), &device, NULL), UNICON_ERROR_INVALID_ARGUMENT, "row 7");
    refusals(cuda, cpu, &xd, &ym);

    unicon_model_destroy(model);
    unicon_model_destroy(host);
    unicon_model_destroy(device);
    unicon_context_destroy(cpu);
    unicon_context_destroy(cuda);
    unicon_context_destroy(borrowed);
    CHECK(cuStreamDestroy_v2(stream) == 0);
    CHECK(cuMemFree_v2(at_x) == 0 && cuMemFree_v2(at_y) == 0 && cuMemFree_v2(at_z) == 0 && cuMemFree_v2(at_g) == 0);
    return checks_done("cuda");
}
