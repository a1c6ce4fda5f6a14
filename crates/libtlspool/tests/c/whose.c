/* Where the configuration that counts says that the pool is. */
#include <stdio.h>

#include <tlspool/starttls.h>

int main(void)
{
    char *path = tlspool_configvar(NULL, "socket_name");
    puts(path != NULL ? path : "nowhere");
    return 0;
}
