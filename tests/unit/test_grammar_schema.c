/* Which answers a schema, an expression or a list of choices takes, and which schemas are refused, and how. */
#include "engine/grammar_machine.h"
#include "engine/grammar_regex.h"
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

#define ASSERT_SCHEMAS(state, languages)                                                                               \
    grammar_assert_languages(state, GRAMMAR_JSON_SCHEMA, languages, sizeof(languages) / sizeof *(languages))

static void test_objects(void **state) {
    static const struct grammar_language languages[] = {
        {"{'type':'object','properties':{'a':{'type':'integer'},'b':{'type':'null'},'c':{}},'required':['b']}",
         {"{'b':null}", "{'a': 1, 'b': null}", "{'a':1,'b':null,'c':[{}]}", "{'b': null, 'c': -1.5e-7}"},
         {"{}", "{'a':1}", "{'b':null,'a':1}", "{'b':null,}", "{,'b':null}", "{'b':null 'c':1}", "{'b':null,'d':1}",
          "{ 'b':null}", "{'b':  null}", "{'b':null,'b':null}", "{'b':null", "{'b' :null}"}},
        {"{'type':'object','properties':{'a':{'type':'integer'}},'additionalProperties':{'type':'boolean'}}",
         {"{}", "{'a':1}", "{'b':true}", "{'a':1,'ab':false,'':true}", "{'A':true, '\303\251':false}"},
         {"{'b':1}", "{'a':true}", "{'b':true,'a':1}", "{'b\\u0061':true}", "{'x':true,}"}},
        {"{'type':'object','properties':{'a':{}},'additionalProperties':true}",
         {"{}", "{'a':null,'b':{'c':[]}}", "{'b':1}"},
         {"{'b':1,'a':2}"}},
        {"{'type':'object'}", {"{}", "{'x':[1,'\\ud83d\\ude00']}"}, {"[]", "null", "{'x'}", "{1:2}"}},
        {"{'required':['x','y'],'properties':{'z':true}}",
         {"{'x':1,'y':2}", "{'z':0,'x':1,'y':{}}"},
         {"{'x':1}", "{'y':2,'x':1}", "[]", "{'x':1,'y':2,'w':3}"}},
        {"{'type':'object','properties':{'a':false,'b':{'type':'null'}}}", {"{}", "{'b':null}"}, {"{'a':1}"}},
        {"{'type':'object','properties':{'\\u00e9\\n\\\"':{'const':1}}}",
         {"{}", "{'\303\251\\n\\\"':1}"},
         {"{'\\u00e9\\n\\\"':1}"}},
        {"{'type':'object','additionalProperties':false}", {"{}"}, {"{'a':1}"}},
    };
    ASSERT_SCHEMAS(*state, languages);
}

static void test_arrays(void **state) {
    static const struct grammar_language languages[] = {
        {"{'type':'array','items':{'type':'integer'},'minItems':1,'maxItems':3}",
         {"[1]", "[1,2]", "[1, 2, 3]"},
         {"[]", "[1,2,3,4]", "[1,]", "[,1]", "[1 ,2]", "[1,  2]", "1"}},
        {"{'type':'array','prefixItems':[{'type':'string'},{'type':'null'}],'minItems':1}",
         {"['a']", "['a',null]"},
         {"[]", "[null]", "['a',null,1]"}},
        {"{'type':'array','prefixItems':[{'type':'string'}],'items':{'type':'null'},'minItems':2}",
         {"['a',null]", "['a',null,null,null]"},
         {"['a']", "['a','b']"}},
        {"{'type':'array','prefixItems':[{'const':0}],'items':false}", {"[]", "[0]"}, {"[0,0]", "[1]"}},
        {"{'type':'array','items':false}", {"[]"}, {"[0]"}},
        {"{'type':'array','maxItems':0}", {"[]"}, {"[0]"}},
        {"{'items':{'items':{'type':'boolean'}},'minItems':2}", {"[[],[true]]", "[[],[],[]]"}, {"[[]]", "[[1],[]]"}},
    };
    ASSERT_SCHEMAS(*state, languages);
}

