"""Files that are too large to be checked in."""

from makers.common import LARGE
from makers.tensors import entry, one, safetensors


def add_large():
    """Names tell the reader: recipe_*.toml, config_*.json, metrics_*.jsonl, evaluations_*.jsonl, *.safetensors."""
    million = 1_000_000
    LARGE["recipe_of_zeros.toml"] = lambda: bytes(64 * million)
    LARGE["recipe_of_comments.toml"] = lambda: b"# nothing\n" * million
    LARGE["recipe_long_key.toml"] = lambda: b"k" * million + b" = 1\n"
    LARGE["recipe_long_string.toml"] = lambda: b'path = "' + b"x" * million + b'"\n'
    LARGE["recipe_deep.toml"] = lambda: b"path = " + b"[" * million
    LARGE["recipe_dots.toml"] = lambda: b"a." * (million // 2) + b"a = 1\n"
    LARGE["recipe_tables.toml"] = lambda: b"".join(b"[t%d.x]\n[t%d]\n" % (i, i) for i in range(48_000))
    LARGE["recipe_keys.toml"] = lambda: b"".join(b"k%d = 1\n" % i for i in range(90_000))
    LARGE["recipe_strings.toml"] = lambda: b"model.widths = [" + b"'', " * 250_000 + b"]\n"
    LARGE["config_deep.json"] = lambda: b'{"format": ' + b"[" * million + b"]" * million + b"}"
    LARGE["config_deep_small.json"] = lambda: b'{"format": ' + b"[" * 250_000 + b"]" * 250_000 + b"}"
    LARGE["config_deep_objects.json"] = lambda: b'{"a":' * 150_000 + b"1" + b"}" * 150_000
    LARGE["config_keys.json"] = lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(90_000)) + b"}"
    LARGE["config_long_key.json"] = lambda: b'{"format":"smoe","version":1,"' + b"k" * million + b'":1}'
    LARGE["config_long_number.json"] = lambda: b'{"format":"smoe","version":1,"model":' + b"9" * million + b"}"
    LARGE["config_of_blanks.json"] = lambda: b" " * (64 * million)
    LARGE["metrics_deep.jsonl"] = lambda: b'{"step":1,"layers":' + b"[" * million + b"]" * million + b"}\n"
    LARGE["metrics_one_line.jsonl"] = lambda: b'{"step":1,"loss":"' + b"x" * (64 * million) + b'"}\n'
    LARGE["metrics_of_line_ends.jsonl"] = lambda: b"\n" * million
    LARGE["metrics_of_zeros.jsonl"] = lambda: bytes(64 * million) + b"\n"
    LARGE["metrics_keys.jsonl"] = lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(million)) + b"}\n"
    LARGE["evaluations_deep.jsonl"] = lambda: b'{"data":' * million + b"\n"
    LARGE["header_of_brackets.safetensors"] = lambda: safetensors('{"a":' + "[" * (90 * million))
    LARGE["header_of_objects.safetensors"] = lambda: safetensors('{"a":' * (10 * million))
    LARGE["header_long_name.safetensors"] = lambda: safetensors('{"' + "a" * (90 * million) + '":1}')
    LARGE["header_long_number.safetensors"] = lambda: one(shape="[" + "9" * (90 * million) + "]")
    LARGE["header_long_fraction.safetensors"] = lambda: one(shape="[0." + "9" * (90 * million) + "]")
    LARGE["header_of_dimensions.safetensors"] = lambda: one(shape="[" + "1," * (20 * million) + "1]")
    LARGE["header_100000_overlap.safetensors"] = lambda: safetensors(
        "{" + ",".join(entry(f"t{i}") for i in range(100_000)) + "}", b"ab")
    LARGE["header_100000_equal.safetensors"] = lambda: safetensors(
        "{" + ",".join(entry(offsets=f"[{2 * i},{2 * i + 2}]") for i in range(100_000)) + "}", bytes(200_000))
    LARGE["header_100000_empty.safetensors"] = lambda: safetensors(
        "{" + ",".join(entry("t", shape="[0]", offsets="[0,0]") for i in range(100_000)) + "}")
    LARGE["metadata_100000_equal.safetensors"] = lambda: safetensors(
        '{"__metadata__":{' + ",".join(f'"k{i}":"v"' for i in range(100_000)) + ',"k0":""}}')
