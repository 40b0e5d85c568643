"""Why a network takes one species for another: ``python -m experiments.failures dataset=cub [key=value ...]``.

Finds the misclassified images and lays out for each: the image, what suffices for the family of both species, what is
necessary for the predicted and for the true species, and which annotated parts each of these maps hits. In the paper's case a
belted kingfisher is taken for a ringed one: the sufficient region is shared by the family, the necessary one is the belly
that tells the species apart (Xuan et al., arXiv 2303.00244). Writes one picture a case, and one table of part hits. Own keys:

    cases=10         how many misclassified images, drawn by seed; all: every one
    out=DIR          where results go; default: results/failures
    workers=N        processes that decode images while they are classified; default: half of the CPU's cores, at most 8
    caches=DIR       where the network's outputs and what is derived from the images' files are stored; default: results/caches

All others are those of run.py: dataset.root=, dataset.limit=, model=, model.checkpoint=, method=, device=, seed=, ... The
method must have a map for each side: suny, suny_filter, suny_region, ... The same command continues where it was stopped.

A family is the classes that share the last word of their name: all albatrosses. Where the two species are of two families, it
is both of these; where that is every class that the network knows, it is the predicted species alone.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pydantic
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from experiments.cell.cell import parts_in_view
from experiments.cell.labels import with_comparable_labels
from experiments.command import configuration as config
from experiments.command.configuration import Run
from experiments.command.program import EXIT_OK, composed, guarded
from experiments.command.progress import tell
from experiments.figures.explanation import drawable, over, save
from experiments.store.card import carry_card, make_card
from experiments.store.records import CellFolder, Contract, Kept, Record, write_atomically, writing
from experiments.tables import number
from experiments.training.data import outputs, readable, usual_workers
from metrics.base import Case, Part, Side
from metrics.localization import PartHits
from metrics.statistics import mean_interval
from suny.bivariate import bivariate
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine, pick_device
from suny.classifiers.merged_classes import together
from suny.errors import UserError
from suny.explanation import StoredMaps
from suny.images.dataset import Sample, draw
from suny.images.decode import decode
from suny.later import Later
from suny.seeds import image_seed

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")

_OWN = {"cases": "10", "out": "results/failures", "workers": str(usual_workers()), "caches": "results/caches"}

# what a case has a map of, as records and tables name it
MAPS = {
    "family": "sufficiency of the family",
    "predicted": "necessity of the predicted",
    "true": "necessity of the true",
}


class _Hit(pydantic.BaseModel):
    hit: list[str]


class _Case(Kept):
    visible: list[str]
    maps: dict[Literal["family", "predicted", "true"], _Hit]


_CASE: Contract = pydantic.TypeAdapter(_Case)  # what records have


@dataclass(frozen=True)
class Mapped:
    """One map of a case.

    Args:
        title: what it is the map of.
        side: which of the two sides it is.
        values: (H, W), >= 0.
        p: probability of the class, or of the family.
        hit: names of the visible parts in its most salient pixels.
        diagnostics: of the explanation.
    """

    title: str
    side: Side
    values: Tensor
    p: float
    hit: list[str]
    diagnostics: dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    if not arguments or any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    own = dict(_OWN)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in _OWN:
            own[key] = value
    count, workers = _number(own, "cases", 1), _number(own, "workers", 0)
    run = config.read(composed([a for a in arguments if a.partition("=")[0] not in _OWN]))
    if isinstance(run.explainer, StoredMaps) or not getattr(run.explainer, "two_sided", False):
        raise UserError(f"method={run.explainer.name} has no map for each side: give method=suny, suny_filter or suny_region.")
    device = pick_device(run.settings.device)
    images = readable(run.dataset.load(config.file_cache(run.dataset, own["caches"])), run.dataset.strict)
    classifier = run.model.build()
    samples, notes = with_comparable_labels(run, images, classifier)
    for note in (*images.notes, *classifier.notes, *notes):
        tell(f"note: {note}")
    other = (images.label_space == "imagenet") != (classifier.label_space == "imagenet")
    if other or any(s.label is None for s in samples):
        raise UserError(
            f"dataset={run.dataset.name} has no labels that {run.model.name} knows, so that no image is misclassified: give "
            "model.checkpoint=FILE, trained on this data set (python -m experiments.train)."
        )
    engine = Engine.of(classifier, device, run.settings.precision, run.settings.batch_size, run.settings.compile)
    caches = Path(own["caches"]).expanduser()
    logits, kept = outputs(engine, classifier.view, images, workers or 0, run.dataset.strict, caches, "classifying")
    wrong = [
        (samples[at], guess)
        for at, guess in zip(kept, logits.argmax(1).tolist(), strict=True)
        if classifier.label(guess) != samples[at].label
    ]
    print(f"{len(wrong)} of {len(kept)} images are misclassified", flush=True)
    if not wrong:
        return EXIT_OK
    guesses = {sample.image: guess for sample, guess in wrong}
    chosen = draw([sample for sample, _ in wrong], count, run.settings.seed)
    card = make_card(run, images, classifier, device)
    folder = Path(own["out"]).expanduser() / run.dataset.name / run.model.name / f"{run.explainer.name}-{card['hash'][:8]}"
    with CellFolder.open(folder, _CASE) as cell:
        for repair in cell.repairs:
            tell(f"note: {repair}")
        old = cell.read_card()
        left = [s for s in chosen if s.image not in cell.records or not _picture(folder, s).exists()]
        carry_card(cell, old, card, unfinished=bool(left))
        for sample in tqdm(left, initial=len(chosen) - len(left), total=len(chosen), desc="cases", unit="case", smoothing=0):
            record = _case(run, classifier, engine, sample, guesses[sample.image], folder)
            if sample.image not in cell.records:
                cell.append(record)
        records = [cell.records[s.image] for s in chosen]
        if any(r["visible"] for r in records):
            table = part_table(records)
            with writing(folder):
                write_atomically(folder / "part_hits.csv", table.to_csv(index=False).encode())
            print(f"\n{_shown(table, records)}\n\ntable: {folder / 'part_hits.csv'}")
        else:
            tell(f"note: dataset '{run.dataset.name}' has no parts: there is no table of part hits")
    print(f"pictures: {folder / 'cases'}")
    return EXIT_OK


def _number(own: dict[str, str], key: str, least: int) -> int | None:
    if key == "cases" and own[key] == "all":
        return None
    if not own[key].isdecimal() or int(own[key]) < least:
        raise UserError(f"{key}={own[key]}: give a number from {least} up{', or all' if key == 'cases' else ''}.")
    return int(own[key])


def family(classifier: Classifier, predicted: int, true: int) -> tuple[str, set[int]]:
    """The family of two outputs: its name and its members (see above)."""
    words = {k: _last_word(classifier.class_name(k)) for k in range(classifier.num_classes)}
    names = list(dict.fromkeys((words[predicted], words[true])))
    members = {k for k, word in words.items() if word in names}
    if len(members) == classifier.num_classes:
        return spoken(classifier, predicted), {predicted}
    return " or ".join(names), members


def _last_word(name: str) -> str:
    """Of a class's first name: ``001.Black_footed_Albatross`` is an Albatross."""
    return (re.findall(r"[^\W_]+", name.split(",")[0]) or [name])[-1]