static void test_strings(void **state) {
    static const struct grammar_language languages[] = {
        {"{'type':'string'}",
         {"''", "'a\\\"\\\\\\/\\b\\f\\n\\r\\t'", "'\\u00e9\\uD83D\\uDE00\\uffff\\u0001'",
          "'\303\251\360\237\230\200\177'"},
         {"'", "'a", "a", "'\n'", "'\001'", "'\\x'", "'\\u12'", "'\\ud83d'", "'\\ude00'", "'\\ud83d\\u0041'",
          "'\\u0000'", "'\\ud83d\\ud83d'"}},
        {"{'type':'string'}",
         {"'\\u1000\\u0100\\u0010\\ud7ff\\ue000'", "'\\uDBFF\\uDFFF'"},
         {"'\303'", "'\200'", "'\355\240\200'", "'\300\200'", "'\364\220\200\200'", "'\377'", "'\340\200\200'"}},
        {"{'type':'string','minLength':2,'maxLength':3}",
         {"'ab'", "'abc'", "'\303\251\360\237\230\200'", "'\\n\\\"a'"},
         {"''", "'a'", "'abcd'", "'\303\251'"}},
        {"{'type':'string','minLength':2}", {"'ab'", "'abcdefgh'"}, {"'a'"}},
        {"{'type':'string','maxLength':0}", {"''"}, {"'a'"}},
        {"{'type':'string','pattern':'b+'}", {"'b'", "'abbc'", "'a\\nb'"}, {"''", "'a'"}},
        {"{'type':'string','pattern':'^a\\\"?\\\\\\\\d$'}", {"'a\\\\d'", "'a\\\"\\\\d'"}, {"'a1'"}},
        {"{'type':'string','pattern':'^a|b$'}", {"'a'", "'ax'", "'xb'"}, {"'xa'", "'bx'"}},
        {"{'type':'string','pattern':'^[a-z]*$','minLength':2,'maxLength':3}",
         {"'ab'", "'abc'"},
         {"'a'", "'abcd'", "'a1'"}},
        {"{'type':'string','format':'date'}",
         {"'2024-02-29'", "'2000-02-29'", "'2023-12-31'"},
         {"'2023-02-29'", "'1900-02-29'", "'2023-04-31'", "'2023-13-01'", "'2023-1-01'", "'0000-01-01'"}},
        {"{'type':'string','format':'date-time'}",
         {"'2024-02-29T23:59:59Z'", "'2024-01-01T00:00:00.123+05:30'"},
         {"'2024-01-01T24:00:00Z'", "'2024-01-01T00:00:00'", "'2024-01-01 00:00:00Z'"}},
        {"{'type':'string','format':'uuid','maxLength':36}",
         {"'123e4567-e89b-12d3-a456-426614174000'"},
         {"'123e4567e89b12d3a456426614174000'", "''"}},
    };
    ASSERT_SCHEMAS(*state, languages);
}

