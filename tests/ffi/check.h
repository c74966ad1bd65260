/* What the C tests share: checks that name their line, data, and a plain reference in double precision. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unicon.h"

static int checks_failed;
static long checks_made;

#define CHECK(condition)                                                                                              \
    do {                                                                                                              \
        checks_made++;                                                                                                \
        if (!(condition)) {                                                                                           \
            checks_failed++;                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                           \
        }                                                                                                             \
    } while (0)

/* The call gives `status`; its text contains `text`. */
#define EXPECT(context, call, status, text)                                                                           \
    do {                                                                                                              \
        unicon_status_t got_ = (call);                                                                                \
        char buffer_[512];                                                                                            \
        unicon_last_error(context, buffer_, sizeof buffer_);                                                          \
        checks_made++;                                                                                                \
        if (got_ != (status) || !strstr(buffer_, text)) {                                                             \
            checks_failed++;                                                                                          \
            fprintf(stderr, "%s:%d: %s\n    gave %s (%s), expected %s with \"%s\"\n", __FILE__, __LINE__, #call,      \
                    unicon_status_string(got_), buffer_, unicon_status_string(status), text);                         \
        }                                                                                                             \
    } while (0)

/* The call succeeds. */
#define OK(context, call)                                                                                             \
    do {                                                                                                              \
        unicon_status_t got_ = (call);                                                                                \
        char buffer_[512];                                                                                            \
        checks_made++;                                                                                                \
        if (got_ != UNICON_OK) {                                                                                      \
            unicon_last_error(context, buffer_, sizeof buffer_);                                                      \
            checks_failed++;                                                                                          \
            fprintf(stderr, "%s:%d: %s\n    gave %s (%s)\n", __FILE__, __LINE__, #call, unicon_status_string(got_),   \
                    buffer_);                                                                                         \
        }                                                                                                             \
    } while (0)

/* Pairs, sizes and options as temporaries. */
#define PAIRS(x, y, positives) (&(unicon_pairs_t){sizeof(unicon_pairs_t), x, y, positives})
#define SIZES(n_x, n_y, d1, d2, m_x, m_y, dtype)                                                                       \
    (&(unicon_sizes_t){sizeof(unicon_sizes_t), n_x, n_y, d1, d2, m_x, m_y, dtype, 0})
#define WEIGHTS(loss) (&(unicon_weights_options_t){sizeof(unicon_weights_options_t), loss, 0, 0})

static inline int checks_done(const char *name)
{
    printf("%s: %ld checks, %d failed\n", name, checks_made, checks_failed);
    return checks_failed ? 1 : 0;
}

/* Uniform in (-1, 1). */
static inline double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(*state >> 11) / 4503599627370496.0 - 1.0;
}

static inline void *room(size_t count, size_t size)
{
    void *p = calloc(count, size);
    if (!p)
        abort();
    return p;
}

/* Two views of common latent points: x is n by d1, y is n by d2. */
static inline void make_pairs(float *x, float *y, int n, int d1, int d2, int latent, uint64_t seed)
{
    uint64_t state = seed;
    double *a = room((size_t)(d1 * latent), sizeof *a), *b = room((size_t)(d2 * latent), sizeof *b), z[64];
    int i, j, k;
    for (i = 0; i < d1 * latent; i++)
        a[i] = uniform(&state);
    for (i = 0; i < d2 * latent; i++)
        b[i] = uniform(&state);
    for (i = 0; i < n; i++) {
        for (k = 0; k < latent; k++)
            z[k] = uniform(&state);
        for (j = 0; j < d1; j++) {
            double s = 0.05 * uniform(&state);
            for (k = 0; k < latent; k++)
                s += a[j * latent + k] * z[k];
            x[i * d1 + j] = (float)s;
        }
        for (j = 0; j < d2; j++) {
            double s = 0.05 * uniform(&state);
            for (k = 0; k < latent; k++)
                s += b[j * latent + k] * z[k];
            y[i * d2 + j] = (float)s;
        }
    }
    free(a);
    free(b);
}

/* Unit rows. */
static inline void make_unit(double *z, int n, int r, uint64_t seed)
{
    uint64_t state = seed;
    int i, k;
    for (i = 0; i < n; i++) {
        double norm = 0;
        for (k = 0; k < r; k++) {
            z[i * r + k] = uniform(&state);
            norm += z[i * r + k] * z[i * r + k];
        }
        for (k = 0; k < r; k++)
            z[i * r + k] /= sqrt(norm);
    }
}

/* The clip loss with nu = 1 by its definition, and S = -dL/ds (n by n), one-to-one. */
static inline double clip_reference(const double *zx, const double *zy, int n, int r, double tau, double *s_out)
{
    double *e = room((size_t)n * (size_t)n, sizeof *e), *row = room((size_t)n, sizeof *row),
           *col = room((size_t)n, sizeof *col), loss = 0;
    int i, j, k;
    for (i = 0; i < n; i++)
        for (j = 0; j < n; j++) {
            double s = 0;
            for (k = 0; k < r; k++)
                s += zx[i * r + k] * zy[j * r + k];
            e[i * n + j] = exp(s / tau);
            row[i] += e[i * n + j];
            col[j] += e[i * n + j];
        }
    for (i = 0; i < n; i++) {
        loss -= tau * (log(e[i * n + i] / row[i]) + log(e[i * n + i] / col[i])) / (2.0 * n);
        for (j = 0; j < n; j++)
            s_out[i * n + j] = ((i == j) - 0.5 * (e[i * n + j] / row[i] + e[i * n + j] / col[j])) / n;
    }
    free(e);
    free(row);
    free(col);
    return loss;
}

