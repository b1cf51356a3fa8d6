"""A model behind an OpenAI-compatible endpoint as a writer (package ``openai``)."""

from __future__ import annotations

import asyncio
import base64
import io
import mimetypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field

from hone.seats import Player, settings
from hone.types import Message


@settings
class OpenAIWriter:
    """Writes through ``chat/completions``: of OpenAI, of Gemini, or of a server such as vLLM or llama.cpp.

    The key is read from the environment when it is needed. It is no setting, and stands in no log, no configuration
    and no error.

    Attributes:
        model: As the endpoint calls it.
        base_url: Of the endpoint, such as "http://localhost:8000/v1"; None is OpenAI's.
        key_env: Name of the environment variable that holds the key. An endpoint with a ``base_url`` may need none.
        temperature: Of sampling.
        seeded: Send a seed with each request; some endpoints refuse it.
        extra: Further fields of a request, such as {max_completion_tokens: 4096}.
        retries: How often a request that failed for a passing reason (connection, 408, 409, 429, 5xx) is sent again,
            after waits that double.
        timeout: Seconds for one request.
        concurrency: Most requests under way.
    """

    model: str = Field(min_length=1)
    base_url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    temperature: float = Field(1.0, ge=0)
    seeded: bool = True
    extra: dict[str, Any] = Field(default_factory=dict)
    retries: int = Field(5, ge=0)
    timeout: float = Field(120.0, gt=0)
    concurrency: int = Field(16, ge=1)

    _client: Any = field(default=None, init=False, repr=False, compare=False)
    _turn: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.key_env):
            self.key_env = ""  # it may be the key itself: no message and no dump shows it; bind refuses it

    @property
    def name(self) -> str:
        """Model and endpoint."""
        return f"openai {self.model}" + (f" at {self.base_url}" if self.base_url else "")

    def bind(self, player: Player) -> None:
        """Make the client when it is needed, in the loop where it is needed.

        Raises:
            ValueError: The package is not installed, there is no key in the environment, or ``key_env`` is no name.
        """
        if find_spec("openai") is None:
            raise ValueError("writer openai: needs the package openai; get it with: pip install openai")
        self._client = self._turn = None
        self._secret()

    async def write(self, messages: Sequence[Message], *, seed: int) -> str:
        """One reply.

        Raises:
            RuntimeError: The endpoint failed, also when asked again, or sent no text.
        """
        from openai import AsyncOpenAI, OpenAIError

        if self._client is None:
            self._client = AsyncOpenAI(
                api_key=self._secret(), base_url=self.base_url, max_retries=self.retries, timeout=self.timeout
            )
            self._turn = asyncio.Semaphore(self.concurrency)
        request = {"model": self.model, "messages": list(map(_plain, messages)), "temperature": self.temperature}
        if self.seeded:
            request["seed"] = seed % 2**31
        try:
            async with self._turn:
                reply = await self._client.chat.completions.create(**request, extra_body=self.extra)
        except OpenAIError as error:
            text = f"{type(error).__name__}: {error}".replace(self._secret(), "***")
            raise RuntimeError(f"{self.name}: {text[:500]}") from None  # the cause holds the request and its headers
        text = reply.choices[0].message.content if reply.choices else None
        if not text:
            why = reply.choices[0].finish_reason if reply.choices else "no choices"
            raise RuntimeError(f"{self.name}: a reply without text ({why})")
        return text

    def _secret(self) -> str:
        if not self.key_env:
            raise ValueError("writer openai: key_env is the *name* of an environment variable, such as OPENAI_API_KEY")
        found = os.environ.get(self.key_env)
        if not found and self.base_url is None:
            raise ValueError(f"writer openai: no key; put it into the environment variable {self.key_env}")
        return found or "none"


def _plain(message: Message) -> dict[str, Any]:
    """The message as the endpoint reads it: images as URLs."""
    content = message["content"]
    return {"role": message["role"], "content": content if isinstance(content, str) else list(map(_part, content))}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image":
        return dict(part)
    image = part.get("image", part.get("url", part.get("path")))
    return {"type": "image_url", "image_url": {"url": _url(image)}}


def _url(image: Any) -> str:
    """An image as a URL: as it is, or a file or picture as data."""
    if isinstance(image, str) and re.match(r"(https?|data):", image):
        return image
    if hasattr(image, "save"):  # of PIL
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        kind, data = "image/png", buffer.getvalue()
    else:
        kind, data = _picture(str(image))
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _picture(name: str) -> tuple[str, bytes]:
    """Type and content of a file that a row names. Rows are written by others, and what is read here is sent away.

    Raises:
        ValueError: If it is no picture by its name, or lies outside of the working directory.
    """
    path, kind = Path(name).resolve(), mimetypes.guess_type(name)[0] or ""
    if not path.is_relative_to(Path.cwd().resolve()) or not kind.startswith("image/"):
        raise ValueError(f"writer openai: {name!r} is not sent: it should be a picture below {Path.cwd()}")
    return kind, path.read_bytes()
