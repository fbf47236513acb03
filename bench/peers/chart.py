#!/usr/bin/env python3
"""chart.py RESULTS REPORTED SVG [--threads T] [--only PART,...]

Draws what nybble_peers wrote: speed against rows of activations, one line per competitor, for the
largest number of threads or the one asked for. Prints the figures of REPORTED that go with it. Only
the standard library; readable on light and dark backgrounds.
"""

import argparse
import html
import json
import math
import os

# Fewer lines than competitors: those that a reader would choose between.
SHOWN = [
    "nybble int4 a8", "nybble int4:group=128 a8", "nybble nf4 a8", "nybble mxfp4 a8",
    "nybble nvfp4 a8", "nybble amxfp4 a16", "onnxruntime int4:32 acc4",
    "onnxruntime int4:128 acc4", "llama.cpp q4_0 repacked", "llama.cpp q4_K repacked",
    "llama.cpp mxfp4 repacked", "llama.cpp nvfp4", "onednn f32", "openblas f32",
    "XNNPACK qb4w:32", "XNNPACK qb4w:128", "ik_llama.cpp Q4_0", "ik_llama.cpp IQ4_XS",
]
COLOURS = {
    "nybble": "#2f81f7", "ONNX Runtime": "#d2691e", "llama.cpp": "#2da44e", "oneDNN": "#a371f7",
    "OpenBLAS": "#bf8700", "Eigen": "#db61a2",
}
GREY = "#808892"
LINES = ["", "8 3", "2 3", "8 3 2 3", "14 3", "4 2"]  # to tell lines of one library apart

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 64, 250, 72, 56
LABEL_HEIGHT = 16


def read_lines(results, reported, threads, only):
    """Lines as (name, library, {m: gflops}, reported?), fastest at the largest M first."""
    lines = {}
    for point in results["points"]:
        if point["threads"] == threads:
            line = lines.setdefault(point["name"], (point["name"], point["library"], {}, False))
            line[2][point["m"]] = point["gflops"]
    shapes_agree = (results["n"], results["k"]) == (reported["n"], reported["k"])
    rows = sorted({point["m"] for point in results["points"]})
    for line in reported["lines"] if shapes_agree else []:
        speeds = dict(zip(reported["m"], line["gflops"].get(str(threads), [])))
        speeds = {m: speed for m, speed in speeds.items() if rows[0] <= m <= rows[-1]}
        if speeds:
            lines[line["name"]] = (line["name"], line["library"], speeds, True)
    wanted = [line for line in lines.values()
              if (any(part in line[0] for part in only) if only else line[0] in SHOWN)]
    return sorted(wanted, key=lambda line: -line[2][max(line[2])])


def spread(positions, low, high):
    """Label positions, top to bottom, pushed apart until none overlap."""
    out = list(positions)
    for _ in range(500):
        for i in range(1, len(out)):
            overlap = LABEL_HEIGHT - (out[i] - out[i - 1])
            if overlap > 0:
                out[i - 1] -= overlap / 2
                out[i] += overlap / 2
        out[0] = max(out[0], low)
        out[-1] = min(out[-1], high)
    return out


def ticks(low, high):
    """1, 2, 5, 10, ... between low and high."""
    out = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        out += [step * 10**exponent for step in (1, 2, 5) if low <= step * 10**exponent <= high]
    return out


