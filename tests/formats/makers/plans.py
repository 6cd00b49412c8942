"""Broken plans of smoe compare, and broken evaluations of its runs."""

import json

from makers.common import MAX_U64, add, cuts

PLAN = """title = "Routers"
base = "demo.toml"
seeds = 3
first_seed = 1

[eval]
k = "1,2,4"

[entry.dense]
summary = "one block"
seeds = 1
eval.k = ""
model.moe_layers = "none"

[entry.best-of_2]
moe.experts = 2
"""


def add_plans():
    def put(name, content):
        add(f"plan/{name}.toml", content)

    put("good", PLAN)
    put("crlf", PLAN.replace("\n", "\r\n"))  # a good one
    put("empty", "")
    put("json", '{"base": "demo.toml"}')
    put("nul", PLAN.encode() + b"\0")
    put("not_utf8", PLAN.encode().replace(b"one", b"on\xff"))
    put("no_base", PLAN.replace("base", "bass"))
    put("no_entry", PLAN[:PLAN.index("[entry")])
    put("base_is_a_number", PLAN.replace('"demo.toml"', "3"))
    put("title_is_an_array", PLAN.replace('"Routers"', "[1, 2]"))
    put("seeds_zero", PLAN.replace("seeds = 3", "seeds = 0"))
    put("seeds_max", PLAN.replace("seeds = 3", "seeds = 9223372036854775807"))
    put("seeds_is_a_fraction", PLAN.replace("seeds = 3", "seeds = 3.0"))
    put("first_seed_negative", PLAN.replace("first_seed = 1", "first_seed = -1"))
    put("unknown_key", PLAN.replace("title", "titel"))
    put("unknown_key_with_a_line_break", '"a\\nb" = 1\n' + PLAN)
    put("option_is_a_number", PLAN.replace('k = "1,2,4"', "k = 4"))
    put("option_is_long", PLAN.replace('k = "1,2,4"', "k = [" + "1, " * 1000 + "]"))
    put("entry_is_a_value", PLAN + "[entry]\nx = 1\n")
    put("entry_with_a_blank", PLAN.replace("entry.dense", 'entry."a b"'))
    put("entry_without_a_name", PLAN.replace("entry.dense", 'entry.""'))
    put("entry_that_hides", PLAN.replace("entry.dense", 'entry.".dense"'))  # its name ends at its first dot
    put("entry_that_goes_up", PLAN.replace("entry.dense", 'entry."../dense"'))
    put("entry_with_a_line_break", PLAN.replace("entry.dense", 'entry."a\\nb"'))
    put("entry_of_65_letters", PLAN.replace("entry.dense", "entry." + "d" * 65))
    put("entry_twice", PLAN + "[entry.dense]\nmoe.experts = 4\n")
    put("setting_twice", PLAN + '"moe.experts" = 4\n')
    put("sets_the_seed", PLAN + "train.seed = 4\n")
    cuts("plan/cut.toml", PLAN, 5, 30, 60, 100)


RESULT = {"dial": "k", "value": 4, "nll": 1.5, "bpc": 2.164, "mean_active_experts": 4, "active_parameters": 5000,
          "flops_per_token": 1e4}
EVALUATION = {"parameters": 9000, "split": "test", "data": {"path": "t.txt", "sha256": "ab"}, "results": [RESULT]}


def add_evaluations():
    def put(name, content):
        text = content if isinstance(content, (str, bytes)) else json.dumps(content) + "\n"
        add(f"evaluation/{name}.json", text)

    def put_changed(name, **changes):
        put(name, {"arguments": ["--k", "4"], "evaluation": EVALUATION | changes})

    def put_result(name, **changes):
        put_changed(name, results=[RESULT | changes])

    good = json.dumps({"arguments": ["--k", "4"], "evaluation": EVALUATION}, indent=2) + "\n"
    put("good", good)
    put("empty", "")
    put("array", "[]\n")
    put("nul", good + "\0")
    put("not_utf8", good.encode().replace(b"t.txt", b"t\xff"))
    put("no_evaluation", {"arguments": []})
    put("evaluation_is_null", {"evaluation": None})
    put("evaluation_twice", good.replace('"arguments"', '"evaluation"'))
    put_changed("parameters_negative", parameters=-1)
    put_changed("parameters_max", parameters=MAX_U64)
    put_changed("parameters_is_huge", parameters=1e300)
    put_changed("split_is_a_number", split=3)
    put_changed("no_sha256", data={"path": "t.txt"})
    put_changed("data_is_an_array", data=["t.txt", "ab"])
    put_changed("no_results", results=[])
    put_changed("results_is_an_object", results={"0": RESULT})
    put_changed("result_is_a_number", results=[4])
    put_changed("same_setting_twice", results=[RESULT, RESULT])  # a good one, and so are the next
    put_result("no_dial", dial="none", value=None)
    put_result("html", dial="</script><script>alert(1)</script>")
    put_result("dial_with_line_breaks", dial="k\n\x1b[31m")
    put_result("bpc_is_null", bpc=None)
    put_result("bpc_is_a_string", bpc="2.164")
    put_result("bpc_is_huge", bpc=1e308)  # a good one
    put_result("value_is_true", value=True)
    put("bpc_over_double", good.replace("2.164", "1e999"))
    put("deep", good.replace("2.164", "[" * 200 + "]" * 200))
    cuts("evaluation/cut.json", good, 1, 40, -3)
