"""What an artifact holds, whichever runtime runs it: rebuilt from its checkpoint and compared whole, or read back and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import Manifest
from iresnet_export.artifacts.metadata import contradiction, embedded_identity, other_word
from iresnet_export.backends.base import ExportJob, ExportOptions, Format
from iresnet_export.backends.registry import format_named
from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.graph.compare import Comparison, WeightsReport, compare, same_as
from iresnet_export.graph.ir import KINDS, Graph
from iresnet_export.graph.precision import precision_of, widest
from iresnet_export.quantization.placement import conversions
from iresnet_export.reporting.schemas import Coverage, GraphReport
from iresnet_export.system.environment import versions
from iresnet_export.system.progress import Progress
from iresnet_export.verification.claims import false_claim, false_lineage
from iresnet_export.verification.deployment import Deployment
from iresnet_models.archives import is_archive, require_whole


@dataclass(frozen=True)
class ReadBack:
    """`weights` and `graph` are None where they cannot be read back. `reason` says what is wrong with them, if anything.

    `coverage`: how much of the artifact was compared. The whole file, with the one that its checkpoint and manifest give; the same
    of the parent that it was compiled from; its graph with all weights; or nothing but outputs. `is_comparable`: whether it takes
    the images that it should, so that its outputs can be compared at all. `is_repeated`: whether what its export measured was
    measured again. Of artifacts without a manifest, `stored` is the precision that their weights are in, and `unlike` says why it
    cannot be compared though nothing may be wrong with it.
    """

    weights: WeightsReport | None
    graph: GraphReport | None
    reason: str | None
    coverage: Coverage = "outputs"
    is_comparable: bool = True
    is_repeated: bool = False
    stored: str | None = None
    unlike: str | None = None
    note: str | None = None
    """What is to be said beside a pass in place of what the coverage alone says."""

    def limit(self, images: str = "some images") -> str | None:
        """What a pass over so many images does not say; None where nothing is left to say."""
        said = self.note or _LIMITS[self.coverage]
        return None if said is None else said.format(images=images)


_LIMITS: dict[Coverage, str | None] = {
    "whole file": None,
    "parent": "compiled code: what it was compiled from is the network, whole; itself it is compared by its outputs over {images}",
    "graph": "compared by its graph, weights and outputs: without a manifest of these versions no file is rebuilt",
    "outputs": "compared by its outputs alone: what {images} exercise",
}

_FUSED = "com.microsoft"
_NO_NUMBERS = "OSUb"
"""Kinds of numpy's types: objects, bytes, texts and truth values."""


def read_back(artifact: Artifact, deployment: Deployment, progress: Progress) -> ReadBack:
    """Compares an artifact that is trusted with what it should hold.

    Raises ArtifactError, ExportError or StaleManifestError for a damaged file, parent or manifest.
    """
    progress("Weights and graph", 0.0)
    contradicted = contradiction(artifact, deployment.source.trained_spec or deployment.source.spec)
    if contradicted is not None:
        return ReadBack(None, None, contradicted, is_comparable=False)
    format, given = format_named(artifact.format), artifact
    is_compiled = format.parent is not None
    if is_compiled:
        if artifact.manifest is None or artifact.manifest.parent is None:
            return ReadBack(None, None, None)
        artifact = artifact.parent()
        format, deployment = format_named(artifact.format), Deployment(deployment.source, artifact.manifest)
    manifest = artifact.manifest
    if manifest is None:
        return _read_back_foreign(artifact, format, deployment, progress)
    options = _options_of(artifact, format, manifest)
    claims = [false_claim(artifact, manifest, options, deployment)]
    if given.manifest is not None and is_compiled:
        claims.append(false_lineage(given, given.manifest, manifest))
    reasons = [claim for claim in claims if claim is not None]
    difference = _difference(artifact, format, options, manifest, deployment, progress)
    if difference is None:
        progress("Weights and graph", 1.0)
        same = same_as(deployment.graph)
        return ReadBack(same.weights, same.graph, "; ".join(reasons) or None, "parent" if is_compiled else "whole file")
    comparison = compare(deployment.graph, _graph_of(artifact, format))
    progress("Weights and graph", 1.0)
    found = [
        f"{what}: {report.first_difference}"
        for what, report in (("weights", comparison.weights), ("graph", comparison.graph))
        if report is not None and report.first_difference is not None
    ]
    if not found and deployment.quantization is not None and (surplus := _other_conversions(artifact, deployment)) is not None:
        found = [f"graph: {surplus}"]
    if not found and not _made_by_others(manifest):
        found = [f"whole file: rebuilt from its checkpoint and manifest it is another one: {difference}"]
    reason = "; ".join(found + reasons) or None
    coverage: Coverage = "outputs" if is_compiled or comparison.graph is None else "graph"
    return ReadBack(comparison.weights, comparison.graph, reason, coverage, note=_note(comparison))


