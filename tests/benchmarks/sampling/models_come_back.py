"""The property that a model comes back from `sample()` as it was, over many random models and every way that it ends.

python tests/benchmarks/sampling/models_come_back.py [EXAMPLES]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "helpers"), str(ROOT / "properties")]

import test_models_come_back as subject  # noqa: E402
import torch  # noqa: E402


def main(examples: int) -> None:
    """Try so many models; print of which kinds they were. Ends with the failing example where there is one."""
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    check = subject.test_the_model_comes_back.hypothesis.inner_test  # type: ignore[attr-defined]

    def counted(parts: set[str], dtype: Any, wrapper: str | None, way: str, *rest: Any, **named: Any) -> None:
        check(parts, dtype, wrapper, way, *rest, **named)
        seen.update([*parts, str(dtype), f"wrapper {wrapper}", f"ends: {way}"])
        seen["models"] += 1

    subject.test_the_model_comes_back.hypothesis.inner_test = counted  # type: ignore[attr-defined]
    begun = time.process_time()
    many = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    subject.test_the_model_comes_back._hypothesis_internal_use_settings = many  # type: ignore[attr-defined]
    subject.test_the_model_comes_back()
    print(f"{seen.pop('models')} models, all as before; {time.process_time() - begun:.0f} s")
    print(", ".join(f"{name} {count}" for name, count in seen.most_common()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
