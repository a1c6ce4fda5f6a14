/* starttls_client and starttls_server, from several threads at once. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <tlspool/starttls.h>

static void *server(void *arg)
{
    char peer[128], byte;
    int fd = starttls_server(*(int *)arg, IPPROTO_TCP, "srv.example", 0, NULL, peer, sizeof peer);
    assert(fd >= 0 && strcmp(peer, "peer.example") == 0);
    assert(read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1);
    close(fd);
    return NULL;
}

static void *client(void *arg)
{
    char peer[128], byte = 'x';
    int fd = starttls_client(*(int *)arg, IPPROTO_TCP, "me@cli.example", 0, "srv.example", peer,
                             sizeof peer);
    assert(fd >= 0 && strcmp(peer, "srv.example") == 0);
    assert(write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1 && byte == 'x');
    assert(read(fd, &byte, 1) == 0);
    close(fd);
    return NULL;
}

int main(void)
{
    enum { PAIRS = 16 };
    int wires[PAIRS][2], i;
    pthread_t threads[PAIRS][2];
    char peer[128];

    for (i = 0; i < PAIRS; i++) {
        assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wires[i]) == 0);
        assert(pthread_create(&threads[i][0], NULL, server, &wires[i][0]) == 0);
        assert(pthread_create(&threads[i][1], NULL, client, &wires[i][1]) == 0);
    }
    for (i = 0; i < PAIRS; i++) {
        pthread_join(threads[i][0], NULL);
        pthread_join(threads[i][1], NULL);
    }

    struct { int flags; size_t len; int proto; int error; } bad[] = {
        {0, 5, IPPROTO_TCP, ERANGE},
        {STARTTLS_NO_REMOTE_DOMAIN, 128, IPPROTO_TCP, EPERM},
        {0, 128, IPPROTO_ICMP, EPROTONOSUPPORT},
        {0x4000, 128, IPPROTO_TCP, EINVAL},
    };
    for (i = 0; i < 4; i++) {
        assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wires[0]) == 0);
        assert(starttls_client(wires[0][0], bad[i].proto, NULL, bad[i].flags, "srv.example", peer,
                               bad[i].len) == -1);
        assert(errno == bad[i].error);
        assert(read(wires[0][1], peer, 1) == 0);
        close(wires[0][1]);
    }
    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wires[0]) == 0);
    i = starttls_client(wires[0][0], IPPROTO_TCP, NULL, STARTTLS_LOCAL_NONE, NULL, NULL, 0);
    assert(i >= 0);
    puts("ok");
    return 0;
}
