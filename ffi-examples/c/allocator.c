/*
 * The caller's allocator and memory limit: how much a fit will need, that it keeps to it, and what happens when it cannot.
 *
 *     cc allocator.c -o allocator $(pkg-config --cflags --libs unicon) -lpthread
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <unicon.h>

enum { N = 2000, D1 = 32, D2 = 24, R = 8 };

typedef struct pool {
    pthread_mutex_t lock; /* both functions may be called from several threads at once */
    size_t now, peak, calls;
} pool_t;

static void *take(void *user, size_t size, size_t alignment)
{
    pool_t *pool = user;
    void *data = NULL;
    if (posix_memalign(&data, alignment, size))
        return NULL; /* the call returns UNICON_ERROR_OUT_OF_MEMORY */
    pthread_mutex_lock(&pool->lock);
    pool->calls++;
    pool->now += size;
    if (pool->now > pool->peak)
        pool->peak = pool->now;
    pthread_mutex_unlock(&pool->lock);
    return data;
}

static void give(void *user, void *data, size_t size, size_t alignment)
{
    pool_t *pool = user;
    (void)alignment;
    pthread_mutex_lock(&pool->lock);
    pool->now -= size;
    pthread_mutex_unlock(&pool->lock);
    free(data);
}

/* A fit under a limit; 0 for none. */
static unicon_status_t fit_within(uint64_t limit, pool_t *pool, const unicon_fit_options_t *fit, const unicon_pairs_t *pairs)
{
    unicon_allocator_t allocator = {take, give, pool};
    unicon_context_options_t options;
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL;
    unicon_status_t status;
    char text[512];
    unicon_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    options.workspace_limit = limit;
    status = unicon_context_create(&options, &context);
    if (status == UNICON_OK)
        status = unicon_fit(context, fit, pairs, &model, NULL);
    if (status != UNICON_OK) {
        unicon_last_error(context, text, sizeof text);
        printf("    %s\n", text);
    }
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    return status;
}

int main(void)
{
    static float x[N * D1], y[N * D2];
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2);
    unicon_pairs_t pairs = unicon_pairs(&xm, &ym, NULL);
    unicon_sizes_t sizes;
    pool_t pool = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0};
    unicon_context_t *context = NULL;
    unicon_fit_options_t fit;
    uint64_t bytes = 0;
    int i;
    for (i = 0; i < N * D1; i++)
        x[i] = (float)rand() / (float)RAND_MAX;
    for (i = 0; i < N * D2; i++)
        y[i] = (float)rand() / (float)RAND_MAX;
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    fit.whiten = 0.1;
    unicon_sizes_init(&sizes, sizeof sizes);
    sizes.n_x = sizes.n_y = N;
    sizes.d1 = D1;
    sizes.d2 = D2;
    if (unicon_context_create(NULL, &context) != UNICON_OK
        || unicon_fit_workspace(context, &fit, &sizes, &bytes) != UNICON_OK)
        return 1;
    unicon_context_destroy(context);
    printf("a fit of %d pairs will hold at most %llu bytes\n", N, (unsigned long long)bytes);
    if (fit_within(bytes, &pool, &fit, &pairs) != UNICON_OK)
        return 1;
    printf("within that limit: %zu allocations, %zu bytes at most, %zu left\n", pool.calls, pool.peak, pool.now);
    printf("within half of it:\n");
    if (pool.peak > bytes || pool.now != 0 || fit_within(bytes / 2, &pool, &fit, &pairs) != UNICON_ERROR_OUT_OF_MEMORY)
        return 1;
    return pool.now == 0 ? 0 : 1;
}
