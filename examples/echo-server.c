/* Echo server over TLS:  echo-server [-r] ADDR:PORT LOCALID
 *
 * Sends every client its own bytes back, and says who the client is. With -r a client must have
 * a certificate. All that is TLS stands between the two marks.
 *
 *     cc -o echo-server echo-server.c -ltlspool -lpthread
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include <tlspool/starttls.h>

#include "inet.h"

static char *localid;
static int flags = STARTTLS_REMOTE_OPTIONAL;

static void *serve(void *arg)
{
    char buffer[4096], peer[128];
    ssize_t n;

    /* TLS */
    int fd = starttls_server((int)(intptr_t)arg, IPPROTO_TCP, localid, flags, NULL,
                             peer, sizeof peer);
    if (fd < 0) {
        fprintf(stderr, "echo-server: %s\n", tlspool_strerror(errno));
        return NULL;
    }
    printf("client is %s\n", peer[0] ? peer : "(anonymous)");
    /* end of TLS */

    fflush(stdout);
    while ((n = read(fd, buffer, sizeof buffer)) > 0) {
        ssize_t sent = 0, m = 0;
        while (sent < n && (m = send(fd, buffer + sent, n - sent, MSG_NOSIGNAL)) > 0)
            sent += m;
        if (m < 0)
            break;
    }
    close(fd);
    return NULL;
}

int main(int argc, char *argv[])
{
    int listener, fd;
    pthread_t thread;

    if (argc == 4 && strcmp(argv[1], "-r") == 0) {
        flags = 0;
        argv++, argc--;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: echo-server [-r] ADDR:PORT LOCALID\n");
        return 2;
    }
    localid = argv[2];
    if ((listener = tcp_socket(argv[1], 1)) < 0)
        return 1;
    printf("listening on %s as %s\n", argv[1], localid);
    fflush(stdout);
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0)
            pthread_detach(thread);
        else
            close(fd);
    }
    perror("accept");
    return 1;
}
