/* The structs stand where the protocol says. Only compiled. */
#include <stddef.h>

#include <tlspool/async.h>
#include <tlspool/commands.h>
#include <tlspool/starttls.h>

#define AT(type, field, offset) \
    _Static_assert(offsetof(type, field) == (offset), #type "." #field)
#define SIZE(type, size) _Static_assert(sizeof(type) == (size), "sizeof " #type)

SIZE(struct tlspool_command, 388);
AT(struct tlspool_command, pio_reqid, 0);
AT(struct tlspool_command, pio_cbid, 2);
AT(struct tlspool_command, pio_cmd, 4);
AT(struct tlspool_command, pio_data, 8);
SIZE(union pio_data, 380);

SIZE(struct pioc_error, 132);
AT(struct pioc_error, message, 4);

SIZE(pingpool_t, 140);
AT(pingpool_t, facilities, 136);

SIZE(starttls_t, 304);
AT(starttls_t, local, 4);
AT(starttls_t, ipproto, 8);
AT(starttls_t, streamid, 10);
AT(starttls_t, localid, 12);
AT(starttls_t, remoteid, 140);
AT(starttls_t, ctlkey, 268);
AT(starttls_t, service, 284);
AT(starttls_t, timeout, 300);

SIZE(struct tlspool_message, 8);
AT(struct tlspool_message, flags, 2);
AT(struct tlspool_message, ppid, 4);

SIZE(pinentry_t, 380);
AT(pinentry_t, attempt, 4);
AT(pinentry_t, timeout_us, 8);
AT(pinentry_t, pin, 12);
AT(pinentry_t, prompt, 140);
AT(pinentry_t, token_manuf, 268);
AT(pinentry_t, token_model, 304);
AT(pinentry_t, token_serial, 324);
AT(pinentry_t, token_label, 344);

SIZE(lidentry_t, 266);
AT(lidentry_t, maxlevels, 4);
AT(lidentry_t, timeout, 6);
AT(lidentry_t, localid, 10);
AT(lidentry_t, remoteid, 138);

SIZE(struct pioc_control, 148);
AT(struct pioc_control, ctlkey, 4);
AT(struct pioc_control, name, 20);

SIZE(struct pioc_prng, 356);
AT(struct pioc_prng, in2_len, 2);
AT(struct pioc_prng, prng_len, 4);
AT(struct pioc_prng, buffer, 6);

SIZE(struct pioc_info, 356);
AT(struct pioc_info, info_kind, 16);
AT(struct pioc_info, len, 20);
AT(struct pioc_info, buffer, 22);

_Static_assert(E_TLSPOOL_RENOGIATE_NOT_FOUND == -1167372288 + 19, "renegotiate");
_Static_assert(E_TLSPOOL_INFO_NOT_FOUND == -1167372288 + 29, "last of the old table");
_Static_assert(E_TLSPOOL_LOCALID_REFUSED == -1167372288 + 39, "last of the new table");

int main(void)
{
    return 0;
}
