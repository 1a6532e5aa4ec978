"""Upload an exported model to the Hugging Face hub.

huggingface_hub is imported only inside functions: it is slow to import, and most exports do without it.
"""

from __future__ import annotations

import re
from pathlib import Path

from dgbench.core.errors import UserError


def check_repository(name: str) -> None:
    """Raise `UserError` if a name can't be that of a repository on the hub."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise UserError(f"--push_to_hub {name}: it takes OWNER/NAME, of letters, digits, `-`, `_` and `.`")


def push(folder: Path, name: str) -> str:
    """Upload a folder as a repository of models, which is made if it doesn't exist; return its address.

    Args:
        folder: The exported model.
        name: `owner/name` on the hub.

    Raises:
        UserError: The hub can't be reached, or refuses; the folder stays as it is.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        address = str(api.create_repo(repo_id=name, repo_type="model", exist_ok=True))
        api.upload_folder(
            repo_id=name, repo_type="model", folder_path=str(folder), commit_message="Add a model trained by dgbench"
        )
    except Exception as error:  # as many kinds as a network and a server can fail in
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{folder} is written, and not uploaded to {name} ({type(error).__name__}: {first}): log in by `hf auth "
            f"login`, then `hf upload {name} {folder}`"
        ) from error
    return address
