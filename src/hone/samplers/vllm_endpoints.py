"""What `hone serve` adds to a vLLM server: which weights it has, and taking others. vLLM imports this file by name.

Its paths begin as those that vLLM guards by its API key. Weights are read from one folder alone, by their name in it.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, HTTPException, Request

from hone.samplers.vllm_compat import EXCHANGE, WEIGHTS

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
        await engine.update_weight_version(NONE)


router = APIRouter()


@router.get(WEIGHTS)
async def which(request: Request) -> dict[str, Any]:
    """The version of the weights, and the most tokens of a context and its continuation."""
    engine = request.app.state.engine_client
    return {"version": await engine.get_weight_version(), "longest": engine.model_config.max_model_len}


@router.post(WEIGHTS)
async def take(
    request: Request,
    version: Annotated[str, Body(embed=True)],
    check: Annotated[bool, Body(embed=True)] = False,
) -> dict[str, Any]:
    """Take the weights in the folder of this name; requests under way are given up, and so is what was cached."""
    exchange = Path(os.environ[EXCHANGE]).resolve()
    folder = (exchange / version).resolve()
    engine = request.app.state.engine_client
    async with request.app.state.hone_taking:
        if folder.parent != exchange or not folder.is_dir():
            raise HTTPException(400, f"there is no folder {version!r} in the server's sampler.vllm_server.exchange")
        await engine.pause_generation(mode="abort", clear_cache=True)
        try:
            await engine.update_weight_version(NONE)  # until they are whole
            reports = await engine.collective_rpc("take_weights", args=(str(folder), check))
            if not await engine.reset_prefix_cache():
                raise HTTPException(500, "vLLM did not clear its prefix cache, which is of earlier weights")
            if not any(report["unlike"] for report in reports):  # else they stay of no version
                await engine.update_weight_version(version)
        finally:
            await engine.resume_generation()
    log.info("took the weights %s", version)
    return {"version": version, **reports[0]}
