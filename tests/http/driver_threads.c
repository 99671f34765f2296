/* Stands before the CUDA runtime: a driver that starts a thread when it is first asked for GPUs, and has none. */
#include <pthread.h>
#include <unistd.h>

int cudaGetDeviceCount(int *count);

static void *sleep_for_ever(void *unused) {
    for (;;) pause();
    return unused;
}

int cudaGetDeviceCount(int *count) {
    pthread_t thread;
    *count = 0;
    pthread_create(&thread, NULL, sleep_for_ever, NULL);
    return 100; // cudaErrorNoDevice
}
