/* The asynchronous family with a poll loop: many pings in flight, and a STARTTLS with callback. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <tlspool/async.h>
#include <tlspool/starttls.h>

static struct tlspool_async_pool pool;
static int answers, ours = -1;

static void loop_until(int wanted)
{
    while (answers < wanted) {
        struct pollfd fds = {.fd = pool.handle, .events = POLLIN};
        assert(poll(&fds, 1, -1) == 1);
        assert(tlspool_async_process(&pool));
    }
}

static void pong(struct tlspool_async_request *req, int opt_fd)
{
    assert(opt_fd == -1);
    assert(req->cmd.pio_cmd == PIOC_PING_V2);
    assert(req->cmd.pio_data.pioc_ping.facilities == PIOF_FACILITY_STARTTLS);
    answers++;
}

static void established(struct tlspool_async_request *req, int opt_fd)
{
    int pair[2];
    (void)opt_fd;
    if (req->cmd.pio_cmd == PIOC_PLAINTEXT_CONNECT_V2) {
        assert(req->cmd.pio_cbid != 0);
        assert(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        assert(tlspool_async_request(&pool, req, pair[1]));
        close(pair[1]);
        ours = pair[0];
        return;
    }
    assert(req->cmd.pio_cmd == PIOC_STARTTLS_V2);
    assert(strcmp(req->cmd.pio_data.pioc_starttls.remoteid, "srv.example") == 0);
    answers++;
}

static void closed(struct tlspool_async_request *req, int opt_fd)
{
    (void)opt_fd;
    assert(req->cmd.pio_cmd == PIOC_ERROR_V2);
    assert(req->cmd.pio_data.pioc_error.tlserrno == EPIPE);
    answers++;
}

static struct tlspool_async_request *both[2];

/* As where two requests belong to one session, which ends with either. */
static void ends_both(struct tlspool_async_request *req, int opt_fd)
{
    struct tlspool_async_request *other = both[req == both[0]];
    assert(req == both[0] || req == both[1]);
    assert(req->cmd.pio_cmd == PIOC_ERROR_V2 && opt_fd == -1);
    assert(tlspool_async_cancel(&pool, other));
    assert(!tlspool_async_cancel(&pool, req) && errno == ENOENT);
    req->cmd.pio_cbid = 0;
    assert(!tlspool_async_request(&pool, req, -1) && errno == ENOTCONN);
    assert(!tlspool_async_process(&pool) && errno == ENOTCONN);
    assert(!tlspool_async_close(&pool, true) && errno == ENOTCONN);
    memset(other, 0xff, sizeof *other);
    free(other);
    free(req);
    answers++;
}

static void never(struct tlspool_async_request *req, int opt_fd)
{
    (void)req, (void)opt_fd;
    assert(0);
}

int main(void)
{
    enum { PINGS = 50 };
    static struct tlspool_async_request pings[PINGS], tls;
    int i, wire[2];
    char word[5];

    assert(!tlspool_async_open(&pool, 12, TLSPOOL_IDENTITY_V2, 1, NULL) && errno == EPROTO);
    assert(!tlspool_async_open(&pool, sizeof(struct tlspool_command), TLSPOOL_IDENTITY_V2,
                               PIOF_FACILITY_STARTSSH, NULL) && errno == ENOSYS);
    assert(tlspool_async_open(&pool, sizeof(struct tlspool_command), TLSPOOL_IDENTITY_V2,
                              PIOF_FACILITY_STARTTLS, NULL));
    assert(pool.cmdsize == sizeof(struct tlspool_command));
    assert(pool.pingdata.facilities & PIOF_FACILITY_STARTTLS);

    for (i = 0; i < PINGS; i++) {
        pings[i].cbfunc = i == 7 ? never : pong;
        pings[i].cmd.pio_cmd = PIOC_PING_V2;
        pings[i].cmd.pio_data.pioc_ping.facilities = PIOF_FACILITY_ALL_CURRENT;
        assert(tlspool_async_request(&pool, &pings[i], -1));
    }
    assert(tlspool_async_cancel(&pool, &pings[7]));
    assert(!tlspool_async_cancel(&pool, &pings[7]));
    loop_until(PINGS - 1);

    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
    tls.cbfunc = established;
    tls.cmd.pio_cmd = PIOC_STARTTLS_V2;
    tls.cmd.pio_data.pioc_starttls.flags = PIOF_STARTTLS_LOCALROLE_CLIENT;
    tls.cmd.pio_data.pioc_starttls.ipproto = IPPROTO_TCP;
    strcpy(tls.cmd.pio_data.pioc_starttls.remoteid, "srv.example");
    assert(tlspool_async_request(&pool, &tls, wire[0]));
    close(wire[0]);
    loop_until(PINGS);
    assert(write(ours, "hello", 5) == 5);
    assert(recv(wire[1], word, 5, MSG_WAITALL) == 5);

    pings[0].cbfunc = closed;
    pings[0].cmd.pio_cmd = PIOC_PING_V2;
    assert(tlspool_async_request(&pool, &pings[0], -1));
    assert(tlspool_async_close(&pool, true));
    assert(answers == PINGS + 1 && pool.handle == -1);
    assert(!tlspool_async_process(&pool));

    assert(tlspool_async_open(&pool, sizeof(struct tlspool_command), NULL, 0, NULL));
    for (i = 0; i < 2; i++) {
        both[i] = calloc(1, sizeof *both[i]);
        both[i]->cbfunc = ends_both;
        both[i]->cmd.pio_cmd = PIOC_PING_V2;
        assert(tlspool_async_request(&pool, both[i], -1));
    }
    assert(tlspool_async_close(&pool, true));
    assert(answers == PINGS + 2 && pool.private_data == NULL);
    puts("ok");
    return 0;
}
