"""Where a run computes, and how precisely."""

import os

import torch


def device(name: str) -> torch.device:
    """The device that `--devices` asks for; without a GPU always the CPU. Several processes count on from there.

    Raises:
        ValueError: the name is neither `cpu` nor a number, or no GPU has that number.
    """
    if name != "cpu" and not name.isdecimal():
        raise ValueError(f"--devices is {name}, but must be cpu or one GPU's number.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    process, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if int(name) + process >= found:
        others = f" for process {process} of this machine" if process else ""
        raise ValueError(f"--devices is {name}{others}, but there are {found} GPUs, counted from 0.")
    return torch.device("cuda", int(name) + process)


def precision(name: str, device: torch.device) -> torch.autocast:
    """Inside it networks compute as `--precision` says; their weights, and so a teacher's average, stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16")
