/* Fits over ranks through the caller's communicator: threads, each with a context and some of the rows. */
#include "check.h"
#include "ranks.h"

enum { N = 900, D1 = 14, D2 = 11, R = 5, SIZE = 3 };

static float x[N * D1], y[N * D2], expected[N * R];
static int64_t ids[N];
static const int first[SIZE + 1] = {0, 250, 700, N}; /* shares need not be equal */

typedef struct job {
    rank_t rank;
    int kind;          /* 0 diagonal, 1 groups, 2 CSR, 3 best */
    int cancel;        /* cancels after so many updates; 0: never */
    unicon_status_t status;
    char text[512];
    double loss;
    float z[N * R];
} job_t;

static int32_t cancels(const unicon_progress_t *progress, void *user)
{
    return progress->phase == UNICON_PHASE_ITERATION && progress->done >= *(int *)user;
}

/* One rank; or all of the rows on one, for comparison. */
static void *work(void *argument)
{
    job_t *job = argument;
    int alone = job->rank.all == NULL, n = job->rank.number;
    int from = alone ? 0 : first[n], to = alone ? N : first[n + 1], rows = to - from, i;
    unicon_matrix_t xm = unicon_matrix_f32(x + from * D1, rows, D1), ym = unicon_matrix_f32(y + from * D2, rows, D2),
                    all = unicon_matrix_f32(x, N, D1), zm = unicon_matrix_f32(job->z, N, R);
    unicon_communicator_t communicator;
    unicon_context_options_t options;
    unicon_fit_options_t fit;
    unicon_best_options_t best;
    told_t info;
    unicon_positives_t positives;
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL;
    int64_t *indptr = room((size_t)rows + 1, sizeof *indptr), *indices = room((size_t)rows, sizeof *indices);
    unicon_context_options_init(&options, sizeof options);
    options.n_threads = 1;
    if (!alone) {
        communicator = rank_communicator(&job->rank);
        options.communicator = &communicator;
    }
    unicon_positives_init(&positives, sizeof positives);
    if (job->kind == 1) {
        positives.kind = UNICON_POSITIVES_GROUPS;
        positives.x_groups = positives.y_groups = ids + from;
    } else if (job->kind == 2) { /* own rows, columns of all ranks: row i matches column N - 1 - i */
        for (i = 0; i < rows; i++) {
            indptr[i + 1] = i + 1;
            indices[i] = N - 1 - (from + i);
        }
        positives.kind = UNICON_POSITIVES_CSR;
        positives.indptr = indptr;
        positives.indices = indices;
        positives.nnz = rows;
    }
    unicon_fit_options_init(&fit, sizeof fit);
    unicon_best_options_init(&best, sizeof best);
    fit.r = best.r = R;
    fit.whiten = 0.1;
    fit.n_iters = job->cancel ? 1000000 : 2;
    best.final_loss = 1;
    if (job->cancel) {
        fit.progress = cancels;
        fit.progress_user = &job->cancel;
    }
    job->status = unicon_context_create(&options, &context);
    if (job->status == UNICON_OK) {
        job->status = job->kind == 3
                          ? best_told(context, &best, PAIRS(&xm, &ym, &positives), &model, &info)
                          : fit_told(context, &fit, PAIRS(&xm, &ym, &positives), &model, &info);
        unicon_last_error(context, job->text, sizeof job->text);
    }
    job->loss = info.final_loss;
    /* Everything else works on what a rank is given, alone. */
    if (job->status == UNICON_OK)
        job->status = unicon_model_encode(context, model, UNICON_SIDE_X, &all, &zm);
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    free(indptr);
    free(indices);
    return NULL;
}

