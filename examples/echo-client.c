/* Echo client over TLS:  echo-client ADDR:PORT REMOTEID [LOCALID [MESSAGE]]
 *
 * Sends MESSAGE, prints what comes back, and who both sides are. Without LOCALID (or with an
 * empty one) we show no certificate. All that is TLS stands between the two marks.
 *
 *     cc -o echo-client echo-client.c -ltlspool
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/types.h>

#include <tlspool/starttls.h>

#include "inet.h"

int main(int argc, char *argv[])
{
    char buffer[4096], peer[128];
    ssize_t n, total = 0;
    int tcp;

    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: echo-client ADDR:PORT REMOTEID [LOCALID [MESSAGE]]\n");
        return 2;
    }
    char *localid = argc > 3 && argv[3][0] ? argv[3] : NULL;
    const char *message = argc > 4 ? argv[4] : "hello over TLS";
    ssize_t len = strlen(message);
    if ((tcp = tcp_socket(argv[1], 0)) < 0)
        return 1;

    /* TLS */
    int fd = starttls_client(tcp, IPPROTO_TCP, localid, localid ? 0 : STARTTLS_LOCAL_NONE,
                             argv[2], peer, sizeof peer);
    if (fd < 0) {
        fprintf(stderr, "echo-client: %s\n", tlspool_strerror(errno));
        return 1;
    }
    printf("server is %s, we are %s\n", peer, localid ? localid : "(anonymous)");
    /* end of TLS */

    if (send(fd, message, len, MSG_NOSIGNAL) != len || shutdown(fd, SHUT_WR) != 0) {
        perror("echo-client: send");
        return 1;
    }
    while ((n = read(fd, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, n, stdout);
        total += n;
    }
    putchar('\n');
    close(fd);
    return total == len ? 0 : 1;
}
