/* The peer of peer.h with libgnutls. */
#include "peer.h"

#include <gnutls/crypto.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>

static gnutls_certificate_credentials_t credentials;
static gnutls_anon_server_credentials_t anonymous_server;
static gnutls_anon_client_credentials_t anonymous_client;
static gnutls_datum_t ticket_key, cookie_key, saved;
static gnutls_session_t session;

static int library_failed(int error)
{
    return failed(gnutls_strerror(error));
}

static int library_start(void)
{
    int done;

    if ((done = gnutls_certificate_allocate_credentials(&credentials)) < 0
        || (done = gnutls_session_ticket_key_generate(&ticket_key)) < 0
        || (done = gnutls_key_generate(&cookie_key, GNUTLS_COOKIE_KEY_SIZE)) < 0
        || (done = gnutls_anon_allocate_client_credentials(&anonymous_client)) < 0
        || (done = gnutls_anon_allocate_server_credentials(&anonymous_server)) < 0
        || (done = gnutls_anon_set_server_known_dh_params(anonymous_server, GNUTLS_SEC_PARAM_MEDIUM)) < 0)
        return library_failed(done);
    if (options.key != NULL
        && (done = gnutls_certificate_set_x509_key_file(credentials, options.certificate, options.key,
                                                        GNUTLS_X509_FMT_PEM)) < 0)
        return library_failed(done);
    return 0;
}

struct destination {
    int fd;
    struct sockaddr_in address;
};

static ssize_t send_cookie(gnutls_transport_ptr_t to, const void *bytes, size_t length)
{
    struct destination *destination = to;
    return sendto(destination->fd, bytes, length, 0, (struct sockaddr *)&destination->address,
                  sizeof destination->address);
}

/* Waits for a hello with a cookie, which stays in the socket, and connects to its sender. */
static int await_cookie(int fd, gnutls_dtls_prestate_st *state)
{
    struct destination from = {.fd = fd};
    unsigned char hello[4096];

    for (;;) {
        socklen_t length = sizeof from.address;
        ssize_t n = recvfrom(fd, hello, sizeof hello, MSG_PEEK, (struct sockaddr *)&from.address, &length);
        if (n < 0)
            return failed("receive");
        memset(state, 0, sizeof *state);
        if (gnutls_dtls_cookie_verify(&cookie_key, &from.address, length, hello, n, state) == 0)
            break;
        gnutls_dtls_cookie_send(&cookie_key, &from.address, length, state, &from, send_cookie);
        if (recv(fd, hello, sizeof hello, 0) < 0)
            return failed("receive");
    }
    or_die(connect(fd, (struct sockaddr *)&from.address, sizeof from.address), "connect");
    return 0;
}

static int shake(void)
{
    int done;

    do {
        done = gnutls_handshake(session);
    } while (done < 0 && gnutls_error_is_fatal(done) == 0);
    if (done < 0) {
        gnutls_alert_send_appropriate(session, done);
        return library_failed(done);
    }
    return 0;
}

static int library_handshake(int fd)
{
    char priority[200];
    gnutls_dtls_prestate_st state;
    unsigned int flags = options.client ? GNUTLS_CLIENT : GNUTLS_SERVER;
    int done;

    snprintf(priority, sizeof priority, "NORMAL:-VERS-ALL:+VERS-%s:+SIGN-EDDSA-ED25519:+DHE-RSA%s",
             options.datagrams ? "DTLS1.2" : "TLS1.2", options.anonymous ? ":+ANON-DH" : "");
    if (options.datagrams)
        flags |= GNUTLS_DATAGRAM;
    if ((done = gnutls_init(&session, flags)) < 0
        || (done = gnutls_priority_set_direct(session, priority, NULL)) < 0
        || (done = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials)) < 0)
        return library_failed(done);
    if (options.anonymous) {
        void *anonymous = options.client ? (void *)anonymous_client : (void *)anonymous_server;
        gnutls_credentials_set(session, GNUTLS_CRD_ANON, anonymous);
    }
    if (options.client) {
        gnutls_server_name_set(session, GNUTLS_NAME_DNS, "localhost", 9);
        if (saved.data != NULL)
            gnutls_session_set_data(session, saved.data, saved.size);
    } else {
        gnutls_certificate_request_t request[] = {GNUTLS_CERT_IGNORE, GNUTLS_CERT_REQUEST, GNUTLS_CERT_REQUIRE};
        gnutls_certificate_server_set_request(session, request[options.auth]);
        gnutls_session_ticket_enable_server(session, &ticket_key);
    }
    if (options.datagrams && !options.client) {
        if (await_cookie(fd, &state) < 0)
            return -1;
        gnutls_dtls_prestate_set(session, &state);
    }
    gnutls_transport_set_int(session, fd);
    return shake();
}

static ssize_t library_read(char *buffer, size_t room)
{
    for (;;) {
        ssize_t n = gnutls_record_recv(session, buffer, room);
        if (n >= 0)
            return n;
        if (n == GNUTLS_E_REHANDSHAKE) {
            if (shake() < 0)
                return -1;
        } else if (gnutls_error_is_fatal(n)) {
            return library_failed(n);
        }
    }
}

static int library_write(const char *buffer, size_t length)
{
    ssize_t n = gnutls_record_send(session, buffer, length);
    return n == (ssize_t)length ? 0 : library_failed(n);
}

static int library_renegotiate(bool asking)
{
    int done;

    if (options.client)
        return shake();
    if (asking)
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
    /* HelloRequest; the rest is done when reading. */
    done = gnutls_rehandshake(session);
    return done < 0 ? library_failed(done) : 0;
}

static void bound(const char *name, gnutls_channel_binding_t kind)
{
    gnutls_datum_t binding = {NULL, 0};

    if (gnutls_session_channel_binding(session, kind, &binding) == 0)
        fact(name, binding.data, binding.size);
    gnutls_free(binding.data);
}

static void library_facts(void)
{
    unsigned char bytes[64];
    size_t length = sizeof bytes;
    const gnutls_datum_t *peer = gnutls_certificate_get_peers(session, NULL);

    printf("fact suite %s\n", gnutls_ciphersuite_get(session));
    printf("fact resumed %d\n", gnutls_session_is_resumed(session));
    if (peer != NULL && gnutls_fingerprint(GNUTLS_DIG_SHA256, peer, bytes, &length) == 0)
        fact("peer", bytes, length);
    else
        puts("fact peer none");
    if (gnutls_prf_rfc5705(session, strlen(LABEL), LABEL, 0, NULL, 32, (char *)bytes) == 0)
        fact("exported", bytes, 32);
    if (gnutls_prf_rfc5705(session, strlen(LABEL), LABEL, strlen(CONTEXT), CONTEXT, 32, (char *)bytes) == 0)
        fact("exported-with-context", bytes, 32);
    bound("tls-exporter", GNUTLS_CB_TLS_EXPORTER);
    bound("tls-unique", GNUTLS_CB_TLS_UNIQUE);
    bound("tls-server-end-point", GNUTLS_CB_TLS_SERVER_END_POINT);
}

static void library_end(void)
{
    if (session == NULL)
        return;
    gnutls_bye(session, GNUTLS_SHUT_WR);
    if (options.client) {
        gnutls_free(saved.data);
        saved.data = NULL;
        if (gnutls_session_get_data2(session, &saved) < 0)
            saved.data = NULL;
    }
    gnutls_deinit(session);
    session = NULL;
}
