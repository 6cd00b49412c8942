"""Memory that a computation keeps and needs."""

import ctypes
import pathlib

import torch


def saved_bytes(function, besides):
    """Bytes that what `function` returns keeps for its backward pass, each storage once, without those of `besides`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = function()  # alive until the storages are counted, so that no address comes twice
    total = sum(storages.values())
    del kept
    return total


def memory_status(key):
    """Bytes that Linux counts for this process: VmRSS resident now, VmHWM at most."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def peak_bytes(function, device="cpu"):
    """By how much memory rises at most while `function` runs: that of tensors on a GPU, else what is resident of the
    process; None where the system does not tell."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = memory_status("VmRSS")
        function()
        return max(0, memory_status("VmHWM") - before)
    except (OSError, KeyError, AttributeError):
        return None
