/*
 * Chooses whom this user's programs show where they name nobody, and has the pool remember it.
 *
 *	choose-localid LOCALID [DOMAIN]
 *
 * LOCALID is shown to DOMAIN and whatever is below it, and nobody elsewhere; without DOMAIN it is shown
 * to everybody. Runs until the pool ends. See tlspool_localid_service(3).
 *
 *	cc -o choose-localid choose-localid.c -ltlspool
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <tlspool/starttls.h>

struct wish {
    const char *localid;
    const char *domain;
};

/* Whether a host, or the host of a user, is the domain or below it. */
static int within(const char *name, const char *domain)
{
    const char *at = strrchr(name, '@');
    const char *host = at != NULL ? at + 1 : name;
    size_t have = strlen(host), want = strlen(domain);

    if (have < want || strcasecmp(host + have - want, domain) != 0)
        return 0;
    return have == want || host[have - want - 1] == '.';
}

static char *choose(struct pioc_lidentry *entry, void *data)
{
    const struct wish *wish = data;

    if (entry->flags & PIOF_LIDENTRY_DBENTRY) {
        printf("%s may be shown to %s\n", entry->localid, entry->remoteid);
        fflush(stdout);
        return NULL;
    }
    if (strlen(wish->localid) >= sizeof entry->localid) {
        errno = ENAMETOOLONG;
        return "the local identity is too long";
    }
    if (wish->domain == NULL || within(entry->remoteid, wish->domain)) {
        strcpy(entry->localid, wish->localid);
        entry->flags |= PIOF_LIDENTRY_DBAPPEND;
    } else {
        entry->localid[0] = '\0';
    }
    printf("%s for %s\n", entry->localid[0] ? entry->localid : "nobody", entry->remoteid);
    fflush(stdout);
    return NULL;
}

int main(int argc, char *argv[])
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s LOCALID [DOMAIN]\n", argv[0]);
        return 2;
    }
    struct wish wish = { argv[1], argc > 2 ? argv[2] : NULL };

    tlspool_localid_service(NULL, PIOF_LIDENTRY_SKIP_DBENTRY | PIOF_LIDENTRY_WANT_DBENTRY, 60,
                            choose, &wish);
    fprintf(stderr, "%s: %s\n", argv[0], tlspool_strerror(errno));
    return 1;
}