def spoken(classifier: Classifier, output: int) -> str:
    """A class's name for a caption: without CUB's number and underscores."""
    return re.sub(r"^\d+\.", "", classifier.class_name(output)).replace("_", " ")


def _case(run: Run, classifier: Classifier, engine: Engine, sample: Sample, guess: int, folder: Path) -> Record:
    """Explains a misclassified image, draws its picture and returns its record."""
    true = classifier.output(int(sample.label or 0))
    assert true is not None  # labels were checked before
    decoded = decode(sample.path)
    image = classifier.view(decoded.image).to(engine.device)
    parts = parts_in_view(classifier.view, sample, decoded.image.size)
    name, members = family(classifier, guess, true)
    of_family = Engine.of(together(classifier, members, name), engine.device, engine.precision, engine.batch_size)
    maps = {
        "family": _mapped(run, of_family, image, 0, "sufficiency", name, sample, parts),
        "predicted": _mapped(run, engine, image, guess, "necessity", spoken(classifier, guess), sample, parts),
        "true": _mapped(run, engine, image, true, "necessity", spoken(classifier, true), sample, parts),
    }
    picture = _picture(folder, sample)
    with writing(picture.parent):
        picture.parent.mkdir(parents=True, exist_ok=True)
        caption = f"{sample.image}: taken for {spoken(classifier, guess)}, is {spoken(classifier, true)}"
        _draw(picture, classifier.view.visible(decoded.image), maps, parts, caption)
    return {
        "image": sample.image,
        "status": "ok",
        "label": sample.label,
        "predicted": classifier.label(guess),
        "family": sorted(classifier.label(k) for k in members),
        "visible": [part for part, _, _ in parts],
        "maps": {key: {"p": m.p, "hit": m.hit, "diagnostics": m.diagnostics} for key, m in maps.items()},
    }


