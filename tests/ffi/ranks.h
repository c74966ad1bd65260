/* Ranks that are threads of one process: a communicator over shared memory, as a caller would write one. */
#ifndef RANKS_H
#define RANKS_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "unicon.h"

enum { MOST_RANKS = 4 };

typedef struct ranks {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size, broken;
    /* What lies between two ranks: the sender waits until it is taken. */
    struct {
        const void *data;
        int64_t bytes;
    } box[MOST_RANKS][MOST_RANKS];
} ranks_t;

typedef struct rank {
    ranks_t *all;
    int number;
    long calls, fail_at; /* the call that fails; 0: none */
} rank_t;

static inline void ranks_init(ranks_t *all, int size)
{
    memset(all, 0, sizeof *all);
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->changed, NULL);
    all->size = size;
}

static inline void ranks_end(ranks_t *all)
{
    pthread_cond_destroy(&all->changed);
    pthread_mutex_destroy(&all->lock);
}

/* Whoever fails breaks it for all, so that nobody waits for ever. */
static inline int32_t ranks_broken(ranks_t *all)
{
    all->broken = 1;
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
    return 77;
}

static inline int32_t rank_move(rank_t *me, const void *sent, int64_t send_bytes, int32_t to, void *received,
                                int64_t receive_bytes, int32_t from)
{
    ranks_t *all = me->all;
    int n = me->number;
    pthread_mutex_lock(&all->lock);
    if (++me->calls == me->fail_at)
        return ranks_broken(all);
    if (send_bytes > 0) {
        while (all->box[n][to].data && !all->broken)
            pthread_cond_wait(&all->changed, &all->lock);
        all->box[n][to].data = sent;
        all->box[n][to].bytes = send_bytes;
        pthread_cond_broadcast(&all->changed);
    }
    if (receive_bytes > 0) {
        while (!all->box[from][n].data && !all->broken)
            pthread_cond_wait(&all->changed, &all->lock);
        if (all->broken || all->box[from][n].bytes != receive_bytes)
            return ranks_broken(all);
        memcpy(received, all->box[from][n].data, (size_t)receive_bytes);
        all->box[from][n].data = NULL;
        pthread_cond_broadcast(&all->changed);
    }
    while (send_bytes > 0 && all->box[n][to].data == sent && !all->broken)
        pthread_cond_wait(&all->changed, &all->lock);
    if (all->broken)
        return ranks_broken(all);
    pthread_mutex_unlock(&all->lock);
    return 0;
}

static int32_t rank_send_recv(void *user, const void *sent, int64_t send_bytes, int32_t to, void *received, int64_t receive_bytes,
                              int32_t from, int32_t device_type, void *stream)
{
    if (device_type != UNICON_DEVICE_CPU || stream)
        return 78;
    return rank_move(user, sent, send_bytes, to, received, receive_bytes, from);
}

static int32_t rank_allgather(void *user, const void *sent, void *received, int64_t bytes, int32_t device_type, void *stream)
{
    rank_t *me = user;
    int size = me->all->size, n = me->number, step;
    if (device_type != UNICON_DEVICE_CPU || stream)
        return 78;
    memcpy((char *)received + n * bytes, sent, (size_t)bytes);
    for (step = 1; step < size; step++) {
        int to = (n + step) % size, from = (n + size - step) % size;
        int32_t failed = rank_move(me, sent, bytes, to, (char *)received + from * bytes, bytes, from);
        if (failed)
            return failed;
    }
    return 0;
}

static inline unicon_communicator_t rank_communicator(rank_t *me)
{
    unicon_communicator_t c;
    unicon_communicator_init(&c, sizeof c);
    c.rank = me->number;
    c.size = me->all->size;
    c.allgather = rank_allgather;
    c.send_recv = rank_send_recv;
    c.user = me;
    return c;
}

#endif
