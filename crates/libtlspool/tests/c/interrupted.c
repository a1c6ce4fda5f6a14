/* Signals arrive while the pool's queue is full; the argument is its path. */
#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <tlspool/starttls.h>

static int listening;
static volatile sig_atomic_t ticks;
static sigset_t alarms;

static void tick(int number)
{
    (void)number;
    ticks++;
}

/* Makes room only when the other thread has been interrupted. */
static void *accepts(void *arg)
{
    pthread_sigmask(SIG_BLOCK, &alarms, NULL);
    while (ticks < 5)
        usleep(1000);
    assert(accept(listening, NULL, NULL) >= 0);
    assert(accept(listening, NULL, NULL) >= 0);
    return arg;
}

int main(int argc, char *argv[])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct itimerval often = {.it_interval = {0, 5000}, .it_value = {0, 5000}};
    struct sigaction action = {.sa_handler = tick};
    pthread_t thread;
    int filler;

    assert(argc == 2);
    strcpy(address.sun_path, argv[1]);
    assert((listening = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    assert(bind(listening, (struct sockaddr *)&address, sizeof address) == 0);
    assert(listen(listening, 0) == 0);
    assert((filler = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    assert(connect(filler, (struct sockaddr *)&address, sizeof address) == 0);

    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    assert(pthread_create(&thread, NULL, accepts, NULL) == 0);
    assert(sigaction(SIGALRM, &action, NULL) == 0);
    assert(setitimer(ITIMER_REAL, &often, NULL) == 0);
    assert(tlspool_open_poolhandle(argv[1]) >= 0);
    pthread_join(thread, NULL);
    puts("ok");
    return 0;
}
