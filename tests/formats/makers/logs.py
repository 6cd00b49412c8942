"""Broken logs: metrics.jsonl, evaluations.jsonl, and TensorBoard's events."""

import json
import struct

from makers.common import MAX_U64, add


def step_line(step=5, **changes):
    line = {"step": step, "tokens": 160, "loss": 2.5, "bpc": 3.6, "k": 3, "lr": 0.001, "grad_norm": 0.75,
            "layers": [{"load": [0.25, 0.75, 0, 0], "entropy": 1.25, "dropped": 0.125}]} | changes
    return json.dumps(line) + "\n"


def valid_line(step=5, **changes):
    return json.dumps({"step": step, "split": "valid", "k": 4, "nll": 1.5, "bpc": 2.164} | changes) + "\n"


def evaluation_line(**changes):
    return json.dumps({"checkpoint": "step-00000010", "step": 10, "split": "test", "threads": 2,
                       "data": {"path": "t.txt", "sha256": "ab"},
                       "results": [{"value": 4, "nll": 1, "bpc": 2, "tokens": 100, "active_parameters": 5,
                                    "flops_per_token": 6, "tokens_per_second": 7}]} | changes) + "\n"


def add_logs():
    def put(name, content):
        add(f"metrics/{name}.jsonl", content)

    good = step_line() + valid_line() + valid_line(k=2) + step_line(10)
    layer = json.loads(step_line())["layers"][0]
    put("good", good)
    put("empty", "")  # these are good ones: a log that begins, Windows' line ends, and one that is being written
    put("crlf", good.replace("\n", "\r\n"))
    put("last_line_is_not_whole", good[:-5])
    put("bom", b"\xef\xbb\xbf" + good.encode())  # and this one
    put("empty_line", step_line() + "\n" + step_line(10))
    put("array", step_line() + "[]\n")
    put("word", "step 5\n")
    put("not_utf8", b'{"step": "\xff"}\n')
    put("nuls", good.encode() + bytes(100) + b"\n")
    put("nul_behind_a_line", good.encode().replace(b"\n", b"\0\n", 1))
    put("two_objects", good.replace("}\n{", "}{", 1))
    put("key_twice", good.replace('"step": 5,', '"step": 5, "step": 6,', 1))
    put("deep_arrays", step_line().replace("3.6", "[" * 1000 + "]" * 1000))
    put("deep_objects", step_line().replace("3.6", '{"a":' * 1000 + "1" + "}" * 1000))
    put("step_negative", step_line(-1))
    put("step_fraction", step_line(5.0))
    put("step_max_u64", step_line(MAX_U64))
    put("step_missing", step_line().replace("step", "stop"))
    put("step_is_null", step_line(None))
    put("steps_fall", step_line(10) + step_line(5))
    put("step_twice", step_line() + step_line())
    put("evaluations_fall", valid_line(10) + valid_line(5))
    put("loss_too_large", step_line().replace("2.5", "1e400"))
    put("loss_is_a_string", step_line(loss="2.5"))
    put("loss_nan", step_line(loss=float("nan")))
    put("k_is_a_fraction", step_line(k=3.5))
    put("k_negative", step_line(k=-3))
    put("layers_is_an_object", step_line(layers={}))
    put("layer_is_a_number", step_line(layers=[1]))
    put("load_is_missing", step_line(layers=[{"entropy": 1, "dropped": 0}]))
    put("load_holds_a_string", step_line(layers=[layer | {"load": ["1"]}]))
    put("experts_change", step_line() + step_line(10, layers=[layer | {"load": [1]}]))
    put("layers_change", step_line() + step_line(10, layers=[layer, layer]))
    put("split_without_nll", valid_line(nll="low"))

    def put_log(name, content):
        add(f"log/{name}.jsonl", content)

    put_log("good", step_line() + valid_line() + step_line(10) + valid_line(10))
    put_log("empty", "")  # good ones
    put_log("last_line_is_not_whole", good[:-5])
    put_log("zeros_behind", good.encode() + bytes(100))
    put_log("nul_behind_a_line", step_line()[:-1].encode() + b"\0\n")
    put_log("empty_line", "\n")
    put_log("array", "[5]\n")
    put_log("step_is_a_string", '{"step": "5"}\n')
    put_log("step_is_a_fraction", '{"step": 5.0}\n')
    put_log("step_is_missing", step_line() + "{}\n")
    put_log("step_twice", '{"step": 5, "step": 6}\n')
    put_log("step_max_u64", f'{{"step": {MAX_U64}}}\n')
    put_log("step_over_u64", f'{{"step": {MAX_U64 + 1}}}\n')
    put_log("deep_arrays", '{"step": 5, "x": ' + "[" * 1000 + "]" * 1000 + "}\n")
    put_log("not_utf8", b'{"step": 5, "x": "\xff"}\n')
    put_log("broken_behind_the_cut", step_line(10) + "[5]\n")  # a good one: nobody looks there

    def put_evaluation(name, content):
        add(f"evaluations/{name}.jsonl", content)

    put_evaluation("good", evaluation_line())
    put_evaluation("crlf", evaluation_line().replace("\n", "\r\n"))  # a good one
    put_evaluation("empty_line", "\n")
    put_evaluation("checkpoint_is_a_number", evaluation_line(checkpoint=10))
    put_evaluation("data_is_missing", evaluation_line().replace('"data"', '"date"'))
    put_evaluation("data_is_a_string", evaluation_line(data="t.txt"))
    put_evaluation("sha256_is_null", evaluation_line(data={"path": "t.txt", "sha256": None}))
    put_evaluation("threads_negative", evaluation_line(threads=-2))
    put_evaluation("results_is_an_object", evaluation_line(results={}))
    put_evaluation("result_is_a_number", evaluation_line(results=[1]))
    put_evaluation("value_is_a_fraction", evaluation_line(results=[{"value": 1.5}]))
    put_evaluation("result_without_tokens", evaluation_line().replace('"tokens"', '"token"'))
    put_evaluation("step_max_u64", evaluation_line(step=MAX_U64))
    put_evaluation("deep", evaluation_line(data=json.loads("[" * 100 + "]" * 100)))
    put_evaluation("not_utf8", evaluation_line().encode().replace(b"t.txt", b"t\xfft"))


