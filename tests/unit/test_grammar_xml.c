/* Tool calls in the XML form of Qwen3-Coder: which texts are one, and for which schemas that can be said. */
#include "tests/unit/grammar_fixture.h"

#include <stdio.h>

static int set_up(void **state) {
    *state = grammar_fixture_create(GRAMMAR_DEMO, 0);
    return 0;
}

static int tear_down(void **state) {
    grammar_fixture_destroy(*state);
    return 0;
}

#define XML(parameters)        "\n<function=f>\n" parameters "</function>\n"
#define PARAMETER(name, value) "<parameter=" name ">\n" value "\n</parameter>\n"

/* The rest of what a tool in XML may be: {'name':'f','parameters':{'properties':…}} */
#define TOOL(properties) "[{'name':'f','parameters':{'type':'object','properties':{" properties "}}}]"

static void test_xml_calls(void **state) {
    static const struct grammar_language languages[] = {
        // Parameters in their order, those that are required always.
        {"[{'name':'f','parameters':{'properties':{'a':{'type':'integer'},'b':{'type':'string'}},'required':['b']}},"
         "{'name':'\303\251','parameters':{'additionalProperties':false}}]",
         {XML(PARAMETER("a", "-12") PARAMETER("b", "x")), XML(PARAMETER("b", "")),
          "\n<function=\303\251>\n</function>\n"},
         {XML(PARAMETER("b", "x") PARAMETER("a", "1")), XML(PARAMETER("a", "1")),
          XML(PARAMETER("a", "x") PARAMETER("b", "x")), XML(PARAMETER("b", "x") PARAMETER("b", "x")),
          XML(PARAMETER("c", "x") PARAMETER("b", "x")), "\n<function=\303\251>\n" PARAMETER("b", "x") "</function>\n",
          "<function=f>\n" PARAMETER("b", "x") "</function>\n"}},
        // A string is any text up to its end.
        {TOOL("'a':{'type':'string'}"),
         {XML(""), XML(PARAMETER("a", "\n a\n\n\303\251 'b'\\\n")),
          XML(PARAMETER("a", "</parameter></function>\n</tool_call>\n</para")),
          XML(PARAMETER("a", "\n\n</\n<//parameter>"))},
         {XML(PARAMETER("a", "x\n</parameter>y")), XML("<parameter=a>\nx</parameter>\n"),
          XML("<parameter=a>x\n</parameter>\n"), XML(PARAMETER("a", "\377"))}},
        {TOOL("'a':{},'b':{'type':['string','null'],'title':'B'},'c':{'anyOf':[{'type':'string'},{'type':'null'}],'"
              "default':null}"),
         {XML(PARAMETER("a", "[1]") PARAMETER("b", "null") PARAMETER("c", "x\ny"))},
         {XML(PARAMETER("a", "x\n</parameter>y"))}},
        // Strings that must fit stand bare too, without line breaks.
        {TOOL("'a':{'type':'string','enum':['red','12','','[']},'b':{'enum':['x','y']},'c':{'const':'z'}"),
         {XML(PARAMETER("a", "12") PARAMETER("b", "y")), XML(PARAMETER("a", "")), XML(PARAMETER("a", "[")),
          XML(PARAMETER("c", "z"))},
         {XML(PARAMETER("a", "'red'")), XML(PARAMETER("a", "blue")), XML(PARAMETER("b", "")),
          XML(PARAMETER("c", "zz"))}},
        {TOOL("'a':{'type':'string','pattern':'^[^x]+$','maxLength':3},'b':{'type':'string','minLength':2},'c':{'type':"
              "'string','format':'date'}"),
         {XML(PARAMETER("a", "\303\251'<")), XML(PARAMETER("b", "</parameter>")), XML(PARAMETER("c", "2024-02-29"))},
         {XML(PARAMETER("a", "abcd")), XML(PARAMETER("a", "x")), XML(PARAMETER("a", "a\nb")), XML(PARAMETER("b", "a")),
          XML(PARAMETER("b", "a\nb")), XML(PARAMETER("c", "2024-02-31"))}},
        // All else is JSON.
        {TOOL("'a':{'type':['integer','null'],'minimum':3},'b':{'type':'object','properties':{'s':{'type':'string'}},'"
              "additionalProperties':false},"
              "'c':{'anyOf':[{'type':'boolean'},{'type':'array','items':{'$ref':'#/properties/"
              "a'}}]},'d':{'type':'integer','enum':[1,2]}"),
         {XML(PARAMETER("a", "3")), XML(PARAMETER("a", "null")), XML(PARAMETER("b", "{'s': '\\n</parameter>'}")),
          XML(PARAMETER("c", "[4, null]")), XML(PARAMETER("c", "true") PARAMETER("d", "2"))},
         {XML(PARAMETER("a", "2")), XML(PARAMETER("a", "'3'")), XML(PARAMETER("b", "{'s': '\n</parameter>'}")),
          XML(PARAMETER("c", "[2]")), XML(PARAMETER("c", "True")), XML(PARAMETER("d", "3"))}},
        // What a $ref leads to.
        {"[{'name':'f','parameters':{'properties':{'a':{'$ref':'#/$defs/n'},'b':{'anyOf':[{'$ref':'#/definitions/"
         "o'},{'type':'null'}]},"
         "'c':{'$ref':'#/$defs/e','title':'C'}},'$defs':{'n':{'$ref':'#/$defs/"
         "m'},'m':{'type':'integer'},'e':{'enum':['x','y']}},"
         "'definitions':{'o':{'type':'object','properties':{'s':{'$ref':'#/definitions/"
         "o'}},'additionalProperties':false}}}}]",
         {XML(PARAMETER("a", "1")), XML(PARAMETER("b", "{'s': {'s': {}}}") PARAMETER("c", "y")),
          XML(PARAMETER("b", "null"))},
         {XML(PARAMETER("a", "x")), XML(PARAMETER("b", "{'t': 1}")), XML(PARAMETER("c", "'y'"))}},
        // What a tool leaves open.
        {"[{'name':'f','parameters':true}]",
         {XML(""), XML(PARAMETER("a", "x") PARAMETER("b_1", "\n"))},
         {XML(PARAMETER("", "x")), XML(PARAMETER("a", "x\n</parameter>y"))}},
    };
    grammar_assert_languages(*state, GRAMMAR_XML_CALL, languages, sizeof languages / sizeof *languages);
}

