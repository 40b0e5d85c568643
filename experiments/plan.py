"""The published tables on all images, on paper: ``python -m experiments.plan [key=value ...]``.

Passes are counted by a rehearsal of every cell of conf/experiment/table1 to table3, with random weights (they do not change
how many there are, but for Score-CAM, where a trained network has constant channels that are skipped: the count is an upper
bound). With F forwards, B backwards and T passes of the tail per image, a GPU that passes r images per second takes

    (F + 2 B + T / 20) / r

seconds per image, which is an upper bound too: most backwards are of the tail alone, and its passes are 23 to 410 times cheaper
than a forward. ``python -m experiments.benchmark`` measures r; where it is not given, it is taken for what a GPU of so many
TFLOPS would pass if it were used to ``efficiency``.

    images=50000           images of the data set
    tables=table1,table3   files in conf/experiment (table1 fills table2 too)
    throughput=            measured images per second: resnet50:2500,vgg16:900
    tflops=19.5            float32 without TensorFloat-32 (NVIDIA's figure for an A100)
    efficiency=0.5         assumed, where no throughput is given
    decode=10              milliseconds that one core takes for a photograph, and its size in kB (110: ILSVRC2012's mean)
    file=110
    hours=1                length of one shard
    device=cpu             where passes are counted
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from experiments.command.options import Names, Positive, parse, wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.jobs.plan import count_passes, file_table, gpu_table, network_table, read_throughputs
from suny.classifiers.engine import pick_device
from suny.configured import configured


@configured
class Options:
    """The keys of this command."""

    images: Annotated[int, Field(gt=0)] = 50_000
    tables: Names = ("table1", "table3")
    throughput: Annotated[dict[str, float], BeforeValidator(read_throughputs)] = Field(default_factory=dict)
    tflops: Positive = 19.5
    efficiency: Positive = 0.5
    decode: Positive = 10.0
    file: Positive = 110.0
    hours: Positive = 1.0
    device: Literal["cpu", "cuda", "auto"] = "cpu"


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    options = parse(Options, arguments)
    cells, flops = count_passes(options.tables, pick_device(options.device))
    assumed = {model: options.efficiency * options.tflops * 1e12 / each for model, each in flops.items()}
    rates = {model: options.throughput.get(model, rate) for model, rate in assumed.items()}
    print(network_table(flops, rates, options.throughput))
    print(f"\n{gpu_table(cells, rates, options.images, options.hours)}")
    print(f"\n{file_table(cells, rates, options.decode / 1000, options.file * 1000)}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