static void run(job_t *jobs, ranks_t *all, int kind, long fail_at, int cancel)
{
    pthread_t threads[SIZE];
    int n;
    ranks_init(all, SIZE);
    for (n = 0; n < SIZE; n++) {
        memset(&jobs[n], 0, sizeof jobs[n]);
        jobs[n].rank.all = all;
        jobs[n].rank.number = n;
        jobs[n].rank.fail_at = n == 1 ? fail_at : 0;
        jobs[n].kind = kind;
        jobs[n].cancel = n == 2 ? cancel : cancel ? 1 << 30 : 0;
        CHECK(pthread_create(&threads[n], NULL, work, &jobs[n]) == 0);
    }
    for (n = 0; n < SIZE; n++)
        pthread_join(threads[n], NULL);
    ranks_end(all);
}

int main(void)
{
    job_t *jobs = room(SIZE, sizeof *jobs), *alone = room(1, sizeof *alone);
    ranks_t all;
    long calls, k;
    int kind, n, i;
    make_pairs(x, y, N, D1, D2, R, 21);
    for (i = 0; i < N; i++)
        ids[i] = i / 2;
    for (kind = 0; kind <= 3; kind++) {
        memset(alone, 0, sizeof *alone);
        alone->kind = kind;
        work(alone);
        CHECK(alone->status == UNICON_OK);
        memcpy(expected, alone->z, sizeof expected);
        run(jobs, &all, kind, 0, 0);
        for (n = 0; n < SIZE; n++) {
            if (jobs[n].status != UNICON_OK)
                fprintf(stderr, "kind %d, rank %d: %s\n", kind, n, jobs[n].text);
            CHECK(jobs[n].status == UNICON_OK && jobs[n].rank.calls > 10);
            /* Sums do not depend on the number of ranks: to the bit. */
            CHECK(memcmp(jobs[n].z, expected, sizeof expected) == 0);
            CHECK(jobs[n].loss == alone->loss);
        }
    }
    run(jobs, &all, 0, 0, 0);
    calls = jobs[1].rank.calls;
    printf("ranks: %d ranks, %ld calls of a communicator\n", SIZE, calls);
    for (k = 1; k <= calls; k += 1 + calls / 16) { /* a communicator that fails, early and late */
        run(jobs, &all, 0, k, 0);
        for (n = 0; n < SIZE; n++)
            CHECK(jobs[n].status == UNICON_ERROR_COMM && strstr(jobs[n].text, "communicator"));
    }
    run(jobs, &all, 0, 0, 3); /* one rank cancels: it is cancelled, and the others learn of it */
    for (n = 0; n < SIZE; n++)
        CHECK(n == 2 ? jobs[n].status == UNICON_ERROR_CANCELLED : jobs[n].status == UNICON_ERROR_COMM && strstr(jobs[n].text, "rank 2"));
    { /* Calls of one rank alone end at once where they were cancelled before, whatever the number of ranks. */
        static float f[R * D1], g[R * D2];
        unicon_matrix_t fm = unicon_matrix_f32(f, R, D1), gm = unicon_matrix_f32(g, R, D2);
        unicon_context_options_t options;
        unicon_communicator_t communicator;
        unicon_context_t *context = NULL;
        unicon_model_t *model = NULL;
        f[0] = g[0] = 1;
        ranks_init(&all, SIZE);
        memset(&jobs[0], 0, sizeof jobs[0]);
        jobs[0].rank.all = &all;
        communicator = rank_communicator(&jobs[0].rank);
        OK(NULL, unicon_context_options_init(&options, sizeof options));
        options.communicator = &communicator;
        OK(NULL, unicon_context_create(&options, &context));
        OK(NULL, unicon_cancel(context));
        EXPECT(context, unicon_model_create_linear(context, &fm, &gm, &model), UNICON_ERROR_CANCELLED, "cancelled");
        CHECK(!model && jobs[0].rank.calls == 0);
        OK(context, unicon_model_create_linear(context, &fm, &gm, &model));
        unicon_model_destroy(model);
        unicon_context_destroy(context);
        ranks_end(&all);
    }
    free(jobs);
    free(alone);
    return checks_done("ranks");
}
