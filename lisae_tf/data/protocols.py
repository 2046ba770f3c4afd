"""Who is normal, negative and anomaly in each task of the paper (sections 5.1 and 5.2).

Pure functions on class numbers 0..n-1. D⁺ is the training part of the normal classes, D⁻ the
training part of the negative ones, Dᵃ the test part of the anomaly classes.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lisae_tf.core.errors import LisaeError

STROKES = "strokes"
GENERATED = (STROKES,)
# Generators that make negatives out of the normal pictures; "synth:cutpaste+shuffle" names two.
SYNTHETIC = (
    "cutpaste",
    "shuffle",
    "rotate",
    "flip",
    "elastic",
    "frequency",
    "strokes",
    "interpolation",
    "flaws",
)
SYNTH = "synth:"
# Of pictures without any negatives: better than phase 1 in every column of RESULTS.md.
DEFAULT_SYNTHETIC = "synth:elastic"
# Of pictures whose features are scored place by place.
DEFAULT_FLAWS = "synth:flaws"


@dataclass(frozen=True)
class Task:
    """The classes of the normal dataset and of the anomaly dataset."""

    normal: tuple[int, ...]
    anomaly: tuple[int, ...]


@dataclass(frozen=True)
class Negatives:
    """Where D⁻ comes from: classes of a dataset (None for all), or a generator without data.

    `made` names generators that add as many pictures again, made of the normal ones.
    """

    source: str
    classes: tuple[int, ...] | None = None
    made: tuple[str, ...] = ()


def _others(n: int, excluded: Sequence[int]) -> tuple[int, ...]:
    return tuple(c for c in range(n) if c not in excluded)


def _half(n: int, c: int) -> range:
    middle = (n + 1) // 2
    return range(middle) if c < middle else range(middle, n)


def one_class(normal: tuple[int, ...], n: int) -> Task:
    """Table 1: the given classes are normal, all others are anomalies."""
    return Task(normal, _others(n, normal))


def two_class(normal: tuple[int, ...], n: int) -> Task:
    """Table 1, 2-class MNIST: the pair {2k, 2k+1} around the class given is normal."""
    pair = (normal[0] // 2 * 2, normal[0] // 2 * 2 + 1)
    if not set(normal) <= set(pair) or pair[1] >= n:
        raise LisaeError(
            f"the two-class protocol takes a pair such as 0,1 or 2,3, not {list(normal)}"
        )
    return Task(pair, _others(n, pair))


def next_class(normal: tuple[int, ...], n: int) -> Task:
    """Table 1, Fashion-MNIST: the next class is negative and left out of the test."""
    if len(normal) != 1 or n < 3:
        raise LisaeError(
            f"the next-class protocol takes one normal class, of a set with three classes or "
            f"more, not {list(normal)} of {n}"
        )
    return Task(normal, _others(n, (normal[0], (normal[0] + 1) % n)))


def halves(normal: tuple[int, ...], n: int) -> Task:
    """Tables 2 to 5: anomalies are the rest of the normal class's own half of the classes."""
    own = _half(n, normal[0])
    if any(c not in own for c in normal):
        raise LisaeError(
            f"the halves protocol takes normal classes of one half of the {n} classes, as in "
            f"--normal-class {','.join(map(str, own[:2]))}, not {list(normal)}"
        )
    return Task(normal, tuple(c for c in own if c not in normal))


PROTOCOLS: dict[str, Callable[[tuple[int, ...], int], Task]] = {
    "one-class": one_class,
    "two-class": two_class,
    "next-class": next_class,
    "halves": halves,
}


