"""The drawings of the report: which there are, what is told of them, what stands in them."""

import re
import subprocess
import sys

import pytest
from matplotlib import rc_context

from loadtest.measuring.figures import Slice, Strike
from loadtest.output import plot_style
from loadtest.output.report import render
from loadtest.sending.messages import Load
from tests.loadtest.page import HOSTILE, Page, page, sweep
from tests.loadtest.reports import UNDRAWN, empty, failing, latencies, point, report
from tests.support import ROOT

pytestmark = pytest.mark.slow


def drawings(text: str) -> list[str]:
    return re.findall("<svg.*?</svg>", text)


def test_every_colour_is_a_variable_of_the_style_sheet() -> None:
    text = sweep() + render(
        report(point(stages_ms={f"stage {number}": 1.0 for number in range(20)}, **UNDRAWN))
    )
    light, dark, _ = text.split("prefers-color-scheme")
    for part in re.findall(r"var\((--[\w-]+)\)", text):
        assert f"{part}:" in light or part == "--tone"
    assert set(re.findall(r"(--[\w-]+):", dark.split("body {")[0])) <= set(re.findall(r"(--[\w-]+):", light))
    assert not re.search("#[0-9a-f]{6}", "".join(drawings(text)))


def test_drawings_leave_the_style_to_the_page() -> None:
    assert sweep().count("<style") == 1
    assert "font-family" not in "".join(drawings(sweep()))


@rc_context(plot_style.STYLE)
def test_a_name_is_never_mathematics() -> None:
    axes = (figure := plot_style.new_figure(100)).subplots()
    plot_style.names(axes, [(0.5, 0.5, "$x_$ &")])
    assert Page(plot_style.finished(figure, "", "", "").svg).text.count("$x_$ &") == 1


def test_every_image_tells_its_main_figures() -> None:
    assert page(point(8)).images == [
        "1492 latencies, 8 clients: p50 52.0 ms, p95 91.0 ms, p99 130 ms, max 208 ms.",
        "Over time, 8 clients: p50 52.0 to 52.0 ms, p99 130 to 130 ms, 140 to 149 answers a second,"
        " 0 failed.",
        "Jobs waiting at the server, 8 clients: 1.50 on average, 3 at most.",
        "Batch sizes, 8 clients: 5.96 on average, from 1 to 8.",
        "Mean latency, 8 clients: waiting for a connection 0.250 ms, queue 20.8 ms, inference 31.2 ms",
    ]


def test_all_drawings_are_images_with_a_label() -> None:
    found = [attributes for tag, attributes in Page(sweep()).tags if tag == "svg"]
    assert len(found) == 1 + 3 * 4
    assert all(each["role"] == "img" and each["aria-label"] for each in found)


def test_several_points_are_drawn_against_each_other() -> None:
    found = Page(sweep())
    assert found.images[0] == (
        "By load: 1 client: 149 a second, p50 24.0 ms, p99 60.0 ms; 8 clients: 400 a second, p50 52.0 ms,"
        " p99 130 ms; 32 clients: 149 a second, p50 148 ms, p99 370 ms."
    )
    assert [image.split(":")[0] for image in found.images[1:4]] == [
        f"Mean latency, {name}" for name in ("1 client", "8 clients", "32 clients")
    ]


def test_the_curve_goes_from_the_least_load_to_the_most() -> None:
    points = [point(clients, **UNDRAWN) for clients in (8, 1, 32)]
    assert re.findall(r"\d+ clients?", page(*points).images[0]) == ["1 client", "8 clients", "32 clients"]


def test_names_of_loads_do_not_cover_each_other() -> None:
    points = [
        point(load=Load(value, is_open=True), per_s=value, latency_ms=latencies(value), **UNDRAWN)
        for value in (10.0, 99.0, 100.0)
    ]
    drawn = Page(drawings(render(report(*points)))[0]).text
    assert "100/s" in drawn
    assert "10/s" in drawn
    assert "99/s" not in drawn


def test_a_point_without_right_answers_is_left_out_of_the_curve() -> None:
    text = page(point(1, **UNDRAWN), empty(), point(8, **UNDRAWN)).images[0]
    assert text.count("a second") == 2
    assert not [image for image in page(point(1, **UNDRAWN), empty()).images if image.startswith("By load")]


@pytest.mark.parametrize("load", [Load(8, is_open=False), Load(0.1, is_open=True, poisson=True)])
def test_the_drawing_names_a_load_by_its_number(load: Load) -> None:
    points = point(load=load, name=HOSTILE, **UNDRAWN), point(load=load, per_s=9.0, **UNDRAWN)
    assert load.name in Page(drawings(render(report(*points)))[0]).text


def test_small_numbers_stay_exact_in_drawings() -> None:
    assert "p50 0.052" in page(point(latency_ms=latencies(0.052))).text


def test_failed_requests_are_marked_over_time() -> None:
    assert page(failing(), point()).text.count("requests failed") == 1


def test_strikes_are_marked_over_time_and_in_the_queue() -> None:
    strikes = [Strike("kill", began) for began in (2.5, 7.25, 1000.0)]  # the last one beyond the axes
    plain, struck = page(point()), page(point(strikes=strikes))
    assert [text for text in struck.images if text.endswith(", struck at 2.50, 7.25, 1000 s.")]
    assert (plain.text.count("strike"), struck.text.count("strike")) == (0, 1)  # in the legend, once
    lines = [sum(svg.count("stroke-opacity: 0.4") for svg in drawings(render(report(each))))
             for each in (point(), point(strikes=strikes))]  # fmt: skip
    assert lines == [0, 7]  # two in each of the three axes over time, and the one in the legend


def test_latencies_far_apart_are_drawn_logarithmically() -> None:
    def upright(factor: float) -> set[str]:
        slices = [Slice(0.5, 1.0, 10.0, 10.0, 0), Slice(1.5, 1.0, 10.0, 10.0 * factor, 0)]
        [drawn] = drawings(render(report(point(**{**UNDRAWN, "over_time": slices}))))
        return set(re.findall(">([0-9,.]+)<", drawn))

    assert {"10", "100", "1,000"} <= upright(200)
    assert {"0", "20", "40"} <= upright(5)


def test_a_long_queue_is_thinned_out_but_keeps_its_peak() -> None:
    queue = [(second / 2, 0) for second in range(100_000)]
    queue[4321] = (4321 / 2, 77)
    text = render(report(point(**{**UNDRAWN, "queue": queue})))
    assert "77 at most" in text
    assert len(text) < 100_000


def test_no_screen_is_looked_for() -> None:
    code = "import sys, loadtest.output.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
