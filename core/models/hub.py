"""Models from a hub: `hf://org/name@revision`."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from core.config import Settings
from core.errors import Unavailable
from core.storage import digest
from mixkd.contract.folder import refuse_unusable_weights, wanted
from mixkd.contract.problems import Problem, RefusedError

log = logging.getLogger(__name__)

SCHEME = "hf://"

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}"
_REFERENCE = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?", re.ASCII)
_REMEDY = "write hf://organisation/name@revision"


@dataclass(frozen=True)
class HubReference:
    """A repository and a branch, tag or commit of it."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}@{self.revision}"


def parse(source: str) -> HubReference:
    """The reference in `hf://org/name@revision`; without a revision, that of the branch `main`.

    Raises:
        RefusedError: it is not of that form.
    """
    match = _REFERENCE.fullmatch(source)
    if match is None or ".." in source:
        raise _refused("it is not a reference to a model on the hub", source, _REMEDY)
    return HubReference(match[1], match[2] or "main")


def download(reference: HubReference, folder: Path, settings: Settings) -> HubReference:
    """Fetch what loading the model needs: safetensors, JSON and tokenizer files, never a pickle or code.

    Returns:
        The reference with the commit that the revision stood for.

    Raises:
        RefusedError: the hub has no such model, does not give it to us, or it cannot be used.
        Unavailable: the hub did not answer as it should; trying again later is right.
    """
    # Slow to import, and it reads its environment when it is: only the control worker pays for it.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    token = settings.hub_token.get_secret_value() if settings.hub_token else False  # False: look for none
    try:
        info = HfApi(endpoint=settings.hub_url, token=token).model_info(
            reference.repository, revision=reference.revision, files_metadata=True
        )
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
        if info.sha is None:
            raise Unavailable("the hub does not say which commit the revision is")
        refuse_unusable_weights(sizes.keys())
        _refuse_too_large(reference, sizes, settings)
        names = [name for name in sizes if wanted(name)]
        snapshot_download(
            reference.repository,
            revision=info.sha,
            local_dir=folder,
            cache_dir=folder / ".cache",  # nothing is left in, or taken from, a home folder
            allow_patterns=names,
            endpoint=settings.hub_url,
            token=token,
        )
        for sibling in info.siblings or ():
            if (
                wanted(sibling.rfilename) and sibling.lfs and sibling.lfs.sha256
            ):  # the library checks sizes only
                _check(folder / sibling.rfilename, sibling.lfs.sha256)
    except (RefusedError, Unavailable):
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 500)
        if 400 <= status < 500 and status not in {408, 425, 429}:
            raise _refused(*_reason(error, reference)) from error
        raise _unavailable(error, reference) from error
    except Exception as error:  # no network, a broken answer, a file cut short: none is the user's fault
        raise _unavailable(error, reference) from error
    return HubReference(reference.repository, info.sha)


def _check(path: Path, sha256: str) -> None:
    if digest(path).sha256 != sha256:
        raise Unavailable(f"{path.name} arrived damaged from the hub")


def _reason(error: Exception, reference: HubReference) -> tuple[str, str, str]:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError
        return (
            "the hub gives this model only to those who accepted its conditions",
            str(reference),
            "accept them on the hub and have the operator set a token, or upload the files",
        )
    if isinstance(error, RevisionNotFoundError):
        return "the model has no such revision", str(reference), "name a branch, a tag or a commit of it"
    return (
        "the hub has no such model, or it is private",
        str(reference),
        "check the name, or upload the model's files",
    )


def _refuse_too_large(reference: HubReference, sizes: dict[str, int], settings: Settings) -> None:
    total = sum(size for name, size in sizes.items() if wanted(name))
    if total > settings.max_upload_bytes:
        raise _refused(
            f"its {total} bytes are over the limit of {settings.max_upload_bytes}",
            str(reference),
            "choose a smaller model",
        )


def _refused(problem: str, value: str, remedy: str) -> RefusedError:
    return RefusedError(Problem("source", problem, value, remedy))


def _unavailable(error: Exception, reference: HubReference) -> Unavailable:
    log.warning("could not fetch %s: %s", reference, error)
    return Unavailable("the model hub does not answer as it should")
