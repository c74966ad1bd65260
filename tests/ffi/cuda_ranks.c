/* Fits over ranks on CUDA contexts: threads that share a device, through host callbacks and through NCCL's functions, which this
 * program has itself: device memory of the stand-in driver can be read by the host. */
#include "check.h"
#include "ranks.h"

enum { N = 600, D1 = 9, D2 = 7, R = 3, SIZE = 2 };

extern int cuStreamSynchronize(void *stream);

static float x[N * D1], y[N * D2];
static const int first[SIZE + 1] = {0, 150, N};

/* NCCL as the library looks it up. */
int ncclAllGather(const void *sent, void *received, size_t count, int type, void *comm, void *stream);
int ncclSend(const void *data, size_t count, int type, int to, void *comm, void *stream);
int ncclRecv(void *data, size_t count, int type, int from, void *comm, void *stream);
int ncclGroupStart(void);
int ncclGroupEnd(void);
int ncclCommCount(void *comm, int *size);
int ncclCommUserRank(void *comm, int *rank);

static __thread struct {
    rank_t *rank;
    const void *sent;
    void *received;
    size_t out, back;
    int to, from;
} step;
static long moved; /* bytes that NCCL was given, of rank 0 */

int ncclAllGather(const void *sent, void *received, size_t count, int type, void *comm, void *stream)
{
    if (type != 0 || cuStreamSynchronize(stream) != 0)
        return 5;
    return rank_allgather(comm, sent, received, (int64_t)count, UNICON_DEVICE_CPU, NULL);
}

int ncclSend(const void *data, size_t count, int type, int to, void *comm, void *stream)
{
    step.rank = comm, step.sent = data, step.out = count, step.to = to;
    if (step.rank->number == 0)
        moved += (long)count;
    return type == 0 ? cuStreamSynchronize(stream) : 4;
}

int ncclRecv(void *data, size_t count, int type, int from, void *comm, void *stream)
{
    step.rank = comm, step.received = data, step.back = count, step.from = from;
    return type == 0 ? cuStreamSynchronize(stream) : 4;
}

int ncclGroupStart(void)
{
    memset(&step, 0, sizeof step);
    return 0;
}

int ncclGroupEnd(void)
{
    if (!step.rank)
        return 0;
    return rank_move(step.rank, step.sent, (int64_t)step.out, step.to, step.received, (int64_t)step.back, step.from);
}

int ncclCommCount(void *comm, int *size)
{
    *size = ((rank_t *)comm)->all->size;
    return 0;
}

int ncclCommUserRank(void *comm, int *rank)
{
    *rank = ((rank_t *)comm)->number;
    return 0;
}

typedef struct job {
    rank_t rank;
    int nccl;
    unicon_status_t status;
    char text[512];
    double loss;
} job_t;

static void *work(void *argument)
{
    job_t *job = argument;
    int alone = job->rank.all == NULL, n = job->rank.number;
    int from = alone ? 0 : first[n], rows = alone ? N : first[n + 1] - from;
    unicon_matrix_t xm = unicon_matrix_f32(x + from * D1, rows, D1), ym = unicon_matrix_f32(y + from * D2, rows, D2);
    unicon_communicator_t communicator;
    unicon_context_options_t options;
    unicon_fit_options_t fit;
    told_t info;
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL;
    unicon_context_options_init(&options, sizeof options);
    options.device_type = UNICON_DEVICE_CUDA;
    options.precision = UNICON_F32;
    options.n_threads = 1;
    if (!alone) {
        communicator = rank_communicator(&job->rank);
        if (job->nccl)
            CHECK(unicon_communicator_nccl(&job->rank, &communicator) == UNICON_OK);
        options.communicator = &communicator;
    }
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    fit.whiten = 0.1;
    job->status = unicon_context_create(&options, &context);
    if (job->status == UNICON_OK) {
        job->status = fit_told(context, &fit, PAIRS(&xm, &ym, NULL), &model, &info);
        unicon_last_error(context, job->text, sizeof job->text);
    }
    job->loss = info.final_loss;
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    return NULL;
}

static void run(job_t *jobs, int nccl, long fail_at)
{
    pthread_t threads[SIZE];
    ranks_t all;
    int n;
    ranks_init(&all, SIZE);
    for (n = 0; n < SIZE; n++) {
        memset(&jobs[n], 0, sizeof jobs[n]);
        jobs[n].rank.all = &all;
        jobs[n].rank.number = n;
        jobs[n].rank.fail_at = n == 1 ? fail_at : 0;
        jobs[n].nccl = nccl;
        CHECK(pthread_create(&threads[n], NULL, work, &jobs[n]) == 0);
    }
    for (n = 0; n < SIZE; n++)
        pthread_join(threads[n], NULL);
    ranks_end(&all);
}

int main(void)
{
    job_t *jobs = room(SIZE, sizeof *jobs), *alone = room(1, sizeof *alone);
    unicon_context_options_t options;
    unicon_communicator_t communicator;
    unicon_context_t *context = NULL;
    rank_t rank;
    ranks_t all;
    double loss[2];
    int nccl, n;
    make_pairs(x, y, N, D1, D2, R, 21);
    memset(alone, 0, sizeof *alone);
    work(alone);
    CHECK(alone->status == UNICON_OK);
    for (nccl = 0; nccl < 2; nccl++) {
        run(jobs, nccl, 0);
        for (n = 0; n < SIZE; n++) {
            if (jobs[n].status != UNICON_OK)
                fprintf(stderr, "nccl %d, rank %d: %s\n", nccl, n, jobs[n].text);
            CHECK(jobs[n].status == UNICON_OK && jobs[n].rank.calls > 10);
            /* Sums in fp32 that are cut elsewhere. */
            CHECK(jobs[n].loss > alone->loss * (1 - 1e-5) && jobs[n].loss < alone->loss * (1 + 1e-5));
            CHECK(jobs[n].loss == jobs[0].loss);
        }
        loss[nccl] = jobs[0].loss;
    }
    CHECK(loss[0] == loss[1] && moved > 4L * R * N);
    for (nccl = 0; nccl < 2; nccl++) { /* a transport that fails ends all */
        run(jobs, nccl, 40);
        for (n = 0; n < SIZE; n++)
            CHECK(jobs[n].status == UNICON_ERROR_COMM && strstr(jobs[n].text, "communicator"));
    }
    /* NCCL moves device memory, of which a CPU context has none. */
    ranks_init(&all, 1);
    memset(&rank, 0, sizeof rank);
    rank.all = &all;
    CHECK(unicon_communicator_init(&communicator, sizeof communicator) == UNICON_OK);
    CHECK(unicon_communicator_nccl(&rank, &communicator) == UNICON_OK);
    unicon_context_options_init(&options, sizeof options);
    options.communicator = &communicator;
    CHECK(unicon_context_create(&options, &context) == UNICON_ERROR_UNSUPPORTED);
    ranks_end(&all);
    free(jobs);
    free(alone);
    return checks_done("cuda_ranks");
}
