"""A roofline: operations a second against operations a byte, on logarithmic axes, as a plain SVG."""

import math
from html import escape

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 80, 250, 50, 70
COLOURS = {"fp32": "#1f6fb4", "bf16": "#c2541b"}
NAMES = {"L2": "second cache", "L3": "third cache", "DRAM": "memory"}


def size_of(dtype):
    return 2 if dtype == "bf16" else 4


def layer_bytes(result):
    """The least that a layer's forward pass, and with its backward pass, has to move: weights once for each use, their
    gradients, tokens in and out, hidden rows out and in again."""
    experts, width, hidden, tokens, k = (result[letter] for letter in "EDHTK")
    size = size_of(result["dtype"])
    per_row = result["forward_flops"] / (2 * tokens * k * width * hidden)  # 2 matrices, 3 with a gate
    weights = min(experts, tokens * k) * per_row * width * hidden
    rows = tokens * width * size
    kept = tokens * k * hidden * (per_row - 1) * size
    forward = weights * size + 2 * rows
    return forward, 2 * weights * size + 4 * weights + 5 * rows + 2 * kept


def points_of(results):
    """(label, dtype, symbol, operations a byte, GFLOP/s)"""
    for result in results:
        if result.group in ("k", "shapes"):
            forward, both = layer_bytes(result)
            name = f"{result['shape']}, {result['dtype']}"
            yield (f"forward {name}", result["dtype"], "circle", result["forward_flops"] / forward,
                   result["forward_gflops"])
            yield (f"forward and backward {name}", result["dtype"], "square", result["forward_backward_flops"] / both,
                   result["forward_backward_gflops"])
        if result.group == "decode":
            # An expert's weights serve the tokens that chose it.
            flops = 2 * result["tokens"] * result["K"] * result["all_weight_bytes"] / result["E"]
            flops /= size_of(result["dtype"])
            yield (f"decode {result['shape']}, {result['dtype']}", result["dtype"], "triangle",
                   flops / result["weight_bytes"], flops / result["call_ms"] / 1e6)


class Axes:
    def __init__(self, points, roofs):
        xs = [x for _, _, _, x, _ in points] + [0.5]
        ys = [y for *_, y in points] + roofs
        self.x0, self.x1 = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
        self.y0, self.y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def x(self, value):
        return LEFT + (math.log10(value) - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return HEIGHT - BOTTOM - (math.log10(value) - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def grid(self):
        for power in range(self.x0, self.x1 + 1):
            at = self.x(10 ** power)
            yield f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>'
            yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{10 ** power:g}</text>'
        for power in range(self.y0, self.y1 + 1):
            at = self.y(10 ** power)
            yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
            yield f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10 ** power:g}</text>'


def mark(symbol, x, y, colour, title):
    shape = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"',
        "square": f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"',
        "triangle": f'<path d="M{x:.1f} {y - 6:.1f}l5.5 10h-11z"',
    }[symbol]
    return f'{shape} fill="{colour}" fill-opacity="0.75"><title>{escape(title)}</title></{shape[1:].split(" ")[0]}>'


def roofs_of(limits, axes):
    """The lines of memory up to the highest peak, and the peaks."""
    peaks = {dtype: limits.at("peak_gflops", dtype) for dtype in ("fp32", "bf16")}
    peaks = {dtype: peak for dtype, peak in peaks.items() if peak}
    left, right = 10 ** axes.x0, 10 ** axes.x1
    top = max(peaks.values(), default=10 ** axes.y1)
    for index, read in enumerate(limits["read"]):
        speed = limits.at("read", index, "gb_per_second")
        begin, end = max(left, 10 ** axes.y0 / speed), min(right, top / speed)
        if begin < end:
            yield (f'<line class="roof" x1="{axes.x(begin):.1f}" y1="{axes.y(speed * begin):.1f}" '
                   f'x2="{axes.x(end):.1f}" y2="{axes.y(speed * end):.1f}"/>')
            x, y = axes.x(end), axes.y(speed * end)
            angle = math.degrees(math.atan2(axes.y(speed * begin) - y, x - axes.x(begin)))
            beside = 14 if index % 2 else -5  # lines of two caches can be close: one has its name below, the other above
            yield (f'<text transform="translate({x:.1f} {y:.1f}) rotate({-angle:.1f}) translate(-10 {beside})" '
                   f'text-anchor="end">{NAMES[read["level"]]} {speed:.0f} GB/s</text>')
    for dtype, peak in peaks.items():
        yield (f'<line class="roof" style="stroke:{COLOURS[dtype]}" x1="{LEFT}" y1="{axes.y(peak):.1f}" '
               f'x2="{WIDTH - RIGHT}" y2="{axes.y(peak):.1f}"/>')
        yield (f'<text style="fill:{COLOURS[dtype]}" x="{WIDTH - RIGHT + 6}" y="{axes.y(peak) + 4:.1f}">'
               f'{dtype} microkernel, {peak:.0f} GFLOP/s</text>')


def legend():
    x, y = WIDTH - RIGHT + 24, HEIGHT - BOTTOM - 110
    for symbol, words in (("circle", "forward"), ("square", "forward and backward"), ("triangle", "few tokens")):
        yield mark(symbol, x, y, "#666", words) + f'<text x="{x + 14}" y="{y + 4}">{words}</text>'
        y += 24
    for dtype, colour in COLOURS.items():
        yield mark("circle", x, y, colour, dtype) + f'<text style="fill:{colour}" x="{x + 14}" y="{y + 4}">{dtype}</text>'
        y += 24


def draw(results):
    """The roofline on the most threads that were measured; empty where there are no limits."""
    limits = max((result for result in results if result.group == "limits"), key=lambda r: r["threads"], default=None)
    if limits is None:
        return ""
    threads = limits["threads"]
    points = list(points_of([result for result in results if result.group != "limits" and result["threads"] == threads]))
    roofs = [peak for peak in (limits.at("peak_gflops", "fp32"), limits.at("peak_gflops", "bf16")) if peak]
    axes = Axes(points, roofs)
    title = f"Roofline, {limits['machine']['cpu']}, {threads} thread{'s' if threads > 1 else ''}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        "<style>text{fill:#333}.grid{stroke:#ddd}.roof{stroke:#333;stroke-width:1.5}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="28" font-size="16">{escape(title)}</text>',
        *axes.grid(), *roofs_of(limits, axes),
        *[mark(symbol, axes.x(x), axes.y(y), COLOURS[dtype], f"{label}: {y:.0f} GFLOP/s at {x:.1f} FLOP/byte")
          for label, dtype, symbol, x, y in points],
        *legend(),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 24}" text-anchor="middle">'
        "floating-point operations a byte that has to be moved at least</text>",
        f'<text transform="translate(24 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">GFLOP/s</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
