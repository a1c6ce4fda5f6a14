/* A client and a server of datagrams, as their authors would write them.
 *
 *     datagrams client PORT SERVER LATER     DTLS with SERVER, a line each way; then as LATER, and again
 *     datagrams simple PORT SERVER           the same with starttls_client(), without LATER
 *     datagrams server NAME                  says its port; sends each datagram back, until the session ends
 */
#include <assert.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <tlspool/starttls.h>

static int failed(const char *what)
{
    printf("%s: %s\n", what, tlspool_strerror(errno));
    return 1;
}

static int udp_socket(int port, int connects)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert(fd >= 0);
    assert((connects ? connect : bind)(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static int exchange(int plain, const char *line)
{
    char buffer[100];
    assert(send(plain, line, strlen(line), MSG_NOSIGNAL) == (ssize_t)strlen(line));
    ssize_t n = recv(plain, buffer, sizeof buffer, 0);
    if (n <= 0)
        return failed("recv");
    printf("got %.*s", (int)n, buffer);
    return 0;
}

static int client(char *argv[])
{
    int plain = -1, type;
    socklen_t length = sizeof type;
    starttls_t tls;

    memset(&tls, 0, sizeof tls);
    tls.flags = PIOF_STARTTLS_LOCALROLE_CLIENT | PIOF_STARTTLS_REMOTEROLE_SERVER | PIOF_STARTTLS_DTLS;
    tls.ipproto = IPPROTO_UDP;
    strcpy(tls.remoteid, argv[3]);
    if (tlspool_starttls(udp_socket(atoi(argv[2]), 1), &tls, &plain, NULL) != 0)
        return failed("starttls");
    assert(getsockopt(plain, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET);
    printf("server is %s, we are (%s)\n", tls.remoteid, tls.localid);
    if (exchange(plain, "first\n") != 0)
        return 1;

    /* The same session, as somebody. */
    tls.flags = PIOF_STARTTLS_RENEGOTIATE;
    strcpy(tls.localid, argv[4]);
    if (tlspool_starttls(-1, &tls, NULL, NULL) != 0)
        return failed("renegotiate");
    printf("server is %s, we are (%s)\n", tls.remoteid, tls.localid);
    if (exchange(plain, "second\n") != 0)
        return 1;
    memset(tls.ctlkey, 1, sizeof tls.ctlkey);
    assert(tlspool_starttls(-1, &tls, NULL, NULL) == -1 && errno == E_TLSPOOL_RENEGOTIATE_NOT_FOUND);
    close(plain);
    puts("ok");
    return 0;
}

static int simple(char *argv[])
{
    char peer[128];
    int plain = starttls_client(udp_socket(atoi(argv[2]), 1), IPPROTO_UDP, NULL, STARTTLS_LOCAL_NONE,
                                argv[3], peer, sizeof peer);
    if (plain < 0)
        return failed("starttls_client");
    printf("server is %s\n", peer);
    if (exchange(plain, "first\n") != 0)
        return 1;
    close(plain);
    puts("ok");
    return 0;
}

static int server(char *argv[])
{
    int fd = udp_socket(0, 0), plain = -1;
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    char buffer[2000];
    starttls_t tls;
    ssize_t n;

    assert(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    printf("ready %d\n", ntohs(address.sin_port));
    /* Who is there; the datagram stays for the pool. */
    assert(recvfrom(fd, buffer, sizeof buffer, MSG_PEEK, (struct sockaddr *)&address, &length) > 0);
    assert(connect(fd, (struct sockaddr *)&address, length) == 0);
    memset(&tls, 0, sizeof tls);
    tls.flags = PIOF_STARTTLS_LOCALROLE_SERVER | PIOF_STARTTLS_REMOTEROLE_CLIENT | PIOF_STARTTLS_DTLS
                | PIOF_STARTTLS_REQUEST_REMOTEID;
    tls.ipproto = IPPROTO_UDP;
    strcpy(tls.localid, argv[2]);
    if (tlspool_starttls(fd, &tls, &plain, NULL) != 0)
        return failed("starttls");
    printf("client is (%s)\n", tls.remoteid);
    while ((n = recv(plain, buffer, sizeof buffer, 0)) > 0)
        assert(send(plain, buffer, n, MSG_NOSIGNAL) == n);
    assert(n == 0);
    close(plain);
    puts("ok");
    return 0;
}

int main(int argc, char *argv[])
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 5 && strcmp(argv[1], "client") == 0)
        return client(argv);
    if (argc == 4 && strcmp(argv[1], "simple") == 0)
        return simple(argv);
    if (argc == 3 && strcmp(argv[1], "server") == 0)
        return server(argv);
    return 2;
}
