"""Zero-shot tasks of lm-evaluation-harness: `yaml/` describes them, `data` reads them, `run` scores a model."""
