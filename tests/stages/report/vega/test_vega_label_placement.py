"""Labels of a scatter plot."""

from pipeline.stages.report.vega.label_placement import Box, place


def test_labels_stay_in_the_plot_and_off_each_other():
    points = [(100.0, 50.0), (104.0, 52.0), (290.0, 50.0), (0.0, 0.0), (150.0, 300.0)]
    labels = ["BF16", "BF16 + FP8 KV", "INT8 dynamic", "AWQ", "GPTQ"]
    boxes = []
    for placed, label in zip(place(points, labels, (300, 300), 11), labels, strict=True):
        wide = len(label) * 11 * 0.56 / 2
        boxes.append(Box(placed.x - wide, placed.y - 6, placed.x + wide, placed.y + 6))
    assert all(box.outside(300, 300) < 1 for box in boxes)
    assert all(a.overlap(b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])