static void test_numbers_and_literals(void **state) {
    static const struct grammar_language languages[] = {
        {"{'type':'number'}",
         {"0", "-0", "12", "-1.50", "1e5", "2.5E-07", "1234567890123456"},
         {"", "01", "+1", "1.", ".5", "1e", "1e+", "--1", "NaN", "12345678901234567", "1e123"}},
        {"{'type':'integer'}", {"0", "-7", "999999999999999999"}, {"-0", "1.0", "1e2", "007", "1000000000000000000"}},
        {"{'type':['integer','null'],'minimum':10}", {"10", "999", "null"}, {"9", "-10", "0"}},
        {"{'type':'number','minimum':-0.25,'exclusiveMaximum':12.5}",
         {"-0.25", "-0.2", "-0.000001", "0", "0.0", "7.125", "12.499999", "12", "9.999999"},
         {"-0.250001", "-0.3", "-1", "-0", "12.5", "12.50", "13", "100", "1e1", "1.1234567"}},
        {"{'type':'number','exclusiveMinimum':0.1}",
         {"0.100001", "0.11", "5", "9999999999.25"},
         {"0.1", "0.10", "0", "-1", "0.0999", "99999999999999"}},
        {"{'maximum':-1000000000.5}",
         {"-1000000000.5", "-1000000001", "-9999999999999.99"},
         {"-1000000000.49", "-1", "0"}},
        {"{'type':'integer','exclusiveMinimum':-2,'maximum':1.5}", {"-1", "0", "1"}, {"-2", "2"}},
        {"{'type':'integer','maximum':9223372036854775807,'minimum':0}", {"0", "999999999999999999"}, {"-1"}},
        {"{'enum':[1,2.5,'a\\u00e9\\n',null,{'k':[true,{}]},-3]}",
         {"1", "2.5", "'a\303\251\\n'", "null", "{'k':[true,{}]}", "{'k': [true, {}]}", "-3"},
         {"1.0", "'a'", "{}", "3"}},
        {"{'enum':[1,'a','abc',7],'type':['integer','string'],'maxLength':2,'maximum':5}",
         {"1", "'a'"},
         {"7", "'abc'"}},
        {"{'const':0.1}", {"0.1"}, {"0.10"}},
        {"{'const':9007199254740991}", {"9007199254740991"}, {"9007199254740992"}},
        {"{'type':['boolean','null']}", {"true", "false", "null"}, {"0", "nul"}},
        {"true", {"null", "[{}]", "'x'", "-1"}, {"", "nan"}},
    };
    ASSERT_SCHEMAS(*state, languages);
}

static void test_combinations(void **state) {
    static const struct grammar_language languages[] = {
        {"{'anyOf':[{'type':'integer'},{'type':'string','maxLength':1}]}", {"1", "'a'"}, {"'ab'", "null"}},
        {"{'type':'object','properties':{'a':{'type':'integer'}},'anyOf':[{'required':['a']},{'properties':{'b':{'type'"
         ":"
         "'null'}},'required':['b']}]}",
         {"{'a':1}", "{'b':null}", "{'a':1,'b':null}"},
         {"{}", "{'b':1}"}},
        {"{'allOf':[{'type':['integer','string']},{'type':['integer','null'],'minimum':3},{'maximum':5}]}",
         {"3", "4", "5"},
         {"2", "6", "null", "'a'"}},
        {"{'allOf':[{'properties':{'a':{'type':'integer'}},'required':['a']},{'properties':{'a':{'maximum':2},'b':{'"
         "const':"
         "1}}}]}",
         {"{'a':2}", "{'a':-7,'b':1}"},
         {"{'a':3}", "{'b':1}", "{'a':'x'}"}},
        {"{'allOf':[{'properties':{'a':true},'additionalProperties':false},{'properties':{'b':true}}]}",
         {"{}", "{'a':1}"},
         {"{'b':1}"}},
        {"{'oneOf':[{'properties':{'kind':{'const':'cat'},'lives':{'type':'integer'}},'required':['kind']},{'"
         "properties':{"
         "'kind':{'enum':['dog','fox']}},'required':['kind']}]}",
         {"{'kind':'cat','lives':9}", "{'kind':'fox'}"},
         {"{'kind':'dog','lives':9}", "{'kind':'cow'}"}},
        {"{'oneOf':[{'type':'integer','maximum':3},{'type':'integer','minimum':4},{'type':'null'}]}",
         {"3", "4", "null"},
         {"''"}},
        {"{'oneOf':[{'required':['a'],'properties':{'a':true}},{'required':['b'],'properties':{'b':true}}]}",
         {"{'a':1}", "{'b':1}"},
         {"{}", "{'a':1,'b':1}"}},
        {"{'oneOf':[{'anyOf':[{'const':1},{'const':2}]},{'const':3}]}", {"1", "2", "3"}, {"4"}},
        {"{'$defs':{'list':{'type':'object','properties':{'v':{'type':'integer'},'next':{'anyOf':[{'$ref':'#/$defs/"
         "list'},"
         "{'type':'null'}]}},'required':['v','next']}},'$ref':'#/$defs/list'}",
         {"{'v':1,'next':null}", "{'v':1,'next':{'v':2,'next':{'v':3,'next':null}}}"},
         {"{'v':1}", "{'v':1,'next':{}}", "{'v':1,'next':{'v':2,'next':null}"}},
        {"{'properties':{'a/b~c d':{'type':'null'},'x':{'$ref':'#/properties/a~1b~0c%20d'}},'required':['x']}",
         {"{'x':null}"},
         {"{'x':1}"}},
        {"{'$ref':'#/definitions/n','maximum':5,'definitions':{'n':{'type':'integer','minimum':4}}}",
         {"4", "5"},
         {"3", "6"}},
        {"{'type':'array','items':{'$ref':'#'},'title':'t','description':'d','default':[],'examples':[[]],'$schema':'s'"
         ","
         "'$id':'i','$comment':'c','deprecated':true,'readOnly':false,'writeOnly':false}",
         {"[]", "[[],[[]]]"},
         {"[1]"}},
        {"{'anyOf':[{'type':'object','properties':{'deep':{'$ref':'#'}},'required':['deep']},{'type':'integer'}]}",
         {"1", "{'deep':{'deep':2}}"},
         {"{'deep':null}"}},
    };
    ASSERT_SCHEMAS(*state, languages);
}

