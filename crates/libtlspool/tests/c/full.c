/* A pool that serves no more connections says so; the argument is how it is asked. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <tlspool/async.h>
#include <tlspool/starttls.h>

static void never(struct tlspool_async_request *req, int opt_fd)
{
    (void)req, (void)opt_fd;
    assert(0);
}

int main(int argc, char *argv[])
{
    static struct tlspool_async_pool pool;
    static struct tlspool_async_request ping = {.cbfunc = never};
    int wire[2];

    assert(argc == 2);
    if (strcmp(argv[1], "simple") == 0) {
        assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
        assert(starttls_client(wire[0], IPPROTO_TCP, NULL, 0, "srv.example", NULL, 0) == -1);
        assert(errno == EAGAIN);
    } else if (strcmp(argv[1], "greeting") == 0) {
        assert(!tlspool_async_open(&pool, sizeof(struct tlspool_command), TLSPOOL_IDENTITY_V2,
                                   PIOF_FACILITY_STARTTLS, NULL));
        assert(errno == E_TLSPOOL_LIMIT_REACHED);
    } else {
        assert(tlspool_async_open(&pool, sizeof(struct tlspool_command), NULL, 0, NULL));
        ping.cmd.pio_cmd = PIOC_PING_V2;
        /* It may be closed by now. */
        if (!tlspool_async_request(&pool, &ping, -1))
            assert(errno == EPIPE);
        do {
            struct pollfd fds = {.fd = pool.handle, .events = POLLIN};
            assert(poll(&fds, 1, -1) == 1);
        } while (tlspool_async_process(&pool));
        assert(errno == E_TLSPOOL_LIMIT_REACHED);
    }
    assert(strcmp(tlspool_strerror(errno), "see limits.clients") == 0);
    puts("ok");
    return 0;
}
