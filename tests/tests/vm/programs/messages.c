/* A client and servers of SCTP, as their authors would write them.
 *
 *     messages client PORT SERVER      DTLS with SERVER; a message on stream 3, and what comes back
 *     messages simple PORT SERVER      the same with starttls_client(), on stream 0
 *     messages stream PORT SERVER      TLS on stream 3 of the association
 *     messages server NAME HOW         says its port; sends back what comes to an association for HOW, a word of the above
 */
#include <assert.h>
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sctp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <tlspool/starttls.h>

static const char text[] = "hello";

static int failed(const char *what)
{
    printf("%s: %s\n", what, tlspool_strerror(errno));
    return 1;
}

/* Its chunks of data are authenticated, which both ends of DTLS have to ask for. */
static int sctp_socket(int port, int connects)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sctp_assoc_value yes = {.assoc_value = 1};
    struct sctp_authchunk data = {0}, forward_tsn = {192};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_SCTP);
    assert(fd >= 0);
    assert(setsockopt(fd, IPPROTO_SCTP, SCTP_AUTH_SUPPORTED, &yes, sizeof yes) == 0);
    assert(setsockopt(fd, IPPROTO_SCTP, SCTP_AUTH_CHUNK, &data, sizeof data) == 0);
    assert(setsockopt(fd, IPPROTO_SCTP, SCTP_AUTH_CHUNK, &forward_tsn, sizeof forward_tsn) == 0);
    assert((connects ? connect : bind)(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

/* The plaintext of an association, in a role, for how it is used. */
static int plaintext(int fd, const char *how, uint32_t roles, char *name, starttls_t *tls)
{
    int plain = -1;

    memset(tls, 0, sizeof *tls);
    if (strcmp(how, "simple") == 0) {
        if (roles & PIOF_STARTTLS_LOCALROLE_CLIENT)
            return starttls_client(fd, IPPROTO_SCTP, NULL, 0, name, tls->remoteid, sizeof tls->remoteid);
        return starttls_server(fd, IPPROTO_SCTP, name, STARTTLS_REMOTE_NONE, NULL, tls->remoteid,
                               sizeof tls->remoteid);
    }
    tls->flags = roles;
    tls->ipproto = IPPROTO_SCTP;
    tls->streamid = 3;
    if (strcmp(how, "client") == 0) {
        tls->flags |= PIOF_STARTTLS_DTLS;
        tls->streamid = TLSPOOL_EVERY_STREAM;
    }
    strcpy(roles & PIOF_STARTTLS_LOCALROLE_CLIENT ? tls->remoteid : tls->localid, name);
    return tlspool_starttls(fd, tls, &plain, NULL) == 0 ? plain : -1;
}

static int client(char *argv[])
{
    char buffer[100];
    struct tlspool_message header = {.stream = 3, .ppid = htonl(47)};
    size_t head = strcmp(argv[1], "client") == 0 ? sizeof header : 0;
    starttls_t tls;
    int plain = plaintext(sctp_socket(atoi(argv[2]), 1), argv[1],
                          PIOF_STARTTLS_LOCALROLE_CLIENT | PIOF_STARTTLS_REMOTEROLE_SERVER, argv[3], &tls);

    if (plain < 0)
        return failed("starttls");
    memcpy(buffer, &header, head);
    memcpy(buffer + head, text, sizeof text);
    assert(send(plain, buffer, head + sizeof text, MSG_NOSIGNAL) == (ssize_t)(head + sizeof text));
    memset(buffer, 0, sizeof buffer);
    if (recv(plain, buffer, sizeof buffer, 0) != (ssize_t)(head + sizeof text))
        return failed("recv");
    printf("%s said %s", tls.remoteid, buffer + head);
    if (head != 0) {
        memcpy(&header, buffer, head);
        printf(" on stream %d with PPID %d", header.stream, ntohl(header.ppid));
    }
    puts("");
    close(plain);
    return 0;
}

static int server(char *argv[])
{
    int listener = sctp_socket(0, 0), fd, plain;
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    char buffer[TLSPOOL_MESSAGELEN + sizeof(struct tlspool_message)];
    starttls_t tls;
    ssize_t n;

    assert(listen(listener, 1) == 0);
    assert(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    printf("ready %d\n", ntohs(address.sin_port));
    assert((fd = accept(listener, NULL, NULL)) >= 0);
    plain = plaintext(fd, argv[3],
                      PIOF_STARTTLS_LOCALROLE_SERVER | PIOF_STARTTLS_REMOTEROLE_CLIENT
                          | PIOF_STARTTLS_IGNORE_REMOTEID, argv[2], &tls);
    if (plain < 0)
        return failed("starttls");
    while ((n = recv(plain, buffer, sizeof buffer, 0)) > 0)
        assert(send(plain, buffer, n, MSG_NOSIGNAL) == n);
    close(plain);
    puts(n == 0 ? "ended" : "broken");
    return n != 0;
}

int main(int argc, char *argv[])
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 4)
        return 2;
    return strcmp(argv[1], "server") == 0 ? server(argv) : client(argv);
}
