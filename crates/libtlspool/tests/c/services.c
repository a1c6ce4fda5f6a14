/* PIN entry and local identity selection; the argument says which, and where. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <tlspool/starttls.h>

static void pincb(pinentry_t *entry, void *data)
{
    assert(strcmp(data, "data") == 0);
    printf("%s %d\n", entry->token_label, (int)entry->attempt);
    strcpy(entry->pin, "1234");
}

static char *lidcb(lidentry_t *entry, void *data)
{
    assert(strcmp(data, "data") == 0);
    if (strcmp(entry->remoteid, "nobody.example") == 0) {
        errno = ENOENT;
        return "not for nobody";
    }
    entry->flags |= PIOF_LIDENTRY_DBAPPEND;
    strcpy(entry->localid, "me@example.com");
    return NULL;
}

int main(int argc, char *argv[])
{
    assert(argc == 3);
    if (strcmp(argv[1], "pin") == 0) {
        assert(tlspool_pin_service(argv[2], 0, 60 * 1000 * 1000, pincb, "data") == -1);
        assert(errno == E_TLSPOOL_PINENTRY_NOT_VACANT);
    } else {
        assert(tlspool_localid_service(argv[2], PIOF_LIDENTRY_SKIP_USER, 60, lidcb, "data") == -1);
        assert(errno == E_TLSPOOL_LIDENTRY_NOT_VACANT);
    }
    puts("ok");
    return 0;
}
