"""Whether an ONNX file may be given to a runtime, which opens it and whatever it names itself."""

from __future__ import annotations

import mmap

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.errors import ArtifactError
from iresnet_models.errors import first_line


def require_sound(artifact: Artifact) -> None:
    """Before a runtime opens a file by its path: ArtifactError where it, or a file that it names, is not as it should be.

    What a manifest tells of was made here, and names no other file: of it, that alone is made sure of, which takes no time.
    """
    if artifact.manifest is not None:
        with artifact.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b"location") < 0:
                return
    import onnx

    from iresnet_export.artifacts.onnx_files import read_onnx

    model = read_onnx(artifact.path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:  # OpenVINO 2026.4 crashes on nodes without outputs, for one
        raise ArtifactError(
            f"{artifact.path} holds a graph that breaks the rules of ONNX ({first_line(error)}).", "Export it again."
        ) from error
