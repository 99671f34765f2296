/* cmocka with the headers that it needs before it, and without its fail(), which is ours in engine/error.h.
 * fail_msg(format, …) ends the test with a message. */
#ifndef QUERN_TESTS_TEST_H
#define QUERN_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#pragma push_macro("fail") // engine/error.h may come before or after
#undef fail
#include <cmocka.h>
#undef fail
#pragma pop_macro("fail")

#undef fail_msg
#define fail_msg(...) (print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__))

#endif
