"""BitMar in EleutherAI's lm-evaluation-harness (arXiv 2405.14782): `lm_eval --model bitmar`, in PyTorch or the runtime.

The harness brings prompts, metrics and tables; a `TextScorer` answers its three kinds of request. Importing this needs
the extra `eval`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from bitmar.core.errors import ConfigError, nearest
from bitmar.evaluate.protocol import OnProgress, TextScorer
from bitmar.evaluate.scorer import load_scorer
from bitmar.runtime.options import GenerationOptions

Pair = tuple[str, str]
Answer = tuple[float, bool]

_ARGUMENTS = ("path", "engine", "batch_size", "max_batch_size", "device")
_MAX_GEN_TOKS = 256  # what the harness' own models write where a task does not say
_BLOCK = 1024  # contexts between two entries in the harness' cache, from which a stopped run goes on


@register_model("bitmar")
class BitMarLM(LM):
    """A model as the harness wants it.

    path, engine: as `load_scorer` takes them; no path is the bundled model. batch_size, max_batch_size, device: the
    harness gives them to every model; here they have no effect, because batches are formed by tokens and results do not
    depend on them; PyTorch takes the GPU if there is one. scorer:
    instead of a path, a loaded model. on_progress: called with the requests done and all there are, instead of a bar.

    Contexts have no largest length, so nothing is ever cut off: what lies before the attention window is seen as the
    model sees it in any long text. Raises ConfigError for unknown arguments, and what `load_scorer` raises.
    """

    def __init__(
        self,
        path: str | None = None,
        engine: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        *,
        scorer: TextScorer | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            raise ConfigError(
                f"unknown model argument {name!r}{nearest(name, _ARGUMENTS)}: bitmar takes {', '.join(_ARGUMENTS)}"
            )
        self.scorer: TextScorer = scorer or load_scorer(path, engine)
        self._on_progress = on_progress
        self._encode = lru_cache(maxsize=16)(self.scorer.encode)  # the harness asks again for each answer's context

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For every (context, continuation): its natural log-probability, and whether greedy decoding writes it."""
        asked = {request.args: self._split(*request.args) for request in requests}
        found = self._compare(asked, disable_tqdm)
        return [found[request.args] for request in requests]

    def _split(self, context: str, continuation: str) -> tuple[tuple[int, ...], list[int]]:
        """Token ids of both, encoded as one text, as the harness' own models do; spaces between go to the second."""
        start = self._encode(context.rstrip())
        return tuple(start), self.scorer.encode(context + continuation)[len(start) :]

    def _compare(self, asked: dict[Pair, tuple[tuple[int, ...], list[int]]], silent: bool) -> dict[Pair, Answer]:
        """Requests with one context are computed together, so that the context is read once."""
        groups: dict[tuple[int, ...], list[Pair]] = {}
        for pair, (context, _) in asked.items():
            groups.setdefault(context, []).append(pair)
        found: dict[Pair, Answer] = {}
        contexts = list(groups)
        with self._progress("contexts", len(contexts), silent) as advance:
            for start in range(0, len(contexts), _BLOCK):
                some = contexts[start : start + _BLOCK]
                options = [[asked[pair][1] for pair in groups[context]] for context in some]
                answers = self.scorer.compare(some, options, on_progress=advance(start))
                for context, together in zip(some, answers, strict=True):
                    for pair, (log_probability, greedy) in zip(groups[context], together, strict=True):
                        found[pair] = log_probability, greedy
                        self.cache_hook.add_partial("loglikelihood", pair, found[pair])
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """For every text: the natural log-probability of all of it, read as one, however long."""
        texts = list(dict.fromkeys(request.args[0] for request in requests))
        with self._progress("texts", len(texts), disable_tqdm) as advance:
            scores = self.scorer.loglikelihood(texts, on_progress=advance(0))
        totals = {text: float(score.sum(dtype="float64")) for text, score in zip(texts, scores, strict=True)}
        for text, total in totals.items():
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return [totals[request.args[0]] for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """For every (context, settings): how it goes on. Raises ConfigError for settings that bitmar does not know."""
        groups: dict[tuple[GenerationOptions, tuple[str, ...]], dict[str, list[int]]] = {}
        repeats: Counter[tuple[str, GenerationOptions]] = Counter()
        for i, request in enumerate(requests):
            context, (options, until) = request.args[0], _options(request.args[1])
            if options.temperature and options.seed is not None:  # the same question again wants another sample
                again = repeats[context, options]
                repeats[context, options] += 1
                options = replace(options, seed=options.seed + again)
            groups.setdefault((options, until), {}).setdefault(context, []).append(i)
        texts, done = [""] * len(requests), 0
        with self._progress("texts", sum(map(len, groups.values())), disable_tqdm) as advance:
            for (options, until), places in groups.items():
                written = self.scorer.write(list(places), options, until, on_progress=advance(done))
                done += len(places)
                for same, text in zip(places.values(), written, strict=True):
                    for i in same:
                        texts[i] = text
                        self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return texts

    def _progress(self, what: str, total: int, silent: bool) -> _Progress:
        return _Progress(what, total, self._on_progress, silent)


class _Progress:
    """Calls `on_progress`, or else draws the harness' own bar. `advance(n)`: a counter that begins at n."""

    def __init__(self, what: str, total: int, on_progress: Callable[[int, int], None] | None, silent: bool) -> None:
        self._total, self._on_progress = total, on_progress
        self._bar = tqdm(total=total, desc=what, disable=silent or on_progress is not None)

    def __enter__(self) -> Callable[[int], OnProgress]:
        def advance(start: int) -> OnProgress:
            def show(done: int) -> None:
                self._bar.update(start + done - self._bar.n)
                if self._on_progress is not None:
                    self._on_progress(start + done, self._total)

            return show

        return advance

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _options(settings: dict[str, Any]) -> tuple[GenerationOptions, tuple[str, ...]]:
    """The harness' generation settings, which are transformers' with two names of its own."""
    rest = dict(settings)
    until = rest.pop("until", None) or []
    stops: Sequence[str] = [until] if isinstance(until, str) else until
    tokens = rest.pop("max_gen_toks", rest.pop("max_new_tokens", _MAX_GEN_TOKS))
    sampling = rest.pop("do_sample", None)
    temperature = rest.pop("temperature", None)
    if sampling is False or temperature is None:
        temperature = 1.0 if sampling else 0.0
    seed = rest.pop("seed", 0)  # a text is then the same in every run
    options = GenerationOptions.of(max_tokens=tokens, temperature=temperature, seed=seed, **rest)
    return options, tuple(stop for stop in stops if stop)