static void test_expressions_and_choices(void **state) {
    static const struct grammar_language expressions[] = {
        {"a{2,3}b?c*|(?:x|yz)+", {"aa", "aaab", "aabccc", "xyzx"}, {"a", "aaaa", "y", ""}},
        {"^\\d{3}-\\w+\\s$", {"123-a_B9 ", "000-\x61\xe2\x80\xa8"}, {"12-a ", "123-\303\251 "}},
        {"[^\\d\\s]+", {"a\303\251-"}, {"1", " ", ""}},
        {"[\\u4e00-\\u9fff]{1,2}.",
         {"\344\270\255\345\233\275!", "\344\270\255\360\237\230\200"},
         {"a!", "\344\270\255\n"}},
        {"[\\]a\\-\\\\]{4}", {"]a-\\"}, {"]a-b"}},
        {"a*?b+?", {"b", "aabb"}, {"a"}},
        {"(a|)b{0}c{1,}", {"ac", "c", "cc"}, {"abc", "a"}},
        {"\\x41\\u0042\\n\\/\\.", {"AB\n/."}, {"AB\n/x"}},
    };
    static const struct grammar_language choices[] = {
        {"['yes','no','\303\251\\n','no way']", {"yes", "no", "\303\251\n", "no way"}, {"", "n", "no ", "'yes'"}},
    };
    grammar_assert_languages(*state, GRAMMAR_REGEX, expressions, sizeof expressions / sizeof *expressions);
    grammar_assert_languages(*state, GRAMMAR_CHOICE, choices, 1);
}

#define CALL(name, arguments) "\n{'name': '" name "', 'arguments': " arguments "}\n"

