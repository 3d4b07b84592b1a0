"""Follows the feed for an agent: which question comes next, and what is done with its answer.

The registry is listened to (enforcer.follow.Feed.listen) where it offers that: one question, then signs of life and the change as soon
as there is one. Where it does not, each question waits for a change, at most half as long as an unanswered registry may last.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from enforcer.conditions import Conditions
from enforcer.config import Config
from enforcer.follow import Feed, NotOffered, SerialUnknown, Unreachable
from enforcer.intake import Intake
from enforcer.policy import OnFailure

_LONGEST_WAIT_S = 10.0
_LONGEST_LISTEN_S = 290.0  # some seconds under what a registry grants
_MOST_IN_VAIN = 8  # questions in a row; a stale list, a gap and a new key take four
_ASIDE_BYTES = 1 << 18  # a longer message takes more than a tick; another thread reads it
_ENDED_BY_A_SIGN = frozenset({"clock-jumped", "signature-wrong", "serial-wrong"})  # of life


@dataclass(slots=True)
class Follower:
    """aside: does something in another thread. free: returns when nothing is done there. answered: told of each answer.

    changed: told of each list that came, for what is in it may be due soon.
    """

    config: Config
    on_failure: OnFailure
    feed: Feed
    intake: Intake
    conditions: Conditions
    aside: Callable[..., Awaitable[Any]]
    free: Callable[[], Awaitable[None]]
    answered: Callable[[], None]
    unreachable: Callable[[str], None]
    changed: Callable[[], None]
    _keys_seen: int = 0

    async def run(self) -> None:
        """For ever."""
        poll_s, vain = self.config.poll_ns / 1e9, 0
        while True:
            began_s, before = time.monotonic(), self.intake.allowlist
            try:
                was_useful = await self._ask()
            except Unreachable as error:
                self._count(error)
                was_useful = False
            # Whoever answers at once, and with nothing new, would be asked as fast as it answers.
            is_quick = time.monotonic() - began_s < min(poll_s, self._sign_s()) / 2
            vain = vain + 1 if is_quick and self.intake.allowlist is before else 0
            if not was_useful or vain >= _MOST_IN_VAIN:
                await asyncio.sleep(poll_s)

    async def _ask(self) -> bool:
        """One question to the registry. False: the answer was of no use, so the next may wait. Raises Unreachable."""
        intake, began_s = self.intake, time.monotonic()
        if intake.wants_standing and intake.allowlist is not None:
            with contextlib.suppress(NotOffered):
                message = await self.feed.standing()
                await self._answered()
                return intake.take_standing(message)
            intake.wants_standing, intake.wants_snapshot = False, True
            # Without signs of life only a list shows that it is signed now: "still the same" is not signed.
            return await self._take_snapshot(None)
        if intake.wants_snapshot or intake.allowlist is None:
            return await self._take_snapshot(intake.tag)
        wait_s = self._sign_s()
        is_listening = self.feed.can_listen
        try:
            message = await (self._listen(intake.allowlist.serial) if is_listening else self._delta(wait_s))
        except SerialUnknown:
            await self._answered()
            intake.wants_snapshot = True
            return True
        if message is not None:
            return await self._take(message)
        intake.wants_standing = intake.is_old() or not _ENDED_BY_A_SIGN.isdisjoint(self.conditions.lasting)
        # Whoever answers at once is not asked again at once.
        return is_listening or time.monotonic() - began_s > wait_s / 2

    async def _take_snapshot(self, tag: str | None) -> bool:
        """tag: of the list that is not to be sent again."""
        intake = self.intake
        message = await self.feed.snapshot(tag)
        await self._answered()
        if message is None:
            intake.wants_snapshot, intake.wants_standing = False, True
            return True
        return await self._take(message)

    async def _delta(self, wait_s: float) -> bytes | None:
        assert self.intake.allowlist is not None
        message = await self.feed.delta(self.intake.allowlist.serial, wait_s)
        await self._answered()
        return message

    async def _listen(self, since: int) -> bytes | None:
        """The next change, or None when something else is to be asked first."""
        fresh_s = self.on_failure.feed_stale_after_ns / 2e9
        async with contextlib.aclosing(
            self.feed.listen(since, self._sign_s(), fresh_s, _LONGEST_LISTEN_S)
        ) as lines:
            is_first = True  # it comes at once
            async for line in lines:
                await self._answered()
                if line.kind == "standing":
                    if not self.intake.take_standing(line.message):
                        return None
                elif line.kind == "change":
                    return line.message
                if not is_first and self._wants_something_else():
                    return None
                is_first = False
        return None

    def _wants_something_else(self) -> bool:
        intake = self.intake
        return (
            intake.wants_snapshot
            or intake.wants_standing
            or not _ENDED_BY_A_SIGN.isdisjoint(self.conditions.lasting)
        )

    def _sign_s(self) -> float:
        """How long to go without a sign of life. A watchful agent wants two of them in the time the policy allows."""
        after_s = self.on_failure.registry_unreachable_after_ns / 1e9
        if self.config.is_watchful or not self.feed.can_listen:
            return min(_LONGEST_WAIT_S, max(0.2, after_s / 2))
        return min(self.config.look_ns / 1e9, max(0.2, 0.9 * after_s))

    async def _take(self, message: bytes) -> bool:
        if len(message) > _ASIDE_BYTES:
            was_taken = await self.aside(self.intake.take, message)
        else:
            await self.free()
            was_taken = self.intake.take(message)
        self.changed()
        if "signature-wrong" in self.conditions.lasting:
            self._keys_seen = -1  # perhaps the key was rolled over
        return was_taken

    async def _answered(self) -> None:
        self.answered()
        if self.feed.announced != self._keys_seen:
            announced = self.feed.announced
            try:
                self.intake.learn_keys(await self.feed.rolls())
            except NotOffered:
                pass
            except Unreachable as error:  # what was answered counts all the same
                self._count(error)
                return
            self._keys_seen = announced

    def _count(self, error: Unreachable) -> None:
        self.feed.unanswered[error.word] += 1
        self.unreachable(str(error))