def draw(lines, results, threads):
    rows = sorted({m for line in lines for m in line[2]})
    speeds = [speed for line in lines for speed in line[2].values()]
    low, high = min(speeds) * 0.85, max(speeds) * 1.15
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    span = math.log(rows[-1] / rows[0]) or 1

    def x_of(m):
        return LEFT + (right - LEFT) * math.log(m / rows[0]) / span

    def y_of(speed):
        return bottom - (bottom - TOP) * math.log(speed / low) / math.log(high / low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<g fill="{GREY}"><text x="{LEFT}" y="24" font-size="16" font-weight="bold">'
        f'Linear layer {results["n"]} x {results["k"]}, {threads} '
        f'thread{"" if threads == 1 else "s"}: GFLOP/s against rows of activations</text>',
        f'<text x="{LEFT}" y="44">{html.escape(results["machine"])}; weights read from memory, not '
        'from a cache; medians. Dotted grey: reported, not run here.</text>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">'
        'rows of activations (M)</text>',
    ]
    for m in rows:
        out.append(f'<text x="{x_of(m):.1f}" y="{bottom + 18}" text-anchor="middle">{m}</text>')
    for tick in ticks(low, high):
        y = y_of(tick)
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        out.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GREY}" stroke-opacity="0.25"/>')
    out.append("</g>")

    ends = sorted(lines, key=lambda line: y_of(line[2][max(line[2])]))
    labels = spread([y_of(line[2][max(line[2])]) for line in ends], TOP, bottom)
    label_of = {line[0]: label for line, label in zip(ends, labels)}
    used = {}
    for name, library, values, is_reported in lines:
        colour = GREY if is_reported else COLOURS.get(library, GREY)
        dash = LINES[used.setdefault(library, 0) % len(LINES)]
        used[library] += 1
        style = 'stroke-width="1.5" stroke-dasharray="1 4" stroke-linecap="round"' if is_reported \
            else f'stroke-width="{2.5 if library == "nybble" else 1.7}" stroke-dasharray="{dash}"'
        points = [f"{x_of(m):.1f} {y_of(speed):.1f}" for m, speed in sorted(values.items())]
        end_x, end_y = x_of(max(values)), y_of(values[max(values)])
        label = label_of[name]
        out.append(f'<g stroke="{colour}" fill="none"><title>{html.escape(name)}</title>')
        out.append(f'<path d="M{" L".join(points)}" {style}/>')
        out.append(f'<path d="M{end_x + 4:.1f} {end_y:.1f}L{right + 34} {label:.1f}" '
                   'stroke-opacity="0.5"/>')
        for point in points:
            x, y = point.split()
            out.append(f'<circle cx="{x}" cy="{y}" r="2.2" fill="{colour}" stroke="none"/>')
        text = name + (" (reported)" if is_reported else "")
        weight = ' font-weight="bold"' if library == "nybble" else ""
        out.append(f'<text x="{right + 38}" y="{label + 4:.1f}" fill="{colour}" stroke="none"'
                   f'{weight}>{html.escape(text)}</text></g>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def print_reported(reported, threads):
    rows = [line for line in reported["lines"] if str(threads) in line["gflops"]]
    if not rows:
        return
    print(f"\nreported, not run here: {reported['n']} x {reported['k']}, {threads} thread"
          f"{'' if threads == 1 else 's'}, GFLOP/s")
    print(f"{'':26}{'bits':>6}{'error':>8}{'':9}" + "".join(f"{f'M={m}':>8}" for m in reported["m"]))
    for line in rows:
        print(f"{line['name']:26}{line['bits_per_weight']:6.2f}{line['relative_error']:8.4f}{'':9}"
              + "".join(f"{speed:8d}" for speed in line["gflops"][str(threads)]))
    print(f"{reported['machine']}. {reported['note']}")


def main():
    parser = argparse.ArgumentParser(description="Draws what nybble_peers wrote.")
    parser.add_argument("results")
    parser.add_argument("reported")
    parser.add_argument("svg")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", default="", help="parts of names, a list with commas")
    options = parser.parse_args()
    with open(options.results, encoding="utf-8") as file:
        results = json.load(file)
    with open(options.reported, encoding="utf-8") as file:
        reported = json.load(file)
    if not results["points"]:
        raise SystemExit(f"chart.py: {options.results} holds no points")
    threads = options.threads or max(point["threads"] for point in results["points"])
    only = [part for part in options.only.split(",") if part]
    print_reported(reported, threads)
    lines = read_lines(results, reported, threads, only)
    if not lines:
        raise SystemExit(f"chart.py: no line to draw for {threads} threads")
    temporary = options.svg + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(draw(lines, results, threads))
    os.replace(temporary, options.svg)


if __name__ == "__main__":
    main()
