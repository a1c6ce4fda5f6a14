/* A man in the middle of the anonymous phase:  middle PORT
 *
 * Says where it listens, and finishes an anonymous handshake with who comes and another with who listens at PORT. Then it
 * passes on what is inside, whatever it is: it opens each record with the keys of one side and seals it with those of the
 * other. It says what passes.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#define HEADER 5
#define EXPLICIT 8
#define TAG 16
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ANON-DH"

/* One direction of a session. */
struct keys {
    gnutls_aead_cipher_hd_t cipher;
    unsigned char fixed[4], number[8];
};

static void must(int result, const char *what)
{
    if (result < 0) {
        printf("%s: %s\n", what, gnutls_strerror(result));
        exit(1);
    }
}

static struct keys keys_of(gnutls_session_t session, unsigned reading)
{
    gnutls_datum_t mac, iv, key;
    struct keys keys;

    must(gnutls_record_get_state(session, reading, &mac, &iv, &key, keys.number), "state");
    if (iv.size != sizeof keys.fixed)
        exit(1);
    memcpy(keys.fixed, iv.data, sizeof keys.fixed);
    must(gnutls_aead_cipher_init(&keys.cipher, gnutls_cipher_get(session), &key), "cipher");
    return keys;
}

static void next_number(struct keys *keys)
{
    for (int at = 7; at >= 0 && ++keys->number[at] == 0; at--)
        ;
}

static void associate(unsigned char out[13], const struct keys *keys, const unsigned char *header, size_t length)
{
    memcpy(out, keys->number, 8);
    memcpy(out + 8, header, 3);
    out[11] = length >> 8;
    out[12] = length;
}

static int read_all(int fd, unsigned char *into, size_t length)
{
    for (size_t have = 0; have < length;) {
        ssize_t n = recv(fd, into + have, length - have, 0);
        if (n <= 0)
            return 0;
        have += n;
    }
    return 1;
}

/* Passes one record on; 0 at the end. */
static int pass_on(int from, struct keys *open, int to, struct keys *seal, const char *way)
{
    static unsigned char record[20000], plain[20000];
    unsigned char nonce[12], associated[13];
    size_t length, sealed;

    if (!read_all(from, record, HEADER))
        return 0;
    length = record[3] << 8 | record[4];
    if (length < EXPLICIT + TAG || length > sizeof record - HEADER || !read_all(from, record + HEADER, length))
        return 0;
    memcpy(nonce, open->fixed, 4);
    memcpy(nonce + 4, record + HEADER, EXPLICIT);
    associate(associated, open, record, length - EXPLICIT - TAG);
    size_t plain_length = sizeof plain;
    must(gnutls_aead_cipher_decrypt(open->cipher, nonce, sizeof nonce, associated, sizeof associated, TAG,
                                    record + HEADER + EXPLICIT, length - EXPLICIT, plain, &plain_length), "open");
    next_number(open);
    printf("%s: type %d, first byte %d, second byte %d\n", way, record[0], plain[0], plain[1]);

    memcpy(nonce, seal->fixed, 4);
    memcpy(nonce + 4, seal->number, EXPLICIT);
    memcpy(record + HEADER, seal->number, EXPLICIT);
    associate(associated, seal, record, plain_length);
    sealed = sizeof record - HEADER - EXPLICIT;
    must(gnutls_aead_cipher_encrypt(seal->cipher, nonce, sizeof nonce, associated, sizeof associated, TAG, plain,
                                    plain_length, record + HEADER + EXPLICIT, &sealed), "seal");
    next_number(seal);
    record[3] = (EXPLICIT + sealed) >> 8;
    record[4] = EXPLICIT + sealed;
    length = HEADER + EXPLICIT + sealed;
    return send(to, record, length, MSG_NOSIGNAL) == (ssize_t)length;
}

static gnutls_session_t shake(int fd, int client)
{
    gnutls_session_t session;
    int done;

    must(gnutls_init(&session, client ? GNUTLS_CLIENT : GNUTLS_SERVER), "init");
    must(gnutls_priority_set_direct(session, PRIORITY, NULL), "priority");
    if (client) {
        gnutls_anon_client_credentials_t credentials;
        must(gnutls_anon_allocate_client_credentials(&credentials), "credentials");
        must(gnutls_credentials_set(session, GNUTLS_CRD_ANON, credentials), "credentials");
    } else {
        gnutls_anon_server_credentials_t credentials;
        must(gnutls_anon_allocate_server_credentials(&credentials), "credentials");
        must(gnutls_anon_set_server_known_dh_params(credentials, GNUTLS_SEC_PARAM_MEDIUM), "group");
        must(gnutls_credentials_set(session, GNUTLS_CRD_ANON, credentials), "credentials");
    }
    gnutls_transport_set_int(session, fd);
    do {
        done = gnutls_handshake(session);
    } while (done < 0 && !gnutls_error_is_fatal(done));
    must(done, client ? "handshake with the server" : "handshake with the client");
    return session;
}

int main(int argc, char *argv[])
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), server = socket(AF_INET, SOCK_STREAM, 0), client;

    setvbuf(stdout, NULL, _IOLBF, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (argc != 2 || bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 1) != 0
        || getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        return 2;
    printf("ready %d\n", ntohs(address.sin_port));
    client = accept(listener, NULL, NULL);
    address.sin_port = htons(atoi(argv[1]));
    if (client < 0 || connect(server, (struct sockaddr *)&address, length) != 0)
        return 2;
    gnutls_session_t with_client = shake(client, 0), with_server = shake(server, 1);
    puts("in the middle");
    struct keys from_client = keys_of(with_client, 1), to_client = keys_of(with_client, 0);
    struct keys from_server = keys_of(with_server, 1), to_server = keys_of(with_server, 0);
    struct pollfd both[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
    for (;;) {
        if (poll(both, 2, -1) < 0)
            return 1;
        if (both[0].revents && !pass_on(client, &from_client, server, &to_server, "up"))
            break;
        if (both[1].revents && !pass_on(server, &from_server, client, &to_client, "down"))
            break;
    }
    puts("over");
    return 0;
}
