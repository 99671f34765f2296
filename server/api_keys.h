/* The keys that clients may show, from the command line and from a file.
 *
 * A key is 1 to API_KEYS_MAX_BYTES printable ASCII characters without blanks and commas. The file has one a line, with
 * blank lines and lines that begin with # between them. No message holds a key. What api_keys_hold takes does not
 * depend on how much of a key is right, and it may run while another thread reloads. */
#ifndef QUERN_SERVER_API_KEYS_H
#define QUERN_SERVER_API_KEYS_H

#include "engine/error.h"

#include <stdint.h>

enum { API_KEYS_MAX_BYTES = 255, API_KEYS_MAX = 4096 };

struct api_keys;

/* list: keys with commas between them; file: a path. "" is none, but not for both. ERR_INVALID when a key is not one,
 * and when the file has none; ERR_IO when it cannot be read. */
struct api_keys *api_keys_create(const char *list, const char *file, struct error *err);
/* Takes NULL. */
void api_keys_destroy(struct api_keys *keys);

/* Reads the file again. On failure all keys stay as they were. */
bool api_keys_reload(struct api_keys *keys, struct error *err);

bool api_keys_hold(struct api_keys *keys, const char *key);
int32_t api_keys_count(struct api_keys *keys);

#endif
