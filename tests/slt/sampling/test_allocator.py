"""What a step frees stays at hand."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap

import pytest

# Each block is larger than any before it, so that glibc by itself takes every one from the system.
FAULTS = textwrap.dedent(
    """
    import resource
    import sys
    import torch
    from devinterp.slt.sampling.allocator import keep_freed_memory

    if sys.argv[1] == "keep":
        keep_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in range(24, 31):
        torch.ones(megabytes * 2**18)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives its heap's end back so readily")
def test_freed_memory_is_not_taken_from_the_system_again():
    def faults(how):
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Of 189 MB in all, the last 30 need pages; what else the process does, under coverage say, is the same both times.
    assert faults("leave") - faults("keep") > 20_000