def _read_back_foreign(artifact: Artifact, format: Format, deployment: Deployment, progress: Progress) -> ReadBack:
    found = _graph_of(artifact, format)
    comparison = compare(deployment.graph, found)
    progress("Weights and graph", 1.0)
    is_wired = comparison.graph is not None and comparison.graph.first_difference is None
    coverage: Coverage = "graph" if comparison.weights.matched and is_wired else "outputs"
    unknown = found.kinds - deployment.graph.kinds - set(KINDS) if comparison.graph is not None else set[str]()
    types = [layer.tensors["weight"].dtype for layer in found.layers if "weight" in layer.tensors]
    stored = "int8" if any("quantized" in kind for kind in found.kinds) else widest([precision_of(dtype) for dtype in types])
    strange = next((str(dtype) for dtype in types if dtype.kind in _NO_NUMBERS), None)
    reason = _foreign_reason(comparison, sorted(unknown)) if strange is None else f"weights: some are {strange}, and no numbers"
    reason = reason or other_word(artifact, deployment.source.spec)
    how = f"it is {stored} without a manifest, and nothing says how it was made or what that may cost"
    unlike = how if stored != "fp32" and reason is None else None
    return ReadBack(comparison.weights, comparison.graph, reason, coverage, stored=stored, unlike=unlike, note=_note(comparison))


def _graph_of(artifact: Artifact, format: Format) -> Graph:
    found = format.read(artifact)
    if found is None:
        raise ArtifactError(f"The weights of {artifact.path} cannot be read back.")
    return found


def _options_of(artifact: Artifact, format: Format, manifest: Manifest) -> ExportOptions:
    """Those of the export that a manifest tells of; ArtifactError where there can be no such one."""
    try:
        options = format.options_of(manifest)
        batch = format.batch_range(options)
    except InputError as error:
        raise ArtifactError(f"The manifest of {artifact.path} tells of an export that cannot be: {error}") from error
    if manifest.batch != batch:
        raise ArtifactError(
            f"The manifest of {artifact.path} says that it takes batches of {manifest.batch}, which no export of this format does.",
            "Export it again.",
        )
    return options


def _difference(
    artifact: Artifact, format: Format, options: ExportOptions, manifest: Manifest, deployment: Deployment, progress: Progress
) -> str | None:
    """The first thing in which the file is not the one that its checkpoint and manifest give; None where it is, bit by bit."""
    spec, identity = deployment.source.spec, embedded_identity(manifest)
    job = ExportJob(deployment.network, spec, artifact.path, options, identity, deployment.quantization)
    expected = format.content(job)
    if expected is None:
        raise AssertionError(f"{format.name} is built from no other format, and cannot be rebuilt")
    progress("Weights and graph", 0.6)
    found = artifact.path.read_bytes()
    if expected != found and is_archive(artifact.path):
        require_whole(artifact.path)  # torch does not look at checksums, and may crash
    return None if expected == found else format.difference(expected, found)


def _other_conversions(artifact: Artifact, deployment: Deployment) -> str | None:
    """Whether a file turns values to codes and back more or less often, or by other scales, than its quantized graph."""
    from iresnet_export.artifacts.onnx_files import read_onnx

    expected, found = conversions(deployment.quantized_model), conversions(read_onnx(artifact.path))
    if expected == found:
        return None
    counts = f"{found.total()} times, of the network's {expected.total()}"
    return f"it turns values to codes or back {counts}, or by other scales than those"


def _made_by_others(manifest: Manifest) -> bool:
    """Whether another version of this project, or of what it writes files by, made the artifact."""
    here = versions()
    return any(manifest.versions.get(name) != here.get(name) for name in ("iresnet-export", "torch", "onnx"))


def _note(comparison: Comparison) -> str | None:
    """What was compared of a file whose operations are of another kind than those of the traced network; None for others."""
    if comparison.graph is not None:
        return None
    found = comparison.weights
    weights = (
        "its weights by their names"
        if found.matched
        else f"{found.compared:,} weights by their names, and {found.first_difference}"
    )
    return f"compared by its outputs and {weights}: how its operations are wired is not compared"


def _foreign_reason(comparison: Comparison, unknown: Sequence[str]) -> str | None:
    """A foreign artifact may have fused its layers, or wired them otherwise: its outputs decide then.

    Where it holds the network's layers one for one, it must hold their weights. None may compute what no network does (`unknown`),
    but for layers that ONNX Runtime has fused for itself.
    """
    if comparison.weights.matched and not comparison.weights.passed:
        return f"weights: {comparison.weights.first_difference}"
    strange = [kind for kind in unknown if comparison.weights.matched or not kind.startswith(_FUSED)]
    if strange:
        return f"graph: beside the network's layers it computes {', '.join(strange)}, which may depend on what no image here shows"
    return None
