/* One tool call as a model writes it, byte by byte, to a name and a JSON object of arguments.
 *
 * JSON form, published with Qwen3: {"name": "f", "arguments": {…}}, members in any order, others passed over, no
 * arguments taken as {}. The arguments are the bytes that the model wrote. XML form, of Qwen3-Coder:
 * <function=f> <parameter=x> text </parameter> … </function>, one line break stripped at each end of a text. A text
 * becomes what the tool's schema allows: a string, or else the JSON it spells (True, False and None too); text that
 * spells nothing allowed stays a string, so that the arguments are always JSON.
 *
 * A call is DONE with the closing brace or </function>. Anything else than what is described here is MALFORMED. */
#ifndef QUERN_SERVER_CALL_READER_H
#define QUERN_SERVER_CALL_READER_H

#include "server/chat_template.h"
#include "server/json_scan.h"
#include "server/mark_matcher.h"
#include "server/string_builder.h"

#include <stdbool.h>
#include <stdint.h>

enum call_form { CALL_FORM_JSON, CALL_FORM_XML };

enum call_status { CALL_MORE, CALL_DONE, CALL_MALFORMED };

enum call_json_member { CALL_MEMBER_OTHER, CALL_MEMBER_NAME, CALL_MEMBER_ARGUMENTS };

enum call_xml_state { CALL_XML_BEFORE, CALL_XML_NAME, CALL_XML_BETWEEN, CALL_XML_KEY, CALL_XML_TEXT };

/* Zero-initialise but for form, is_exact and tools; call_reader_start before each call. */
struct call_reader {
    enum call_form form;
    bool is_exact;                 // XML form: a text ends with a line break and </parameter>, and not without one
    const struct chat_text *tools; // [n_tools] JSON of each tool, borrowed; XML form
    int32_t n_tools;

    struct string_builder name; // whole once is_named
    bool is_named;
    struct string_builder arguments; // as far as they have come; the caller may take bytes from it once is_named

    struct string_builder part; // the key or text at hand
    struct json_scan scan;      // JSON form
    enum call_json_member member;
    bool has_arguments;
    enum call_xml_state state; // XML form
    struct mark_matcher mark;
    struct string_builder key;
    int32_t n_parameters;
};

/* is_function_open: XML form, "<function=" was read already. */
void call_reader_start(struct call_reader *reader, bool is_function_open);
enum call_status call_reader_push(struct call_reader *reader, char c);
/* ERR_NONE, or why a builder failed. */
enum error_code call_reader_failure(const struct call_reader *reader);
void call_reader_finish(struct call_reader *reader);

/* The two forms; for call_reader.c. */
enum call_status call_json_push(struct call_reader *reader, char c);
enum call_status call_xml_push(struct call_reader *reader, char c);

#endif
