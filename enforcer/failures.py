"""What is broken, told to whoever must know: the conditions, the audit, and the dataplane that does what the policy says."""

from __future__ import annotations

from collections import Counter

from enforcer.audit import Audit
from enforcer.conditions import CONDITIONS, Conditions
from enforcer.dataplanes import Dataplane, DataplaneError, TableFull
from enforcer.policy import Policy


class Failures:
    """begin and end may be called again and again: what changes nothing says nothing."""

    def __init__(self, policy: Policy, audit: Audit, dataplane: Dataplane) -> None:
        self.conditions = Conditions(policy.on_failure)
        self.refused: Counter[str] = Counter()
        self._audit, self._dataplane = audit, dataplane
        self._refused: tuple[str, str] | None = None

    def begin(self, condition: str, text: str = "") -> None:
        if self.conditions.begin(condition):
            self._changed(condition, "begun", text or CONDITIONS[condition])

    def end(self, *conditions: str) -> None:
        for condition in conditions:
            if self.conditions.end(condition):
                self._changed(condition, "ended", "")

    def refuse(self, word: str, text: str) -> None:
        """An update that changed nothing. The same again and again is one line."""
        self.refused[word] += 1
        if self._refused != (word, text):
            self._refused = (word, text)
            self._audit.write("refused-update", word=word, text=text)

    def accepted(self) -> None:
        """A good update came: the next refusal is news."""
        self._refused = None

    def _changed(self, condition: str, state: str, text: str) -> None:
        behaviour, fallback = self.conditions.behaviour(condition), self.conditions.fallback
        self._audit.write(
            "failure", condition=condition, state=state, behaviour=behaviour, fallback=fallback, text=text
        )
        try:
            self._dataplane.set_fallback(fallback)
        except DataplaneError as error:
            # The dataplane is what is broken; the next load brings the fallback with it.
            self._audit.write(
                "failure", condition="dataplane-dead", state="begun", behaviour="none", text=str(error)
            )


def condition_of(error: DataplaneError) -> str:
    return "table-full" if isinstance(error, TableFull) else "dataplane-dead"
