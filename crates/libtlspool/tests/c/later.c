/* The pool starts after the program, at a place that is only known by then. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <tlspool/starttls.h>

int main(int argc, char *argv[])
{
    pingpool_t ping;
    FILE *config;
    int i;

    assert(argc == 2);
    for (i = 0; i < 2; i++) {
        config = fopen(getenv("TLSPOOL_CONFIG_FILE"), "w");
        fprintf(config, "socket_name %s\n", i == 0 ? "/nowhere/pool" : argv[1]);
        fclose(config);
        memset(&ping, 0, sizeof ping);
        strcpy(ping.YYYYMMDD_producer, TLSPOOL_IDENTITY_V2);
        assert(tlspool_ping(&ping) == (i == 0 ? -1 : 0));
        assert(i == 1 || errno == ENOENT);
    }
    puts("ok");
    return 0;
}
