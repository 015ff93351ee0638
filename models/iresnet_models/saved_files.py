"""What torch.save wrote, read safely: nothing in a file is run, and it takes no more memory than it has bytes."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from iresnet_models.archives import LFS_POINTER, WEB_PAGE, is_archive, opened, what_it_is
from iresnet_models.errors import ArtifactError, CheckpointError, named_line
from iresnet_models.pickles import RefusedPickleError, globals_of, is_harmless, read_past


def read_saved(path: Path) -> Mapping[str, Any]:
    """What torch.save wrote, with tensors that still lie in the file. Only weights, and plain values beside them, are made.

    Nothing in the file is run, and it takes no more memory than it has bytes, whatever it asks for; CheckpointError says why not.
    """
    zipped = is_archive(path)
    names: set[str] = set()
    try:
        if zipped:
            names = _globals_of_archive(path)
        else:
            with path.open("rb") as file:
                names = globals_of(file, pickles=_LEGACY_PICKLES)
        with warnings.catch_warnings(), read_past(names):
            warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read raises
            # A record that is mapped is no longer than the file, whatever the pickle says of it.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except ArtifactError as error:
        raise CheckpointError(f"{error.reason}.", error.remedy) from error
    except RefusedPickleError as error:
        raise CheckpointError(f"{path} was refused: {error}, and a file of weights has no need to.", f"{_SAVE_WEIGHTS}") from error
    except pickle.UnpicklingError as error:
        raise _unpickled(path, names, error) from error
    except Exception as error:
        if _strange(names):
            raise _unpickled(path, names, error) from error
        raise _unreadable(path, zipped, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict.", "Save model.state_dict().")
    return content


_LEGACY_PICKLES = 5
"""Before its zip archives torch wrote a magic number, a version, the system, the content and the storages' keys, each a pickle."""

_SAVE_WEIGHTS = "If you trust its source, save its state_dict alone with torch.save and use that file."


def _globals_of_archive(path: Path) -> set[str]:
    """What the pickle in an archive of torch's asks for. Raises ArtifactError for one that is damaged, foreign, or a bomb."""
    foreign = what_it_is(path)
    if foreign is not None:
        raise _foreign(path, foreign)
    with opened(path) as archive:
        if any("/code/" in f"/{name}" for name in archive.names):
            raise CheckpointError(
                f"{path} is a TorchScript archive, not a checkpoint.",
                "Commands that take artifacts read it; exports start from the checkpoint that it was made of.",
            )
        content = next((name for name in archive.names if name.endswith("data.pkl")), None)
        if content is None:
            raise _foreign(path, "a zip archive without weights")
        if archive.is_compressed:
            raise CheckpointError(
                f"{path} holds compressed records, as torch never writes them: another program packed it.",
                "Unpack it and save the state_dict with torch.save.",
            )
        pickled = archive.read(content)
    return globals_of(io.BytesIO(pickled))


def _foreign(path: Path, what: str) -> CheckpointError:
    if what in (WEB_PAGE, LFS_POINTER):
        return CheckpointError(f"{path} is no checkpoint but {what}.", "Download the file itself.")
    return CheckpointError(
        f"{path} is no checkpoint of PyTorch but {what}. It is whole as far as can be seen, so getting it again will not help:",
        "name a file that torch.save wrote, such as one with model.state_dict() in it.",
    )


def _unpickled(path: Path, names: set[str], error: Exception) -> CheckpointError:
    """What torch's reader refused, by its full name."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    strange = _strange(names)
    wanted = found[1] if found is not None else next(iter(strange), None)
    if wanted is not None:
        full = next((name for name in sorted(names) if name == wanted or name.endswith(f".{wanted}")), wanted)
        if any(name.startswith("torch.nn.modules.") for name in names):
            return CheckpointError(
                f"{path} was refused: it is a whole network as a pickle, which wants to run code ({full:.200}) when it is opened.",
                "If you trust its source, load it where its classes are, and save model.state_dict() with torch.save.",
            )
        return CheckpointError(
            f"{path} was refused: it is a pickle that wants to run code ({full:.200}) when it is opened, which a file of "
            f"weights has no need to.",
            f"{_SAVE_WEIGHTS}",
        )
    if "Unsupported operand" in str(error) and "torch._utils._rebuild_tensor_v2" in names:
        return CheckpointError(
            f"{path} was refused: it is a pickle of another protocol than torch's reader of weights takes.",
            "Save it again with torch.save, without pickle_protocol.",
        )
    reason = re.search(r"Unsupported[^\n]*|Can only[^\n]*|Trying[^\n]*", str(error))
    return CheckpointError(
        f"{path} was refused: it is damaged, or a pickle of something other than weights "
        f"({reason[0] if reason else 'unreadable':.200}).",
        "Get it again, or save the model's state_dict with torch.save and use that file.",
    )


def _strange(names: set[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(("torch.", "collections.", "_codecs.")) and not is_harmless(name))


def _unreadable(path: Path, zipped: bool, error: Exception) -> CheckpointError:
    foreign = None if zipped else what_it_is(path) or ("a plain pickle" if "Invalid magic number" in str(error) else None)
    if foreign is not None:
        return _foreign(path, foreign)
    with path.open("rb") as file:
        head = file.read(2)
    if not zipped and head[:1] != b"\x80":
        return CheckpointError(
            f"{path} cannot be read as a checkpoint: it is not a PyTorch file, which begins with PK or a pickle, and not with "
            f"{head.hex(' ')}.",
            "Name a file that torch.save wrote; if this one should be that, get it again.",
        )
    return CheckpointError(
        f"{path} cannot be read as a checkpoint: it is truncated or damaged ({named_line(error):.200}).",
        "Copy or download it again.",
    )
