#include "server/mark_matcher.h"

#include <assert.h>
#include <string.h>

int mark_matcher_push(struct mark_matcher *matcher, char c, const char *const *marks) {
    assert(matcher->length < MARK_MAX_BYTES);
    size_t length = matcher->length + 1;
    matcher->bytes[matcher->length] = c;
    int answer = MARK_NONE;
    for (int i = 0; marks[i] != NULL; ++i) {
        if (strncmp(marks[i], matcher->bytes, length) != 0) continue;
        if (marks[i][length] == '\0') {
            matcher->length = 0;
            return i;
        }
        answer = MARK_PARTIAL;
    }
    if (answer == MARK_PARTIAL) matcher->length = length;
    return answer;
}