/* What a fit told, of which tests look at much: absent reals are NaN, absent integers -1. */
enum { TOLD = 64 };
typedef struct told {
    int64_t outcome, n_iters, rows_dropped, workspace_bytes, peak_bytes, evaluations, r, rows_held_back, cols_held_back;
    int64_t n_loss, n_change, n_singular_values, n_trace;
    double final_loss, seconds, whiten, power, tau;
    double loss[TOLD], change[TOLD], singular_values[TOLD];
    struct {
        double seconds[TOLD], loss[TOLD], score[TOLD], negatives[TOLD];
    } trace;
} told_t;

static inline double told_real(const unicon_report_t *report, int32_t key)
{
    double value = NAN;
    unicon_status_t status = unicon_report_real(report, key, &value);
    CHECK(status == UNICON_OK || (status == UNICON_ERROR_NO_VALUE && isnan(value)));
    return value;
}

static inline int64_t told_integer(const unicon_report_t *report, int32_t key)
{
    int64_t value = -1;
    unicon_status_t status = unicon_report_integer(report, key, &value);
    CHECK(status == UNICON_OK || (status == UNICON_ERROR_NO_VALUE && value == -1));
    return value;
}

static inline int64_t told_series(const unicon_report_t *report, int32_t key, double *values)
{
    int64_t count = -1;
    unicon_status_t status = unicon_report_series(report, key, values, TOLD, &count);
    CHECK(status == UNICON_OK || (status == UNICON_ERROR_NO_VALUE && count == -1));
    return count;
}

/* Reads a report, which is destroyed. */
static inline void tell(unicon_report_t *report, told_t *told)
{
    told->outcome = told_integer(report, UNICON_REPORT_OUTCOME);
    told->n_iters = told_integer(report, UNICON_REPORT_N_ITERS);
    told->rows_dropped = told_integer(report, UNICON_REPORT_ROWS_DROPPED);
    told->workspace_bytes = told_integer(report, UNICON_REPORT_WORKSPACE_BYTES);
    told->peak_bytes = told_integer(report, UNICON_REPORT_PEAK_BYTES);
    told->evaluations = told_integer(report, UNICON_REPORT_EVALUATIONS);
    told->r = told_integer(report, UNICON_REPORT_R);
    told->rows_held_back = told_integer(report, UNICON_REPORT_ROWS_HELD_BACK);
    told->cols_held_back = told_integer(report, UNICON_REPORT_COLS_HELD_BACK);
    told->final_loss = told_real(report, UNICON_REPORT_FINAL_LOSS);
    told->seconds = told_real(report, UNICON_REPORT_SECONDS);
    told->whiten = told_real(report, UNICON_REPORT_WHITEN);
    told->power = told_real(report, UNICON_REPORT_POWER);
    told->tau = told_real(report, UNICON_REPORT_TAU);
    told->n_loss = told_series(report, UNICON_REPORT_LOSS, told->loss);
    told->n_change = told_series(report, UNICON_REPORT_CHANGE, told->change);
    told->n_singular_values = told_series(report, UNICON_REPORT_SINGULAR_VALUES, told->singular_values);
    told->n_trace = told_series(report, UNICON_REPORT_TRACE_SECONDS, told->trace.seconds);
    CHECK(told_series(report, UNICON_REPORT_TRACE_LOSS, told->trace.loss) == told->n_trace);
    CHECK(told_series(report, UNICON_REPORT_TRACE_SCORE, told->trace.score) == told->n_trace);
    CHECK(told_series(report, UNICON_REPORT_TRACE_NEGATIVES, told->trace.negatives) == told->n_trace);
    unicon_report_destroy(report);
}

static inline unicon_status_t fit_told(unicon_context_t *context, const unicon_fit_options_t *options,
                                       const unicon_pairs_t *pairs, unicon_model_t **model, told_t *told)
{
    unicon_report_t *report = NULL;
    unicon_status_t status = unicon_fit(context, options, pairs, model, &report);
    if (report)
        tell(report, told);
    return status;
}

static inline unicon_status_t best_told(unicon_context_t *context, const unicon_best_options_t *options,
                                        const unicon_pairs_t *pairs, unicon_model_t **model, told_t *told)
{
    unicon_report_t *report = NULL;
    unicon_status_t status = unicon_fit_best(context, options, pairs, model, &report);
    if (report)
        tell(report, told);
    return status;
}

/* Largest |a - b|. */
static inline double distance(const double *a, const double *b, long n)
{
    double worst = 0;
    long i;
    for (i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= worst))
            worst = fabs(a[i] - b[i]);
    return worst;
}

#endif