def class_numbers(classes: Sequence[int | str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Names or numbers as class numbers, in the order given.

    Raises:
        LisaeError: no such class; the nearest name is proposed.
    """
    numbers = []
    for given in classes:
        text = str(given)
        if text in class_names:
            numbers.append(list(class_names).index(text))
        elif text.isdecimal() and int(text) < len(class_names):
            numbers.append(int(text))
        else:
            near = difflib.get_close_matches(text, class_names, n=1, cutoff=0.0)
            raise LisaeError(
                f"there is no class '{text}'; did you mean '{near[0]}'? Give a name or a number "
                f"from 0 to {len(class_names) - 1}"
            )
    return tuple(dict.fromkeys(numbers))


def make_task(
    protocol: str,
    normal: Sequence[int | str] | None,
    anomaly: Sequence[int | str] | None,
    class_names: Sequence[str],
) -> Task:
    """The task of a protocol; `anomaly`, where given, overrides its anomaly classes.

    Raises:
        LisaeError: unknown classes, no anomaly class left, or normal ones among them.
    """
    task = PROTOCOLS[protocol](class_numbers(normal or [0], class_names), len(class_names))
    if anomaly is not None:
        task = Task(task.normal, class_numbers(anomaly, class_names))
    both = set(task.normal) & set(task.anomaly)
    if both or not task.anomaly:
        raise LisaeError(
            f"{sorted(both)} are both normal and anomaly classes; change one of the two"
            if both
            else f"the {protocol} protocol leaves no anomaly class to test on"
        )
    return task


def base_name(dataset: str) -> str:
    """A dataset's name without its version and configuration: "svhn_cropped:3.1.0"."""
    return re.split("[/:]", dataset)[0]


def _same_set(a: str, b: str) -> bool:
    """Whether two names mean one dataset, whatever its version or configuration."""
    return base_name(a) == base_name(b)


def synthetic_generators(spec: str) -> tuple[str, ...] | None:
    """The generators that "synth:A+B" names; None where `spec` means something else.

    Raises:
        LisaeError: no generator of that name.
    """
    if not spec.startswith(SYNTH):
        return None
    names = tuple(spec.removeprefix(SYNTH).split("+"))
    for name in names:
        if name not in SYNTHETIC:
            raise LisaeError(
                f"--negatives {spec}: there is no generator '{name}'; join some of "
                f"{', '.join(SYNTHETIC)} with +"
            )
    return names


def is_made(source: str) -> bool:
    """Whether these negatives come from a generator and not from pictures of their own."""
    return source in GENERATED or source.startswith(SYNTH)


def make_negatives(
    spec: str, dataset: str, task: Task, class_names: Sequence[str]
) -> Negatives | None:
    """The negative dataset that `spec` names (section 3.2).

    Args:
        spec: "strokes", "synth:cutpaste+shuffle", "next-class", "other-half", "supervised",
            "none", a dataset's name, or a name with classes as in "cifar10:3,4"; what names
            pictures of their own may be followed by "+synth:elastic".
        dataset: the task's own dataset.
        task: normal and anomaly classes.
        class_names: of the task's own dataset.

    Raises:
        LisaeError: the negatives would hold a class that is normal or tested on; only
            "supervised", the upper bound, may train on the test's classes.
    """
    n = len(class_names)
    real, joined, made = spec.partition(f"+{SYNTH}")
    if joined:
        found = make_negatives(real, dataset, task, class_names)
        if found is None or is_made(found.source):
            raise LisaeError(f"--negatives {spec}: put pictures of their own before +{SYNTH}")
        return replace(found, made=synthetic_generators(SYNTH + made) or ())
    if spec == "none":
        return None
    if spec in GENERATED or synthetic_generators(spec):
        return Negatives(spec)
    if spec == "supervised":
        return Negatives(dataset, task.anomaly)
    if spec == "next-class":
        source, classes = dataset, ((max(task.normal) + 1) % n,)
    elif spec == "other-half":
        own = _half(n, task.normal[0])
        source, classes = dataset, _others(n, own)
    else:
        source, _, listed = spec.partition(":")
        chosen = [part.strip() for part in listed.split(",") if part.strip()]
        if not _same_set(source, dataset):
            # Names of a foreign set are looked up when it is opened.
            numbers = all(part.isdecimal() for part in chosen)
            if chosen and not numbers:
                raise LisaeError(f"--negatives {spec}: give the classes of {source} by number")
            return Negatives(source, tuple(map(int, chosen)) or None)
        classes = class_numbers(chosen, class_names) if chosen else tuple(range(n))
    tested = sorted((set(classes) & set(task.anomaly)) | (set(classes) & set(task.normal)))
    if tested or not classes:
        names = ", ".join(class_names[c] for c in tested)
        raise LisaeError(
            f"the negatives '{spec}' hold classes that are normal or tested on as anomalies "
            f"({names}); choose others, or 'supervised' for the upper bound"
        )
    return Negatives(source, tuple(classes))
