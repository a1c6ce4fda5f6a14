/* The records that a program and the TLS Pool exchange over the pool's UNIX socket.
 *
 * Every record is one struct tlspool_command of 388 bytes in host byte order. Most programs need
 * only the functions in <tlspool/starttls.h>, which fill in records of this form.
 */
#ifndef TLSPOOL_COMMANDS_H
#define TLSPOOL_COMMANDS_H

#include <stdint.h>

#include <tlspool/errors.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Who we are to a pool: date and producer of this protocol. */
#define TLSPOOL_IDENTITY_V2        "20151111api@tlspool.arpa2.net"

/* Sizes, in bytes. */
#define TLSPOOL_CTLKEYLEN          16
#define TLSPOOL_SERVICELEN         16
#define TLSPOOL_PRNGBUFLEN         350
#define TLSPOOL_INFOBUFLEN         334

/* Special values of a STARTTLS timeout, otherwise in milliseconds. */
#define TLSPOOL_TIMEOUT_DEFAULT    0
#define TLSPOOL_TIMEOUT_INFINITE   (~(uint32_t) 0)

/* A connection to the pool. */
typedef int pool_handle_t;
#define INVALID_POOL_HANDLE        (-1)

#pragma pack(push, 2)

/* PIOC_ERROR_V2 */
struct pioc_error {
    int tlserrno;                         /* an errno, or E_TLSPOOL_... */
    char message[128];                    /* what to tell a person */
};

/* PIOC_PING_V2 */
struct pioc_ping {
    char YYYYMMDD_producer[8 + 128];      /* TLSPOOL_IDENTITY_V2 */
    uint32_t facilities;                  /* PIOF_FACILITY_... */
};

/* PIOC_STARTTLS_V2, PIOC_STARTTLS_LOCALID_V2, PIOC_PLAINTEXT_CONNECT_V2 */
struct pioc_starttls {
    uint32_t flags;                       /* PIOF_STARTTLS_... */
    uint32_t local;                       /* the program's own, comes back unchanged */
    uint8_t ipproto;                      /* IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP */
    uint16_t streamid;                    /* SCTP only */
    char localid[128];                    /* our name, or empty */
    char remoteid[128];                   /* the peer's name, or empty */
    uint8_t ctlkey[TLSPOOL_CTLKEYLEN];    /* names the session in later commands */
    uint8_t service[TLSPOOL_SERVICELEN];  /* name of the service, NUL-terminated */
    uint32_t timeout;                     /* of the handshake, in milliseconds */
};

/* The streamid of a program that uses many streams of an association with DTLS over SCTP. On its
 * plaintext socket this is in front of each message, of at most TLSPOOL_MESSAGELEN bytes. */
#define TLSPOOL_EVERY_STREAM       0xffff
#define TLSPOOL_MESSAGELEN         16384

struct tlspool_message {
    uint16_t stream;
    uint16_t flags;                       /* TLSPOOL_MESSAGE_... */
    uint32_t ppid;                        /* in network byte order, as in sinfo_ppid */
};

/* The message may overtake others of its stream. */
#define TLSPOOL_MESSAGE_UNORDERED  0x0001

/* PIOC_PINENTRY_V2 */
struct pioc_pinentry {
    uint32_t flags;
    uint32_t attempt;                     /* how often this PIN was asked for before */
    uint32_t timeout_us;                  /* time to answer, in microseconds */
    char pin[128];                        /* the answer; empty refuses */
    char prompt[128];
    char token_manuf[32 + 1 + 3];
    char token_model[16 + 1 + 3];
    char token_serial[16 + 1 + 3];
    char token_label[32 + 1 + 3];
};

/* PIOC_LIDENTRY_REGISTER_V2, PIOC_LIDENTRY_CALLBACK_V2 */
struct pioc_lidentry {
    uint32_t flags;                       /* PIOF_LIDENTRY_... */
    uint16_t maxlevels;                   /* steps from the concrete name to the general */
    uint32_t timeout;                     /* time to answer, in seconds */
    char localid[128];                    /* proposed, and the answer */
    char remoteid[128];                   /* whom it is shown to */
};

/* PIOC_CONTROL_DETACH_V2, PIOC_CONTROL_REATTACH_V2 */
struct pioc_control {
    uint32_t flags;
    uint8_t ctlkey[TLSPOOL_CTLKEYLEN];
    char name[128];
};

/* PIOC_PRNG_V2: a length below zero is no field at all */
struct pioc_prng {
    int16_t in1_len;                      /* of the label */
    int16_t in2_len;                      /* of the context */
    int16_t prng_len;                     /* wanted, or delivered */
    uint8_t buffer[TLSPOOL_PRNGBUFLEN];   /* control key, label, context; or the outcome */
};

/* PIOC_INFO_V2: length 0xffff asks, any other compares */
struct pioc_info {
    uint8_t ctlkey[TLSPOOL_CTLKEYLEN];
    uint32_t info_kind;                   /* PIOK_INFO_... */
    uint16_t len;
    uint8_t buffer[TLSPOOL_INFOBUFLEN];
};

struct tlspool_command {
    uint16_t pio_reqid;                   /* chosen by the program, in every response */
    uint16_t pio_cbid;                    /* chosen by the pool, in every answer to a callback */
    uint32_t pio_cmd;                     /* PIOC_... */
    union pio_data {
        struct pioc_error pioc_error;
        struct pioc_ping pioc_ping;
        struct pioc_starttls pioc_starttls;
        struct pioc_pinentry pioc_pinentry;
        struct pioc_lidentry pioc_lidentry;
        struct pioc_control pioc_control;
        struct pioc_prng pioc_prng;
        struct pioc_info pioc_info;
    } pio_data;
};

