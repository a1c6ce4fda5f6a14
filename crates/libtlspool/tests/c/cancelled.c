/* Programs that run a service in a thread of theirs end it by cancelling the thread, while it waits for the pool
 * or for a person. The arguments are which service, where the pool is, and where the thread is then. */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <tlspool/starttls.h>

static const char *place;
static int asked[2];

/* As where getpass() waits for a person. */
static void wait_for_somebody(void)
{
    assert(write(asked[1], "", 1) == 1);
    pause();
}

static void pincb(pinentry_t *entry, void *data)
{
    assert(strcmp(data, "data") == 0);
    strcpy(entry->pin, "half a PIN");
    wait_for_somebody();
}

static char *lidcb(lidentry_t *entry, void *data)
{
    (void)entry, (void)data;
    wait_for_somebody();
    return NULL;
}

static void *pins(void *arg)
{
    tlspool_pin_service((char *)place, 0, 60 * 1000 * 1000, pincb, "data");
    return arg;
}

static void *names(void *arg)
{
    tlspool_localid_service((char *)place, 0, 60, lidcb, "data");
    return arg;
}

int main(int argc, char *argv[])
{
    pthread_t thread;
    void *outcome;
    char byte;

    alarm(60); /* who hangs is ended */
    assert(argc == 4 && pipe(asked) == 0);
    place = argv[2];
    assert(pthread_create(&thread, NULL, strcmp(argv[1], "pin") == 0 ? pins : names, NULL) == 0);
    /* The pool says on standard input when it has been registered with. */
    assert(read(0, &byte, 1) == 1);
    if (strcmp(argv[3], "asked") == 0)
        assert(read(asked[0], &byte, 1) == 1);
    assert(pthread_cancel(thread) == 0);
    assert(pthread_join(thread, &outcome) == 0);
    assert(outcome == PTHREAD_CANCELED);
    puts("cancelled");
    fflush(stdout);
    /* The registration has ended with the thread. */
    assert(read(0, &byte, 1) == 1);
    puts("ok");
    return 0;
}
