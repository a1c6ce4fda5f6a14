/* As a program for the existing library is written: TLS client and server in one process, over
 * a socket pair, with and without a namedconnect callback; then what goes with a session. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <tlspool/commands.h>
#include <tlspool/starttls.h>

static starttls_t tlsdata_cli = {
    .flags = PIOF_STARTTLS_LOCALROLE_CLIENT | PIOF_STARTTLS_REMOTEROLE_SERVER,
    .local = 0,
    .ipproto = IPPROTO_TCP,
    .localid = "testcli@tlspool.example",
    .remoteid = "testsrv@tlspool.example",
    .service = "generic",
};

static int named(starttls_t *tlsdata, void *privdata)
{
    int soxx[2];
    assert(strcmp(tlsdata->remoteid, "peer.example") == 0);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, soxx) != 0)
        return -1;
    *(int *)privdata = soxx[0];
    return soxx[1];
}

/* Means another name than the one that was proposed, but none that can be read. */
static int misnames(starttls_t *tlsdata, void *privdata)
{
    (void)privdata;
    strcpy(tlsdata->localid, "m\xfcller@example.org");
    return -2;
}

static int overlong(starttls_t *tlsdata, void *privdata)
{
    (void)privdata;
    memset(tlsdata->localid, 'x', sizeof tlsdata->localid);
    return -2;
}

static int refuses(starttls_t *tlsdata, void *privdata)
{
    (void)tlsdata, (void)privdata;
    errno = EADDRNOTAVAIL;
    return -1;
}

static void *server(void *arg)
{
    starttls_t tls;
    int plain = -1;
    char word[6];

    memset(&tls, 0, sizeof tls);
    tls.flags = PIOF_STARTTLS_LOCALROLE_SERVER | PIOF_STARTTLS_REMOTEROLE_CLIENT;
    tls.ipproto = IPPROTO_TCP;
    strcpy(tls.localid, "testsrv@tlspool.example");
    assert(tlspool_starttls(*(int *)arg, &tls, &plain, named) == 0);
    assert(strcmp(tls.localid, "testsrv@tlspool.example") == 0);
    assert(recv(plain, word, 5, MSG_WAITALL) == 5 && memcmp(word, "hello", 5) == 0);
    assert(write(plain, "world", 5) == 5);
    close(plain);
    return NULL;
}

int main(void)
{
    int wire[2], plain = -1, given[2], i;
    uint8_t random[32], info[TLSPOOL_INFOBUFLEN], zero[TLSPOOL_CTLKEYLEN] = {0};
    uint16_t len = 0xffff;
    pthread_t thread;
    starttls_t tls;
    pingpool_t ping;
    char word[6];

    memset(&ping, 0, sizeof ping);
    strcpy(ping.YYYYMMDD_producer, TLSPOOL_IDENTITY_V2);
    ping.facilities = PIOF_FACILITY_ALL_CURRENT;
    assert(tlspool_ping(&ping) == 0);
    assert(ping.facilities == PIOF_FACILITY_STARTTLS);
    assert(strcmp(ping.YYYYMMDD_producer, TLSPOOL_IDENTITY_V2) == 0);

    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
    assert(pthread_create(&thread, NULL, server, &wire[1]) == 0);
    tls = tlsdata_cli;
    assert(tlspool_starttls(wire[0], &tls, &plain, NULL) == 0);
    assert(plain >= 0);
    assert(write(plain, "hello", 5) == 5);
    assert(recv(plain, word, 5, MSG_WAITALL) == 5 && memcmp(word, "world", 5) == 0);
    assert(recv(plain, word, 5, 0) == 0);
    close(plain);
    pthread_join(thread, NULL);
    assert(memcmp(tls.ctlkey, zero, sizeof zero) != 0);

    assert(tlspool_control_detach(tls.ctlkey) == 0);
    assert(tlspool_control_reattach(tls.ctlkey) == 0);
    assert(tlspool_prng("EXPERIMENTAL", 0, NULL, sizeof random, random, tls.ctlkey) == 0);
    assert(random[31] == 'r');
    assert(tlspool_prng("EXPERIMENTAL", 0, NULL, 400, malloc(400), tls.ctlkey) == -1);
    assert(errno == EMSGSIZE);
    assert(tlspool_info(PIOK_INFO_PEERCERT_SUBJECT, info, &len, tls.ctlkey) == 0);
    assert(len == 4 && memcmp(info, "fact", 4) == 0);

    /* A descriptor of our own; it stays ours to close. */
    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, given) == 0);
    tls = tlsdata_cli;
    assert(tlspool_starttls(wire[0], &tls, &given[1], NULL) == 0);
    close(given[1]);
    assert(write(given[0], "hello", 5) == 5);
    assert(recv(wire[1], word, 5, MSG_WAITALL) == 5 && memcmp(word, "hello", 5) == 0);
    close(given[0]);
    assert(recv(wire[1], word, 5, 0) == 0);
    close(wire[1]);

    /* Failures consume the descriptor, and say why. */
    for (i = 0; i < 3; i++) {
        assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
        tls = tlsdata_cli;
        plain = -1;
        if (i == 0) {
            assert(tlspool_starttls(wire[0], &tls, NULL, refuses) == -1);
            assert(errno == EADDRNOTAVAIL);
        } else if (i == 1) {
            tls.ipproto = 99;
            assert(tlspool_starttls(wire[0], &tls, &plain, NULL) == -1 && errno == EINVAL);
        } else {
            memset(tls.localid, 'x', sizeof tls.localid);
            assert(tlspool_starttls(wire[0], &tls, &plain, NULL) == -1 && errno == EINVAL);
            assert(strstr(tlspool_strerror(errno), "localid") != NULL);
        }
        assert(plain == -1);
        assert(recv(wire[1], word, 1, 0) == 0);
        close(wire[1]);
    }
    plain = -1;
    tls = tlsdata_cli;
    assert(tlspool_starttls(-1, &tls, &plain, NULL) == -1 && errno == EBADF);
    assert(strcmp(tlspool_strerror(E_TLSPOOL_CTLKEY_NOT_FOUND),
                  "no session has this control key") == 0);

    for (i = 0; i < 2; i++) {
        assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
        tls = tlsdata_cli;
        tls.flags |= PIOF_STARTTLS_LOCALID_CHECK;
        assert(tlspool_starttls(wire[0], &tls, NULL, i == 0 ? misnames : overlong) == -1);
        assert(errno == EINVAL);
        close(wire[1]);
    }

    /* Nothing is left over. */
    int before = dup(0), after;
    close(before);
    for (i = 0; i < 200; i++) {
        assert(socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
        tls = tlsdata_cli;
        assert(tlspool_starttls(wire[0], &tls, &plain, i % 2 ? refuses : NULL) == (i % 2 ? -1 : 0));
        if (i % 2 == 0)
            close(plain);
        plain = -1;
        assert(recv(wire[1], word, 1, 0) == 0);
        close(wire[1]);
    }
    after = dup(0);
    close(after);
    assert(before == after);

    i = tlspool_open_poolhandle(NULL);
    assert(i >= 0 && tlspool_open_poolhandle(NULL) == i);
    tlspool_close_poolhandle(i);
    assert(tlspool_open_poolhandle(NULL) >= 0);
    char *path = tlspool_configvar(NULL, "socket_name");
    assert(path != NULL && path[0] == '/');
    free(path);
    assert(tlspool_configvar(NULL, "no_such_word") == NULL);
    assert(tlspool_pid(NULL) == 4711);
    puts("ok");
    return 0;
}
