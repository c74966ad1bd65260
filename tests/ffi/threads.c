/* Contexts in several threads, one context in several threads, cancellation from another thread. */
#include "check.h"

#include <pthread.h>
#include <time.h>

enum { N = 300, D1 = 16, D2 = 12, R = 6, THREADS = 8 };

static float x[N * D1], y[N * D2], expected[N * R];
static unicon_model_t *shared;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *own_context(void *failures)
{
    static const char *const BAD = "x: expected";
    float *z = room(N * R, sizeof *z);
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zm = unicon_matrix_f32(z, N, R);
    unicon_context_options_t options;
    unicon_context_t *context = NULL;
    unicon_fit_options_t fit;
    int i, bad = 0;
    unicon_context_options_init(&options, sizeof options);
    options.n_threads = 1;
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    bad += unicon_context_create(&options, &context) != UNICON_OK;
    for (i = 0; i < 5; i++) {
        unicon_model_t *model = NULL;
        char text[128];
        bad += unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL) != UNICON_OK;
        unicon_model_destroy(model);
        bad += unicon_model_encode(context, shared, UNICON_SIDE_X, &xm, &zm) != UNICON_OK;
        bad += memcmp(z, expected, sizeof expected) != 0;
        bad += unicon_fit(context, &fit, PAIRS(NULL, &ym, NULL), &model, NULL) != UNICON_ERROR_INVALID_ARGUMENT;
        unicon_last_error(context, text, sizeof text);
        bad += strncmp(text, BAD, strlen(BAD)) != 0;
    }
    unicon_context_destroy(context);
    free(z);
    *(int *)failures = bad;
    return NULL;
}

typedef struct contended {
    unicon_context_t *context;
    int ok, busy, other;
} contended;

static void *one_context(void *user)
{
    contended *c = user;
    float *z = room(N * R, sizeof *z);
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), zm = unicon_matrix_f32(z, N, R);
    int i;
    for (i = 0; i < 200; i++) {
        unicon_status_t status = unicon_model_encode(c->context, shared, UNICON_SIDE_X, &xm, &zm);
        if (status == UNICON_OK) {
            c->ok++;
            c->other += memcmp(z, expected, sizeof expected) != 0;
        } else if (status == UNICON_ERROR_BUSY)
            c->busy++;
        else
            c->other++;
    }
    free(z);
    return NULL;
}

typedef struct long_fit {
    unicon_context_t *context;
    volatile long reports, reports_at_cancel;
    volatile int cancelled;
    unicon_status_t status;
} long_fit;

static int32_t watch(const unicon_progress_t *progress, void *user)
{
    long_fit *f = user;
    (void)progress;
    f->reports++;
    return 0;
}

static void *run_long_fit(void *user)
{
    enum { BIG = 4000 };
    long_fit *f = user;
    float *bx = room(BIG * D1, sizeof *bx), *by = room(BIG * D2, sizeof *by);
    unicon_matrix_t xm = unicon_matrix_f32(bx, BIG, D1), ym = unicon_matrix_f32(by, BIG, D2);
    unicon_model_t *model = NULL;
    unicon_fit_options_t fit;
    make_pairs(bx, by, BIG, D1, D2, R, 3);
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    fit.n_iters = 1000000;
    fit.progress = watch;
    fit.progress_user = f;
    f->status = unicon_fit(f->context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL);
    CHECK(!model);
    free(bx);
    free(by);
    return NULL;
}

int main(void)
{
    unicon_context_t *context = NULL;
    unicon_fit_options_t fit;
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zm = unicon_matrix_f32(expected, N, R);
    pthread_t threads[THREADS];
    int failures[THREADS], i;
    make_pairs(x, y, N, D1, D2, R, 7);
    OK(NULL, unicon_context_create(NULL, &context));
    OK(NULL, unicon_fit_options_init(&fit, sizeof fit));
    fit.r = R;
    OK(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &shared, NULL));
    OK(context, unicon_model_encode(context, shared, UNICON_SIDE_X, &xm, &zm));

    for (i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, own_context, &failures[i]) == 0);
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(failures[i] == 0);
    }
    {
        contended c[THREADS];
        int ok = 0, busy = 0;
        for (i = 0; i < THREADS; i++) {
            c[i].context = context;
            c[i].ok = c[i].busy = c[i].other = 0;
            CHECK(pthread_create(&threads[i], NULL, one_context, &c[i]) == 0);
        }
        for (i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            CHECK(c[i].other == 0);
            ok += c[i].ok;
            busy += c[i].busy;
        }
        CHECK(ok > 0 && ok + busy == 200 * THREADS);
        printf("threads: %d calls done, %d busy\n", ok, busy);
    }
    {
        long_fit f = {context, 0, 0, 0, -1};
        double begin;
        CHECK(pthread_create(&threads[0], NULL, run_long_fit, &f) == 0);
        while (f.reports < 20) {
            struct timespec pause = {0, 1000000};
            nanosleep(&pause, NULL);
        }
        begin = now();
        OK(NULL, unicon_cancel(context));
        f.reports_at_cancel = f.reports;
        pthread_join(threads[0], NULL);
        CHECK(f.status == UNICON_ERROR_CANCELLED);
        /* At most the report that finds the request. */
        CHECK(f.reports <= f.reports_at_cancel + 1);
        printf("threads: cancelled after %.1f ms, %ld more reports\n", 1e3 * (now() - begin), f.reports - f.reports_at_cancel);
        /* The request does not outlive the call. */
        OK(context, unicon_model_encode(context, shared, UNICON_SIDE_X, &xm, &zm));
    }
    unicon_model_destroy(shared);
    unicon_context_destroy(context);
    return checks_done("threads");
}