static void test_calls(void **state) {
    static const struct grammar_language languages[] = {
        {"[{'name':'f','parameters':{'properties':{'a':{'type':'integer'}},'required':['a']}},"
         "{'name':'\303\251\\\\','parameters':{'additionalProperties':false}}]",
         {CALL("f", "{'a':1}"), CALL("f", "{'a': -12}"), CALL("\303\251\\\\", "{}")},
         {"{'name': 'f', 'arguments': {'a':1}}", CALL("f", "{}"), CALL("f", "{'a':1"), CALL("\303\251\\\\", "{'a':1}"),
          CALL("g", "{'a':1}"), "\n{'name':'f', 'arguments': {'a':1}}\n", "\n{'name': 'f'}\n",
          CALL("f", "{'a':1}") CALL("f", "{'a':1}"), "\n{'arguments': {}, 'name': '\303\251\\\\'}\n"}},
        // Arguments are an object, whatever the schema leaves open.
        {"[{'name':'f','parameters':true},{'name':'g','parameters':{'anyOf':[{'type':'string'},{'required':['a']}]}}]",
         {CALL("f", "{}"), CALL("f", "{'a':[{'b':1}]}"), CALL("g", "{'a':'x'}")},
         {CALL("f", "[]"), CALL("f", "'x'"), CALL("f", "null"), CALL("g", "'x'"), CALL("g", "{}")}},
        // $ref starts at the schema of its own tool.
        {"[{'name':'f','parameters':{'$ref':'#/$defs/x','$defs':{'x':{'properties':{'a':{'$ref':'#/$defs/x'}}}}}},"
         "{'name':'g','parameters':{'properties':{'b':{'$ref':'#/$defs/x'}},'$defs':{'x':{'type':'null'}}}}]",
         {CALL("f", "{}"), CALL("f", "{'a':{'a':{}}}"), CALL("g", "{'b':null}")},
         {CALL("f", "{'a':null}"), CALL("g", "{'b':{}}"), CALL("g", "{'a':{}}")}},
    };
    grammar_assert_languages(*state, GRAMMAR_TOOL_CALL, languages, sizeof languages / sizeof *languages);
}

/* Every integer near the bounds, for ranges within and across signs and lengths. */
static void test_integer_ranges_are_exact(void **state) {
    struct grammar_fixture *fixture = *state;
    for (int round = 0; round < 150; round++) {
        int width = round % 3 == 0 ? 20 : round % 3 == 1 ? 300 : 5000;
        int a = (int)grammar_fixture_draw(fixture, (uint32_t)width * 2) - width;
        int b = a + (int)grammar_fixture_draw(fixture, (uint32_t)width);
        char schema[100], text[20];
        snprintf(schema, sizeof schema, "{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", a, b);
        struct grammar *grammar = grammar_of(fixture, GRAMMAR_JSON_SCHEMA, schema);
        for (int n = -width - 20; n <= 2 * width + 20; n += 1 + (n > a + 30 && n < b - 60 ? 29 : 0)) {
            snprintf(text, sizeof text, "%d", n);
            assert_int_equal(grammar_takes(grammar, text), a <= n && n <= b);
        }
        grammar_release(grammar);
    }
}

