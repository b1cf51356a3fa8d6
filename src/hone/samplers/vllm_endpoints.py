"""What `hone serve` adds to a vLLM server: which weights it has, and taking others. vLLM imports this file by name.

Its paths begin as those that vLLM guards by its API key. Weights are taken in the one way that the server was started
for: from one folder alone, by their name in it, or from a trainer's meeting, where every bucket has its checksum.
"""

import asyncio
import atexit
import logging
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, HTTPException, Request

from hone.samplers.vllm_compat import EXCHANGE, SCRATCH, TRANSFER, WEIGHTS, workers

log = logging.getLogger("vllm.hone")

NONE = "none"
"""The version of weights that no trainer has given."""


class Endpoints:
    """A plugin for the endpoints of vLLM's server."""

    name = "hone"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the paths."""
        app.include_router(router)

    async def init_state(self, engine: Any, state: Any, arguments: Any) -> None:
        """Begin with weights of no version: those that the server was started with are not a trainer's."""
        state.hone_taking = asyncio.Lock()
        if scratch := os.environ.get(SCRATCH):
            atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        await engine.update_weight_version(NONE)


router = APIRouter()


@router.get(WEIGHTS)
async def which(request: Request) -> dict[str, Any]:
    """The version of the weights, the most tokens of a context and its continuation, and how and where weights go."""
    engine = request.app.state.engine_client
    return {
        "version": await engine.get_weight_version(),
        "longest": engine.model_config.max_model_len,
        "transfer": os.environ[TRANSFER],
        **workers(engine.vllm_config),
    }


@router.post(WEIGHTS)
async def take(
    request: Request,
    version: Annotated[str, Body(embed=True)],
    check: Annotated[bool, Body(embed=True)] = False,
    meeting: Annotated[dict[str, Any] | None, Body(embed=True)] = None,
) -> dict[str, Any]:
    """Take the weights of this name; requests under way are given up, and so is what was cached."""
    engine = request.app.state.engine_client
    async with request.app.state.hone_taking:
        method, source = _source(version, meeting)
        await engine.pause_generation(mode="abort", clear_cache=True)
        try:
            await engine.update_weight_version(NONE)  # until they are whole
            reports = await engine.collective_rpc(method, args=(source, check))
            wrong = [report for report in reports if report["unlike"]]  # for which the others may have failed
            if not wrong and (failed := next(filter(None, (report["failed"] for report in reports)), None)):
                raise HTTPException(503, f"the weights did not arrive: {failed}")
            if not await engine.reset_prefix_cache():
                raise HTTPException(500, "vLLM did not clear its prefix cache, which is of earlier weights")
            if not wrong:  # else they stay of no version
                await engine.update_weight_version(version)
        finally:
            await engine.resume_generation()
    log.info("took the weights %s", version)
    return {"version": version, **(wrong or reports)[0]}


def _source(version: str, meeting: dict[str, Any] | None) -> tuple[str, Any]:
    """The worker's method that takes these weights, and from where."""
    own = os.environ[TRANSFER]
    if (own == "folder") != (meeting is None):
        raise HTTPException(400, f"the server was started with sampler.vllm_server.transfer: {own}")
    if meeting is not None:
        return "receive_weights", meeting
    exchange = Path(os.environ[EXCHANGE]).resolve()
    folder = (exchange / version).resolve()
    if folder.parent != exchange or not folder.is_dir():
        raise HTTPException(400, f"there is no folder {version!r} in the server's sampler.vllm_server.exchange")
    return "take_weights", str(folder)
