/*
 * Contexts in threads: one model, used by several threads at once, each with its own context; and a fit that another thread stops.
 *
 *     cc threads.c -o threads $(pkg-config --cflags --libs unicon) -lpthread
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unicon.h>

enum { N = 4000, D1 = 32, D2 = 24, R = 8, THREADS = 4, PART = N / THREADS };

static float x[N * D1], y[N * D2], z[N * R], again[N * R];
static unicon_model_t *model;

/* Encodes one part of the rows. */
static void *encode_part(void *argument)
{
    const long part = (long)(size_t)argument;
    unicon_matrix_t in = unicon_matrix_f32(x + part * PART * D1, PART, D1), out = unicon_matrix_f32(again + part * PART * R, PART, R);
    unicon_context_options_t options;
    unicon_context_t *context = NULL;
    int done = 0;
    unicon_context_options_init(&options, sizeof options);
    options.n_threads = 1; /* the threads are ours */
    if (unicon_context_create(&options, &context) == UNICON_OK
        && unicon_model_encode(context, model, UNICON_SIDE_X, &in, &out) == UNICON_OK)
        done = 1;
    unicon_context_destroy(context);
    return done ? NULL : &model; /* any address but NULL is a failure */
}

typedef struct job {
    unicon_context_t *context;
    pthread_mutex_t lock;
    pthread_cond_t begun;
    int reports;
    unicon_status_t status;
} job_t;

static int32_t report(const unicon_progress_t *progress, void *user)
{
    job_t *job = user;
    (void)progress;
    pthread_mutex_lock(&job->lock);
    job->reports++;
    pthread_cond_signal(&job->begun);
    pthread_mutex_unlock(&job->lock);
    return 0;
}

/* A fit that would take for ever. */
static void *fit_for_ever(void *argument)
{
    job_t *job = argument;
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2);
    unicon_pairs_t pairs = unicon_pairs(&xm, &ym, NULL);
    unicon_fit_options_t options;
    unicon_model_t *never = NULL;
    unicon_fit_options_init(&options, sizeof options);
    options.r = R;
    options.n_iters = 1000000000;
    options.progress = report;
    options.progress_user = job;
    job->status = unicon_fit(job->context, &options, &pairs, &never, NULL);
    return NULL;
}

int main(void)
{
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zm = unicon_matrix_f32(z, N, R);
    unicon_pairs_t pairs = unicon_pairs(&xm, &ym, NULL);
    job_t job = {NULL, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, UNICON_OK};
    unicon_fit_options_t options;
    pthread_t threads[THREADS];
    long i;
    for (i = 0; i < N * D1; i++)
        x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (i = 0; i < N * D2; i++)
        y[i] = x[i / D2 * D1 + i % D2] + 0.1f * (float)rand() / (float)RAND_MAX;
    unicon_fit_options_init(&options, sizeof options);
    options.r = R;
    if (unicon_context_create(NULL, &job.context) != UNICON_OK
        || unicon_fit(job.context, &options, &pairs, &model, NULL) != UNICON_OK
        || unicon_model_encode(job.context, model, UNICON_SIDE_X, &xm, &zm) != UNICON_OK)
        return 1;

    for (i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, encode_part, (void *)(size_t)i);
    for (i = 0; i < THREADS; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        if (failed)
            return 1;
    }
    printf("%d threads encoded %d rows: %s\n", THREADS, N, memcmp(z, again, sizeof z) == 0 ? "the same to the bit" : "different");
    if (memcmp(z, again, sizeof z) != 0)
        return 1;

    pthread_create(&threads[0], NULL, fit_for_ever, &job);
    pthread_mutex_lock(&job.lock);
    while (job.reports < 5)
        pthread_cond_wait(&job.begun, &job.lock);
    pthread_mutex_unlock(&job.lock);
    unicon_cancel(job.context);
    pthread_join(threads[0], NULL);
    printf("the long fit: %s\n", unicon_status_string(job.status));

    unicon_model_destroy(model);
    unicon_context_destroy(job.context);
    return job.status == UNICON_ERROR_CANCELLED ? 0 : 1;
}
