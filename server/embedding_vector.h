/* A vector on its way to a client: cut, normalised, and written as numbers or as base64 of little-endian float32. */
#ifndef QUERN_SERVER_EMBEDDING_VECTOR_H
#define QUERN_SERVER_EMBEDDING_VECTOR_H

#include "server/string_builder.h"

#include <stdint.h>

/* Divides by the length, unless that is 0. */
void embedding_normalise(float *vector, int32_t n);

/* [0.5,-0.25]: each number with the nine digits that tell one float32 from every other. */
void embedding_write_numbers(struct string_builder *out, const float *vector, int32_t n);
/* "AAAAPwAAgL4=" */
void embedding_write_base64(struct string_builder *out, const float *vector, int32_t n);

#endif