static void test_refusals_name_what_is_wrong(void **state) {
    static const struct {
        enum grammar_kind kind;
        const char *text, *named;
    } cases[] = {
        {GRAMMAR_JSON_SCHEMA, "{'type':'object','patternProperties':{}}", "\"patternProperties\""},
        {GRAMMAR_JSON_SCHEMA, "{'properties':{'a':{'multipleOf':2}}}", "\"multipleOf\""},
        {GRAMMAR_JSON_SCHEMA, "{'not':{}}", "\"not\""},
        {GRAMMAR_JSON_SCHEMA, "{'type':'string','format':'ipv4'}", "\"ipv4\""},
        {GRAMMAR_JSON_SCHEMA, "{'type':'text'}", "type must be"},
        {GRAMMAR_JSON_SCHEMA, "{'type':[]}", "type must be"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'number','minimum':1e20}", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'number','minimum':0.1234562,'maximum':0.1234568}", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "{'minItems':-1}", "minItems must be"},
        {GRAMMAR_JSON_SCHEMA, "{'maxLength':1.5}", "maxLength must be"},
        {GRAMMAR_JSON_SCHEMA, "{'exclusiveMinimum':true}", "exclusiveMinimum must be a number"},
        {GRAMMAR_JSON_SCHEMA, "{'required':[1]}", "required must be"},
        {GRAMMAR_JSON_SCHEMA, "{'items':[{}]}", "items must be a schema"},
        {GRAMMAR_JSON_SCHEMA, "{'anyOf':[]}", "anyOf must be"},
        {GRAMMAR_JSON_SCHEMA, "{'enum':[]}", "enum must be"},
        {GRAMMAR_JSON_SCHEMA, "{'allOf':[1]}", "A schema must be"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'null','type':'string'}", "twice"},
        {GRAMMAR_JSON_SCHEMA, "{'properties':{'a':{},'a':{}}}", "twice"},
        {GRAMMAR_JSON_SCHEMA, "{'oneOf':[{'type':'string'},{'maxLength':3}]}", "number 1 and 2"},
        {GRAMMAR_JSON_SCHEMA, "{'$ref':'#/$defs/none'}", "leads to no schema"},
        {GRAMMAR_JSON_SCHEMA, "{'$ref':'http://x/y'}", "only those within"},
        {GRAMMAR_JSON_SCHEMA, "{'$ref':'#'}", "back to itself"},
        {GRAMMAR_JSON_SCHEMA, "{'anyOf':[{'$ref':'#'},{'type':'null'}]}", "back to itself"},
        {GRAMMAR_JSON_SCHEMA,
         "{'$ref':'#/$defs/a','$defs':{'a':{'anyOf':[{'$ref':'#/$defs/b'},{'const':1}]},'b':{'anyOf':[{'$ref':'#/$defs/"
         "a'},{'const':2}]}}}",
         "back to itself"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'object','properties':{'a':{'$ref':'#'}},'required':['a']}", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "false", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'integer','minimum':3,'maximum':2}", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "{'allOf':[{'type':'string'},{'type':'null'}]}", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "{'additionalProperties':false,'required':['a']}", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "{'enum':['a'],'type':'integer'}", "Nothing fits"},
        {GRAMMAR_JSON_SCHEMA, "{'const':90071992547409930}", "2^53"},
        {GRAMMAR_JSON_SCHEMA, "{'const':'\\u0000'}", "\\u0000"},
        {GRAMMAR_JSON_SCHEMA, "{'maxLength':100000}", "states"},
        {GRAMMAR_JSON_SCHEMA, "{'maxItems':1000000000}", "1000000000 items"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'string','pattern':'a','allOf':[{'pattern':'b'}]}", "more than one pattern"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'object'", "not valid JSON"},
        {GRAMMAR_JSON_SCHEMA, "{'prefixItems':[{}],'allOf':[{'items':{}}]}", "does not merge"},
        {GRAMMAR_JSON_SCHEMA, "3", "A schema must be"},
        {GRAMMAR_JSON_SCHEMA, "", "not valid JSON"},
        {GRAMMAR_JSON_SCHEMA, "{'type':'string','pattern':'(?=a)'}", "lookaround"},
        {GRAMMAR_REGEX, "(?!a)b", "lookaround"},
        {GRAMMAR_REGEX, "(?<=a)b", "lookaround"},
        {GRAMMAR_REGEX, "(?<n>a)", "named group"},
        {GRAMMAR_REGEX, "(a)\\1", "backreference"},
        {GRAMMAR_REGEX, "a\\b", "word boundary"},
        {GRAMMAR_REGEX, "\\p{L}", "\\p"},
        {GRAMMAR_REGEX, "a^b", "anchor"},
        {GRAMMAR_REGEX, "(a$)", "anchor"},
        {GRAMMAR_REGEX, "(a", "( without )"},
        {GRAMMAR_REGEX, "a)", ") without ("},
        {GRAMMAR_REGEX, "[a", "[ without ]"},
        {GRAMMAR_REGEX, "[b-a]", "goes down"},
        {GRAMMAR_REGEX, "a{3,2}", "goes down"},
        {GRAMMAR_REGEX, "*a", "nothing to repeat"},
        {GRAMMAR_REGEX, "a**", "repeats a repetition"},
        {GRAMMAR_REGEX, "a\\", "ends in a backslash"},
        {GRAMMAR_REGEX, "((a{100}){100}){100}", "states"},
        {GRAMMAR_REGEX, "a{99999999999}", "too large"},
        {GRAMMAR_REGEX, "[]", "Nothing fits"},
        {GRAMMAR_REGEX, "\377", "UTF-8"},
        {GRAMMAR_CHOICE, "[]", "array of one or more strings"},
        {GRAMMAR_CHOICE, "['a',1]", "array of one or more strings"},
        {GRAMMAR_CHOICE, "['']", "none of them empty"},
        {GRAMMAR_TOOL_CALL, "[]", "array of tools"},
        {GRAMMAR_TOOL_CALL, "{'name':'f','parameters':true}", "array of tools"},
        {GRAMMAR_TOOL_CALL, "[{'name':'f'}]", "name, which is a string, and parameters"},
        {GRAMMAR_TOOL_CALL, "[{'parameters':true}]", "name, which is a string, and parameters"},
        {GRAMMAR_TOOL_CALL, "[{'name':'f','parameters':true},{'name':'g','parameters':{'not':{}}}]",
         "The parameters of g: The schema keyword \"not\""},
        {GRAMMAR_TOOL_CALL, "[{'name':'f','parameters':1}]", "must be an object"},
        {GRAMMAR_TOOL_CALL, "[{'name':'f','parameters':{'type':'string'}}]", "Nothing fits"},
        {GRAMMAR_TOOL_CALL, "[{'name':'f','parameters':{'$ref':'#/$defs/x'}}]", "leads to no schema"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        grammar_assert_refused(*state, cases[i].kind, cases[i].text, cases[i].named);
}

