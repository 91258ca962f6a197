"""Names of devinterp 0 to 2.0, and of 3 before its release, and where their work is done now.

One table: for every public name of those releases, for every one that an API page had, and for those that public
programs took from its repository in between, either the successor of the
same meaning, which answers with a warning (once), or what to do instead, which an ImportError says. Module paths that
are gone answer through a finder at the end of `sys.meta_path`; modules that still exist ask `successor` for names that
they do not have.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from devinterp.errors import RenamedError, warn_caller

__all__ = ["OLD_NAMES", "install", "successor", "told_of"]

_SAMPLE = "Call devinterp.sample(model, dataset, observables, lr=..., n_beta=...)"
_UPDATE = f"{_SAMPLE}; the update rule is one of its settings, sampling_method='sgmcmc_sgld' or 'rmsprop_sgld'"
_LLC = f"{_SAMPLE}, then tree.devinterp.llc(): one LLC per chain, and with ci=0.9 its interval"
_ONLINE = f"{_SAMPLE}: the loss of every draw is in the store, so that every statistic can be computed afterwards"
_LOSS = "Give sample() a loss_fn(model, input_ids) that returns a loss per token"
_METRICS = "Pass save_metrics=True to sample(): the norms of every step are metrics_* in the store"
_SCHEMA = "The shapes on disk are declared in schemas/*.yaml: devinterp.schema.load('samples')"
_COVARIANCE = "Call devinterp.slt.bif.compute_bif(tree, compute_covariance=True)"
_WEIGHTS = "Nothing here looks at weights: the losses of every draw are what is kept"
_OWN = "Keep a copy in your own code: it has nothing to do with stores"
_TPU = "There is one engine, for every device that torch knows: sample(device=...)"
_TRACES = "Call tree.devinterp.plot.traces()"
_HEADS = "Heads are read from the model: see devinterp.slt.weight_restrictions.preview_restriction(model, 'l0h1')"
_NBETA = ">devinterp.utils:default_nbeta"
_RUN = ">devinterp.slt.sampling:sample"
_TRAINING = "Keep a copy in your own code: nothing is trained here"
_ZOO = (
    "Keep a copy in your own code, as a plain torch module with its data: such models are in the documentation, "
    "'Come from devinterp 1', section 'Its examples here'"
)
_SVGD = "There is no Stein variational gradient descent here: chains are those of sample()"
_ACTIVATIONS = "Use torch's forward hooks, or TransformerLens: activations are not looked at here"

# Where parts of the package went before its release.
_BATCHES = "devinterp.slt.uncertainty.batch_means"
_BATCH_NAMES = ("Batches", "autocorrelation_time", "batch_groups", "batch_length", "share_seen")
_INTERVALS = "devinterp.slt.uncertainty.intervals"
_SUSCEPTIBILITY_VARIANCES = {
    "init_loss_variance": ">devinterp.slt.susceptibilities.baseline:init_loss_variance",
    "susceptibility_variance": ">devinterp.slt.susceptibilities.estimator:susceptibility_variance",
}

_VIEWS = {
    **{name: f">devinterp.slt.susceptibilities.by_observable:{name}" for name in ("flatten", "unflatten")},
    **{name: f">devinterp.slt.susceptibilities.matrix:{name}" for name in ("matrix", "pca")},
    "split_half": ">devinterp.slt.susceptibilities.split_half:split_half",
}

_PER_BACKEND = ("llc", "mala", "norms", "wbic")

# What begins with ">" is a successor of the same meaning; everything else is what to do. Of a name that is in both
# releases the later one counts.
OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "devinterp": {"LLCEstimator": _LLC, "SGLD": _UPDATE, "estimate_learning_coeff": _LLC},
    "devinterp.backends": {},
    "devinterp.backends.default": {},
    "devinterp.backends.default.slt": {},
    **{f"devinterp.backends.{each}.slt.{name}": {} for each in ("default", "tpu") for name in _PER_BACKEND},
    "devinterp.backends.default.slt.sampler": {
        "default_nbeta": _NBETA, "get_args": _SAMPLE, "sample": _SAMPLE, "sample_single_chain": _SAMPLE,
    },
    "devinterp.backends.tpu": {},
    "devinterp.backends.tpu.slt": {},
    "devinterp.backends.tpu.slt.sampler": {"sample": _TPU, "sample_single_chain": _TPU, "mark_step_if_xla": _TPU},
    "devinterp.config": {"Config": _TRAINING},
    "devinterp.data": dict.fromkeys(("CustomDataLoader", "CustomDataloader"), _TRAINING),
    "devinterp.evals": dict.fromkeys(
        ("Evaluator", "RepeatEvaluator", "dataloader_map", "dataloader_reduce"), _TRAINING
    ),
    "devinterp.learner": dict.fromkeys(("Learner", "LearnerConfig"), _TRAINING),
    "devinterp.logging": {"Logger": _TRAINING},
    "devinterp.mechinterp": {},
    "devinterp.mechinterp.activations": {"ActivationProbe": _ACTIVATIONS, "Transform": _ACTIVATIONS},
    "devinterp.mechinterp.hooks": dict.fromkeys(
        ("Hooked", "HookedList", "HookedSequential", "hook", "prepend_dict"), _ACTIVATIONS
    ),
    "devinterp.ops": {},
    "devinterp.ops.logging": dict.fromkeys(
        (
            "CompositeLogger", "CsvLogger", "DataFrameLogger", "MetricLogger", "MetricLoggingConfig", "StdLogger",
            "WandbLogger",
        ), _TRAINING
    ),
    "devinterp.ops.storage": dict.fromkeys(
        (
            "BaseStorageProvider", "CheckpointerConfig", "CompositeStorageProvider", "IDType", "LocalStorageProvider",
            "S3StorageProvider", "create_storage_provider", "int_id_to_key", "key_to_int_id",
        ), _TRAINING
    ),
    "devinterp.ops.utils": dict.fromkeys(("expand_steps_config_", "process_steps"), _TRAINING),
    "devinterp.optim": {"SGLD": _UPDATE, "SGMCMC": _UPDATE, "SGNHT": _UPDATE, "SamplingMethodLiteral": _UPDATE},
    "devinterp.optim.metrics": {"Metrics": _METRICS},
    "devinterp.optim.optimizers": {"OptimizerConfig": _TRAINING},
    "devinterp.optim.preconditioner": dict.fromkeys(
        (
            "CompositePreconditioner", "IdentityPreconditioner", "MaskPreconditioner", "NHTPreconditioning",
            "Preconditioner", "PreconditionerCoefs", "RMSpropPreconditioner",
        ), f"{_UPDATE}; masks are param_masks="
    ),
    "devinterp.optim.schedulers": dict.fromkeys(("LRScheduler", "SchedulerConfig"), _TRAINING),
    "devinterp.optim.prior": dict.fromkeys(
        ("CompositePrior", "GaussianPrior", "Prior", "UniformPrior"),
        "The prior is a setting of sample(): localization=, llc_weight_decay= and bounding_box_size=",
    ),
    "devinterp.optim.sgld": {"SGLD": _UPDATE},
    "devinterp.optim.sgmcmc": {"SGMCMC": _UPDATE, "SamplingMethodLiteral": _UPDATE},
    "devinterp.optim.sgnht": {"SGNHT": _UPDATE},
    "devinterp.optim.sketch": dict.fromkeys(("CountSketch", "SKETCH_QUANTITIES", "SketchBuffer"), _WEIGHTS),
    "devinterp.optim.svgd": dict.fromkeys(("RBF", "SVGD"), _SVGD),
    "devinterp.optim.utils": {"OptimizerMetric": _METRICS},
    "devinterp.plot.token_text": {"token_strings": ">devinterp.plot.tokens.decode:token_strings"},
    "devinterp.slt": {"plot_learning_coeff_trace": _TRACES},
    "devinterp.slt._model_structures": {"HEAD_STRUCTURES": _HEADS},
    "devinterp.slt.arviz": {"to_arviz": ">devinterp.slt.uncertainty.arviz:to_arviz"},
    "devinterp.slt.batch_means": {name: f">{_BATCHES}:{name}" for name in _BATCH_NAMES},
    "devinterp.slt.bif": {
        "sample": _RUN,
        "ChainReductionMethod": "It is the string reduce_chain_dimension_method= of compute_bif",
    },
    "devinterp.slt.bif_topk": {
        "compute_bif_topk": "Call devinterp.slt.bif.compute_bif(tree, top_k=...), or tree.devinterp.bif(top_k=...)",
        "topk_of_source": ">devinterp.slt.bif.strongest:topk_of_source",
    },
    "devinterp.slt.callback": {"SamplerCallback": _ONLINE, "validate_callbacks": _ONLINE},
    "devinterp.slt.config": {
        "EpochMode": "Rows are gone through again and again; shuffle= says whether in a new order",
        "SAMPLING_METHODS": _UPDATE,
        "SamplerConfig": "Settings are keyword arguments of sample(); tree.devinterp.config has those of a store",
        "SamplingMethodLiteral": _UPDATE,
    },
    "devinterp.slt.cov": dict.fromkeys(
        (
            "AttentionHeadWeightsAccessor", "BetweenLayerCovarianceAccumulator", "CovarianceAccumulator",
            "LayerWeightsAccessor", "WeightAccessor", "WithinHeadCovarianceAccumulator",
        ), _WEIGHTS
    ),
    "devinterp.slt.covariance": {
        "batch_corrcoef": "Call devinterp.slt.bif.compute_bif(tree)",
        "batch_cov": _COVARIANCE,
        "xr_corrcoef_with_torch_backend": "Call devinterp.slt.bif.compute_bif(tree)",
    },
    "devinterp.slt.diagnostics": {"TITLES": ">devinterp.slt.diagnostics.diagnosis:TITLES"},
    "devinterp.slt.gradient": {"GradientDistribution": _METRICS},
    "devinterp.slt.learning_coeff": {},
    "devinterp.slt.llc": {
        "LLCEstimator": _LLC,
        "OnlineLLCEstimator": f"{_LLC}; loss_trace is in the result",
        "sample": _RUN,
    },
    "devinterp.slt.lm_loss": {
        "EvaluateFn": _LOSS,
        "LossFn": ">devinterp.slt.sampling:LossFn",
        "NonFiniteLogitsError": "A loss that is not finite ends its chain as failed; the store names reason and step",
        "compute_per_token_loss": (
            "Call next_token_loss(forward_logits(model, input_ids), input_ids), both of "
            "devinterp.slt.sampling.engine.losses"
        ),
        "lm_cross_entropy_loss": ">devinterp.slt.sampling.engine.losses:next_token_loss",
        "lm_forward_logits": ">devinterp.slt.sampling.engine.losses:forward_logits",
        "make_evaluate_fn": _LOSS,
    },
    "devinterp.slt.loss": {"OnlineLossStatistics": _ONLINE},
    "devinterp.slt.mala": dict.fromkeys(
        ("MalaAcceptanceRate", "mala_acceptance_probability"),
        "tree.devinterp.diagnose() judges the step size",
    ),
    "devinterp.slt.norms": {"GradientNorm": _METRICS, "NoiseNorm": _METRICS, "WeightNorm": _METRICS},
    "devinterp.slt.observables": {
        "DeterministicShuffledSampler": "Rows are chosen by obs_seed= of sample(); row_{obs} in the store has them",
        "MicroscopicObservable": "Pass save_step_losses=True to sample(): losses of every row of every step",
        "Observable": "Pass observables as a mapping of names to datasets, or to (dataset, batches_per_draw)",
        "to_obs_id": ">devinterp.names:sanitize_observable_name",
    },
    "devinterp.slt.recommend": {
        name: f">devinterp.slt.sweep.recommend:{name}"
        for name in ("Criterion", "Neighbour", "Recommendation", "recommend")
    },
    "devinterp.slt.sampler": {
        "ChainHealthError": (
            "A chain that diverges is failed and left out by name; where all are, analysis raises "
            "devinterp.errors.AllChainsFailedError"
        ),
        "MicroCallback": "Pass save_step_losses=True to sample()",
        "ParamMasks": "It is dict[str, torch.Tensor | None]; create_param_masks makes one",
        "StepCallback": "Pass progress= to sample(); what each step did is in step_loss and metrics_*",
        "call_with": _OWN,
        "calculate_num_steps": "It is num_burnin_steps + num_draws * num_steps_bw_draws",
        "default_nbeta": _NBETA,
        "estimate_learning_coeff": _LLC,
        "estimate_learning_coeff_with_summary": f"{_LLC}; print(tree.devinterp.diagnose()) is the summary",
        "estimate_rlct": _LLC,
        "is_transformer_lens_model": ">devinterp.slt.sampling.engine.losses:is_transformer_lens",
        "sample": _SAMPLE,
        "sample_single_chain": f"{_SAMPLE} with num_chains=1",
        "set_seed": "init_seed= of sample() seeds the chains; your own generators stay as they are",
    },
    "devinterp.slt.sampling": {
        "ObservableSpec": "It is a dataset, or (dataset, batches_per_draw)",
        "SAMPLES_LOSS_DTYPE_STR": f"{_SCHEMA}",
        "ZARR_MAX_WRITE_THREADS": "Chains write on a thread of their own; there is nothing to set",
        "sweep": ">devinterp.slt.sweep.sample_sweep:sweep",
    },
    "devinterp.slt.sgld": {"SGLD": _UPDATE},
    "devinterp.slt.susceptibilities": {"sample": _RUN},
    **dict.fromkeys(("devinterp.slt.susceptibilities.views", "devinterp.slt.susceptibility_views"), _VIEWS),
    "devinterp.slt.trace": {"OnlineTraceStatistics": _ONLINE},
    "devinterp.slt.uncertainty": {
        **{name: f">{_BATCHES}:{name}" for name in ("autocorrelation_time", "batch_groups", "batch_length")},
        **{name: f">{_INTERVALS}:{name}" for name in ("llc_interval", "t_interval")},
        **_SUSCEPTIBILITY_VARIANCES,
        "average_product_se": ">devinterp.slt.bif.kernels:average_product_se",
    },
    "devinterp.slt.uncertainty.intervals": _SUSCEPTIBILITY_VARIANCES,
    "devinterp.slt.wbic": {"OnlineWBICEstimator": f"{_SAMPLE} at n_beta = n / ln n, then tree.devinterp.wbic()"},
    "devinterp.slt.weight_restrictions": {
        "HEAD_STRUCTURES": _HEADS,
        "preview_weight_restriction": "Call preview_restriction(model, restriction), of the same module, and print it",
    },
    "devinterp.slt.writing": {
        "SAFE_DTYPE_STRINGS": _SCHEMA,
        "ZarrWriter": "Stores are written by sample(); devinterp.testing.make_store makes one for tests",
        "validate_dtype_str_torch_numpy_compat": _SCHEMA,
    },
    "devinterp.slt.zarr_schema": {"DataArraySpec": _SCHEMA, "ZarrSchema": _SCHEMA},
    "devinterp.storage": dict.fromkeys(("CheckpointManager", "VisualizationManager"), _TRAINING),
    "devinterp.test_utils": dict.fromkeys(
        ("DummyNaNModel", "LinePlusDot", "Polynomial", "ReducedRankRegressor"), _OWN
    ),
    "devinterp.utils": {
        **dict.fromkeys(
            (
                "EvalResults", "EvaluateFn", "evaluate", "evaluate_ce", "evaluate_mse", "get_init_loss_full_batch",
                "get_init_loss_multi_batch", "get_init_loss_one_batch", "make_evaluate",
            ), f"{_LOSS}; the losses before sampling are init_loss and init_loss_{{obs}} in the store"
        ),
        **dict.fromkeys(("Outputs", "cycle", "get_seeded_dataloader", "prepare_input", "split_results"), _OWN),
        **dict.fromkeys(("PJRT_DEVICE", "TPU_TYPE", "USE_TPU_BACKEND"), _TPU),
        **dict.fromkeys(("CriterionLiteral", "flatten_dict", "get_default_device", "nested_update"), _OWN),
        "optimal_nbeta": _NBETA,
        "optimal_temperature": _NBETA,
        "plot_trace": _TRACES,
        "set_seed": "init_seed= of sample() seeds the chains; your own generators stay as they are",
    },
    "devinterp.vis_utils": {
        **dict.fromkeys(
            ("EpsilonBetaAnalyzer", "SweepConfig"),
            "Call devinterp.sweep(model, dataset, observables, grid={...}), then .devinterp.recommend() and "
            ".devinterp.plot.sweep()",
        ),
        "default_nbeta": _NBETA,
    },
    "devinterp.zoo": {},
    "devinterp.zoo.arithmetic": {},
    "devinterp.zoo.arithmetic.data": dict.fromkeys(
        ("DEFAULT_DATA_DIR", "DEFAULT_MODULUS", "ModularArithmetic", "ModularArithmeticConfig", "OperatorLiteral"), _ZOO
    ),
    "devinterp.zoo.arithmetic.utils": dict.fromkeys(("is_prime", "modular_division", "modular_exponentiation"), _OWN),
    **{f"devinterp.zoo.{each}": {} for each in ("dlns", "mnist", "normal_crossing", "test_utils", "tms")},
    "devinterp.zoo.dlns.data": {"DLNDataset": _ZOO},
    "devinterp.zoo.dlns.model": {"DLN": _ZOO},
    "devinterp.zoo.mnist.model": {"MNISTNet": _ZOO},
    "devinterp.zoo.normal_crossing.model": {"PolyModel": _ZOO},
    "devinterp.zoo.tms.data": dict.fromkeys(
        ("SyntheticBinaryValued", "SyntheticDataset", "SyntheticUniformValued"), _ZOO
    ),
    "devinterp.zoo.tms.model": {"ToyAutoencoder": _ZOO},
    "devinterp.zoo.transformer": dict.fromkeys(
        (
            "ActivationFunctionLiteral", "Attention", "Embed", "LayerNorm", "MLP", "PosEmbed", "Transformer",
            "TransformerBlock", "TransformerConfig", "Unembed",
        ), _ZOO
    ),
}  # fmt: skip

# Modules of those releases had names of others of the package, and programs import them from there too: what each had
# taken from where. Such a name has one row, where it was defined.
_SAMPLERS = "optim.sgld slt.callback slt.llc slt.mala slt.norms utils"
_TAKEN_FROM: Mapping[str, str] = {
    "devinterp.backends.default.slt": f"backends.default.slt.sampler {_SAMPLERS}",
    **{f"devinterp.backends.{each}.slt.{name}": f"slt.{name}" for each in ("default", "tpu") for name in _PER_BACKEND},
    "devinterp.backends.default.slt.sampler": _SAMPLERS,
    "devinterp.backends.tpu.slt": f"backends.tpu.slt.sampler {_SAMPLERS}",
    "devinterp.backends.tpu.slt.sampler": _SAMPLERS,
    "devinterp.optim": "optim.svgd",
    "devinterp.optim.sgld": "optim.metrics optim.sketch",
    "devinterp.optim.sgmcmc": "optim.metrics optim.preconditioner optim.prior optim.sketch optim.utils",
    "devinterp.slt": f"slt.sampler {_SAMPLERS}",
    "devinterp.slt.bif": "slt.covariance slt.lm_loss slt.sampler slt.sampling",
    "devinterp.slt.config": "optim",
    "devinterp.slt.cov": "slt.callback",
    "devinterp.slt.gradient": "slt.callback",
    "devinterp.slt.learning_coeff": "optim slt slt.sampler",
    "devinterp.slt.llc": "optim slt.callback slt.lm_loss slt.sampler slt.sampling utils",
    "devinterp.slt.loss": "slt.callback slt.llc",
    "devinterp.slt.mala": "slt.callback",
    "devinterp.slt.norms": "optim.sgld slt.callback",
    "devinterp.slt.observables": "slt.lm_loss",
    "devinterp.slt.sampler": f"slt.config slt.lm_loss {_SAMPLERS}",
    "devinterp.slt.sampling": (
        "optim.metrics slt.config slt.lm_loss slt.observables slt.sampler slt.writing slt.zarr_schema"
    ),
    "devinterp.slt.susceptibilities": "slt.lm_loss slt.observables slt.sampler slt.sampling",
    "devinterp.slt.trace": "slt.callback",
    "devinterp.slt.wbic": "slt.callback",
    "devinterp.slt.weight_restrictions": "slt.sampler",
    "devinterp.slt.zarr_schema": "slt.writing",
    "devinterp.vis_utils": "slt.mala utils",
    "devinterp.zoo.arithmetic.data": "zoo.arithmetic.utils",
    "devinterp.zoo.dlns": "zoo.dlns.data zoo.dlns.model",
    "devinterp.zoo.dlns.data": "zoo.dlns.model",
    "devinterp.zoo.mnist": "zoo.mnist.model",
    "devinterp.zoo.normal_crossing": "zoo.normal_crossing.model",
    "devinterp.zoo.test_utils": "test_utils",
}
_ALL = "All such names: documentation, 'Come from devinterp 2', section 'Names that are gone'."
_warned: set[str] = set()


def told_of(module: str, name: str) -> str | None:
    """Return what the table says of a name where a program looks for it, or None."""
    origins = [f"devinterp.{each}" for each in _TAKEN_FROM.get(module, "").split()]
    rows = (OLD_NAMES.get(each, {}) for each in (module, *origins))
    return next((row[name] for row in rows if name in row), None)


def successor(module: str, name: str) -> Any:
    """Return what an old name stands for now; of a module, it itself: whoever imported a package had those in it too.

    Raises
    ------
    AttributeError
        No release had this name.
    RenamedError
        The name is gone; the message says where its work is done. It is an ImportError.
    """
    told = told_of(module, name)
    whole = f"{module}.{name}"
    if told is None and whole in OLD_NAMES:
        return import_module(whole)
    if told is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    if not told.startswith(">"):
        raise RenamedError(f"{whole} was a name of an earlier devinterp; this is version 3.", remedy=f"{told}. {_ALL}")
    where, _, new = told[1:].partition(":")
    if whole not in _warned:
        _warned.add(whole)
        warn_caller(f"{whole} is now {where}.{new}.", DeprecationWarning)
    return getattr(import_module(where), new)


class _OldPaths(MetaPathFinder, Loader):
    """Finds the modules that are gone; last on `sys.meta_path`, so that one that exists is never covered."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in OLD_NAMES:
            return None
        return ModuleSpec(fullname, self, is_package=any(name.startswith(f"{fullname}.") for name in OLD_NAMES))

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__doc__ = "A module of an earlier devinterp; its names say where their work is done now."

        def find(wanted: str) -> Any:
            if wanted == "*":
                raise RenamedError(
                    f"'from {name} import *' asks for names of an earlier devinterp; this is version 3.",
                    remedy=f"Import those that the program uses: each says where its work is done now. {_ALL}",
                )
            return successor(name, wanted)

        module.__dict__["__getattr__"] = find
        # A star takes what this lists: without the list nothing would be taken, and nothing said.
        alike = all(told.startswith(">") for told in OLD_NAMES[name].values()) and name not in _TAKEN_FROM
        module.__dict__["__all__"] = [*OLD_NAMES[name]] if alike and OLD_NAMES[name] else ["*"]


def install() -> None:
    """Let `import devinterp.optim` and the like reach the table."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
