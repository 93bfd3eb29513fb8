"""Pictures of the curves: what is drawn, and that it lands in a file."""

import pytest

from pretrain.optimization.lr_curves import CURVES, CurveShape, lr_multiplier
from pretrain.optimization.lr_plot import draw_lr, plot_lr

SHAPE = CurveShape(end_ratio=0.1)


def _texts(axes):
    labels = [axes.get_xlabel(), axes.get_ylabel(), axes.get_title("left"), axes.get_title("right")]
    return labels + [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("curve", CURVES)
def test_the_line_is_the_curve(curve):
    (axes,) = draw_lr(curve, SHAPE, 2e-3, "steps", 1000).axes
    (line,) = axes.lines
    steps, rates = line.get_data()
    assert (steps[0], steps[-1]) == (0, 1000)
    for i in range(0, len(steps), 97):
        assert rates[i] == pytest.approx(2e-3 * lr_multiplier(curve, steps[i] / 1000, SHAPE))


def test_everything_is_named():
    (axes,) = draw_lr("elastic_step_decay", SHAPE, 1e-3, "hours", 24).axes
    title, summary = "elastic step decay", "peak 0.001, 24 hours"
    assert _texts(axes) == ["hours", "learning rate", title, summary, "warmup"]
    (warmup,) = axes.patches
    assert (warmup.get_x(), warmup.get_width()) == pytest.approx((0, 0.06 * 24))


def test_no_warmup_is_no_patch():
    (axes,) = draw_lr("linear", CurveShape(warmup=0.0), 1e-3, "steps", 10).axes
    assert not axes.patches and axes.get_legend() is None


@pytest.mark.parametrize(
    ("total", "half"),
    [(23000, "11,500"), (0.5, "0.25"), (24, "12"), (3e6, "1.5M"), (3.2e9, "1.6B"), (1e12, "0.5T")],
)
def test_amounts_are_short(total, half):
    (axes,) = draw_lr("linear", SHAPE, 1e-3, "tokens", total).axes
    assert axes.xaxis.get_major_formatter()(total / 2) == half


@pytest.mark.parametrize(("name", "magic"), [("lr.png", b"\x89PNG"), ("lr.svg", b"<?xml")])
def test_a_file_is_written(tmp_path, name, magic):
    path = tmp_path / "new" / name
    plot_lr("cosine", SHAPE, 1e-3, path, "tokens", 3e9)
    assert path.read_bytes().startswith(magic)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_other_formats_are_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.png or \.svg"):
        plot_lr("cosine", SHAPE, 1e-3, tmp_path / "lr.txt", "steps", 10)
    assert not list(tmp_path.iterdir())
