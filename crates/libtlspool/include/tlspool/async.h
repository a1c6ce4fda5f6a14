/* The TLS Pool for programs with an event loop of their own; see tlspool_async(3).
 *
 * Nothing here waits, except the greeting in tlspool_async_open(). A pool and its requests belong
 * to one thread at a time.
 */
#ifndef TLSPOOL_ASYNC_H
#define TLSPOOL_ASYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tlspool/commands.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A request that waits for its answer. The program keeps it in place until cbfunc is called. */
struct tlspool_async_request {
    void *private_data;                   /* the library's */
    void (*cbfunc)(struct tlspool_async_request *req, int opt_fd);
    struct tlspool_command cmd;           /* the question, and then the answer */
};

/* A connection. */
struct tlspool_async_pool {
    void *private_data;                   /* the library's */
    pool_handle_t handle;                 /* to poll for POLLIN */
    size_t cmdsize;
    struct pioc_ping pingdata;            /* what the pool answered to the greeting */
};

bool tlspool_async_open(struct tlspool_async_pool *pool, size_t sizeof_tlspool_command,
                        char *tlspool_identity, uint32_t required_facilities,
                        char *socket_path);
bool tlspool_async_request(struct tlspool_async_pool *pool,
                           struct tlspool_async_request *reqcb, int opt_fd);
bool tlspool_async_cancel(struct tlspool_async_pool *pool, struct tlspool_async_request *reqcb);
bool tlspool_async_process(struct tlspool_async_pool *pool);
bool tlspool_async_close(struct tlspool_async_pool *pool, bool close_socket);

#ifdef __cplusplus
}
#endif

#endif
