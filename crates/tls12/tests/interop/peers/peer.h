/* A peer for the table of docs/interop.md, the same for each library; the library's part defines what stands
 * below under "of the library".
 *
 *     peer client|server tls|dtls [port=N] [key=FILE certificate=FILE] [auth=request|require]
 *          [connections=N] [anonymous]
 *
 * A server says `ready PORT` for each connection that it waits for. Either says `established` or
 * `error WORDS`. Then it obeys the lines that the other side sends over TLS: `facts` prints what it knows about the
 * session and `told`, `renegotiate` and `renegotiate asking` begin a renegotiation, the latter with a demand for a
 * certificate; everything is sent back, and the end of the session is answered with ours. A client that is `anonymous`
 * renegotiates at once.
 */
#ifndef PEER_H
#define PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LABEL "EXPERIMENTAL-interop"
#define CONTEXT "context"
#define BINDING "EXPORTER-Channel-Binding"

enum auth { NONE, REQUEST, REQUIRE };

static struct options {
    bool client, datagrams, anonymous;
    int port, connections;
    const char *key, *certificate;
    enum auth auth;
} options = {.connections = 1};

/* ---- of the library; each says what went wrong by itself and returns -1 */

static int library_start(void);
/* A server of datagrams begins with the cookie, and connects the socket. */
static int library_handshake(int fd);
/* 0 at the end of the session; renegotiates when the other side wants to. */
static ssize_t library_read(char *buffer, size_t room);
static int library_write(const char *buffer, size_t length);
static int library_renegotiate(bool asking);
static void library_facts(void);
static void library_end(void);

/* ---- for the library */

static int failed(const char *words)
{
    printf("error %s\n", words);
    return -1;
}

static void fact(const char *name, const unsigned char *bytes, size_t length)
{
    printf("fact %s ", name);
    for (size_t at = 0; at < length; at++)
        printf("%02x", bytes[at]);
    putchar('\n');
}

/* ---- the peer */

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void or_die(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static int open_socket(bool listens)
{
    struct sockaddr_in address = loopback(listens ? 0 : options.port);
    int fd = socket(AF_INET, options.datagrams ? SOCK_DGRAM : SOCK_STREAM, 0);
    or_die(fd, "socket");
    if (listens)
        or_die(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
    else
        or_die(connect(fd, (struct sockaddr *)&address, sizeof address), "connect");
    if (listens && !options.datagrams)
        or_die(listen(fd, 5), "listen");
    return fd;
}

static int next_connection(void)
{
    static int listener = -1;
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int fd, yes = 1;

    if (options.client) {
        /* A second session over UDP comes from the same port. */
        if (listener < 0 || !options.datagrams)
            listener = open_socket(false);
        fd = listener;
    } else {
        if (listener < 0 || options.datagrams)
            listener = open_socket(true);
        or_die(getsockname(listener, (struct sockaddr *)&address, &length), "getsockname");
        printf("ready %d\n", ntohs(address.sin_port));
        fd = options.datagrams ? listener : accept(listener, NULL, NULL);
        or_die(fd, "accept");
    }
    if (!options.datagrams)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

/* Until the session is over. */
static int obey(void)
{
    char buffer[4096];
    ssize_t length;

    while ((length = library_read(buffer, sizeof buffer - 1)) > 0) {
        buffer[length] = 0;
        if (strcmp(buffer, "facts\n") == 0) {
            library_facts();
            puts("told");
        }
        if (library_write(buffer, length) < 0)
            return -1;
        if (strncmp(buffer, "renegotiate", 11) == 0 && library_renegotiate(strstr(buffer, "asking") != NULL) < 0)
            return -1;
    }
    return length;
}

static void parse(int argc, char *argv[])
{
    if (argc < 3)
        exit(2);
    options.client = strcmp(argv[1], "client") == 0;
    options.datagrams = strcmp(argv[2], "dtls") == 0;
    for (int n = 3; n < argc; n++) {
        char *value = strchr(argv[n], '=');
        value = value ? value + 1 : argv[n];
        if (strncmp(argv[n], "port=", 5) == 0)
            options.port = atoi(value);
        else if (strncmp(argv[n], "key=", 4) == 0)
            options.key = value;
        else if (strncmp(argv[n], "certificate=", 12) == 0)
            options.certificate = value;
        else if (strncmp(argv[n], "auth=", 5) == 0)
            options.auth = strcmp(value, "require") == 0 ? REQUIRE : REQUEST;
        else if (strncmp(argv[n], "connections=", 12) == 0)
            options.connections = atoi(value);
        else if (strcmp(argv[n], "anonymous") == 0)
            options.anonymous = true;
        else
            exit(2);
    }
}

int main(int argc, char *argv[])
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    parse(argc, argv);
    if (library_start() < 0)
        return 1;
    for (int n = 0; n < options.connections; n++) {
        int fd = next_connection();
        if (library_handshake(fd) == 0
            && (!options.client || !options.anonymous || library_renegotiate(false) == 0)) {
            puts("established");
            obey();
        }
        library_end();
        if (!options.client || !options.datagrams)
            close(fd);
    }
    return 0;
}

#endif
