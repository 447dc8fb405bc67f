"""Where a run computes."""

import torch


def device(name: str) -> torch.device:
    """The device that `--devices` asks for; without a GPU always the CPU.

    Raises:
        ValueError: the name is neither `cpu` nor a number, or no GPU has that number.
    """
    if name != "cpu" and not name.isdecimal():
        raise ValueError(f"--devices is {name}, but must be cpu or one GPU's number.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if int(name) >= torch.cuda.device_count():
        raise ValueError(f"--devices is {name}, but there are {torch.cuda.device_count()} GPUs, counted from 0.")
    return torch.device("cuda", int(name))
