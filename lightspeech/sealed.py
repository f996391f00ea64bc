"""Batches that go through Fabric's wrapper of a model as they are."""

from __future__ import annotations

from typing import Generic, TypeVar

BatchT = TypeVar("BatchT")


class Sealed(Generic[BatchT]):
    """Carries a batch through Fabric's wrapper, which would round its targets to bfloat16."""

    def __init__(self, batch: BatchT) -> None:
        self.batch = batch
