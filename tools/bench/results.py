"""The measurements of scripts/bench: one JSON line a result, and what several rounds of them come to."""

import functools
import json
import operator
import statistics


class Result:
    """One command's result over all rounds. A field is the median over the rounds, a text the one of the first."""

    def __init__(self, lines):
        self.group = lines[0]["group"]
        self.command = lines[0]["command"]
        self.options = lines[0]["options"]
        self.rounds = [line["result"] for line in lines]

    def __getitem__(self, name):
        return self.at(name)

    def at(self, *path):
        """The field of a field: at("train_ms", "total")."""
        values = self.each(*path)
        if not isinstance(values[0], (int, float)) or len(set(values)) == 1:
            return values[0]  # sizes are the same in each round, and the median of two would make 8.0 of K = 8
        return statistics.median(values)

    def spread(self, *path):
        """The least and the most of such a field over the rounds."""
        values = self.each(*path)
        return min(values), max(values)

    def each(self, *path):
        """Such a field in each round."""
        return [functools.reduce(operator.getitem, path, one) for one in self.rounds]


def key_of(line):
    return json.dumps([line["group"], line["command"], line["options"], line["result"].get("shape")])


def read(path):
    """The header of a file of results and the results in it, in the order of the first round."""
    header, found = {}, {}
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise SystemExit(f"{path}:{number}: not a line of JSON: {error}") from None
            if "result" not in line:
                header = line
            else:
                found.setdefault(key_of(line), []).append(line)
    return header, [Result(lines) for lines in found.values()]
