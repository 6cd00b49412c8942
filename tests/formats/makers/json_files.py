"""Broken JSON: config.json, manifest.json, index.json, tokenizer.json."""

import hashlib
import json

from makers.common import MAX_I64, MAX_U64, add, cuts

CONFIG = {"seed": 7, "model": {"layers": 4, "kind": "moe", "moe_layers": [0, 2], "widths": [8, 16]},
          "train": {"rate": 2.5e-4, "dropout": 0.1, "shuffle": True}, "path": "data/text"}


def changed(tree, path, value):
    """A copy of `tree` with another value at a dotted path."""
    copy = json.loads(json.dumps(tree))
    *outer, last = path.split(".")
    place = copy
    for key in outer:
        place = place[key]
    place[last] = value
    return copy


def add_configs():
    def put(name, content):
        add(f"config/{name}.json", content if isinstance(content, (str, bytes)) else json.dumps(content) + "\n")

    good = json.dumps(CONFIG, indent=2) + "\n"
    put("good", good)
    put("bom", b"\xef\xbb\xbf" + good.encode())  # good ones, and so is the next
    put("crlf", good.replace("\n", "\r\n"))
    put("empty", "")
    put("array", [CONFIG])
    put("string", json.dumps(good))
    put("null", "null\n")
    put("utf16", good.encode("utf-16"))
    put("not_utf8", good.encode().replace(b"text", b"t\xfft"))
    put("nul", good.encode() + b"\0")
    put("nul_and_more", good.encode() + b"\0{}")
    put("nul_inside", good.encode().replace(b"{", b"{\0", 1))
    put("two_objects", good + good)
    put("comment", "// made by hand\n" + good)
    put("trailing_comma", good.replace('"path": "data/text"', '"path": "data/text",'))
    put("nan", good.replace("0.00025", "NaN"))
    put("infinity", good.replace("0.00025", "Infinity"))
    put("number_too_large", good.replace("0.00025", "1e400"))
    put("integer_over_i64", changed(CONFIG, "seed", MAX_I64 + 1))
    put("integer_over_u64", changed(CONFIG, "seed", MAX_U64 + 1))
    put("integer_is_a_fraction", changed(CONFIG, "seed", 7.0))
    put("integer_is_a_string", changed(CONFIG, "seed", "7"))
    put("integer_is_null", changed(CONFIG, "seed", None))
    put("below", changed(CONFIG, "model.layers", 0))
    put("name_unknown", changed(CONFIG, "model.kind", "dens"))
    put("array_mixed", changed(CONFIG, "model.widths", [8, None]))
    put("array_over_i64", changed(CONFIG, "model.widths", [MAX_U64]))
    put("array_nested", changed(CONFIG, "model.widths", [[8]]))
    put("table_is_a_value", changed(CONFIG, "model", 4))
    put("table_is_an_array", changed(CONFIG, "model", [4]))
    put("table_is_empty", changed(CONFIG, "model", {}))
    put("value_is_an_object", changed(CONFIG, "seed", {"x": 1}))
    put("value_is_an_empty_object", changed(CONFIG, "seed", {}))
    put("unknown_key", changed(CONFIG, "model.layer", 4))
    put("unknown_key_with_a_line_break", changed(CONFIG, "a\nb", 4))
    put("key_twice", good.replace('"seed": 7,', '"seed": 7, "seed": 8,'))
    put("key_twice_by_escape", good.replace('"seed": 7,', '"seed": 7, "s\\u0065ed": 8,'))
    put("key_twice_by_a_dot", changed(CONFIG, "seed", 7) | {"model.layers": 5})
    put("key_missing", {key: value for key, value in CONFIG.items() if key != "path"})
    put("deep_arrays", good.replace("7", "[" * 200 + "]" * 200, 1))
    put("deep_objects", good.replace("7", '{"a":' * 60 + "1" + "}" * 60, 1))
    cuts("config/cut.json", good, 1, 20, -3)


def manifest(files, **changes):
    """As smoe writes it."""
    entries = {name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
               for name, content in sorted(files.items())}
    return json.dumps({"format": "smoe-manifest", "version": 1, "files": entries} | changes, indent=2) + "\n"


