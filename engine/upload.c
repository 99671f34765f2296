#include "engine/upload.h"

#include "engine/backend.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#define MAX_THREADS 8 // more do not read faster than a PCIe 5 link takes
#define MAX_PIECES  (2 * MAX_THREADS)

struct uploader {
    const struct upload *upload; // borrowed
    char *memory;                // owned, [n_pieces][UPLOAD_PIECE_BYTES]; NULL: pieces are device memory
    pthread_mutex_t lock;        // guards all below
    pthread_cond_t freed;
    pthread_cond_t made;
    void *free[MAX_PIECES]; // [n_free] memory of pieces
    int32_t n_free;
    struct upload_piece ready[MAX_PIECES]; // [n_ready] made, not copied
    int32_t n_ready;
    size_t target, first; // of the next piece
    int32_t n_running;    // threads
    bool failed;
    struct error error; // of the first failure
};

static int32_t count_processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/* With the lock held, as the next two. */
static void note_failure(struct uploader *uploader, const struct error *error) {
    if (!uploader->failed) uploader->error = *error;
    uploader->failed = true;
    pthread_cond_broadcast(&uploader->freed);
}

static void give_back(struct uploader *uploader, const struct upload_piece *piece) {
    uploader->free[uploader->n_free++] = piece->memory;
    pthread_cond_signal(&uploader->freed);
}

/* Waits for memory; false: there is nothing left to be made. */
static bool take_next(struct uploader *uploader, struct upload_piece *piece) {
    const struct upload *upload = uploader->upload;
    while (uploader->n_free == 0 && !uploader->failed) pthread_cond_wait(&uploader->freed, &uploader->lock);
    while (uploader->target < upload->n_targets && uploader->first == upload->targets[uploader->target].n_bytes) {
        uploader->target++;
        uploader->first = 0;
    }
    if (uploader->failed || uploader->target == upload->n_targets) return false;
    const struct upload_target *target = &upload->targets[uploader->target];
    size_t left = target->n_bytes - uploader->first;
    *piece = (struct upload_piece){
        .target = uploader->target,
        .first = uploader->first,
        .n_bytes = left < UPLOAD_PIECE_BYTES ? left : UPLOAD_PIECE_BYTES,
        .memory = uploader->free[--uploader->n_free],
    };
    if (!uploader->memory) piece->memory = (char *)target->to + piece->first;
    uploader->first += piece->n_bytes;
    return true;
}

static void *make_pieces(void *user) {
    struct uploader *uploader = user;
    const struct upload *upload = uploader->upload;
    struct upload_piece piece;
    struct error error;
    pthread_mutex_lock(&uploader->lock);
    while (take_next(uploader, &piece)) {
        pthread_mutex_unlock(&uploader->lock);
        bool made = upload->make(upload->user, &piece, &error);
        pthread_mutex_lock(&uploader->lock);
        if (made) {
            uploader->ready[uploader->n_ready++] = piece;
        } else {
            note_failure(uploader, &error);
        }
        pthread_cond_signal(&uploader->made);
    }
    uploader->n_running--;
    pthread_cond_signal(&uploader->made);
    pthread_mutex_unlock(&uploader->lock);
    return NULL;
}

static bool copy(const struct uploader *uploader, const struct upload_piece *pieces, int32_t n_pieces,
                 struct error *err) {
    if (!uploader->memory) return true;
    const struct upload *upload = uploader->upload;
    bool ok = true;
    for (int32_t i = 0; ok && i < n_pieces; i++) {
        char *to = (char *)upload->targets[pieces[i].target].to + pieces[i].first;
        ok = upload->ops->copy_to_device(upload->device, to, pieces[i].memory, pieces[i].n_bytes, err);
    }
    // Also after a failure: pieces may still be read. That failure's text is the one to keep.
    return upload->ops->synchronize(upload->device, ok ? err : NULL) && ok;
}

/* Until every thread has ended. While one group of pieces is copied, the threads make the next. */
static void copy_pieces(struct uploader *uploader) {
    const struct upload *upload = uploader->upload;
    pthread_mutex_lock(&uploader->lock);
    for (;;) {
        while (uploader->n_ready == 0 && uploader->n_running > 0) pthread_cond_wait(&uploader->made, &uploader->lock);
        if (uploader->n_ready == 0) break;
        struct upload_piece pieces[MAX_PIECES];
        int32_t n_pieces = uploader->n_ready;
        memcpy(pieces, uploader->ready, (size_t)n_pieces * sizeof *pieces);
        uploader->n_ready = 0;
        struct error error;
        bool go_on = !uploader->failed;
        pthread_mutex_unlock(&uploader->lock);
        bool copied = go_on && copy(uploader, pieces, n_pieces, &error);
        for (int32_t i = 0; copied && i < n_pieces; i++) upload->copied(upload->user, pieces[i].n_bytes);
        pthread_mutex_lock(&uploader->lock);
        if (go_on && !copied) note_failure(uploader, &error);
        for (int32_t i = 0; i < n_pieces; i++) give_back(uploader, &pieces[i]);
    }
    pthread_mutex_unlock(&uploader->lock);
}

static void run_threads(struct uploader *uploader, int32_t n_threads) {
    pthread_t threads[MAX_THREADS];
    int32_t n_started = 0;
    uploader->n_running = n_threads;
    while (n_started < n_threads && pthread_create(&threads[n_started], NULL, make_pieces, uploader) == 0) n_started++;
    pthread_mutex_lock(&uploader->lock);
    uploader->n_running -= n_threads - n_started;
    if (n_started == 0) {
        struct error error;
        fail(&error, ERR_INTERNAL, "no thread could be started to load the weights");
        note_failure(uploader, &error);
    }
    pthread_mutex_unlock(&uploader->lock);
    copy_pieces(uploader);
    for (int32_t i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
}

bool upload_run(const struct upload *upload, struct error *err) {
    struct uploader uploader = {.upload = upload};
    int32_t n_processors = count_processors();
    int32_t n_threads = n_processors < MAX_THREADS ? n_processors : MAX_THREADS;
    uploader.n_free = 2 * n_threads;
    if (!upload->ops->host_writable) {
        uploader.memory = upload->ops->alloc_host(upload->device, (size_t)uploader.n_free * UPLOAD_PIECE_BYTES, err);
        if (!uploader.memory) return false;
        for (int32_t i = 0; i < uploader.n_free; i++)
            uploader.free[i] = uploader.memory + (size_t)i * UPLOAD_PIECE_BYTES;
    }
    pthread_mutex_init(&uploader.lock, NULL);
    pthread_cond_init(&uploader.freed, NULL);
    pthread_cond_init(&uploader.made, NULL);
    run_threads(&uploader, n_threads);
    pthread_cond_destroy(&uploader.made);
    pthread_cond_destroy(&uploader.freed);
    pthread_mutex_destroy(&uploader.lock);
    upload->ops->free_host(upload->device, uploader.memory);
    if (uploader.failed && err) *err = uploader.error;
    return !uploader.failed;
}
