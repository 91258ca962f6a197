"""The same on S3: sample, SIGKILL, resume, two writers at once, validate; against moto's server on this machine.

python tests/benchmarks/s3/run.py [--kills 3] [--parallel]

Needs ``pip install "moto[server]" s3fs``, which the development install leaves out for their weight (some forty
packages). Nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "helpers"))

SETTINGS = {
    "lr": 1e-3,
    "n_beta": 30.0,
    "num_chains": 2,
    "num_draws": 20,
    "batch_size": 4,
    "num_init_loss_batches": 2,
    "localization": 10.0,
    "save_metrics": True,
    "checkpoint_every": 3,
    "device": "cpu",
}
STEPS = 2 * 20
WHOLE, KILLED, TWO = (f"s3://bucket/{name}.zarr" for name in ("whole", "killed", "two"))


def child(url: str, parallel: bool) -> None:
    """Sample into ``url``, and print each step."""
    import torch
    from tiny_lm import build_model, build_tokens

    from devinterp import sample

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options = {"chain_method": "parallel", "num_workers": 2, "threads_per_chain": 1} if parallel else {}
    train = build_tokens("train")
    sample(
        build_model(),
        train,
        {"train": (train, 1)},
        output_path=url,
        progress=lambda event: print(event.chain, event.step, flush=True),
        **SETTINGS,
        **options,
    )


def start(url: str, parallel: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", url, *(["--parallel"] if parallel else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], steps: int) -> bool:
    """Kill after so many steps were told; False where it had ended by then."""
    assert process.stdout is not None
    for told, _ in enumerate(process.stdout, 1):
        if told >= steps:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    return process.returncode == -signal.SIGKILL


def objects(filesystem: Any, url: str) -> dict[str, bytes]:
    filesystem.invalidate_cache()
    root = url.removeprefix("s3://")
    return {key.removeprefix(root): filesystem.cat(key) for key in filesystem.find(root)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--parallel", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.parallel)
        return 0
    try:
        import moto  # noqa: F401
        import s3fs
    except ImportError as error:
        print(f'{error}; pip install "moto[server]" s3fs')
        return 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"  # read by botocore where it connects; fsspec reads its own as it is imported
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y", AWS_ENDPOINT_URL=endpoint)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return campaign(s3fs, arguments.kills, arguments.parallel)
    finally:
        server.terminate()
        server.wait()


def campaign(s3fs: Any, kills: int, parallel: bool) -> int:
    filesystem = s3fs.S3FileSystem()
    for attempt in range(50):
        try:
            filesystem.mkdir("bucket")
            break
        except Exception:  # the server is not up yet
            if attempt == 49:
                raise
            time.sleep(0.2)
    whole = start(WHOLE)
    whole.communicate()
    rng, done, attempts = random.Random(0), 0, 0
    while done < kills:
        attempts += 1
        done += kill_after(start(KILLED, parallel), rng.randint(1, STEPS // 2))
    last = start(KILLED, parallel)
    last.communicate()
    expected, found = objects(filesystem, WHOLE), objects(filesystem, KILLED)
    differing = [k for k in expected | found if "/c/" in k and expected.get(k) != found.get(k)]
    print(f"{done} kills in {attempts} attempts; {len(expected)} objects, {len(found)} of the resumed run, ", end="")
    print(f"{len(differing)} chunks differ, {len(expected.keys() ^ found.keys())} keys")
    two = [start(TWO), start(TWO)]
    said = [process.communicate()[1].strip().splitlines()[-1:] for process in two]
    print("two at once: exit codes", sorted(process.returncode for process in two))
    print(*(line for lines in said for line in lines), sep="\n")
    codes = [whole.returncode, last.returncode, *sorted(process.returncode for process in two)]
    valid = True
    for url in (KILLED, TWO):
        report = subprocess.run([sys.executable, "-m", "devinterp", "validate", url], capture_output=True, text=True)
        print(report.stdout.strip())
        valid = valid and report.returncode == 0
    return int(bool(differing) or expected.keys() != found.keys() or codes != [0, 0, 0, 1] or not valid)


if __name__ == "__main__":
    raise SystemExit(main())