def crc32c(data):
    crc = MAX_U64 & 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data, length=None):
    size = struct.pack("<Q", len(data) if length is None else length)
    return size + masked(size) + data + masked(data)


def add_events():
    def put(name, content):
        add(f"events/{name}.tfevents", content)

    first = record(b"\x09" + bytes(8) + b"\x10\0\x1a\x0dbrain.Event:2")
    scalar = b"\x2a\x0e\x0a\x0c\x0a\x05train\x15\0\0\x20\x40"
    good = first + record(b"\x09" + bytes(8) + b"\x10\x0a" + scalar) + record(b"\x09" + bytes(8) + b"\x10\x14" + scalar)
    put("good", good)
    put("empty", b"")  # good ones: a log that begins, and one whose last record is being written
    put("last_record_is_not_whole", good[:-5])
    put("length_max_u64", first + record(b"", length=MAX_U64))
    put("length_wraps", first + record(b"", length=MAX_U64 - 15))
    put("no_version", good[len(first):])
    put("text", "step 5: loss 2.5, and so on for longer than a header\n")
    put("length_damaged", good.replace(good[:1], b"\x19", 1))
    put("data_damaged", good.replace(b"train", b"trail", 1))
    put("zeros_behind", good + bytes(64))
    put("no_message", first + record(b"\xff\xff\xff"))
    put("field_longer_than_the_record", first + record(b"\x2a\x7fabc"))
    put("varint_too_long", first + record(b"\x10" + b"\xff" * 10))
    put("group", first + record(b"\x0b\x0c"))
    put("field_of_max_u64", first + record(b"\x2a" + b"\xff" * 9 + b"\x01abc"))
