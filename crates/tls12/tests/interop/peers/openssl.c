/* The peer of peer.h with libssl. */
#include "peer.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

static SSL_CTX *context;
static SSL *ssl;
static SSL_SESSION *session;
static const unsigned char cookie[] = "a cookie";

/* The library's own words for the latest error. */
static int library_failed(const char *where)
{
    unsigned long error = ERR_peek_last_error();
    const char *words = error ? ERR_reason_error_string(error) : NULL;
    return failed(words ? words : where);
}

static int accept_all(int ok, X509_STORE_CTX *store)
{
    (void)ok, (void)store;
    return 1;
}

static int make_cookie(SSL *unused, unsigned char *out, unsigned int *length)
{
    (void)unused;
    memcpy(out, cookie, sizeof cookie);
    *length = sizeof cookie;
    return 1;
}

static int check_cookie(SSL *unused, const unsigned char *got, unsigned int length)
{
    (void)unused;
    return length == sizeof cookie && memcmp(got, cookie, length) == 0;
}

static int verify_mode(enum auth auth)
{
    int mode = auth == NONE ? SSL_VERIFY_NONE : SSL_VERIFY_PEER;
    return auth == REQUIRE ? mode | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : mode;
}

static EVP_PKEY *group(void)
{
    EVP_PKEY_CTX *maker = EVP_PKEY_CTX_new_from_name(NULL, "DH", NULL);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, "ffdhe2048", 0),
        OSSL_PARAM_construct_end(),
    };
    EVP_PKEY *made = NULL;
    if (maker != NULL && EVP_PKEY_fromdata_init(maker) == 1)
        EVP_PKEY_fromdata(maker, &made, EVP_PKEY_KEY_PARAMETERS, params);
    EVP_PKEY_CTX_free(maker);
    return made;
}

static int library_start(void)
{
    int version = options.datagrams ? DTLS1_2_VERSION : TLS1_2_VERSION;
    const char *suites = options.anonymous ? "ADH:ALL:@SECLEVEL=0" : "DEFAULT";

    context = SSL_CTX_new(options.datagrams ? DTLS_method() : TLS_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, version)
        || !SSL_CTX_set_max_proto_version(context, version) || !SSL_CTX_set_cipher_list(context, suites))
        return library_failed("context");
    if (options.key != NULL
        && (SSL_CTX_use_certificate_chain_file(context, options.certificate) != 1
            || SSL_CTX_use_PrivateKey_file(context, options.key, SSL_FILETYPE_PEM) != 1))
        return library_failed("key");
    SSL_CTX_set_options(context, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    SSL_CTX_set0_tmp_dh_pkey(context, group());
    SSL_CTX_set_verify(context, verify_mode(options.client ? NONE : options.auth), accept_all);
    SSL_CTX_set_session_id_context(context, cookie, sizeof cookie);
    SSL_CTX_set_cookie_generate_cb(context, make_cookie);
    SSL_CTX_set_cookie_verify_cb(context, check_cookie);
    return 0;
}

static int library_handshake(int fd)
{
    BIO *bio = options.datagrams ? BIO_new_dgram(fd, BIO_NOCLOSE) : BIO_new_socket(fd, BIO_NOCLOSE);
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;

    ERR_clear_error();
    ssl = SSL_new(context);
    SSL_set_bio(ssl, bio, bio);
    if (options.client) {
        SSL_set_tlsext_host_name(ssl, "localhost");
        if (session != NULL)
            SSL_set_session(ssl, session);
    }
    if (options.datagrams && !options.client) {
        BIO_ADDR *from = BIO_ADDR_new();
        int listened;
        SSL_set_options(ssl, SSL_OP_COOKIE_EXCHANGE);
        while ((listened = DTLSv1_listen(ssl, from)) == 0)
            ;
        if (listened < 0)
            return library_failed("listen");
        struct sockaddr_in to = loopback(0);
        to.sin_port = BIO_ADDR_rawport(from);
        or_die(connect(fd, (struct sockaddr *)&to, sizeof to), "connect");
        BIO_ADDR_free(from);
    }
    if (options.datagrams) {
        or_die(getpeername(fd, (struct sockaddr *)&peer, &length), "getpeername");
        BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_CONNECTED, 0, &peer);
    }
    if ((options.client ? SSL_connect(ssl) : SSL_accept(ssl)) != 1)
        return library_failed("handshake");
    return 0;
}

static ssize_t library_read(char *buffer, size_t room)
{
    for (;;) {
        ERR_clear_error();
        int n = SSL_read(ssl, buffer, room);
        if (n > 0)
            return n;
        switch (SSL_get_error(ssl, n)) {
        case SSL_ERROR_ZERO_RETURN:
            return 0;
        case SSL_ERROR_WANT_READ: /* a timer of DTLS, or a handshake */
            if (options.datagrams)
                DTLSv1_handle_timeout(ssl);
            break;
        default:
            return library_failed("read");
        }
    }
}

static int library_write(const char *buffer, size_t length)
{
    return SSL_write(ssl, buffer, length) == (int)length ? 0 : library_failed("write");
}

static int library_renegotiate(bool asking)
{
    if (asking)
        SSL_set_verify(ssl, verify_mode(REQUIRE), accept_all);
    /* A server only says HelloRequest here; the rest is done when reading. */
    if (SSL_renegotiate(ssl) != 1 || SSL_do_handshake(ssl) != 1)
        return library_failed("renegotiate");
    return 0;
}

static void library_facts(void)
{
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int length;
    X509 *peer = SSL_get0_peer_certificate(ssl);
    X509 *server = options.client ? peer : SSL_get_certificate(ssl);
    bool resumed = SSL_session_reused(ssl);
    size_t finished;

    printf("fact suite %s\n", SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl)));
    printf("fact resumed %d\n", resumed);
    if (peer != NULL && X509_digest(peer, EVP_sha256(), bytes, &length) == 1)
        fact("peer", bytes, length);
    else
        puts("fact peer none");
    if (SSL_export_keying_material(ssl, bytes, 32, LABEL, strlen(LABEL), NULL, 0, 0) == 1)
        fact("exported", bytes, 32);
    if (SSL_export_keying_material(ssl, bytes, 32, LABEL, strlen(LABEL), (unsigned char *)CONTEXT,
                                   strlen(CONTEXT), 1) == 1)
        fact("exported-with-context", bytes, 32);
    if (SSL_export_keying_material(ssl, bytes, 32, BINDING, strlen(BINDING), (unsigned char *)"", 0, 1) == 1)
        fact("tls-exporter", bytes, 32);
    /* The client's Finished comes first, unless the session was resumed. */
    finished = options.client != resumed ? SSL_get_finished(ssl, bytes, sizeof bytes)
                                         : SSL_get_peer_finished(ssl, bytes, sizeof bytes);
    fact("tls-unique", bytes, finished);
    if (server != NULL && X509_digest(server, EVP_sha256(), bytes, &length) == 1)
        fact("tls-server-end-point", bytes, length);
}

static void library_end(void)
{
    if (ssl == NULL)
        return;
    if (SSL_is_init_finished(ssl))
        SSL_shutdown(ssl);
    if (options.client) {
        SSL_SESSION_free(session);
        session = SSL_get1_session(ssl);
    }
    SSL_free(ssl);
    ssl = NULL;
}
