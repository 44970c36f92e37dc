"""Which exact rewrites pay, as the clock says: in float, and again in 8 bits."""

from __future__ import annotations

from contextlib import ExitStack

from leangan import runtimes
from leangan.generator import Generator
from leangan.graph.doors import (
    ALTERNATIVES,
    DOOR_REWRITES,
    FLOAT_ONLY,
    FREE_IN_8_BITS,
    THEN,
    rewritten,
)
from leangan.graph.rewrite import trace_inputs
from leangan.search.candidate import Candidate
from leangan.search.lab import Lab
from leangan.techniques.calibrate import rough
from leangan.techniques.quantize_linear import quantize


def rewrites_that_pay(lab: Lab, plain: Candidate) -> Candidate:
    """Exact rewrites, each kept only if the runtime is measurably faster with it.

    What is not faster is neither proved nor judged; the lab's notes name it.
    """
    best, kept = plain, tuple[str, ...]()
    bases = {}
    slower, paid = [], set()
    for name, rewrite in DOOR_REWRITES.items():
        lab.progress(f"Rewriting: {name}")
        bases[name] = best, kept
        tried = [bases[name]]
        if ALTERNATIVES.get(name) in kept:
            tried.append(bases[ALTERNATIVES[name]])
        for base, before in tried:
            made = rewrite(base.generator)
            if made is base.generator:
                continue
            names = (*before, name)
            if then := THEN.get(name):
                made = DOOR_REWRITES[then](made)
                names = (*(n for n in names if n != then), then)
            candidate = _float(plain, made)
            lab.progress(f"Timing {candidate.name}")
            with ExitStack() as stack:
                stack.callback(candidate.close)
                pays = lab.pays(lab.opened(candidate), best)
                if pays or candidate.error:
                    stack.pop_all()
                    lab.attempt(candidate)
            if not pays:
                slower.append(name)
            elif not candidate.error:
                best, kept = candidate, names
                paid.add(name)
    if never := [name for name in dict.fromkeys(slower) if name not in paid]:
        lab.notes.append(
            f"Exact rewrites with which {plain.runtime} was not faster here: {', '.join(never)}."
        )
    return best


def base_for_8_bits(lab: Lab, original: Generator, best: Candidate) -> Candidate:
    """The float candidate whose rewrites pay in 8 bits.

    A rewrite may pay in float and cost time in 8 bits: a DCGAN's transposed convolutions are twice
    as fast as phases in bfloat16, and in 8 bits 1.7 times slower. So each is taken back once.

    Args:
        lab: tries them.
        original: without any rewrite.
        best: what `rewrites_that_pay` found.
    """
    done = {s.name for s in best.generator.history} - {s.name for s in original.history}
    kept = tuple(n for n in DOOR_REWRITES if n in done - FLOAT_ONLY)
    precision = runtimes.get(best.runtime).precisions(quantized=True)[-1]

    chosen = kept
    made = [c.generator for c in lab.candidates]
    with ExitStack() as stack:

        def form(names: tuple[str, ...]) -> Candidate:
            float_form = rewritten(original, names, made)
            made.append(float_form)
            eight = quantize(float_form, rough(float_form, trace_inputs(original)))
            candidate = Candidate("8 bits", best.runtime, precision, eight)
            stack.callback(candidate.close)  # also of one that is interrupted while it opens
            return lab.opened(candidate)

        fastest: Candidate | None = None
        for name in reversed(kept):  # what was built on comes after what builds on it
            if name in FREE_IN_8_BITS:
                continue
            lab.progress(f"Taking back in 8 bits: {name}")
            fewer = tuple(n for n in chosen if n != name)
            fastest, tried = fastest or form(chosen), form(fewer)
            if lab.pays(tried, fastest):
                chosen, fastest = fewer, tried
    if chosen == kept and not done & FLOAT_ONLY:
        return best
    wanted = _float(best, rewritten(original, chosen, made))
    known = {c.name: c for c in lab.candidates if c.worker is not None}
    return known.get(wanted.name) or lab.attempt(wanted)


def _float(like: Candidate, generator: Generator) -> Candidate:
    names = ", ".join(s.name for s in generator.history if s.name in DOOR_REWRITES)
    title = " + ".join([f"{like.runtime} {like.precision}", *([names] if names else [])])
    return Candidate(title, like.runtime, like.precision, generator)
