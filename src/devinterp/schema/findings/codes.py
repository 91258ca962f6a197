"""The stable codes of findings: append-only, never given to another meaning.

What each means, how much it weighs and how it is mended stands in ``schemas/findings/codes.yaml``, which the
documentation's page of each code is generated from as well.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import yaml

from devinterp.schema.definition.load import schemas_folder

if TYPE_CHECKING:
    from devinterp.schema.definition.spec import Level, Severity

__all__ = ["CodeText", "RuleCode", "code_texts"]


class CodeText(NamedTuple):
    """The words of one code."""

    name: str
    level: Level
    severity: Severity
    title: str
    meaning: str
    remedy: str


@cache
def code_texts() -> dict[str, CodeText]:
    """Return the words of every code."""
    document = yaml.safe_load((schemas_folder() / "findings" / "codes.yaml").read_text(encoding="utf-8"))
    return {code: CodeText(**text) for code, text in document.items()}


class RuleCode(StrEnum):
    """What a finding is about.

    ``DI0xx`` the store as such, ``DI1xx`` its structure, ``DI20x`` how it is stored, ``DI25x`` what a store must not do
    to its reader, ``DI3xx`` values of one variable, ``DI4xx`` relations between variables, attributes and groups,
    ``DI5xx`` chunks, ``DI9xx`` the validator's own limits.
    """

    UNREADABLE = "DI001"
    NO_STORE = "DI002"
    ZARR_V2 = "DI003"
    UNKNOWN_KIND = "DI004"
    UNKNOWN_SCHEMA = "DI005"
    INCOMPLETE = "DI006"
    FAILED_CHAIN = "DI007"
    OTHER_PROFILE = "DI008"
    OTHER_SCHEMA = "DI009"
    STALE_CONSOLIDATED = "DI010"

    MISSING_VARIABLE = "DI101"
    UNDECLARED_VARIABLE = "DI102"
    DIMS = "DI103"
    DTYPE = "DI104"
    ROLE = "DI105"
    MISSING_GROUP = "DI106"
    UNDECLARED_GROUP = "DI107"
    SIZE = "DI108"
    SIZE_CONFLICT = "DI109"
    ATTRIBUTE = "DI110"
    UNIT = "DI111"
    FORBIDDEN_VARIABLE = "DI112"
    NODE_TYPE = "DI113"

    FILL_VALUE = "DI201"
    CHUNK_GRID = "DI202"
    CHUNK_KEYS = "DI203"
    CODECS = "DI204"
    NO_CHECKSUM = "DI205"
    SHARDED = "DI206"
    INTEGER_FILL_ATTRIBUTE = "DI207"
    METADATA = "DI208"
    DIMENSION_NAMES = "DI209"

    UNSAFE_CODEC = "DI251"
    UNSAFE_DTYPE = "DI252"
    ABSURD_SHAPE = "DI253"
    TOO_MANY_CHUNKS = "DI254"
    OVERSIZED_METADATA = "DI255"
    TOO_MANY_NODES = "DI256"
    PATH_ESCAPE = "DI257"
    NOT_JSON = "DI258"
    DECOMPRESSION_BOMB = "DI259"

    NOT_FINITE = "DI301"
    TOO_SMALL = "DI302"
    OUTSIDE_VOCABULARY = "DI303"
    NOT_DISTINCT = "DI304"
    NOT_ASCENDING = "DI305"
    NOT_COUNTING = "DI306"
    NOT_FILL = "DI307"
    TOO_LARGE = "DI308"
    MASKED_VALUE = "DI309"

    DRAWS_WRITTEN = "DI401"
    METRIC_INEQUALITY = "DI402"
    OBSERVABLE_NAMES = "DI403"
    SCALAR_PARAMETER = "DI404"
    CHAIN_STATES = "DI405"
    DISTANCE_GROWTH = "DI406"
    VISITED_ROWS = "DI407"
    POSITIONS_COUNT = "DI408"
    PAIRED_LOSSES = "DI409"
    NO_FULL = "DI411"
    RESTRICTIONS_LISTED = "DI412"
    STUDY_MEMBERS = "DI413"
    SAMPLING_TASK = "DI414"
    SHARED_ROWS = "DI415"
    SHARED_START = "DI416"
    LLC_IDENTITIES = "DI421"
    BIF_INDICES = "DI431"
    BIF_CORRELATION = "DI432"
    TOPK_PARTNERS = "DI433"
    FLAT_BIJECTION = "DI441"
    FLAT_GROUPS = "DI443"
    FLAT_NAMES = "DI444"
    FULL_AMONG_RESTRICTIONS = "DI445"
    SWEEP_CELLS = "DI451"
    SWEEP_SETTINGS = "DI452"
    SERIES_CHECKPOINTS = "DI461"
    SERIES_STEPS = "DI462"

    MISSING_CHUNK = "DI501"
    STRAY_CHUNK = "DI502"
    LEFTOVER = "DI503"
    STATE_FOLDER = "DI504"
    OMITTED_CHUNK = "DI505"
    CORRUPT_CHUNK = "DI506"

    RULE_FAILED = "DI901"
    OVER_MEMORY = "DI902"

    @property
    def slug(self) -> str:
        """A readable name for filters and file names: ``missing-variable``."""
        return self.name.lower().replace("_", "-")

    @property
    def title(self) -> str:  # type: ignore[override]  # a code is not prose to be capitalised
        """What is wrong, in a few words."""
        return code_texts()[self.value].title

    @property
    def meaning(self) -> str:
        """What a finding of this code says, and why it matters."""
        return code_texts()[self.value].meaning

    @property
    def remedy(self) -> str:
        """How to mend it."""
        return code_texts()[self.value].remedy

    @property
    def level(self) -> Level:
        """The level at which it is found."""
        return code_texts()[self.value].level

    @property
    def severity(self) -> Severity:
        """How much it weighs, where neither schema nor profile says otherwise."""
        return code_texts()[self.value].severity

    @classmethod
    def lookup(cls, text: str) -> RuleCode | None:
        """Return the code that ``text`` names: ``DI101``, ``missing-variable`` or ``MISSING_VARIABLE``."""
        wanted = text.strip().upper().replace("-", "_")
        return next((code for code in cls if wanted in (code.value, code.name)), None)
