/* TLS for a connected socket, through the local TLS Pool.
 *
 * The manual pages say what each function means: starttls_client(3), tlspool_starttls(3), and those
 * they refer to. All may be called from any thread. They return -1 and set errno on failure;
 * tlspool_strerror(3) has words for every errno they set.
 */
#ifndef TLSPOOL_STARTTLS_H
#define TLSPOOL_STARTTLS_H

#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <netinet/in.h>

#include <tlspool/commands.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Used when neither the program nor the configuration says otherwise. */
#define TLSPOOL_DEFAULT_SOCKET_PATH   "/var/run/tlspool.sock"
#define TLSPOOL_DEFAULT_PIDFILE_PATH  "/var/run/tlspool.pid"
#define TLSPOOL_DEFAULT_CONFIG_PATH   "/etc/tlspool.conf"

/* Flags of starttls_client() and starttls_server(). */
#define STARTTLS_REMOTE_OPTIONAL   0x01  /* ask the peer for a certificate, do not require it */
#define STARTTLS_REMOTE_NONE       0x02  /* do not ask for one, and do not validate it */
#define STARTTLS_LOCAL_NONE        0x04  /* as a client, show no certificate of ours */
#define STARTTLS_NO_REMOTE_USER    0x08  /* refuse a peer that is a user, john@example.com */
#define STARTTLS_NO_REMOTE_DOMAIN  0x10  /* refuse a peer that is a domain, example.com */
#define STARTTLS_NO_CACHE_READ     0x20  /* validate anew */
#define STARTTLS_NO_CACHE_WRITE    0x40  /* the same: what is found is remembered all the same */
#define STARTTLS_NO_AUTHORIZATION  0x80  /* reserved: the pool's rules apply all the same */

/* Plaintext for the connected socket fd, or -1; fd is closed in every case. */
int starttls_client(int fd, int proto, char *myname, int flags, char *sniname,
                    char *peername, size_t peername_len);
int starttls_server(int fd, int proto, char *myname, int flags, int checksni(char *),
                    char *peername, size_t peername_len);

/* The same with everything the protocol offers. */
int tlspool_starttls(int cryptfd, starttls_t *tlsdata, void *privdata,
                     int (*namedconnect)(starttls_t *tlsdata, void *privdata));

/* The daemon, and a connection of one's own to it. */
int tlspool_pid(char *opt_pidfile);
int tlspool_open_poolhandle(char *path);

static inline void tlspool_close_poolhandle(pool_handle_t poolh)
{
    close(poolh);
}

int tlspool_ping(pingpool_t *pingdata);

/* Sessions that outlive the connection that started them. */
int _tlspool_control_command(int cmd, uint8_t *ctlkey);

static inline int tlspool_control_detach(uint8_t *ctlkey)
{
    return _tlspool_control_command(PIOC_CONTROL_DETACH_V2, ctlkey);
}

static inline int tlspool_control_reattach(uint8_t *ctlkey)
{
    return _tlspool_control_command(PIOC_CONTROL_REATTACH_V2, ctlkey);
}

/* Serving the pool: these return when the registration ends. */
int tlspool_localid_service(char *path, uint32_t regflags, int responsetimeout,
                            char *(*cb)(struct pioc_lidentry *entry, void *data), void *data);
int tlspool_pin_service(char *path, uint32_t regflags, int responsetimeout_usec,
                        void (*cb)(pinentry_t *entry, void *data), void *data);

/* Facts and keying material of a session. */
int tlspool_prng(char *label, uint16_t opt_ctxvalue_len, uint8_t *opt_ctxvalue,
                 uint16_t prng_len, uint8_t *prng_buf, uint8_t *ctlkey);
int tlspool_info(uint32_t info_kind, uint8_t infobuf[TLSPOOL_INFOBUFLEN], uint16_t *infolenptr,
                 uint8_t *ctlkey);

/* A value from the old-style configuration file, to be freed; NULL if there is none. */
char *tlspool_configvar(char *cfgfile, char *varname);

/* Words for an errno set by this library in this thread; valid until the thread's next call. */
const char *tlspool_strerror(int errnum);

#ifdef __cplusplus
}
#endif

#endif
