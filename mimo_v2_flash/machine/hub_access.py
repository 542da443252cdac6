"""Access to the Hugging Face hub, as this process would download a model from it."""

from huggingface_hub import HfApi, constants

from .diagnosis import OK, PROBLEM, Diagnosis

__all__ = ["REPOSITORY", "diagnose_hub"]

REPOSITORY = "XiaomiMiMo/MiMo-V2-Flash"
TIMEOUT = 5.0  # seconds
REMEDY = "export HF_ENDPOINT=https://HOST, or HF_HUB_OFFLINE=1 where there is to be no network"


def diagnose_hub(repository: str = REPOSITORY) -> Diagnosis:
    """Return the diagnosis of the hub: whether it answers about a repository."""
    numbers = {"endpoint": constants.ENDPOINT, "repository": repository}
    if constants.HF_HUB_OFFLINE:
        text = "not asked: HF_HUB_OFFLINE is set"
        return Diagnosis("hub", text, numbers=numbers | {"is_reachable": None})
    try:
        api = HfApi(endpoint=constants.ENDPOINT)
        revision = api.model_info(repository, revision="main", timeout=TIMEOUT).sha
    except Exception as error:  # of whichever HTTP library huggingface_hub uses
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        text = f"{constants.ENDPOINT} does not give {repository}: {reason}"
        return Diagnosis("hub", text, PROBLEM, REMEDY, numbers | {"is_reachable": False})
    text = f"{constants.ENDPOINT} has {repository}"
    return Diagnosis("hub", text, OK, "", numbers | {"is_reachable": True, "revision": revision})