def add_manifests():
    def put(name, content):
        add(f"manifest/{name}.json", content)

    files = {"config.json": b"{}\n", "model.safetensors": b"abc"}  # what the test puts beside each manifest
    good = manifest(files)
    entries = json.loads(good)["files"]
    put("good", good)
    put("empty", "")
    put("array", "[]\n")
    put("bom", b"\xef\xbb\xbf" + good.encode())
    put("crlf", good.replace("\n", "\r\n"))
    put("nul", good.encode() + b"\0")
    put("not_utf8", good.encode().replace(b"config", b"c\xffnfig"))
    put("no_line_end", good[:-1])
    put("compact", json.dumps(json.loads(good)))
    put("other_format", good.replace("smoe-manifest", "smoe-checkpoints"))
    put("format_is_deep", good.replace('"smoe-manifest"', "[" * 60 + "]" * 60))
    put("format_is_too_deep", good.replace('"smoe-manifest"', "[" * 1000 + "]" * 1000))
    put("version_2", manifest(files, version=2))
    put("version_1_0", manifest(files, version=1.0))
    put("version_is_a_string", manifest(files, version="1"))
    put("no_files", json.dumps({"format": "smoe-manifest", "version": 1}))
    put("files_is_an_array", good.replace(json.dumps(entries, indent=2).replace("\n", "\n  "), "[]"))
    put("lists_nothing", manifest({}))
    put("lists_more", manifest(files | {"x": b""}))
    put("lists_less", manifest({"config.json": b"{}\n"}))
    put("lists_twice", good.replace('"model.safetensors"', '"config.json"'))
    put("lists_a_path", manifest(files | {"../config.json": b"{}\n"}))
    put("lists_a_name_with_nul", manifest(files | {"config.json\0x": b"{}\n"}))
    put("lists_itself", manifest(files | {"manifest.json": b"{}\n"}))
    put("another_key", manifest(files, extra=1))
    put("size_max_u64", good.replace('"size": 3', f'"size": {MAX_U64}', 1))
    put("size_over_u64", good.replace('"size": 3', f'"size": {MAX_U64 + 1}', 1))
    put("size_negative", good.replace('"size": 3', '"size": -3', 1))
    put("size_is_a_fraction", good.replace('"size": 3', '"size": 3.0', 1))
    put("sha256_of_other_bytes", manifest(files | {"model.safetensors": b"abd"}))
    put("sha256_in_capitals", good.replace(entries["config.json"]["sha256"], entries["config.json"]["sha256"].upper()))
    put("sha256_is_too_long", good.replace(entries["config.json"]["sha256"], entries["config.json"]["sha256"] + "0"))
    put("sha256_with_a_line_break", good.replace(entries["config.json"]["sha256"], "\\n" * 64))
    put("sha256_is_null", good.replace(f'"{entries["config.json"]["sha256"]}"', "null"))
    cuts("manifest/cut.json", good, 10, 60, -1, -2)


def index(**changes):
    """As smoe writes it, the digest over all that is above it."""
    tree = {"format": "smoe-checkpoints", "version": 1, "last": {"name": "step-00000010", "nll": None},
            "best_full": {"name": "step-00000005", "nll": 1.5}, "best_small": {"name": "", "nll": None}} | changes
    text = json.dumps(tree, separators=(",", ":"))
    return json.dumps(tree | {"sha256": hashlib.sha256(text.encode()).hexdigest()}, indent=2) + "\n"


def add_indices():
    def put(name, content):
        add(f"index/{name}.json", content)

    good = index()
    put("good", good)
    put("empty", "")
    put("array", "[]")
    put("nul", good.encode() + b"\0")
    put("crlf", good.replace("\n", "\r\n"))
    put("other_format", index(format="smoe"))
    put("version_2", index(version=2))
    put("format_is_deep", index(format=json.loads("[" * 60 + "]" * 60)))
    put("last_is_null", index(last=None))
    put("last_is_deep", index(last=json.loads("[" * 60 + "]" * 60)))
    put("name_is_missing", index(last={"name": "step-00000011", "nll": 1.5}))
    put("name_is_a_path", index(last={"name": "../step-00000010", "nll": 1.5}))
    put("name_is_the_folder_above", index(last={"name": "..", "nll": 1.5}))
    put("name_is_a_root", index(last={"name": "/", "nll": 1.5}))
    put("name_has_a_nul", index(last={"name": "step-00000010\0x", "nll": 1.5}))
    put("name_has_a_line_break", index(last={"name": "step\n10", "nll": 1.5}))
    put("name_is_a_number", index(last={"name": 10, "nll": 1.5}))
    put("nll_is_a_string", index(last={"name": "step-00000010", "nll": "1.5"}))
    put("nll_changed", good.replace("1.5", "1.25"))
    put("digest_changed", good.replace('"sha256": "', '"sha256": "0'))
    put("name_twice", good.replace('"version": 1,', '"version": 1, "version": 1,'))
    cuts("index/cut.json", good, 10, 100, -1)


def add_tokenizers():
    def put(name, content):
        add(f"tokenizer/{name}.json", content if isinstance(content, (str, bytes)) else json.dumps(content) + "\n")

    put("good", {"format": "enwik8", "bytes": [32, 101, 116, 0, 255]})
    put("empty", "")
    put("array", [1])
    put("no_bytes", {"format": "bytes"})
    put("another_key", {"format": "enwik8", "bytes": [1], "merges": []})
    put("format_unknown", {"format": "bpe\n", "bytes": [1]})
    put("format_is_null", {"format": None, "bytes": [1]})
    put("bytes_is_a_string", {"format": "enwik8", "bytes": "abc"})
    put("byte_256", {"format": "enwik8", "bytes": [1, 256]})
    put("byte_negative", {"format": "enwik8", "bytes": [-1]})
    put("byte_is_a_fraction", {"format": "enwik8", "bytes": [1.0]})
    put("byte_max_u64", {"format": "enwik8", "bytes": [MAX_U64]})
    put("byte_wraps_to_7", {"format": "enwik8", "bytes": [2**64 + 7]})
    put("byte_twice", {"format": "enwik8", "bytes": [1, 2, 1]})
    put("byte_10", {"format": "enwik8", "bytes": [10]})
    put("bytes_in_another_order", {"format": "bytes", "bytes": list(range(255, -1, -1))})
    put("bytes_of_255", {"format": "bytes", "bytes": list(range(255))})
    put("format_twice", '{"format": "bytes", "format": "enwik8", "bytes": [1]}')