def _picture(folder: Path, sample: Sample) -> Path:
    return folder / "cases" / f"{sample.image}.png"


def _mapped(
    run: Run, engine: Engine, image: Tensor, target: int, side: Side, title: str, sample: Sample, parts: Sequence[Part]
) -> Mapped:
    seed = image_seed(run.settings.seed, sample.image)
    found = run.explainer.explain(engine, image[None], torch.tensor([target]), [seed])
    values = torch.nan_to_num(getattr(found, side)[0], nan=0.0, posinf=0.0, neginf=0.0)
    case = Case(engine, image, target, values, parts=parts)
    PartHits(name="hit").measure(case)
    # a map that is 0 everywhere has no most salient pixels
    hit = case.notes.get("hit", []) if bool(values.max() > 0) else []
    return Mapped(f"{side} of {title}", side, values, case.p, hit, found.diagnostics[0] if found.diagnostics else {})


def part_table(records: Sequence[Record]) -> pd.DataFrame:
    """For each part, on how many images it is visible and on how many each map hits it."""
    names = sorted({part for r in records for part in r["visible"]})
    rows = []
    for part in names:
        seen = [r for r in records if part in r["visible"]]
        hits = {key: sum(part in r["maps"][key]["hit"] for r in seen) for key in MAPS}
        rows.append({"part": part, "visible": len(seen), **hits})
    return pd.DataFrame(rows)


def _shown(table: pd.DataFrame, records: Sequence[Record]) -> str:
    rows = [list(row) for row in table.itertuples(index=False)]
    with_parts = [r for r in records if r["visible"]]
    shares = []
    for key in MAPS:
        entry = mean_interval([len(r["maps"][key]["hit"]) / len(r["visible"]) for r in with_parts])
        shares.append(f"{number(entry['mean'])} [{number(entry['ci95'][0])}, {number(entry['ci95'][1])}]")
    rows.append(["share of an image's parts", len(with_parts), *shares])
    text = tabulate(rows, ["part", "visible", *MAPS.values()], tablefmt="github", disable_numparse=True)
    q = PartHits().q
    return f"{text}\n\nimages on which the part lies in the {q:g} % most salient pixels of the map (by chance: {q:g} %)"


def _draw(path: Path, visible: Image.Image, maps: dict[str, Mapped], parts: Sequence[Part], caption: str) -> None:
    """The case side by side, each map on its own scale; filled dots are the parts that it hits."""
    photo = np.asarray(visible, dtype=np.float64) / 255.0
    figure, axes = plt.subplots(1, 1 + len(maps), figsize=(3.1 * (1 + len(maps)), 3.9), layout="constrained")
    axes[0].imshow(photo)
    axes[0].set_title("input", fontsize=9)
    _dots(axes[0], parts, [])
    for axis, mapped in zip(axes[1:], maps.values(), strict=True):
        values = mapped.values.double().cpu().numpy()
        strength = values / (values.max() or 1.0)
        colour = bivariate(strength, 0) if mapped.side == "necessity" else bivariate(0, strength)
        axis.imshow(over(photo, colour, strength))
        hit = f"parts hit: {', '.join(mapped.hit) or 'none'}" if parts else ""
        other = "E_S" if mapped.side == "necessity" else "E_N"
        flags = [flag for flag in mapped.diagnostics.get("flags", []) if not flag.startswith(other)]
        said = [f"{mapped.title}, p = {mapped.p:.3f}", hit, *flags]
        axis.set_title(drawable("\n".join(line for text in said for line in textwrap.wrap(text, 46))), fontsize=8)
        _dots(axis, parts, mapped.hit)
    for axis in axes:
        axis.axis("off")
    figure.suptitle(drawable(caption), fontsize=10)
    save(figure, path)


def _dots(axis: Any, parts: Sequence[Part], hit: Sequence[str]) -> None:
    for name, x, y in parts:
        axis.plot(x, y, "o", markersize=5, markeredgecolor="white", markerfacecolor="red" if name in hit else "none")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
