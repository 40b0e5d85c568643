"""Scenes of coloured shapes whose class follows from which shapes are there, and from nothing else.

A *kind* of shape is a form and a hue. A *rule* makes a class of kinds: at least so many of them have to be there, and one
may have to be absent. A *world* is a set of rules over one set of kinds; an image of a world satisfies one rule, or none.

- ``one``: a single cause, necessary and sufficient. Another kind is there nine times out of ten, and does nothing.
- ``and``: two causes, each necessary, none sufficient
- ``or``: two causes, each sufficient, none necessary
- ``two_of_three``: of three causes any two will do: with all three there, none is necessary and none sufficient alone
- ``inhibit``: a cause that counts only where its inhibitor is absent

What a shape does is not written down: it is found by taking it out of the scene, or everything else, and asking the rules
again (:func:`retained`).
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from suny.games.values import all_coalitions
from suny.later import Later

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = Later("scipy.ndimage")

Pixels = NDArray[np.uint8]
WorldName = Literal["main", "dev", "colours"]
NONE = "none"


@dataclass(frozen=True)
class Kind:
    """A form (None: any of the world's) of a hue in degrees."""

    form: str | None
    hue: float


@dataclass(frozen=True)
class Rule:
    """A class: at least ``needed`` of ``kinds`` are there, and ``inhibitor`` is not."""

    name: str
    kinds: tuple[str, ...]
    needed: int
    inhibitor: str | None = None

    def holds(self, present: frozenset[str]) -> bool:
        return len(present.intersection(self.kinds)) >= self.needed and self.inhibitor not in present


@dataclass(frozen=True)
class World:
    """Rules over kinds of shapes.

    Args:
        forms: that its shapes can have.
        kinds: by name.
        rules: one a class; the last class, ``none``, is what satisfies no rule.
        bystander: the kind that comes with the first rule's cause without having an effect.
    """

    forms: tuple[str, ...]
    kinds: dict[str, Kind]
    rules: tuple[Rule, ...]
    bystander: str

    @property
    def classes(self) -> dict[int, str]:
        return dict(enumerate([*(r.name for r in self.rules), NONE]))

    @property
    def neutral(self) -> tuple[str, ...]:
        """Kinds that no rule asks for, the bystander aside."""
        asked = {k for r in self.rules for k in (*r.kinds, r.inhibitor)}
        return tuple(k for k in self.kinds if k not in asked and k != self.bystander)

    def label(self, present: Iterable[str]) -> int:
        """The class of an image with these kinds of shapes: the first rule that holds, or ``none``."""
        kinds = frozenset(present)
        return next((i for i, rule in enumerate(self.rules) if rule.holds(kinds)), len(self.rules))


def _world(forms: Sequence[str], kinds: dict[str, Kind], more_neutral: dict[str, Kind], *leave_out: str) -> World:
    rules = (
        Rule("one", ("a",), 1),
        Rule("and", ("b", "c"), 2),
        Rule("or", ("d", "e"), 1),
        Rule("two_of_three", ("f", "g", "h"), 2),
        Rule("inhibit", ("p",), 1, inhibitor="q"),
    )
    return World(tuple(forms), kinds | more_neutral, tuple(r for r in rules if r.name not in leave_out), bystander="x")


def _crossed(forms: Sequence[str], hues: Sequence[float], chosen: dict[str, tuple[str, float]], *leave_out: str) -> World:
    """A world whose kinds are forms of a hue; the combinations that no rule takes are its neutral kinds."""
    taken = set(chosen.values())
    rest = [(f, h) for f in forms for h in hues if (f, h) not in taken]
    neutral = {f"n{i}": Kind(*pair) for i, pair in enumerate(rest)}
    return _world(forms, {name: Kind(*pair) for name, pair in chosen.items()}, neutral, *leave_out)


# ``main`` is for measuring, ``dev`` for finding settings: other forms, other hues, without one of the rules. In
# ``colours`` a kind is a hue, whatever its form, so that a network can be written down by hand.
WORLDS: dict[WorldName, World] = {
    "main": _crossed(
        ("disk", "bar", "triangle", "cross"),
        (0, 60, 120, 180, 240, 300),
        {
            "a": ("disk", 0),
            "b": ("bar", 120),
            "c": ("triangle", 240),
            "d": ("disk", 60),
            "e": ("cross", 180),
            "f": ("triangle", 300),
            "g": ("bar", 0),
            "h": ("cross", 120),
            "p": ("bar", 240),
            "q": ("disk", 300),
            "x": ("triangle", 60),
        },
    ),
    "dev": _crossed(
        ("ring", "star", "square", "half"),
        (30, 90, 150, 210, 270, 330),
        {
            "a": ("star", 90),
            "b": ("ring", 30),
            "c": ("half", 210),
            "d": ("square", 150),
            "e": ("star", 330),
            "p": ("ring", 270),
            "q": ("half", 90),
            "x": ("square", 30),
        },
        "two_of_three",
    ),
    "colours": _world(
        ("disk", "square", "triangle", "cross", "ring", "star", "half"),
        {name: Kind(None, 30 * i) for i, name in enumerate("abcdefghpqx")},
        {"n0": Kind(None, 330)},
    ),
}

# (u, v) with the unit disk around the shape -> inside
_FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "disk": lambda u, v: u**2 + v**2 <= 0.8,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.78,
    "triangle": lambda u, v: np.maximum(-v, np.sqrt(3) / 2 * abs(u) + v / 2) <= 0.55,
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.32) & (np.maximum(abs(u), abs(v)) <= 0.95),
    "ring": lambda u, v: (u**2 + v**2 <= 0.95) & (u**2 + v**2 >= 0.25),
    "star": lambda u, v: np.hypot(u, v) <= 0.7 + 0.28 * np.cos(5 * np.arctan2(v, u)),
    "bar": lambda u, v: (abs(u) <= 0.95) & (abs(v) <= 0.36),
    "half": lambda u, v: (u**2 + v**2 <= 0.95) & (v <= 0.1),
}

