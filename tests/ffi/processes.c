/* fork() after the library was used, and callers with small stacks. */
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 700, D1 = 24, D2 = 20, R = 6, STACK = 64 << 10 };

static float x[N * D1], y[N * D2], expected[N * R];
static unicon_context_t *context;
static unicon_model_t *model;

/* Fits and encodes on a context as the parent did: the number of things that went wrong. */
static int same_again(unicon_context_t *c)
{
    float *z = room(N * R, sizeof *z);
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2), zm = unicon_matrix_f32(z, N, R);
    unicon_fit_options_t fit;
    unicon_model_t *again = NULL;
    int bad = 0;
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    fit.whiten = 0.1;
    bad += unicon_fit(c, &fit, PAIRS(&xm, &ym, NULL), &again, NULL) != UNICON_OK;
    bad += unicon_model_encode(c, again, UNICON_SIDE_X, &xm, &zm) != UNICON_OK;
    bad += memcmp(z, expected, sizeof expected) != 0;
    bad += model && (unicon_model_encode(c, model, UNICON_SIDE_X, &xm, &zm) != UNICON_OK ||
                     memcmp(z, expected, sizeof expected) != 0);
    unicon_model_destroy(again);
    free(z);
    return bad;
}

/* In a child: the parent's context, one of its own, and a grandchild. */
static int child(int generations)
{
    unicon_context_t *own = NULL;
    int status = 1, bad = same_again(context);
    pid_t pid;
    bad += unicon_context_create(NULL, &own) != UNICON_OK;
    bad += same_again(own);
    if (generations > 1) {
        fflush(NULL);
        pid = fork();
        if (pid == 0)
            _exit(child(generations - 1));
        bad += waitpid(pid, &status, 0) != pid || status != 0;
    }
    bad += same_again(context);
    unicon_context_destroy(own);
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    return bad;
}

static void *on_a_small_stack(void *failures)
{
    *(int *)failures = same_again(context);
    return NULL;
}

int main(void)
{
    unicon_matrix_t xm = unicon_matrix_f32(x, N, D1), ym = unicon_matrix_f32(y, N, D2),
                    zm = unicon_matrix_f32(expected, N, R);
    unicon_context_options_t options;
    unicon_fit_options_t fit;
    pthread_attr_t attributes;
    pthread_t thread;
    int failures = -1, status = 1, k;
    pid_t pid;
    make_pairs(x, y, N, D1, D2, 8, 5);
    unicon_context_options_init(&options, sizeof options);
    options.n_threads = 3;
    OK(NULL, unicon_context_create(&options, &context));
    unicon_fit_options_init(&fit, sizeof fit);
    fit.r = R;
    fit.whiten = 0.1;
    OK(context, unicon_fit(context, &fit, PAIRS(&xm, &ym, NULL), &model, NULL));
    OK(context, unicon_model_encode(context, model, UNICON_SIDE_X, &xm, &zm));
    for (k = 0; k < 3; k++) {
        fflush(NULL);
        pid = fork();
        if (pid == 0) {
            alarm(120);
            _exit(child(2));
        }
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        CHECK(same_again(context) == 0);
    }
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, STACK) == 0);
    CHECK(pthread_create(&thread, &attributes, on_a_small_stack, &failures) == 0);
    pthread_join(thread, NULL);
    CHECK(failures == 0);
    unicon_model_destroy(model);
    unicon_context_destroy(context);
    return checks_done("processes");
}
