"""What a simulated streamer does, as fields of words, and the text written about it.

A stream's content is the sum of its words' vectors; a pair of a style and a subject also means
something that neither word says alone. Texts name most words, in several ways of saying the same.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..auc import F64, Ids

FIELDS = ("point_of_interest", "theme", "topic", "audience", "format", "scene")
PLACES = (
    "Old Harbour", "North Lake", "Bamboo Lane", "Riverside", "East Gate", "Temple Hill",
    "Night Market Street", "Science Park", "Tea Valley", "Snow Ridge", "Sea View", "Old Town",
)  # fmt: skip
THEMES: dict[str, tuple[str, ...]] = {
    "music": ("guitar", "piano", "ballads", "folk songs", "rap", "karaoke"),
    "games": ("shooters", "chess", "strategy games", "racing games", "puzzles", "card games"),
    "food": ("noodles", "barbecue", "desserts", "home cooking", "seafood", "street snacks"),
    "shopping": ("dresses", "cosmetics", "jade", "shoes", "kitchenware", "phones"),
    "outdoors": ("fishing", "hiking", "camping", "farm work", "cycling", "city walks"),
    "dance": ("street dance", "ballet", "yoga", "boxing", "square dance", "aerobics"),
    "learning": ("English", "history", "drawing", "calligraphy", "mathematics", "repairs"),
    "chat": ("love stories", "jokes", "horoscopes", "family talk", "news", "ghost stories"),
}
_SAID = {
    "music": ("music", "singing and playing", "live songs"),
    "games": ("games", "gaming", "video games"),
    "food": ("food", "eating and cooking", "cuisine"),
    "shopping": ("shopping", "goods for sale", "a shop"),
    "outdoors": ("outdoors", "country and open air", "nature"),
    "dance": ("dance and sport", "moving and training", "fitness"),
    "learning": ("learning", "lessons", "knowledge"),
    "chat": ("chat", "talk", "company"),
}
STYLES = (
    "slow", "fast", "classic", "funny", "quiet", "wild", "beginner", "expert", "cheap", "luxury",
    "late night", "family",
)  # fmt: skip
AUDIENCES = {
    "students": ("students", "young people at school"),
    "office workers": ("office workers", "people after work"),
    "parents": ("parents", "mothers and fathers"),
    "night owls": ("night owls", "those who cannot sleep"),
    "retired people": ("retired people", "the older generation"),
    "collectors": ("collectors", "big spenders"),
}
FORMATS = (
    "solo show", "duel with another streamer", "request hour", "lesson step by step",
    "flash sale", "open talk", "lucky draw", "marathon",
)  # fmt: skip
SCENES = (
    "bedroom", "studio with lights", "street at night", "kitchen", "village yard", "shop floor",
    "riverbank", "living room",
)  # fmt: skip
SUBJECTS = tuple(word for words in THEMES.values() for word in words)
_A_THEME = len(SUBJECTS) // len(THEMES)
_SIZES = {
    "place": len(PLACES), "theme": len(THEMES), "style": len(STYLES), "subject": len(SUBJECTS),
    "style_too": len(STYLES), "subject_too": len(SUBJECTS), "audience": len(AUDIENCES),
    "format": len(FORMATS), "scene": len(SCENES), "said": 3, "said_audience": 2,
}  # fmt: skip
# How much a word counts; how a thing is said counts nothing.
_WEIGHT = {"place": 0.3, "theme": 0.9, "audience": 0.8, "format": 0.8, "scene": 0.5}
_TOPIC, _TOPIC_TOO, _PAIR = 0.7, 0.35, 0.9
Words = dict[str, Ids]  # number of the word, by its part


@dataclass(frozen=True)
class Meaning:
    """Vectors of the words of each part, and of pairs of a style and a subject."""

    word: dict[str, F64]  # [words, D] each
    pair: F64  # [styles, subjects, D]


def meanings(dim: int, rng: np.random.Generator) -> Meaning:
    """Independent standard normal vectors."""
    sizes = {**{part: _SIZES[part] for part in _WEIGHT}, "style": len(STYLES)}
    sizes["subject"] = len(SUBJECTS)
    word = {part: rng.normal(size=(n, dim)) for part, n in sizes.items()}
    return Meaning(word, rng.normal(size=(len(STYLES), len(SUBJECTS), dim)))


def draw_words(n: int, rng: np.random.Generator) -> Words:
    """Words of `n` contents; the long tail of themes is music's and chat's length."""
    share = 1 / np.arange(1, len(THEMES) + 1) ** 0.7
    words: Words = {part: rng.integers(0, size, n) for part, size in _SIZES.items()}
    words["theme"] = rng.choice(len(THEMES), n, p=share / share.sum())
    return with_subjects(words)


def with_subjects(words: Words) -> Words:
    """Subjects drawn anywhere, moved to their content's theme."""
    moved = {
        part: words["theme"] * _A_THEME + words[part] % _A_THEME
        for part in ("subject", "subject_too")
    }
    return words | moved


def told(words: Words, meaning: Meaning) -> F64:
    """[n, D] content as far as words tell it, each coordinate of mean 0 and deviation 1."""
    found = sum(w * meaning.word[part][words[part]] for part, w in _WEIGHT.items())
    for weight, more in ((_TOPIC, ""), (_TOPIC_TOO, "_too")):
        style, subject = words[f"style{more}"], words[f"subject{more}"]
        found = found + weight * meaning.word["style"][style]
        found = found + weight * meaning.word["subject"][subject]
        found = found + weight * _PAIR * meaning.pair[style, subject]
    scaled: F64 = (found - np.mean(found, 0)) / np.std(found, 0)
    return scaled


def texts(words: Words) -> pl.DataFrame:
    """The six fields, a row a content."""
    n = len(words["theme"])
    themes, audiences = list(THEMES), list(AUDIENCES)
    style, subject = np.array(STYLES, object), np.array(SUBJECTS, object)
    first = style[words["style"]] + " " + subject[words["subject"]]
    second = style[words["style_too"]] + " " + subject[words["subject_too"]]
    said = [_SAID[themes[t]][k] for t, k in zip(words["theme"], words["said"], strict=True)]
    audience = zip(words["audience"], words["said_audience"], strict=True)
    columns: list[list[str] | NDArray[np.object_]] = [
        np.array(PLACES, object)[words["place"]],
        said,
        first + ", sometimes " + second,
        [AUDIENCES[audiences[a]][k] for a, k in audience],
        np.array(FORMATS, object)[words["format"]],
        np.array(SCENES, object)[words["scene"]],
    ]
    assert all(len(column) == n for column in columns)
    return pl.DataFrame(
        dict(zip(FIELDS, (list(column) for column in columns), strict=True)),
        schema=dict.fromkeys(FIELDS, pl.String),
    )
