"""The benchmark: configuration -> cell of records -> summary -> table, and single explanations as pictures."""

import suny  # noqa: F401 - torchvision has to be importable first