# as fractions of the image's side, degrees, and shares
_RADIUS = (0.13, 0.165)
_GAP = 0.03
_HUE_JITTER = 6.0
_BYSTANDER = (0.9, 0.1)  # how often the bystander is there with the first rule's cause, and with others
_STRAY = 0.3  # how often a cause of another class is there, without that class being there


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Args:
        image: with all shapes, uint8 (side, side, 3).
        background: without any, same shape.
        owner: 0 where the background shows, i + 1 where shape i does; uint8 (side, side). Shapes do not overlap.
        kinds: of the shapes, in drawing order.
    """

    image: Pixels
    background: Pixels
    owner: Pixels
    kinds: tuple[str, ...]

    def only(self, keep: Sequence[bool] | NDArray[np.bool_]) -> Pixels:
        """The image with some of its shapes; behind the others the background shows, as if they had never been there."""
        return only(self.image, self.background, self.owner, keep)


def only(image: Pixels, background: Pixels, owner: Pixels, keep: Sequence[bool] | NDArray[np.bool_]) -> Pixels:
    """See :meth:`Scene.only`."""
    shown = np.array([True, *keep])[owner]
    return np.where(shown[..., None], image, background)


def retained(world: World, kinds: Sequence[str]) -> NDArray[np.bool_]:
    """Whether the image keeps its class with only some of its shapes: an intervention for each coalition, (2^n,).

    Entry i is the coalition of the shapes at the one bits of i, as in :func:`suny.games.values.all_coalitions`.
    """
    whole = world.label(kinds)
    return np.array(
        [world.label(k for k, kept in zip(kinds, row, strict=True) if kept) == whole for row in all_coalitions(len(kinds))]
    )


def compose(world: World, rule: Rule | None, rng: np.random.Generator) -> tuple[str, ...]:
    """Kinds of a scene that satisfies one rule and no other, or none at all (``rule`` None): shuffled."""
    while True:
        kinds = list(rule.kinds) if rule else []
        if rule and 1 < rule.needed < len(rule.kinds) and rng.random() < 0.5:
            kinds.remove(str(rng.choice(kinds)))
        if rng.random() < _BYSTANDER[rule is not world.rules[0]]:
            kinds.append(world.bystander)
        if rule is None or rng.random() < _STRAY:
            other = world.rules[rng.integers(len(world.rules))]
            parts = [*other.kinds, *([other.inhibitor] if other.inhibitor else [])]
            if rule is None:
                kinds += [k for k in parts if rng.random() < 0.5]
            elif other is not rule:
                kinds.append(str(rng.choice(parts)))
        kinds += [str(k) for k in rng.choice(world.neutral, size=rng.integers(0 if rule is None else 1, 3))]
        label = world.rules.index(rule) if rule else len(world.rules)
        satisfied = sum(r.holds(frozenset(kinds)) for r in world.rules)
        if len(set(kinds)) == len(kinds) and satisfied == (rule is not None) and world.label(kinds) == label:
            return tuple(str(k) for k in rng.permutation(kinds))


def draw_scene(world: World, kinds: Sequence[str], side: int, rng: np.random.Generator) -> Scene:
    """A scene with these shapes at random places, in random sizes, angles, shades and textures.

    Args:
        side: of the image, pixels.
    """
    background = _background(side, rng)
    image, owner = background.copy(), np.zeros((side, side), dtype=np.uint8)
    for index, (name, (cx, cy, radius)) in enumerate(zip(kinds, _places(len(kinds), rng), strict=True)):
        kind = world.kinds[name]
        form = kind.form or str(rng.choice(world.forms))
        y, x = np.mgrid[:side, :side] + 0.5
        dx, dy = (x / side - cx) / radius, (y / side - cy) / radius
        angle = np.deg2rad(rng.uniform(0, 360))
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        inside = _FORMS[form](u, v)
        hue = (kind.hue + rng.uniform(-_HUE_JITTER, _HUE_JITTER)) % 360
        colour = np.array(colorsys.hsv_to_rgb(hue / 360, rng.uniform(0.75, 1), rng.uniform(0.75, 1)))
        shade = 1 - 0.25 * _texture(u, v, rng)
        image = np.where(inside[..., None], colour * shade[..., None], image)
        owner = np.where(inside, np.uint8(index + 1), owner)
    return Scene(_bytes(image), _bytes(background), owner, tuple(kinds))


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centres and radii of shapes that do not touch, in units of the side."""
    while True:
        placed: list[tuple[float, float, float]] = []
        for _ in range(100):
            if len(placed) == count:
                return placed
            radius = rng.uniform(*_RADIUS)
            x, y = rng.uniform(radius + 0.01, 1 - radius - 0.01, 2)
            if all(np.hypot(x - px, y - py) > radius + pr + _GAP for px, py, pr in placed):
                placed.append((x, y, radius))


