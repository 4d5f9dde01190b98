"""Measuring a model by the field's own yardsticks: one file per harness, over one `Scorer` that both halves satisfy."""
