"""What may follow what: random walks against a small model, appeals, renewal, and what the clock does by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.registry.form import BadApplication
from enforcer.registry.ledger import Ledger
from enforcer.registry.providers import Answer, Provider, SimulatedProviders, answer
from enforcer.registry.rules_file import RulesConfig
from enforcer.registry.standing import due, promised
from enforcer.registry.states import Application, Document, IllegalTransition, Rules, application

FORM = Application(
    "softhouse", ("203.0.113.7/32",), ("198.51.100.4/32",), provider="Northern Fibre", subscriber_id="NF-7"
)
DAY = 86400 * 10**9


class At:
    """A ledger and the clock on its wall."""

    def __init__(self, **rules) -> None:
        self.now = 1_000 * DAY
        self.ledger = Ledger(":memory:", Rules(**rules), clock=lambda: self.now)

    def approved(self) -> int:
        number = self.ledger.apply(FORM).number
        self.ledger.verify(number, True)
        return self.ledger.decide(number, "approve").number

    def after(self, days: float) -> list[str]:
        """What the ledger wrote by itself when that much time had passed: "action about reason"."""
        self.now += round(days * DAY)
        newest = self.ledger.head().events
        self.ledger.pass_time()
        return [" ".join(filter(None, (e.action, e.data.get("about", ""), str(e.data.get("verified", "")))))
                for e in self.ledger.events(after=newest)]  # fmt: skip


# The model: written down apart from the program, from docs/registry.md.
ENDS = {"revoked", "rejected", "withdrawn"}
MOVES = {
    "verify": ({"pending", "active", "suspended"}, None),
    "refuse": ({"pending", "active", "suspended"}, None),
    "approve": ({"pending"}, "active"),
    "reject": ({"pending"}, "rejected"),
    "suspend": ({"active"}, "suspended"),
    "revoke": ({"active", "suspended"}, "revoked"),
    "expire": ({"active", "suspended"}, "expired"),
    "renew": ({"active", "suspended", "expired"}, "active"),
    "ask-renewal": ({"active", "suspended", "expired"}, None),
    "withdraw": ({"pending", "active", "suspended", "expired"}, "withdrawn"),
    "move": ({"pending", "active", "suspended"}, None),
    "correct-line": ({"pending"}, None),
    "correct-server": ({"pending"}, None),
    "appeal-rejection": ({"rejected"}, None),
    "appeal-block": ({"pending", "active", "suspended", "expired", "revoked"}, None),
    "grant": ({"pending", "active", "suspended", "expired", "revoked", "rejected"}, None),
    "deny": ({"pending", "active", "suspended", "expired", "revoked", "rejected"}, None),
}


class Model:
    def __init__(self, keep: bool) -> None:
        self.state, self.verified, self.was_active, self.keep, self.waits = (
            "pending",
            None,
            False,
            keep,
            False,
        )
        self.open = self.lost = False

    def does(self, action: str) -> bool:
        """Whether it is possible; if so, it has happened."""
        where, to = MOVES[action]
        if self.state not in where or not self._allows(action):
            return False
        if action in ("verify", "refuse"):
            self.verified = True if self.waits else action == "verify"
            self.waits = False
        elif action == "move":
            if self.state == "active" and self.keep:
                self.waits = True
            else:
                self.state = "pending" if self.state == "active" else self.state
                self.verified, self.waits = None, False
        elif action == "correct-line":
            self.verified = None
        elif action.startswith("appeal"):
            self.open = True
        elif action in ("grant", "deny"):
            self.open, self.lost = False, action == "deny"
            if action == "grant" and self.state == "rejected":
                self.state = "pending"
        self.state = to or self.state
        self.was_active |= self.state == "active"
        return True

    def _allows(self, action: str) -> bool:
        if action in ("approve", "renew"):
            return self.verified is True
        if action.startswith("appeal"):
            return not self.open and (self.was_active if action == "appeal-block" else not self.lost)
        return self.open if action in ("grant", "deny") else True


def act(ledger: Ledger, number: int, action: str) -> None:
    form = ledger.registration(number).application
    acts = {
        "correct-line": lambda: ledger.correct(number, replace(form, subscriber_id=f"{form.subscriber_id}7")),
        "correct-server": lambda: ledger.correct(number, replace(form, purpose=f"{form.purpose}!")),
        "verify": lambda: ledger.verify(number, True),
        "refuse": lambda: ledger.verify(number, False, why="wrong-address"),
        "move": lambda: ledger.change_address(number, ["203.0.113.9/32"]),
        "ask-renewal": lambda: ledger.ask_renewal(number),
        "withdraw": lambda: ledger.withdraw(number),
        "appeal-rejection": lambda: ledger.appeal(number, "rejection", "I have the papers"),
        "appeal-block": lambda: ledger.appeal(number, "false-block", "since Tuesday"),
        "grant": lambda: ledger.answer_appeal(number, True, "so it is"),
        "deny": lambda: ledger.answer_appeal(number, False, "no"),
    }
    acts.get(action, lambda: ledger.decide(number, action))()


@settings(max_examples=150, deadline=None)
@given(
    walk=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(sorted(MOVES))), max_size=60),
    keep=st.booleans(),
    opening=st.sampled_from([(), ("verify", "approve"), ("reject",), ("verify", "approve", "expire")]),
)
def test_random_walks_agree_with_the_model(walk, keep, opening):
    ledger = Ledger(":memory:", Rules(on_address_change="keep" if keep else "remove"), clock=lambda: 5)
    models = {ledger.apply(FORM).number: Model(keep) for _ in range(3)}
    history = []
    for number, action in [*((1, each) for each in opening), *walk]:
        events = ledger.head().events
        if models[number].does(action):
            act(ledger, number, action)
            assert ledger.head().events == events + 1
        else:
            with pytest.raises(IllegalTransition):
                act(ledger, number, action)
            assert ledger.head().events == events
        now = {each.number: (each.state, each.is_verified) for each in ledger.registrations()}
        assert now == {number: (model.state, model.verified) for number, model in models.items()}
        history.append(
            (ledger.serial, ledger.head().events, {number: state for number, (state, _) in now.items()})
        )
    for serial in {serial for serial, _, _ in history}:  # the past: what was true last at each serial
        events, states = [(events, states) for at, events, states in history if at == serial][-1]
        then = ledger.state_at(serial)
        assert then.sequence == events
        assert {number: then.state(number) for number in states} == states
        assert {each.number: each.state for each in then.registrations()} == states
    assert ledger.check().differs == ""
    states = [state for state, _ in now.values()] if history else ["pending"] * 3
    assert ledger.counts() == {state: states.count(state) for state in states}


def test_a_granted_appeal_of_a_rejection_is_pending_again_and_a_denied_one_is_final():
    at = At(appeal_ns=2 * DAY)
    at.ledger.apply(FORM)
    at.ledger.verify(1, True)
    at.ledger.decide(1, "reject")
    assert at.ledger.appeal(1, "rejection", "a letter was missing").appeal.due_ns == at.now + 2 * DAY
    assert [each.number for each in at.ledger.open_appeals()] == [1]
    with pytest.raises(IllegalTransition, match="not answered yet"):
        at.ledger.appeal(1, "rejection", "and more")
    assert at.after(3) == ["remind appeal"] and at.after(3) == []
    assert at.ledger.answer_appeal(1, True, "it is there").state == "pending"
    assert at.ledger.open_appeals() == []
    at.ledger.decide(1, "reject")
    at.ledger.appeal(1, "rejection", "again")
    at.ledger.answer_appeal(1, False, "no")
    with pytest.raises(IllegalTransition, match="apply again"):
        at.ledger.appeal(1, "rejection", "once more")


def test_only_who_was_approved_can_be_blocked_falsely():
    at = At()
    at.ledger.apply(FORM)
    with pytest.raises(IllegalTransition, match="never approved"):
        at.ledger.appeal(1, "false-block", "blocked")
    number = at.approved()
    at.ledger.change_address(number, ["203.0.113.9/32"])  # the usual case: another address, so off the list
    assert at.ledger.appeal(number, "false-block", "blocked").state == "pending"
    with pytest.raises(IllegalTransition, match="cannot appeal about a rejection"):
        at.ledger.appeal(at.approved(), "rejection", "x")


def test_renewal_has_a_window_reminders_and_a_grace():
    at = At(
        validity_ns=100 * DAY,
        renewal_window_ns=30 * DAY,
        grace_ns=5 * DAY,
        reminders_ns=(20 * DAY, 10 * DAY, 1 * DAY),
    )
    number = at.approved()
    entry = at.ledger.allowlist().entries[number]
    assert entry.valid_until_ns == at.now + 105 * DAY  # enforcers stop there with nobody pushing
    for early in (at.ledger.ask_renewal, lambda n: at.ledger.decide(n, "renew")):
        with pytest.raises(IllegalTransition, match="renewal opens at"):
            early(number)
    assert [each.about for each in due(at.ledger.registration(number))] == ["renewal"] * 3 + ["expiry"]
    assert at.after(79.9) == []
    assert at.after(0.2) == ["remind renewal"]
    assert [event.data["about"] for event in at.ledger.reminders()] == ["renewal"]
    at.ledger.ask_renewal(number)
    assert at.after(12) == []  # who has asked needs no reminder
    assert at.ledger.decide(number, "renew").valid_until_ns == at.now + 100 * DAY
    at.now += 104 * DAY
    assert at.after(0.9999)[-1:] == ["remind renewal"]
    assert at.ledger.serial == 2 and at.ledger.counts() == {"active": 1}
    at.now += 1 * DAY - round(0.9999 * DAY)
    assert at.after(0) == ["expire"]
    assert at.ledger.allowlist().entries == {}
    assert at.ledger.decide(number, "renew").state == "active"


@pytest.mark.parametrize(
    ("on_silence", "written", "verified"),
    [("wait", [], None), ("remind", ["remind verification"], None), ("refuse", ["verify False"], False), ("approve", ["verify True"], True)],
)  # fmt: skip
def test_what_a_provider_that_does_not_answer_comes_to_is_a_rule(on_silence, written, verified):
    at = At(verification_ns=3 * DAY, on_silence=on_silence, decision_ns=DAY)
    assert [each.about for each in promised(at.ledger.apply(FORM))] == ["verification"]
    assert at.after(2.9) == []
    assert at.after(0.2) == written
    registration = at.ledger.registration(1)
    assert registration.is_verified is verified
    assert at.after(0.5) == []
    if verified is not None:
        assert [event.actor for event in at.ledger.events(action="verify")] == ["system"]
        assert at.after(1) == ["remind decision"]


def test_a_late_yes_of_the_provider_still_counts():
    at = At(verification_ns=3 * DAY, on_silence="refuse")
    at.ledger.apply(FORM)
    at.after(4)
    at.ledger.verify(1, True)
    assert at.ledger.decide(1, "approve").state == "active"


def test_a_change_of_rules_changes_nothing_that_was_promised():
    at = At(validity_ns=10 * DAY, verification_ns=3 * DAY, on_silence="approve")
    at.ledger.apply(FORM)
    at.ledger.rules = Rules()
    assert at.after(3) == ["verify True"]


def test_papers_are_asked_for_where_the_rules_do():
    form = {
        "registrant": "Ada",
        "subscriber_prefixes": ["203.0.113.7/32"],
        "endpoint_prefixes": ["198.51.100.4/32"],
        "category": "call-centre",
    }
    assert application(form).documents == ()
    with pytest.raises(BadApplication) as caught:
        application(form | {"documents": ["tax", "passport"]}, requires_documents=True)
    told = "\n".join(caught.value.problems)
    for part in (
        "'passport' is unknown",
        "call-centre needs identity",
        "call-centre needs certificate (PSEB",
    ):
        assert part in told
    assert "incorporation" not in told.replace(
        "unknown; write one of identity, incorporation", ""
    )  # tax is an alternative to it
    complete = application(
        form | {"documents": ["tax", "identity", {"kind": "certificate", "reference": "PSEB 12"}]},
        requires_documents=True,
    )
    assert complete.documents[-1] == Document("certificate", "PSEB 12")
    with pytest.raises(BadApplication, match="freelancer needs employment"):
        At(requires_documents=True).ledger.apply(
            Application(
                "a",
                ("203.0.113.7/32",),
                ("198.51.100.4/32",),
                category="freelancer",
                documents=(Document("identity"),),
            )
        )
    with pytest.raises(BadApplication, match="'hospital' is unknown; write one of company"):
        application(form | {"category": "hospital"})


def test_a_simulated_provider_is_slow_wrong_or_silent_and_the_same_each_time():
    at = At()
    isp = Provider(
        "northern fibre", DAY, DAY, wrong_ratio=0.1, silent_ratio=0.2, lines={"NF-7": ("203.0.113.7/32",)}
    )
    for _ in range(300):
        at.ledger.apply(FORM)
    answers = [answer(isp, each, seed=1) for each in at.ledger.registrations()]
    assert answers == [answer(isp, each, seed=1) for each in at.ledger.registrations()]
    assert answers != [answer(isp, each, seed=2) for each in at.ledger.registrations()]
    given = [each for each in answers if each is not None]
    assert 40 <= answers.count(None) <= 80 and 12 <= [each.is_verified for each in given].count(False) <= 40
    assert min(each.at_ns for each in given) >= at.now + DAY
    simulated = SimulatedProviders(at.ledger, (isp,), seed=1)
    assert simulated.answer_due(at.now) == []
    due_by_now = [each for each in given if each.at_ns <= at.now + 2 * DAY]
    assert len(simulated.answer_due(at.now + 2 * DAY)) == len(due_by_now) > 100
    simulated.answer_due(at.now + 100 * DAY)
    assert len(at.ledger.waiting_for_provider("Northern  FIBRE")) == answers.count(None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, Answer(0, True)), ({"subscriber_id": "NF-8"}, Answer(0, False, "unknown")), ({"subscriber_prefixes": ("203.0.113.0/24",)}, Answer(0, False, "wrong-address"))],
)  # fmt: skip
def test_a_simulated_provider_knows_its_lines(changes, expected):
    ledger = Ledger(":memory:", clock=lambda: 0)
    registration = ledger.apply(replace(FORM, **changes))
    assert answer(Provider("nf", lines={"NF-7": ("203.0.113.7/32",)}), registration, 0) == expected


def test_rules_in_words():
    rules = RulesConfig.model_validate(
        {"validity": "365d", "renewal_window": "30d", "grace": "5d", "reminders": ["30d", "10d"], "calendar": {},
         "verification_within": "3 working days", "on_silence": "remind", "decision_within": "10 working hours"}
    ).rules()  # fmt: skip
    assert (rules.verification_ns, rules.decision_ns) == (24 * DAY // 24, 10 * DAY // 24)
    assert rules.reminders_ns == (30 * DAY, 10 * DAY) and rules.calendar.zone == "Asia/Karachi"
    for wrong in ({"grace": "5d"}, {"on_silence": "refuse"}, {"validity": "1y"}, {"decision_within": "soon"}):
        with pytest.raises(
            ValueError, match="add validity|needs verification_within|is not a time|is no promise"
        ):
            RulesConfig.model_validate(wrong)