def _texture(u: NDArray[np.float64], v: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Plain, stripes, checks or grain, in [0, 1]."""
    waves = rng.uniform(4, 9)
    which = rng.integers(4)
    if which == 0:
        return np.zeros_like(u)
    if which == 1:
        return (np.sin(waves * u) + 1) / 2
    if which == 2:
        return (np.sin(waves * u) * np.sin(waves * v) > 0).astype(float)
    return rng.random(u.shape)


def _background(side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Cloudy grey of a faint tint, with lines and dots of other greys as clutter."""
    cells = int(rng.integers(3, 9))
    clouds = ndimage.zoom(rng.uniform(-1, 1, (cells, cells)), side / cells, order=1)[:side, :side]
    grey = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.2) * clouds + rng.normal(0, 0.02, (side, side))
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    for _ in range(rng.integers(3, 9)):
        cx, cy, angle = rng.random(), rng.random(), rng.uniform(0, np.pi)
        along = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
        across = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
        long = rng.uniform(0.01, 0.25)
        grey = np.where((abs(along) < long) & (abs(across) < rng.uniform(0.006, 0.015)), rng.uniform(0, 1), grey)
    tint = rng.uniform(-0.02, 0.02, 3)
    return grey.clip(0, 1)[..., None] + tint


def _bytes(image: NDArray[np.float64]) -> Pixels:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
