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
