/* "ADDR:PORT" or "[ADDR]:PORT" to a TCP socket, listening or connected; -1 with a message. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int tcp_socket(const char *addrport, int listening)
{
    char host[256];
    const char *port = strrchr(addrport, ':');
    size_t len = port ? (size_t)(port - addrport) : sizeof host;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL, *at;
    int fd = -1, on = 1;

    if (len >= sizeof host) {
        fprintf(stderr, "%s: not ADDR:PORT\n", addrport);
        return -1;
    }
    memcpy(host, addrport, len);
    host[len] = '\0';
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        memmove(host, host + 1, len - 2);
        host[len - 2] = '\0';
    }
    if (getaddrinfo(host, port + 1, &hints, &found) != 0) {
        fprintf(stderr, "%s: unknown host or port\n", addrport);
        return -1;
    }
    for (at = found; at != NULL && fd < 0; at = at->ai_next) {
        fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (listening ? bind(fd, at->ai_addr, at->ai_addrlen) != 0 || listen(fd, 64) != 0
                      : connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    if (fd < 0)
        perror(addrport);
    return fd;
}
