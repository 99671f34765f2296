#include "server/call_reader.h"

void call_reader_start(struct call_reader *reader, bool is_function_open) {
    reader->name.length = reader->arguments.length = reader->part.length = reader->key.length = 0;
    reader->is_named = reader->has_arguments = false;
    reader->scan = (struct json_scan){0};
    reader->member = CALL_MEMBER_OTHER;
    reader->state = is_function_open ? CALL_XML_NAME : CALL_XML_BEFORE;
    reader->mark.length = 0;
    reader->n_parameters = 0;
}

enum call_status call_reader_push(struct call_reader *reader, char c) {
    return reader->form == CALL_FORM_JSON ? call_json_push(reader, c) : call_xml_push(reader, c);
}

enum error_code call_reader_failure(const struct call_reader *reader) {
    const struct string_builder *builders[] = {&reader->name, &reader->arguments, &reader->part, &reader->key};
    for (int i = 0; i < 4; ++i) {
        if (builders[i]->failure != ERR_NONE) return builders[i]->failure;
    }
    return ERR_NONE;
}

void call_reader_finish(struct call_reader *reader) {
    string_builder_finish(&reader->name);
    string_builder_finish(&reader->arguments);
    string_builder_finish(&reader->part);
    string_builder_finish(&reader->key);
}
