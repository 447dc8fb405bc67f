"""Read the rows that wandb recorded offline."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def wandb_history(folder: Path) -> list[dict[str, float]]:
    """The rows that wandb recorded; its own process may still be writing when the run's has finished."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    records: list[Any] = []
    for _ in range(300):
        records = list(wandb_records(path.read_bytes()))
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.1)
    found = (record.history for record in records if record.WhichOneof("record_type") == "history")
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row.item} for row in found]


def wandb_records(data: bytes) -> Iterator[Any]:
    """Records in LevelDB's log format: blocks of 32 KiB, after 7 bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    at, pending = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # the rest of a block is too short for a header
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack("<4xHB", data[at : at + 7])
        if at + 7 + length > len(data):
            return
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(pending)
            pending = b""
