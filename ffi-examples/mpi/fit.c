/*
 * A fit shared out over the ranks of an MPI communicator that the program owns: every rank brings its own rows of both
 * sides and gets the same model. UniCon links no MPI; it calls back.
 *
 *     mpicc fit.c -o fit $(pkg-config --cflags --libs unicon)
 *     mpirun -n 4 ./fit 100000 model.safetensors
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <mpi.h>
#include <unicon.h>

/* MPI counts are ints: long messages go in parts of this many bytes. */
enum { PART = 1 << 30 };

static int32_t allgather(void *user, const void *sent, void *received, int64_t bytes, int32_t device_type, void *stream)
{
    (void)stream;
    if (device_type != UNICON_DEVICE_CPU || bytes > PART)
        return -1;
    return MPI_Allgather(sent, (int)bytes, MPI_BYTE, received, (int)bytes, MPI_BYTE, *(MPI_Comm *)user);
}

static int32_t send_recv(void *user, const void *sent, int64_t send_bytes, int32_t to, void *received,
                         int64_t receive_bytes, int32_t from, int32_t device_type, void *stream)
{
    MPI_Comm comm = *(MPI_Comm *)user;
    (void)stream;
    if (device_type != UNICON_DEVICE_CPU)
        return -1;
    while (send_bytes > 0 || receive_bytes > 0) {
        int out = send_bytes < PART ? (int)send_bytes : PART, back = receive_bytes < PART ? (int)receive_bytes : PART;
        int status = MPI_Sendrecv(sent, out, MPI_BYTE, out ? to : MPI_PROC_NULL, 0, received, back, MPI_BYTE,
                                  back ? from : MPI_PROC_NULL, 0, comm, MPI_STATUS_IGNORE);
        if (status != MPI_SUCCESS)
            return status;
        sent = (const char *)sent + out;
        received = (char *)received + back;
        send_bytes -= out;
        receive_bytes -= back;
    }
    return 0;
}

/* Row i of a side: what both sides share, turned by the side, and noise. The same on whatever rank. */
static void row(int64_t i, int side, int64_t d, float *out)
{
    int64_t j, k;
    for (j = 0; j < d; j++) {
        double value = 0;
        for (k = 0; k < 8; k++)
            value += sin(0.7 * (double)(i + 1) * (double)(k + 1)) * cos((double)(j + 1) * (double)(k + 2 + side));
        out[j] = (float)(value + 0.3 * sin(12.9898 * (double)i + 78.233 * (double)j + side));
    }
}

int main(int argc, char **argv)
{
    enum { D1 = 48, D2 = 40 };
    MPI_Comm comm = MPI_COMM_WORLD;
    int rank, size, failed = 1;
    int64_t n, first, end, i;
    float *x, *y;
    unicon_communicator_t ranks;
    unicon_context_options_t context_options;
    unicon_context_t *context = NULL;
    unicon_model_t *model = NULL;
    unicon_fit_options_t options;
    unicon_report_t *report = NULL;
    unicon_matrix_t xm, ym;
    unicon_pairs_t pairs;
    double loss;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    if (argc != 3 || (n = atol(argv[1])) < size) {
        if (rank == 0)
            fprintf(stderr, "usage: fit PAIRS MODEL\n");
        MPI_Finalize();
        return 2;
    }
    /* Uneven on purpose: rank k has about k + 1 shares. */
    first = n * rank * (rank + 1) / ((int64_t)size * (size + 1));
    end = n * (rank + 1) * (rank + 2) / ((int64_t)size * (size + 1));
    x = malloc(sizeof *x * (size_t)((end - first) * D1 + 1));
    y = malloc(sizeof *y * (size_t)((end - first) * D2 + 1));
    for (i = first; x && y && i < end; i++) {
        row(i, 0, D1, x + (i - first) * D1);
        row(i, 1, D2, y + (i - first) * D2);
    }

    unicon_communicator_init(&ranks, sizeof ranks);
    ranks.rank = rank;
    ranks.size = size;
    ranks.allgather = allgather;
    ranks.send_recv = send_recv;
    ranks.user = &comm;
    unicon_context_options_init(&context_options, sizeof context_options);
    context_options.communicator = &ranks;
    context_options.n_threads = 1;
    if (!x || !y || unicon_context_create(&context_options, &context) != UNICON_OK)
        goto done;
    xm = unicon_matrix_f32(x, end - first, D1);
    ym = unicon_matrix_f32(y, end - first, D2);
    pairs = unicon_pairs(&xm, &ym, NULL);
    unicon_fit_options_init(&options, sizeof options);
    options.r = 8;
    options.whiten = 0.1;
    if (unicon_fit(context, &options, &pairs, &model, &report) != UNICON_OK
        || unicon_report_real(report, UNICON_REPORT_FINAL_LOSS, &loss) != UNICON_OK)
        goto done;
    if (rank == 0) {
        printf("%lld pairs on %d ranks: loss %.6f\n", (long long)n, size, loss);
        if (unicon_model_save(context, model, argv[2]) != UNICON_OK)
            goto done;
    }
    failed = 0;
done:
    if (failed) {
        char text[512];
        if (unicon_last_error(NULL, text, sizeof text))
            fprintf(stderr, "rank %d: %s\n", rank, text);
    }
    unicon_report_destroy(report);
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    free(x);
    free(y);
    MPI_Finalize();
    return failed;
}
