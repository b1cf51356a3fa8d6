"""A fleet without connections, for tests that answer in place of its servers."""

import asyncio

from hone.samplers.vllm_fleet import Fleet


class AtHand(Fleet):
    """It watches, and a test's ``_json`` is what servers say."""

    async def __aenter__(self):
        self._watches = [asyncio.ensure_future(self._watch(server)) for server in self.servers]
        return self

    async def __aexit__(self, *_):
        for watch in self._watches:
            watch.cancel()
