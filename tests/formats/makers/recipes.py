"""Broken TOML."""

import json

from makers.common import add, cuts

RECIPE = """seed = 7
path = "data/text"

[model]
layers = 4
kind = "moe"
moe_layers = [0, 2]
widths = [8, 16]

[train]
rate = 2.5e-4
dropout = 0.1
shuffle = true
"""


def add_recipes():
    def put(name, content):
        add(f"recipe/{name}.toml", content)

    put("good", RECIPE)
    put("bom", b"\xef\xbb\xbf" + RECIPE.encode())  # a good one, and so is the next
    put("crlf", RECIPE.replace("\n", "\r\n"))
    put("cr", RECIPE.replace("\n", "\r"))
    put("bom_twice", b"\xef\xbb\xbf\xef\xbb\xbfseed = 1\n")
    put("utf16", RECIPE.encode("utf-16"))
    put("not_utf8", b'path = "\xff"\n')
    put("overlong_utf8", b'path = "\xc0\x80"\n')
    put("surrogate", b'path = "\xed\xa0\x80"\n')
    put("surrogate_escape", 'path = "\\ud800"\n')
    put("nul", b"seed = 1\n\0")
    put("nul_in_a_string", b'path = "a\0b"\n')
    put("nul_in_a_comment", b"# a\0b\nseed = 1\n")
    put("nul_escape", 'path = "a\\u0000b"\n')  # a good one: a string may hold it
    put("control_in_a_string", b'path = "a\x01b"\n')
    put("key_with_a_line_break", '"a\\nb" = 1\n')
    put("key_with_an_escape", '"\\u001b[2J" = 1\n')
    put("key_twice", "seed = 1\nseed = 2\n")
    put("key_twice_by_a_table", '"model.layers" = 1\n[model]\nlayers = 2\n')
    put("table_twice", "[model]\nlayers = 1\n[model]\nkind = 'moe'\n")
    put("table_is_a_value", "model = 3\n")
    put("value_is_a_table", "[seed]\nx = 1\n")
    put("tables_of_tables", "[[model]]\nlayers = 1\n")
    put("unknown_key", "[model]\nlayer = 3\n")
    put("unknown_table", "[modle]\nlayers = 3\n")
    put("unclosed_table", "[model\n")
    put("unclosed_string", 'path = "abc\n')
    put("unclosed_array", "[model]\nwidths = [1,\n")
    put("no_value", "seed =\n")
    put("no_key", "= 3\n")
    put("two_values", "seed = 1 2\n")
    put("brackets", "[[[1]]]\n")
    put("integer_over_i64", "seed = 9223372036854775808\n")
    put("integer_far_over", "seed = " + "9" * 400 + "\n")
    put("integer_below", "[model]\nlayers = -9223372036854775808\n")
    put("integer_leading_zero", "seed = 01\n")
    put("integer_hex_over", "seed = 0x1" + "0" * 16 + "\n")
    put("integer_is_a_fraction", "seed = 1.0\n")
    put("integer_is_a_string", 'seed = "1"\n')
    put("integer_is_a_date", "seed = 2024-01-01\n")
    put("number_nan", "[train]\nrate = nan\n")
    put("number_infinite", "[train]\nrate = inf\n")
    put("number_too_large", "[train]\nrate = 1e400\n")
    put("number_zero_by_rounding", "[train]\nrate = 1e-400\n")
    put("number_out_of_range", "[train]\ndropout = 1.5\n")
    put("name_unknown", '[model]\nkind = "mo"\n')
    put("layers_negative", "[model]\nmoe_layers = [-1]\n")
    put("layers_twice", "[model]\nmoe_layers = [1, 1]\n")
    put("array_mixed", '[model]\nwidths = [1, "2"]\n')
    put("array_nested", "[model]\nwidths = [[1]]\n")
    put("array_below", "[model]\nwidths = [1, 0]\n")
    put("deep_arrays", "seed = " + "[" * 1000 + "\n")
    put("deep_tables", "[" + "a." * 60 + "a]\nb = 1\n")
    put("deep_inline_tables", "seed = " + "{a = " * 1000 + "\n")
    put("many_dots", "a." * 200 + "a = 1\n")
    put("long_key", "k" * 5000 + " = 1\n")
    put("long_value", 'seed = "' + "v" * 5000 + '"\n')
    put("json", json.dumps({"seed": 7}) + "\n")
    put("yaml", "seed: 7\n")
    put("binary", bytes(range(256)))
    cuts("recipe/cut.toml", RECIPE, 5, 20, 33, 40)
