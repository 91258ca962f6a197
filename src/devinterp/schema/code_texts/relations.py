"""Codes of what variables, attributes and groups say about each other: DI4xx."""

from __future__ import annotations

from devinterp.schema.code_texts.text import CodeText

__all__ = ["TEXTS"]

TEXTS: dict[str, CodeText] = {
    "DI401": CodeText(
        "completeness",
        "error",
        "draws_written disagrees",
        "draws_written and the state of a chain contradict each other: a complete chain has every draw.",
        "Resume the run with sample(): it sets both.",
    ),
    "DI402": CodeText(
        "values",
        "error",
        "metrics contradict each other",
        "Norms and dot products of one update must obey the Cauchy-Schwarz inequality, and the distance from the start "
        "is 0 at the start.",
        "The metrics were mixed up, rescaled or damaged: sample again with save_metrics=True.",
    ),
    "DI403": CodeText(
        "structure",
        "error",
        "observable names",
        "obs_id is the observable's name made safe for a variable name; no two may be the same up to case, and none "
        "may be `sampling`.",
        "Rename the observable and its variables.",
    ),
    "DI404": CodeText(
        "values",
        "error",
        "a scalar differs from its setting",
        "The variable repeats a setting of the attributes, and the two differ.",
        "Restore the one that was changed.",
    ),
    "DI405": CodeText(
        "structure",
        "error",
        "chain states",
        "metadata.run.chains must have one entry per chain, and no chain of a completed store may be interrupted.",
        "Resume the run with sample(): it sets them.",
    ),
    "DI406": CodeText(
        "values",
        "warning",
        "the distance grows too fast",
        "From one step to the next the distance from the start grew by more than the update's terms together: some "
        "parameter was moved by something that is not in the metrics, or precision was lost.",
        "Expected where parameters are not float32. Otherwise check what else writes to the model while it is sampled.",
    ),
    "DI411": CodeText(
        "structure",
        "error",
        "no `full`",
        "A study compares weight restrictions with the run without any, `full`, which is not there.",
        "Sample `full` too, from the same weights and rows.",
    ),
    "DI412": CodeText(
        "structure",
        "error",
        "restrictions are not as listed",
        "metadata.config.restrictions of the root and the groups of the study are not the same names.",
        "Mend the list, or copy the whole store again.",
    ),
    "DI413": CodeText(
        "structure",
        "error",
        "runs that do not belong together",
        "The runs of a study differ in what must be equal to compare them: settings, observables, rows or weights.",
        "Sample the run that differs again, with the settings of the others.",
    ),
    "DI414": CodeText(
        "structure",
        "error",
        "the sampling task is not observed",
        "The study's sampling task must be among the observables of every run.",
        "Mend metadata.config.sampling_task, or sample again with it among the observables.",
    ),
    "DI421": CodeText(
        "values",
        "error",
        "LLC identities",
        "llc_mean and llc_std are the mean and the deviation of llc_per_chain, over the chains used; where a single "
        "run says its n_beta, llc_per_chain and llc_scalar are n_beta * (mean of loss_trace - init_loss).",
        "Compute the result again: one of its numbers was changed, or comes from another run.",
    ),
    "DI431": CodeText(
        "values",
        "error",
        "BIF indices",
        "batch_1 and batch_2 index the concatenated sequences, and target positions lie inside them.",
        "Compute the result again.",
    ),
    "DI432": CodeText(
        "values",
        "error",
        "not a correlation",
        "A correlation lies in [-1, 1], is 1 on the diagonal (0 for a constant loss) and symmetric; a covariance is "
        "symmetric.",
        "Compute the result again; set the attribute compute_covariance where it is a covariance.",
    ),
    "DI441": CodeText(
        "values",
        "error",
        "flat index",
        "Every (observable, row, position) must occur exactly once along the flat dimension.",
        "Compute the result again; a selection of it is a view, not a store of its own.",
    ),
    "DI443": CodeText(
        "values",
        "error",
        "groups disagree",
        "The groups susceptibilities and context must speak of the same observables and rows, one position apart.",
        "Compute the result again, both groups from the same observables.",
    ),
    "DI451": CodeText(
        "structure",
        "error",
        "cells and groups",
        "The cells that a sweep lists, its groups, and the settings on its root must be of the same cells, in number "
        "and name.",
        "Restore the group or the list. Calling sweep() again with the same arguments adds cells that are missing.",
    ),
    "DI452": CodeText(
        "values",
        "error",
        "settings of cells",
        "The settings on the root of a sweep are those that each cell was sampled with, and no two cells share them "
        "all.",
        "Write lr, n_beta and localization again from metadata.config.sampler of every cell.",
    ),
    "DI461": CodeText(
        "structure",
        "error",
        "checkpoints and groups",
        "The checkpoints that a series lists, its groups and its dimension checkpoint must be the same, and every "
        "study of it has the restrictions and the sampling task that its root names.",
        "Restore the group or the list. sample_checkpoints() with the same arguments adds those that are missing.",
    ),
    "DI462": CodeText(
        "values",
        "error",
        "training steps",
        "The coordinate checkpoint of a series holds the training steps of metadata.config.checkpoints, in that order.",
        "Write checkpoint again from metadata.config.checkpoints.",
    ),
}
