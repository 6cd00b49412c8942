"""Broken safetensors."""

import struct

from makers.common import MAX_I64, MAX_U64, add, cuts


def safetensors(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(name="a", dtype="U8", shape="[2]", offsets="[0,2]"):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def one(data=b"\0\0", **changes):
    return safetensors("{" + entry(**changes) + "}", data)


def add_safetensors():
    def put(name, content):
        add(f"safetensors/{name}.safetensors", content)

    good = safetensors(
        "{" + ",".join(['"__metadata__":{"format":"smoe"}', entry("w", "F32", "[2,2]", "[0,16]"),
                        entry("b", "BF16", "[3]", "[16,22]"), entry("none", "I64", "[0,5]", "[22,22]"),
                        entry("flags", "BOOL", "[2]", "[22,24]"), entry("one", "U8", "[]", "[24,25]")]) + "}",
        b"0123456789abcdefABCDEF\0\1z")
    put("good", good)
    put("empty", b"")
    put("seven_bytes", b"\2\0\0\0\0\0\0")
    put("no_header", safetensors(""))
    put("length_zero", safetensors("{}", length=0))
    put("length_one_more", safetensors("{}", length=3))
    put("length_one_less", safetensors("{}", length=1))
    put("length_max_i64", safetensors("{}", length=MAX_I64))
    put("length_max_u64", safetensors("{}", length=MAX_U64))
    put("length_over_the_limit", safetensors("{}", length=100_000_001))
    put("length_big_endian", struct.pack(">Q", 2) + b"{}")
    put("pickle", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    put("zip", b"PK\3\4\x14\0\0\0\0\0archive/data.pkl")
    put("gguf", b"GGUF\3\0\0\0" + bytes(24))
    put("lfs_pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    put("html", "<!DOCTYPE html><html><body>404</body></html>")
    put("bom", safetensors(b"\xef\xbb\xbf{}"))
    put("blank_first", safetensors(" {}"))
    put("crlf", safetensors("{}\r\n"))  # blanks may follow: a good one
    put("utf16", safetensors("{}".encode("utf-16")))
    put("array", safetensors("[]"))
    put("two_objects", safetensors("{}{}"))
    put("nul_behind", safetensors(b"{}\0" + b'{"hidden":1}'))
    put("nul_in_a_name", safetensors(b'{"a\0b":1}'))
    put("not_utf8", safetensors(b'{"a\xff":{}}'))
    put("half_a_surrogate", safetensors('{"\\ud800":1}'))
    put("comment", safetensors("{/* */}"))
    put("trailing_comma", safetensors("{" + entry() + ",}", b"ab"))
    put("name_with_a_line_break", safetensors('{"a\\nb":1}'))
    put("name_with_an_escape", safetensors('{"\\u001b[2J":1}'))
    put("name_twice", safetensors("{" + entry() + "," + entry(offsets="[2,4]") + "}", b"abcd"))
    put("name_twice_by_escape", safetensors("{" + entry() + "," + entry("\\u0061", offsets="[2,4]") + "}", b"abcd"))
    put("metadata_twice", safetensors('{"__metadata__":{},"__metadata__":{}}'))
    put("metadata_key_twice", safetensors('{"__metadata__":{"a":"","a":""}}'))
    put("metadata_number", safetensors('{"__metadata__":{"a":1}}'))
    put("metadata_nested", safetensors('{"__metadata__":{"a":{}}}'))
    put("dtype_twice", safetensors('{"a":{"dtype":"U8","dtype":"U8"}}'))
    put("no_dtype", safetensors('{"a":{"shape":[2],"data_offsets":[0,2]}}', b"ab"))
    put("no_shape", safetensors('{"a":{"dtype":"U8","data_offsets":[0,2]}}', b"ab"))
    put("no_offsets", safetensors('{"a":{"dtype":"U8","shape":[2]}}', b"ab"))
    put("another_key", safetensors('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"stride":[1]}}', b"ab"))
    put("tensor_is_null", safetensors('{"a":null}'))
    put("dtype_unknown", one(dtype="F4"))
    put("dtype_lower_case", one(dtype="u8"))
    put("dtype_empty", one(dtype=""))
    put("dtype_lies_larger", one(dtype="F32"))
    put("dtype_lies_smaller", one(data=b"abcd", dtype="U8", shape="[1]", offsets="[0,4]"))
    put("bool_of_two", one(data=b"\1\2", dtype="BOOL"))
    put("shape_lies", one(shape="[3]"))
    put("shape_negative", one(shape="[-2]"))
    put("shape_fraction", one(shape="[2.0]"))
    put("shape_exponent", one(shape="[2e0]"))
    put("shape_string", one(shape='["2"]'))
    put("shape_nested", one(shape="[[2]]"))
    put("shape_no_array", one(shape="2"))
    put("shape_max_u64", one(shape=f"[{MAX_U64}]"))
    put("shape_over_u64", one(shape=f"[{MAX_U64 + 1}]"))
    put("shape_overflows", one(shape="[4294967296,4294967296]"))
    put("shape_overflows_to_its_size", one(shape="[9223372036854775809,2]"))
    put("shape_empty_overflows", one(data=b"", shape="[0,4294967296,4294967296]", offsets="[0,0]"))
    put("shape_65_dimensions", one(data=b"a", shape="[" + ",".join(["1"] * 65) + "]", offsets="[0,1]"))
    put("offsets_swapped", one(offsets="[2,0]"))
    put("offsets_one", one(offsets="[0]"))
    put("offsets_three", one(offsets="[0,2,2]"))
    put("offsets_negative", one(offsets="[-2,0]"))
    put("offsets_out_of_range", one(offsets="[1,3]"))
    put("offsets_far_out", one(offsets=f"[{MAX_I64 - 2},{MAX_I64}]"))
    put("offsets_max_u64", one(offsets=f"[0,{MAX_U64}]"))
    put("hole_at_the_start", one(data=b"abc", offsets="[1,3]"))
    put("hole_between", safetensors("{" + entry() + "," + entry("b", offsets="[3,5]") + "}", b"abcde"))
    put("bytes_behind", one(data=b"abc"))
    put("overlap", safetensors("{" + entry() + "," + entry("b", offsets="[1,3]") + "}", b"abc"))
    put("overlap_whole", safetensors("{" + entry() + "," + entry("b") + "}", b"ab"))
    put("overlap_inside", safetensors("{" + entry(shape="[4]", offsets="[0,4]") + "," + entry("b", offsets="[1,3]") + "}",
                                      b"abcd"))
    put("overlap_empty", safetensors("{" + entry() + "," + entry("b", shape="[0]", offsets="[1,1]") + "}", b"ab"))
    put("deep_arrays", safetensors('{"a":{"shape":' + "[" * 200))
    put("deep_objects", safetensors('{"a":' * 200))
    cuts("safetensors/cut.safetensors", good, 8, 9, 100, -26, -25, -1)


def trace(version="1", without=(), behind="", metadata=None, **changes):
    """A trace of three tokens and two layers; `changes` replace (dtype, shape, bytes) of the tensors."""
    def i32(*values):
        return struct.pack(f"<{len(values)}i", *values)

    parts = {"token": ("I32", "[3]", i32(0, 3, 1)), "call": ("I32", "[3]", i32(0, 0, 1)),
             "sequence": ("I32", "[3]", i32(0, 1, 0)), "position": ("I32", "[3]", i32(0, 0, 0)),
             "byte": ("U8", "[4]", b"a7 \xc3"),
             "layers.0.expert": ("I32", "[3,2]", i32(0, 2, -1, 1, 2, -1)), "layers.0.kept": ("U8", "[3,2]", bytes((1, 0, 0, 1, 1, 0))),
             "layers.0.network": ("U8", "[3]", b"\1\0\1"),
             "layers.0.similarity": ("F32", "[2,2]", struct.pack("<4f", 1, -0.25, -0.25, 1)),
             "layers.2.expert": ("I32", "[3,1]", i32(0, 1, -1)), "layers.2.kept": ("U8", "[3,1]", b"\1\1\0"),
             "layers.2.network": ("U8", "[2]", b"\1\1")}
    words = {"format": "smoe-trace", "version": version, "model": "runs/a", "setting": "k = 2", "step": "40", **(metadata or {})}
    header = ['"__metadata__":{' + ",".join(f'"{key}":"{word}"' for key, word in words.items() if word is not None) + "}"]
    data = b""
    for name, part in {**parts, **changes}.items():
        if name in without:
            continue
        dtype, shape, own = part if isinstance(part, tuple) else (*parts[name][:2], part)
        header.append(entry(name, dtype, shape, f"[{len(data)},{len(data) + len(own)}]"))
        data += own
    return safetensors("{" + ",".join(header) + "}", data + behind.encode())


def add_traces():
    def put(name, content):
        add(f"trace/{name}.safetensors", content)

    def i32(*values):
        return struct.pack(f"<{len(values)}i", *values)

    good = trace()
    put("good", good)
    put("empty", b"")
    put("no_trace", safetensors("{}"))
    put("no_format", trace(metadata={"format": None}))
    put("other_format", trace(metadata={"format": "pt"}))
    put("newer", trace(version="2"))
    put("no_step", trace(metadata={"step": None}))
    for name, step in (("negative", "-1"), ("fraction", "1.5"), ("huge", "9" * 30), ("with_a_zero", "040"), ("empty", "")):
        put(f"step_is_{name}", trace(metadata={"step": step}))
    put("no_setting", trace(metadata={"setting": ""}))
    put("model_with_a_line_break", trace(metadata={"model": "a\\nb"}))
    for name in ("token", "byte", "layers.0.kept", "layers.2.network"):
        put(f"no_{name.replace('.', '_')}", trace(without=(name,)))
    put("no_similarity", trace(without=("layers.0.similarity",)))
    put("no_layer", trace(without=[f"layers.{layer}.{part}" for layer in (0, 2) for part in ("expert", "kept", "network", "similarity")]))
    put("no_expert", trace(without=("layers.2.expert",)))  # then nobody asks for the rest of that layer
    put("another_tensor", trace(**{"layers.0.weight": ("F32", "[0]", b"")}))
    put("layer_with_a_zero", trace(**{"layers.02.expert": ("I32", "[0]", b"")}))
    put("layer_over_i64", trace(**{f"layers.{MAX_U64}.expert": ("I32", "[0]", b"")}))
    put("no_tokens", trace(**{name: ("I32", "[0]", b"") for name in ("token", "call", "sequence", "position")}))
    put("token_of_i64", trace(token=("I64", "[3]", bytes(24))))
    put("token_of_two_dimensions", trace(token=("I32", "[3,1]", bytes(12))))
    put("token_too_large", trace(token=i32(0, 4, 1)))
    put("token_negative", trace(token=i32(0, -1, 1)))
    put("call_falls", trace(call=i32(1, 0, 0)))
    put("call_negative", trace(call=i32(-1, 0, 0)))
    put("call_shorter", trace(call=("I32", "[2]", bytes(8))))
    put("position_negative", trace(position=i32(0, 0, -2147483648)))
    put("position_huge", trace(position=i32(0, 0, 2147483647)))  # a good one
    put("byte_of_257", trace(byte=("U8", "[257]", bytes(257))))
    put("byte_of_none", trace(byte=("U8", "[0]", b"")))
    put("expert_too_large", trace(**{"layers.2.expert": i32(0, 2, -1)}))
    put("expert_below", trace(**{"layers.2.expert": i32(0, -2, -1)}))
    put("expert_twice", trace(**{"layers.0.expert": i32(2, 2, -1, 1, 2, -1)}))
    put("expert_of_other_tokens", trace(**{"layers.2.expert": ("I32", "[2,1]", i32(0, 1)), "layers.2.kept": ("U8", "[2,1]", b"\1\1")}))
    put("expert_without_slots", trace(**{"layers.2.expert": ("I32", "[3,0]", b""), "layers.2.kept": ("U8", "[3,0]", b"")}))  # good
    put("slots_huge", trace(**{"layers.2.expert": ("I32", f"[0,{2**62}]", b""), "layers.2.kept": ("U8", f"[0,{2**62}]", b"")}))
    put("kept_of_another_shape", trace(**{"layers.2.kept": ("U8", "[1,3]", b"\1\1\0")}))
    put("kept_of_two", trace(**{"layers.2.kept": b"\1\2\0"}))
    put("kept_of_nobody", trace(**{"layers.2.kept": b"\1\1\1"}))
    put("network_of_none", trace(**{"layers.2.network": ("U8", "[0]", b"")}))
    put("network_of_two", trace(**{"layers.2.network": b"\1\2"}))
    put("network_nowhere", trace(**{"layers.2.network": b"\0\0"}))  # good
    put("similarity_of_three", trace(**{"layers.0.similarity": ("F32", "[3,3]", bytes(36))}))
    put("similarity_no_square", trace(**{"layers.0.similarity": ("F32", "[4,1]", bytes(16))}))
    put("similarity_of_none", trace(**{"layers.0.similarity": ("F32", "[0,0]", b"")}))
    put("similarity_nan", trace(**{"layers.0.similarity": struct.pack("<4f", 1, float("nan"), 0, 1)}))
    put("similarity_of_two", trace(**{"layers.0.similarity": struct.pack("<4f", 1, 2, 2, 1)}))
    put("bytes_behind", trace(behind="x"))
    cuts("trace/cut.safetensors", good, 8, 100, -1)