#pragma pack(pop)

typedef struct pioc_ping pingpool_t;
typedef struct pioc_starttls starttls_t;
typedef struct pioc_pinentry pinentry_t;
typedef struct pioc_lidentry lidentry_t;

/* Commands. */
#define PIOC_SUCCESS_V2                       0x00000000
#define PIOC_ERROR_V2                         0x00000001
#define PIOC_PING_V2                          0x00000010
#define PIOC_STARTTLS_V2                      0x00000024
#define PIOC_STARTTLS_LOCALID_V2              0x00000028
#define PIOC_PINENTRY_V2                      0x00000029
#define PIOC_PLAINTEXT_CONNECT_V2             0x0000002a
#define PIOC_PRNG_V2                          0x0000002b
#define PIOC_INFO_V2                          0x0000002c
#define PIOC_CONTROL_DETACH_V2                0x00000100
#define PIOC_CONTROL_REATTACH_V2              0x00000101
#define PIOC_LIDENTRY_REGISTER_V2             0x00000200
#define PIOC_LIDENTRY_CALLBACK_V2             0x00000201
#define PIOC_LOCAL                            0x80000000

/* What a pool can do. */
#define PIOF_FACILITY_STARTTLS                0x00000001
#define PIOF_FACILITY_STARTGSS                0x00000002
#define PIOF_FACILITY_STARTSSH                0x00000004
#define PIOF_FACILITY_ALL_CURRENT             0x00000001

/* Flags of STARTTLS. None: both identities are required and validated. A flag that grants the
 * pool a freedom comes back set only if the pool used it. */
#define PIOF_STARTTLS_LOCALROLE_CLIENT        0x00000001
#define PIOF_STARTTLS_LOCALROLE_SERVER        0x00000002
#define PIOF_STARTTLS_LOCALROLE_PEER          0x00000003
#define PIOF_STARTTLS_REMOTEROLE_CLIENT       0x00000004
#define PIOF_STARTTLS_REMOTEROLE_SERVER       0x00000008
#define PIOF_STARTTLS_REMOTEROLE_PEER         0x0000000c
#define PIOF_STARTTLS_BOTHROLES_PEER          0x0000000f
#define PIOF_STARTTLS_DTLS                    0x00000100
#define PIOF_STARTTLS_WITHOUT_SNI             0x00000200
#define PIOF_STARTTLS_IGNORE_CACHES           0x00000400
#define PIOF_STARTTLS_REQUEST_REMOTEID        0x00000800
#define PIOF_STARTTLS_IGNORE_REMOTEID         0x00001000
#define PIOF_STARTTLS_DETACH                  0x00002000
#define PIOF_STARTTLS_FORK                    0x00004000
#define PIOF_STARTTLS_DOMAIN_REPRESENTS_USER  0x00008000
#define PIOF_STARTTLS_LOCALID_CHECK           0x00010000
#define PIOF_STARTTLS_RENEGOTIATE             0x00020000
#define PIOF_STARTTLS_LOCALID_ONTHEFLY        0x00040000

/* Flags of LIDENTRY: when to skip the callback, ... */
#define PIOF_LIDENTRY_SKIP_DBENTRY            0x00000080
#define PIOF_LIDENTRY_SKIP_USER               0x00000081
#define PIOF_LIDENTRY_SKIP_DOMAIN_SAME        0x00000082
#define PIOF_LIDENTRY_SKIP_DOMAIN_ONEUP       0x00000084
#define PIOF_LIDENTRY_SKIP_DOMAIN_SUB         0x00000086
#define PIOF_LIDENTRY_SKIP_NOTROOT            0x00000088
#define PIOF_LIDENTRY_WANT_DBENTRY            0x00000100
#define PIOF_LIDENTRY_WANT_CANDIDATES         0x00000200 /* since this implementation */
#define PIOF_LIDENTRY_REGFLAGS                0x00000fff
/* ... and what a callback or its answer says. */
#define PIOF_LIDENTRY_DBENTRY                 0x00001000
#define PIOF_LIDENTRY_DBINSERT                0x00002000
#define PIOF_LIDENTRY_DBAPPEND                0x00004000
#define PIOF_LIDENTRY_DBREORDER               0x00008000
#define PIOF_LIDENTRY_CANDIDATE               0x00010000 /* since this implementation */
#define PIOF_LIDENTRY_NEW                     0x00100000
#define PIOF_LIDENTRY_ONTHEFLY                0x00200000

/* Kinds of information. */
#define PIOK_INFO_PEERCERT_SUBJECT               0x52800000
#define PIOK_INFO_PEERCERT_ISSUER                0x52800001
#define PIOK_INFO_PEERCERT_SUBJECTALTNAME        0x52800002
#define PIOK_INFO_MYCERT_SUBJECT                 0x52800100
#define PIOK_INFO_MYCERT_ISSUER                  0x52800101
#define PIOK_INFO_MYCERT_SUBJECTALTNAME          0x52800102
#define PIOK_INFO_CHANBIND_TLS_UNIQUE            0x59290000
#define PIOK_INFO_CHANBIND_TLS_SERVER_END_POINT  0x59290001
#define PIOK_INFO_CHANBIND_TLS_EXPORTER          0x92660000

#ifdef __cplusplus
}
#endif

#endif