static void test_nul_and_long_texts_are_refused(void **state) {
    struct grammar_fixture *fixture = *state;
    struct error err = {0};
    struct grammar_source with_nul = {GRAMMAR_REGEX, "a\0b", 3};
    assert_null(grammar_create(fixture->trie, &with_nul, &err));
    assert_int_equal(err.code, ERR_INVALID);
    char *text = calloc(1, GRAMMAR_MAX_BYTES + 1);
    memset(text, 'a', GRAMMAR_MAX_BYTES + 1);
    struct grammar_source too_long = {GRAMMAR_REGEX, text, GRAMMAR_MAX_BYTES + 1};
    assert_null(grammar_create(fixture->trie, &too_long, &err));
    assert_non_null(strstr(err.message, "131072"));
    free(text);
}

static void test_regex_fits_whole_texts_and_parts(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool whole, search;
    } cases[] = {
        {"b+", "abbc", false, true},
        {"^b", "ab", false, false},
        {"b$", "ab", false, true},
        {"^b+$", "bbb", true, true},
        {"", "x", false, true},
        {"", "", true, true},
        {"^a|b$", "b", true, true},
        {"\303\251", "\303\251", true, true},
        {"[^\303\251]", "\303\251", false, false},
        {".", "\n", false, false},
        {"(a*)*b", "aaab", true, true},
        {"\\S", "\302\240", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct regex regex;
        assert_true(regex_compile(&regex, cases[i].pattern, REGEX_WHOLE, NULL));
        assert_int_equal(regex_fits(&regex, cases[i].text), cases[i].whole);
        regex_finish(&regex);
        assert_true(regex_compile(&regex, cases[i].pattern, REGEX_SEARCH, NULL));
        assert_int_equal(regex_fits(&regex, cases[i].text), cases[i].search);
        regex_finish(&regex);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_numbers_and_literals),
        cmocka_unit_test(test_combinations),
        cmocka_unit_test(test_expressions_and_choices),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_integer_ranges_are_exact),
        cmocka_unit_test(test_refusals_name_what_is_wrong),
        cmocka_unit_test(test_nul_and_long_texts_are_refused),
        cmocka_unit_test(test_regex_fits_whole_texts_and_parts),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