static void test_xml_calls_that_would_not_be_clear(void **state) {
    static const char *const properties[] = {
        "'it':{'$ref':'#/properties/x'}",
        "'it':{'type':['string','integer']}",
        "'it':{'type':['string','null'],'minLength':1}",
        "'it':{'enum':['a',1]}",
        "'it':{'enum':['[1]']}",
        "'it':{'properties':{}}",
        "'it':{'anyOf':[{'type':'string'},{'type':'number'}]}",
        "'it':{'anyOf':[{'type':'string','maxLength':3},{'type':'null'}]}",
        "'it':{'anyOf':[{'type':'string'},{'type':'boolean','const':true}]}",
        "'it':{'anyOf':[{'type':'integer'},{'$ref':'#/properties/x'}]}",
        "'it':{'anyOf':[{'type':'integer'},{}]}",
        "'it':{'allOf':[{'type':'string'}]}",
    };
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "[{'name':'f','parameters':{'properties':{'x':{'type':'null'},%s},'$defs':{'x':{'type':'null'}}}}]",
                 properties[i]);
        grammar_assert_refused(*state, GRAMMAR_XML_CALL, text,
                               "The parameters of f: the parameter it: its schema cannot be guaranteed");
    }
    static const char *const refused[][2] = {
        {"[{'name':'f>','parameters':true}]", "a name must not"},
        {"[{'name':'','parameters':true}]", "a name must not"},
        {"[{'name':'f','parameters':{'properties':{'a\\n':{}}}}]", "a name must not"},
        {"[{'name':'f','parameters':{'anyOf':[{'properties':{}}]}}]", "must be an object of properties"},
        {"[{'name':'f','parameters':{'$ref':'#/$defs/x','$defs':{'x':{}}}}]", "must be an object of properties"},
        {"[{'name':'f','parameters':{'type':'string'}}]", "must be an object of properties"},
        {"[{'name':'f','parameters':false}]", "must be an object of properties"},
        {"[{'name':'f','parameters':{'required':['a']}}]", "a is required"},
        {"[{'name':'f','parameters':{'properties':{'a':{'type':'string','const':'x\\n</parameter>'}}}}]",
         "must not hold"},
        {"[{'name':'f','parameters':{'properties':{'a':{'type':'object','not':{}}}}}]", "not"},
        {"[{'name':'f','parameters':{'properties':{'a':false},'required':['a']}}]", "Nothing fits a"},
        {"[{'name':'f'}]", "name, which is a string, and parameters"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        grammar_assert_refused(*state, GRAMMAR_XML_CALL, refused[i][0], refused[i][1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xml_calls),
        cmocka_unit_test(test_xml_calls_that_would_not_be_clear),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
