/* Finds fixed marks such as "</think>" in text that comes byte by byte.
 *
 * The bytes that may begin a mark are held; what they turn out not to be is for the caller to use otherwise. A mark has
 * its first byte, '<', nowhere else: after a mismatch only the last byte can begin another. */
#ifndef QUERN_SERVER_MARK_MATCHER_H
#define QUERN_SERVER_MARK_MATCHER_H

#include <stddef.h>

enum { MARK_MAX_BYTES = 16, MARK_NONE = -1, MARK_PARTIAL = -2 };

/* Zero-initialise. */
struct mark_matcher {
    char bytes[MARK_MAX_BYTES]; // [length] the beginning of at least one mark
    size_t length;
};

/* Takes c unless no mark goes on with it: then the answer is MARK_NONE and what was held before is still there, for the
 * caller to take and to clear. The index of a mark: it is complete, and nothing is held any more. marks ends with NULL;
 * a mark has at most MARK_MAX_BYTES. */
int mark_matcher_push(struct mark_matcher *matcher, char c, const char *const *marks);

#endif
